"""``limbeck store``: what is kept of teachers' outputs."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from limbeck.cli import tell
from limbeck.errors import LimbeckError

app = typer.Typer(no_args_is_help=True, help="List, verify, compact and clean stored teacher outputs.")
Where = Annotated[
    Path | None,
    typer.Argument(help="A store, or a folder of stores; by default those below $LIMBECK_HOME.", show_default=False),
]


@app.command("list")
def list_(folder: Where = None) -> None:
    """List stores, the newest first: rows, signals, size, and when they were last written to."""
    from limbeck.evidence.figures import size
    from limbeck.teachers.store import upkeep

    root, rows = _root(folder), list[tuple[str | None, ...]]()
    for one in upkeep.stores(root):
        cells: tuple[str | None, ...] = (None, None, None, None)
        state = "damaged"
        if (info := one.info) is not None:
            signals = ", ".join(f"{name} {kind}" for name, kind in info.signals.items())
            cells = f"{info.rows:,}", signals, size(info.bytes), f"{info.shards:,}"
            state = f"{info.aside} set aside" if info.aside else ""
        rows.append((_short(one.folder), *cells, _ago(one.days), state or None))
    if rows:
        tell.say(f"In {root}:")
        tell.table(("store", "rows", "signals of a row", "size", "files", "written", "state"), rows, right=(1, 3, 4))
    else:
        _none(root)


@app.command("verify")
def verify(folder: Where = None) -> None:
    """Read every byte, and set damaged files aside: their rows are asked of the teacher again. Exits with 2 if there were any."""
    from limbeck.teachers.store import upkeep

    damaged = 0
    for path in _each(folder):
        try:
            found = upkeep.verify(path)
        except LimbeckError as error:  # the others are to be read too
            tell.say(str(error))
            damaged += 1
            continue
        damaged += found.damaged
        lost = f" with at least {found.rows:,} rows" if found.rows else ""
        said = f"{found.damaged} damaged, set aside{lost}" if found.damaged else "all whole"
        tell.say(f"{_short(path)}: {found.files:,} files read, {said}.")
    if damaged:
        raise typer.Exit(2)


@app.command("compact")
def compact(folder: Where = None) -> None:
    """Write what lies in many small files, or twice, into few. Other processes may read and write meanwhile."""
    from limbeck.evidence.figures import size
    from limbeck.teachers.store import upkeep

    for path in _each(folder):
        done = upkeep.compact(path)
        (files, fewer), (before, after) = done.files, done.bytes
        twice = f"; {done.twice:,} rows were there twice" if done.twice else ""
        busy = f"; {done.busy} writers are at work and were left alone" if done.busy else ""
        tell.say(f"{_short(path)}: {files:,} files are now {fewer:,}, {size(before)} now {size(after)}{twice}{busy}.")


@app.command("clean")
def clean(
    folder: Where = None,
    older: Annotated[
        float | None,
        typer.Option("--older-than", min=0, metavar="DAYS", help="Remove whole stores not written to for so long."),
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Remove damaged files that were set aside and what killed processes left; with --older-than also whole stores."""
    from limbeck.evidence.figures import size
    from limbeck.teachers.store import upkeep

    if older is not None:
        old = [one for one in upkeep.stores(_root(folder)) if one.days >= older]
        room = size(sum(one.info.bytes for one in old if one.info is not None))
        if old and (
            yes or _agreed(f"Remove {len(old)} stores, {room}? Their rows would be asked of the teachers again.")
        ):
            for one in old:
                upkeep.remove(one.folder)
            tell.say(f"Removed {len(old)} stores, {room}.")
    for path in _each(folder):
        room = size(upkeep.leftovers(path))
        upkeep.clean(path)
        tell.say(f"{_short(path)}: removed {room} that were set aside as damaged.")


def _agreed(asked: str) -> bool:
    if not sys.stdin.isatty():
        raise LimbeckError(f"{asked} Nobody can be asked here: say --yes.")
    return typer.confirm(asked)


def _root(folder: Path | None) -> Path:
    from limbeck.files import home

    root = home() / "stores" if folder is None else folder
    if folder is None and not root.exists():  # nothing was stored yet, which is no mistake
        _none(root)
        raise typer.Exit
    return root


def _each(folder: Path | None) -> Iterator[Path]:
    from limbeck.teachers.store import upkeep

    found = upkeep.folders(_root(folder))
    if not found:
        _none(_root(folder))
    yield from found


def _none(root: Path) -> None:
    tell.say(f"No stored teacher outputs in {root}.")


def _short(folder: Path) -> str:
    return folder.name[:12]


def _ago(days: float) -> str:
    hours = days * 24
    if hours < 1:
        return f"{hours * 60:.0f} min ago"
    return f"{hours:.0f} h ago" if days < 2 else f"{days:.0f} days ago"

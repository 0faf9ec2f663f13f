"""``limbeck runs``."""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from limbeck.cli import tell

_RECIPE, _EVIDENCE = "recipe.json", "evidence.json"
_DEEPEST = 4  # folders below the one that is listed


def runs(
    folder: Annotated[Path, typer.Argument(help="Where to look.")] = Path("runs"),
) -> None:
    """List runs, what came out of them, and which are not finished."""
    from limbeck.errors import LimbeckError

    if not folder.is_dir():
        raise LimbeckError(
            f"There is no folder {folder}: name the folder that holds your runs, or begin with `limbeck run`."
        )
    found = sorted(_runs(folder, _DEEPEST))
    if not found:
        tell.say(f"No runs in {folder}.")
        return
    tell.table(
        ("run", "state", "verdict", "difference", "date"), [(str(run), *_cells(run)) for run in found], right=(3,)
    )


def _runs(folder: Path, deeper: int) -> Iterator[Path]:
    if (folder / _RECIPE).is_file() or (folder / _EVIDENCE).is_file():
        yield folder
    elif deeper:
        for inner in folder.iterdir():
            if inner.is_dir() and not inner.is_symlink() and not inner.name.startswith("."):
                yield from _runs(inner, deeper - 1)


def _cells(run: Path) -> tuple[str | None, ...]:
    """State, verdict, difference and date; what cannot be read is said in the table, for the others are there too."""
    from limbeck.errors import LimbeckError
    from limbeck.evidence.schema import Evidence
    from limbeck.evidence.verdict import outcome

    if not (run / _EVIDENCE).is_file():
        return "unfinished", None, None, _began(run)
    try:
        evidence = Evidence.read(run)
    except LimbeckError:
        return "damaged", None, None, None
    gap = evidence.difference
    date = (evidence.provenance.date or "")[:16].replace("T", " ")
    return "finished", outcome(evidence), None if gap is None else evidence.measure.gained(gap.mean, None), date or None


def _began(run: Path) -> str | None:
    import json

    try:
        return str(json.loads((run / _RECIPE).read_text(encoding="utf-8"))["began"])[:16].replace("T", " ")
    except (OSError, ValueError, KeyError, TypeError):
        return None

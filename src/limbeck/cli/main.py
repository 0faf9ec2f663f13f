"""The command ``limbeck``: one function a command, errors as one paragraph, nothing heavy before it is needed."""

import os
import shlex
import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import Annotated, Final, NoReturn

import typer

from limbeck import __version__
from limbeck.cli import (
    check,
    compare,
    evaluate,
    export,
    init,
    label,
    methods,
    recipes,
    report,
    run,
    runs,
    search,
    store,
    tell,
)
from limbeck.errors import Interrupted, LimbeckError

_HELP: Final = """Knowledge distillation that says whether the teacher helped.

A recipe names data, a teacher, a student and an objective. Begin with `limbeck run digits`, or with `limbeck init` for
your own data.
"""
_DEBUG: Final = "--debug"
_NO_MEMORY: Final = ("out of memory", "can't allocate memory", "not enough memory")

app = typer.Typer(
    name="limbeck",
    help=_HELP,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["--help", "-h"]},
)
app.command("run")(run.run)
app.command("init")(init.init)
app.command("check")(check.check)
app.command("label")(label.label)
app.add_typer(store.app, name="store")
app.command("search")(search.search)
app.command("evaluate")(evaluate.evaluate)
app.command("report")(report.report)
app.command("compare")(compare.compare)
app.command("runs")(runs.runs)
app.command("export")(export.export)
app.command("recipes")(recipes.recipes)
app.command("methods")(methods.methods)


def _version(wanted: bool) -> None:
    if wanted:
        tell.raw(f"limbeck {__version__}")
        raise typer.Exit


@app.callback()
def _common(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and stop.")
    ] = False,
    debug: Annotated[bool, typer.Option(_DEBUG, help="Show where an error comes from.")] = False,
) -> None:
    pass


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command line and exits: 0 done, 1 a fault of ours, 2 something to mend, 130 stopped by the user."""
    typed = list(sys.argv[1:] if arguments is None else arguments)
    debug = _DEBUG in typed
    typed = [one for one in typed if one != _DEBUG]  # it may stand anywhere, as it is added after an error
    command = shlex.join(["limbeck", *typed])
    try:
        code = app(args=typed or ["--help"], prog_name="limbeck", obj=command, standalone_mode=False)
        _flush()
        if code == 130:
            goes_on = f" The same command goes on: {command}" if typed[:1] in (["run"], ["label"], ["search"]) else ""
            tell.note(f"Stopped.{goes_on}")
        sys.exit(code or 0)
    except BrokenPipeError:
        _silence()
        sys.exit(141)  # as if the signal had ended it
    except SystemExit as end:
        if not isinstance(end.__context__, BrokenPipeError):  # which typer makes a fault of
            raise
        _silence()
        sys.exit(141)
    except Interrupted as stop:
        tell.note(str(stop), "stopped", "bold yellow")
        tell.note(f"The same command goes on: {command}")
        sys.exit(130)
    except LimbeckError as error:
        if debug:
            raise
        tell.note(str(error), "error", "bold red")
        _fail(2)
    except Exception as error:
        if hasattr(error, "format_message"):  # of click, which typer keeps under changing names: the line is mistyped
            known = [one.name for one in app.registered_commands] + [one.name for one in app.registered_groups]
            about = f"limbeck {typed[0]} --help" if typed[0] in known else "limbeck --help"
            said = error.format_message().replace("Value error, ", "").rstrip(".?")  # pydantic's, under typer's
            tell.note(f"{said}. See: {about}", "error", "bold red")
            _fail(2)
        if debug:
            raise
        if isinstance(error, MemoryError) or any(words in str(error) for words in _NO_MEMORY):
            tell.note(
                f"Out of memory. {' '.join(str(error).split())[:200]} Choose a smaller model, smaller images, fewer rows or "
                "a smaller training.batch-size.",
                "error",
                "bold red",
            )
            _fail(2)
        if isinstance(error, OSError) and error.strerror:
            place = f"{error.filename}: " if error.filename else ""
            tell.note(
                f"A file or folder cannot be used: {place}{error.strerror}. Check --out, LIMBECK_HOME (by default "
                "~/.cache/limbeck), their permissions and the free space.",
                "error",
                "bold red",
            )
            _fail(2)
        reason = " ".join(str(error).split())[:600]
        what = f"{type(error).__name__}: {reason}" if reason else type(error).__name__
        tell.note(
            f"This should not have happened, and is no fault of yours. {what.rstrip('.')}. {_DEBUG} shows where; "
            "with that a report helps to mend it.",
            "error",
            "bold red",
        )
        _fail(1)


def _fail(code: int) -> NoReturn:
    """Ends with this code. One of several processes ends at once: where another is gone, what they talk by (Gloo) may abort when
    Python takes it down, and a run that had said its cause would end by a signal.
    """
    talk = sys.modules.get("torch.distributed")
    if talk is not None and talk.is_available() and talk.is_initialized():
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError):
                stream.flush()
        os._exit(code)
    sys.exit(code)


def _flush() -> None:
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        _silence()
        sys.exit(141)


def _silence() -> None:
    """Nobody reads any more: what is still to be written goes nowhere, so that Python's own exit does not complain."""
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


if __name__ == "__main__":
    main()

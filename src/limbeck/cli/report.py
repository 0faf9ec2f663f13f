"""``limbeck report``."""

from typing import Annotated

import typer

from limbeck.cli import options, tell


def report(
    run: options.RunFolder,
    show: Annotated[bool, typer.Option("--open", help="Open it in the browser.")] = False,
) -> None:
    """Write the report of a finished run again, and say where it is."""
    from limbeck.run import report as write

    path = write(run)
    tell.raw(str(path))
    if show and typer.launch(path.absolute().as_uri()):
        tell.note("No browser could be opened: open the file by hand.", "warning", "bold yellow")

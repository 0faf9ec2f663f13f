"""``limbeck compare``."""

from pathlib import Path
from typing import Annotated

import typer

from limbeck.cli import tell


def compare(
    runs: Annotated[
        list[Path], typer.Argument(metavar="RUN RUN...", help="Run folders, two or more.", show_default=False)
    ],
) -> None:
    """Set runs side by side."""
    from limbeck.errors import LimbeckError
    from limbeck.evidence.compare import compare as beside
    from limbeck.evidence.schema import Evidence

    if len(runs) < 2:
        raise LimbeckError("Give two run folders or more to compare; `limbeck runs` lists them.")
    found = beside([Evidence.read(run) for run in runs])
    tell.table(("", *found.columns), [(name, *cells) for name, cells in found.rows])
    for warning in found.warnings:
        tell.note(warning, "warning", "bold yellow")

"""``limbeck init``."""

from pathlib import Path
from typing import Annotated

import typer

from limbeck.cli import tell


def init(
    data: Annotated[
        Path | None,
        typer.Option(help="A folder of images by class, or a table of texts and labels.", show_default=False),
    ] = None,
    teacher: Annotated[str | None, typer.Option(help="A model by its name, a folder or a hub name.")] = None,
    student: Annotated[str | None, typer.Option(help="Likewise.")] = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="The file to write.")] = Path("recipe.yaml"),
    force: Annotated[bool, typer.Option("--force", help="Replace the file if it is there.")] = False,
) -> None:
    """Write a recipe to start from, fitted to your data."""
    from limbeck.errors import LimbeckError
    from limbeck.files import write_text
    from limbeck.recipe.reading import parse
    from limbeck.recipe.starting import starting

    if out.exists() and not force:
        raise LimbeckError(f"{out} is there already: choose another --out, or replace it with --force.")
    text = starting(data, teacher, student)
    parse(text, str(out))
    write_text(out, text)
    first, _, _ = text.partition("\n")
    tell.say(first.lstrip("# "))
    tell.say(f"{out} is written. Look at it, then: limbeck check {out}")

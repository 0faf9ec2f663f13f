"""``limbeck init``."""

from pathlib import Path
from typing import Annotated

import typer

from limbeck.cli import tell


def init(
    data: Annotated[
        Path | None,
        typer.Option(
            help="A folder of images by class, a table of texts and labels, a file of tags or questions, files of running text, "
            "or hub:OWNER/NAME, a data set on the Hugging Face hub.",
            show_default=False,
        ),
    ] = None,
    teacher: Annotated[
        str | None,
        typer.Option(
            help="A model by its name, such as small-transformer; a folder; package:NAME/FOLDER, from an installed package; "
            "or OWNER/NAME on the Hugging Face hub.",
            show_default="one that needs no network",
        ),
    ] = None,
    task: Annotated[
        str,
        typer.Option(
            help="What is asked of a row: classes, multi-label, tags, spans, numbers, vectors, "
            "next-token or text-to-text."
        ),
    ] = "classes",
    student: Annotated[str | None, typer.Option(help="Likewise.")] = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="The file to write.")] = Path("recipe.yaml"),
    force: Annotated[bool, typer.Option("--force", help="Replace the file if it is there.")] = False,
) -> None:
    """Write a recipe to start from, fitted to your data."""
    from limbeck.errors import LimbeckError
    from limbeck.files import write_text
    from limbeck.recipe.reading import parse
    from limbeck.recipe.starting import advice, starting

    if out.exists() and not force:
        raise LimbeckError(f"{out} is there already: choose another --out, or replace it with --force.")
    text = starting(data, teacher, student, task)
    better = advice(parse(text, str(out)))
    write_text(out, text)
    first, _, _ = text.partition("\n")
    tell.say(first.lstrip("# "))
    if better:
        tell.say(better)
    tell.say(f"{out} is written. Look at it, then: limbeck check {out}")

"""``limbeck label``."""

from typing import Annotated

import typer

from limbeck.cli import options, tell
from limbeck.errors import LimbeckError


def label(
    recipe: options.Source,
    settings: options.Overrides = None,
    part: Annotated[
        str | None,
        typer.Option("--part", metavar="K/N", help="Only part K of N; each machine does another one, into one folder."),
    ] = None,
    over_ray: Annotated[bool, typer.Option("--ray", help="Share the rows out to workers of Ray.")] = False,
    workers: Annotated[int, typer.Option("--workers", min=1, help="How many, with --ray.")] = 2,
    reuse: Annotated[
        bool, typer.Option("--reuse", help="Take over rows that an earlier store has for the same teacher and input.")
    ] = False,
    allow_code: options.AllowCode = False,
) -> None:
    """Store the teacher's outputs for all training rows; runs of the recipe read them from there."""
    from limbeck.evidence.figures import size
    from limbeck.recipe.reading import read

    chosen = read(recipe, settings or ())  # before anything heavy is loaded: most mistakes are here
    if part is not None and over_ray:
        raise LimbeckError("--part says what this machine does, and --ray shares all parts out: give one of them.")
    from limbeck.teachers.part import WHOLE, Part

    mine = WHOLE if part is None else Part.read(part)
    if over_ray:
        from limbeck.integrations.ray_data import label as share_out

        made = share_out(chosen, workers=workers, allow_code=allow_code, reuse=reuse)
    else:
        from limbeck.run import label as store

        made = store(chosen, allow_code=allow_code, part=mine, reuse=reuse)
    tell.pairs(
        [
            ("folder", str(made.folder)),
            ("rows", f"{made.rows:,}"),
            ("signals", ", ".join(made.signals)),
            ("size", size(made.bytes)),
        ]
    )

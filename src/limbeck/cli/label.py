"""``limbeck label``."""

from limbeck.cli import options, tell


def label(
    recipe: options.Source,
    settings: options.Overrides = None,
    allow_code: options.AllowCode = False,
) -> None:
    """Store the teacher's outputs for all training rows; runs of the recipe read them from there."""
    from limbeck.evidence.tables import size
    from limbeck.recipe.reading import read

    chosen = read(recipe, settings or ())  # before anything heavy is loaded: most mistakes are here
    from limbeck.run import label as store

    made = store(chosen, allow_code=allow_code)
    tell.pairs(
        [
            ("folder", str(made.folder)),
            ("rows", f"{made.rows:,}"),
            ("signals", ", ".join(made.signals)),
            ("size", size(made.bytes)),
        ]
    )

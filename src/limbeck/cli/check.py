"""``limbeck check``."""

from limbeck.cli import options, tell


def check(
    recipe: options.Source,
    settings: options.Overrides = None,
    quick: options.Quick = False,
    allow_code: options.AllowCode = False,
) -> None:
    """Read a recipe, load its parts and try one batch; say what a run would do and cost."""
    from limbeck.recipe import reading

    chosen = reading.read(recipe, settings or ())
    from limbeck.run import check as preflight

    found = preflight(reading.quick(chosen) if quick else chosen, allow_code=allow_code)
    tell.pairs(found.lines())
    for warning in found.warnings:
        tell.note(warning, "warning", "bold yellow")
    tell.say("Ready to run." if not found.warnings else "Ready to run, but see the warnings.", "bold green")

"""``limbeck recipes``."""

from pathlib import Path
from typing import Annotated

import typer

from limbeck.cli import tell


def recipes(
    show: Annotated[str | None, typer.Option(metavar="NAME", help="Print this recipe.")] = None,
    copy: Annotated[str | None, typer.Option(metavar="NAME", help="Copy this recipe into the current folder.")] = None,
    schema: Annotated[bool, typer.Option("--schema", help="Print the JSON schema of recipes, for editors.")] = False,
) -> None:
    """List the recipes that come with limbeck."""
    from limbeck.files import write_text
    from limbeck.recipe import reading

    if schema:
        import json

        tell.raw(json.dumps(reading.schema(), indent=2, ensure_ascii=False))
    elif show is not None:
        tell.raw(_known(show).read_text(encoding="utf-8"))
    elif copy is not None:
        from limbeck.errors import LimbeckError

        source = _known(copy)
        target = Path(source.name)
        if target.exists():
            raise LimbeckError(f"{target} is there already: move it away first.")
        write_text(target, source.read_text(encoding="utf-8"))
        tell.say(f"{target} is written. Run it with: limbeck run {target}")
    else:
        tell.table(
            ("recipe", "what it shows"),
            [(name, tell.sentence(reading.description(path))) for name, path in reading.bundled().items()],
        )


def _known(name: str) -> Path:
    from limbeck.errors import LimbeckError, nearest
    from limbeck.recipe.reading import bundled

    known = bundled()
    if name not in known:
        hint = nearest(name, list(known), 1)
        raise LimbeckError(
            f"There is no bundled recipe {name!r}; {hint + ' ' if hint else ''}They are: {', '.join(known)}."
        )
    return known[name]

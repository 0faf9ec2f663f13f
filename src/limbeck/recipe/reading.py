"""Recipes in and out: YAML to a checked `Recipe` and back, the bundled ones, and the JSON schema for editors."""

from collections.abc import Sequence
from functools import partial
from importlib import resources
from itertools import takewhile
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from limbeck.errors import RecipeError, nearest
from limbeck.recipe import Recipe
from limbeck.recipe.complaints import refusal
from limbeck.recipe.marked import MOST_BYTES, Mistake, scalar, text_of, tree
from limbeck.recipe.overrides import overridden
from limbeck.recipe.places import default_at
from limbeck.training.settings import Training


def read(source: Path | str, overrides: Sequence[str] = ()) -> Recipe:
    """The recipe in a YAML file, or the bundled one of this name.

    ``overrides``: settings such as ``training.steps=500``, which win over the file.

    Raises:
        RecipeError: it is not there or says something impossible; names file, line, key, what was found and what is allowed.
    """
    path = Path(source).expanduser()
    if not path.exists() and str(source) in (known := bundled()):
        path = known[str(source)]
    return _parsed(_content(path, str(source)), str(path) if path.exists() else str(source), overrides)


def parse(text: str, file_name: str = "recipe", overrides: Sequence[str] = ()) -> Recipe:
    """The recipe in ``text``; ``file_name`` is what errors call it.

    Raises:
        RecipeError: see `read`.
    """
    return _parsed(text.encode(errors="surrogatepass"), file_name, overrides)


def bundled() -> dict[str, Path]:
    """The recipes that come with the package, by name."""
    folder = Path(str(resources.files("limbeck") / "bundled"))
    return {path.stem: path for path in sorted(folder.glob("*.yaml"), key=lambda path: path.stem)}


def description(path: Path) -> str:
    """What a recipe file says of itself: the comment that it begins with."""
    lines = takewhile(lambda line: line.startswith("#"), path.read_text(encoding="utf-8").split("\n"))
    return " ".join(line.lstrip("#").strip() for line in lines)


def quick(recipe: Recipe) -> Recipe:
    """A tenth of the steps, at least 20, and two seeds at most: to see that all works, not to learn whether it helped."""
    teacher = recipe.teacher
    return recipe.model_copy(
        update={
            "name": f"{recipe.name[:58]} quick",
            "teacher": teacher and teacher.budgeted(_tenth),
            "training": _tenth(recipe.training),
            "regime": recipe.regime.budgeted(_tenth),
            "seeds": min(recipe.seeds, 2),
        }
    )


def dump(recipe: Recipe) -> str:
    """YAML with every default written out; reads back to an equal recipe."""
    plain = _named(recipe.plain())
    head = f"# {recipe.name}: every setting, defaults included (recipe {recipe.hash[:12]})\n"
    return head + yaml.dump(_short(plain), Dumper=_Dumper, sort_keys=False, width=100, allow_unicode=True)


def schema() -> dict[str, Any]:
    """The JSON schema (2020-12) of a recipe."""
    title = {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "limbeck recipe"}
    return {**Recipe.model_json_schema(), **title}


def _content(path: Path, source: str) -> bytes:
    try:
        with path.open("rb") as stream:  # a device or a pipe has no size that could be asked for
            return stream.read(MOST_BYTES + 1)
    except FileNotFoundError:
        known = list(bundled())
        hint = nearest(source, known, 1)
        names = f"Bundled recipes: {', '.join(known)}." if known else ""
        raise RecipeError(
            f"There is no recipe file {source!r}, nor a bundled recipe of that name; {hint + ' ' if hint else ''}{names}"
        ) from None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise RecipeError(f"The recipe {source!r} cannot be read: {reason}.") from None


def _parsed(content: bytes, file_name: str, overrides: Sequence[str]) -> Recipe:
    try:
        root = tree(text_of(content))
        if root.value is None:
            raise Mistake(1, "the recipe is empty; 'limbeck init' writes one to start from")
        if not isinstance(root.value, dict):
            found = "a list" if isinstance(root.value, list) else "a single value"
            raise Mistake(1, f"a recipe is a mapping of keys to values, but this is {found}")
    except Mistake as mistake:
        raise RecipeError(f"{file_name}, line {mistake.line}: {mistake}.") from None
    root = overridden(root, overrides, partial(default_at, Recipe))
    try:
        return Recipe.model_validate(root.plain())
    except ValidationError as error:
        raise refusal(error, root, Recipe, file_name) from None


def _tenth(training: Training) -> Training:
    def part(count: int | None, least: int = 1) -> int | None:
        return None if count is None else max(min(count, least), count // 10)

    update: dict[str, Any] = {
        "steps": part(training.steps, 20),
        "epochs": None if training.epochs is None else training.epochs / 10,
        "evaluate_every": part(training.evaluate_every),
        "checkpoint_every": part(training.checkpoint_every),
    }
    return training.model_copy(update=update)


def _named(value: Any) -> Any:
    """Every objective in it by the names of its terms."""
    if isinstance(value, list):
        return [_named(inner) for inner in value]
    if not isinstance(value, dict):
        return value
    return {key: _by_name(inner) if key == "objective" else _named(inner) for key, inner in value.items()}


def _by_name(terms: list[dict[str, Any]]) -> Any:
    """Terms by their name, as people write them; a list where that would change their order."""
    result: dict[str, Any] = {}
    previous = None
    for term in terms:
        name = term["name"]
        settings = {key: value for key, value in term.items() if key != "name"}
        if name not in result:
            result[name] = settings
        elif name != previous:
            return terms
        else:
            several = result[name] if isinstance(result[name], list) else [result[name]]
            result[name] = [*several, settings]
        previous = name
    return result


def _short(value: Any) -> Any:
    """Schedules that are a number as that number."""
    if isinstance(value, dict):
        if value.get("schedule") == "fixed" and len(value) == 2:
            return value["value"]
        return {key: _short(inner) for key, inner in value.items()}
    return [_short(inner) for inner in value] if isinstance(value, list) else value


class _Dumper(yaml.SafeDumper):
    """Quotes what would be read as something else, and keeps lists of scalars in one line."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _text(dumper: _Dumper, text: str) -> yaml.Node:
    try:
        plain = isinstance(scalar(text), str)
    except ValueError:
        plain = False
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=None if plain else "'")


def _list(dumper: _Dumper, items: list[Any]) -> yaml.Node:
    flat = not any(isinstance(item, dict) for item in items)
    return dumper.represent_sequence("tag:yaml.org,2002:seq", items, flow_style=flat)


_Dumper.add_representer(str, _text)
_Dumper.add_representer(list, _list)

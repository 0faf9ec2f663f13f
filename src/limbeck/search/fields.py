"""What is searched: fields of a recipe, and the values that each may take."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from math import exp, isfinite, log, prod
from typing import Any, Final, Literal

from limbeck.errors import LimbeckError, RecipeError, nearest
from limbeck.objective.schedules import Fixed
from limbeck.recipe import Recipe
from limbeck.recipe.marked import cut, dashed, scalar, tree
from limbeck.recipe.reading import dump, parse

Method = Literal["grid", "bayes"]
Value = str | int | float | bool | None
Settings = Mapping[str, Value]

MOST_POINTS: Final = 1000
POINTS_OF_A_RANGE: Final = 5  # in a grid
TEMPERATURES: Final = (1, 2, 4, 8)
FACTORS: Final = (0.1, 0.5, 0.9)
_SHORT: Final = ("temperature", "weights")
_FIXED: Final = {
    "limbeck": "it is the version of the format",
    "name": "nothing depends on it",
    "trackers": "nothing depends on it",
    "seeds": "the search has a seed of its own; --confirm says how many the winner is confirmed at",
    "evidence": "it says how a result is judged",
    "data.source": "it changes the validation part that the search judges by",
    "data.validation": "it changes the validation part that the search judges by",
    "data.test": "it changes which rows are left for validation",
    "data.seed": "it changes the validation part that the search judges by",
}


@dataclass(frozen=True)
class Field:
    """One searched field: ``values`` to choose from, or all numbers from ``low`` to ``high``."""

    path: str
    values: tuple[Value, ...] = ()
    low: float = 0.0
    high: float = 0.0
    log: bool = False
    whole: bool = False

    def points(self) -> tuple[Value, ...]:
        """The values in a grid; of a range, five at equal distances (of the logarithm, if ``log``)."""
        if self.values:
            return self.values
        share = [place / (POINTS_OF_A_RANGE - 1) for place in range(POINTS_OF_A_RANGE)]
        low, high = (log(self.low), log(self.high)) if self.log else (self.low, self.high)
        between = [(1 - one) * low + one * high for one in share]
        return tuple(dict.fromkeys(self.rounded(exp(one) if self.log else one) for one in between))

    def rounded(self, value: float) -> float | int:
        """A number of the range as it is written in a recipe: whole, or with four significant digits."""
        if self.whole:
            return round(value)
        return min(max(float(f"{value:.4g}"), self.low), self.high)

    def plain(self) -> dict[str, Any]:
        """As JSON types."""
        if self.values:
            return {"field": self.path, "values": list(self.values)}
        return {"field": self.path, "low": self.low, "high": self.high, "log": self.log, "whole": self.whole}


def fields(recipe: Recipe, over: Sequence[str], method: Method) -> tuple[Field, ...]:
    """What ``--over`` asks for: ``temperature``, ``weights``, ``field=a,b,c``, ``field=a..b`` or ``field=log:a..b``.

    Raises:
        LimbeckError: there is no such field, it cannot take such a value, or a range is empty.
    """
    found: dict[str, Field] = {}
    for text in over:
        names, sign, given = text.partition("=")
        *short, last = [name.strip() for name in names.split(",")]
        for name in short if sign else [*short, last]:
            for field in _shorthand(recipe, name, method):
                found[field.path] = field
        if sign:
            paths = [one.path for one in _shorthand(recipe, last, method)] if last in _SHORT else [_path(last)]
            found |= {path: _field(recipe, path, given) for path in paths}
    if not found:
        raise LimbeckError("--over names nothing to search; `--over temperature,weights` is the usual beginning.")
    if method == "grid":
        _countable(list(found.values()))
    for field in found.values():
        for value in field.values or (field.low, field.high):
            applied(recipe, {field.path: field.rounded(float(value)) if not field.values else value})  # type: ignore[arg-type]
    return tuple(found.values())


def grid(chosen: Sequence[Field]) -> Iterator[dict[str, Value]]:
    """Every combination once, the last field changing fastest.

    Raises:
        LimbeckError: there are too many.
    """
    _countable(chosen)
    for values in product(*(field.points() for field in chosen)):
        yield dict(zip((field.path for field in chosen), values, strict=True))


def _countable(chosen: Sequence[Field]) -> None:
    count = prod(len(field.points()) for field in chosen)
    if count > MOST_POINTS:
        raise LimbeckError(f"This grid has {count:,} trials, more than {MOST_POINTS:,}: search it with --method bayes.")


def applied(recipe: Recipe, settings: Settings) -> Recipe:
    """The recipe with these settings in place of its own.

    Raises:
        RecipeError: it has no such field, or the field no such value.
    """
    texts = [f"{path}={json.dumps(value)}" for path, value in settings.items()]
    try:
        return parse(dump(recipe), "the recipe", texts)
    except RecipeError as error:
        raise RecipeError(str(error).replace("--set ", "--over ", 1)) from None


def own(recipe: Recipe, path: str) -> Any:
    """What the recipe itself has at ``path``; None if it is silent there."""
    found: Any = tree(dump(recipe)).plain()
    for key in path.split("."):
        if isinstance(found, list):
            found = found[int(key)] if key.isdecimal() and int(key) < len(found) else None
        else:
            found = found.get(key) if isinstance(found, dict) else None
    return found


def short(path: str) -> str:
    """A path without what every searched field begins with."""
    return path.removeprefix("objective.")


def shown(value: Any) -> str:
    """A value for a person."""
    return f"{value:g}" if isinstance(value, float) else str(value)


def told(settings: Settings) -> str:
    """Settings for a person."""
    return ", ".join(f"{short(path)} {shown(value)}" for path, value in settings.items())


def _path(name: str) -> str:
    path = ".".join(dashed(part.strip()) for part in name.split("."))
    for fixed, why in _FIXED.items():
        if path == fixed or path.startswith(f"{fixed}."):
            raise LimbeckError(f"--over {cut(name)}: {fixed} cannot be searched: {why}.")
    return path


def _shorthand(recipe: Recipe, name: str, method: Method) -> list[Field]:
    """The fields that a word without values stands for, in the terms whose own value is a plain number."""
    if name not in _SHORT:
        if "." in name:
            raise LimbeckError(
                f"--over {cut(name)}: say which values, such as {cut(name)}=1,2,4, or a range, such as {cut(name)}=log:0.1..10."
            )
        hint = nearest(name, list(_SHORT), 1)
        raise LimbeckError(
            f"--over {cut(name) or repr('')}: {hint + ' ' if hint else ''}Short names are temperature and weights; any other "
            "field of the recipe is given with its values, such as training.optimizer.learning-rate=log:1e-4..1e-2."
        )
    found = []
    for path, term in _terms(recipe):
        if name == "temperature" and _number(getattr(term, "temperature", None)):
            values, low, high = [float(one) for one in TEMPERATURES], 1.0, 16.0
        elif name == "weights" and term.needs().teacher and _number(term.weight):
            usual = type(term).model_fields["weight"].default.value
            values, low, high = [float(f"{one * usual:.4g}") for one in FACTORS], 0.05 * usual, 2.0 * usual
        else:
            continue
        place = f"{path}.{'weight' if name == 'weights' else name}"
        found.append(Field(place, tuple(values)) if method == "grid" else Field(place, low=low, high=high, log=True))
    if not found:
        what = "a temperature" if name == "temperature" else "a weight of a term that reads the teacher"
        raise LimbeckError(f"--over {name}: the objective has no term with {what} that is a plain number.")
    return found


def _terms(recipe: Recipe) -> Iterator[tuple[str, Any]]:
    """Every term with its path in the written-out recipe, where terms are by name unless that changes their order."""
    written = tree(dump(recipe)).plain()["objective"]
    if isinstance(written, list):
        paths = [str(place) for place in range(len(written))]
    else:
        paths = [
            one
            for name, given in written.items()
            for one in ([f"{name}.{place}" for place in range(len(given))] if isinstance(given, list) else [name])
        ]
    yield from ((f"objective.{path}", term) for path, term in zip(paths, recipe.objective, strict=True))


def _number(value: Any) -> bool:
    return isinstance(value, float | int | Fixed) and not isinstance(value, bool)


def _field(recipe: Recipe, path: str, given: str) -> Field:
    text = given.strip()
    logarithmic = text.startswith("log:")
    first, dots, second = text.removeprefix("log:").partition("..")
    if not dots and not logarithmic:
        values = tuple(dict.fromkeys(_scalar(path, part.strip()) for part in text.split(",") if part.strip()))
        if not values:
            raise LimbeckError(f"--over {path}: no values are given; such as {path}=1,2,4.")
        return Field(path, values)
    low, high = _scalar(path, first.strip()), _scalar(path, second.strip())
    if not (_number(low) and _number(high)) or not all(isfinite(float(one)) for one in (low, high)):  # type: ignore[arg-type]
        raise LimbeckError(f"--over {path}={cut(text)}: a range is two numbers, such as 1..16 or log:0.5..16.")
    assert isinstance(low, int | float)
    assert isinstance(high, int | float)
    if low >= high:
        raise LimbeckError(f"--over {path}={cut(text)}: the range is empty, as {low:g} is not below {high:g}.")
    if logarithmic and low <= 0:
        raise LimbeckError(
            f"--over {path}={cut(text)}: a log range has only numbers above 0, but it begins at {low:g}."
        )
    whole = low == int(low) and high == int(high) and not _takes(recipe, path, low + 0.5)  # 1e3 is a whole number, too
    return Field(path, low=float(low), high=float(high), log=logarithmic, whole=whole)


def _takes(recipe: Recipe, path: str, value: Value) -> bool:
    try:
        applied(recipe, {path: value})
    except RecipeError:
        return False
    return True


def _scalar(path: str, text: str) -> Value:
    try:
        return scalar(text)
    except ValueError as error:
        raise LimbeckError(f"--over {path}: {error}.") from None

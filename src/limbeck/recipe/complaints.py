"""What is wrong with a recipe, in the words and places of whoever wrote it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from pydantic import ValidationError
from pydantic_core import ErrorDetails

import limbeck
from limbeck.config import Config, fields_of, tags_of
from limbeck.errors import RecipeError, nearest
from limbeck.recipe.marked import Node, cut, dashed
from limbeck.recipe.places import EXTRA, Spot, spot_of

_MOST: Final = 100  # errors that are looked at; a broken recipe can have one for each of its values
_MAPPINGS: Final = {"model_type", "model_attributes_type", "dict_type", "union_tag_not_found"}
_PLAIN: Final = {
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "string_type": "text",
    "tuple_type": "a list",
    "list_type": "a list",
    "none_required": "null",
}
_BOUNDS: Final = {
    "greater_than": ("above", "gt"),
    "greater_than_equal": ("from", "ge"),
    "less_than": ("below", "lt"),
    "less_than_equal": ("up to", "le"),
}


@dataclass(frozen=True)
class _Wrong:
    """One thing that is wrong."""

    spot: Spot
    kind: str
    message: str
    allowed: str | None = None
    suggested: str | None = None


def refusal(error: ValidationError, root: Node, top: type[Config], file_name: str) -> RecipeError:
    """One paragraph: the first thing that is wrong in full, and the names of the others."""
    wrongs = _merged([_wrong(detail, root, top) for detail in error.errors(include_url=False)[:_MOST]])
    first = wrongs[0]
    where = first.spot.where
    place = where if isinstance(where, str) else f"{file_name}, line {where}"
    name = f"{first.spot.name}{'' if first.kind == 'missing' else ':'} " if first.spot.path else ""
    ending = "" if first.message.endswith((".", "?")) else "."
    more = list(dict.fromkeys(wrong.spot.name or "the recipe" for wrong in wrongs[1:]))
    others = f" And {len(more)} more: {', '.join(more[:8])}{', ...' if len(more) > 8 else ''}." if more else ""
    return RecipeError(" ".join(f"{place}: {name}{first.message}{ending}{others}".split()))


def _merged(wrongs: list[_Wrong]) -> list[_Wrong]:
    """One entry a place, unknown keys first: a misspelt key explains the missing one."""
    at: dict[str, list[_Wrong]] = {}
    for wrong in wrongs:
        at.setdefault(wrong.spot.name, []).append(wrong)
    result = []
    for name, found in at.items():
        # of the branches of a union, the one that came further is the one that was meant
        if any(other.startswith(f"{name}.") for other in at) and all(wrong.allowed for wrong in found):
            continue
        first = found[0]
        if len(found) > 1 and all(wrong.allowed for wrong in found):
            either = " or ".join(dict.fromkeys(str(wrong.allowed) for wrong in found))
            first = _Wrong(first.spot, first.kind, f"found {_shown(first.spot.node)}; allowed: {either}")
        result.append(first)
    meant = {wrong.suggested for wrong in result}
    kept = [wrong for wrong in result if wrong.kind != "missing" or wrong.spot.name not in meant]
    return sorted(kept, key=lambda wrong: wrong.kind != EXTRA)


def _wrong(detail: ErrorDetails, root: Node, top: type[Config]) -> _Wrong:
    kind, context = detail["type"], detail.get("ctx", {})
    spot = spot_of(detail["loc"], kind, root, top)
    found = _shown(spot.node if spot.node is not None else Node(detail["input"], 1))
    if spot.path == ["limbeck"]:
        version = f"limbeck {limbeck.__version__} reads version 1 of the recipe format: the first line is 'limbeck: 1'"
        return _Wrong(spot, kind, f"is missing: {version}" if kind == "missing" else f"found {found}; {version}")
    if kind == "missing" and isinstance(detail["loc"][-1], int):
        return _Wrong(spot, "too_short", f"found {found}; allowed: more items than these")
    if kind == "missing":
        return _Wrong(spot, kind, "is missing" + _purpose(detail["loc"], root, top))
    if kind == EXTRA:
        return _unknown_key(spot, detail, root, top)
    if kind == "value_error":
        given = spot.node is not None and spot.path and not isinstance(spot.node.value, dict | list | None)
        return _Wrong(spot, kind, f"found {found}: " * bool(given) + str(context.get("error", detail["msg"])))
    if kind == "union_tag_invalid":
        known = sorted(tags_of(spot.types))
        if spot.node is not None and (written := spot.node.find("name")) is not None:
            spot.where = spot.node.value[written].where  # the line of a mapping's key is not always that of its name
        hint = nearest(cut(str(context["tag"])), known, 1)
        message = f"unknown name {_shown(Node(context['tag'], 1))}; {_hinted(hint)}llowed: {', '.join(known)}"
        return _Wrong(spot, kind, message)
    allowed = _allowed(kind, context, spot)
    if allowed is None:
        return _Wrong(spot, kind, f"found {found}: {detail['msg'][:1].lower()}{detail['msg'][1:]}")
    hint = ""
    if kind == "literal_error" and spot.node is not None and isinstance(spot.node.value, str):
        hint = nearest(cut(spot.node.value), [part.strip(" '") for part in allowed.replace(" or ", ",").split(",")], 1)
    return _Wrong(spot, kind, f"found {found}; {_hinted(hint)}llowed: {allowed}", allowed)


def _allowed(kind: str, context: dict[str, Any], spot: Spot) -> str | None:
    if spot.path == ["objective"]:
        known = ", ".join(sorted(tags_of(spot.types)))
        return f"terms with their weights, such as {{labels: 0.1, soft-targets: 0.9}}, out of {known}"
    if kind in _PLAIN:
        return _PLAIN[kind]
    if kind in _BOUNDS:
        word, key = _BOUNDS[kind]
        return f"a number {word} {context[key]:g}" + (" up" if word == "from" else "")
    if kind == "literal_error":
        return str(context["expected"])
    if kind == "string_pattern_mismatch":
        if spot.path == ["name"]:
            return "up to 64 letters, digits, spaces, '.', '_' and '-', the first one a letter or digit"
        return f"text of the form {context['pattern']}"
    if kind in _MAPPINGS:
        names = sorted(tags_of(spot.types)) if len(spot.types) > 1 else []
        keys = [] if names else sorted(fields_of(spot.types))
        if names:
            by_schedule = any("schedule" in one.model_fields for one in spot.types)
            what = "a number, or a mapping whose schedule is" if by_schedule else "a mapping whose name is"
            return f"{what} one of {', '.join(names)}"
        return "a mapping" + (f" with the keys {', '.join(keys)}" if keys else "")
    if kind in ("too_short", "string_too_short"):
        return f"at least {context.get('min_length')}"
    if kind in ("too_long", "string_too_long"):
        return f"at most {context.get('max_length')}"
    return None


def _hinted(hint: str) -> str:
    """What comes between a finding and ``llowed: ...``."""
    return f"{hint} A" if hint else "a"


def _unknown_key(spot: Spot, detail: ErrorDetails, root: Node, top: type[Config]) -> _Wrong:
    parent = spot_of(detail["loc"][:-1], "", root, top)
    known = sorted(fields_of(parent.types))
    hint = nearest(cut(dashed(spot.path[-1])), known, 1)
    message = f"unknown key; {_hinted(hint)}llowed here: {', '.join(known)}"
    suggested = ".".join([*spot.path[:-1], hint.split("'")[1]]) if hint else None
    return _Wrong(spot, EXTRA, message, suggested=suggested)


def _purpose(loc: Sequence[int | str], root: Node, top: type[Config]) -> str:
    """What a missing field is for, from its own description."""
    parent = spot_of(loc[:-1], "", root, top)
    told = [
        info.description
        for one in parent.types
        for name, info in one.model_fields.items()
        if dashed(name) == loc[-1] or name == loc[-1]
    ]
    first = (told[0] or "").partition(". ")[0].rstrip(".").replace("``", "'") if told else ""
    return f": {first[:1].lower()}{first[1:]}" if first else ""


def _shown(node: Node | None) -> str:
    """A value in a few words."""
    value = None if node is None else node.value
    if isinstance(value, dict):
        keys = ", ".join(cut(str(key)) for key in list(value)[:4])
        return f"a mapping with {keys}{', ...' if len(value) > 4 else ''}" if value else "an empty mapping"
    if isinstance(value, list | tuple):
        return f"a list of {len(value)}" if value else "an empty list"
    if value is None:
        return "nothing"
    text = str(value).lower() if isinstance(value, bool) else repr(value)
    return text if len(text) <= 60 else text[:57] + "..." + text[-1]

"""What is wrong with a recipe, in the words and places of whoever wrote it."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal, get_args, get_origin

from pydantic import ValidationError
from pydantic_core import ErrorDetails

import limbeck
from limbeck.config import Config
from limbeck.errors import RecipeError, nearest
from limbeck.recipe.marked import Node, dashed

Types = tuple[type[Config], ...]
_TAGS: Final = ("name", "schedule")  # the fields by which a choice is made
_EXTRA: Final = "extra_forbidden"
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
    "greater_than_equal": ("at least", "ge"),
    "less_than": ("below", "lt"),
    "less_than_equal": ("at most", "le"),
}


@dataclass
class _Spot:
    """A place in a recipe: the keys as they were written, the node there if there is one, and what may stand there."""

    node: Node | None
    where: int | str
    types: Types
    path: list[str] = field(default_factory=list)

    @property
    def name(self) -> str:
        return ".".join(self.path)

    def step(self, key: str, types: Types, node: Node | None) -> None:
        self.path.append(key)
        self.types, self.node = types, node
        if node is not None:
            self.where = node.where


@dataclass(frozen=True)
class _Wrong:
    """One thing that is wrong."""

    spot: _Spot
    kind: str
    message: str
    allowed: str | None = None
    suggested: str | None = None


def refusal(error: ValidationError, root: Node, top: type[Config], file_name: str) -> RecipeError:
    """One paragraph: the first thing that is wrong in full, and the names of the others."""
    wrongs = _merged([_wrong(detail, root, top) for detail in error.errors(include_url=False)])
    first = wrongs[0]
    where = first.spot.where
    place = where if isinstance(where, str) else f"{file_name}, line {where}"
    name = f"{first.spot.name}{'' if first.kind == 'missing' else ':'} " if first.spot.path else ""
    ending = "" if first.message.endswith((".", "?")) else "."
    more = list(dict.fromkeys(wrong.spot.name or "the recipe" for wrong in wrongs[1:]))
    others = f" And {len(more)} more: {', '.join(more[:8])}{', ...' if len(more) > 8 else ''}." if more else ""
    return RecipeError(f"{place}: {name}{first.message}{ending}{others}")


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
    return sorted(kept, key=lambda wrong: wrong.kind != _EXTRA)


def _wrong(detail: ErrorDetails, root: Node, top: type[Config]) -> _Wrong:
    kind, context = detail["type"], detail.get("ctx", {})
    spot = _spot(detail["loc"], kind, root, top)
    found = _shown(spot.node if spot.node is not None else Node(detail["input"], 1))
    if spot.path == ["limbeck"]:
        version = f"limbeck {limbeck.__version__} reads version 1 of the recipe format: the first line is 'limbeck: 1'"
        return _Wrong(spot, kind, version if kind == "missing" else f"found {found}; {version}")
    if kind == "missing" and isinstance(detail["loc"][-1], int):
        return _Wrong(spot, "too_short", f"found {found}; allowed: more items than these")
    if kind == "missing":
        return _Wrong(spot, kind, "is missing" + _purpose(detail["loc"], root, top))
    if kind == _EXTRA:
        return _unknown_key(spot, detail, root, top)
    if kind == "value_error":
        given = spot.node is not None and spot.path and not isinstance(spot.node.value, dict | list | None)
        return _Wrong(spot, kind, f"found {found}: " * bool(given) + str(context.get("error", detail["msg"])))
    if kind == "union_tag_invalid":
        known = sorted(_tags(spot.types))
        hint = nearest(str(context["tag"]), known, 1)
        message = f"unknown name {_shown(Node(context['tag'], 1))}; {_hinted(hint)}llowed: {', '.join(known)}"
        return _Wrong(spot, kind, message)
    allowed = _allowed(kind, context, spot)
    if allowed is None:
        return _Wrong(spot, kind, f"found {found}: {detail['msg'][:1].lower()}{detail['msg'][1:]}")
    hint = ""
    if kind == "literal_error" and spot.node is not None and isinstance(spot.node.value, str):
        hint = nearest(spot.node.value, [part.strip(" '") for part in allowed.replace(" or ", ",").split(",")], 1)
    return _Wrong(spot, kind, f"found {found}; {_hinted(hint)}llowed: {allowed}", allowed)


def _allowed(kind: str, context: dict[str, Any], spot: _Spot) -> str | None:
    if kind in _PLAIN:
        return _PLAIN[kind]
    if kind in _BOUNDS:
        word, key = _BOUNDS[kind]
        return f"{word} {context[key]:g}"
    if kind == "literal_error":
        return str(context["expected"])
    if kind == "string_pattern_mismatch":
        if spot.path == ["name"]:
            return "up to 64 letters, digits, spaces, '.', '_' and '-', the first one a letter or digit"
        return f"text of the form {context['pattern']}"
    if kind in _MAPPINGS:
        names = sorted(_tags(spot.types)) if len(spot.types) > 1 else []
        keys = [] if names else sorted(_fields(spot.types))
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


def _unknown_key(spot: _Spot, detail: ErrorDetails, root: Node, top: type[Config]) -> _Wrong:
    parent = _spot(detail["loc"][:-1], "", root, top)
    known = sorted(_fields(parent.types))
    hint = nearest(dashed(spot.path[-1]), known, 1)
    message = f"unknown key; {_hinted(hint)}llowed here: {', '.join(known)}"
    suggested = ".".join([*spot.path[:-1], hint.split("'")[1]]) if hint else None
    return _Wrong(spot, _EXTRA, message, suggested=suggested)


def _purpose(loc: Sequence[int | str], root: Node, top: type[Config]) -> str:
    """What a missing field is for, from its own description."""
    parent = _spot(loc[:-1], "", root, top)
    told = [
        info.description
        for one in parent.types
        for name, info in one.model_fields.items()
        if dashed(name) == loc[-1] or name == loc[-1]
    ]
    first = (told[0] or "").partition(". ")[0].rstrip(".").replace("``", "'") if told else ""
    return f": {first[:1].lower()}{first[1:]}" if first else ""


def _spot(loc: Sequence[int | str], kind: str, root: Node, top: type[Config]) -> _Spot:
    """From pydantic's place, which names the branches of unions too, to the keys as they were written."""
    spot = _Spot(root, root.where, (top,))
    for index, part in enumerate(loc):
        last = index == len(loc) - 1
        inside = spot.node.value if spot.node is not None else None
        if isinstance(part, int):
            _item(spot, part)
            continue
        tagged = tuple(one for one in spot.types if part in _tags((one,)))
        if len(spot.types) > 1 and tagged:
            spot.types = tagged
            continue
        known = _fields(spot.types)
        written = spot.node.find(part) if spot.node is not None else None
        if written is not None:
            assert spot.node is not None
            spot.step(written, known.get(dashed(part), ()), spot.node.value[written])
        elif dashed(part) in known:
            short = inside is not None and not isinstance(inside, dict | list)
            if short and kind != "missing":  # `labels: -1` is short for a mapping that nobody wrote
                spot.types = known[dashed(part)]
            else:
                spot.step(part, known[dashed(part)], None)
        elif last and kind == _EXTRA:
            spot.step(part, (), None)
    return spot


def _item(spot: _Spot, index: int) -> None:
    inside = spot.node.value if spot.node is not None else None
    if isinstance(inside, dict) and spot.path == ["objective"]:  # a mapping of terms is read as their list
        flat = [
            (key, place, node)
            for key, given in inside.items()
            for place, node in (enumerate(given.value) if isinstance(given.value, list) else [(None, given)])
        ]
        if index < len(flat):
            key, place, node = flat[index]
            spot.step(key, spot.types, inside[key])
            if place is not None:
                spot.step(str(place), spot.types, node)
    elif isinstance(inside, list) and index < len(inside):
        spot.step(str(index), spot.types, inside[index])


def default_at(top: type[Config], path: Sequence[str]) -> Any:
    """What stands at ``path`` where a recipe is silent, as far as a setting can build on it: a choice's name, or a list."""
    types: Types = (top,)
    default: Any = None
    for part in path:
        infos = [info for one in types for info in one.model_fields.values() if info.alias == dashed(part)]
        default = next((info.get_default() for info in infos if not info.is_required()), None)
        types = _fields(types).get(dashed(part), ())
    if isinstance(default, Config):
        return {name: value for name, value in default.plain().items() if name in _TAGS}
    return [one.plain() for one in default if isinstance(one, Config)] if isinstance(default, tuple) else None


def _fields(types: Iterable[type[Config]]) -> dict[str, Types]:
    """Every key that these types take, and the configs that its value may be."""
    found: dict[str, Types] = {}
    for one in types:
        for name, info in one.model_fields.items():
            key = info.alias or dashed(name)
            found[key] = tuple(dict.fromkeys((*found.get(key, ()), *_configs(info.annotation))))
    return found


def _configs(annotation: Any) -> Iterable[type[Config]]:
    if isinstance(annotation, type) and not get_args(annotation):
        if issubclass(annotation, Config):
            yield annotation
        return
    for part in get_args(annotation):
        yield from _configs(part)


def _tags(types: Iterable[type[Config]]) -> set[str]:
    return {
        value
        for one in types
        for name in _TAGS
        if name in one.model_fields and get_origin(one.model_fields[name].annotation) is Literal
        for value in get_args(one.model_fields[name].annotation)
    }


def _shown(node: Node | None) -> str:
    """A value in a few words."""
    value = None if node is None else node.value
    if isinstance(value, dict):
        keys = ", ".join(map(str, list(value)[:4]))
        return f"a mapping with {keys}{', ...' if len(value) > 4 else ''}" if value else "an empty mapping"
    if isinstance(value, list | tuple):
        return f"a list of {len(value)}" if value else "an empty list"
    if value is None:
        return "nothing"
    text = str(value).lower() if isinstance(value, bool) else repr(value)
    return text if len(text) <= 60 else text[:57] + "..." + text[-1]

"""Config is the constructor: one frozen type a choice, chosen in a recipe by its ``name``."""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, Union, get_args, get_origin

from pydantic import BaseModel, BeforeValidator, ConfigDict, Discriminator, ValidationError, model_validator

from limbeck.errors import SettingError, nearest

TAGS: Final = ("name", "schedule")  # the fields by which a choice is made
_EXTRA: Final = "extra_forbidden"
# YAML knows lists only, and strict types do not take a list for a tuple.
Tuple: Final = BeforeValidator(lambda value: tuple(value) if isinstance(value, list) else value)


def _tuples(value: Any) -> Any:
    return tuple(_tuples(item) for item in value) if isinstance(value, list | tuple) else value


if TYPE_CHECKING:  # who checks types knows the fields by it
    from pydantic._internal._model_construction import ModelMetaclass as _Told
else:

    class _Told(type(BaseModel)):
        """Makes a config, or says in one paragraph what is wrong. Values inside others are made by pydantic, not here."""

        def __call__(cls, *args: Any, **given: Any) -> Any:
            try:
                return super().__call__(*args, **given)
            except ValidationError as error:
                raise SettingError(_refusal(cls, error)) from None


class Config(BaseModel, metaclass=_Told):
    """A frozen, strict value. Fields are spelled ``like-this`` in a recipe and ``like_this`` in Python."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        strict=True,
        alias_generator=lambda field: field.replace("_", "-"),
        validate_by_name=True,
        validate_by_alias=True,
        serialize_by_alias=True,
        use_attribute_docstrings=True,
        validate_default=True,
    )

    @model_validator(mode="before")
    @classmethod
    def _sequences_are_tuples(cls, value: Any) -> Any:
        # strict types refuse a list for a tuple, and YAML knows lists alone
        if isinstance(value, Mapping):
            return {name: _tuples(item) for name, item in value.items()}
        return value

    def plain(self) -> dict[str, Any]:
        """The whole value, defaults written out, as JSON types: what is hashed and stored."""
        return self.model_dump(mode="json")


def _named(value: Any) -> Any:
    return {"name": value} if isinstance(value, str) else value


def choice(*types: type[Config]) -> Any:
    """A field type that takes one of ``types`` by its ``name``; a bare string is short for ``{name: string}``."""
    union: Any = Union[types]  # noqa: UP007 - built at run time
    chosen: Any = Annotated[union, Discriminator("name")] if len(types) > 1 else union
    return Annotated[chosen, BeforeValidator(_named, json_schema_input_type=str | chosen)]


def fields_of(types: "Iterable[type[Config]]") -> "dict[str, tuple[type[Config], ...]]":
    """Every key that these types take, and the configs that its value may be."""
    found: dict[str, tuple[type[Config], ...]] = {}
    for one in types:
        for name, info in one.model_fields.items():
            key = info.alias or name
            found[key] = tuple(dict.fromkeys((*found.get(key, ()), *_configs(info.annotation))))
    return found


def _configs(annotation: Any) -> Iterable[type[Config]]:
    if isinstance(annotation, type) and not get_args(annotation):
        if issubclass(annotation, Config):
            yield annotation
        return
    for part in get_args(annotation):
        yield from _configs(part)


def tags_of(types: Iterable[type[Config]]) -> set[str]:
    """The names by which these types are chosen."""
    return {
        value
        for one in types
        for name in TAGS
        if name in one.model_fields and get_origin(one.model_fields[name].annotation) is Literal
        for value in get_args(one.model_fields[name].annotation)
    }


def _refusal(top: type[Config], error: ValidationError) -> str:
    """What is wrong, unknown settings first: a misspelt one explains the one that is missing."""
    first = min(error.errors(include_url=False), key=lambda one: one["type"] != _EXTRA)
    around, types, path = _place(top, first["loc"], first["type"] == _EXTRA)
    where, found = ".".join((top.__name__, *path)), repr(first["input"])
    if first["type"] == _EXTRA:
        known = sorted(key.replace("-", "_") for key in fields_of(around))
        hint = nearest(path[-1], known, 1)
        return f"{where}: unknown setting; {f'{hint} A' if hint else 'a'}llowed: {', '.join(known)}."
    if first["type"] != "value_error" and len(types) > 1 and (names := sorted(tags_of(types))):
        tag = "schedule" if any("schedule" in one.model_fields for one in types) else "name"
        number = "a number, or " if tag == "schedule" else ""
        said = f"allowed: {number}a mapping whose {tag} is one of {', '.join(names)}"
    else:
        said = str(first.get("ctx", {}).get("error", f"{first['msg'][:1].lower()}{first['msg'][1:]}")).rstrip(".")
    if first["type"] == "missing":
        return f"{where} is missing{f'; {said}' if said.startswith('allowed') else ''}."
    if first["type"] == "value_error" and isinstance(first["input"], Mapping):
        return f"{where}: {said}."
    return f"{where}: found {found if len(found) <= 60 else found[:57] + '...'}; {said}."


def _place(
    top: type[Config], loc: Sequence[int | str], unknown: bool
) -> tuple[tuple[type[Config], ...], tuple[type[Config], ...], list[str]]:
    """What has the setting at pydantic's place, what the setting may be, and its path as it is written in Python.

    ``unknown``: whether there is no such setting.
    """
    around: tuple[type[Config], ...] = (top,)
    types, path = around, list[str]()
    for index, part in enumerate(loc):
        known, key = fields_of(types), str(part).replace("_", "-")
        if isinstance(part, int):
            path.append(str(part))
        elif key in known or (unknown and index == len(loc) - 1):
            around, types = types, known.get(key, ())
            path.append(part.replace("-", "_"))
        else:  # the branch of a union, which nobody wrote; one without a tag may be any of them
            tagged = tuple(one for one in types if part in tags_of((one,)))
            types = tagged if tagged or index == len(loc) - 1 else types
    return around, types, path


def digest(value: Any) -> str:
    """SHA-256 over the canonical JSON of ``value``, 64 hexadecimal digits.

    ``value`` may hold configs, mappings, sequences and JSON scalars; the order of keys does not matter.
    """

    def plain(item: Any) -> Any:
        if isinstance(item, Config):
            return item.plain()
        if isinstance(item, Mapping):
            return {str(key): plain(inner) for key, inner in item.items()}
        if isinstance(item, list | tuple):
            return [plain(inner) for inner in item]
        return item

    text = json.dumps(plain(value), sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()

"""Config is the constructor: one frozen type a choice, chosen in a recipe by its ``name``."""

import hashlib
import json
from collections.abc import Mapping
from typing import Annotated, Any, Union

from pydantic import BaseModel, BeforeValidator, ConfigDict, Discriminator, model_validator


def _tuples(value: Any) -> Any:
    return tuple(_tuples(item) for item in value) if isinstance(value, list | tuple) else value


class Config(BaseModel):
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

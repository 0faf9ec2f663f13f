"""Filters by the user's own function, where the user allows code to be run."""

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import Field

from limbeck.code import TARGET, called
from limbeck.config import Config
from limbeck.errors import LimbeckError


class Python(Config):
    """``module:callable``, called with a list of texts and ``arguments``. Refused unless the user allows code."""

    name: Literal["python"] = "python"
    target: Annotated[str, Field(pattern=TARGET)]
    """``module:callable``, such as ``my_rules.texts:unsafe``. It returns as many values: why a text is rejected, or true;
    null or false where it is not."""
    arguments: dict[str, Any] = Field(default_factory=dict)
    """Its keyword arguments: JSON values."""

    def reasons(self, texts: Sequence[str]) -> list[str | None]:
        """See `Filter.reasons`.

        Raises:
            LimbeckError: code is not allowed, the callable is not found or fails, or it returns something else.
        """
        said = called("filter", self.target, list(texts), **self.arguments)
        if not isinstance(said, list) or len(said) != len(texts):
            count = f"{len(said)} values" if isinstance(said, list) else type(said).__name__
            raise LimbeckError(
                f"The filter {self.target!r} returned {count} for {len(texts)} texts: return a list with one value a text, "
                "why it is rejected or None."
            )
        if wrong := [one for one in said if not (one is None or isinstance(one, bool | str))]:
            raise LimbeckError(
                f"The filter {self.target!r} returned {type(wrong[0]).__name__} for a text: return a reason, True, False or None."
            )
        return [one if isinstance(one, str) and one else "rejected" if one else None for one in said]

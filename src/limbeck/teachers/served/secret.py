"""A key that is used and never shown."""

import json
import os
from collections.abc import Mapping
from typing import Final
from urllib.parse import quote

from limbeck.errors import LimbeckError

_SECRET: Final = 16  # letters; no service gives shorter ones


class Key:
    """The key in the environment variable ``variable``; None: no key.

    Raises:
        LimbeckError: the variable is not set, or has what no header can carry. The value is not in the message.
    """

    __slots__ = ("_value", "variable")

    def __init__(self, variable: str | None) -> None:
        self.variable = variable
        self._value = ""
        if variable is not None:
            self._value = os.environ.get(variable, "").strip()
            if not self._value:
                # what is not written as names of variables are may be the key itself, in the wrong place
                named = f" {variable}" if variable.isupper() else ""
                raise LimbeckError(
                    f"The environment variable{named} is not set, and 'key-from' says that it has the key of the served model: "
                    "set it, or leave 'key-from' out if the server wants no key."
                )
            if not all("!" <= letter <= "~" for letter in self._value):
                raise LimbeckError(f"{variable} has letters that no key has, such as spaces or line ends: set it anew.")

    def __repr__(self) -> str:
        return f"Key({self.variable})"

    def __reduce__(self) -> str:
        raise TypeError("a key is not stored")

    def headers(self) -> Mapping[str, str]:
        """What proves who asks."""
        return {"Authorization": f"Bearer {self._value}"} if self._value else {}

    def struck(self, body: bytes) -> bytes:
        """``body`` without the key. A short one stays: it is a word of a local server, and may be part of anything."""
        return body.replace(self._value.encode(), b"***") if len(self._value) >= _SECRET else body

    def hidden(self, text: str) -> str:
        """``text`` without the key, however it is written there."""
        for form in {self._value, json.dumps(self._value)[1:-1], quote(self._value, safe="")} - {""}:
            text = text.replace(form, "***")
        return text

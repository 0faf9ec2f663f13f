"""Files of text: their letters, and JSON, whole or a line at a time."""

import json
from pathlib import Path
from typing import Any, Final

from limbeck.errors import DataError

JSON_LINES = (".jsonl", ".ndjson", ".json")
_ENCODINGS: Final = ["utf-8", "gb18030", "big5", "cp949", "cp932", "cp1251", "cp1252"]
_LOOKED_AT: Final = 2**18  # bytes, at most


def decoded(path: Path, encoding: str = "utf-8") -> str:
    """The letters of a file.

    Raises:
        DataError: there is no such encoding, the file is in another, or it cannot be read.
    """
    try:
        return path.read_bytes().decode("utf-8-sig" if encoding.lower() in ("utf-8", "utf8") else encoding)
    except LookupError as error:
        raise DataError(
            f"There is no encoding {encoding!r}; such are utf-16, latin-1, {', '.join(_ENCODINGS)}."
        ) from error
    except UnicodeDecodeError as error:
        other = likely(error.object)
        line = error.object[: error.start].count(b"\n") + 1
        raise DataError(
            f"{path} is not encoded in {encoding}: line {line} holds bytes that are not allowed there. If its "
            f"letters are of another encoding, write 'encoding: {other}' beside the path."
        ) from error
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error}") from error


def likely(content: bytes) -> str:
    """The encoding that a text is probably of, among those that tables come in."""
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        return "utf-16"
    from charset_normalizer import from_bytes  # here, as few files need it

    head = content[:_LOOKED_AT]
    whole = head if len(head) == len(content) else head[: head.rfind(b"\n") + 1]  # no half of a letter at the end
    best = from_bytes(whole, cp_isolation=_ENCODINGS).best()
    return "latin-1" if best is None else best.encoding.replace("utf_8", "utf-8")


def json_lines(path: Path, content: str) -> list[dict[str, Any]]:
    """The objects of a file that has one a line; empty lines are passed over.

    Raises:
        DataError: a line is no JSON object, or there is none; names the line.
    """
    rows = []
    for number, line in enumerate(content.split("\n"), 1):
        if line.strip():
            row = json_of(line, f"{path}, line {number}")
            if not isinstance(row, dict):
                raise DataError(f"{path}, line {number} is no JSON object with named values.")
            rows.append(row)
    if not rows:
        raise DataError(f"{path} has no rows.")
    return rows


def json_of(text: str, where: str) -> Any:
    """The value that ``text`` says.

    Raises:
        DataError: it is no JSON, or nested too deep.
    """
    try:
        return json.loads(text)
    except ValueError as error:
        raise DataError(f"{where} is no JSON: {error}") from error
    except RecursionError:
        raise DataError(f"{where} is nested too deep to be read.") from None

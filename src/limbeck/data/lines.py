"""Files of text: their letters, and JSON, whole or a line at a time."""

import json
from pathlib import Path
from typing import Any, Final

from limbeck.errors import DataError

JSON_LINES = (".jsonl", ".ndjson", ".json")
# where the first and the second byte of common letters lie, and how many letters must be such; the narrower come first
_COMMON: Final[dict[str, tuple[tuple[tuple[int, int], ...], tuple[int, int], float]]] = {
    "euc-kr": (((0xB0, 0xC8),), (0xA1, 0xFE), 0.95),
    "shift-jis": (((0x82, 0x83), (0x88, 0x97)), (0x40, 0xFC), 0.9),
    "gb18030": (((0xB0, 0xD7),), (0xA1, 0xFE), 0.8),
    "big5": (((0xA4, 0xC6),), (0x40, 0xFE), 0.8),
}
_LETTERS: Final = 20_000  # as many are looked at


def decoded(path: Path, encoding: str = "utf-8") -> str:
    """The letters of a file.

    Raises:
        DataError: there is no such encoding, the file is in another, or it cannot be read.
    """
    try:
        return path.read_bytes().decode("utf-8-sig" if encoding.lower() in ("utf-8", "utf8") else encoding)
    except LookupError as error:
        raise DataError(
            f"There is no encoding {encoding!r}; such are utf-8, utf-16, latin-1, cp1252, gb18030, big5, shift-jis, euc-kr."
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
    """The encoding that a text is probably of, by its marks, by what may stand in it, and by which letters are common."""
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        return "utf-16"
    content = content[: content.rfind(b"\n") + 1 or None]  # no half of a letter at the end
    if _allowed(content, "utf-8"):
        return "utf-8"
    for encoding, (firsts, second, share) in _COMMON.items():
        if _allowed(content, encoding):
            letters = [one for one in content.decode(encoding)[:_LETTERS] if one.isalpha() and not one.isascii()]
            pairs = [pair for pair in (one.encode(encoding) for one in letters) if len(pair) > 1]
            common = sum(any(a <= one[0] <= b for a, b in firsts) and second[0] <= one[1] <= second[1] for one in pairs)
            if pairs and common >= share * len(letters):
                return encoding
    return "latin-1"


def _allowed(content: bytes, encoding: str) -> bool:
    try:
        content.decode(encoding)
    except UnicodeDecodeError:
        return False
    return True


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

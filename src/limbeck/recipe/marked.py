"""YAML with the line of every value: plain values only, bounded in size, nothing ever constructed from a tag."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import yaml

MOST_BYTES: Final = 1_000_000
MOST_NODES: Final = 100_000
MOST_LEVELS: Final = 50

# libyaml's parser keeps its own stack and is some 10 times faster; the pure one is there where it was not built
_LOADER: Final[Any] = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_NULL: Final = {"", "~", "null", "Null", "NULL"}
_BOOL: Final = {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}
_INT: Final = re.compile(r"[-+]?[0-9]+")
_BASED: Final = re.compile(r"0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT: Final = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_SPECIAL: Final = re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")
_HINTS: Final = {
    "mapping values are not allowed": "a value that holds ': ' needs quotes, and every key of a mapping the same indentation",
    "could not find expected ':'": "a key needs a colon and a space after it",
    "did not find expected key": "every key of a mapping needs the same indentation",
    "did not find expected '-'": "every item of a list needs the same indentation",
    "cannot start any token": "quote a value that begins with @, `, % or a tab",
}


@dataclass(frozen=True, slots=True)
class Node:
    """A value where it was written: a scalar, a ``dict[str, Node]`` or a ``list[Node]``.

    ``where``: the line of its key or list item, counted from 1, or the ``--set`` that gave it. ``size``, ``height``: nodes and
    levels with all aliases written out.
    """

    value: Any
    where: int | str
    size: int = 1
    height: int = 1

    def at(self, where: int | str) -> "Node":
        """The same value, written elsewhere."""
        return Node(self.value, where, self.size, self.height)

    def plain(self) -> Any:
        """The value alone."""
        if isinstance(self.value, dict):
            return {key: inner.plain() for key, inner in self.value.items()}
        return [inner.plain() for inner in self.value] if isinstance(self.value, list) else self.value

    def find(self, key: str) -> str | None:
        """The key as it was written, ``like-this`` or ``like_this``; None if it is not there."""
        if not isinstance(self.value, Mapping):
            return None
        return next((one for one in (key, dashed(key), key.replace("-", "_")) if one in self.value), None)


class Mistake(ValueError):
    """Something is wrong at ``line``; whoever knows the file's name says so."""

    def __init__(self, line: int, message: str) -> None:
        super().__init__(message)
        self.line = line


@dataclass(slots=True)
class _Open:
    """A mapping or list that is being read."""

    mapping: bool
    line: int
    anchor: str | None
    items: list[Node] = field(default_factory=list)
    keys: list[str] = field(default_factory=list)
    lines: dict[str, int] = field(default_factory=dict)

    @property
    def wants_key(self) -> bool:
        return self.mapping and len(self.keys) == len(self.items)

    def key(self, key: str, line: int) -> None:
        if key == "<<":
            raise Mistake(line, "merge keys (<<) are not read: write the keys out")
        if dashed(key) in self.lines:
            raise Mistake(
                line, f"{cut(key)!r} is given twice, first in line {self.lines[dashed(key)]}: keep one of them"
            )
        self.lines[dashed(key)] = line
        self.keys.append(key)

    def add(self, node: Node) -> None:
        # a value of a mapping is where its key is, however far below it begins
        self.items.append(node.at(self.lines[dashed(self.keys[-1])]) if self.mapping else node)

    def closed(self) -> Node:
        values: Any = dict(zip(self.keys, self.items, strict=True)) if self.mapping else self.items
        size = 1 + sum(item.size for item in self.items)
        if size > MOST_NODES:
            raise Mistake(self.line, f"more than {MOST_NODES:,} values, with all aliases written out")
        height = 1 + max((item.height for item in self.items), default=0)
        if height > MOST_LEVELS:
            raise Mistake(self.line, f"nested more than {MOST_LEVELS} levels deep")
        return Node(values, self.line, size, height)


def dashed(key: str) -> str:
    """A key as recipes spell it."""
    return key.replace("_", "-")


def scalar(text: str) -> str | int | float | bool | None:
    """An unquoted scalar by YAML 1.2: ``1e-3`` is a number; ``no``, ``on`` and ``2024-01-01`` are strings.

    Raises:
        ValueError: a number that no setting could be.
    """
    if text in _NULL:
        return None
    if text in _BOOL:
        return _BOOL[text]
    if _INT.fullmatch(text) or _BASED.fullmatch(text):
        number = int(text, 0 if text[1:2] in ("o", "x") else 10) if len(text) <= 64 else 2**64
        if abs(number) >= 2**63:
            raise ValueError(f"the number {cut(text)} has more than 63 bits")
        return number
    if _FLOAT.fullmatch(text):
        real = float(text)
        if math.isinf(real):
            raise ValueError(f"the number {cut(text)} is too large")
        return real
    if _SPECIAL.fullmatch(text):
        raise ValueError(f"{text} is no number that a recipe can hold")
    return text


def text_of(content: bytes) -> str:
    """The file's text.

    Raises:
        Mistake: too large, or not UTF-8.
    """
    if len(content) > MOST_BYTES:
        raise Mistake(1, f"the file has {len(content):,} bytes; a recipe has at most {MOST_BYTES:,}")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise Mistake(line, f"not UTF-8 text (byte 0x{content[error.start]:02x}): save the file as UTF-8") from None


def tree(text: str) -> Node:
    """The document as nodes.

    Raises:
        Mistake: it is not YAML, or not the plain part of it that recipes use.
    """
    try:
        return _built(text)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise Mistake(line, _not_yaml(str(error.problem or error.context), text, line)) from None
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1 if isinstance(error.position, int) else 1
        shown = f" U+{error.character:04X}" if isinstance(error.character, int) else ""
        raise Mistake(line, f"holds a character{shown} that no text file should") from None


def _not_yaml(problem: str, text: str, line: int) -> str:
    lines = text.split("\n")
    written = lines[line - 1] if line <= len(lines) else ""
    if "\t" in written[: len(written) - len(written.lstrip())]:
        return "indented with a tab: YAML wants spaces"
    hint = next((hint for start, hint in _HINTS.items() if start in problem), "")
    return f"not YAML: {problem}" + (f" ({hint})" if hint else "")


def _built(text: str) -> Node:
    stack: list[_Open] = []
    anchors: dict[str, Node] = {}
    root: Node | None = None
    for event in yaml.parse(text, Loader=_LOADER):
        line = event.start_mark.line + 1 if event.start_mark else 1
        anchor = getattr(event, "anchor", None)
        if isinstance(event, yaml.DocumentStartEvent) and root is not None:
            raise Mistake(line, "a second document begins here (---); a recipe is one")
        if (tag := getattr(event, "tag", None)) is not None:
            raise Mistake(line, f"tags such as {cut(str(tag))} are not read: write the plain value")
        if isinstance(event, yaml.ScalarEvent) and stack and stack[-1].wants_key:
            stack[-1].key(_text(event, line), line)
            if anchor is not None:
                anchors[anchor] = Node(event.value, line)
            continue
        if isinstance(event, yaml.MappingStartEvent | yaml.SequenceStartEvent):
            if stack and stack[-1].wants_key:
                raise Mistake(line, "a key must be a word, not a mapping or a list")
            if len(stack) >= MOST_LEVELS:
                raise Mistake(line, f"nested more than {MOST_LEVELS} levels deep")
            stack.append(_Open(isinstance(event, yaml.MappingStartEvent), line, anchor))
            continue
        if isinstance(event, yaml.AliasEvent):
            if stack and stack[-1].wants_key:
                raise Mistake(line, "a key must be a word, not an alias")
            if anchor not in anchors:
                raise Mistake(line, f"the alias *{cut(str(anchor))} stands for nothing that is written before it")
            node = anchors[anchor].at(line)
        elif isinstance(event, yaml.ScalarEvent):
            node = Node(_value(event, line), line)
        elif isinstance(event, yaml.MappingEndEvent | yaml.SequenceEndEvent):
            done = stack.pop()
            node, anchor = done.closed(), done.anchor
        else:
            continue
        if anchor is not None:
            anchors[anchor] = node
        if stack:
            stack[-1].add(node)
        else:
            root = node
    return root or Node(None, 1)


def _text(event: yaml.ScalarEvent, line: int) -> str:
    value: str = event.value
    if any((ord(letter) < 32 and letter not in "\n\t") or "\ud800" <= letter <= "\udfff" for letter in value):
        raise Mistake(line, f"holds a control character: {cut(repr(value))}")
    return value


def _value(event: yaml.ScalarEvent, line: int) -> Any:
    value = _text(event, line)
    if not event.implicit[0]:  # quoted, or a block of text
        return value
    try:
        return scalar(value)
    except ValueError as error:
        raise Mistake(line, str(error)) from None


def cut(text: str) -> str:
    """As much of a text as a message needs to name it."""
    return text if len(text) <= 40 else text[:37] + "..."

"""What data on disk is: its source as a recipe names it, how much there is, and how sure that is."""

import csv
import io
import json
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any, Final, cast

from torch import Tensor

from limbeck.data.hub import HuggingFace
from limbeck.data.images import ImageFiles
from limbeck.data.lines import JSON_LINES, likely
from limbeck.data.questions import Questions
from limbeck.data.running import RunningText
from limbeck.data.tabular import pyarrow
from limbeck.data.tagged import Tagged
from limbeck.data.task import Task, at_tokens
from limbeck.data.tasks import CLASSES, TASKS
from limbeck.errors import DataError
from limbeck.recipe.columns import Row, columns_for, text_columns
from limbeck.recipe.found import PARTS, TRAIN, Found
from limbeck.recipe.pictures import idx, images

_TABLES: Final = (".csv", ".tsv", ".jsonl", ".ndjson", ".parquet")
_TEXT: Final = ".txt"
_LETTERS: Final = 100  # rows whose letters are looked at
_LIKELY: Final = ("multi-label", "numbers")  # what may be asked of a table, where classes cannot
_READ: Final = 32_000_000  # bytes of a table that are looked at
_SAMPLE: Final = 2_000  # rows that the columns are judged by
_WORDS: Final = ("words", "tokens")
_TAGS: Final = ("tags", "ner_tags", "labels", "pos_tags")
_SUFFIXES: Final = {"words": "CoNLL or .jsonl", "questions": ".json or .jsonl"}
WANTED: Final = {
    "classes": "two columns that look like texts and labels: a first line with names, a column of texts, and one of at least "
    "two labels that occur more than once",
    "multi-label": "columns that look like texts and any number of labels each: a column of texts, and one of names with | , "
    "or ; between them or of lists of names, or several columns of 0 and 1",
    "numbers": "a column of texts and one of different numbers",
    "vectors": "two columns of texts that belong together",
    "next-token": "a column of texts, or of prompts and one of what follows them; or give files of running text (.txt)",
    "text-to-text": "a column of texts and one of what they are to be turned into",
    "tags": "texts whose words have tags",
    "spans": "questions, texts and answers that stand in them",
}
"""What must be there, for each task that is known here."""
HUB: Final = "hub:"
"""Before the name of a data set on the Hugging Face hub."""


def look(path: Path, task: Task = CLASSES) -> Found:
    """What is at ``path``, a place on disk or ``hub:`` and a name on the Hugging Face hub, for ``task``.

    Raises:
        DataError: nothing that a recipe could read; says what would be.
    """
    if str(path).startswith(HUB):
        return _loaded(HuggingFace(path=str(path)[len(HUB) :]), task)
    path = path.expanduser()
    if not path.exists():
        raise DataError(f"There is no file or folder {path}.")
    try:
        found = _folder(path, task) if path.is_dir() else _file(path, task)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}.") from error
    if found is None:
        where = "give a folder with one folder of images a class, IDX files as MNIST has them, or "
        raise DataError(
            f"{path} is nothing that can be learnt from: {where if task == CLASSES else 'give '}"
            f"a {_SUFFIXES.get(task.reads, '.csv, .tsv, .jsonl or .parquet')} file with {WANTED[task.name]}."
        )
    return found


def _folder(path: Path, task: Task) -> Found | None:
    files = sorted(item for item in path.iterdir() if item.is_file() and not item.name.startswith("."))
    if task.reads == "sequences" and any(item.suffix == _TEXT for item in files):
        return _loaded(RunningText(path=str(path)), task)
    tables = [item for item in files if at_tokens(task) or item.suffix in _TABLES]
    first = [item for item in tables if item.stem in TRAIN] or (tables if len(tables) == 1 else [])
    pictures = (idx(files) or images(path)) if task == CLASSES else None
    return pictures or (_file(first[0], task) if first else None)


def _file(path: Path, task: Task) -> Found | None:
    if at_tokens(task):
        return _of_tokens(path, task)
    if path.suffix == ".parquet":
        return _parquet(path, task)
    if path.suffix not in _TABLES:
        running = task.reads == "sequences" and path.suffix in ("", _TEXT)
        return _loaded(RunningText(path=str(path)), task) if running else None
    with path.open("rb") as stream:
        content = stream.read(_READ)
    try:
        text, encoding = content[: content.rfind(b"\n") + 1 or None].decode("utf-8-sig"), None
    except UnicodeDecodeError:
        encoding = likely(content)
        text = content.decode(encoding, "replace")  # what was read may end within a letter
    extra: dict[str, Any] = {"encoding": encoding} if encoding else {}
    if path.suffix in (".jsonl", ".ndjson"):
        written = [line for line in text.split("\n") if line.strip()]
        rows, count = [row for row in map(_json, written[:_SAMPLE]) if isinstance(row, dict)], len(written)
    else:
        first = text.partition("\n")[0]
        delimiter = "\t" if path.suffix == ".tsv" else max(",;\t|", key=first.count)
        if delimiter != "," and path.suffix == ".csv":
            extra["delimiter"] = delimiter
        try:
            csv.field_size_limit(_READ)  # the library stops at 131,072 characters
            lines = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter)
            rows = list(islice(lines, _SAMPLE))
            count = len(rows) + sum(1 for _ in lines)  # rows, not lines: a quoted text may have several
        except csv.Error as error:
            raise DataError(f"{path} is no proper CSV file: {error}.") from None
    size = path.stat().st_size
    if size > len(content):
        return _table(path, rows, round(count * size / len(content)), extra, task, "about ")
    return _table(path, rows, count, extra, task)


def _json(line: str) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None


def _parquet(path: Path, task: Task) -> Found:
    arrow = pyarrow()
    try:
        with arrow.parquet.ParquetFile(path) as file:
            rows = next(file.iter_batches(_SAMPLE)).to_pylist() if file.metadata.num_rows else []
            return _table(path, rows, file.metadata.num_rows, {}, task)
    except arrow.ArrowException as error:
        raise DataError(f"{path} cannot be read: {error}") from error


def _table(path: Path, rows: Sequence[Row], count: int, extra: dict[str, Any], task: Task, about: str = "") -> Found:
    found = columns_for(task, rows)
    if found is None:
        columns = ", ".join(repr(name) for name in (rows[0] if rows else {}) if isinstance(name, str)) or "none"
        raise DataError(
            f"{path} has no {WANTED[task.name].removeprefix('a ')} (its columns: {columns}).{_others(task, rows)}"
        )
    columns_found, outputs, told = found
    source: dict[str, Any] = {"name": "table", "path": str(path), **columns_found, **extra}
    test = path.with_name(f"test{path.suffix}")
    if path.stem in TRAIN and test.is_file():
        source["test"] = str(test)
    own = frozenset({"test"} if "test" in source else ())
    read = {one for value in columns_found.values() for one in ([value] if isinstance(value, str) else value)}
    left = [name for name in (rows[0] if rows else {}) if isinstance(name, str) and name not in read]
    second = next((name for name in left if name in text_columns(rows)), None)
    return Found(
        source,
        "texts",
        max(1, count),
        outputs,
        f"{about}{count:,} texts {told}",
        own=own,
        unread=tuple(left),
        second=second,
        latin=_latin("".join(str(row.get(source["text"])) for row in rows[:_LETTERS])),
    )


def _latin(text: str) -> bool:
    """Whether at least half of the letters are Latin ones."""
    letters = [letter for letter in text if letter.isalpha()]
    return 2 * sum(letter < "\u0250" for letter in letters) >= len(letters)


def _others(task: Task, rows: Sequence[Row]) -> str:
    """The task that the table would be for, if there is one."""
    for kind in TASKS:
        other = cast(Task, kind())
        if other.name in _LIKELY and other != task and columns_for(other, rows) is not None:
            return f" For 'task: {other.name}' it has: add --task {other.name}."
    return ""


def _loaded(source: Tagged | Questions | HuggingFace | RunningText, task: Task) -> Found:
    """What is asked of its own source, which refuses what cannot be learnt from."""
    raw = source.load(task)
    parts = {"validation": raw.validation, "test": raw.test}
    own = {part: len(rows) for part, rows in parts.items() if rows is not None}
    rows, side = len(raw) - sum(own.values()), None
    if isinstance(raw.items, Tensor | ImageFiles):
        side = max(int(length) for length in raw.items.shape[2:])
    what = "questions" if task.reads == "questions" else raw.kind
    told = f"{rows:,} {what}" + (f" with {len(raw.classes)} {task.outputs}" if task.outputs else "")
    kept = {"name": source.name, **source.model_dump(mode="json", exclude_defaults=True)}
    return Found(kept, raw.kind, max(1, rows), len(raw.classes), told, side, frozenset(own))


def _of_tokens(path: Path, task: Task) -> Found:
    """A file whose answers stand at words or letters; beside ``train.jsonl`` those of the other parts."""
    beside = {
        part: str(file)
        for part, names in PARTS.items()
        for file in (path.with_name(f"{name}{path.suffix}") for name in reversed(names))
        if path.stem in TRAIN and file.is_file()
    }
    if task.reads == "questions":
        return _loaded(Questions.model_validate({"path": str(path), **beside}), task)
    return _loaded(Tagged.model_validate({"path": str(path), **beside, **_lists(path)}), task)


def _lists(path: Path) -> dict[str, str]:
    """The lists of words and of tags in JSON lines, where they are not called so."""
    if path.suffix not in JSON_LINES:
        return {}
    with path.open("rb") as stream:
        row = _json(stream.readline(_READ).decode("utf-8-sig", errors="replace"))
    lists = [key for key, value in row.items() if isinstance(value, list)] if isinstance(row, dict) else []
    words = next((name for name in _WORDS if name in lists), None)
    tags = next((name for name in (*_TAGS, *lists) if name in lists and name != words), None)
    return {"words": words, "tags": tags} if words and tags else {}

"""Texts, or pairs of them, and labels in one file: CSV, TSV, JSON lines or Parquet."""

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self

from pydantic import Field, model_validator

from limbeck.config import Config
from limbeck.data.labels import log
from limbeck.data.lines import JSON_LINES, decoded, json_lines
from limbeck.data.raw import Raw, existing, rows_of, whole_texts
from limbeck.data.task import Task, at_tokens
from limbeck.data.tasks import CLASSES
from limbeck.errors import DataError, nearest
from limbeck.extras import imported

_DELIMITERS: Final = ",;|\t"  # the first wins a draw
_SHOWN: Final = 40  # columns that an error names, and letters of each
_LONGEST: Final = 2**24  # characters of a cell
_FLAGS: Final = {"": None, "0": 0, "1": 1, "0.0": 0, "1.0": 1, "false": 0, "true": 1}

_UNLABELLED: Final = ("vectors", "tokens")  # tasks whose texts are all there is


class TextFile(Config):
    """A file with a column of texts and one of labels. A row with an empty label is trained on without one; where a cell
    names any number of labels, an empty one says that none holds.
    """

    name: Literal["table"] = "table"
    """The kind of source."""
    path: str
    """The file: .csv, .tsv, .jsonl (one object a line) or .parquet."""
    text: str = "text"
    """The column of texts."""
    pair: str | None = None
    """The column of a second text, for questions about two: does one follow from the other, do they mean the same. In the
    task ``vectors`` the one that belongs to the first, in ``next-token`` what is to follow it; no label is read there."""
    label: str | Annotated[tuple[str, ...], Field(min_length=1)] = "label"
    """The column of labels: names, whole numbers or, in the task ``numbers``, numbers. Several columns: a 0 or 1 in each, in
    the task ``multi-label``, a class of each task in ``multi-task``, or a number in each."""
    labels_separated_by: Annotated[str, Field(min_length=1)] = "|"
    """In the task ``multi-label`` with one column of labels: what stands between the names; an empty cell holds none."""
    domain: str | None = None
    """The column that says what a text is from, such as law or news: an ensemble's teachers can be weighted by it."""
    test: str | None = None
    """A second file with the test part; drawn from the first if left out."""
    encoding: str = "utf-8"
    """How the file's letters are encoded, such as ``latin-1``."""
    delimiter: Literal["auto", ",", ";", "\t", "|"] = "auto"
    """What stands between columns of a .csv; ``auto``: a tab for .tsv, else the commonest of comma, semicolon, tab and |
    in the first line."""

    @model_validator(mode="after")
    def _columns_differ(self) -> Self:
        named = [*self._texts, *self._labels] if "label" in self.model_fields_set else self._texts
        if twice := [name for name in named if named.count(name) > 1]:
            raise ValueError(f"{twice[0]!r} is named twice among text, pair and label: each is a column of its own")
        return self

    def load(self, task: Task = CLASSES) -> Raw:
        """The texts; those that are empty are dropped if they are few.

        Raises:
            DataError: a file or column is missing, the encoding is another, a row is malformed, or many texts are empty.
        """
        if at_tokens(task):
            source = "tagged" if task.reads == "words" else "questions"
            raise DataError(f"A table has no {task.name}: for 'task: {task.name}' there is the source {source!r}.")
        one, known = isinstance(self.label, str), task.gives not in _UNLABELLED
        if task == CLASSES and not one:
            raise DataError(
                f"{self.path}: several columns of labels ({', '.join(self._labels)}) are for 'task: multi-task', with a class in "
                "each, 'task: multi-label', with a 0 or 1 in each, or 'task: numbers'; classes stand in one column."
            )
        texts: list[Any] = []
        labels: list[Any] = []
        domains: list[str] = []
        lengths = []
        for place in (self.path, self.test):
            if place is not None:
                own = [] if self.domain is None else [self.domain]
                columns = self._columns(existing(place), [*(self._wanted if known else self._texts), *own])
                where = [_named(cell, self.domain, place) for cell in columns.pop()] if self.domain is not None else []
                items = columns[0] if self.pair is None else list(zip(columns[0], columns[1], strict=True))
                found = columns[self._first_label :]
                told = (found[0] if one else list(zip(*found, strict=True))) if known else [None] * len(items)
                pairs = list(zip(told, where or told, strict=True))
                some, their = whole_texts(items, pairs, place)
                texts += some
                labels += [label for label, _ in their]
                domains += [domain for _, domain in their] if where else []
                lengths.append(len(some))
        names = self._labels if task.gives == "numbers" or not one else None
        read, classes = task.read(self._told(labels, task), self.path, names)
        test = rows_of(lengths)[1] if len(lengths) > 1 else None
        named = tuple(domains) if self.domain is not None else None
        return Raw("texts", texts, read, classes, test=test, name=self.path, task=task, domains=named)

    def _told(self, labels: list[Any], task: Task) -> list[Any]:
        """Cells as the task reads them: where a row has any number of labels, sets of names, or a 0 or 1 for each."""
        if task.single or task.named or task.gives in _UNLABELLED:
            return labels
        if not isinstance(self.label, str):
            return [
                tuple(_flag(cell, name, self.path) for cell, name in zip(row, self.label, strict=True))
                for row in labels
            ]
        self._demand_separated([cell for cell in labels if isinstance(cell, str)])
        return [self._names(cell) if isinstance(cell, str) else cell for cell in labels]

    def _demand_separated(self, cells: Sequence[str]) -> None:
        """Names that no cell separates, and that are made of fewer with another mark between them, are not names.

        Raises:
            DataError: they are.
        """
        if any(self.labels_separated_by in cell for cell in cells):
            return
        for mark in _DELIMITERS:
            parts, names = {part.strip() for cell in cells for part in cell.split(mark)}, set(cells)
            if len(parts) < len(names) and any(mark in name for name in names):
                raise DataError(
                    f"{self.path}: no cell of {self.label!r} has a {self.labels_separated_by!r} in it, and with {mark!r} between "
                    f"them {len(names)} labels such as {max(names, key=len)!r} are made of {len(parts)}: write "
                    f"'labels-separated-by: \"{mark}\"'."
                )

    def _names(self, cell: str) -> list[str]:
        return [name for part in cell.split(self.labels_separated_by) if (name := part.strip())]

    @property
    def _wanted(self) -> list[str]:
        return [*self._texts, *self._labels]

    @property
    def _texts(self) -> list[str]:
        return [self.text, *([] if self.pair is None else [self.pair])]

    @property
    def _labels(self) -> tuple[str, ...]:
        return (self.label,) if isinstance(self.label, str) else self.label

    @property
    def _first_label(self) -> int:
        return 1 if self.pair is None else 2

    def _columns(self, path: Path, wanted: Sequence[str]) -> list[list[Any]]:
        """The wanted columns."""
        if path.suffix == ".parquet":
            return self._parquet(path, wanted)
        content = decoded(path, self.encoding)
        if path.suffix in JSON_LINES:
            rows = json_lines(path, content)
            known = sorted({name for row in rows for name in row})
            for column in wanted:
                _check(column, known, path)
            return [[row.get(column) for row in rows] for column in wanted]
        return self._csv(path, content, wanted)

    def _csv(self, path: Path, content: str, wanted: Sequence[str]) -> list[list[Any]]:
        first = content.partition("\n")[0]
        delimiter: str = self.delimiter
        if delimiter == "auto":
            delimiter = "\t" if path.suffix == ".tsv" else max(_DELIMITERS, key=first.count)
        csv.field_size_limit(_LONGEST)  # the library stops at 131,072 characters
        lines = csv.reader(io.StringIO(content, newline=""), delimiter=delimiter, strict=True)
        try:
            header = next(lines, [])
            for column in wanted:
                _check(column, header, path)
                if header.count(column) > 1:
                    raise DataError(f"{path} has {header.count(column)} columns called {column!r}: rename all but one.")
            places = [header.index(column) for column in wanted]
            found: list[list[Any]] = [[] for _ in places]
            swallowed = 0
            for cells in lines:
                if not cells:
                    continue
                if not swallowed and any(_holds_rows(cell, delimiter, len(header)) for cell in cells):
                    swallowed = lines.line_num
                    log.warning(
                        "%s: a cell that ends in line %d runs over lines that look like rows: is a double quote too much, or "
                        "one missing?",
                        path,
                        swallowed,
                    )
                if len(cells) != len(header):
                    raise DataError(
                        f"{path}, line {lines.line_num}: {len(cells)} columns where the first line has {len(header)}. Put "
                        f"texts that hold a {delimiter!r} into double quotes, or set 'delimiter'."
                    )
                for number, place in enumerate(places):
                    found[number].append(cells[place].strip() if number >= self._first_label else cells[place])
        except csv.Error as error:
            raise DataError(
                f"{path} is no proper CSV file: {error}, in line {lines.line_num} or before it. JSON lines (.jsonl) are a "
                "safer format."
            ) from error
        return found

    def _parquet(self, path: Path, wanted: Sequence[str]) -> list[list[Any]]:
        arrow = pyarrow()
        try:
            names = arrow.parquet.read_schema(path).names
            for column in wanted:
                _check(column, names, path)
            table = arrow.parquet.read_table(path, columns=list(wanted))
            return [table[column].to_pylist() for column in wanted]
        except (arrow.ArrowException, OSError, UnicodeDecodeError, OverflowError) as error:
            raise DataError(f"{path} cannot be read: {' '.join(str(error).split())[:300]}") from error


def _holds_rows(cell: str, delimiter: str, columns: int) -> bool:
    """Whether each whole line in a cell could be a row: a quote that nobody closed makes such cells of several rows."""
    inner = cell.split("\n")[1:-1]
    return columns > 1 and bool(inner) and all(line.count(delimiter) >= columns - 1 for line in inner)


def pyarrow() -> Any:
    """The library pyarrow, with its part for Parquet files.

    Raises:
        DataError: it is not installed.
    """
    names = ("pyarrow.parquet", "pyarrow")
    return [imported(name, "Parquet files need pyarrow", "datasets", DataError) for name in names][-1]


def _check(column: str, known: Sequence[str], path: Path) -> None:
    if not known:
        raise DataError(f"{path} is empty.")
    if column not in known:
        hint, shown = nearest(column, list(known)), [repr(name[:_SHOWN]) for name in known[:_SHOWN]]
        more = f" and {len(known) - _SHOWN} more" if len(known) > _SHOWN else ""
        raise DataError(
            f"{path} has no column {column!r}{'; ' + hint if hint else '.'} Its columns: {', '.join(shown)}{more}."
        )


def _named(cell: Any, column: str | None, path: str) -> str:
    """The name of a domain."""
    name = "" if cell is None else str(cell).strip()
    if not name:
        raise DataError(
            f"{path}: the column {column!r} is to say what each row is from, and is empty in some: fill it."
        )
    return name


def _flag(cell: Any, column: str, path: str) -> int | None:
    """0 or 1; None for an empty cell."""
    plain = str(cell).strip().lower() if cell is not None else ""
    if plain not in _FLAGS:
        raise DataError(
            f"{path}: the column {column!r} holds {cell!r}, but labels of 'multi-label' columns are 0 or 1."
        )
    return _FLAGS[plain]

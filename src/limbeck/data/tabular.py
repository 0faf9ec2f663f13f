"""Texts and labels in one file: CSV, TSV, JSON lines or Parquet."""

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, Literal

from limbeck.config import Config
from limbeck.data.raw import Raw, existing, named, rows_of, whole_texts
from limbeck.errors import DataError, nearest

_DELIMITERS: Final = ",;|\t"  # the first wins a draw
_LONGEST: Final = 2**24  # characters of a cell


class TextFile(Config):
    """A file with a column of texts and one of labels. A row with an empty label is trained on without one."""

    name: Literal["table"] = "table"
    """The kind of source."""
    path: str
    """The file: .csv, .tsv, .jsonl (one object a line) or .parquet."""
    text: str = "text"
    """The column of texts."""
    label: str = "label"
    """The column of labels: names or whole numbers."""
    test: str | None = None
    """A second file with the test part; drawn from the first if left out."""
    encoding: str = "utf-8"
    """How the file's letters are encoded, such as ``latin-1``."""
    delimiter: Literal["auto", ",", ";", "\t", "|"] = "auto"
    """What stands between columns of a .csv; ``auto``: a tab for .tsv, else the commonest of comma, semicolon, tab and |
    in the first line."""

    def load(self) -> Raw:
        """The texts; those that are empty are dropped if they are few.

        Raises:
            DataError: a file or column is missing, the encoding is another, a row is malformed, or many texts are empty.
        """
        texts: list[str] = []
        labels: list[Any] = []
        lengths = []
        for place in (self.path, self.test):
            if place is not None:
                some, their = whole_texts(*self._columns(existing(place)), place)
                texts += some
                labels += their
                lengths.append(len(some))
        numbers, classes = named(labels, self.path)
        test = rows_of(lengths)[1] if len(lengths) > 1 else None
        return Raw("texts", texts, numbers, classes, test=test, name=self.path)

    def _columns(self, path: Path) -> tuple[list[Any], list[Any]]:
        if path.suffix == ".parquet":
            return self._parquet(path)
        content = self._decoded(path)
        if path.suffix in (".jsonl", ".ndjson", ".json"):
            rows = self._json_lines(path, content)
            known = sorted({name for row in rows for name in row})
            for column in (self.text, self.label):
                _check(column, known, path)
            return [row.get(self.text) for row in rows], [row.get(self.label) for row in rows]
        return self._csv(path, content)

    def _decoded(self, path: Path) -> str:
        try:
            encoding = "utf-8-sig" if self.encoding.lower() in ("utf-8", "utf8") else self.encoding
            return path.read_bytes().decode(encoding)
        except LookupError as error:
            raise DataError(
                f"There is no encoding {self.encoding!r}; such are utf-8, latin-1, cp1252, utf-16."
            ) from error
        except UnicodeDecodeError as error:
            other = "latin-1" if self.encoding.lower().startswith("utf") else "utf-8"
            line = error.object[: error.start].count(b"\n") + 1
            raise DataError(
                f"{path} is not encoded in {self.encoding}: line {line} holds bytes that are not allowed there. If its "
                f"letters are of another encoding, write 'encoding: {other}' beside the path."
            ) from error
        except OSError as error:
            raise DataError(f"{path} cannot be read: {error}") from error

    def _csv(self, path: Path, content: str) -> tuple[list[Any], list[Any]]:
        first = content.partition("\n")[0]
        delimiter: str = self.delimiter
        if delimiter == "auto":
            delimiter = "\t" if path.suffix == ".tsv" else max(_DELIMITERS, key=first.count)
        try:
            csv.field_size_limit(_LONGEST)  # the library stops at 131,072 characters
            lines = csv.reader(io.StringIO(content, newline=""), delimiter=delimiter, strict=True)
            header = next(lines, [])
            for column in (self.text, self.label):
                _check(column, header, path)
            text, label = header.index(self.text), header.index(self.label)
            texts, labels = [], []
            for cells in lines:
                if not cells:
                    continue
                if len(cells) != len(header):
                    raise DataError(
                        f"{path}, line {lines.line_num}: {len(cells)} columns where the first line has {len(header)}. Put "
                        f"texts that hold a {delimiter!r} into double quotes, or set 'delimiter'."
                    )
                texts.append(cells[text])
                labels.append(cells[label].strip())
        except csv.Error as error:
            raise DataError(
                f"{path} is no proper CSV file: {error}. JSON lines (.jsonl) are a safer format."
            ) from error
        return texts, labels

    def _json_lines(self, path: Path, content: str) -> list[dict[str, Any]]:
        rows = []
        for number, line in enumerate(content.split("\n"), 1):
            if line.strip():
                try:
                    row = json.loads(line)
                except ValueError as error:
                    raise DataError(f"{path}, line {number} is no JSON: {error}") from error
                except RecursionError:
                    raise DataError(f"{path}, line {number} is nested too deep to be read.") from None
                if not isinstance(row, dict):
                    raise DataError(f"{path}, line {number} is no JSON object with named values.")
                rows.append(row)
        if not rows:
            raise DataError(f"{path} has no rows.")
        return rows

    def _parquet(self, path: Path) -> tuple[list[Any], list[Any]]:
        try:
            from pyarrow import ArrowException, parquet
        except ImportError as error:
            raise DataError(f"Parquet files need pyarrow ({error}): pip install 'limbeck[datasets]'") from error
        try:
            names = parquet.read_schema(path).names
            for column in (self.text, self.label):
                _check(column, names, path)
            table = parquet.read_table(path, columns=[self.text, self.label])
        except (ArrowException, OSError) as error:
            raise DataError(f"{path} cannot be read: {error}") from error
        return table[self.text].to_pylist(), table[self.label].to_pylist()


def _check(column: str, known: Sequence[str], path: Path) -> None:
    if not known:
        raise DataError(f"{path} is empty.")
    if column not in known:
        hint = nearest(column, list(known))
        raise DataError(
            f"{path} has no column {column!r}{'; ' + hint if hint else '.'} Its columns: {', '.join(map(repr, known))}."
        )

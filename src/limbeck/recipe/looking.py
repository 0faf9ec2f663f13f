"""What data on disk is: its source as a recipe names it, how much there is, and how sure that is."""

import csv
import gzip
import io
import json
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Final, Literal

from limbeck.errors import DataError

_IMAGES: Final = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm"}
_TABLES: Final = (".csv", ".tsv", ".jsonl", ".ndjson", ".parquet")
_TRAIN: Final = ("train", "training")
_PARTS: Final = {"validation": ("validation", "val", "valid"), "test": ("test",)}
_OTHERS: Final = (*_PARTS["validation"], *_PARTS["test"], "unlabelled", "unlabeled")
_LOOKED_AT: Final = 60  # images, spread over the folders
_TEXT: Final = ("text", "sentence", "content", "review", "message", "utterance", "question", "tweet", "body", "comment")
_LABEL: Final = ("label", "labels", "class", "category", "target", "sentiment", "intent", "topic", "rating", "y")
_READ: Final = 32_000_000  # bytes of a table that are looked at
_SAMPLE: Final = 2_000  # rows that the columns are judged by
_MOST_CLASSES: Final = 200

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Found:
    """``rows`` of the training part or of the whole, estimated where the file is long. ``side``: of the images looked at,
    the longest in pixels. ``own``: the parts that the data has already and that are not cut from ``rows``.
    """

    source: dict[str, Any]
    kind: Literal["images", "texts"]
    rows: int
    classes: int
    told: str
    side: int | None = None
    own: frozenset[str] = frozenset()


def look(path: Path) -> Found:
    """What is at ``path``.

    Raises:
        DataError: nothing that a recipe could read; says what would be.
    """
    path = path.expanduser()
    if not path.exists():
        raise DataError(f"There is no file or folder {path}.")
    try:
        found = _folder(path) if path.is_dir() else _file(path)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}.") from error
    if found is None:
        raise DataError(
            f"{path} is nothing that can be learnt from: give a folder with one folder of images a class, IDX files as "
            "MNIST has them, or a .csv, .tsv, .jsonl or .parquet file with a column of texts and one of labels."
        )
    return found


def _folder(path: Path) -> Found | None:
    files = sorted(item for item in path.iterdir() if item.is_file() and not item.name.startswith("."))
    tables = [item for item in files if item.suffix in _TABLES]
    first = [item for item in tables if item.stem in _TRAIN] or (tables if len(tables) == 1 else [])
    return _idx(files) or _images(path) or (_file(first[0]) if first else None)


def _images(path: Path) -> Found | None:
    top = next((path / name for name in _TRAIN[:1] if (path / name).is_dir()), path)
    kinds = [item for item in sorted(top.iterdir()) if item.is_dir() and not item.name.startswith(".")]
    counts = {kind.name: [file for file in kind.rglob("*") if file.suffix.lower() in _IMAGES] for kind in kinds}
    held = {name: files for name, files in counts.items() if files}
    classes = [name for name in held if name not in _OTHERS]
    if len(classes) < 2:
        return None
    rows = sum(map(len, held.values()))
    each = [files[:: max(1, len(files) * len(held) // _LOOKED_AT)] for files in held.values()]
    sides = sorted({side for files in each for side in map(_side, files) if side})
    told = f"{rows:,} images in {len(classes)} folders of classes" + _large(sides)
    own = frozenset(
        part for part, names in _PARTS.items() if top != path and any((path / one).is_dir() for one in names)
    )
    largest = sides[-1] if sides else None
    return Found({"name": "image-folder", "path": str(path)}, "images", rows, len(classes), told, largest, own)


def _large(sides: Sequence[int]) -> str:
    if not sides:
        return ""
    return f", {'all ' * (len(sides) == 1)}{sides[0]}{f' to {sides[-1]}' * (len(sides) > 1)} pixels on the longer side"


def _side(file: Path) -> int | None:
    """The longer side of an image in pixels."""
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(file) as image:
            return int(max(image.size))
    except (UnidentifiedImageError, OSError, Image.DecompressionBombError):
        return None


def _idx(files: Sequence[Path]) -> Found | None:
    def named(*words: str) -> Path | None:
        return next((file for file in files if all(word in file.name for word in words)), None)

    test = named("t10k", "images") or named("test", "images")
    test_labels = named("t10k", "labels") or named("test", "labels")
    rest = [file for file in files if "t10k" not in file.name and "test" not in file.name]
    images = next((file for file in rest if "images" in file.name), None)
    labels = next((file for file in rest if "labels" in file.name), None)
    shape = _shape(images) if images else None
    if images is None or labels is None or shape is None or len(shape) < 3:
        return None
    source = {"name": "idx", "images": str(images), "labels": str(labels)}
    if test and test_labels:
        source |= {"test-images": str(test), "test-labels": str(test_labels)}
    told = f"{shape[0]:,} images of {shape[1]} x {shape[2]} pixels in IDX files"
    own = frozenset({"test"} if "test-images" in source else ())
    return Found(source, "images", shape[0], 10, told, max(shape[1:3]), own)


def _shape(file: Path) -> tuple[int, ...] | None:
    """The shape in the head of an IDX file of bytes."""
    with gzip.open(file) if file.suffix == ".gz" else file.open("rb") as stream:
        try:
            head = stream.read(32)
        except (gzip.BadGzipFile, EOFError):
            return None
    if len(head) < 32 or head[:3] != b"\0\0\x08" or not 1 <= head[3] <= 4:
        return None
    return struct.unpack(f">{head[3]}I", head[4 : 4 + 4 * head[3]])


def _file(path: Path) -> Found | None:
    if path.suffix == ".parquet":
        return _parquet(path)
    if path.suffix not in _TABLES:
        return None
    with path.open("rb") as stream:
        content = stream.read(_READ)
    try:
        text, encoding = content[: content.rfind(b"\n") + 1 or None].decode("utf-8-sig"), None
    except UnicodeDecodeError:
        text, encoding = content.decode("latin-1"), "latin-1"
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
        return _table(path, rows, round(count * size / len(content)), extra, "about ")
    return _table(path, rows, count, extra)


def _number(value: Any) -> bool:
    try:
        float(value)
    except ValueError:
        return False
    return True


def _json(line: str) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None


def _parquet(path: Path) -> Found:
    try:
        from pyarrow import ArrowException, parquet
    except ImportError as error:
        raise DataError(f"Parquet files need pyarrow ({error}): pip install 'limbeck[datasets]'") from error
    try:
        with parquet.ParquetFile(path) as file:
            rows = next(file.iter_batches(_SAMPLE)).to_pylist() if file.metadata.num_rows else []
            return _table(path, rows, file.metadata.num_rows, {})
    except ArrowException as error:
        raise DataError(f"{path} cannot be read: {error}") from error


def _table(path: Path, rows: Sequence[Row], count: int, extra: dict[str, Any], about: str = "") -> Found:
    columns = [name for name in (rows[0] if rows else {}) if isinstance(name, str)]
    values = {name: [row.get(name) for row in rows if row.get(name) not in (None, "")] for name in columns}
    kinds = {name: {str(value) for value in given} for name, given in values.items()}
    few = [name for name in columns if 2 <= len(kinds[name]) <= min(_MOST_CLASSES, 1 + len(rows) // 2)]
    label = next((name for word in _LABEL for name in few if name.lower() == word), None)
    texts = {
        name: sum(len(str(one)) for one in given) / len(given)
        for name, given in values.items()
        if given and all(isinstance(one, str) for one in given) and not all(map(_number, given))
    }
    text = next((name for word in _TEXT for name in texts if name.lower() == word and name != label), None)
    text = text or max((name for name in texts if name != label), key=lambda name: texts[name], default=None)
    label = label or min((name for name in few if name != text), key=lambda name: len(kinds[name]), default=None)
    if text is None or label is None:
        found = ", ".join(map(repr, columns)) or "none"
        raise DataError(
            f"{path} has no two columns that look like texts and labels (its columns: {found}). A table needs a first line "
            "with names, a column of texts, and one of at least two labels that occur more than once."
        )
    source: dict[str, Any] = {"name": "table", "path": str(path), "text": text, "label": label, **extra}
    test = path.with_name(f"test{path.suffix}")
    if path.stem in _TRAIN and test.is_file():
        source["test"] = str(test)
    told = f"{about}{count:,} texts of {len(kinds[label])} classes"
    own = frozenset({"test"} if "test" in source else ())
    return Found(source, "texts", max(1, count), len(kinds[label]), told, own=own)

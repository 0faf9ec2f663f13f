"""Columns of the Hugging Face library's data sets, as rows with labels."""

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from limbeck.data.questions import asked
from limbeck.data.raw import Raw, images_of, rows_of, whole_texts
from limbeck.data.task import Task
from limbeck.data.tasks import CLASSES
from limbeck.errors import DataError, nearest
from limbeck.extras import imported


def raw_of(
    parts: Sequence[Any],
    column: str | None,
    labels: Sequence[str],
    name: str,
    size: int | tuple[int, int] | None = None,
    channels: int | None = None,
    pair: str | None = None,
    task: Task = CLASSES,
) -> Raw:
    """Train, validation and test as datasets of the library, the latter two or None, in one.

    ``column``: of images, texts or lists of words; None: the only one that it can be. ``labels``: the columns of labels.
    ``pair``: of second texts. ``size``, ``channels``: see `images_of`. ``name``: for errors.

    Raises:
        DataError: a column is missing, or holds something else.
    """
    features, present = parts[0].features, [part for part in parts if part is not None]
    wanted, suits = ("lists of words", _is_words) if task.reads == "words" else ("images or texts", _is_input)
    fitting = [key for key, kind in features.items() if key not in (*labels, pair) and suits(kind)]
    chosen = column or (fitting[0] if len(fitting) == 1 else None)
    if chosen is None:
        raise DataError(
            f"{name} has {len(fitting)} columns of {wanted}, not one: name it, 'input: "
            f"{' or '.join(fitting) or '...'}'. Its columns: {', '.join(features)}."
        )
    for key in (chosen, *labels, *([] if pair is None else [pair])):
        if any(key not in part.column_names for part in present):
            hint = nearest(key, list(features))
            raise DataError(
                f"{name} has no column {key!r}{'; ' + hint if hint else '.'} Its columns: {', '.join(features)}."
            )
    if not suits(features[chosen]):
        neither = "neither images nor texts" if task.reads == "texts" else f"not {wanted}"
        raise DataError(f"{name}: the column {chosen!r} holds {features[chosen]}, {neither}.")
    if len(labels) > 1 and task == CLASSES:
        raise DataError(
            f"{name}: several columns of labels ({', '.join(labels)}) are for the tasks 'multi-task', 'multi-label' and "
            "'numbers'."
        )
    found = [_labels_in(part, labels, task) for part in present]
    images = _is_image(features[chosen])
    items: Any = []
    if images:
        encoded = [part.cast_column(chosen, library().Image(decode=False)) for part in present]
        items = images_of(_Encoded(encoded, chosen), size, channels)
    elif task.reads == "words":
        items = [tuple(row) for part in present for row in part[chosen]]
    else:
        columns = [chosen] if pair is None else [chosen, pair]
        whole = [whole_texts(_rows(part, columns), theirs, name) for part, theirs in zip(present, found, strict=True)]
        items, found = [text for texts, _ in whole for text in texts], [theirs for _, theirs in whole]
    known = labels if task.gives == "numbers" or len(labels) > 1 else _names_of(features[labels[0]])
    read, names = task.read([one for theirs in found for one in theirs], name, known)
    rows = iter(rows_of([len(theirs) for theirs in found]))
    _, validation, test = (next(rows) if part is not None else None for part in parts)
    return Raw("images" if images else "texts", items, read, names, validation, test, name, task)


def questions_of(parts: Sequence[Any], name: str, task: Task) -> Raw:
    """Train, validation and test of SQuAD's columns (question, context, answers) in one; see `raw_of`.

    Raises:
        DataError: a column is missing, or most answers do not stand at their place.
    """
    found = []
    for place, part in enumerate(parts):
        if part is not None and not {"question", "context", "answers"} <= set(part.column_names):
            raise DataError(
                f"{name}: spans need the columns 'question', 'context' and 'answers' (text and answer_start), and it has "
                f"{', '.join(part.column_names)}."
            )
        rows = []
        for row in part if part is not None else ():
            given = row["answers"] or {"text": [], "answer_start": []}
            first = {"answer": given["text"][0], "start": given["answer_start"][0]} if given["text"] else {"answer": ""}
            rows.append({"question": row["question"], "text": row["context"], **first})
        found.append(asked(rows, name, place > 0))
    labels, names = task.read([span for part in found for _, span in part], name)
    pairs = [pair for part in found for pair, _ in part]
    _, validation, test = rows_of([len(part) for part in found])
    return Raw("texts", pairs, labels, names, validation, test, name, task)


def label_of(features: Mapping[str, Any]) -> str:
    """The only column of classes, or of lists of them; else ``label``."""
    classes = [key for key, kind in features.items() if _names_of(kind)]
    return classes[0] if len(classes) == 1 else "label"


def _rows(part: Any, columns: Sequence[str]) -> list[Any]:
    values = [list(part[column]) for column in columns]
    return values[0] if len(columns) == 1 else list(zip(*values, strict=True))


def _labels_in(part: Any, columns: Sequence[str], task: Task) -> list[Any]:
    """A row's label, or a tuple of several; classes in a list, and those of several tasks, by their names."""
    rows, kind = _rows(part, columns), part.features[columns[0]]
    if len(columns) > 1 and task.named:
        told = [_names_of(part.features[column]) for column in columns]
        return [tuple(_named(one, own) for one, own in zip(row, told, strict=True)) for row in rows]
    names = _names_of(kind)
    if names is None or hasattr(kind, "names") or len(columns) > 1:
        return rows
    return [row if row is None else [names[one] if one >= 0 else one for one in row] for row in rows]


def _named(label: Any, names: Sequence[str] | None) -> Any:
    return names[label] if names is not None and isinstance(label, int) and label >= 0 else label


def _names_of(kind: Any) -> list[str] | None:
    """The names of a column of classes, or of lists of them."""
    names: list[str] | None = getattr(kind, "names", None) or getattr(getattr(kind, "feature", None), "names", None)
    return names


def _is_input(kind: Any) -> bool:
    return _is_image(kind) or _is_text(kind)


def _is_image(kind: Any) -> bool:
    return type(kind).__name__ == "Image"


def _is_text(kind: Any) -> bool:
    return getattr(kind, "dtype", None) in ("string", "large_string")


def _is_words(kind: Any) -> bool:
    return _is_text(getattr(kind, "feature", None))


class _Encoded(Sequence[Any]):
    """The encoded images of several datasets, one after the other, read on demand."""

    def __init__(self, parts: Sequence[Any], column: str) -> None:
        self.parts = parts
        self.column = column

    def __len__(self) -> int:
        return sum(len(part) for part in self.parts)

    def __getitem__(self, row: Any) -> Any:
        for part in self.parts:
            if row < len(part):
                return part[row][self.column]
            row -= len(part)
        raise IndexError(row)


def library() -> Any:
    """The datasets library, imported when it is first needed.

    Raises:
        DataError: it is not installed.
    """
    datasets = imported("datasets", "This needs the library datasets", "datasets", DataError)
    logging.getLogger("datasets").setLevel(logging.ERROR)
    return datasets

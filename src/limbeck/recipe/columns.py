"""Which columns of a table hold what a task asks for."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from limbeck.data.task import Task

_TEXT: Final = ("text", "sentence", "content", "review", "message", "utterance", "question", "tweet", "body", "comment")
_LABEL: Final = ("label", "labels", "class", "category", "target", "sentiment", "intent", "topic", "rating", "y")
_NUMBER: Final = ("label", "rating", "score", "value", "target", "stars", "price", "y")
_NAMES: Final = ("labels", "tags", "topics", "categories", "genres", "classes", "label")
_FIRST: Final = ("question", "query", "anchor", *_TEXT)
_PROMPT: Final = ("prompt", "instruction", "question", "input", "source", "document", "article", "query", "user", "src")
_TOLD: Final = (
    *("completion", "response", "answer", "output", "continuation", "target", "summary", "translation", "highlights"),
    *("assistant", "chosen", "headline", "tgt"),
)
_SEPARATORS: Final = "|;,"
_FLAGS: Final = {"0", "1", "0.0", "1.0", "false", "true"}
_MOST_CLASSES: Final = 200
_SHORT: Final = 12  # characters, in the mean

Row = Mapping[str, Any]
Table = Mapping[str, Sequence[Any]]
Found = tuple[dict[str, Any], int, str]


def columns_for(task: Task, rows: Sequence[Row]) -> Found | None:
    """The settings of the source ``table`` for ``task``, how many outputs that gives, and what they are in words.

    ``rows``: some of the table. None: it has no such columns.
    """
    table = _by_column(rows)
    if task.gives == "vectors":
        return _pairs(table)
    if task.gives == "tokens":
        return _told(table, alone=task.reads == "sequences")
    if task.gives == "numbers":
        return _numbers(table)
    return _classes(table, len(rows)) if task.single else _several(table)


def text_columns(rows: Sequence[Row]) -> tuple[str, ...]:
    """The columns whose cells are texts of several words, and no names that recur."""
    table = _by_column(rows)
    return tuple(
        name
        for name, length in _texts(table).items()
        if length > _SHORT and len(set(table[name])) > len(table[name]) / 2
    )


def _by_column(rows: Sequence[Row]) -> dict[str, list[Any]]:
    """The cells of each column that are not empty; columns without any are left out."""
    names = [name for name in (rows[0] if rows else {}) if isinstance(name, str)]
    return {name: given for name in names if (given := [row[name] for row in rows if _there(row.get(name))])}


def _classes(table: Table, rows: int) -> Found | None:
    kinds = {name: {str(value) for value in given} for name, given in table.items()}
    few = [name for name in table if 2 <= len(kinds[name]) <= min(_MOST_CLASSES, 1 + rows // 2)]
    label = _named(_LABEL, few)
    text = _text(table, label)
    label = label or min((name for name in few if name != text), key=lambda name: len(kinds[name]), default=None)
    if text is None or label is None:
        return None
    return {"text": text, "label": label}, len(kinds[label]), f"of {len(kinds[label])} classes"


def _numbers(table: Table) -> Found | None:
    fitting = [name for name, given in table.items() if all(map(_number, given)) and len(set(map(float, given))) > 1]
    text = _text(table)
    label = _named(_NUMBER, fitting) or next(reversed(fitting), None)  # the first is often a row's own number
    return None if text is None or label is None else ({"text": text, "label": label}, 1, f"with the number {label!r}")


def _several(table: Table) -> Found | None:
    if (text := _text(table)) is None:
        return None
    flags = [name for name, given in table.items() if {str(one).lower() for one in given} <= _FLAGS]
    if len(flags) > 1:
        return {"text": text, "label": flags}, len(flags), f"with any of {len(flags)} labels"
    fitting = dict[str, tuple[str | None, int]]()
    for name, given in table.items():
        mark = max(_SEPARATORS, key=lambda one: sum(one in str(cell) for cell in given))
        listed = all(isinstance(one, list) for one in given)
        parts = [one if listed else str(one).split(mark) for one in given]
        count = len({str(part).strip() for row in parts for part in row} - {""})
        several = any(len(row) > 1 for row in parts)
        if name != text and several and count <= min(_MOST_CLASSES, 1 + len(given) // 2):
            fitting[name] = (None if listed else mark, count)
    label = _named(_NAMES, fitting) or next(iter(fitting), None)
    if label is None:
        return None
    between, count = fitting[label]
    separated = {"labels-separated-by": between} if between else {}
    return {"text": text, "label": label, **separated}, count, f"with any of {count} labels"


def _pairs(table: Table) -> Found | None:
    texts = _texts(table)
    first = _named(_FIRST, texts) or next(iter(texts), None)
    rest = [name for name in texts if name != first]
    return ({"text": first, "pair": rest[0]}, 2, "with another that belongs to it") if rest else None


def _told(table: Table, alone: bool) -> Found | None:
    """A column of texts and one of what follows from each; where no name says so, one of texts ``alone``, or the first two."""
    texts = _texts(table)
    first, second = _named(_PROMPT, texts), _named(_TOLD, texts)
    if first is None and second is not None:
        first = _text({name: given for name, given in table.items() if name != second})
    if first is not None and second is None and not alone:
        second = next((name for name in texts if name != first), None)
    if first is not None and second is not None:
        words = (
            f"in {first!r}, with what is to follow in {second!r}"
            if alone
            else f"in {first!r}, to be turned into {second!r}"
        )
        return {"text": first, "pair": second}, 0, words
    if alone:
        text = _text(table)
        return None if text is None else ({"text": text}, 0, f"in {text!r}")
    both = list(texts)[:2]
    return (
        ({"text": both[0], "pair": both[1]}, 0, f"in {both[0]!r}, to be turned into {both[1]!r}")
        if len(both) == 2
        else None
    )


def _text(table: Table, label: str | None = None) -> str | None:
    texts = {name: length for name, length in _texts(table).items() if name != label}
    return _named(_TEXT, texts) or max(texts, key=lambda name: texts[name], default=None)


def _texts(table: Table) -> dict[str, float]:
    """Columns of texts with their mean length in characters."""
    return {
        name: sum(map(len, given)) / len(given)
        for name, given in table.items()
        if all(isinstance(one, str) for one in given) and not all(map(_number, given))
    }


def _named(words: Sequence[str], names: Iterable[str]) -> str | None:
    """The first of ``names`` that is spelt as one of ``words``, those that come first before the others."""
    known = {name.lower(): name for name in reversed(list(names))}
    return next((known[word] for word in words if word in known), None)


def _there(value: Any) -> bool:
    return value is not None and value != ""


def _number(value: Any) -> bool:
    try:
        float(value)
    except (TypeError, ValueError):
        return False
    return True

"""Labels as sources give them, to tensors: classes, sets of names, numbers, tags, spans."""

import logging
import math
from collections.abc import Iterable, Sequence
from typing import Any, Final

import torch
from torch import Tensor

from limbeck.data.batch import NO_LABEL
from limbeck.data.task import ASKED
from limbeck.errors import DataError, nearest

log = logging.getLogger("limbeck.data")

_JOINED: Final = "|;"  # what stands between names that share a cell
_NONE: Final = {"nan", "null", "n/a", "na", "<na>"}  # spreadsheets' words for nothing, which are taken as they are
_LARGEST: Final = 1e18  # its square is still a number in float32
_SPAN: Final = (2, 4)  # numbers: of characters, or of tokens with the bounds of the text

Names = tuple[str, ...]


def named(
    labels: Sequence[Any], where: str, classes: Sequence[str] | None = None, rows: Sequence[int] | None = None
) -> tuple[Tensor, Names]:
    """Labels as int64 [n] and the names of the classes.

    ``labels``: whole numbers or names; None, NaN, ``""``, -1 and -100 mean none. ``classes``: the names in order, if
    known; else those that occur, sorted. Numbers are indices of ``classes``, where that is given. ``rows``: where the
    labels stand, for errors, if not in rows 0, 1, 2...

    Raises:
        DataError: fractions, a number outside the classes, or an unknown name.
    """
    plain = [_plain(label, where) for label in labels]
    if classes is None and (hidden := sum(label in (-1, NO_LABEL) for label in labels if isinstance(label, int))):
        log.warning("%s: %d rows have the label -1 or %d, which means none", where, hidden, NO_LABEL)
    whole = all(isinstance(label, int) for label in plain if label is not None)
    if not whole:
        plain = [None if label is None else str(label) for label in plain]
    seen = {label for label in plain if label is not None}
    if classes is not None:
        known = {index if whole else name: index for index, name in enumerate(classes)}
        for label in sorted(seen - known.keys(), key=str):
            hint = "" if whole else nearest(str(label), list(classes))
            allowed = f"0 to {len(classes) - 1}" if whole else ", ".join(map(repr, list(classes)[:10]))
            row = plain.index(label) if rows is None else rows[plain.index(label)]
            raise DataError(
                f"{where}: the label {label!r} of row {row} is none of the {len(classes)} classes "
                f"({allowed}){'; ' + hint if hint else '.'} Mend the label or the list of classes."
            )
        names = tuple(classes)
    else:
        ordered = _sorted(seen, where)
        known = {label: index for index, label in enumerate(ordered)}
        names = tuple(str(label) for label in ordered)
        if missing := [name for name in names if name.casefold() in _NONE]:
            log.warning(
                "%s: %r is taken as a class; if it means that there is no label, leave those cells empty",
                where,
                missing[0],
            )
        if alike := _spelt_alike(names):
            log.warning("%s: the classes %s differ in case alone: if they are one, spell them so", where, alike)
        if whole and ordered != list(range(len(ordered))):
            log.warning("%s: the labels are not 0 to %d, so they were numbered in order", where, len(ordered) - 1)
    return torch.tensor([NO_LABEL if label is None else known[label] for label in plain], dtype=torch.int64), names


def single(labels: Sequence[Any], where: str, classes: Sequence[str] | None = None) -> tuple[Tensor, Names]:
    """`named`, where each row has one class.

    Raises:
        DataError: as `named`; or the names are joined from fewer names, so that rows have several.
    """
    found, names = named(labels, where, classes)
    for mark in _JOINED if classes is None else "":
        parts = {part.strip() for name in names for part in name.split(mark)}
        if any(mark in name for name in names) and len(parts) < len(names):
            raise DataError(
                f"{where}: the labels look like several names in one, such as {max(names, key=len)!r}: {len(names)} labels "
                f"are made of {len(parts)} names with {mark!r} between them. If an example has any number of them, write "
                f"'task: multi-label' (and 'labels-separated-by: \"{mark}\"'); if these are classes, name them without it."
            )
    return found, names


def flagged(labels: Sequence[Any], where: str, names: Sequence[str] | None = None) -> tuple[Tensor, Names]:
    """Any number of names a row, as int64 [n, K]: 1, 0, or ``NO_LABEL`` where it is not known; and the K names.

    ``labels``: for each row either the names that hold, or a 0 or 1 (None: not known) for each of ``names``; None for a
    row of which nothing is known.

    Raises:
        DataError: anything else, another number of labels, or an unknown name.
    """
    rows = [None if row is None else tuple(_listed(row, where, place)) for place, row in enumerate(labels)]
    spelt = [row is not None and all(isinstance(one, str) for one in row) for row in rows]
    if names is None:
        said = sorted({one for row, by_name in zip(rows, spelt, strict=True) if by_name for one in row or ()})
        if not said and not any(rows):
            raise DataError(f"{where} has no label at all: not one row names any. Is it the right column?")
        names = said or [str(index) for index in range(max((len(row) for row in rows if row is not None), default=0))]
    known = {name: index for index, name in enumerate(names)}
    found = torch.full((len(rows), len(names)), NO_LABEL, dtype=torch.int64)
    for place, (row, by_name) in enumerate(zip(rows, spelt, strict=True)):
        if row is None:
            continue
        if by_name:
            if strange := [one for one in row if one not in known]:
                raise DataError(
                    f"{where}: the label {strange[0]!r} of row {place} is none of {', '.join(map(repr, names[:10]))}; "
                    f"{nearest(strange[0], list(names)) or 'mend it, or the list of names.'}"
                )
            found[place] = 0
            found[place, [known[one] for one in row]] = 1
            continue
        if len(row) != len(names) or any(one not in (0, 1, None, ASKED, NO_LABEL) for one in row):
            raise DataError(
                f"{where}: the labels of row {place} are {_told(row)}, but names, or a 0 or 1 for each of the "
                f"{len(names)} labels were expected."
            )
        found[place] = torch.tensor([NO_LABEL if one in (None, ASKED) else int(one) for one in row])
    return found, tuple(names)


def measured(labels: Sequence[Any], where: str, names: Sequence[str] | None = None) -> tuple[Tensor, Names]:
    """Numbers, float32 [n, d], NaN in rows without a label; and what the d numbers are called.

    ``labels``: for each row a number, or several; None or ``""``, also for one of several: the row has no label.

    Raises:
        DataError: something is no number, or not finite, or a row has another number of them.
    """
    rows = [None if row is None or row == "" else tuple(_listed(row, where, place)) for place, row in enumerate(labels)]
    count = len(names) if names else max((len(row) for row in rows if row is not None), default=1)
    found, partly = torch.full((len(rows), count), math.nan), 0
    for place, row in enumerate(rows):
        if row is None:
            continue
        if len(row) != count:
            raise DataError(f"{where}: row {place} has {len(row)} numbers, but {count} were expected.")
        numbers = [_number(one, where, place) for one in row]
        if None not in numbers:
            found[place] = torch.tensor(numbers)
        partly += 0 < numbers.count(None) < count
    if partly:
        log.warning("%s: %d rows lack some of their %d numbers and are taken as unlabelled", where, partly, count)
    usual = ["value"] if count == 1 else [str(index) for index in range(count)]
    return found, tuple(names or usual)


def tagged(labels: Sequence[Any], where: str, names: Sequence[str] | None = None) -> tuple[Tensor, Names]:
    """A class for each word, int64 [n, longest], and the names of the classes.

    ``labels``: for each row one a word, as `named` takes them. ``ASKED`` (-1), None or ``""``: it is not known.
    ``NO_LABEL`` (-100), and after the last word: there is nothing to answer.

    Raises:
        DataError: as `named`, or a row has no list of labels.
    """
    rows = [tuple(_listed(row, where, place)) for place, row in enumerate(labels)]
    flat = [(place, tag) for place, row in enumerate(rows) for tag in row if not _hidden(tag)]
    found, classes = named([tag for _, tag in flat], where, names, [place for place, _ in flat])
    if names is None and len(classes) == 1:
        raise DataError(
            f"{where}: every word has the tag {classes[0]!r}: two tags at least are needed to learn a difference."
        )
    result = torch.full((len(rows), max(map(len, rows), default=0)), NO_LABEL, dtype=torch.int64)
    known = iter(found.tolist())
    for place, row in enumerate(rows):
        if row:
            result[place, : len(row)] = torch.tensor(
                [next(known) if not _hidden(tag) else NO_LABEL if tag == NO_LABEL else ASKED for tag in row]
            )
    return result, classes


def spanned(labels: Sequence[Any], where: str) -> Tensor:
    """Spans, int64 [n, 2]: the first character and the one after the last; (0, 0) without an answer, ``ASKED`` if unknown.

    ``labels``: for each row such a pair, or None. Of inputs that are tokens already four numbers: see `tasks.Spans`.

    Raises:
        DataError: a row has another number of numbers.
    """
    rows = [None if row is None else tuple(_listed(row, where, place)) for place, row in enumerate(labels)]
    width = max((len(row) for row in rows if row is not None), default=_SPAN[0])
    for place, row in enumerate(rows):
        if row is not None and (
            len(row) != width or width not in _SPAN or not all(isinstance(one, int) for one in row)
        ):
            raise DataError(
                f"{where}: the label of row {place} is {_told(row)}, but a span was expected: the place of its first "
                "character and the place after its last, or (0, 0) where there is no answer."
            )
    return torch.tensor([(ASKED,) * width if row is None else row for row in rows], dtype=torch.int64).view(-1, width)


def _hidden(tag: Any) -> bool:
    return tag is None or (isinstance(tag, str | int) and tag in ("", ASKED, NO_LABEL))


def _listed(row: Any, where: str, place: int) -> Iterable[Any]:
    """One row's labels; a number alone is a list of one."""
    plain = row.tolist() if hasattr(row, "tolist") else row
    if isinstance(plain, str | int | float) and not isinstance(plain, bool):
        return (plain,)
    if not isinstance(plain, list | tuple | set | frozenset):
        raise DataError(f"{where}: the labels of row {place} are a {type(plain).__name__}, but a list was expected.")
    return plain


def _number(given: Any, where: str, row: int) -> float | None:
    if given is None or given == "":
        return None
    try:
        number = float(given)
    except (TypeError, ValueError):
        number = math.nan
    if not abs(number) <= _LARGEST:
        raise DataError(
            f"{where}: the label {given!r} of row {row} is no number that can be learnt. Write numbers with a decimal "
            f"point and of at most {_LARGEST:g}, and leave the label empty where there is none."
        )
    return number


def _told(row: Sequence[Any]) -> str:
    return repr(list(row[:8]))[:80] + (", ..." if len(row) > 8 else "")


def _plain(label: Any, where: str) -> int | str | None:
    if hasattr(label, "item") and not isinstance(label, str):  # tensors, arrays and their scalars
        if math.prod(getattr(label, "shape", ())) != 1:
            shape = tuple(label.shape)
            raise DataError(
                f"{where}: a label has the shape {shape}; one class a row is needed, as a number or a name."
            )
        label = label.item()
    if isinstance(label, list | tuple | dict | set):
        raise DataError(
            f"{where}: a label is a {type(label).__name__} ({str(label)[:60]}), but one class is needed, as a number or a name. "
            "If an example has any number of them, write 'task: multi-label'."
        )
    if label is None or label in ("", -1, NO_LABEL) or (isinstance(label, float) and math.isnan(label)):
        return None
    if isinstance(label, float):
        if not label.is_integer():
            raise _fractions(label, where)
        return int(label)
    return int(label) if isinstance(label, bool | int) else str(label).strip() or None


def _spelt_alike(names: Names) -> str:
    """The first names that are the same but for their case."""
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(name.casefold(), []).append(repr(name))
    return next((" and ".join(group) for group in groups.values() if len(group) > 1), "")


def _fractions(label: Any, where: str) -> DataError:
    return DataError(
        f"{where}: the label {label} is a fraction, but classes are needed (whole numbers or names). If the numbers "
        "themselves are to be learnt, write 'task: numbers'; else cut them into classes first."
    )


def _sorted(seen: set[int | str], where: str) -> list[int | str]:
    """The labels in order: by number if all are numbers, else as text."""
    try:
        numbers = {label: float(label) for label in seen}
    except ValueError:
        return sorted(seen, key=str)
    for label, number in numbers.items():
        if not number.is_integer():
            raise _fractions(label, where)
    return sorted(seen, key=lambda label: (numbers[label], str(label)))

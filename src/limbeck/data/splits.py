"""Rows into train, validation and test: balanced by class, the same for one seed everywhere, no input on two sides."""

import heapq
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from limbeck.data.batch import NO_LABEL
from limbeck.data.draw import shuffled
from limbeck.data.examples import Examples, Splits
from limbeck.data.labels import log
from limbeck.data.table import Table
from limbeck.data.task import Task
from limbeck.data.tasks import CLASSES
from limbeck.errors import DataError

_TEST, _VALIDATION, _LIMIT, _LABELLED = range(11, 15)  # salts


@dataclass(frozen=True)
class Parts:
    """Row numbers, int64, each part ascending. ``supervised``: bool [N], the rows whose label may be seen."""

    train: Tensor
    validation: Tensor
    test: Tensor
    supervised: Tensor


def balanced(rows: Tensor, labels: Tensor, size: int, seed: int, salt: int) -> Tensor:
    """``size`` of ``rows`` (int64 [n]) with every class in its proportion, off by less than one row; in random order.

    A smaller size gives the beginning of what a larger one gives. ``labels``: int64 [N].
    """
    classes, places = labels[rows].numpy(), shuffled(salt, seed, rows).numpy()
    order = np.lexsort((places, classes))
    _, start, count = np.unique(classes[order], return_index=True, return_counts=True)
    rank, count = np.arange(len(rows)) - np.repeat(start, count), np.repeat(count, count)
    # Row r of a class of c has its turn in [r n / c, (r + 1) n / c); taking the earliest end keeps all those promises.
    begin, end = rank * len(rows) // count, -((rank + 1) * -len(rows) // count)
    coming = np.lexsort((end, begin))[: np.searchsorted(np.sort(begin), size)]
    waiting = list(zip(*(each[coming].tolist() for each in (begin, end, places[order], order)), strict=True))
    ready: list[tuple[int, float, int]] = []
    result, following = [], 0
    for turn in range(size):
        while following < len(waiting) and waiting[following][0] <= turn:
            heapq.heappush(ready, waiting[following][1:])
            following += 1
        result.append(heapq.heappop(ready)[2])
    return rows[torch.tensor(result, dtype=torch.int64)]


def split(
    labels: Tensor,
    classes: Sequence[str],
    keys: Sequence[Hashable],
    *,
    own: Mapping[str, Tensor] | None = None,
    validation: int | float = 0.1,
    test: int | float = 0.2,
    labelled: int | Literal["all"] = "all",
    limit: int | None = None,
    seed: int = 0,
    name: str = "the data",
    task: Task = CLASSES,
) -> Parts:
    """The parts of N rows.

    ``labels``: [N, ...], as the ``task`` has them; rows of which they are unknown are for training. Parts are balanced by
    its strata, and of classes every part needs some. ``keys``: N; rows with equal keys are one input. ``own``: the rows of
    the parts ``validation`` and ``test`` that exist already.

    A test input stands in no other part, a validation input not in train, and neither part has an input twice; what is
    dropped is counted in the log. ``validation``, ``test``: counts, or shares of the labelled inputs that have no part
    yet, for parts that do not exist. ``limit``: how many training rows are used at most. ``labelled``: how many of those
    keep their label. A smaller number of either keeps some of what a larger one keeps. ``name``: for errors.

    Raises:
        DataError: no rows, one class, or too few rows for what is asked.
    """
    own, labels, classes = own or {}, task.strata(labels), classes if task == CLASSES else ()
    codes: dict[Hashable, int] = {}
    inputs = torch.tensor([codes.setdefault(key, len(codes)) for key in keys], dtype=torch.int64)
    known, free = labels != NO_LABEL, torch.ones(len(labels), dtype=torch.bool)
    if classes:
        _contradicting(inputs[known], labels[known], name)
    taken = torch.zeros(len(codes), dtype=torch.bool)  # inputs in validation or test
    parts: dict[str, Tensor] = {}
    for part in ("test", "validation"):
        if part in own:
            parts[part] = _own(own[part], known, inputs, taken, f"{part} part of {name}")
            taken[inputs[parts[part]]] = True
            free[own[part]] = False
    pool = _once((free & known & ~taken[inputs]).nonzero()[:, 0], inputs)
    if not bool(free.any()):
        raise DataError(f"{name} has no rows to train on.")
    if bool((free & known).any()) and not len(pool):
        raise DataError(f"{name}: every labelled row to train on stands in the validation or test part too.")
    drawn = {part: size for part, size in (("test", test), ("validation", validation)) if part not in own}
    sizes = _sizes(drawn, labels[pool], classes, name)
    present = _classes(labels[pool])
    for part, size in sizes.items():
        parts[part] = balanced(pool, labels, size, seed, _TEST if part == "test" else _VALIDATION)
        taken[inputs[parts[part]]] = True
        free[parts[part]] = False
        pool = pool[free[pool]]
    train = (free & ~taken[inputs]).nonzero()[:, 0]
    _tell(int(free.sum()) - len(train), f"training rows of {name}", "in the validation or test part too")
    if limit is not None and limit < len(train):
        train = balanced(train, labels, limit, seed, _LIMIT)
    missing = present[~torch.isin(present, labels[train])]
    if classes and len(missing):
        raise DataError(f"{name}: no training row is left of {_names(missing, classes)}: raise 'limit' or add rows.")
    supervised = known.clone()
    if labelled != "all":
        supervised[train] = False
        supervised[_kept(labels, train, labelled, classes, seed, name)] = True
    return Parts(train.sort()[0], parts["validation"].sort()[0], parts["test"].sort()[0], supervised)


def split_table(
    table: Table,
    labels: Tensor,
    classes: Sequence[str],
    *,
    keys: Sequence[Hashable] | None = None,
    own: Mapping[str, Tensor] | None = None,
    validation: int | float = 0.1,
    test: int | float = 0.2,
    labelled: int | Literal["all"] = "all",
    limit: int | None = None,
    seed: int = 0,
    mixup: float = 0.0,
    name: str = "the data",
    task: Task = CLASSES,
) -> Splits:
    """The three parts of a table that exists already; only train is mixed. For the arguments see `split`.

    ``keys``: None if no two rows are known to be equal.

    Raises:
        DataError: no rows, one class, or too few rows for what is asked.
    """
    parts = split(
        labels,
        classes,
        range(len(labels)) if keys is None else keys,
        own=own,
        validation=validation,
        test=test,
        labelled=labelled,
        limit=limit,
        seed=seed,
        name=name,
        task=task,
    )
    return examples(table, labels, classes, parts, mixup, task)


def examples(
    table: Table, labels: Tensor, classes: Sequence[str], parts: Parts, mixup: float = 0.0, task: Task = CLASSES
) -> Splits:
    """``parts`` of ``table``; only train is mixed."""
    train, validation, test = (
        Examples(table, rows, labels, parts.supervised, tuple(classes), mixed, task)
        for rows, mixed in ((parts.train, mixup), (parts.validation, 0.0), (parts.test, 0.0))
    )
    return Splits(train, validation, test)


def _classes(labels: Tensor) -> Tensor:
    """The classes that occur, ascending."""
    return torch.from_numpy(np.unique(labels.numpy()))


def _once(rows: Tensor, inputs: Tensor) -> Tensor:
    """The first of ``rows`` with each input."""
    _, first = np.unique(inputs[rows].numpy(), return_index=True)
    return rows[torch.from_numpy(np.sort(first))]


def _own(rows: Tensor, known: Tensor, inputs: Tensor, taken: Tensor, where: str) -> Tensor:
    if not bool(known[rows].all()):
        count = f"{int((~known[rows]).sum())} of {len(rows)}"
        raise DataError(f"The {where}: {count} rows have no label, so nothing can be measured on them. Leave them out.")
    once = _once(rows, inputs)
    kept = once[~taken[inputs[once]]]
    _tell(len(rows) - len(kept), f"rows of the {where}", "there twice or in a part that comes first")
    if not len(kept):
        raise DataError(f"The {where} has no rows of its own: it is empty, or the test part holds all of it.")
    return kept


def _tell(lost: int, what: str, where: str) -> None:
    if lost:
        log.warning("%d %s were dropped, as the same input stands %s", lost, what, where)


def _contradicting(inputs: Tensor, labels: Tensor, name: str) -> None:
    """Tells of inputs that have several classes: at most one of them can be learnt."""
    said = np.unique(np.stack([inputs.numpy(), labels.numpy()]), axis=1)[0]
    if several := int((np.unique(said, return_counts=True)[1] > 1).sum()):
        log.warning("%s: %d inputs stand there with different labels, of which one at most is right", name, several)


def _sizes(wanted: Mapping[str, int | float], labels: Tensor, classes: Sequence[str], name: str) -> dict[str, int]:
    """How many rows each part takes of those with ``labels``; checks that there are enough."""
    present = _classes(labels)
    counts = torch.bincount(labels)[present]
    if not len(present) or (classes and len(present) < 2):
        found = f"only the class {_names(present, classes)}" if len(present) else "no label at all"
        needed = "two classes at least are needed to learn a difference" if classes else "some rows need one"
        raise DataError(f"{name} has {found} to train on: {needed}.")
    for part, size in wanted.items():
        if size < 0 or (isinstance(size, float) and not size < 1):
            raise DataError(f"'{part}: {size}' is no size: give a share from 0 to below 1, or a whole number of rows.")
    sizes = {part: round(size * len(labels)) if isinstance(size, float) else size for part, size in wanted.items()}
    if sum(sizes.values()) >= len(labels):
        asked = " and ".join(f"'{part}: {wanted[part]}' ({size} rows)" for part, size in sizes.items())
        raise DataError(
            f"{name}: {asked} would leave nothing to train on, as only {len(labels)} different inputs have a label. Lower "
            "them, or add rows."
        )
    few = present[counts < 1 + sum(size > 0 for size in sizes.values())]
    if classes and len(few):
        raise DataError(
            f"{name}: there are too few different inputs of {_names(few, classes)} to have one to train on and one in "
            f"each of {', '.join(part for part, size in sizes.items() if size)}. Add rows or leave the class out."
        )
    return sizes


def _names(indices: Tensor, classes: Sequence[str]) -> str:
    found = indices.tolist()
    return ", ".join(repr(classes[index]) for index in found[:5]) + (", ..." if len(found) > 5 else "")


def _kept(labels: Tensor, train: Tensor, labelled: int, classes: Sequence[str], seed: int, name: str) -> Tensor:
    """The training rows that keep their label."""
    seen = train[labels[train] != NO_LABEL]
    present = _classes(labels[seen])
    least = len(present) if classes else 1
    if not least <= labelled <= len(seen):
        found = f"are of {least} classes" if classes else "are all there are"
        raise DataError(
            f"{name}: 'labelled: {labelled}' is not possible: the {len(seen)} labelled training rows {found}, so choose "
            f"from {least} to {len(seen)}, or 'all'."
        )
    kept = balanced(seen, labels, labelled, seed, _LABELLED)
    bare = present[~torch.isin(present, labels[kept])]
    if classes and len(bare):
        log.warning("%s: 'labelled: %d' leaves no label of %s", name, labelled, _names(bare, classes))
    return kept

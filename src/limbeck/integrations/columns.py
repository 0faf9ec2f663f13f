"""Which columns of a Trainer's batches are whose."""

import inspect
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, final

from torch import Tensor, nn

from limbeck.data.batch import Batch
from limbeck.data.text import TEACHER
from limbeck.errors import DataError, SignalError
from limbeck.signals.capture import bare

IDS: Final = ("ids", "id")
"""Columns of row numbers."""


@final
class Columns:
    """Makes batches, and knows what must not be dropped as unused.

    Args:
        labels: names of the columns of labels, the first one's in errors.
        supervised: whether something is learnt from labels.
        teacher: the model that teaches, if it is one in memory.
        by_row: whether the teacher answers for row numbers.
    """

    def __init__(self, labels: Sequence[str], supervised: bool, teacher: nn.Module | None, by_row: bool) -> None:
        self._labels, self._supervised = tuple(labels), supervised
        self._rows: int | None = None
        self._by_row = by_row
        self._kept = [*self._labels, *(_arguments(bare(teacher)) if teacher else ())]

    def see(self, row: Any) -> None:
        """Told what a row of the data looks like."""
        if isinstance(row, Mapping):
            self._kept += [name for name in row if name.startswith(TEACHER)]

    def remember(self, rows: int, seen: Any) -> None:
        """Told that a term remembers every one of so many rows, and what one looks like.

        Raises:
            SignalError: rows have no numbers.
        """
        self._by_row, self._rows = True, rows
        if isinstance(seen, Mapping) and not seen.keys() & set(IDS):
            raise _unnumbered()

    @property
    def kept(self) -> tuple[str, ...]:
        """Names that are read by the teacher or the objective, whether or not the student's ``forward`` has them."""
        return (*self._kept, *(IDS if self._by_row else ()))

    def foreign(self, names: Collection[str], students: Collection[str]) -> set[str]:
        """Those of ``names`` that the student must not be given; ``students`` are those that it reads."""
        return {name for name in names if name.startswith(TEACHER) or (name in self.kept and name not in students)}

    def batch(self, inputs: Mapping[str, Any]) -> Batch:
        """The columns that a collator made as a batch.

        Raises:
            DataError: there are no labels, and something is learnt from them.
            SignalError: there are no row numbers, and something is looked up by them; or they are not those of rows.
        """
        columns = {name: value for name, value in inputs.items() if isinstance(value, Tensor) and value.ndim}
        labels, ids = _taken(columns, self._labels), _taken(columns, IDS)
        if labels is None and self._supervised:
            raise DataError(
                f"The objective learns from labels, and no column of a batch is called {self._labels[0]!r}; there are "
                f"{', '.join(map(repr, sorted(inputs)))}. Rename the data set's column, or leave 'labels' out of the objective."
            )
        if not self._by_row:
            ids = None
        elif ids is None:
            raise _unnumbered()
        elif self._rows is not None and (int(ids.min()) < 0 or int(ids.max()) >= self._rows):
            raise SignalError(
                f"The rows' numbers go from {int(ids.min())} to {int(ids.max())} in a batch, and a term remembers one example "
                f"for each of {self._rows} rows: number them from 0, in the order of the data set."
            )
        whole = labels is not None and not labels.is_floating_point()
        return Batch.of(columns, labels.long() if labels is not None and whole else labels, ids)


def _taken(columns: dict[str, Tensor], names: Iterable[str]) -> Tensor | None:
    """The first of these columns that is there; none of them is left."""
    found = [columns.pop(name) for name in names if name in columns]
    return found[0] if found else None


def _arguments(module: nn.Module) -> list[str]:
    """What the model takes by name; of a PEFT model, what the one inside it takes."""
    base = getattr(module, "get_base_model", None)
    return list(inspect.signature((base() if callable(base) else module).forward).parameters)


def each(rows: Any) -> Iterator[Any]:
    """The rows, whether they have numbers or only come one after another."""
    if length(rows) is None or not hasattr(rows, "__getitem__"):
        return iter(rows)
    return (rows[index] for index in range(len(rows)))


def length(rows: Any) -> int | None:
    """How many there are, if that is known."""
    try:
        return len(rows)
    except (TypeError, NotImplementedError):
        return None


def _unnumbered() -> SignalError:
    return SignalError(
        "A column of row numbers, 'ids' or 'id', counted from 0, is needed: a term remembers examples, or the teacher's outputs "
        "are stored by row. The data set has none; add one, such as dataset.add_column('ids', range(len(dataset)))."
    )

"""`union`: rows of several sources, each with the label of its own task, for one student of all."""

from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast

import torch
from pydantic import Field
from torch import Tensor

from limbeck.config import Config
from limbeck.data.across import of_one_size, others
from limbeck.data.batch import NO_LABEL
from limbeck.data.kinds import Plain
from limbeck.data.raw import Raw
from limbeck.data.splits import balanced
from limbeck.data.task import Task
from limbeck.data.tasks import CLASSES
from limbeck.errors import DataError

_TEST, _LIMIT = 18, 19  # salts

if TYPE_CHECKING:
    Sources = dict[str, Plain]
else:
    Sources = Annotated[dict[str, Plain], Field(min_length=2)]


class Union(Config):
    """Several sources in the task ``multi-task``: each is a task by its name, whose label the rows of no other have.

    A teacher teaches about the rows of its own task, and ``everywhere`` about all.
    """

    name: Literal["union"] = "union"
    """The kind of source."""
    sources: Sources
    """The sources by the names of their tasks; all hold texts, or images of one size."""
    everywhere: bool = False
    """Whether each task is asked of the rows of all sources: teachers answer there too, although they never saw such rows."""
    test: Annotated[float, Field(gt=0, lt=1)] = 0.2
    """The share of a source's rows to judge by, where it has no test part of its own."""
    limit: Annotated[int, Field(ge=1)] | None = None
    """How many rows of each are used at most to learn from and to choose by, so that a large source does not outweigh a small
    one; null: all."""
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    """Decides which those are."""

    def load(self, task: Task = CLASSES) -> Raw:
        """All, one after another.

        Raises:
            DataError: they are of other forms, or the task is another.
        """
        if task.name != "multi-task":
            raise DataError(f"'source: union' is for 'task: multi-task', and the task is {task.name!r}.")
        found = {name: self._limited(source.load(CLASSES)) for name, source in self.sources.items()}
        first, *others = found.values()
        if other := next((one for one in others if one.kind != first.kind), None):
            raise DataError(f"{first.name} holds {first.kind} and {other.name} {other.kind}: all must be of one kind.")
        labels: list[dict[str, Any]] = []
        none = {} if self.everywhere else dict.fromkeys(found, NO_LABEL)
        tested, kept, before = list[Tensor](), list[Tensor](), 0
        for name, raw in found.items():
            labels += [none | {name: raw.classes[one] if one >= 0 else None} for one in raw.labels.tolist()]
            tested.append(before + cast(Tensor, raw.test))
            if raw.validation is not None:
                kept.append(before + raw.validation)
            before += len(raw)
        known, classes = task.read(labels, " and ".join(one.name for one in found.values()), tuple(found))
        whole = len(kept) == len(found)
        return Raw(
            first.kind,
            _joined(list(found.values())),
            known,
            classes,
            validation=torch.cat(kept) if whole else None,
            test=torch.cat(tested),
            name=" and ".join(one.name for one in found.values()),
            task=task,
        )

    def _limited(self, raw: Raw) -> Raw:
        """With a test part, and few enough other rows."""
        test = raw.test
        if test is None:
            pool = (raw.labels != NO_LABEL).nonzero()[:, 0]
            test = balanced(pool, raw.labels, round(self.test * len(pool)), self.seed, _TEST)
        kept = torch.cat([test, *([] if raw.validation is None else [raw.validation])])
        rest = others(len(raw), kept)
        if self.limit is not None and self.limit < len(rest):
            rest = balanced(rest, raw.labels, self.limit, self.seed, _LIMIT)
        rows = torch.cat([rest, kept]).sort()[0]
        validation = None if raw.validation is None else torch.searchsorted(rows, raw.validation)
        items: Any = (
            raw.items[rows] if isinstance(raw.items, Tensor) else [cast(Any, raw.items)[row] for row in rows.tolist()]
        )
        test = torch.searchsorted(rows, test)
        return replace(raw, items=items, labels=raw.labels[rows], validation=validation, test=test)


def _joined(several: list[Raw]) -> Any:
    if several[0].kind == "texts":
        return [item for raw in several for item in cast(Any, raw.items)]
    of_one_size(several, "union")
    return torch.cat([cast(Tensor, raw.items) for raw in several])

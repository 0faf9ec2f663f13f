"""`union`: rows of several sources, each with the label of its own task, for one student of all."""

from typing import TYPE_CHECKING, Annotated, Any, Literal, cast

import torch
from pydantic import Field
from torch import Tensor

from limbeck.config import Config
from limbeck.data.across import of_one_size
from limbeck.data.batch import NO_LABEL
from limbeck.data.kinds import Plain
from limbeck.data.raw import Raw
from limbeck.data.splits import balanced
from limbeck.data.task import Task
from limbeck.data.tasks import CLASSES
from limbeck.errors import DataError

_TEST = 18  # salt

if TYPE_CHECKING:
    Sources = dict[str, Plain]
else:
    Sources = Annotated[dict[str, Plain], Field(min_length=2)]


class Union(Config):
    """Several sources in the task ``multi-task``: each is a task by its name, whose label the rows of no other have.

    A teacher of a task can still be asked about all rows.
    """

    name: Literal["union"] = "union"
    """The kind of source."""
    sources: Sources
    """The sources by the names of their tasks; all hold texts, or images of one size."""
    test: Annotated[float, Field(gt=0, lt=1)] = 0.2
    """The share of a source's rows to judge by, where it has no test part of its own."""
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    """Decides which those are."""

    def load(self, task: Task = CLASSES) -> Raw:
        """All, one after another.

        Raises:
            DataError: they are of other forms, or the task is another.
        """
        if task.name != "multi-task":
            raise DataError(f"'source: union' is for 'task: multi-task', and the task is {task.name!r}.")
        found = {name: source.load(CLASSES) for name, source in self.sources.items()}
        first, *others = found.values()
        if other := next((one for one in others if one.kind != first.kind), None):
            raise DataError(f"{first.name} holds {first.kind} and {other.name} {other.kind}: all must be of one kind.")
        labels: list[dict[str, str]] = []
        tested, kept, before = list[Tensor](), list[Tensor](), 0
        for name, raw in found.items():
            labels += [{name: raw.classes[one]} if one >= 0 else {} for one in raw.labels.tolist()]
            tested.append(before + self._tested(raw))
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

    def _tested(self, raw: Raw) -> Tensor:
        if raw.test is not None:
            return raw.test
        pool = (raw.labels != NO_LABEL).nonzero()[:, 0]
        return balanced(pool, raw.labels, round(self.test * len(pool)), self.seed, _TEST)


def _joined(several: list[Raw]) -> Any:
    if several[0].kind == "texts":
        return [item for raw in several for item in cast(Any, raw.items)]
    of_one_size(several, "union")
    return torch.cat([cast(Tensor, raw.items) for raw in several])

"""A run's student, which can be judged and exported from Python."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, Self, cast

import torch
from torch import Tensor

from limbeck.data.batch import NO_LABEL
from limbeck.data.examples import Examples
from limbeck.data.memory import demand_rows, own_classes
from limbeck.data.reader import Reader
from limbeck.data.task import Answered, Task, at_tokens
from limbeck.data.tasks import CLASSES
from limbeck.data.tensors import parted
from limbeck.errors import DataError, LimbeckError
from limbeck.evidence.quality import quality
from limbeck.evidence.records import Quality
from limbeck.evidence.schema import Evidence
from limbeck.export import Exported, Story, export
from limbeck.export.deliver import Format
from limbeck.models.student import Student
from limbeck.run import folder as runs
from limbeck.run.measure import answers_of


@dataclass(frozen=True, repr=False)
class Delivered(Student):
    """A student with the run that it is from; None for one of an export."""

    run: Path | None = field(default=None)

    @classmethod
    def of(cls, student: Student, run: Path | None) -> Self:
        """The same student, which knows its run."""
        return cls(student.module, student.reader, student.classes, student.metadata, student.task, run)

    def export(self, to: Format, folder: Path | str, samples: Sequence[Any] | None = None) -> Exported:
        """Writes it into ``folder`` in another format, proven equal on real inputs; see `limbeck.export.export`.

        Args:
            to: ``safetensors``, ``hf`` or ``onnx``.
            folder: a new one, or one that an earlier export wrote.
            samples: inputs as `predict` takes them; by default some of the run's test part.

        Raises:
            LimbeckError: the format does not suit the model, or the export answers otherwise than the student.
        """
        if samples is None:
            if self.run is None:
                raise LimbeckError(
                    "An export is proven on real inputs, and this student's run is not here: give some as samples=[...]."
                )
            samples = runs.kept(self.run, runs.INPUTS)
        return export(self, to, folder, samples, story=_story(self.run) if self.run else None)

    def evaluate(self, data: Any, metrics: Sequence[str] = ()) -> Quality:
        """Its quality on every labelled row of other data of the same task and names.

        Args:
            data: any map-style data set of (input, label), the inputs as `predict` takes them.
            metrics: further metrics by name, such as ``f1-macro``.

        Raises:
            LimbeckError: the classes are others, no row has a label, or the data cannot be read.
        """
        demand_rows(data, "the data")
        try:
            inputs, found = zip(*(parted(data[row], self.task) for row in range(len(data))), strict=True)
        except DataError as error:
            raise DataError(f"the data: {error}") from error
        if self.task == CLASSES:
            names = own_classes(data)
            found = tuple(self._name(label, names) for label in found)
        labels, _ = self.task.read(found, "the data", self.classes)
        return self.judged(inputs, labels, metrics)

    def judged(
        self, items: Sequence[Any], labels: Tensor, metrics: Sequence[str] = (), where: str = "the data"
    ) -> Quality:
        """Its quality on the rows that have a label. ``labels``: what `Task.read` gave, of these classes.

        Raises:
            LimbeckError: no row has one, or a metric does not exist for this task.
        """
        known = (self.task.strata(labels) != NO_LABEL).nonzero()[:, 0]
        if not len(known):
            raise DataError(f"{where}: no row has a label, so there is nothing to judge by.")
        items, labels = [items[row] for row in known.tolist()], labels[known]
        if at_tokens(self.task):
            labels = self.task.placed(labels, cast(Any, self.reader).places(items))
        every, supervised = torch.arange(len(items)), torch.ones(len(items), dtype=torch.bool)
        rows = Examples(_Rows(self.reader, items), every, labels, supervised, self.classes, task=self.task)
        device = next((str(parameter.device) for parameter in self.module.parameters()), "cpu")
        return judged(answers_of(self.module, rows, "student", device), self.task, self.classes, metrics)

    def _name(self, label: int | str | None, names: Sequence[str] | None) -> int | str | None:
        """The label's name, if the classes have other names than their numbers; a number is else a name, too."""
        if not isinstance(label, int):
            return label
        if names is not None and 0 <= label < len(names):
            return names[label]
        return str(label) if all(name.isdigit() for name in self.classes) else label


def judged(answers: Answered, task: Task, names: Sequence[str], metrics: Sequence[str]) -> Quality:
    """The quality of a model's answers."""
    logits, labels, example = (one.numpy() for one in (answers.logits, answers.labels, answers.example))
    return quality(logits, labels, metrics, names, task=task, example=example)


@dataclass
class _Rows:
    """Raw things as a table without augmentation."""

    reader: Reader
    items: Sequence[Any]
    fingerprint: str = ""
    texts: None = None

    def __len__(self) -> int:
        return len(self.items)

    def read(self, ids: Tensor, views: Tensor) -> dict[str, Tensor]:
        return self.reader.encode([self.items[row] for row in ids.tolist()])

    def altered(self, ids: Tensor, views: Tensor) -> Tensor:
        return torch.zeros(len(ids), dtype=torch.bool)

    def raw(self, row: int) -> Any:
        return self.items[row]

    def show(self, row: int) -> Any:
        return self.items[row]


def _story(run: Path) -> Story:
    """What a run's folder tells of its student."""
    try:
        evidence = Evidence.read(run)
    except LimbeckError:  # not finished
        evidence = None
    recipe: Any = runs.read(run)["recipe"]
    if "limbeck" not in recipe:  # objects in memory
        return Story(evidence)
    data, student = recipe["data"]["source"], recipe["student"]
    return Story(evidence, tuple(_on_hub(data, "datasets")), next(_on_hub(student, "models"), None))


def _on_hub(named: Any, kind: Literal["datasets", "models"]) -> Iterator[str]:
    """Its name on the hub, if it is known to be one: something of that name was fetched from there."""
    path = named.get("path") if isinstance(named, dict) and named.get("name") == "huggingface" else None
    if not path or find_spec("huggingface_hub") is None:
        return
    from huggingface_hub.constants import HF_HUB_CACHE

    if not Path(path).expanduser().exists() and Path(HF_HUB_CACHE, f"{kind}--{path.replace('/', '--')}").is_dir():
        yield path

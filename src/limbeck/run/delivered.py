"""A run's student, which can be judged and exported from Python."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from limbeck.data.batch import NO_LABEL
from limbeck.data.memory import demand_rows, own_classes
from limbeck.data.raw import named
from limbeck.data.tensors import parted
from limbeck.errors import DataError, LimbeckError
from limbeck.evidence.quality import quality
from limbeck.evidence.schema import Quality
from limbeck.export import Exported, export
from limbeck.export.deliver import Format
from limbeck.models.student import Student
from limbeck.run import folder as runs


@dataclass(frozen=True, repr=False)
class Delivered(Student):
    """A student with the run that it is from; None for one of an export."""

    run: Path | None = field(default=None)

    @classmethod
    def of(cls, student: Student, run: Path | None) -> Self:
        """The same student, which knows its run."""
        return cls(student.module, student.reader, student.classes, student.metadata, run)

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
        return export(self, to, folder, samples)

    def evaluate(self, data: Any, metrics: Sequence[str] = ()) -> Quality:
        """Its quality on every labelled row of other data of the same classes.

        Args:
            data: any map-style data set of (input, label), the inputs as `predict` takes them.
            metrics: further metrics by name, such as ``f1-macro``.

        Raises:
            LimbeckError: the classes are others, no row has a label, or the data cannot be read.
        """
        demand_rows(data, "the data")
        try:
            inputs, found = zip(*(parted(data[row]) for row in range(len(data))), strict=True)
        except DataError as error:
            raise DataError(f"the data: {error}") from error
        names = own_classes(data)
        labels, _ = named([self._name(label, names) for label in found], "the data", self.classes)
        rows = (labels != NO_LABEL).nonzero().flatten().tolist()
        if not rows:
            raise DataError("the data: no row has a label, so there is nothing to judge by.")
        return quality(self.logits([inputs[row] for row in rows]), labels[rows].numpy(), metrics, self.classes)

    def _name(self, label: int | str | None, names: Sequence[str] | None) -> int | str | None:
        """The label's name, if the classes have other names than their numbers; a number is else a name, too."""
        if not isinstance(label, int):
            return label
        if names is not None and 0 <= label < len(names):
            return names[label]
        return str(label) if all(name.isdigit() for name in self.classes) else label

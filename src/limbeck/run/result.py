"""What a run gives to whoever called it."""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from limbeck.evidence import summary
from limbeck.evidence.records import Quality, Verdict
from limbeck.evidence.schema import Evidence
from limbeck.evidence.verdict import outcome
from limbeck.export import Exported
from limbeck.export.deliver import Format
from limbeck.run import folder as runs
from limbeck.run.delivered import Delivered


@dataclass(frozen=True)
class Result:
    """What a run gave. ``student`` is the delivered one: of all seeds, the one that was best on validation."""

    folder: Path
    evidence: Evidence
    student: Delivered

    def __repr__(self) -> str:
        """One line: the verdict, and where the rest is."""
        return f"<Result: {outcome(self.evidence)}, {self.folder}>"

    def __str__(self) -> str:
        """Every arm, the verdict, and where the report is."""
        return f"{summary.text(self.evidence)}\n\nReport: {self.report_path}"

    def _repr_html_(self) -> str:
        """The same in a notebook."""
        return f"<pre>{escape(str(self))}</pre>"

    @property
    def verdict(self) -> Verdict:
        """``helped``, ``did not help`` or ``cannot tell``."""
        return self.evidence.verdict

    @property
    def sentence(self) -> str:
        """The verdict in a sentence, with its numbers."""
        return self.evidence.sentence

    @property
    def report_path(self) -> Path:
        """The report, one HTML page."""
        return self.folder / runs.REPORT

    def export(self, to: Format, folder: Path | str, samples: Sequence[Any] | None = None) -> Exported:
        """Writes the student into ``folder`` as ``safetensors``, ``hf`` or ``onnx``; see `Delivered.export`."""
        return self.student.export(to, folder, samples)

    def evaluate(self, data: Any, metrics: Sequence[str] = ()) -> Quality:
        """The student's quality on other data of the same task; see `Delivered.evaluate`."""
        return self.student.evaluate(data, metrics)

"""The types of ``evidence.json``: what was measured, what was concluded, and where every number came from.

Scores are means over test examples of the task's measure: accuracies and other shares as fractions (0.01 is one percentage
point), of numbers R squared. Information is in nats, times are in the unit that the name ends with. ``None`` (JSON ``null``)
always means "could not be said", or that it means nothing for this task, never zero.
"""

import json
from pathlib import Path
from typing import Any, Literal, get_args

from pydantic import Field, NonNegativeInt

from limbeck.data.measure import Measure
from limbeck.evidence.besides import GroupScores, Retention, Samples, TaskScores, Teachers, Traffic
from limbeck.evidence.records import (
    Arm,
    Bootstrap,
    Difference,
    Fidelity,
    GapClosed,
    Keeps,
    Matched,
    McNemar,
    Record,
    Verdict,
)

FORMAT: Literal[1] = 1
# in the order of a reader's interest
ArmName = Literal[
    "teacher",
    "control",
    "final_stage",
    "equal_compute",
    "ceiling",
    "joint",
    "apart",
    "central",
    "pseudo_labels",
    "best_single",
    "soft_targets",
    "off_policy",
    "direct",
    "with_data",
    "fixed_teacher",
    "unkept",
    "distilled",
]
ARMS: tuple[str, ...] = get_args(ArmName)


class Arms(Record):
    """The arms that were run; the matched control differs from ``distilled`` only in having no teacher."""

    teacher: Arm | None = None
    control: Arm | None = None
    final_stage: Arm | None = None
    """The control trained for as many steps as the last training of the distilled student alone, where it has several."""
    equal_compute: Arm | None = None
    """The control trained for as many steps as take the compute of the distilled student's training."""
    ceiling: Arm | None = None
    """The control trained on the labels too that are hidden from every other student."""
    joint: Arm | None = None
    """Trained on all tasks at once, where the others learn them one after another."""
    apart: Arm | None = None
    """A student for each of several tasks, with the same teacher and as many steps each, where the others have one for all."""
    central: Arm | None = None
    """Trained on all labelled rows in one place, where the others leave them with the clients whose they are."""
    pseudo_labels: Arm | None = None
    """Trained on the teacher's hard answers instead of its probabilities."""
    best_single: Arm | None = None
    """Taught by the one of several teachers that is best on validation, alone."""
    soft_targets: Arm | None = None
    """Trained on the teacher's probabilities without the objective's other terms."""
    off_policy: Arm | None = None
    """Trained on given texts alone, where the distilled student writes some itself."""
    direct: Arm | None = None
    """Taught by the first teacher all the time, where the distilled student has others in between."""
    with_data: Arm | None = None
    """Taught on the recipe's training rows, of which the distilled student saw none."""
    fixed_teacher: Arm | None = None
    """Taught by the teacher as it was, where the distilled student's learns to teach."""
    unkept: Arm | None = None
    """Taught task by task as the distilled student is, where nothing keeps it from forgetting."""
    distilled: Arm

    def present(self) -> dict[str, Arm]:
        """The arms that exist, in the order of ``ARMS``."""
        return {name: arm for name in ARMS if (arm := getattr(self, name)) is not None}


class Counts(Record):
    """How much data there was."""

    train: NonNegativeInt | None = None
    """Rows that the student learnt from, with or without label."""
    labelled: NonNegativeInt | None = None
    """Those whose label the student saw."""
    validation: NonNegativeInt | None = None
    test: NonNegativeInt
    classes: NonNegativeInt
    """Outputs of the model that have a name."""
    outputs: str = "classes"
    """What those names are, in the plural; empty where no reader asks for them."""


class Provenance(Record):
    """Where the numbers come from; enough to ask for them again."""

    recipe_hash: str | None = None
    data_fingerprint: str | None = None
    teacher_fingerprint: str | None = None
    versions: dict[str, str] = Field(default_factory=dict)
    seeds: tuple[int, ...] = ()
    device: str | None = None
    threads: int | None = None
    date: str | None = None
    """ISO 8601."""
    command: str | None = None
    counts: dict[str, int] = Field(default_factory=dict)
    """Anything else that was counted: epochs, batch size, stored teacher outputs."""


class Step(Record):
    """What one ingredient added, on top of the one before it."""

    step: str
    source: ArmName
    target: ArmName
    difference: Difference
    item_bootstrap: Bootstrap


class Evidence(Record):
    """The whole of ``evidence.json``."""

    format: Literal[1] = FORMAT
    name: str
    verdict: Verdict
    sentence: str
    """The verdict in one plain sentence, with its numbers."""
    advice: str | None = None
    """What would settle it, where the verdict is "cannot tell"; or that no student has learnt anything yet."""
    smallest_effect: float
    """The smallest gain in score that would matter; a gain surely below it counts as "did not help"."""
    arms: Arms
    difference: Difference | None = None
    """Distilled minus control; null without a control."""
    item_bootstrap: Bootstrap | None = None
    at_equal_compute: Matched | None = None
    """The same against a control at equal compute; null without one."""
    mcnemar: tuple[McNemar, ...] = ()
    gap_closed: GapClosed | None = None
    """(distilled - control) / (teacher - control)."""
    gap_recovered: GapClosed | None = None
    """(distilled - teacher) / (ceiling - teacher), of a student that is to outdo its teacher: the performance gap recovered
    (Burns et al. 2023, arXiv:2312.09390). Null without a ceiling."""
    keeps: Keeps | None = None
    fidelity: dict[str, Fidelity] = Field(default_factory=dict)
    """By arm: ``distilled``, and ``control`` for comparison."""
    teachers: Teachers | None = None
    """Where there are several, each of them."""
    samples: Samples | None = None
    """Of language models, what they write."""
    retention: Retention | None = None
    """Where tasks come one after another, how much of the earlier ones is kept."""
    tasks: tuple[TaskScores, ...] = ()
    """Where several tasks have a head each, every one of them."""
    groups: tuple[GroupScores, ...] = ()
    """Where the data names a domain for each row, every one that the test part has; nothing if it has one."""
    traffic: Traffic | None = None
    """Where rows stay with clients, what crossed between them and the server."""
    attribution: tuple[Step, ...] = ()
    data: Counts
    notes: tuple[str, ...] = ()
    provenance: Provenance = Provenance()

    @property
    def measure(self) -> Measure:
        """What scores are called, and how they are written."""
        return self.arms.distilled.mean.measure

    @property
    def without_data(self) -> bool:
        """Whether the student saw no training example, so that its control, which has them all, tells what data is worth."""
        return self.arms.with_data is not None

    def plain(self) -> dict[str, Any]:
        """JSON types, as written to ``evidence.json``."""
        return self.model_dump(mode="json")

    @classmethod
    def read(cls, path: Path) -> "Evidence":
        """Reads an ``evidence.json``, or the one in a run folder.

        Raises:
            LimbeckError: it is not there or not evidence.
        """
        from pydantic import ValidationError

        from limbeck.errors import LimbeckError

        file = path / "evidence.json" if path.is_dir() else path
        try:
            return cls.model_validate_json(file.read_bytes())
        except OSError as error:
            raise LimbeckError(f"No evidence at {file}: {error.strerror}. A finished run has one.") from None
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"])) or "the file"
            raise LimbeckError(
                f"{file} is not evidence of format {FORMAT}: {where}: {first['msg']}. "
                "It may be damaged, or written by another version of limbeck."
            ) from None


def json_schema() -> dict[str, Any]:
    """The JSON schema (2020-12) of ``evidence.json``."""
    schema = Evidence.model_json_schema(mode="serialization")
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


def schema_text() -> str:
    """What ``evidence.schema.json`` beside this file must hold."""
    return json.dumps(json_schema(), indent=2, sort_keys=True, ensure_ascii=False) + "\n"

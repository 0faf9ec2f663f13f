"""The records that ``evidence.json`` is made of: what one arm is, and how two are compared.

Units and the meaning of ``None`` are those of `limbeck.evidence.schema`.
"""

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, model_validator

from limbeck.data.measure import ACCURACY, Measure

Verdict = Literal["helped", "did not help", "cannot tell"]
Range = tuple[float, float]


class Record(BaseModel):
    """Frozen, closed and finite: NaN and infinity are no evidence."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        allow_inf_nan=False,
        use_attribute_docstrings=True,
        protected_namespaces=(),
        json_schema_serialization_defaults_required=True,
    )


class Bin(Record):
    """One bar of a reliability diagram; bins partition (0, 1] into equal widths."""

    low: float
    high: float
    count: NonNegativeInt
    confidence: float | None
    """Mean top-1 probability of the examples in the bin; null when it is empty."""
    accuracy: float | None


class Quality(Record):
    """How good one set of predictions is. Choices are judged one by one, but for ``score`` and ``metrics``."""

    examples: NonNegativeInt
    measure: Measure = ACCURACY
    """What ``score`` is called, and whether it is a share."""
    score: float
    """Mean over examples of the task's score; 1 is perfect."""
    answers: NonNegativeInt | None = None
    """Answers with a known truth, where an example may have several; null in older files."""
    accuracy: float | None
    """Share of the answers that are right; null for numbers and vectors, as all below but ``mse`` and ``metrics``."""
    nll: float | None
    """Mean negative log-likelihood of the true choice, nats."""
    ece: float | None
    """Expected calibration error over 15 equal-width bins of confidence, in [0, 1]."""
    brier: float | None
    """Mean squared distance between the probabilities and the one-hot truth, in [0, 2]."""
    mse: float | None = None
    """Of numbers, the mean squared error."""
    metrics: dict[str, float | None] = Field(default_factory=dict)
    """The metrics asked for by name; null where undefined on these labels."""
    per_class: dict[str, float | None] = Field(default_factory=dict)
    """Accuracy by name: on the answers of each true class, or on each of an example's answers; null without any."""
    reliability: tuple[Bin, ...] = ()

    @model_validator(mode="before")
    @classmethod
    def _written_before(cls, found: Any) -> Any:
        """Files of older versions know the accuracy alone."""
        if isinstance(found, Mapping) and "score" not in found and "accuracy" in found:
            return {**found, "score": found["accuracy"]}
        return found


class Latency(Record):
    """Wall-clock time of one forward pass over one example."""

    p50_ms: float
    p95_ms: float
    timed: int
    """Forward passes that were timed, after the warm-up."""
    warmup: int


class Efficiency(Record):
    """What a model costs."""

    parameters: NonNegativeInt
    """Numbers in the model's parameters, each tied tensor counted once."""
    bytes_on_disk: NonNegativeInt
    """Size of the state dict as a safetensors file."""
    latency: Latency | None = None
    throughput: float | None = None
    """Examples per second at ``throughput_batch``."""
    throughput_batch: int | None = None
    device: str = "cpu"
    threads: int | None = None


class Training(Record):
    """One training of an arm."""

    name: str
    steps: int
    seconds: float
    making: float = 0.0
    """Seconds in which what it learnt from was made before it began, such as pictures or a teacher's texts."""


class Arm(Record):
    """One way of getting a student (or the teacher itself), trained once a seed, judged on the same test examples."""

    seeds: tuple[int, ...]
    """Seeds in the order of ``per_seed``; empty for the teacher, which is one fixed model."""
    per_seed: tuple[Quality, ...]
    mean: Quality
    """Mean over seeds of every number; reliability bins are pooled over seeds."""
    sd: dict[str, float | None]
    """Sample standard deviation over seeds of score, accuracy, nll, ece, brier, mse and named metrics; null with one seed."""
    efficiency: Efficiency | None = None
    training_seconds: tuple[float, ...] | None = None
    """Wall-clock time of training, and of making what is learnt from (see `Training.making`), a number a seed."""
    steps: tuple[int, ...] | None = None
    """Optimiser steps taken, a number a seed."""
    trainings: tuple[Training, ...] = ()
    """All trainings of the first seed, in their order; the delivered one is the last. Empty in older files."""
    flops: float | None = None
    """Floating-point operations of one seed's training, counted on its first steps: the student's and the teacher's passes, and
    not the teacher's own training. Null where they were not counted, and in older files."""

    @property
    def spread(self) -> float | None:
        """The standard deviation over seeds of the score."""
        return self.sd.get("score", self.sd.get("accuracy"))


class Difference(Record):
    """A mean of paired per-seed differences in score, and Student's 95 % interval for it."""

    mean: float
    ci95: Range | None
    """Student's t interval over seeds; null with one seed."""
    sd: float | None
    """Sample standard deviation of the per-seed differences; null with one seed."""
    seeds: int
    """How many seeds were paired."""
    per_seed: tuple[float, ...]
    note: str | None = None


class Bootstrap(Record):
    """A 95 % percentile interval from resampling test examples, all arms and seeds together."""

    mean: float
    ci95: Range
    """Where few examples tell the two apart, each end at least as far out as an exact bound, if scores are bounded."""
    resamples: int
    examples: int
    seed: int
    telling: NonNegativeInt | None = None
    """Examples that tell the two apart: on the mean of its seeds, one scores higher than the other."""


class McNemar(Record):
    """Two-sided test on examples that one arm has right and the other wrong, for one seed."""

    seed: int
    only_distilled_right: int
    only_control_right: int
    p: float
    exact: bool
    """Binomial below 25 discordant examples, else chi-squared with continuity correction."""


class Matched(Record):
    """Distilled minus the control that was given as much compute, by the rule of the verdict."""

    verdict: Verdict
    sentence: str
    difference: Difference
    item_bootstrap: Bootstrap


class GapClosed(Record):
    """The share of the way from one arm to a better one that the distilled student has come."""

    value: float | None
    """Null where the one is not measurably better than the other."""
    ci95: Range | None
    """Percentile interval from resampling seeds and test examples together; with one seed, test examples alone."""
    reason: str | None = None


class Keeps(Record):
    """How much of the teacher's score the student keeps."""

    ratio: float | None
    """Student's score over the teacher's; null if the teacher's is not above zero."""
    difference: float
    """Student minus teacher."""
    ci95: Range
    """The wider end, on each side, of the interval over seeds and the interval over test examples."""
    margin: float
    non_inferior: bool
    """Whether the lower end of ``ci95`` is above ``-margin``."""
    basis: Literal["seeds and test examples", "test examples"]


class Relations(Record):
    """Class-relation preservation: does the student find the same classes alike that the teacher does?"""

    pearson: float | None
    spearman: float | None
    reason: str | None = None
    """Why there is no score."""
    teacher: tuple[tuple[float, ...], ...] | None = None
    """[C, C] cosines of log-centred mean predictions; left out above 50 classes."""
    student: tuple[tuple[float, ...], ...] | None = None


class Fidelity(Record):
    """How much a student behaves like the teacher, which is not the same as being good. Means over seeds."""

    agreement: float | None
    """Share of answers with the same top-1 choice; null for numbers and vectors, as the four below."""
    agreement_where_teacher_wrong: float | None
    """The same, among answers that the teacher has wrong: inherited errors. Null if it has none wrong."""
    teacher_wrong: NonNegativeInt | None
    kl: float | None
    """Mean KL(teacher || student) at temperature 1, nats."""
    js: float | None
    """Mean Jensen-Shannon divergence, nats, in [0, ln 2]."""
    squared_difference: float | None = None
    """Of numbers, the mean square of student minus teacher."""
    correlation: float | None = None
    """Of numbers, Pearson's, of all outputs' mean; of vectors, of the cosines between first and second texts, of at most 1,000
    examples. Null where one of the two is constant."""
    relations: Relations | None
    """Null where what is chosen from has no names."""
    disagreements: tuple[int, ...] = ()
    """Test positions (0-based) where the first seed's student is farthest from the teacher, worst first."""

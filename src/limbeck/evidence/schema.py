"""The types of ``evidence.json``: what was measured, what was concluded, and where every number came from.

Scores are means over test examples of the task's measure: accuracies and other shares as fractions (0.01 is one percentage
point), of numbers R squared. Information is in nats, times are in the unit that the name ends with. ``None`` (JSON ``null``)
always means "could not be said", or that it means nothing for this task, never zero.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, model_validator

from limbeck.data.measure import ACCURACY, Measure

FORMAT: Literal[1] = 1
# in the order of a reader's interest
ArmName = Literal[
    "teacher",
    "control",
    "final_stage",
    "equal_compute",
    "ceiling",
    "joint",
    "central",
    "apart",
    "pseudo_labels",
    "best_single",
    "soft_targets",
    "off_policy",
    "direct",
    "with_data",
    "fixed_teacher",
    "distilled",
]
ARMS: tuple[str, ...] = get_args(ArmName)
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
    """Wall-clock time of training, a number a seed."""
    steps: tuple[int, ...] | None = None
    """Optimiser steps taken, a number a seed."""
    flops: float | None = None
    """Floating-point operations of one seed's training, counted on its first steps: the student's and the teacher's passes, and
    not the teacher's own training. Null where they were not counted, and in older files."""

    @property
    def spread(self) -> float | None:
        """The standard deviation over seeds of the score."""
        return self.sd.get("score", self.sd.get("accuracy"))


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
    central: Arm | None = None
    """Trained on all labelled rows in one place, where the others leave them with the clients whose they are."""
    apart: Arm | None = None
    """A student for each of several tasks, with the same teacher and as many steps each, where the others have one for all."""
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
    distilled: Arm

    def present(self) -> dict[str, Arm]:
        """The arms that exist, in the order of ``ARMS``."""
        return {name: arm for name in ARMS if (arm := getattr(self, name)) is not None}


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


class Step(Record):
    """What one ingredient added, on top of the one before it."""

    step: str
    source: ArmName
    target: ArmName
    difference: Difference
    item_bootstrap: Bootstrap


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


class Member(Record):
    """One of several teachers, on the test part."""

    name: str
    score: float
    """Its own."""
    weight: float | None
    """What it counts in the teachers' mean, on average over rows; a share."""
    routed: float | None = None
    """What a routing term made of it for the training examples since the last look, on average over seeds; a share."""
    agreement: float | None
    """Share of answers of the distilled students that are its own; mean over seeds. Null for numbers."""


class Pair(Record):
    """Two of several teachers, on the test part."""

    one: str
    other: str
    differing: float | None
    """Share of answers on which their choices differ; null for numbers."""
    js: float | None
    """Mean Jensen-Shannon divergence, nats, in [0, ln 2]; null for numbers and tokens."""


class Teachers(Record):
    """Several teachers of one student: what each contributed, and how much they disagree."""

    members: tuple[Member, ...]
    pairs: tuple[Pair, ...]
    """Each two of them."""


class Written(Record):
    """What one writer wrote after the prompts, or what stands there in the data. Higher is not better: compare with those."""

    texts: NonNegativeInt
    distinct_1: float | None
    """Different tokens as a share of all tokens of all texts together."""
    distinct_2: float | None
    """The same of pairs of neighbouring tokens."""
    repetition: float | None
    """Mean over texts of the share of 4-grams that stood in the text before."""
    looping: float | None
    """Share of texts that say one thing three times in a row."""
    mean_length: float | None
    """Tokens before the end."""
    ended: float | None
    """Share of texts that ended within the longest length."""
    exact_match: float | None
    """Share of texts that are the continuation in the data, but for white space; null where there is no such one."""


class Writing(Record):
    """What one arm's first seed wrote."""

    likeliest: Written
    """By the likeliest token at every step."""
    drawn: Written
    """By one draw from the whole distribution."""


class Samples(Record):
    """What language models write after prompts of the test part, each up to its end or ``new_tokens``."""

    prompts: NonNegativeInt
    new_tokens: NonNegativeInt
    temperature: float
    """Of the drawing."""
    seed: int
    reference: Written
    """What stands there in the data, cut at the same length."""
    arms: dict[str, Writing]
    left_out: dict[str, str] = Field(default_factory=dict)
    """Whoever wrote nothing, and why."""


class Retained(Record):
    """How one arm did on the tasks that it learnt one after another; means over seeds."""

    matrix: tuple[tuple[float, ...], ...]
    """The score on each task (column) after each training (row); columns right of the diagonal were not learnt yet."""
    forgetting: float | None
    """Mean over all tasks but the last of the best score so far less the last one (Chaudhry et al. 2018, arXiv:1801.10112); null
    with one task."""
    transfer: float | None
    """Mean over the same tasks of the last score less that when the task had just been learnt: backward transfer (Lopez-Paz &
    Ranzato 2017, arXiv:1706.08840)."""
    per_seed: tuple[float, ...]
    """The forgetting of each seed; empty with one task."""


class Retention(Record):
    """What students that learn tasks one after another keep of the earlier ones."""

    tasks: tuple[str, ...]
    """The classes of each task, in the order in which they came."""
    arms: dict[str, Retained]


class Crossing(Record):
    """One round between clients and their server."""

    asked: NonNegativeInt
    """Clients that were sent something."""
    answered: NonNegativeInt
    """Those that answered in time."""
    down: NonNegativeInt
    """Bytes from the server to its clients."""
    up: NonNegativeInt
    """Bytes from clients to the server."""


class Traffic(Record):
    """What crossed between clients and their server: letters of weights or logits and counts, and nothing else."""

    rows: tuple[NonNegativeInt, ...]
    """How many rows each client has."""
    commonest: float | None
    """The share of its rows that a client's commonest class has, mean over clients; null where there are no classes."""
    public: NonNegativeInt
    """Rows without a label, which everybody has."""
    arms: dict[str, tuple[Crossing, ...]]
    """Round by round, of the first seed."""


class Gain(Record):
    """Distilled minus another arm, on one task, by the rule of the verdict."""

    verdict: Verdict
    difference: Difference
    item_bootstrap: Bootstrap


class TaskScores(Record):
    """One of several tasks of a student that has a head for each."""

    name: str
    classes: NonNegativeInt
    examples: NonNegativeInt
    """Test examples with a label of it."""
    floor: float
    """The share of its commonest class."""
    scores: dict[str, float]
    """By arm the share of right answers, mean over seeds; the teacher's where it knows the task."""
    sd: dict[str, float | None]
    """Its sample standard deviation over seeds; null with one seed."""
    gains: dict[str, Gain]
    """By arm, how much better the distilled student is than ``control``, and than students ``apart``."""


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
    traffic: Traffic | None = None
    """Where rows stay with clients, what crossed between them and the server."""
    tasks: tuple[TaskScores, ...] = ()
    """Where several tasks have a head each, every one of them."""
    attribution: tuple[Step, ...] = ()
    data: Counts
    notes: tuple[str, ...] = ()
    provenance: Provenance = Provenance()

    @property
    def measure(self) -> Measure:
        """What scores are called, and how they are written."""
        return self.arms.distilled.mean.measure

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

"""What ``evidence.json`` holds of some runs alone: several teachers, written texts, tasks, clients."""

from typing import Literal

from pydantic import Field, NonNegativeInt

from limbeck.evidence.records import Bootstrap, Difference, Record, Verdict

Form = Literal["text", "folded", "squad"]
"""In which form what is written is compared with its reference, see `limbeck.evidence.samples.FORMS`."""


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
    """Share of texts that are the continuation in the data, both as ``compared`` says; null where there is no such one."""
    rouge_l: float | None = None
    """Mean likeness to the continuation in the data, in tokens (ROUGE-L, F1); null where there is no such one."""
    teacher_nll: float | None = None
    """The teacher's NLL of these texts, nats a token, ends included; null where it is no model here or reads other tokens."""
    teacher_kl: float | None = None
    """KL from who wrote them to the teacher at their tokens, nats a token; null as above, and of the data."""
    watched: dict[str, float] = Field(default_factory=dict)
    """By name the share of texts in which that was found which was looked for."""


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
    compared: Form = "text"
    """What is left out where a text is compared with its reference. ``text``: white space. ``folded``: case, width and stops at
    the end too. ``squad``: case, ASCII punctuation, English articles and white space."""
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


class GroupScores(Record):
    """One group of test examples, by what the data names as their ``domain``."""

    name: str
    examples: NonNegativeInt
    scores: dict[str, float]
    """By arm, mean over seeds."""
    sd: dict[str, float | None]
    """Its sample standard deviation over seeds; null with one seed."""
    gains: dict[str, Gain]
    """By arm, how much better the distilled student is than ``control``, and than the ``teacher``."""


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

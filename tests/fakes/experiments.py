"""Tiny trainings that take a fraction of a second, and what tests need to watch, stop and compare them."""

import os
import signal
import sys
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace

import torch
from torch import Tensor, nn

from limbeck.data.examples import Examples, Splits
from limbeck.data.language import NextToken
from limbeck.errors import Interrupted
from limbeck.models.given import Given
from limbeck.models.identity import of_module
from limbeck.models.spec import BuildContext
from limbeck.objective import Contrastive, Dist, Diverging, Hints, Labels, RkdDistance, SoftTargets
from limbeck.regimes.plan import Plan
from limbeck.teachers.local import LocalTeacher
from limbeck.training.loop import Outcome, train
from limbeck.training.settings import AdamW, Sgd, Training
from limbeck.training.stage import Stage, Start
from limbeck.training.workshop import Workshop

CLASSES, WIDTH = 3, 12


class Clouds:
    """One Gaussian cloud a class; a view above 0 adds noise that (id, view) determines."""

    reader = SimpleNamespace(fingerprint="clouds")
    texts = None

    def __init__(self, rows: int, seed: int = 0):
        generator = torch.Generator().manual_seed(seed)
        centres = 1.5 * torch.randn(CLASSES, WIDTH, generator=generator)
        self.labels = torch.arange(rows) % CLASSES
        self.x = centres[self.labels] + torch.randn(rows, WIDTH, generator=generator)
        self.fingerprint = f"clouds {rows} {seed}"

    def __len__(self):
        return len(self.x)

    def read(self, ids: Tensor, views: Tensor) -> dict[str, Tensor]:
        phase = (ids * 31 + views * 17)[:, None] + torch.arange(WIDTH)
        return {"x": self.x[ids] + 0.3 * (views > 0)[:, None] * torch.sin(phase.double() * 1.7).float()}

    def raw(self, row: int):
        return self.x[row]

    def show(self, row: int):
        return str(row)


def examples(rows: int = 60, first: int = 0, last: int | None = None, labelled: int | None = None) -> Examples:
    """Rows ``first`` to ``last`` of a table of ``rows``, of which the first ``labelled`` are supervised."""
    table = Clouds(rows)
    supervised = torch.arange(rows) < (rows if labelled is None else labelled)
    return Examples(table, torch.arange(first, last or rows), table.labels, supervised, ("a", "b", "c"))


def splits(labelled: int | None = None) -> Splits:
    """50 rows to train on, 20 to choose by, 30 to judge by."""
    whole = examples(100)
    known = torch.ones(100, dtype=torch.bool)
    if labelled is not None:
        known[labelled:50] = False
    parts = (torch.arange(50), torch.arange(50, 70), torch.arange(70, 100))
    return Splits(*(replace(whole, rows=rows, supervised=known) for rows in parts))


class Net(nn.Module):
    """A perceptron with all that makes a resume hard: BatchNorm's buffers and dropout's draws."""

    def __init__(self, width: int = 16, norm: bool = True, drop: float = 0.3, classes: int = CLASSES):
        super().__init__()
        self.body = nn.Linear(WIDTH, width)
        self.norm = nn.BatchNorm1d(width) if norm else nn.Identity()
        self.drop = nn.Dropout(drop)
        self.head = nn.Linear(width, classes)

    def forward(self, x):
        return self.head(self.drop(torch.relu(self.norm(self.body(x)))))


class Convolutions(nn.Module):
    """The same for a convolution over the features as a 3 x 4 image."""

    def __init__(self):
        super().__init__()
        self.body = nn.Conv2d(1, 6, 3, padding=1)
        self.norm = nn.BatchNorm2d(6)
        self.drop = nn.Dropout2d(0.2)
        self.head = nn.Linear(6, CLASSES)

    def forward(self, x):
        return self.head(self.drop(torch.relu(self.norm(self.body(x.view(-1, 1, 3, 4))))).mean((2, 3)))


class Residual(nn.Module):
    """One layer with its way around."""

    def __init__(self, width: int):
        super().__init__()
        self.inner = nn.Linear(width, width)

    def forward(self, x):
        return x + torch.tanh(self.inner(x))


class Layered(nn.Module):
    """A list of equal layers, as transformers have one."""

    def __init__(self, layers: int = 4, width: int = 16, drop: float = 0.1):
        super().__init__()
        self.body = nn.Linear(WIDTH, width)
        self.layers = nn.ModuleList(Residual(width) for _ in range(layers))
        self.drop = nn.Dropout(drop)
        self.head = nn.Linear(width, CLASSES)

    def forward(self, x):
        hidden = self.drop(self.body(x))
        for layer in self.layers:
            hidden = layer(hidden)
        return self.head(hidden)


def smooth() -> Net:
    """Without dropout and BatchNorm: rows do not see each other, and nothing is drawn."""
    return Net(norm=False, drop=0.0)


class Knows(nn.Module):
    """Answers by the nearest cloud's centre; ``order`` permutes the answers."""

    def __init__(self, rows: int = 90, order: tuple[int, ...] = (0, 1, 2)):
        super().__init__()
        table, self.order = Clouds(rows), list(order)
        self.centres = nn.Parameter(torch.stack([table.x[table.labels == one].mean(0) for one in range(CLASSES)]))

    def forward(self, x):
        return -torch.cdist(x, self.centres)[:, self.order]


def seeded_teacher(make, seed: int = 5) -> LocalTeacher:
    """What ``make`` makes, as a teacher."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        module = make()
    return LocalTeacher(module.requires_grad_(False), of_module(module))


def teacher(width: int = 32, seed: int = 5) -> LocalTeacher:
    """A wider network that sees the clouds apart a little: untrained, as only its constancy matters."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        module = Net(width)
    module.norm.running_mean += 0.1  # buffers that a forward pass in training mode would move
    return LocalTeacher(module.requires_grad_(False), of_module(module))


LABELS, SOFT = Labels(weight=0.3), SoftTargets(weight=0.7, temperature=2.0)
HINTS = Hints(student="body", teacher="body", weight=0.2)
SGD = Sgd(name="sgd", learning_rate=0.1)
TRAINING = Training(steps=12, batch_size=16, evaluate_every=4, optimizer=AdamW(learning_rate=0.01))


def start(make=Net, seed: int = 0) -> Start:
    sample = {"x": torch.zeros(4, WIDTH)}
    return Start(Given(make), seed, BuildContext(CLASSES, sample, ("a", "b", "c")))


def stage(make=Net, seed: int = 0, **changes) -> Stage:
    """A training of 12 steps with labels, soft targets and a projected hint."""
    training = TRAINING.model_copy(update={name: changes.pop(name) for name in list(changes) if name in FIELDS})
    parts = splits()
    return replace(
        Stage(
            "tiny", start(make, seed), (LABELS, SOFT, HINTS), parts.train, parts.validation, training, None, None, seed
        ),
        **{"teacher": teacher(), **changes},
    )


FIELDS = frozenset(Training.model_fields)


def plan(labelled: int | None = None, store: Path | None = None, **changes) -> Plan:
    """A plan of the same training for a regime."""
    given = {
        "splits": splits(labelled),
        "student": Given(Net),
        "terms": (LABELS, SOFT),
        "training": TRAINING,
        "teacher": teacher(),
        "teacher_stages": (),
        "views": 2,
        "seed": 0,
        "context": start().context,
        "store": store,
    }
    return Plan(**{**given, **changes})


class Crash(Exception):
    """What a test raises in the middle of a training, in place of a power cut."""


@dataclass
class Watching:
    """Told the four moments: notes them, and acts after a step.

    ``after``: the number of steps after which ``act`` is called.
    """

    curve: object = None
    after: int | None = None
    act: object = None
    log: list = field(default_factory=list)
    losses: list = field(default_factory=list)
    places: list = field(default_factory=list)

    def __call__(self, stage, curve):
        self.curve = curve
        return (self,)

    def at(self, place):
        self.log.append("at")
        self.places.append(("at", place.step))

    def gradients(self, model):
        self.log.append("gradients")
        self.model = model

    def stepped(self, model, place):
        self.log.append("stepped")
        self.places.append(("stepped", place.step))
        self.losses.append(dict(self.curve.latest))
        if place.step == self.after:
            self.act()

    def evaluated(self, metrics, place):
        self.log.append("evaluated")
        self.places.append(("evaluated", place.step))


def crash():
    raise Crash


def control_c():
    os.kill(os.getpid(), signal.SIGINT)


def same(one: Outcome, other: Outcome) -> bool:
    """Bit for bit: weights, metrics and curve. Never the seconds."""
    return (
        one.weights.keys() == other.weights.keys()
        and all(torch.equal(one.weights[name], other.weights[name]) for name in one.weights)
        and one.metrics == other.metrics
        and one.points == other.points
    )


def apart(one: dict[str, Tensor], other: dict[str, Tensor]) -> float:
    """The largest difference between two sets of weights."""
    assert one.keys() == other.keys()
    return max(float((one[name].double() - other[name].double()).abs().max()) for name in one)


def flipped(path: Path, place: int, bit: int) -> None:
    """Flips one bit of a file."""
    content = bytearray(path.read_bytes())
    content[place] ^= 1 << bit
    path.write_bytes(content)


SHARED = {
    "labels": {"terms": (LABELS,), "teacher": None},
    "soft targets": {"terms": (LABELS, SOFT)},
    "hints": {"terms": (LABELS, SOFT, HINTS)},
    "a resting term": {
        "terms": (
            LABELS,
            Hints(student="body", teacher="body", weight={"schedule": "steps", "values": [[0, 0], [0.5, 1]]}),
        )
    },
    "accumulate": {"terms": (LABELS, SOFT, HINTS), "accumulate": 2},
    "ragged": {"terms": (LABELS, SOFT), "batch_size": 15, "accumulate": 2},
    "few labels": {"terms": (LABELS, SOFT), "examples": splits(labelled=9).train, "batch_size": 5},
    "relations": {"terms": (LABELS, RkdDistance(student="body", teacher="body", weight=1.0), Dist(weight=0.5))},
    "a trained embedding": {"terms": (LABELS, Contrastive(student="body", teacher="body", width=4, temperature=0.5))},
    "gates": {"terms": (LABELS, SoftTargets(gate={"by": "teacher-certainty"}), SoftTargets(gate="teacher-correct"))},
    "weights of their own": {
        "terms": (
            LABELS,
            SoftTargets(weight={"schedule": "uncertainty"}),
            Hints(student="body", teacher="body", weight={"schedule": "gradient-norm", "every": 3}),
        )
    },
    "a largest norm, and an average": {"terms": (LABELS, SOFT), "max_norm": 0.4, "average": 0.8},
    "a learned temperature": {"terms": (LABELS, SoftTargets(temperature={"schedule": "learned", "rise": 0.5}))},
}
"""Trainings that one process and two must do alike, beside that of a language model."""
LANGUAGE = ("next tokens", "next tokens in parts")


class Lines:
    """Rows of unequal numbers of tokens; ``labels`` say which follow."""

    reader = SimpleNamespace(fingerprint="lines")
    texts = None
    fingerprint = "lines"

    def __init__(self, rows: int, classes: int = 60, longest: int = 9):
        draw = torch.Generator().manual_seed(0)
        self.ids = torch.randint(3, classes, (rows, longest), generator=draw)
        lengths = torch.randint(3, longest + 1, (rows, 1), generator=draw)
        self.mask = (torch.arange(longest) < lengths).long()
        counts = torch.cat([self.mask[:, 1:], torch.zeros(rows, 1, dtype=torch.int64)], 1).bool()
        following = self.ids.roll(-1, 1).where(counts, -100)
        self.labels = torch.stack([following, torch.ones_like(following)], 2)

    def __len__(self):
        return len(self.ids)

    def read(self, ids: Tensor, views: Tensor) -> dict[str, Tensor]:
        return {"input_ids": self.ids[ids], "attention_mask": self.mask[ids]}


def language(**changes) -> Stage:
    """A training of a tiny language model."""
    from tests.fakes import causal

    table, rows = Lines(60), torch.arange(60)
    every = Examples(table, rows[:40], table.labels, rows % 3 > 0, (), task=NextToken())
    teacher = causal.made("llama").requires_grad_(False)
    context = replace(causal.TEXT, sample=table.read(rows[:2], rows[:2]))
    return stage(
        start=Start(Given(lambda: causal.made("llama", num_hidden_layers=2)), 0, context),
        terms=(LABELS, Diverging(kind="jensen-shannon", weight=0.7)),
        examples=every,
        validation=replace(every, rows=rows[40:]),
        teacher=LocalTeacher(teacher, of_module(teacher)),
        optimizer=SGD,
        clip=0.5,
        **changes,
    )


def shared(name: str) -> Stage:
    if name in LANGUAGE:
        return language(**({"batch_size": 15, "accumulate": 2} if "parts" in name else {}))
    return stage(smooth, **{"optimizer": SGD, "clip": 0.5, **SHARED[name]})


def as_one_of_several(folder: Path) -> None:
    """What one of several processes does: all of `SHARED`, one of them stopped and resumed, and one by a workshop."""
    found = {}
    for name in (*SHARED, *LANGUAGE):
        found[name] = train(shared(name), folder / name).weights
    with suppress(Interrupted):  # only the first process is told to stop
        train(shared("hints"), folder / "cut", Watching(after=7, act=control_c))
        raise AssertionError("not stopped")
    found["resumed"] = train(shared("hints"), folder / "cut").weights
    workshop = Workshop(folder / "home")
    first, second = workshop.train(shared("hints")), workshop.train(shared("hints"))
    assert (first.reused, second.reused) == (False, True)
    found["workshop"] = second.module().state_dict()
    torch.save(found, folder / f"{os.environ['RANK']}.pt")


if __name__ == "__main__":
    as_one_of_several(Path(sys.argv[1]))

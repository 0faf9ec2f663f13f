"""Clients of a federation: each learns from rows of its own and answers letters, in weights or logits and never in rows."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

import torch
from torch import Tensor, nn

from limbeck.data.examples import Examples, Splits
from limbeck.federation.consensus import Consensus
from limbeck.federation.letters import LOGITS, SERVER, Letter, decoded, holds, public_like
from limbeck.models.identity import of_module
from limbeck.regimes.plan import Plan
from limbeck.regimes.regime import Regime, make, train
from limbeck.signals.capture import show
from limbeck.teachers.local import LocalTeacher
from limbeck.teachers.teacher import Teacher
from limbeck.training.order import derived
from limbeck.training.settings import Training
from limbeck.training.stage import Origin, Stage, Start
from limbeck.training.workshop import Trained

_FEW = 64  # rows of its own that a client is looked at by; nothing is chosen by them


@dataclass(frozen=True)
class Received:
    """Where a training starts whose weights came in a letter."""

    start: Start
    content: bytes = field(repr=False)
    turn: int
    sender: int = SERVER

    def module(self) -> nn.Module:
        """A new module with the letter's weights.

        Raises:
            LimbeckError: the letter holds something else.
        """
        module = self.start.module()
        letter = decoded(self.content, "weights", self.turn, self.sender, module.state_dict())
        module.load_state_dict(dict(letter.tensors))
        return module


@dataclass(frozen=True)
class Answers:
    """What came back in a round: letters by client, and the trainings behind them where they were done here."""

    letters: dict[int, bytes]
    trained: tuple[Trained, ...] = ()


class Post(Protocol):
    """How a server reaches its clients: in this process, or over a network."""

    def answers(self, turn: int, asked: Sequence[int], content: bytes) -> Regime[Answers]:
        """The letter to those who are asked, and what they answer in time; not all need answer."""
        ...


class Client(Protocol):
    """Who answers letters. ``kept``: its own model as the last round left it, if it keeps one."""

    kept: Origin | None

    @property
    def begin(self) -> Start:
        """Its model, untrained."""
        ...

    def answer(self, turn: int, content: bytes) -> Regime[tuple[bytes, Trained]]:
        """Trains on rows of its own, and tells what it is to tell.

        Raises:
            LimbeckError: the server's letter is not the one that this recipe has.
        """
        ...

    def trainings(self, turn: int, again: bool, teacher: Teacher) -> tuple[Stage, ...]:
        """What it trains for an answer, from untrained models, ``teacher`` among them; ``again``: it has answered before."""
        ...


@dataclass(frozen=True)
class Here:
    """All clients in this process, one after another: the same trainings and letters, without a network."""

    clients: tuple[Client, ...]

    def answers(self, turn: int, asked: Sequence[int], content: bytes) -> Regime[Answers]:
        """See `Post.answers`; everybody answers."""
        letters, trained = dict[int, bytes](), list[Trained]()
        for number in asked:
            letters[number], one = yield from self.clients[number - 1].answer(turn, content)
            trained.append(one)
        return Answers(letters, tuple(trained))


@dataclass(frozen=True)
class Own:
    """What a client knows: a plan whose rows are its own, and its number, from 1.

    ``arm``: whose client it is, for names. ``guided``: whether the model that it is sent teaches it. ``counting``: whether it
    tells how many rows of each class it has.
    """

    plan: Plan
    number: int
    arm: str
    guided: bool = False
    counting: bool = False

    @property
    def rows(self) -> Examples:
        """Its rows."""
        return self.plan.splits.train

    @property
    def classes(self) -> tuple[int, ...]:
        """How many rows of each class, if that is told."""
        if not self.counting:
            return ()
        labels = self.rows.labels[self.rows.rows]
        return tuple(torch.bincount(labels, minlength=len(self.rows.classes)).tolist())

    def stage(self, turn: int, start: Origin, teacher: Teacher | None = None) -> Stage:
        """Its training on its own rows in one round."""
        terms = self.plan.terms if teacher is not None else self.plan.without_teacher
        name = f"{self.arm}, round {turn}, client {self.number}"
        stage = self.plan.stage(name, terms, teacher, examples=self.rows, start=start)
        training, seed = local(self.plan.training, len(self.rows)), derived(self.plan.seed, "client", self.number, turn)
        return replace(stage, training=training, seed=seed)


@dataclass
class Averaged:
    """A client that sends its weights, to be averaged. It keeps nothing from round to round."""

    own: Own
    kept: Origin | None = None

    @property
    def begin(self) -> Start:
        """See `Client.begin`."""
        return self.own.plan.start

    def answer(self, turn: int, content: bytes) -> Regime[tuple[bytes, Trained]]:
        """See `Client.answer`."""
        trained = yield from train(self.stage(turn, Received(self.own.plan.start, content, turn)))
        letter = Letter(
            "weights", turn, self.own.number, trained.module().state_dict(), len(self.own.rows), self.own.classes
        )
        return letter.encoded(), trained

    def trainings(self, turn: int, again: bool, teacher: Teacher) -> tuple[Stage, ...]:
        """See `Client.trainings`."""
        return (self.stage(turn, self.own.plan.start),)

    def stage(self, turn: int, start: Origin) -> Stage:
        """Its training, from the weights that it was sent; these teach it, too, if it is guided."""
        teacher = None
        if self.own.guided:
            module = start.module()
            teacher = LocalTeacher(module.requires_grad_(False), of_module(module), self.own.plan.asking)
        return self.own.stage(turn, start, teacher)


@dataclass
class Telling:
    """A client with a model of its own that tells nothing but what it thinks of the public rows (FedMD: Li & Wang 2019,
    arXiv:1910.03581). What all think together it learns first, in each round, and then from its own rows again.

    ``digest``: how it learns what all think. ``begin``: its own model. ``kept``: as the last round left it.
    """

    own: Own
    public: Examples
    digest: Training
    begin: Start
    kept: Origin | None = None

    def answer(self, turn: int, content: bytes) -> Regime[tuple[bytes, Trained]]:
        """See `Client.answer`."""
        plan = self.own.plan
        start: Origin = self.kept or self.begin
        if self.kept is not None and holds(content) == "logits":
            like = public_like(len(self.public), (len(self.public.classes),))
            letter = decoded(content, "logits", turn, SERVER, like)
            teacher = Consensus(self.public.rows, letter.tensors[LOGITS])
            start = yield from train(self.digestion(turn, start, teacher))
        self.kept = trained = yield from train(self.own.stage(turn, start))
        name = f"what client {self.own.number} thinks in round {turn}"
        logits = yield from make(name, thought, module=trained.module(), public=self.public, device=plan.device)
        told = Letter("logits", turn, self.own.number, {LOGITS: logits}, len(self.own.rows), self.own.classes)
        return told.encoded(), trained

    def trainings(self, turn: int, again: bool, teacher: Teacher) -> tuple[Stage, ...]:
        """See `Client.trainings`."""
        start = self.begin
        return (*((self.digestion(turn, start, teacher),) if again else ()), self.own.stage(turn, start))

    def digestion(self, turn: int, start: Origin, teacher: Teacher) -> Stage:
        """Its training by what all think together."""
        name = f"{self.own.arm}, round {turn}, client {self.own.number} by all"
        stage = on_public(self.own.plan, name, self.public, start, teacher)
        seed = derived(self.own.plan.seed, "digest", self.own.number, turn)
        return replace(
            stage, training=local(self.digest, len(self.public)), validation=self.own.plan.splits.validation, seed=seed
        )


def on_public(plan: Plan, name: str, public: Examples, start: Origin, teacher: Teacher) -> Stage:
    """A training by the terms that read a teacher, on public rows as they are."""
    terms = tuple(term for term in plan.terms if term.needs().teacher)
    return replace(plan.stage(name, terms, teacher, examples=public, start=start), views=0)


def private(plan: Plan, rows: Tensor) -> Plan:
    """The plan of who has these rows and no others."""
    train_part = replace(plan.splits.train, rows=rows)
    few = replace(train_part, rows=rows[:_FEW], mixup=0.0)
    return replace(plan, splits=Splits(train_part, few, few))


def local(training: Training, rows: int) -> Training:
    """A client's training: its last weights are taken, as it has nothing to choose by, and no batch holds a row twice."""
    size = min(training.batch_size, rows)
    fitted = {"batch_size": size, "accumulate": min(training.accumulate, size)}
    return training.model_copy(update={"keep": "last", "patience": None, "evaluate_every": training.total, **fitted})


@torch.no_grad()
def thought(module: nn.Module, public: Examples, device: str) -> Tensor:
    """A model's logits about the public rows as they are, float32 [P, C]."""
    module = module.to(device).eval()
    found = []
    for ids in torch.split(public.rows, 256):
        batch = public.batch(ids, torch.zeros_like(ids)).to(device)
        found.append(show(module, batch.columns("student"))[LOGITS].float().cpu())
    return torch.cat(found)

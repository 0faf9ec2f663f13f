"""Federated distillation: clients learn from rows that nobody else sees, and a server makes one student of what they learnt."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from limbeck.config import Tuple
from limbeck.data.draw import uniforms
from limbeck.data.examples import Examples
from limbeck.errors import LimbeckError
from limbeck.federation.averaging import Counting
from limbeck.federation.consensus import Consensus
from limbeck.federation.letters import LOGITS, SERVER, Kind, Letter, decoded, public_like
from limbeck.federation.parts import divided
from limbeck.models.specs import ModelSpec, Spec
from limbeck.regimes.averages import Ledger, average
from limbeck.regimes.budget import Arm
from limbeck.regimes.clients import Averaged, Client, Here, Own, Post, Telling, private
from limbeck.regimes.generator import Generator
from limbeck.regimes.plan import Plan
from limbeck.regimes.public import demand_pictures, mean_of, models_of, public_of, server_stage
from limbeck.regimes.pupils import demand_alone, demand_apart, untrained
from limbeck.regimes.regime import Common, Regime, make, train
from limbeck.teachers.teacher import Teacher
from limbeck.training.order import derived
from limbeck.training.settings import Positive, Share, Training
from limbeck.training.stage import Origin, Stage, Start
from limbeck.training.workshop import Trained

if TYPE_CHECKING:
    Models = tuple[Spec, ...]
else:
    Models = Annotated[tuple[ModelSpec, ...], Field(min_length=1), Tuple]

_ASKED, _ANSWERING = 43, 44  # salts
_log = logging.getLogger(__name__)
Distil = Literal["server", "clients", "both"]


class Federated(Common):
    """In each round clients learn from their own rows, those with a label; what they learnt is put together, and distilled.

    The rows without a label are public: everybody has them. Clients send their weights, which are averaged by their rows (FedAvg,
    McMahan et al. 2017, arXiv:1602.05629); or, with ``models``, what they think of the public rows, and nothing else (FedMD, Li &
    Wang 2019, arXiv:1910.03581). What of the objective reads a teacher is learnt on the ``server``, from the mean of the clients'
    logits about the public rows (FedDF, Lin et al. 2020, arXiv:2006.07242), or by the ``clients``, from the model that they were
    sent (FedGKD, Yao et al. 2021, arXiv:2107.00051). `training` is a client's in one round.
    """

    taught: ClassVar[bool] = False

    name: Literal["federated"] = "federated"
    clients: Annotated[int, Field(ge=1, le=1000)] = 10
    """How many there are."""
    rounds: Annotated[int, Field(ge=1, le=1000)] = 10
    """How often they are asked."""
    alpha: Positive | None = None
    """How far apart their classes are, by a Dirichlet distribution: 0.1 far, 100 hardly; null: all have the same mixture."""
    distil: Distil = "server"
    """Where what reads a teacher is learnt: on the ``server``, by the ``clients``, or ``both``."""
    weights: Counting = "alike"
    """What each client's logits count: ``alike``; by its ``rows``; or of each class by its rows of that, which it then tells."""
    server: Training | None = None
    """A round's training on the server, and of ``models`` on the public rows; null: as a client's."""
    made: Generator | None = None
    """What the server learns from in place of public rows: pictures that a generator makes of the clients' models, in every round
    anew (FedDF; DENSE, Zhang et al. 2022, arXiv:2112.12371). Its settings; ``{}`` for the usual ones."""
    models: Models | None = None
    """The clients' own models, in turn, where they are of several kinds; then only logits cross."""
    share: Annotated[Share, Field(gt=0)] = 1.0
    """The share of the clients that are asked in a round."""
    absent: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """How probable it is that a client who is asked does not answer in time: it dropped out, or is too slow."""

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        if self.models is not None and self.distil != "server":
            raise ValueError(
                "clients with models of their own are sent no weights that could teach them: with models, leave distil out"
            )
        if self.distil == "clients" and (self.server is not None or self.weights != "alike" or self.made is not None):
            raise ValueError("with distil: clients the server learns nothing: leave server, weights and made out")
        if self.made is not None and self.models is not None:
            raise ValueError("with models no weights cross that pictures could be made of: leave made out")
        if self.made is not None and self.server is not None and self.server.steps is None:
            raise ValueError("made pictures have no epochs: give server.steps")
        if self.made is not None and self.weights != "alike":
            raise ValueError("of made pictures all clients' logits count alike: leave weights out")
        return self

    def arms(self, plan: Plan) -> dict[str, Arm]:
        """The control is averaged without a teacher; ``central`` is one student of all labelled rows in one place."""
        return {"control": self.control, "central": self.central, "distilled": self.distilled}

    def budgeted(self, change: Callable[[Training], Training]) -> Self:
        """With another budget on the server, if it has one of its own."""
        return self if self.server is None else self.model_copy(update={"server": change(self.server)})

    def stages(self, plan: Plan) -> tuple[Stage, ...]:
        """Every training of every round, from untrained models."""
        self._demand(plan)
        teacher, found, before = untrained(plan), list[Stage](), set[int]()
        members = self.members(plan)
        for turn in range(1, self.rounds + 1):
            answering = self.answering(plan.seed, turn)
            for number in answering:
                found.extend(members[number - 1].trainings(turn, number in before, teacher))
            before.update(answering)
            if answering and self.distil != "clients":
                found.append(self._server(plan, turn, plan.start, teacher))
        return tuple(found)

    def parts(self, plan: Plan) -> tuple[Examples, ...]:
        """The rows of each client.

        Raises:
            LimbeckError: there are too few of them.
        """
        own = plan.splits.train.labelled()
        strata = own.task.strata(own.labels)[own.rows]
        seed = derived(plan.seed, "clients") % 2**31
        return tuple(replace(own, rows=rows) for rows in divided(own.rows, strata, self.clients, self.alpha, seed))

    def central(self, plan: Plan) -> Regime[Trained]:
        """One student of all labelled rows, for as many steps as all trainings of the federation have together."""
        steps = sum(stage.training.total for stage in self.stages(plan))
        whole = plan.longer(steps - plan.training.total)
        return (yield from train(whole.stage("central", whole.without_teacher)))

    def control(self, plan: Plan) -> Regime[Trained]:
        """The same rounds, clients and steps on their own rows; their weights are averaged, and nobody teaches."""
        post = Here(tuple(Averaged(own) for own in self._own(plan, "control")))
        return (yield from self._averaging(plan, post, "control", distil=False))

    def distilled(self, plan: Plan) -> Regime[Trained]:
        """The student that the recipe is about."""
        self._demand(plan)
        return (yield from self.served(plan, Here(self.members(plan))))

    def served(self, plan: Plan, post: Post) -> Regime[Trained]:
        """What the server does, whatever way its letters take. Of ``plan`` it reads the public rows and those of validation."""
        if self.models is not None:
            return (yield from self._telling(plan, post))
        return (yield from self._averaging(plan, post, "distilled", distil=self.distil != "clients"))

    def members(self, plan: Plan) -> tuple[Client, ...]:
        """The clients of the student that the recipe is about."""
        own = self._own(plan, "distilled")
        return tuple(self.member(one, public_of(plan)) for one in own)

    def member(self, own: Own, public: Examples) -> Client:
        """A client of what it knows and the public rows."""
        if self.models is None:
            return Averaged(own)
        spec = self.models[(own.number - 1) % len(self.models)]
        start = Start(spec, derived(own.plan.seed, "client", own.number), own.plan.context)
        return Telling(own, public, self._server_training(public, own.plan), start)

    def own(self, plan: Plan, number: int, arm: str = "distilled") -> Own:
        """What a client knows whose rows the plan has."""
        ours = arm == "distilled"
        return Own(plan, number, arm, ours and self.distil != "server", ours and self.weights == "classes")

    def answering(self, seed: int, turn: int) -> tuple[int, ...]:
        """The clients that answer in a round, from 1; see `share` and `absent`."""
        missing = uniforms(_ANSWERING, *_place(self.clients, seed, turn))[:, 0] < self.absent
        return tuple(number for number in self.asked(seed, turn) if not missing[number - 1])

    def asked(self, seed: int, turn: int) -> tuple[int, ...]:
        """The clients that are asked in a round, from 1."""
        order = uniforms(_ASKED, *_place(self.clients, seed, turn))[:, 0].argsort(kind="stable")
        count = max(1, round(self.share * self.clients))
        return tuple(sorted(int(place) + 1 for place in order[:count]))

    def _averaging(self, plan: Plan, post: Post, arm: str, distil: bool) -> Regime[Trained]:
        """Weights cross, and are averaged. A round in which nobody answers leaves the model as it was."""
        current: Origin = plan.start
        last, ledger = None, Ledger()
        counts = len(plan.splits.classes) if distil and self.weights == "classes" else 0
        for turn in range(1, self.rounds + 1):
            state = current.module().state_dict()
            letter = Letter("weights", turn, SERVER, state)
            letters = yield from self._exchange(plan, post, letter, "weights", state, counts, ledger)
            if not letters:
                continue
            name = f"{arm}, round {turn}, average, seed {plan.seed}"
            steps = len(letters) * plan.training.total
            last = yield from make(name, average, plan=plan, letters=letters, called=name, steps=steps)
            if distil:
                what = f"what clients think in round {turn}"
                told = {"plan": plan, "letters": letters, "by": self.weights, "made": self.made}
                teacher = yield from make(what, models_of, **told)
                last = yield from train(self._server(plan, turn, last, teacher))
            current = last
        return ledger.closed(last, self.name)

    def _telling(self, plan: Plan, post: Post) -> Regime[Trained]:
        """Logits about the public rows cross, and nothing else; the server's student learns from their mean."""
        last, ledger, public = None, Ledger(), public_of(plan)
        like = public_like(len(public), (len(public.classes),))
        counts = len(public.classes) if self.weights == "classes" else 0
        letter = Letter("nothing", 1, SERVER, {})
        for turn in range(1, self.rounds + 1):
            letter = replace(letter, turn=turn)
            letters = yield from self._exchange(plan, post, letter, "logits", like, counts, ledger)
            if not letters:
                continue
            logits = mean_of(letters, [one.tensors[LOGITS] for one in letters], self.weights)
            letter = Letter("logits", turn, SERVER, {LOGITS: logits})
            last = yield from train(self._server(plan, turn, last or plan.start, Consensus(public.rows, logits)))
        return ledger.closed(last, self.name)

    def _exchange(
        self,
        plan: Plan,
        post: Post,
        letter: Letter,
        kind: Kind,
        like: Mapping[str, Tensor],
        counts: int,
        ledger: Ledger,
    ) -> Regime[list[Letter]]:
        """The letter to all who are asked; the letters of those who answered, by their numbers. One that is refused is none."""
        content = letter.encoded()
        found = yield from post.answers(letter.turn, self.answering(plan.seed, letter.turn), content)
        ledger.add(len(self.asked(plan.seed, letter.turn)), content, found)
        letters = list[Letter]()
        for who in sorted(found.letters):
            try:
                letters.append(decoded(found.letters[who], kind, letter.turn, who, like, counts))
            except LimbeckError as error:
                ledger.refuse()
                _log.warning("%s", error)
        return letters

    def _server(self, plan: Plan, turn: int, start: Origin, teacher: Teacher) -> Stage:
        """The server's training in one round."""
        name, training = f"distilled, round {turn}, server", self._server_training(public_of(plan), plan)
        stage = server_stage(plan, name, start, teacher, training, self.made)
        return replace(stage, seed=derived(plan.seed, "server", turn))

    def _server_training(self, public: Examples, plan: Plan) -> Training:
        return (self.server or plan.training).resolved(len(public))

    def _own(self, plan: Plan, arm: str) -> list[Own]:
        """What each client knows; of the control, nobody is taught and no classes are told."""
        return [
            self.own(private(plan, rows.rows), number, arm) for number, rows in enumerate(self.parts(plan), start=1)
        ]

    def _demand(self, plan: Plan) -> None:
        demand_alone(plan, self.name)
        demand_apart(plan, self.name, layers=self.distil == "clients")
        if self.made is not None:
            demand_pictures(plan, self.made)
        elif self.distil != "clients" and not len(public_of(plan)):
            raise LimbeckError(
                f"In the regime {self.name!r} the server learns from rows without a label, which everybody has, and here every "
                "row has one: hide some (data.labelled), or write 'made: {}' or 'distil: clients', which need none."
            )
        if self.weights == "classes" and plan.splits.task.name != "classes":
            raise LimbeckError(
                f"With 'weights: classes' clients tell how many rows of each class they have, and the task here is "
                f"{plan.splits.task.name!r}: write 'weights: rows'."
            )


def _place(clients: int, seed: int, turn: int) -> tuple[Tensor, Tensor]:
    """The address of one number for each client in a round."""
    return torch.arange(clients) + (derived(seed, "federated") % 2**31) * 2**20, torch.full((clients,), turn)

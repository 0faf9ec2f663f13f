"""`Stage`: one training, as data. What it holds determines the trained weights, and so names them."""

import os
import platform
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from limbeck.data.batch import Batch
from limbeck.data.examples import Examples
from limbeck.errors import LimbeckError
from limbeck.losses import kernels
from limbeck.models.identity import of_module
from limbeck.models.peers import Peers
from limbeck.models.specs import BuildContext, Spec, build
from limbeck.objective import Term
from limbeck.objective.schedules import Place
from limbeck.teachers.teacher import Teacher
from limbeck.training.launch import asked
from limbeck.training.order import Order, derived
from limbeck.training.settings import Training

FORMAT = 4
"""Raised whenever the same stage would train other weights than before."""


class Origin(Protocol):
    """Where a training starts: a spec and a seed, or what an earlier training gave."""

    def module(self) -> nn.Module:
        """A new module with the initial weights; the same ones every time."""
        ...


@dataclass(frozen=True)
class Start:
    """A spec and a seed, and the data and models that the model is fitted to."""

    spec: Spec
    seed: int
    context: BuildContext = field(repr=False)

    def module(self) -> nn.Module:
        """A new module with the initial weights; the same ones every time."""
        return build(self.spec, self.context, self.seed)


@dataclass(frozen=True)
class Together:
    """Models side by side, as one."""

    starts: tuple[Origin, ...] = field(repr=False)
    numbers: bool

    def module(self, *more: nn.Module) -> nn.Module:
        """A new module; see `Peers`. ``more``: further ones, after them."""
        return Peers([*(start.module() for start in self.starts), *more], self.numbers)


class Pen(Protocol):
    """What makes the inputs of a step anew, or teaches the teacher by them. One that remembers also has ``state_dict`` and
    ``load_state_dict``.
    """

    def written(self, student: nn.Module, micros: Sequence[Batch], place: Place) -> list[Batch]:
        """The micro-batches of one step, some rows replaced: by texts that the student, as it is now, or the teacher writes, or
        by pictures that are made for it. Or the same ones, after the stage's teacher has learnt from them.

        The student's mode and global random state are left as they were.
        """
        ...

    def told(self) -> dict[str, float]:
        """What was made since this was last asked, in numbers for the curve."""
        ...

    def kept(self) -> dict[str, Tensor]:
        """What of it is kept beside the trained weights, to be shown; often nothing."""
        ...


class Writing(Protocol):
    """What is done with the inputs of each step before a model learns from them; settings, and further rows."""

    def plain(self) -> dict[str, Any]:
        """The settings as JSON types."""
        ...

    def pen(self, stage: "Stage", student: nn.Module) -> Pen:
        """What makes them for one training of ``stage``.

        Raises:
            LimbeckError: it cannot be done with this student, teacher or data.
        """
        ...


class Past(Protocol):
    """Whose teacher moves while a student is trained: what that student was, or one that learns. Settings, and who it was."""

    def plain(self) -> dict[str, Any]:
        """The settings as JSON types."""
        ...

    def teacher(self, student: nn.Module) -> Teacher:
        """Who teaches it: made when the training begins, told its moments, with ``state_dict`` and ``load_state_dict``."""
        ...


class Keeping(Protocol):
    """What holds a model to something while it is trained, by its gradients; settings and tensors alone."""

    def plain(self) -> dict[str, Any]:
        """All that it depends on, as JSON types."""
        ...

    def part(self, stage: "Stage", student: nn.Module) -> object:
        """What is told the moments of one training; see `limbeck.training.moments`."""
        ...


@dataclass(frozen=True)
class Stage:
    """One training of one model.

    ``views``: see `Order`. ``teacher``: who is observed while training, None if no term needs one. ``side``: whose input
    columns the model reads. ``frozen``: patterns of parameters that stay as they are, such as ``bert.embeddings.*``.
    ``writing``: how its inputs are made anew; None: they are read. ``past``: how its own past teaches it, in place of a
    ``teacher``. ``keeping``: what changes its gradients, in order.
    """

    name: str
    start: Origin
    terms: tuple[Term, ...]
    examples: Examples
    validation: Examples
    training: Training
    teacher: Teacher | None
    views: int | None
    seed: int
    side: str = "student"
    frozen: tuple[str, ...] = ()
    writing: Writing | None = None
    past: Past | None = None
    keeping: tuple[Keeping, ...] = ()

    def begun(self, student: nn.Module) -> "Stage":
        """The stage as its training begins: with the student's past as its teacher, if that teaches."""
        return self if self.past is None else replace(self, teacher=self.past.teacher(student))

    def order(self) -> Order:
        """Which rows it reads at each step.

        Raises:
            DataError: they are to be grouped by their length, and have none.
        """
        settings = self.training
        return Order.of(
            self.examples, settings.batch_size, derived(self.seed, "data"), self.views, settings.group_by_length
        )

    def model(self) -> nn.Module:
        """The model as its training begins: what is frozen has no gradient.

        Raises:
            LimbeckError: a pattern of ``frozen`` fits no parameter.
        """
        module = self.start.module()
        names = [name for name, _ in module.named_parameters()]
        for pattern in self.frozen:
            fitting = [name for name in names if fnmatchcase(name, pattern)]
            if not fitting:
                shown = ", ".join(names[:4])
                raise LimbeckError(f"'frozen: {pattern}' fits no parameter of the student; it has {shown}, ...")
            for name in fitting:
                module.get_parameter(name).requires_grad_(False)
        return module

    def identity(self, initial: nn.Module) -> dict[str, Any]:
        """All that determines the trained weights, no names and no paths; its digest is the arm's key."""
        writing = {"writing": self.writing.plain()} if self.writing else {}
        return (
            ({"frozen": list(self.frozen)} if self.frozen else {})
            | writing
            | ({"past": self.past.plain()} if self.past else {})
            | ({"keeping": [one.plain() for one in self.keeping]} if self.keeping else {})
            | {
                "format": FORMAT,
                "initial": of_module(initial),
                "terms": [term.plain() for term in self.terms],
                "examples": self.examples.fingerprint,
                "validation": self.validation.fingerprint,
                "training": self.training.identity(),
                "teacher": self.teacher.fingerprint if self.teacher else None,
                "views": self.views,
                "side": self.side,
                "seed": self.seed,
                "device": device_kind(),
                "threads": torch.get_num_threads(),
                "processes": int(os.environ.get("WORLD_SIZE", "1")),
                **({"divided": True} if asked() else {}),
                "versions": {"torch": torch.__version__, "python": platform.python_version(), **kernels.versions()},
            }
        )


def device_kind() -> str:
    """The kind of device that trains here, by its model name: kinds differ in the last bits."""
    return torch.cuda.get_device_name() if torch.cuda.is_available() else f"cpu {platform.machine()}"

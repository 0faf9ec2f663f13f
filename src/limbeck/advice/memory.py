"""How much memory a training step takes, part by part: what can be known of it beforehand."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from limbeck.training.settings import Training
from limbeck.training.stage import Stage


@dataclass(frozen=True)
class Memory:
    """Bytes of each part of a training step; projectors and what the libraries themselves need are left out.

    ``student``: its weights, and their average where that is delivered.
    """

    student: int
    teacher: int
    gradients: int
    optimiser: int
    activations: int

    @property
    def total(self) -> int:
        """All parts."""
        return self.student + self.teacher + self.gradients + self.optimiser + self.activations


@dataclass
class Kept:
    """``bytes``: of the tensors that a forward pass keeps for the backward one, each memory counted once."""

    known: dict[int, int] = field(default_factory=dict, repr=False)

    @property
    def bytes(self) -> int:
        """Their sum."""
        return sum(self.known.values())


@contextmanager
def kept_bytes(module: nn.Module) -> Iterator[Kept]:
    """Counts what is kept for the backward pass within the block, but for the module's own weights."""
    own = {one.untyped_storage().data_ptr() for one in (*module.parameters(), *module.buffers())}
    kept = Kept()

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept.known[storage.data_ptr()] = storage.nbytes()
        return tensor

    with saved_tensors_hooks(pack, lambda tensor: tensor):
        yield kept


def memory(stage: Stage, student: nn.Module, activations: int) -> Memory:
    """Of a step of ``stage`` with ``student``, whose forward pass keeps ``activations`` bytes."""
    learning = sum(one.numel() * one.element_size() for one in student.parameters() if one.requires_grad)
    theirs = stage.teacher.module if stage.teacher else None
    return Memory(
        student=_bytes(student) * (2 if stage.training.average else 1),
        teacher=_bytes(theirs) if theirs is not None and theirs is not student else 0,
        gradients=learning,
        optimiser=_moments(stage.training) * learning,
        activations=activations,
    )


def _bytes(module: nn.Module) -> int:
    return sum(one.numel() * one.element_size() for one in (*module.parameters(), *module.buffers()))


def _moments(training: Training) -> int:
    """How many numbers an optimiser keeps of each weight."""
    return 2 if training.optimizer.name == "adamw" else int(training.optimizer.momentum > 0)

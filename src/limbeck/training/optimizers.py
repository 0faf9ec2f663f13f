"""Optimisers, parameter groups and the learning rate as a pure function of the step."""

from collections.abc import Sequence
from math import cos, pi

import torch
from torch import Tensor, nn

from limbeck.errors import LimbeckError
from limbeck.objective.term import Owned
from limbeck.signals.capture import bare
from limbeck.training.pieces import local, whole
from limbeck.training.settings import AdamW, Sgd, Training


def groups(
    student: nn.Module, parts: Sequence[tuple[str, nn.Module, Owned]], weight_decay: float
) -> list[dict[str, object]]:
    """Parameter groups: the student's, and those of each part of the objective, with and without weight decay.

    Vectors (biases, normalisation weights) are not decayed. ``clip`` names the group that a parameter is clipped with,
    ``factor`` is what the learning rate is multiplied with. A student may say in ``clipped_apart`` of which modules it wholly
    consists, so that each is clipped as if it were alone.
    """
    apart = getattr(bare(student), "clipped_apart", ())
    pieces = {f"student {path}": bare(student).get_submodule(path) for path in apart} or {"student": student}
    found = [group for name, one in pieces.items() for group in _split(one, name, weight_decay, {"factor": 1.0})]
    for name, part, owned in parts:
        decay = weight_decay if owned.weight_decay is None else owned.weight_decay
        own: dict[str, object] = {"factor": owned.rate}
        if owned.betas:
            own["betas"] = owned.betas
        found += _split(part, name, decay, own)
    if not found:
        raise LimbeckError("The student has no parameter that can be trained: none has requires_grad.")
    return found


def _split(module: nn.Module, clip: str, decay: float, own: dict[str, object]) -> list[dict[str, object]]:
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    both = (decay, [p for p in trained if p.ndim > 1]), (0.0, [p for p in trained if p.ndim <= 1])
    return [{"params": chosen, "weight_decay": by, "clip": clip, **own} for by, chosen in both if chosen]


def optimizer(settings: AdamW | Sgd, parameter_groups: Sequence[dict[str, object]]) -> torch.optim.Optimizer:
    """The optimiser that the settings name."""
    if settings.name == "adamw":
        return torch.optim.AdamW(
            list(parameter_groups), lr=settings.learning_rate, betas=settings.betas, eps=settings.eps
        )
    return torch.optim.SGD(
        list(parameter_groups), lr=settings.learning_rate, momentum=settings.momentum, nesterov=settings.nesterov
    )


def rate(training: Training, step: int) -> float:
    """The learning rate of step 0, 1, ...: a linear rise from the first share of the steps on, then the fall to 0."""
    peak = training.optimizer.learning_rate
    rising = round(training.warmup * training.total)
    if step < rising:
        return peak * (step + 1) / rising
    left = (step - rising) / max(1, training.total - rising)
    return peak * {"none": 1.0, "linear": 1 - left, "cosine": (1 + cos(pi * left)) / 2}[training.decay]


def clip(parameter_groups: Sequence[dict[str, object]], largest: float | None) -> float:
    """Clips every clipping group by itself; returns the norm of all gradients before that.

    Peers under one optimiser equal separate ones only if clipped apart.
    """
    by_name: dict[object, list[nn.Parameter]] = {}
    for group in parameter_groups:
        by_name.setdefault(group["clip"], []).extend(group["params"])  # type: ignore[arg-type]
    limit = float("inf") if largest is None else largest
    norms = [_clip(parameters, limit) for parameters in by_name.values()]
    return float(torch.stack(norms).square().sum().sqrt())


def _clip(parameters: Sequence[nn.Parameter], limit: float) -> Tensor:
    """Clips one group by its norm over all processes, and returns that."""
    norm = whole(torch.nn.utils.get_total_norm([one.grad for one in parameters if one.grad is not None]))
    torch.nn.utils.clip_grads_with_norm_(parameters, limit, norm)
    return norm


class MaxNorm:
    """Keeps the weights that lead to a unit within a ball, after every step (Srivastava et al. 2014, JMLR 15).

    They are a row of a matrix of weights, a filter of a convolution, a vector of a table of embeddings: of each parameter of two
    or more dimensions the part at one place of the first. What is frozen, and what is trained beside the student, stays.
    """

    def __init__(self, largest: float) -> None:
        self._largest = largest

    @torch.no_grad()
    def stepped(self, student: nn.Module, place: object) -> None:
        """Told after a step. Divided weights are whole in the first dimension's parts, so each process limits its own."""
        for one in student.parameters():
            if one.requires_grad and one.ndim > 1 and len(own := local(one)):
                own.renorm_(2, 0, self._largest)

"""Layers of a trained model, replaced one group at a time by those of a smaller one (BERT-of-Theseus, Xu et al. 2020)."""

import copy
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from limbeck.data.draw import uniforms
from limbeck.errors import LimbeckError
from limbeck.models.depth import longest
from limbeck.signals.capture import Capture, bare, show

_DRAW = 51  # salt


class Place(Protocol):
    """Where training stands."""

    step: int
    steps: int


class Group(nn.Module):
    """Some layers of the trained model, and the one layer that takes their place: in training now and then, else always."""

    def __init__(self, before: list[nn.Module], after: nn.Module, settings: "Replacement") -> None:
        super().__init__()
        self.before, self.after = nn.ModuleList(before), after
        self.from_rate, self.until, self.seed = settings.from_rate, settings.until, settings.seed  # name the weights
        self.replaced = True

    def forward(self, hidden: Tensor, *args: Any, **options: Any) -> Any:
        """What a layer of the model gives, a tensor or a tuple that begins with one."""
        if self.replaced or not self.training:
            return self.after(hidden, *args, **options)
        output: Any = hidden
        for layer in self.before:
            output = layer(output[0] if isinstance(output, tuple) else output, *args, **options)
        # A step may replace nothing, and processes must reach the same parameters: a sum over nothing has a gradient too.
        unused = sum(
            (parameter.flatten()[:0].sum() for parameter in self.after.parameters()), start=hidden.new_zeros(())
        )
        return (output[0] + unused, *output[1:]) if isinstance(output, tuple) else output + unused


@dataclass(frozen=True)
class Replacement:
    """When groups are replaced: each step draws for each group, with a probability that rises in a line.

    ``from_rate``: the probability at first. ``until``: the share of the steps after which it is 1. What is drawn depends on
    ``seed`` and the step alone, so it is the same in all processes and after a resume. ``groups``: those of a model, at
    ``path``.
    """

    from_rate: float
    until: float
    seed: int
    path: str = ""
    groups: tuple[Group, ...] = ()

    def at(self, place: Place) -> None:
        """Told before every step where training stands."""
        drawn = uniforms(_DRAW, torch.tensor([self.seed]), torch.tensor([place.step]), len(self.groups))[0]
        for group, number in zip(self.groups, drawn.tolist(), strict=True):
            group.replaced = number < self.rate(place)

    def rate(self, place: Place) -> float:
        """The probability there."""
        share = place.step / max(1e-12, self.until * place.steps)
        return min(1.0, self.from_rate + (1 - self.from_rate) * share)


def replacing(donor: nn.Module, student: nn.Module, settings: Replacement, sample: Mapping[str, Tensor]) -> nn.Module:
    """``donor`` with its layers in as many groups as ``student`` has layers, each to be replaced by one of those.

    Only the student's layers are trained; the rest is the donor's and stays (as in the paper's code). In evaluation every
    group is replaced, so the model answers as `replaced` of it does. Neither model is altered.

    Raises:
        LimbeckError: the donor's layers are not a multiple of the student's, the two are built otherwise, or the donor does
            not answer on ``sample`` (input columns) as its groups do, because it does something between its layers.
    """
    donor, student = bare(donor), bare(student)
    path = longest(donor)
    theirs, ours = list(_stack(donor, path)), list(_stack(student, path))
    if len(theirs) % len(ours) or len(theirs) == len(ours):
        raise LimbeckError(
            f"The teacher has {len(theirs)} layers and the student {len(ours)}: each of the student's replaces the same "
            "number of the teacher's, two or more, so the teacher must have a multiple of them. Choose the student's layers so."
        )
    if type(theirs[0]) is not type(ours[0]) or _shapes(theirs[0]) != _shapes(ours[0]):
        raise LimbeckError(
            "A layer of the student cannot stand in the place of one of the teacher's: they are built otherwise. Take the "
            "student from the teacher's layers: student: {name: shrunk, layers: ...}."
        )
    if differ := {name for name, _ in _elsewhere(donor, path).items() ^ _elsewhere(student, path).items()}:
        raise LimbeckError(
            f"The student differs from the teacher outside of its layers ({', '.join(sorted(differ)[:3])}), "
            "and 'theseus' replaces layers alone: shrink nothing but 'layers'."
        )
    module = copy.deepcopy(donor).requires_grad_(False)
    size = len(theirs) // len(ours)
    layers = list(_stack(module, path))
    groups = tuple(
        Group(layers[size * place : size * (place + 1)], copy.deepcopy(ours[place]).requires_grad_(True), settings)
        for place in range(len(ours))
    )
    _put(module, path, groups)
    module.training_moments = replace(settings, path=path, groups=groups)  # type: ignore[assignment]
    _same(donor, module, groups, sample)
    return module


def _same(donor: nn.Module, module: nn.Module, groups: tuple[Group, ...], sample: Mapping[str, Tensor]) -> None:
    wanted = show(donor, sample)["logits"]
    module.eval()
    for group in groups:
        group.training, group.replaced = True, False  # the group alone: its layers stay in evaluation mode
    try:
        with torch.no_grad(), Capture(module, {"logits"}) as capture:
            found = capture(sample)["logits"]
    finally:
        for group in groups:
            group.replaced = True
        module.train()
    if not torch.allclose(wanted, found, atol=1e-5, rtol=1e-4):
        raise LimbeckError(
            f"{type(donor).__name__} does something between its layers, so several of them cannot be taken for one: the "
            "regime 'theseus' needs a model whose layers follow each other directly, as in transformers."
        )


def replaced(module: nn.Module) -> nn.Module:
    """The smaller model: a module of `replacing` with the student's layers alone. The argument is not altered."""
    module = copy.deepcopy(module)
    moments: Any = module.training_moments
    _put(module, moments.path, [group.after for group in moments.groups])
    del module.training_moments
    return module.requires_grad_(True)


def _stack(module: nn.Module, path: str) -> Any:
    try:
        return module.get_submodule(path)
    except AttributeError:
        raise LimbeckError(
            f"The student ({type(module).__name__}) has no layers at {path!r}, where the teacher has its own."
        ) from None


def _put(module: nn.Module, path: str, layers: Any) -> None:
    parent, _, name = path.rpartition(".")
    setattr(module.get_submodule(parent), name, nn.ModuleList(layers))
    if hasattr(getattr(module, "config", None), "num_hidden_layers"):
        module.config.num_hidden_layers = len(layers)  # type: ignore[union-attr]


def _elsewhere(module: nn.Module, path: str) -> dict[str, tuple[int, ...]]:
    """The shapes of what does not belong to the layers at ``path``."""
    return {name: shape for name, shape in _shapes(module).items() if not name.startswith(f"{path}.")}


def _shapes(layer: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(value.shape) for name, value in layer.state_dict().items()}

"""Which axes of a transformers model's parameters go together: found by its shapes and by running it, never by its name."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import accumulate
from typing import Final, TypeAlias

import torch
from torch import Tensor, nn

from limbeck.errors import LimbeckError, SignalError
from limbeck.models.remade import shapes
from limbeck.models.sizes import Sizes, resized, sizes_of
from limbeck.signals.attention import AttentionRecorder
from limbeck.signals.call import call
from limbeck.signals.layers import attention_layers

HIDDEN: Final = "hidden"
"""The one group of the residual channels: embeddings, norms, whatever reads them or adds to them, and the head."""
HEADS: Final = "heads"
INNER: Final = "inner"


@dataclass(frozen=True)
class Axis:
    """An axis that can be cut: parts one after another, in each of which every unit of ``group`` has so many indices.

    A unit is a residual channel, a neuron, or a head; where query heads share a key head, all that share one.
    ``widths``: of the parts; queries, keys and values that one map gives are three.
    """

    group: str
    widths: tuple[int, ...] = (1,)

    def units(self, size: int) -> int:
        """How many units an axis of ``size`` has."""
        return size // sum(self.widths)

    def places(self, size: int) -> list[Tensor]:
        """The indices of an axis of ``size``, int64 [units, width], by part."""
        ends = [self.units(size) * width for width in accumulate(self.widths)]
        parts = torch.tensor_split(torch.arange(size), ends[:-1])
        return [part.view(-1, width) for part, width in zip(parts, self.widths, strict=True)]

    def of(self, kept: Tensor, size: int) -> Tensor:
        """The indices that the units ``kept`` have, part by part."""
        return torch.cat([part[kept].flatten() for part in self.places(size)])


Axes: TypeAlias = Mapping[str, Mapping[int, Axis]]
"""Of each parameter the axes that can be cut."""


def maps(donor: nn.Module) -> Iterator[tuple[str, nn.Module, int]]:
    """The linear maps of a model: path, module, and the axis of its weight that reads."""
    from transformers.pytorch_utils import Conv1D

    for path, part in donor.named_modules():
        if isinstance(part, nn.Linear | Conv1D):
            yield path, part, 1 if isinstance(part, nn.Linear) else 0


def layer_of(name: str) -> str:
    """The layer that a parameter lies in: its path up to the first number; empty outside of layers."""
    parts = name.split(".")
    place = next((index for index, part in enumerate(parts) if part.isdigit()), -1)
    return ".".join(parts[: place + 1])


def axes_of(donor: nn.Module, columns: Mapping[str, Tensor], inner_alone: bool = False) -> Axes:
    """The axes of a model that can be cut, and what goes with what.

    An axis belongs to what it grows with in a model that is built with a larger size. Where hidden size and heads can only
    grow together, the queries, keys and values of a layer are found by running it, as the linear maps that give just those;
    or they are the one map that gives three of them. The square map that is left reads the heads.

    Args:
        donor: the model, on the CPU, in evaluation mode.
        columns: some rows for it.
        inner_alone: whether only feed-forward parts are to be cut, for which no heads have to be found.

    Raises:
        LimbeckError: a parameter has an axis that cannot be cut, or the attention of a layer is not understood.
    """
    sizes, own = sizes_of(donor), {name: tuple(value.shape) for name, value in donor.state_dict().items()}
    grown: dict[str, Mapping[str, tuple[int, ...]]] = {INNER: _grown(donor, sizes, inner=1)}
    steps = {INNER: 1}
    if not inner_alone and sizes.apart:
        grown |= {HIDDEN: _grown(donor, sizes, hidden=sizes.hidden), HEADS: _grown(donor, sizes, units=1)}
        steps[HIDDEN] = sizes.hidden
    elif not inner_alone:
        grown[HIDDEN], steps[HIDDEN] = _grown(donor, sizes, hidden=sizes.heads), sizes.heads  # each head by one channel
    axes: dict[str, dict[int, Axis]] = {}
    for name, shape in own.items():
        for axis, size in enumerate(shape):
            growth = {group: other[name][axis] - size for group, other in grown.items() if other[name][axis] != size}
            if not growth:
                continue
            found = _axis(growth, size, layer_of(name), sizes, steps)
            if found is None:
                raise LimbeckError(
                    f"{type(donor).__name__} cannot be narrowed: axis {axis} of {name!r} {list(shape)} is neither its "
                    f"hidden size ({sizes.hidden}), nor its heads, nor its inner size ({sizes.inner}), but grows with them."
                )
            axes.setdefault(name, {})[axis] = found
    if not inner_alone and not sizes.apart:
        for name, axis, found in _heads(donor, columns, axes, sizes):
            axes[name][axis] = found
    return axes


def woven(axes: Axes, group: str) -> Axes:
    """The same where one map gives several things and they stand side by side unit by unit, not one after another."""
    return {
        name: {
            axis: Axis(one.group, (sum(one.widths),)) if one.group.startswith(group) else one
            for axis, one in own.items()
        }
        for name, own in axes.items()
    }


def _grown(
    donor: nn.Module, sizes: Sizes, hidden: int = 0, units: int = 0, inner: int = 0
) -> Mapping[str, tuple[int, ...]]:
    """The shapes with larger sizes, of the same names."""
    config = resized(donor, sizes, sizes.hidden + hidden, sizes.heads + units * sizes.shared, sizes.inner + inner)
    found = shapes(donor, config)
    for name in sorted(donor.state_dict().keys() ^ found.keys()):
        raise LimbeckError(f"{type(donor).__name__} cannot be narrowed: {name!r} comes and goes with its sizes.")
    return found


def _axis(growth: Mapping[str, int], size: int, layer: str, sizes: Sizes, steps: Mapping[str, int]) -> Axis | None:
    """What an axis is that grows so much; None if that says nothing."""
    if len(growth) > 1:
        return None
    ((group, more),) = growth.items()
    if group == HEADS:  # by one unit: a key head and the query heads that share it
        widths = sizes.parts(more)
        return Axis(f"{HEADS} {layer}", widths) if size == more * sizes.units else None
    several, rest = divmod(more, steps[group])
    whole = sizes.hidden if group == HIDDEN else sizes.inner
    if rest or size != several * whole:
        return None
    if group == INNER:
        return Axis(f"{INNER} {layer}", (1,) * several)
    if several == 1:
        return Axis(HIDDEN)
    return None if sizes.apart else Axis(f"{HEADS} {layer}", (sizes.head,) * several)


def _heads(
    donor: nn.Module, columns: Mapping[str, Tensor], axes: Axes, sizes: Sizes
) -> Iterator[tuple[str, int, Axis]]:
    """Parameters and axes that run over heads where hidden size and heads grow together."""
    square = {
        path: (layer_of(path), reads)
        for path, _, reads in maps(donor)
        if [one.group for one in axes.get(f"{path}.weight", {}).values()] == [HIDDEN, HIDDEN]
    }
    merged = {one.group for own in axes.values() for one in own.values() if one.group.startswith(HEADS)}
    if merged:
        for group in sorted(merged):
            layer = group.partition(" ")[2]
            inside = [path for path, (own, _) in square.items() if own == layer]
            _demand_one(donor, layer, inside)
            yield f"{inside[0]}.weight", square[inside[0]][1], Axis(group, (sizes.head,))
        return
    for number, three in enumerate(_three(donor, columns, list(square)), start=1):
        layer = layer_of(three[0])
        others = [path for path, (own, _) in square.items() if layer and own == layer and path not in three]
        _demand_one(donor, str(number), others if len({*three, ""}) == 4 else [])
        found = Axis(f"{HEADS} {layer}", (sizes.head,))
        for path in three:
            yield f"{path}.weight", 1 - square[path][1], found
            if f"{path}.bias" in axes:
                yield f"{path}.bias", 0, found
        yield f"{others[0]}.weight", square[others[0]][1], found


def _three(donor: nn.Module, columns: Mapping[str, Tensor], square: list[str]) -> list[list[str]]:
    """For each layer the maps that give its queries, its keys and its values, empty where none does."""
    given: dict[str, Tensor] = {}
    hooks = [
        donor.get_submodule(path).register_forward_hook(lambda _, __, out, path=path: given.__setitem__(path, out))
        for path in square
    ]
    try:
        count = len(attention_layers(donor))
        names = [f"attention.{number}.{kind}" for number in range(1, count + 1) for kind in ("query", "key", "value")]
        with torch.no_grad(), AttentionRecorder(donor, names) as recorder:
            call(donor, columns)
            shown = [recorder.read(name) for name in names]
    except SignalError as error:
        raise LimbeckError(
            f"{type(donor).__name__} cannot be narrowed, as its heads were not found: {error}"
        ) from error
    finally:
        for hook in hooks:
            hook.remove()
    makers = [next((path for path, out in given.items() if torch.equal(out, one)), "") for one in shown]
    return [makers[start : start + 3] for start in range(0, len(makers), 3)]


def _demand_one(donor: nn.Module, layer: str, others: list[str]) -> None:
    if len(others) != 1:
        raise LimbeckError(
            f"{type(donor).__name__} cannot be narrowed: layer {layer} does not attend by linear maps that give queries, keys "
            "and values, and one more for what comes out."
        )

"""A wider model that answers as a narrow one: its units are copied, and what reads them divides them up."""

from collections.abc import Mapping, Sequence
from math import ceil

import torch
from torch import Tensor, nn

from limbeck.errors import LimbeckError
from limbeck.models.axes import HEADS, HIDDEN, INNER, axes_of, maps
from limbeck.models.narrow import kind_of, proven, tied
from limbeck.models.remade import demand_readable, remade
from limbeck.models.sizes import resized, sizes_of


def copies(old: int, new: int) -> Tensor:
    """For each of ``new`` units the one of ``old`` that it is a copy of, int64 [new]: all in turn, again and again."""
    return torch.arange(new) % old


def divided(weight: Tensor, axis: int, places: Tensor) -> Tensor:
    """A weight that reads copies along ``axis``: ``places`` of the old one, each times a share; those of one's copies sum to 1.

    Shares are drawn for each entry, up to three times another's, from the global random state: equal ones would give all copies
    of a unit the same gradient for ever, and so would one for each copy, as optimisers divide by the gradient's size.
    In Net2Net (Chen et al. 2016, arXiv:1511.05641) shares are equal and noise is added, which changes the answers.
    """
    weight = weight.index_select(axis, places)
    drawn = torch.rand(weight.shape, dtype=torch.float64) + 0.5
    shape = list(weight.shape)
    shape[axis] = int(places.max()) + 1
    whole = torch.zeros(shape, dtype=torch.float64).index_add_(axis, places, drawn)
    return (weight.double() * drawn / whole.index_select(axis, places)).to(weight.dtype)


def fitted(own: Mapping[str, Tensor], shapes: Mapping[str, Sequence[int]]) -> dict[str, Tensor]:
    """The tensors of a network of linear maps, convolutions and norms of channels, as those of a wider one of ``shapes``.

    Weights write along their first axis and read along the second.
    """
    named = {}
    for name, value in own.items():
        for axis, (old, new) in enumerate(zip(value.shape, shapes[name], strict=True)):
            if old != new:
                places = copies(old, new)
                value = divided(value, axis, places) if axis == 1 else value.index_select(axis, places)
        named[name] = value
    return named


def widen(donor: nn.Module, columns: Mapping[str, Tensor], wider: float, feed_forward: float) -> nn.Module:
    """A transformers model of the donor's class with ``wider`` times its channels, heads and neurons, of these ``feed_forward``
    times as many again.

    Args:
        donor: on the CPU, in evaluation mode; it is not altered.
        columns: its inputs for some rows.
        wider: a whole number, as norms take the mean over all channels.
        feed_forward: any number from 1.

    Raises:
        LimbeckError: it cannot be made wider so that it answers the same.
    """
    if wider != int(wider):
        raise LimbeckError(
            f"'wider: {wider:g}': the norms of {type(donor).__name__} are over all of its channels, so that it only answers the "
            "same with a whole number of copies of each: take 2, say, or 'feed-forward', which can be any number from 1."
        )
    factor, sizes = int(wider), sizes_of(donor)
    inner = ceil(sizes.inner * wider * feed_forward)
    config = resized(donor, sizes, factor * sizes.hidden, factor * sizes.heads, inner)
    demand_readable(donor, config)
    rows = {name: value[:2] for name, value in columns.items()}
    axes = proven(donor, axes_of(donor, rows, inner_alone=factor == 1), rows)
    units = {HIDDEN: factor * sizes.hidden, HEADS: factor * sizes.heads // sizes.shared, INNER: inner}
    reads = {f"{path}.weight": axis for path, _, axis in maps(donor)}
    if factor > 1 and (both := sorted(tied(donor, reads))):
        raise LimbeckError(
            f"{type(donor).__name__} cannot be made wider: its {both[0]!r} is the table of tokens as well, which can be copied "
            "or divided and not both: make its 'feed-forward' parts wider, or the model 'deeper'."
        )
    named: dict[str, Tensor] = dict(donor.state_dict())
    for name, own in axes.items():
        for index, axis in own.items():
            before = named[name].shape[index]
            places = axis.of(copies(axis.units(before), units[kind_of(axis.group)]), before)
            if reads.get(name) == index:
                named[name] = divided(named[name], index, places)
            else:
                named[name] = named[name].index_select(index, places)
    return remade(donor, config, named)

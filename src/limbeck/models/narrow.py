"""Narrower layers out of a wide model: weight subcloning (Samragh et al. 2023, arXiv:2312.09299)."""

from collections.abc import Iterator, Mapping
from typing import Any, Final

import torch
from torch import Tensor, nn

from limbeck.errors import LimbeckError
from limbeck.models.axes import HEADS, HIDDEN, INNER, Axes, Axis, axes_of, maps, woven
from limbeck.models.remade import demand_readable, remade
from limbeck.models.sizes import Sizes, resized, sizes_of
from limbeck.signals.call import call, logits_of

_PROOF: Final = 1e-4  # of the largest logit; sums in another order differ by 1e-6 of it, a wrong axis by much more
_ROWS: Final = 8  # run at once: of a language model the logits of one text may be 100 MB


def narrow(
    donor: nn.Module,
    columns: Mapping[str, Tensor],
    hidden: int | None = None,
    heads: int | None = None,
    intermediate: int | None = None,
) -> nn.Module:
    """A new model of the donor's class with fewer residual channels, heads and feed-forward neurons.

    The most important are kept, in their order: one choice of residual channels for the whole model, one of heads and one of
    neurons for each layer. A head is kept whole, and so are query heads that share a key head. Important is what enters the
    linear maps that read it with a large mean absolute value, over the tokens of ``columns``; without columns, what they
    read with large weights. Weights that read fewer inputs than before are multiplied by sqrt(before / now), which keeps the
    variance of their sum, but not those of an output that is tied to the embeddings. At full size the answer is the donor's,
    bit for bit.

    Args:
        donor: a transformers model on the CPU, in evaluation mode; it is not altered.
        columns: its inputs for some rows of real data.
        hidden: residual channels; the donor's if None.
        heads: attention heads a layer; the donor's if None.
        intermediate: neurons of a feed-forward part; the donor's if None.

    Raises:
        LimbeckError: larger than the donor, heads that do not divide as the donor's do, or a parameter that cannot be cut.
    """
    sizes = sizes_of(donor)
    asked = (
        ("hidden", hidden, sizes.hidden),
        ("heads", heads, sizes.heads),
        ("intermediate", intermediate, sizes.inner),
    )
    for name, wanted, own in asked:
        if wanted is not None and wanted > own:
            raise LimbeckError(f"'{name}: {wanted}' is more than {type(donor).__name__} has: it has {own}.")
    inner_alone = hidden is None and heads is None
    hidden, heads = hidden or sizes.hidden, heads or sizes.heads
    _demand_whole_heads(donor, sizes, hidden, heads)
    new = resized(donor, sizes, hidden, heads, intermediate or sizes.inner)
    demand_readable(donor, new)
    rows = {name: value[:2] for name, value in (columns or getattr(donor, "dummy_inputs", {})).items()}
    axes = proven(donor, axes_of(donor, rows, inner_alone), rows)
    count = {HIDDEN: hidden, HEADS: heads // sizes.shared, INNER: intermediate or sizes.inner}
    kept = {group: _most(worth, count[kind_of(group)]) for group, worth in importance(donor, axes, columns).items()}
    return remade(donor, new, _cut(donor, axes, kept))


@torch.no_grad()
def importance(donor: nn.Module, axes: Axes, columns: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """How much each unit of each group of axes matters, float64 [units] by group.

    The mean absolute value with which it enters the linear maps that read it, over tokens that are not padding and over
    these maps; without columns the mean norm of the weights that read it.
    """
    found: dict[str, list[Tensor]] = {}
    entered = _entered(donor, axes, columns) if columns else {}
    for path, part, reads, axis in _readers(donor, axes):
        weight: Any = part.weight
        size = entered.get(path) if columns else weight.double().norm(dim=1 - reads)
        if size is not None:  # a map may rest in a run
            places = torch.cat(axis.places(len(size)), 1)
            found.setdefault(axis.group, []).append(size[places].mean(1))
    if missing := {axis.group for own in axes.values() for axis in own.values()} - found.keys():
        raise LimbeckError(f"{type(donor).__name__} cannot be narrowed: nothing reads {sorted(missing)[0]!r} in a run.")
    return {group: torch.stack(values).mean(0) for group, values in found.items()}


def _entered(donor: nn.Module, axes: Axes, columns: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The mean absolute value of each input of the maps that read, float64 by path."""
    sums: dict[str, Tensor] = {}
    counts: dict[str, int] = {}
    part_of: dict[str, Tensor] = {}

    def look(path: str, given: Tensor) -> None:
        size, real = given.abs().double(), part_of.get("attention_mask")
        if real is not None and given.shape[:2] == real.shape:
            size = size[real.bool()]
        size = size.flatten(0, -2)
        sums[path] = sums.get(path, torch.zeros(())) + size.sum(0)
        counts[path] = counts.get(path, 0) + len(size)

    hooks = [
        part.register_forward_pre_hook(lambda _, given, path=path: look(path, given[0]))
        for path, part, _, _ in _readers(donor, axes)
    ]
    try:
        for start in range(0, len(next(iter(columns.values()))), _ROWS):
            part_of = {name: value[start : start + _ROWS] for name, value in columns.items()}
            call(donor, part_of)
    finally:
        for hook in hooks:
            hook.remove()
    return {path: total / counts[path] for path, total in sums.items()}


def _cut(donor: nn.Module, axes: Axes, kept: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The donor's tensors with only the ``kept`` units of each group."""
    named: dict[str, Tensor] = dict(donor.state_dict())
    readers = {f"{path}.weight": reads for path, _, reads, _ in _readers(donor, axes)}
    shared = tied(donor, readers)
    for name, own in axes.items():
        for index, axis in own.items():
            before = named[name].shape[index]
            places = axis.of(kept[axis.group], before)
            named[name] = named[name].index_select(index, places)
            if readers.get(name) == index and name not in shared and before != len(places):
                named[name] = named[name] * (before / len(places)) ** 0.5
    return named


def tied(donor: nn.Module, readers: Mapping[str, int]) -> set[str]:
    """Of the weights that read, ``readers``, those that are something else as well, such as the table of tokens."""
    own = donor.state_dict(keep_vars=True)
    others = {id(value) for name, value in own.items() if name not in readers}
    return {name for name in readers if id(own[name]) in others}


def proven(donor: nn.Module, axes: Axes, columns: Mapping[str, Tensor]) -> Axes:
    """The axes in the one reading of maps that give several things under which units can change places.

    Raises:
        LimbeckError: there is none.
    """
    readings = [axes]
    for kind in (HEADS, INNER):
        if any(len(axis.widths) > 1 and kind_of(axis.group) == kind for own in axes.values() for axis in own.values()):
            readings += [woven(one, kind) for one in readings]
    for one in readings:
        if _holds(donor, one, columns):
            return one
    raise LimbeckError(
        f"{type(donor).__name__} cannot be narrowed: its answers depend on the order of its channels in a way that its "
        "shapes do not show."
    )


@torch.no_grad()
def _holds(donor: nn.Module, axes: Axes, columns: Mapping[str, Tensor]) -> bool:
    """Whether no answer changes when the units of every group are reordered.

    Where the answer is the residual channels themselves, as of an encoder without a head, it comes in their new order.
    """
    draw = torch.Generator().manual_seed(0)
    state = donor.state_dict()
    units = {
        axis.group: axis.units(state[name].shape[index]) for name, own in axes.items() for index, axis in own.items()
    }
    orders = {group: _order(count, draw) for group, count in units.items()}
    known: Any = donor
    other = remade(donor, known.config, _cut(donor, axes, orders)).eval()
    before, after = (logits_of(call(one, columns)).double() for one in (donor, other))
    order = orders.get(HIDDEN)
    expected = [before] if order is None or before.shape[-1] != len(order) else [before, before[..., order]]
    return any(bool((one - after).abs().max() <= _PROOF * before.abs().max()) for one in expected)


def _order(count: int, draw: torch.Generator) -> Tensor:
    """An order of ``count`` in which not all stay where they are."""
    order = torch.randperm(count, generator=draw)
    return order.flip(0) if torch.equal(order, torch.arange(count)) else order


def _readers(donor: nn.Module, axes: Axes) -> Iterator[tuple[str, nn.Module, int, Axis]]:
    """The linear maps that read a group: path, module, and the axis of its weight that does, by place and by group."""
    for path, part, reads in maps(donor):
        axis = axes.get(f"{path}.weight", {}).get(reads)
        if axis is not None:
            yield path, part, reads, axis


def kind_of(group: str) -> str:
    """What a group is of: residual channels, heads, or neurons."""
    return group.partition(" ")[0]


def _most(worth: Tensor, count: int) -> Tensor:
    """The indices of the ``count`` largest in their order; of equal ones the first."""
    return worth.argsort(descending=True, stable=True)[:count].sort().values


def _demand_whole_heads(donor: nn.Module, sizes: Sizes, hidden: int, heads: int) -> None:
    kind, head = type(donor).__name__, sizes.head
    if sizes.apart and heads % sizes.shared:
        raise LimbeckError(
            f"'heads: {heads}' would part query heads that share a key head: {kind} has {sizes.shared} of them for each, so set "
            f"'heads: {max(1, heads // sizes.shared) * sizes.shared}'."
        )
    if not sizes.apart and hidden != heads * head:
        raise LimbeckError(
            f"hidden ({hidden}) is not heads ({heads}) times {head}, the size of a head of {kind}, which is "
            f"kept whole: set 'heads: {max(1, hidden // head)}' and 'hidden: {max(1, hidden // head) * head}'."
        )

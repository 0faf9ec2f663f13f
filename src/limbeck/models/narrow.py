"""Narrower layers out of a wide model: weight subcloning (Samragh et al. 2023, arXiv:2312.09299)."""

from collections.abc import Mapping
from typing import Any, Final

import torch
from torch import Tensor, nn

from limbeck.errors import LimbeckError
from limbeck.models.axes import HIDDEN, Axes, axes_of, inner_size, resized
from limbeck.models.remade import config_of, remade
from limbeck.signals.call import call, logits_of

_PROOF: Final = 1e-4  # of the largest logit; sums in another order differ by 1e-6 of it, a wrong axis by much more


def narrow(
    donor: nn.Module,
    columns: Mapping[str, Tensor],
    hidden: int | None = None,
    heads: int | None = None,
    intermediate: int | None = None,
) -> nn.Module:
    """A new model of the donor's class with fewer residual channels, heads and feed-forward neurons.

    The most important are kept, in their order: one choice of residual channels for the whole model, one of heads and one of
    neurons for each layer. A head is kept whole. Important is what enters the linear maps that read it with a large mean
    absolute value, over the tokens of ``columns``; without columns, what they read with large weights. Weights that read
    fewer inputs than before are multiplied by sqrt(before / now), which keeps the variance of their sum. At full size the
    answer is the donor's, bit for bit.

    Args:
        donor: a transformers model on the CPU, in evaluation mode; it is not altered.
        columns: its inputs for some rows of real data.
        hidden: residual channels; the donor's if None.
        heads: attention heads a layer; the donor's if None.
        intermediate: neurons of a feed-forward part; the donor's if None.

    Raises:
        LimbeckError: larger than the donor, heads that do not divide as the donor's do, or a parameter that cannot be cut.
    """
    config = config_of(donor, "'hidden', 'heads' and 'intermediate'")
    inner = inner_size(config)
    new = resized(config, config.hidden_size, config.num_attention_heads, getattr(config, inner))
    _demand_less(donor, {"hidden": (hidden, new.hidden_size), "heads": (heads, new.num_attention_heads)})
    _demand_less(donor, {"intermediate": (intermediate, getattr(new, inner))})
    inner_alone = hidden is None and heads is None
    hidden, heads = hidden or new.hidden_size, heads or new.num_attention_heads
    head = new.hidden_size // new.num_attention_heads
    if hidden != heads * head:
        raise LimbeckError(
            f"hidden ({hidden}) is not heads ({heads}) times {head}, the size of a head of {type(donor).__name__}, which is "
            f"kept whole: set 'heads: {max(1, hidden // head)}' and 'hidden: {max(1, hidden // head) * head}'."
        )
    new = resized(config, hidden, heads, intermediate or getattr(new, inner))
    rows = {name: value[:2] for name, value in (columns or getattr(donor, "dummy_inputs", {})).items()}
    axes = axes_of(donor, rows, inner_alone)
    _prove(donor, axes, rows, head)
    worth = importance(donor, axes, columns)
    kept = {}
    for group, value in worth.items():
        if group.startswith("heads"):
            kept[group] = _blocks(_most(value.view(-1, head).mean(1), heads), head)
        else:
            kept[group] = _most(value, hidden if group == HIDDEN else getattr(new, inner))
    return remade(donor, new, _cut(donor, axes, kept))


@torch.no_grad()
def importance(donor: nn.Module, axes: Axes, columns: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """How much each index of each group of axes matters, float64 by group.

    The mean absolute value with which it enters the linear maps that read it, over tokens that are not padding and over
    these maps; without columns the mean norm of the weights that read it.
    """
    found: dict[str, list[Tensor]] = {}
    real = columns.get("attention_mask")

    def look(group: str, given: Tensor) -> None:
        size = given.abs().double()
        if real is not None and given.shape[:2] == real.shape:
            size = size[real.bool()]
        found.setdefault(group, []).append(size.flatten(0, -2).mean(0))

    readers = [
        (part, axes[f"{path}.weight"][1]) for path, part in _linear(donor) if 1 in axes.get(f"{path}.weight", {})
    ]
    if columns:
        hooks = [
            part.register_forward_pre_hook(lambda _, given, group=group: look(group, given[0]))
            for part, group in readers
        ]
        try:
            call(donor, columns)
        finally:
            for hook in hooks:
                hook.remove()
    else:
        for part, group in readers:
            found.setdefault(group, []).append(part.weight.double().norm(dim=0))
    if missing := {group for own in axes.values() for group in own.values()} - found.keys():
        raise LimbeckError(f"{type(donor).__name__} cannot be narrowed: nothing reads {sorted(missing)[0]!r} in a run.")
    return {group: torch.stack(values).mean(0) for group, values in found.items()}


def _cut(donor: nn.Module, axes: Axes, kept: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The donor's tensors with only the ``kept`` indices of each group."""
    named: dict[str, Tensor] = dict(donor.state_dict())
    readers = {f"{path}.weight" for path, _ in _linear(donor)}
    for name, own in axes.items():
        for axis, group in own.items():
            before = named[name].shape[axis]
            named[name] = named[name].index_select(axis, kept[group])
            if name in readers and axis == 1 and before != len(kept[group]):
                named[name] = named[name] * (before / len(kept[group])) ** 0.5
    return named


@torch.no_grad()
def _prove(donor: nn.Module, axes: Axes, columns: Mapping[str, Tensor], head: int) -> None:
    """Reorders every group of axes, which must change no answer; raises a `LimbeckError` if it does.

    Where the answer is the residual channels themselves, as of an encoder without a head, it comes in their new order.
    """
    draw = torch.Generator().manual_seed(0)
    sizes = {group: donor.state_dict()[name].shape[axis] for name, own in axes.items() for axis, group in own.items()}
    orders = {}
    for group, size in sizes.items():
        whole = head if group.startswith("heads") else 1
        orders[group] = _blocks(torch.randperm(size // whole, generator=draw), whole)
    known: Any = donor
    other = remade(donor, known.config, _cut(donor, axes, orders)).eval()
    before, after = (logits_of(call(one, columns)).double() for one in (donor, other))
    order = orders.get(HIDDEN)
    expected = [before] if order is None or before.shape[-1] != len(order) else [before, before[..., order]]
    if not any((one - after).abs().max() <= _PROOF * before.abs().max() for one in expected):
        raise LimbeckError(
            f"{type(donor).__name__} cannot be narrowed: its answers depend on the order of its channels in a way that its "
            "shapes do not show."
        )


def _linear(donor: nn.Module) -> list[tuple[str, nn.Linear]]:
    return [(path, part) for path, part in donor.named_modules() if isinstance(part, nn.Linear)]


def _most(worth: Tensor, count: int) -> Tensor:
    """The indices of the ``count`` largest in their order; of equal ones the first."""
    return worth.argsort(descending=True, stable=True)[:count].sort().values


def _blocks(chosen: Tensor, size: int) -> Tensor:
    return (chosen[:, None] * size + torch.arange(size)).flatten()


def _demand_less(donor: nn.Module, sizes: Mapping[str, tuple[int | None, int]]) -> None:
    for name, (wanted, own) in sizes.items():
        if wanted is not None and wanted > own:
            raise LimbeckError(f"'{name}: {wanted}' is more than {type(donor).__name__} has: it has {own}.")

"""Which axes of a transformers model's parameters go together: found by its shapes and by running it, never by its name."""

import copy
from collections.abc import Mapping
from typing import Any, Final, TypeAlias

import torch
from torch import Tensor, nn

from limbeck.errors import LimbeckError, SignalError
from limbeck.models.remade import shapes
from limbeck.signals.attention import AttentionRecorder
from limbeck.signals.call import call
from limbeck.signals.layers import attention_layers

HIDDEN: Final = "hidden"
"""The one group of the residual channels: embeddings, norms, whatever reads them or adds to them, and the head."""

Axes: TypeAlias = Mapping[str, Mapping[int, str]]
"""Of each parameter the axes that can be cut, with their group: `HIDDEN`, or ``heads`` and ``inner`` of one layer."""

_INNER: Final = ("intermediate_size", "hidden_dim", "ffn_dim", "n_inner", "d_ff", "encoder_ffn_dim")
_SAME: Final = ("embedding_size", "pooler_hidden_size")  # of some models as large as the hidden size, and tied to it


def inner_size(config: Any) -> str:
    """What the config calls the inner size of the feed-forward parts.

    Raises:
        LimbeckError: it has no such setting.
    """
    for name in _INNER:
        if isinstance(getattr(config, name, None), int):
            return name
    raise LimbeckError(f"{type(config).__name__} has no inner size of feed-forward parts ({', '.join(_INNER)}).")


def resized(config: Any, hidden: int, heads: int, inner: int) -> Any:
    """A copy of the config with other sizes.

    Raises:
        LimbeckError: it has no hidden size, heads or inner size.
    """
    changed = copy.deepcopy(config)
    for name in ("hidden_size", "num_attention_heads"):
        if not isinstance(getattr(config, name, None), int):
            raise LimbeckError(f"{type(config).__name__} has no number {name!r}, so its layers cannot be narrowed.")
    for name in _SAME:
        if getattr(config, name, None) == config.hidden_size:
            setattr(changed, name, hidden)
    changed.hidden_size, changed.num_attention_heads = hidden, heads
    setattr(changed, inner_size(config), inner)
    return changed


def axes_of(donor: nn.Module, columns: Mapping[str, Tensor], inner_alone: bool = False) -> Axes:
    """The axes of a model that can be cut, and what goes with what.

    An axis is residual or inner if it grows in a model that is built with a larger size. The queries, keys and values of
    a layer are found by running it, as the linear maps that give just those; the fourth square map reads the heads.

    Args:
        donor: the model, on the CPU, in evaluation mode.
        columns: some rows for it.
        inner_alone: whether only feed-forward parts are to be cut, for which no heads have to be found.

    Raises:
        LimbeckError: a parameter has an axis that cannot be cut, or the attention of a layer is not understood.
    """
    whole: Any = donor
    config, own = whole.config, {name: tuple(value.shape) for name, value in donor.state_dict().items()}
    hidden, heads, inner = config.hidden_size, config.num_attention_heads, getattr(config, inner_size(config))
    wider = own if inner_alone else shapes(donor, resized(config, hidden + heads, heads, inner))
    deeper = shapes(donor, resized(config, hidden, heads, inner + 1))
    for name in sorted(own.keys() ^ wider.keys() | own.keys() ^ deeper.keys()):
        raise LimbeckError(f"{type(donor).__name__} cannot be narrowed: {name!r} comes and goes with its sizes.")
    axes: dict[str, dict[int, str]] = {}
    for name, shape in own.items():
        for axis, size in enumerate(shape):
            grows = [
                (group, length)
                for other, group, length in ((wider, HIDDEN, hidden), (deeper, f"inner {layer_of(name)}", inner))
                if other[name][axis] != size
            ]
            if not grows:
                continue
            if len(grows) > 1 or size != grows[0][1]:
                raise LimbeckError(
                    f"{type(donor).__name__} cannot be narrowed: axis {axis} of {name!r} {list(shape)} is neither its "
                    f"hidden size ({hidden}) nor its inner size ({inner}), but grows with them."
                )
            axes.setdefault(name, {})[axis] = grows[0][0]
    for name, axis, group in () if inner_alone else _heads(donor, columns, axes):
        axes[name][axis] = group
    return axes


def layer_of(name: str) -> str:
    """The layer that a parameter lies in: its path up to the first number; empty outside of layers."""
    parts = name.split(".")
    place = next((index for index, part in enumerate(parts) if part.isdigit()), -1)
    return ".".join(parts[: place + 1])


def _heads(donor: nn.Module, columns: Mapping[str, Tensor], axes: Axes) -> list[tuple[str, int, str]]:
    """Parameters and axes that run over heads, with their group."""
    square = {
        path: part
        for path, part in donor.named_modules()
        if isinstance(part, nn.Linear) and list(axes.get(f"{path}.weight", {}).values()) == [HIDDEN, HIDDEN]
    }
    given: dict[str, Tensor] = {}
    hooks = [
        part.register_forward_hook(lambda _, __, out, path=path: given.__setitem__(path, out))
        for path, part in square.items()
    ]
    try:
        count = len(attention_layers(donor))
        names = [f"attention.{number}.{kind}" for number in range(1, count + 1) for kind in ("query", "key", "value")]
        with torch.no_grad(), AttentionRecorder(donor, names) as recorder:
            call(donor, columns)
            shown = {name: recorder.read(name) for name in names}
    except SignalError as error:
        raise LimbeckError(
            f"{type(donor).__name__} cannot be narrowed, as its heads were not found: {error}"
        ) from error
    finally:
        for hook in hooks:
            hook.remove()
    found: list[tuple[str, int, str]] = []
    for number in range(1, count + 1):
        three = [
            next((path for path, out in given.items() if torch.equal(out, shown[f"attention.{number}.{kind}"])), "")
            for kind in ("query", "key", "value")
        ]
        layer = layer_of(three[0])
        others = [path for path in square if layer and layer_of(path) == layer and path not in three]
        if len(set(three)) != 3 or "" in three or len(others) != 1:
            raise LimbeckError(
                f"{type(donor).__name__} cannot be narrowed: layer {number} does not attend by four linear maps, for "
                "queries, keys, values and what comes out."
            )
        group = f"heads {layer}"
        found += [
            (f"{path}.{kind}", 0, group) for path in three for kind in ("weight", "bias") if f"{path}.{kind}" in axes
        ]
        found.append((f"{others[0]}.weight", 1, group))
    return found

"""A deeper model that answers as before: each new layer begins as one that changes nothing (Net2Net, Chen et al. 2016)."""

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

from limbeck.errors import LimbeckError
from limbeck.models.axes import HIDDEN, axes_of, maps
from limbeck.models.depth import arranged, longest, stack_of
from limbeck.models.same import same


def repeated(count: int, more: int) -> tuple[int, ...]:
    """The indices of ``count`` layers in order, ``more`` of them said again, spread evenly; the last one if it is one."""
    again = [count * (2 * index + 1) // (2 * more) for index in range(more)]
    return tuple(sorted([*range(count), *again]))


def deepen(donor: nn.Module, columns: Mapping[str, Tensor], more: int, at: str | None = None) -> nn.Module:
    """A transformers model of the donor's class with ``more`` layers, each a copy of the one before it that adds nothing yet.

    What a new layer adds to the residual channels is set to zero: the maps that write there from its heads and its neurons, which
    get a gradient from the first step. Where norms follow on the sum (as in BERT) scale and shift of the last norm before the new
    layer are given to its own last norm, as what is normalised twice is as if it was once.

    Args:
        donor: on the CPU, in evaluation mode; it is not altered.
        columns: its inputs for some rows.
        more: how many.
        at: the path of its list of layers; the longest one if None.

    Raises:
        LimbeckError: no such place, or no layer that changes nothing can be made of those that it has.
    """
    path = at if at is not None else longest(donor)
    layers = repeated(len(stack_of(donor, path)), more)
    new = [place for place, index in enumerate(layers) if place and layers[place - 1] == index]
    module = arranged(donor, path, layers).eval()
    with torch.no_grad():
        for name, value in _written(module, columns):
            if any(name.startswith(f"{path}.{place}.") for place in new):
                value.zero_()
        if same(donor, module, columns):
            return module
        stack = stack_of(module, path)
        for place in new:
            _move_norm(stack[place - 1], stack[place])
    if not same(donor, module, columns):
        raise LimbeckError(
            f"{type(donor).__name__} cannot be made deeper: a copy of one of its layers at {path!r} changes the answers even "
            "when it adds nothing."
        )
    return module


def _written(module: nn.Module, columns: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    """Weights and biases of the maps that write to the residual channels and read something else."""
    rows = {name: value[:2] for name, value in columns.items()}
    axes = axes_of(module, rows)
    for path, part, reads in maps(module):
        own = axes.get(f"{path}.weight", {})
        if reads in own and 1 - reads in own and own[1 - reads].group == HIDDEN != own[reads].group:
            yield from part.named_parameters(path, recurse=False)


def _move_norm(before: nn.Module, after: nn.Module) -> None:
    """Scale and shift of the last norm of one layer to the last of the next, all norms in between left plain."""
    norms = [[part for part in layer.modules() if isinstance(part, nn.LayerNorm)] for layer in (before, after)]
    if not all(norms):
        return
    (*_, last), (*between, end) = norms
    for name in ("weight", "bias"):
        getattr(end, name).copy_(getattr(last, name))
        for plain in (last, *between):
            getattr(plain, name).fill_(1.0 if name == "weight" else 0.0)

"""How much each layer changes what goes through it: Block Influence (ShortGPT, Men et al. 2024, arXiv:2403.03853)."""

from collections.abc import Mapping
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from limbeck.errors import LimbeckError
from limbeck.models.depth import stack_of
from limbeck.signals.call import call
from limbeck.signals.capture import bare

_ROWS: Final = 8  # run at once: of a language model the logits of one text may be 100 MB


@torch.no_grad()
def influence(donor: nn.Module, columns: Mapping[str, Tensor], at: str | None = None) -> Tensor:
    """1 - the mean cosine similarity of a layer's input and output, float64 [layers]; from 0 (changes nothing) to 2.

    Of texts the mean is over the tokens that are not padding; of other inputs over examples.

    Args:
        donor: any module with a list of layers, in evaluation mode.
        columns: its inputs for some rows of real data.
        at: the path of the list; the longest if None.

    Raises:
        LimbeckError: no such place, a layer does not run, or gives something of another shape than it gets.
    """
    donor = bare(donor)
    layers = list(stack_of(donor, at))
    sums, counts = torch.zeros(len(layers), dtype=torch.float64), torch.zeros(len(layers), dtype=torch.float64)
    part: dict[str, Tensor] = {}

    def look(index: int, layer: nn.Module, given: tuple[Any, ...], named: Mapping[str, Any], out: Any) -> None:
        before, after = _first((*given, *named.values())), _first(out if isinstance(out, tuple | list) else (out,))
        if before is None or after is None or before.shape != after.shape:
            raise LimbeckError(
                f"'choose: important' compares what goes into a layer with what comes out, and layer {index} "
                f"({type(layer).__name__}) gives another shape: choose uniform, last or first."
            )
        if before.ndim != 3:
            before, after = before.flatten(1), after.flatten(1)
        alike = F.cosine_similarity(before.double(), after.double(), dim=-1)
        real = part.get("attention_mask")
        alike = alike[real.bool()] if real is not None and real.shape == alike.shape else alike.flatten()
        sums[index] += (1 - alike).sum()
        counts[index] += len(alike)

    hooks = [
        layer.register_forward_hook(
            lambda layer, given, named, out, index=index: look(index, layer, given, named, out), with_kwargs=True
        )
        for index, layer in enumerate(layers)
    ]
    try:
        for start in range(0, len(next(iter(columns.values()))), _ROWS):
            part = {name: value[start : start + _ROWS] for name, value in columns.items()}
            call(donor, part)
    finally:
        for hook in hooks:
            hook.remove()
    if still := (counts == 0).nonzero()[:, 0].tolist():
        raise LimbeckError(f"'choose: important' found that the layers {still} of {type(donor).__name__} do not run.")
    return sums / counts


def _first(values: Any) -> Tensor | None:
    return next((one for one in values if isinstance(one, Tensor) and one.is_floating_point()), None)

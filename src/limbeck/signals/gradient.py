"""The signal ``gradient``: how a random combination of the logits changes with the input."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from limbeck.errors import SignalError
from limbeck.signals.inputs import embeddings, floating, followed

GRADIENT = "gradient"


def signs(keys: Tensor, classes: int) -> Tensor:
    """A vector of -1 and 1 for each key, [B, classes]: the same for the same key, on any machine.

    Both sides combine their logits by it, so that only the direction is random (Czarnecki et al. 2017, arXiv:1706.04859).
    """
    column = torch.arange(1, classes + 1, device=keys.device)
    mixed = keys.unsqueeze(-1) * 2654435761 + column * 40503  # multiplicative hashing, in 64 bits that wrap
    mixed = (mixed ^ (mixed >> 15)) * 2246822519
    mixed = (mixed ^ (mixed >> 13)) * 3266489917
    return ((mixed >> 17) & 1).double() * 2 - 1


class InputGradient:
    """Watches what a model's input does to its logits, for one call.

    The input is the floating column, or for token ids the output of the model's embeddings.
    """

    def __init__(self, bare: nn.Module, columns: Mapping[str, Tensor]) -> None:
        self._input: Tensor | None = None
        self.columns = dict(columns)
        column = floating(columns)
        self._embeddings = embeddings(bare, GRADIENT) if column is None else None
        if column is not None:
            self._input = self.columns[column] = columns[column].detach().requires_grad_()

    @property
    def hooked(self) -> bool:
        """Whether the input is found inside the model."""
        return self._embeddings is not None

    @contextmanager
    def watching(self) -> Iterator[None]:
        """While the model runs: attention is computed in the form that can be differentiated twice."""
        from torch.nn.attention import SDPBackend, sdpa_kernel

        def keep(_: nn.Module, __: Any, output: Tensor) -> Tensor:
            self._input = followed(output)
            return self._input

        hook = self._embeddings.register_forward_hook(keep) if self._embeddings is not None else None
        try:
            with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):
                yield
        finally:
            if hook:
                hook.remove()

    def read(self, logits: Tensor, keys: Tensor, graph: bool) -> Tensor:
        """The gradient of ``sum_c signs(key)_c logits_c`` for each example, in the shape of the input.

        Raises:
            SignalError: the logits are not [B, C], or no graph leads from them back to the input.
        """
        if logits.ndim != 2:
            raise SignalError(
                f"'{GRADIENT}' is of the logits of one answer an example, [batch, outputs], but these are {list(logits.shape)}: "
                "the task has an answer for each token or text of an example. Compare layers in its place, such as with 'hints', "
                "or the answers themselves."
            )
        found = None
        with torch.enable_grad():  # a teacher is asked without a graph
            combined = (signs(keys.to(logits.device), logits.shape[-1]).to(logits.dtype) * logits).sum()
        if self._input is not None and combined.requires_grad:
            (found,) = torch.autograd.grad(
                combined, self._input, create_graph=graph, retain_graph=True, allow_unused=True
            )
        if found is None:
            raise SignalError(
                f"'{GRADIENT}': no graph leads from the logits back to the input (a forward that detaches or runs without a "
                "graph does that, or an earlier compilation): choose another signal."
            )
        return found

"""The signal ``perturbed.<epsilon>``: a model's logits a step away from the input, where its own answer is less likely."""

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from limbeck.errors import SignalError
from limbeck.signals.inputs import embeddings, floating, followed

_NAME = re.compile(r"perturbed\.(\d+(?:\.\d+)?(?:e[+-]?\d+)?)")


def perturbed(epsilon: float) -> str:
    """The signal's name for a step of this length."""
    return f"perturbed.{epsilon}"


def step_of(name: str) -> float | None:
    """The length of the step that a signal's name says; None for other signals."""
    found = _NAME.fullmatch(name)
    return float(found[1]) if found else None


def is_logits(name: str) -> bool:
    """Whether a signal is logits: at the input as it is, or a step away from it."""
    return name == "logits" or step_of(name) is not None


class Perturbation:
    """Finds the direction in which a model's own answer becomes less likely, and moves its input there, for one call.

    The fast gradient method (Goodfellow et al. 2015, arXiv:1412.6572) with a step of given length over the whole example,
    and the model's own most probable class as the label. The input is the floating column, or for token ids the output of
    the model's embeddings (Miyato et al. 2017, arXiv:1605.07725, who normalise them first). What ``attention_mask`` leaves
    out is not moved, and no answer is read there. The direction has no graph and leaves no gradient on parameters.

    Dropout draws anew for the second pass, and batch normalisation that is trained counts both passes.

    Args:
        bare: the unwrapped model.
        columns: what it reads.

    Raises:
        SignalError: there are neither one floating column nor embeddings.
    """

    def __init__(self, bare: nn.Module, columns: Mapping[str, Tensor]) -> None:
        self.columns = dict(columns)
        self._mask = columns["attention_mask"].bool() if "attention_mask" in columns else None
        self._input: Tensor | None = None
        self._direction: Tensor | None = None
        self._column = floating(columns)
        self._embeddings = embeddings(bare, "perturbed") if self._column is None else None
        if self._column is not None:
            self._input = self.columns[self._column] = followed(columns[self._column])

    @property
    def hooked(self) -> bool:
        """Whether the input is found inside the model."""
        return self._embeddings is not None

    @contextmanager
    def watching(self) -> Iterator[None]:
        """While the model runs on ``columns``: at the input as it is.

        Raises:
            SignalError: the embeddings run several times.
        """

        def keep(output: Tensor) -> Tensor:
            self._input = followed(output)
            return self._input

        with torch.enable_grad(), self._changing(keep) as ran:  # a teacher is asked without a graph
            yield
        if len(ran) > 1:
            raise SignalError(
                f"'perturbed': the embeddings of the model run {len(ran)} times in one pass, so that there is no one input to "
                "move: choose another signal."
            )

    def aim(self, logits: Tensor) -> None:
        """Finds the direction from what the model gave at the input as it is, [B, C], or [B, L, C] of L answers.

        Raises:
            SignalError: no graph leads from the logits back to the input.
        """
        found = None
        if self._input is not None and logits.requires_grad:
            slope = against(logits.detach(), self._mask if logits.ndim == 3 else None)
            (found,) = torch.autograd.grad(logits, self._input, slope, retain_graph=True, allow_unused=True)
        if found is None:
            raise SignalError(
                "'perturbed': no graph leads from the logits back to the input (a forward that detaches or runs without a graph "
                "does that, or an earlier compilation): choose another signal."
            )
        self._direction = unit(_only(found, self._mask))

    @contextmanager
    def moved(self, epsilon: float) -> Iterator[dict[str, Tensor]]:
        """While the model runs again: the column that is moved, by ``epsilon``; embeddings are moved inside the model.

        Raises:
            SignalError: the embeddings did not run once.
        """
        assert self._input is not None
        assert self._direction is not None, "aim first"
        step = (epsilon * self._direction).to(self._input.dtype)
        with self._changing(lambda output: output + step) as ran:
            yield {} if self._column is None else {self._column: self._input.detach() + step}
        if self.hooked and len(ran) != 1:
            raise SignalError(
                f"'perturbed': the embeddings of the model ran {len(ran)} times for the input that is moved, and once before "
                "(an earlier compilation can do that): choose another signal."
            )

    @contextmanager
    def _changing(self, change: Callable[[Tensor], Tensor]) -> Iterator[list[None]]:
        """While the model runs: its embeddings give what ``change`` makes of their output. Yields one item a time they ran."""
        ran: list[None] = []

        def hook(_: nn.Module, __: Any, output: Tensor) -> Tensor:
            ran.append(None)
            return change(output)

        with nullcontext() if self._embeddings is None else self._embeddings.register_forward_hook(hook):
            yield ran


def against(logits: Tensor, mask: Tensor | None = None) -> Tensor:
    """The slope of the cross-entropy of logits [B, ..., C] with their own largest, in units of an example's largest 1 - p.

    The unit does not change the direction. ``p - onehot`` is worked out from logs, so that the slope of an answer that is
    certain to the last digit does not vanish; that of an only class is 0. ``mask``: bool [B, L], the answers that count.
    """
    wide = logits if logits.dtype == torch.float64 else logits.float()
    own = wide.argmax(-1, keepdim=True)
    others = wide.log_softmax(-1).scatter(-1, own, -torch.inf)
    doubt = _only(others.logsumexp(-1, keepdim=True), mask, -torch.inf)  # log(1 - p)
    largest = doubt.flatten(1).amax(1).view(-1, *[1] * (logits.ndim - 1))
    largest = torch.where(largest.isneginf(), 0.0, largest)
    slope = (others - largest).exp().scatter(-1, own, -(doubt - largest).exp())
    return _only(slope, mask).to(logits.dtype)


def unit(value: Tensor) -> Tensor:
    """Each example at length 1 over all that it has, at least in single precision; zero stays zero."""
    flat = (value if value.dtype == torch.float64 else value.float()).flatten(1)
    tiny = torch.finfo(flat.dtype).tiny
    flat = flat / flat.abs().amax(1, keepdim=True).clamp_min(tiny)  # squares neither overflow nor vanish
    length = flat.square().sum(1, keepdim=True).sqrt()
    return (flat / length.clamp_min(tiny)).view(value.shape)


def _only(value: Tensor, mask: Tensor | None, fill: float = 0.0) -> Tensor:
    """``value`` where the mask [B, L] says so, else ``fill``; whole where it has no such positions."""
    if mask is None or mask.shape != value.shape[: mask.ndim]:
        return value
    return torch.where(mask.view(*mask.shape, *[1] * (value.ndim - mask.ndim)), value, fill)

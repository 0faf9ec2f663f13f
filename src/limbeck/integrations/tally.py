"""The parts of the loss from step to step: their means for a log, and whether a term says nothing."""

from collections.abc import Callable, Mapping, Sequence
from typing import final

import torch
from torch import Tensor

from limbeck.training.silence import silent

KEPT = ".kept"  # behind the name of a term: the share that its gate kept


@final
class Tally:
    """Sums of the parts, kept on their device; see `Objective`.

    Args:
        names: of the terms.
        every: steps of an epoch; 0 if nobody knows.
        reduced: sums a tensor over the processes.
    """

    def __init__(self, names: Sequence[str], every: int, reduced: Callable[[Tensor], Tensor]) -> None:
        self._names, self._every, self._reduced = tuple(names), every, reduced
        self._sums: dict[str, Tensor] = {}
        self._loudest: dict[str, Tensor] = {}
        self._steps, self._of_epoch = 0, 0

    def add(self, parts: Mapping[str, Tensor]) -> None:
        """The parts of one micro-batch, each divided by the denominator of the whole step."""
        for name, value in parts.items():
            self._sums[name] = self._sums.get(name, torch.zeros_like(value)) + value.detach()
        for name in self._names:
            if name in parts:
                kept = parts.get(name + KEPT)
                loud = parts[name].detach().abs() if kept is None else torch.where(kept > 0, parts[name].abs(), -1.0)
                self._loudest[name] = torch.maximum(self._loudest.get(name, torch.full_like(loud, -1.0)), loud)

    def stepped(self) -> None:
        """A step is done.

        Raises:
            LimbeckError: a term was exactly zero in every step of an epoch, though it weighs and kept examples.
        """
        self._steps += 1
        self._of_epoch += 1
        if self._of_epoch != self._every:
            return
        rows = [[float(value) for value in self._spoke(name)] for name in self._names]
        for name, (heard, loud) in zip(self._names, self._reduced(torch.tensor(rows)).tolist(), strict=True):
            if heard and not loud:
                raise silent(name)
        self._of_epoch, self._loudest = 0, {}

    def _spoke(self, name: str) -> tuple[bool, bool]:
        """Whether the term had examples, and whether it was ever above 0."""
        loudest = self._loudest.get(name)
        return (False, False) if loudest is None else (bool(loudest >= 0), bool(loudest > 0))

    def means(self) -> dict[str, float]:
        """Each part's mean over the steps since the last time: ``loss/labels``, and ``kept/labels`` of its gate."""
        names = [name + end for name in self._names for end in ("", KEPT)]
        zero = torch.zeros(())
        sums = [self._sums.get(name, zero).float().cpu() for name in names] + [
            torch.tensor(float(name in self._sums)) for name in names
        ]
        told = self._reduced(torch.stack(sums)).tolist()
        steps, self._sums, self._steps = max(1, self._steps), {}, 0
        return {
            (f"kept/{name.removesuffix(KEPT)}" if name.endswith(KEPT) else f"loss/{name}"): value / steps
            for name, value, there in zip(names, told, told[len(names) :], strict=False)
            if there
        }

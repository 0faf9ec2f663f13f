"""`Batch`: what one step reads. ``(id, view)`` names exactly one input, so nothing can be misaligned."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Self

import torch
from torch import Tensor

REAL = "real"  # rows that count; False for padding rows of a short rank
SUPERVISED = "supervised"  # rows whose label the student may see
TOKENS = "tokens"  # [batch, length]: positions that are not padding
ALIKE = "alike"  # rows that both sides read as the same tokens; there where the teacher has tokens of its own
WRITTEN = "written"  # rows that the student wrote in this step; nobody writes where there is no such mask
GIVEN = "given"  # all the others
DECODED = "decoder_input_ids"  # the column of what a decoder is told of a text, int64 [batch, length]
CLASS = "class"  # the column of class labels
VALUE = "value"  # the column of numbers to learn
DOMAIN = "domain"  # the column of the domains that rows are from, where the data names them
NO_LABEL = -100


def _frozen(columns: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    return MappingProxyType(dict(columns))


@dataclass(frozen=True, slots=True)
class Batch:
    """One batch, frozen.

    ``inputs``: columns by name, first dimension B. A name ``teacher.x`` is column ``x`` of the teacher alone.
    ``labels``: ``class`` as int64 [B] (``NO_LABEL`` where there is none) or, when mixed, probabilities [B, classes]; other
    tasks have other columns (see `limbeck.data.task`). ``domain``, int64 [B], where the data says what a row is from.
    ``masks``: boolean, [B] or [B, length]; ``real`` and ``supervised`` are always there.
    ``ids``: int64 [B], row numbers of the finished data set. ``views``: int64 [B], augmentation seeds, 0 = as it is.
    """

    inputs: Mapping[str, Tensor]
    labels: Mapping[str, Tensor]
    masks: Mapping[str, Tensor]
    ids: Tensor
    views: Tensor = field(repr=False)

    def __post_init__(self) -> None:
        for name in ("inputs", "labels", "masks"):
            object.__setattr__(self, name, _frozen(getattr(self, name)))

    @classmethod
    def of(cls, inputs: Mapping[str, Tensor] | Tensor, labels: Tensor | None = None, ids: Tensor | None = None) -> Self:
        """A batch from one's own loop, on the inputs' device.

        Every row is real, and supervised where it has a label that is not negative.
        """
        columns = {"x": inputs} if isinstance(inputs, Tensor) else dict(inputs)
        rows = len(next(iter(columns.values())))
        real = torch.ones(rows, dtype=torch.bool)
        device = next(iter(columns.values())).device
        labels = torch.full((rows,), NO_LABEL) if labels is None else labels
        supervised = real.clone() if labels.ndim > 1 else (labels >= 0).cpu()
        masks = {REAL: real, SUPERVISED: supervised}
        if "attention_mask" in columns:
            masks[TOKENS] = columns["attention_mask"].bool()
        ids = torch.arange(rows) if ids is None else ids
        return cls(columns, {CLASS: labels}, masks, ids, torch.zeros(rows, dtype=torch.int64)).to(device)

    def __reduce__(self) -> tuple[Any, ...]:  # read-only mappings do not travel between processes; dicts do
        return type(self), (dict(self.inputs), dict(self.labels), dict(self.masks), self.ids, self.views)

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def keys(self) -> Tensor:
        """A number for each input, int64 [B]: the same for the same id and view."""
        return self.ids * 1_000_003 + self.views

    def each(self, act: Callable[[Tensor], Tensor]) -> Self:
        """The batch whose tensors are what ``act`` makes of them, in the order of the columns."""
        return type(self)(
            {name: act(value) for name, value in self.inputs.items()},
            {name: act(value) for name, value in self.labels.items()},
            {name: act(value) for name, value in self.masks.items()},
            act(self.ids),
            act(self.views),
        )

    def to(self, device: torch.device | str) -> Self:
        """The batch on ``device``."""
        return self.each(lambda value: value.to(device, non_blocking=True))

    def select(self, index: Tensor) -> Self:
        """The rows at ``index`` (int64 or boolean [B]), in that order."""
        return self.each(lambda value: value[index.to(value.device)])

    def columns(self, side: str) -> dict[str, Tensor]:
        """The input columns that ``side`` (``student`` or ``teacher``) reads: its own ones if it has any, else the shared."""
        own = {name.partition(".")[2]: value for name, value in self.inputs.items() if name.startswith(side + ".")}
        return own or {name: value for name, value in self.inputs.items() if "." not in name}

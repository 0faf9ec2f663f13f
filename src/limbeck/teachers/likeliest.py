"""The likeliest tokens at each position of a text, as those tell them whose distributions are not here."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from limbeck.losses.divergences import FLOOR
from limbeck.signals.logits import TopK

NO_CLASS: Final = -1


@dataclass(frozen=True, slots=True)
class Row:
    """What a model thinks of the n tokens of one text: ``ids`` int32 [n, k], likeliest first, ``logs`` float32 [n, k].

    Position i is about token i + 1; the last one, about a token that the text does not have, is empty.
    """

    ids: NDArray[np.int32]
    logs: NDArray[np.float32]

    @classmethod
    def empty(cls, length: int, top: int) -> "Row":
        """Nothing is known."""
        return cls(np.full((length, top), NO_CLASS, np.int32), np.full((length, top), FLOOR, np.float32))

    def packed(self) -> bytes:
        """The bytes that are kept."""
        return (
            np.array(self.ids.shape, "<i4").tobytes()
            + self.ids.astype("<i4").tobytes()
            + self.logs.astype("<f4").tobytes()
        )

    @classmethod
    def unpacked(cls, content: bytes) -> "Row":
        """What `packed` made bytes of."""
        length, top = np.frombuffer(content[:8], "<i4").tolist()
        ids, logs = np.frombuffer(content[8:], "<i4").reshape(2, length, top)
        return cls(ids.astype(np.int32), logs.view("<f4").astype(np.float32))

    @property
    def fewest(self) -> int:
        """How many tokens the position has that has fewest, of those that are about a token."""
        return int((self.ids[:-1] != NO_CLASS).sum(1).min()) if len(self.ids) > 1 else 0


def at_tokens(rows: Sequence[Row | None], mask: Tensor, width: int, classes: int, device: torch.device) -> TopK:
    """Rows of up to ``width`` tokens a position where the tokens of a batch stand, ``mask`` bool [B, L]; None: of one nothing."""
    every = Row.empty(mask.numel(), width)
    ids, logs = every.ids.reshape(*mask.shape, width), every.logs.reshape(*mask.shape, width)
    for place, row in enumerate(rows):
        if row is not None:
            where, top = np.flatnonzero(mask[place].numpy()), row.ids.shape[1]
            ids[place, where, :top] = np.maximum(row.ids, NO_CLASS)
            logs[place, where, :top] = row.logs
    return TopK(torch.from_numpy(ids).to(device), torch.from_numpy(logs).to(device), classes)

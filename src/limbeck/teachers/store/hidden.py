"""The hidden states that logits are made of: every class is known, if the teacher's head is at hand."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Final, Literal, cast

import numpy as np
import torch
from torch import Tensor

from limbeck.config import Config, digest
from limbeck.data.fingerprint import tensors
from limbeck.errors import SignalError
from limbeck.losses.offer import Offer
from limbeck.losses.storages import Chunked, Head, Storage
from limbeck.teachers.store.frame import Frames, Kept, Rows, framed

_DTYPES: Final = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32}


def head_fingerprint(head: Head) -> str:
    """Names a head: its weight, bias, softcap and scale."""
    named = {"weight": head.weight} if head.bias is None else {"weight": head.weight, "bias": head.bias}
    return digest([tensors(named), head.softcap, head.scale])


class HiddenCodec(Config):
    """What the head of a language model reads, d numbers a token, in place of V logits."""

    name: Literal["hidden"] = "hidden"
    dtype: Literal["float16", "bfloat16", "float32"] = "float32"
    """Of the hidden states; that of the teacher stores them exactly."""

    def made(self, head: Head | None = None) -> "HiddenStates":
        """The codec for one teacher's head.

        Raises:
            SignalError: there is none.
        """
        if head is None:
            raise SignalError(
                "Where hidden states are stored in place of logits, the teacher's head makes logits of them, and it is not here: "
                "give it, or store top-k or sampled logits."
            )
        return HiddenStates(self, head)

    @staticmethod
    def demand(wanted: str, found: str) -> None:
        """Raises a SignalError unless both fingerprints name one head."""
        if wanted != found:
            raise SignalError(
                f"The stored hidden states belong to the head {wanted[:12]}, and the one given is {found[:12]}, which would make "
                "other logits of them. Give the head of the teacher that was stored, or label anew."
            )


@dataclass(frozen=True)
class HiddenStates:
    """`HiddenCodec` with the head that it belongs to."""

    offers: ClassVar[Offer] = Offer.ROWS

    settings: HiddenCodec
    head: Head

    @property
    def name(self) -> str:
        """See `Codec.name`."""
        return self.settings.name

    @cached_property
    def fingerprint(self) -> str:
        """Of the head."""
        return head_fingerprint(self.head)

    def plain(self) -> dict[str, Any]:
        """See `Codec.plain`; with the head's fingerprint."""
        return {**self.settings.plain(), "head": self.fingerprint}

    def encode(self, logits: Storage, rows: Rows) -> Tensor:
        """See `Codec.encode`."""
        if logits.offers is not Offer.ROWS:
            raise SignalError(
                f"The codec hidden stores hidden states with their head, and the teacher shows logits as "
                f"{logits.offers.name.lower()}: store top-k or sampled logits."
            )
        shown = cast(Chunked, logits)
        if not _same(shown.head, self.head):
            HiddenCodec.demand(self.fingerprint, head_fingerprint(shown.head))
        kept = Kept.of(logits, rows)
        hidden = shown.at(kept.places).hidden.detach().to("cpu", _DTYPES[self.settings.dtype]).contiguous()
        sound = hidden.isfinite().all(-1).numpy()
        raw = hidden.view(torch.uint8).numpy()
        return framed(logits, rows, kept, sound, lambda own: raw[own].reshape(-1))

    def decode(self, rows: Tensor, counted: Tensor | None = None, device: torch.device | str = "cpu") -> Chunked:
        """See `Codec.decode`; the head stays where it is."""
        frames = Frames(rows, counted)
        dtype, width = _DTYPES[self.settings.dtype], self.head.weight.shape[1]
        (parts,) = frames.parts([[n * width * dtype.itemsize for n in frames.counts]])
        raw = torch.from_numpy(np.concatenate([np.empty(0, np.uint8), *parts]))
        return Chunked(frames.spread(raw.view(dtype).view(-1, width), 0.0, device), self.head)


def _same(one: Head, other: Head) -> bool:
    """Whether two heads are one piece of memory, read alike."""

    def place(head: Head) -> tuple[Any, ...]:
        bias = None if head.bias is None else head.bias.data_ptr()
        return head.weight.data_ptr(), tuple(head.weight.shape), bias, head.softcap, head.scale

    return place(one) == place(other)

"""The likeliest classes of every token with their log-probabilities, and what all the others have together."""

from typing import ClassVar, Final, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from limbeck.config import Config
from limbeck.losses.divergences import FLOOR
from limbeck.losses.offer import Offer
from limbeck.losses.sparse import TopK
from limbeck.losses.storages import Head, Storage
from limbeck.teachers.store import bits
from limbeck.teachers.store.frame import Frames, Kept, Rows, framed
from limbeck.teachers.store.vocabulary import chunks, known_and_rest, likeliest

_LEAST: Final = 2.0**-20  # 16 times the spacing of float32 below 1


class TopKCodec(Config):
    """k classes a token and the log of the rest's probability: ``k (ceil(log2 V) + 16) / 8 + 2`` bytes in half precision.

    Divergences over these outcomes are at most the full ones, and biased. The label is always among the k: where it is not, it
    takes the place of the least likely.
    """

    offers: ClassVar[Offer] = Offer.OUTCOMES

    name: Literal["top-k"] = "top-k"
    k: int = Field(default=50, ge=1)
    """How many classes."""
    dtype: Literal["float16", "float32"] = "float16"
    """Of the log-probabilities; in half precision each probability is right to 1 part in 1000, and nearer where it is large."""

    def made(self, head: Head | None = None) -> "TopKCodec":
        """Itself."""
        return self

    def encode(self, logits: Storage, rows: Rows) -> Tensor:
        """See `Codec.encode`."""
        kept = Kept.of(logits, rows)
        k, labels = min(self.k, logits.classes), kept.labels(rows)
        ids = np.empty((len(kept.places), k), dtype=np.int64)
        logs = np.empty((len(kept.places), k + 1), dtype=np.float64)
        for place, chunk in chunks(logits, kept.places):
            _, own = likeliest(chunk, k)
            if labels is not None:
                own = _with(own, labels[place].to(own.device), logits.classes)
            known, rest = known_and_rest(chunk, own)
            ids[place], logs[place] = own.cpu().numpy(), torch.cat([known, rest], 1).cpu().numpy()
        sound = np.asarray(~np.isnan(logs).any(1))
        few = np.maximum(np.where(sound[:, None], logs, 0), FLOOR).astype("<f2" if self.dtype == "float16" else "<f4")
        width = bits.width_of(logits.classes)

        def body(own: slice) -> bits.Bytes:
            return np.concatenate([bits.packed(ids[own].reshape(-1), width), few[own].reshape(-1).view(np.uint8)])

        return framed(logits, rows, kept, sound, body)

    def decode(self, rows: Tensor, counted: Tensor | None = None, device: torch.device | str = "cpu") -> TopK:
        """See `Codec.decode`."""
        frames = Frames(rows, counted)
        k, width = min(self.k, frames.classes), bits.width_of(frames.classes)
        item = 2 if self.dtype == "float16" else 4
        counts = [n * k for n in frames.counts]
        packed, raw = frames.parts(
            [[bits.size_of(n, width) for n in counts], [n * (k + 1) * item for n in frames.counts]]
        )
        ids = torch.from_numpy(bits.unpacked(packed, counts, width)).view(-1, k)
        logs = np.concatenate([np.empty(0, np.uint8), *raw]).view(f"<f{item}").reshape(-1, k + 1)
        return TopK(
            frames.spread(ids, -1, device),
            frames.spread(_exact(torch.from_numpy(logs), k == frames.classes), FLOOR, device),
            frames.classes,
        )


def _with(ids: Tensor, labels: Tensor, classes: int) -> Tensor:
    """``ids`` [n, k], the least likely of them replaced by the label where that is none of them."""
    absent = (labels >= 0) & (labels < classes) & ~(ids == labels[:, None]).any(1)
    ids[:, -1] = torch.where(absent, labels, ids[:, -1])
    return ids


def _exact(logs: Tensor, whole: bool) -> Tensor:
    """Log-probabilities of k outcomes and the rest [N, k + 1], rounded, as float32 [N, k] that leave the rest what it is.

    Rounded probabilities may add up to more than 1, and what they leave is far off where it is small. So the rest is stored too,
    all are scaled to add up to 1, and then rounded down. Unless these are the ``whole`` distribution they leave `_LEAST`: what
    reads them takes the rest for 1 less a sum, in float32, and the logarithm of 0 would be infinitely wrong in a reverse KL.
    """
    shares = logs.double().numpy()
    p = np.exp(shares)  # twice as fast as torch's
    rest = p[:, -1:]
    total = p[:, :-1].sum(1, keepdims=True)
    total += rest if whole else np.maximum(rest, _LEAST * total)
    known = np.clip(shares[:, :-1] - np.log(total), FLOOR, 0)
    single = known.astype(np.float32)
    single.view(np.int32)[...] += single > known  # the next number below: none is positive
    return torch.from_numpy(single)

"""Classes drawn from every token's distribution: a few bytes a token, and means under the teacher that are right on average."""

from collections.abc import Sequence
from typing import Annotated, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from limbeck.config import Config
from limbeck.losses.divergences import FLOOR
from limbeck.losses.offer import Offer
from limbeck.losses.sparse import Sampled
from limbeck.losses.storages import Head, Storage
from limbeck.teachers.store import bits
from limbeck.teachers.store.draws import uniforms
from limbeck.teachers.store.frame import Frames, Kept, Rows, framed
from limbeck.teachers.store.vocabulary import chunks, drawn


class SampledCodec(Config):
    """Random draws with replacement (Anshumann et al. 2025, arXiv:2503.16870): forward KL and its gradient are unbiased.

    A token takes ``draws - 1`` bits for how often each class was drawn, ``ceil(log2 V)`` for each different class, and 16 for the
    entropy. The draws are a function of seed, id, view and position; another view has others.
    """

    offers: ClassVar[Offer] = Offer.EXPECTATIONS

    name: Literal["sampled"] = "sampled"
    draws: int = Field(default=50, ge=1, le=2**15 - 1)
    """How many, with replacement."""
    seed: int = Field(default=0, ge=0)
    """Of the draws."""
    entropy: bool = True
    """Store each distribution's entropy, without which a forward KL is known up to a constant only; in half precision."""
    log_probabilities: Annotated[bool, Field(exclude_if=lambda stored: not stored)] = False
    """Store the log-probability of each different class too, in half precision, 16 bits for each. It is read in place of the
    entropy: the nearer the student, the less the variance of a forward KL's value. Its gradient is the same."""

    def made(self, head: Head | None = None) -> "SampledCodec":
        """Itself."""
        return self

    def encode(self, logits: Storage, rows: Rows) -> Tensor:
        """See `Codec.encode`."""
        kept = Kept.of(logits, rows)
        ids = np.empty((len(kept.places), self.draws), dtype=np.int64)
        entropy, logs = np.empty(len(kept.places)), np.empty(ids.shape if self.log_probabilities else (len(ids), 0))
        for place, chunk in chunks(logits, kept.places):
            row, position = kept.row[place], kept.position[place]
            chances = uniforms(self.seed, rows.ids[row], rows.views[row], position, self.draws)
            own, log_total, known = drawn(chunk, torch.from_numpy(chances).to(chunk.device), self.entropy)
            ids[place], entropy[place] = own.cpu().numpy(), known.cpu().numpy()
            if self.log_probabilities:
                logs[place] = (chunk.gather(1, own).double() - log_total[:, None]).cpu().numpy()
        sound = np.isfinite(entropy)
        half = np.where(sound, entropy, 0).clip(min=0).astype("<f2")
        other = ids[:, 1:] != ids[:, :-1]  # where the next class begins: the classes ascend
        first = np.concatenate([np.ones((len(ids), 1), dtype=bool), other], 1)
        width = bits.width_of(logits.classes)

        def body(own: slice) -> bits.Bytes:
            counts = np.packbits(other[own].reshape(-1), bitorder="little")
            classes = bits.packed(ids[own][first[own]], width)
            parts = [counts, classes]
            if self.entropy:
                parts.append(half[own].view(np.uint8))
            if self.log_probabilities:
                parts.append(logs[own][first[own]].clip(FLOOR, 0).astype("<f2").view(np.uint8))
            return np.concatenate(parts)

        return framed(logits, rows, kept, sound, body)

    def decode(self, rows: Tensor, counted: Tensor | None = None, device: torch.device | str = "cpu") -> Sampled:
        """See `Codec.decode`; ``ids`` are int32 and ``counts`` int16, as wide as the row of most classes."""
        frames = Frames(rows, counted)
        width, total = bits.width_of(frames.classes), sum(frames.counts)
        steps = [n * (self.draws - 1) for n in frames.counts]
        first = np.ones((total, self.draws), dtype=bool)
        (packed,) = frames.parts([[bits.size_of(n, 1) for n in steps]])
        start = 0
        for part, n in zip(packed, frames.counts, strict=True):
            flags = np.unpackbits(part, count=n * (self.draws - 1), bitorder="little")
            first[start : start + n, 1:] = flags.reshape(n, self.draws - 1)
            start += n
        begins = np.flatnonzero(first)
        token = begins // self.draws
        different = np.bincount(token, minlength=total)
        ends = np.concatenate([np.zeros(1, np.int64), np.cumsum(different)])
        bounds = np.concatenate([np.zeros(1, np.int64), np.cumsum(frames.counts, dtype=np.int64)])
        entries = np.diff(ends[bounds]).tolist()
        _, classes, entropy, logs = frames.parts(
            [
                [bits.size_of(n, 1) for n in steps],
                [bits.size_of(n, width) for n in entries],
                [2 * n * self.entropy for n in frames.counts],
                [2 * n * self.log_probabilities for n in entries],
            ]
        )
        times = np.diff(
            begins, append=total * self.draws
        )  # a token's first class begins it, so none runs into the next
        wide = int(different.max(initial=1))
        at = np.arange(len(begins)) - ends[token] + token * wide

        def placed(values: NDArray[np.generic], dtype: type[np.generic]) -> Tensor:
            out = np.zeros((total, wide), dtype)
            out.reshape(-1)[at] = values
            return frames.spread(torch.from_numpy(out), 0, device)

        return Sampled(
            placed(bits.unpacked(classes, entries, width), np.int32),
            placed(times, np.int16),
            frames.classes,
            frames.spread(torch.from_numpy(_halves(entropy)), 0, device) if self.entropy else None,
            placed(_halves(logs), np.float32) if self.log_probabilities else None,
        )


def _halves(parts: Sequence[bits.Bytes]) -> NDArray[np.float32]:
    return np.concatenate([np.empty(0, np.uint8), *parts]).view("<f2").astype(np.float32)

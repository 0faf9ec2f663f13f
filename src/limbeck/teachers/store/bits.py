"""Numbers of a few bits each, packed without gaps, lowest bit first: 8 numbers of w bits are w bytes."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from limbeck.teachers.store.codec import Ints

Bytes = NDArray[np.uint8]
WIDEST = 56  # a number that starts inside a byte must lie in one word of 64 bits


def width_of(classes: int) -> int:
    """The bits that name one of ``classes`` classes."""
    return max(1, (classes - 1).bit_length())


def size_of(count: int, width: int) -> int:
    """The bytes of ``count`` numbers."""
    return (count * width + 7) // 8


def packed(values: NDArray[np.integer], width: int) -> Bytes:
    """``values`` [n], each 0 to 2^width - 1; ``width`` is at most `WIDEST`."""
    groups = -(-len(values) // 8)
    padded = np.zeros((groups, 8), dtype="<u8")
    padded.reshape(-1)[: len(values)] = values
    out = np.zeros((groups, width), dtype=np.uint8)
    for place in range(8):
        start, shift = divmod(place * width, 8)
        stop = -(-(place + 1) * width // 8)
        moved = padded[:, place] << np.uint64(shift)
        out[:, start:stop] |= moved.view(np.uint8).reshape(groups, 8)[:, : stop - start]
    return out.reshape(-1)[: size_of(len(values), width)]


def unpacked(parts: Sequence[Bytes], counts: Sequence[int], width: int) -> Ints:
    """The numbers of several packed ``parts``, one after another, int64; ``counts``: how many each has."""
    groups = [-(-count // 8) for count in counts]
    whole = np.zeros((sum(groups) + 1) * width + 8, dtype=np.uint8)  # the last word reads past its number
    start = 0
    for part, count, own in zip(parts, counts, groups, strict=True):
        size = size_of(count, width)
        whole[start : start + size] = part[:size]
        start += own * width
    out = np.empty((sum(groups), 8), dtype=np.int64)
    word = np.dtype("<u4") if width <= 24 else np.dtype("<u8")
    mask = word.type((1 << width) - 1)
    for place in range(8):
        offset, shift = divmod(place * width, 8)
        words = np.ndarray((sum(groups),), word, whole, offset, (width,))
        out[:, place] = (words >> word.type(shift)) & mask
    flat = out.reshape(-1)
    if all(count == 8 * own for count, own in zip(counts, groups, strict=True)):
        return flat
    ends = np.cumsum(groups) * 8
    return np.concatenate(
        [flat[end - 8 * own : end - 8 * own + n] for end, own, n in zip(ends, groups, counts, strict=True)]
    )

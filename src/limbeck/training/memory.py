"""How much memory something needs at most, and how it is kept from step to step."""

import ctypes
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import torch

_STATM = Path("/proc/self/statm")
_TRIM, _MMAP = -1, -3  # of mallopt(3)


class Peak:
    """``bytes``: the highest so far, above what was in use before; None where it cannot be measured."""

    bytes: int | None = None


def _resident() -> int:
    return int(_STATM.read_text().split()[1]) * 4096


@contextmanager
def peak_bytes(device: str) -> Iterator[Peak]:
    """Measures within the block: allocated memory on CUDA, the process's resident memory (sampled) on a Linux CPU."""
    peak = Peak()
    if device.startswith("cuda"):
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        yield peak
        peak.bytes = torch.cuda.max_memory_allocated() - before
        return
    if not _STATM.exists():
        yield peak
        return
    before, ended, highest = _resident(), threading.Event(), [_resident()]

    def sample() -> None:
        while not ended.wait(0.002):
            highest[0] = max(highest[0], _resident())

    thread = threading.Thread(target=sample, daemon=True)
    thread.start()
    try:
        yield peak
    finally:
        ended.set()
        thread.join()
        peak.bytes = max(0, max(highest[0], _resident()) - before)


def keep_freed() -> None:
    """Makes glibc keep what a step frees for the next one. By default it gives blocks of some hundred kilobytes back and asks
    for them anew, and a tenth of a step of a small model went into that. Settings of the user's own (``MALLOC_*``) stand.
    """
    if any(name.startswith("MALLOC_") for name in os.environ):
        return
    with suppress(OSError, AttributeError):  # another C library
        mallopt = ctypes.CDLL("libc.so.6").mallopt
        mallopt(_MMAP, 2**26)
        mallopt(_TRIM, 2**29)

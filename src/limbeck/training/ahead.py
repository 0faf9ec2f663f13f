"""Batches that other processes read ahead, and what may go wrong there: an error, a kill, or no sign of life."""

import os
import signal
import threading
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import suppress
from copy import copy
from pathlib import Path
from typing import Any, Final, TypeVar

import torch
from torch.utils.data import DataLoader, Dataset

from limbeck.errors import LimbeckError

T = TypeVar("T")

PATIENCE: Final = 40.0
"""Seconds without a batch in which the processes that read use no processor either: then they wait for what never comes."""
_STALLED: Final = (
    "No batch came for {:.0f} seconds, and the processes that read the data did nothing in that time: a disk or a lock does not "
    "answer. Look to where the data is, or set training.workers to 0. The same command goes on from the last checkpoint."
)
_BUSY: Final = 0.05  # seconds of processor time: more than looking every few seconds whether there is work


class _Told(Dataset["T | Exception"]):
    """Items, or the errors in their place: torch would send the error's traceback as the error's text."""

    def __init__(self, items: Dataset[T]) -> None:
        self._items = items

    def __getitem__(self, place: int) -> T | Exception:
        try:
            return self._items[place]
        except Exception as error:
            plain = all(isinstance(one, str | int | float | None) for one in error.args) and not vars(error)
            same = LimbeckError if isinstance(error, LimbeckError) else RuntimeError
            sent = copy(error) if plain else same(f"{type(error).__name__}: {error}")
            sent.add_note(f"In a process that reads data ahead:\n{traceback.format_exc()}")
            return sent


def read_ahead(items: Dataset[T], places: Sequence[int], workers: int) -> Iterator[T]:
    """The items at ``places`` in order, read by ``workers`` processes.

    Raises:
        LimbeckError: a process was killed, or they show no sign of life.
        Exception: what one of them raised.
    """
    # its own generator: making an iterator draws from the global one otherwise, and a resumed run would differ
    own = torch.Generator().manual_seed(0)
    sampler: Any = places
    reading = iter(DataLoader(_Told(items), batch_size=None, sampler=sampler, num_workers=workers, generator=own))
    watch = _Watch([one.pid for one in getattr(reading, "_workers", ())])
    try:
        while True:
            watch.since = time.monotonic()
            try:
                found = next(reading)
            except StopIteration:
                return
            except RuntimeError as error:  # its frames hold the iterator, so another one is raised
                found = LimbeckError(_STALLED.format(PATIENCE)) if watch.ended else RuntimeError(str(error))
            watch.since = None
            if isinstance(found, Exception):
                raise found
            yield found
    finally:
        watch.close()
        del reading  # ends the processes now: left to the garbage collection, each would be waited for in vain


class _Watch:
    """Kills processes that do nothing while they are waited for, ``since`` when; torch then says so to whoever waits."""

    def __init__(self, processes: Sequence[int]) -> None:
        self.since: float | None = None
        self.ended = False
        self._processes, self._over = processes, threading.Event()
        if processes and _busy(processes) is not None:
            threading.Thread(target=self._look, daemon=True).start()

    def close(self) -> None:
        """Looks no more."""
        self._over.set()

    def _look(self) -> None:
        waited, before, quiet = None, 0.0, time.monotonic()
        while not self._over.wait(PATIENCE / 20):
            busy, since, now = _busy(self._processes) or 0.0, self.since, time.monotonic()
            if since is None or since != waited or busy > before + _BUSY:
                waited, before, quiet = since, busy, now
            elif now - quiet > PATIENCE and not self._over.is_set():
                self.ended = True
                for process in self._processes:
                    with suppress(ProcessLookupError):
                        os.kill(process, signal.SIGKILL)
                return


def _busy(processes: Sequence[int]) -> float | None:
    """Seconds of processor time that they have used; None where the system does not tell."""
    used = 0.0
    for process in processes:
        try:
            fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            return None
        used += (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return used

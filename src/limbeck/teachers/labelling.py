"""Labelling: a teacher is asked for every row up front, in fixed batches."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from limbeck.data.examples import Examples
from limbeck.teachers.cached import CachedTeacher
from limbeck.teachers.part import WHOLE, Part
from limbeck.teachers.store import Store
from limbeck.teachers.store.codec import Ints


def label(
    teacher: CachedTeacher,
    examples: Examples,
    views: Sequence[int],
    batch_size: int,
    needs: frozenset[str],
    on_progress: Callable[[int, int], None] = lambda done, total: None,
    device: torch.device | str = "cpu",
    part: Part = WHOLE,
) -> None:
    """Stores the signals ``needs`` of every row of ``examples`` under each of ``views``. What is stored is skipped.

    Texts are asked by their length, so that little of a batch is padding. ``on_progress`` is told (rows done, rows in all),
    the stored ones first. ``part``: which of the batches are done here; several processes may do theirs at once. A batch has the
    same rows whatever was stored before and whoever asks.

    Raises:
        LimbeckError: as `CachedTeacher.observe`.
    """
    teacher.store.verify()
    rows = examples.rows[examples.by_length("teacher")].numpy()
    work: list[tuple[Ints, int]] = []
    batches, total = 0, 0
    for view in views:
        gone = missing(teacher.store, rows, view, needs)
        for start in range(0, len(rows), batch_size):
            here = slice(start, start + batch_size)
            if part.has(batches):
                work.append((rows[here][gone[here]], view))
                total += len(rows[here])
            batches += 1
    done = total - sum(len(ids) for ids, _ in work)
    on_progress(done, total)
    try:
        for ids, view in work:
            if len(ids):
                chunk = torch.from_numpy(ids)
                teacher.observe(examples.batch(chunk, torch.full_like(chunk, view)).to(device), needs)
                done += len(chunk)
                on_progress(done, total)
    finally:
        teacher.flush()


def missing(store: Store, rows: Ints, view: int, needs: frozenset[str]) -> NDArray[np.bool_]:
    """Which of the rows lack a needed signal under the view, bool [n]."""
    places = store.find(rows, np.full(len(rows), view), needs)
    gone = np.zeros(len(rows), dtype=bool)
    for piece, _ in places.values():
        gone |= piece < 0
    return gone

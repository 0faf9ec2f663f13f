"""Long runs: neither steps nor stored rows fill the memory, steps not the disk either, and a large store opens at once."""

import os
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.fakes.experiments import LABELS, SOFT, stage, teacher
from tests.fakes.rows import LOGITS, Named, batch_of, examples

from limbeck.data.batch import Batch
from limbeck.teachers.cached import CachedTeacher
from limbeck.teachers.store import Store
from limbeck.training.loop import train

MB = 2**20
DATA = examples(4096)


def resident() -> int:
    """Bytes of memory that this process has in use."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@dataclass
class Watched:
    """A watcher of one training that notes every so many steps how much memory is in use, and which files there are."""

    every: int
    folder: Path
    seen: list[int] = field(default_factory=list)
    files: list[list[str]] = field(default_factory=list)

    def __call__(self, stage, curve):
        return (self,)

    def at(self, place):
        """Nothing."""

    def gradients(self, model):
        """Nothing."""

    def stepped(self, model, place):
        if place.step % self.every == 0:
            self.seen.append(resident())
            self.files.append([one.name for one in self.folder.iterdir()])

    def evaluated(self, metrics, place):
        """Nothing."""


def steps_hold(tmp_path, steps: int, most: int) -> None:
    """Trains so long; from a tenth of it on at most ``most`` bytes more are in use, and two checkpoints are all that is kept."""
    watched = Watched(every := max(1, steps // 20), tmp_path)
    one = stage(terms=(LABELS, SOFT), teacher=teacher(), steps=steps, checkpoint_every=every)
    train(one, tmp_path, watched)
    assert len(watched.seen) >= 20
    early, late = watched.seen[2], max(watched.seen[3:])
    assert late - early < most, [one // MB for one in watched.seen]
    assert max(map(len, watched.files)) == 2
    assert all(name.startswith("step-") for names in watched.files for name in names), watched.files


def rows_hold(root, rows: int, most: int) -> None:
    """Stores so many rows and looks them up again: what is in use grows by little more than an index of them."""
    seen = []
    with CachedTeacher(Named(), root, "inputs") as cached:
        for start in range(0, rows, len(DATA)):
            one = batch_of(DATA, DATA.rows[: min(len(DATA), rows - start)])
            cached.observe(Batch(one.inputs, one.labels, one.masks, one.ids + start, one.views), LOGITS)
            seen.append(resident())
    assert seen[-1] - seen[len(seen) // 10] < most, [one // MB for one in seen[:: max(1, len(seen) // 20)]]
    began = time.perf_counter()
    store = Store.at(cached.store.folder)
    store.refresh()
    took = time.perf_counter() - began
    assert took < 1, f"{rows:,} rows were opened in {took:.2f} s"
    ids = np.random.default_rng(0).integers(0, rows, 256)
    places = store.find(ids, np.zeros_like(ids), LOGITS)["logits"]
    assert torch.equal(store.read("logits", places)[:, 0], torch.from_numpy(ids).float())


def test_steps_do_not_fill_the_memory(tmp_path):
    steps_hold(tmp_path, 400, 16 * MB)


def test_stored_rows_do_not_fill_the_memory(tmp_path):
    rows_hold(tmp_path, 60_000, 48 * MB)


@pytest.mark.faults
def test_ten_thousand_steps_do_not_fill_the_memory(tmp_path):
    steps_hold(tmp_path, 10_000, 16 * MB)


@pytest.mark.faults
def test_a_million_stored_rows_do_not_fill_the_memory_and_open_within_a_second(tmp_path):
    # an index entry is five int64 for each row, twice that while runs are merged: 80 MB, and files that are mapped are in use too
    rows_hold(tmp_path, 1_000_000, 200 * MB)

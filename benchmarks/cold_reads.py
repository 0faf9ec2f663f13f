"""`python -m benchmarks.cold_reads`: a store on the disk, written, forgotten by the system's memory, and read, on one thread.

Rows are read in a random order, a batch at a time, checked by their checksums and decoded, as training does. The bytes that
came from the disk are the kernel's count (``/proc/self/io``): they show that the reading was cold, so it runs on Linux alone.
``--folder`` says which disk. The table is kept in benchmarks/results/stored-logits.md.
"""

import argparse
import os
import shutil
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from benchmarks.stored_logits import LENGTH, ROWS, keep, made_up, rows_of
from limbeck.signals.logits import Dense
from limbeck.teachers.store.frame import column
from limbeck.teachers.store.sampled import SampledCodec
from limbeck.teachers.store.store import Store
from limbeck.teachers.store.top_k import TopKCodec

CLASSES, TEXTS, BATCH, TURNS = 49_152, 65_536, 32, 3


def written(folder: Path, codec: TopKCodec | SampledCodec, texts: int) -> tuple[Path, float]:
    """Where a store of so many texts is, the same `ROWS` again and again, and the seconds of writing after encoding."""
    rows = codec.encode(Dense(made_up(CLASSES)), rows_of(ROWS))
    store = Store(folder, {"what": "benchmark"})
    start = time.perf_counter()
    for first in range(0, texts, ROWS):
        ids = np.arange(first, first + ROWS)
        store.add(ids, np.zeros_like(ids), {}, coded={"logits": column(rows)})
    store.close()
    return store.folder, time.perf_counter() - start  # who still held the store would keep its pages in memory


def forgotten(folder: Path) -> None:
    """No page of its files is left in memory."""
    os.sync()
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as stream:
                os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def from_disk() -> int:
    """Bytes that this process has had read from a disk."""
    lines = Path("/proc/self/io").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("read_bytes")).split()[1])


def read(folder: Path, codec: TopKCodec | SampledCodec, texts: int) -> tuple[float, int]:
    """Seconds for all texts in a random order, the opening of the store included, and the bytes that came from the disk."""
    order, before, start = np.random.default_rng(0).permutation(texts), from_disk(), time.perf_counter()
    store, tokens = Store.at(folder), 0
    for first in range(0, texts, BATCH):
        ids = order[first : first + BATCH]
        places = store.find(ids, np.zeros_like(ids), ["logits"])["logits"]
        tokens += codec.decode(store.read("logits", places)).rows.numel()
    assert tokens == texts * LENGTH
    return time.perf_counter() - start, from_disk() - before


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--texts", type=int, default=TEXTS)
    parser.add_argument("--folder", type=Path)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    tokens = asked.texts * LENGTH
    lines = [
        f"{tokens:,} tokens in texts of {LENGTH}, {CLASSES:,} classes, batches of {BATCH} texts in a random order\n",
        "| codec | bytes on the disk | written a second | read cold a second | of it from the disk | read warm a second |",
        "|---|---|---|---|---|---|",
    ]
    print("\n".join(lines), flush=True)
    for codec in (SampledCodec(draws=30, seed=0), SampledCodec(draws=50, seed=0), TopKCodec(k=8), TopKCodec(k=50)):
        folder = Path(tempfile.mkdtemp(dir=asked.folder))
        try:
            place, writing = written(folder, codec, asked.texts)
            size = sum(path.stat().st_size for path in place.rglob("*") if path.is_file())
            cold, came = [], 0
            for _ in range(TURNS):
                forgotten(place)
                seconds, came = read(place, codec, asked.texts)
                cold.append(seconds)
            warm = min(read(place, codec, asked.texts)[0] for _ in range(TURNS))
        finally:
            shutil.rmtree(folder)
        budget = codec.k if isinstance(codec, TopKCodec) else codec.draws
        lines.append(
            f"| {codec.name} {budget} | {size:,} | {tokens / writing:,.0f} | {tokens / np.median(cold):,.0f} | "
            f"{came / size:.0%} | {tokens / warm:,.0f} |"
        )
        print(lines[-1], flush=True)
    keep("cold", lines)


if __name__ == "__main__":
    main()

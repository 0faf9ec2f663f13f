"""`python -m benchmarks.tokens [SCENE ...]`: what a divergence over a large vocabulary costs beside its floor.

The floor (`benchmarks.floor`) is at the best of several chunk sizes. Trainings from stored teachers, read from the disk, are
measured against one on labels alone. Everything is float32 and runs in turns in one process; a figure is the median of ratios
to what ran beside it. TRL's losses are measured too where it is installed: whole logits at V = 151,936 take it some 10 GiB. Peak
memory is of a process of its own, less what it had before the step. ``--page`` only writes the page, from what is known.
"""

import argparse
import ctypes
import gc
import json
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

import torch

from benchmarks.kept import RESULTS
from benchmarks.steps import SCENES, STORED, TARGETS, Scene, Setting
from limbeck.files import write_json
from limbeck.run.folder import versions
from limbeck.training.memory import keep_freed

PAGE = RESULTS / "tokens.md"
CHUNKS = (64, 128, 256, 512, 1024)
HEAVIEST = 1.05
"""Peak memory over the floor's that a divergence may have at V = 151,936."""
STORED_TARGET = 1.03
"""Over labels alone."""


def seconds(step: Callable[[], None]) -> float:
    """Of one step."""
    began = time.perf_counter()
    step()
    return time.perf_counter() - began


def ratios(scene: Scene, kinds: list[str] | None = None) -> dict[str, Any]:
    """Times over that of the floor; of `STORED` over that of labels alone."""
    keep_freed()  # as a training does; the floor has it too
    setting = Setting(scene)
    floors = {chunk: setting.floor(chunk) for chunk in CHUNKS if chunk < 2 * scene.rows * scene.length}
    best = min(floors, key=lambda chunk: min(seconds(floors[chunk]) for _ in range(3)))
    variants, taken, own = setting.variants(), dict[str, list[float]](), list[float]()
    for turn in range(scene.turns + 1):
        for name, step in variants.items():
            if kinds and name not in kinds:
                continue
            ratio = seconds(step) / (beside := seconds(variants["labels"] if name in STORED else floors[best]))
            if turn:
                taken.setdefault(name, []).append(ratio)
                own += [] if name in STORED else [beside]
    return {
        "chunk": best,
        "floor seconds": round(median(own), 4) if own else None,
        "time": {name: round(median(found), 3) for name, found in taken.items()},
        "spread": {name: [round(min(found), 3), round(max(found), 3)] for name, found in taken.items()},
    }


def peak(scene: Scene, name: str, chunk: int) -> float:
    """MiB that a step takes at most, in this process."""
    keep_freed()
    setting = Setting(scene)
    step = setting.floor(chunk) if name == "floor" else setting.variants()[name]
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # the highest begins anew; `getrusage` tells a child its parent's too
    before = _highest()
    step()
    return (_highest() - before) / 1024


def _highest() -> int:
    """KiB that this process held at most."""
    told = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(told["VmHWM"].split()[0])


def table(name: str, found: dict[str, Any]) -> str:
    """One scene."""
    scene, peaks = SCENES[name], found["peak"]
    rows = [
        f"| {one}{', beside labels alone' if one in STORED else ''} | {ratio:.2f} ({found['spread'][one][0]:.2f} to "
        f"{found['spread'][one][1]:.2f}) | {STORED_TARGET if one in STORED else TARGETS.get(one, '')} | "
        + (f"{peaks[one]:,} | {peaks[one] / peaks['floor']:.2f} |" if one in peaks else "| |")
        for one, ratio in found["time"].items()
    ]
    return (
        f"## {scene.title}, V = {scene.vocabulary:,}\n\n{scene.rows} x {scene.length} tokens, {scene.turns} turns; "
        f"the floor takes {found['floor seconds']:.2f} s and {peaks['floor']:,} MiB, in chunks of {found['chunk']} rows.\n\n"
        "| step | time over the floor (least to most) | target | peak, MiB | over the floor |\n|---|---|---|---|---|\n"
        + "\n".join(rows)
        + f"\n\n<sub>{found['date']}, {found['threads']} torch thread(s), "
        + ", ".join(f"{one} {version}" for one, version in found["versions"].items())
        + "</sub>\n"
    )


def main() -> None:
    """Measures and writes."""
    reader = argparse.ArgumentParser()
    reader.add_argument("scene", nargs="*", choices=[[], *SCENES], default=[])  # argparse checks the default too
    reader.add_argument("--peak", nargs=2)
    reader.add_argument("--page", action="store_true", help="only write the page")
    reader.add_argument("--kinds", nargs="*", help="which variants, without writing; all if left out")
    told = reader.parse_args()
    if told.peak:
        print(peak(SCENES[told.scene[0]], told.peak[0], int(told.peak[1])))
        return
    for name in () if told.page else told.scene or SCENES:
        one = ratios(SCENES[name], told.kinds)
        print(json.dumps({name: one}, indent=1), flush=True)
        if told.kinds:
            continue
        one["peak"] = {}
        for variant in ("floor", *(each for each in one["time"] if each not in STORED)):
            asked = [sys.executable, "-m", "benchmarks.tokens", name, "--peak", variant, str(one["chunk"])]
            one["peak"][variant] = round(
                float(subprocess.run(asked, capture_output=True, check=True, text=True).stdout)
            )
        one |= {"threads": torch.get_num_threads(), "versions": versions() | SCENES[name].peers}
        write_json(_file(name), one | {"date": datetime.now(UTC).isoformat(timespec="seconds")})
    if told.kinds:
        return
    measured = [table(name, json.loads(_file(name).read_text())) for name in SCENES if _file(name).exists()]
    PAGE.write_text(
        "# What divergences over large vocabularies cost\n\n" + __doc__.split("\n\n", 1)[1] + "\n" + "\n".join(measured)
    )
    if missed := [f"{name}: {one}" for name in told.scene or SCENES if _file(name).exists() for one in _heavy(name)]:
        raise SystemExit(f"more than {HEAVIEST} of the floor's memory: {'; '.join(missed)}")


def _heavy(name: str) -> list[str]:
    """What a target is for and takes more memory than it may. In a small vocabulary two buffers are most of it."""
    peaks = json.loads(_file(name).read_text())["peak"] if SCENES[name].vocabulary > 100_000 else {"floor": 0}
    return [one for one in TARGETS if one in peaks and peaks[one] > HEAVIEST * peaks["floor"]]


def _file(name: str) -> Path:
    return RESULTS / f"tokens-{name}.json"


if __name__ == "__main__":
    main()

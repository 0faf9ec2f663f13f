"""SIGKILL at any moment, some of them inside a save: the same command goes on, and what it gives is bit-identical."""

import hashlib
import json
import os
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

RECIPE = """
limbeck: 1
name: tiny
data: {{source: mnist-5k, limit: 300, labelled: 120, validation: 60, test: 100, augment: {{shift: 2}}, views: 2}}
teacher:
  model: {{name: small-cnn, width: 4}}
  training: {{steps: 12, batch-size: 24, checkpoint-every: 2, workers: {workers}}}
student: {{name: mlp, hidden: 16, dropout: 0.2}}
objective: {{labels: 0.1, soft-targets: 0.9}}
training: {{steps: 26, batch-size: 24, checkpoint-every: 2, evaluate-every: 5}}
seeds: 2
"""  # an epoch of the teacher is 5 steps, of a student 12.5: checkpoints fall into the middle of epochs
COMMAND = Path(sys.executable).with_name("limbeck")
TIMED = ("seconds", "latency", "p50", "p95", "throughput", "samples_per", "efficiency", "memory", "date", "command")


class Place:
    """A recipe, a run folder and a home."""

    def __init__(self, folder: Path, workers: int):
        folder.mkdir()
        self.folder, self.out, self.home = folder, folder / "out", folder / "home"
        (folder / "recipe.yaml").write_text(RECIPE.format(workers=workers))

    def begin(self) -> subprocess.Popen:
        env = {**os.environ, "OMP_NUM_THREADS": "1", "LIMBECK_HOME": str(self.home)}
        command = [COMMAND, "run", self.folder / "recipe.yaml", "--out", self.out]
        with (self.folder / "told.txt").open("w") as told:  # a pipe would be kept open by orphaned workers
            return subprocess.Popen(command, env=env, stdout=told, stderr=told, cwd=self.folder)

    def finish(self, process: subprocess.Popen) -> None:
        try:
            code = process.wait(timeout=120)
        finally:
            process.kill()
        assert code == 0, (self.folder / "told.txt").read_text()

    def drafts(self) -> set[Path]:
        """Checkpoints that are being written."""
        return set(self.home.glob("arms/*/*/checkpoints/.step-*.new-*"))

    def given(self) -> dict[str, object]:
        """What the run gave, without times."""
        student = (self.out / "student" / "model.safetensors").read_bytes()
        arms = {
            path.parent.parent.name: hashlib.sha256(path.read_bytes()).hexdigest()
            for path in self.home.glob("arms/*/*/finished/model.safetensors")
        }
        evidence = _timeless(json.loads((self.out / "evidence.json").read_text()))
        return {"student": hashlib.sha256(student).hexdigest(), "arms": arms, "evidence": evidence}

    def clear(self) -> None:
        shutil.rmtree(self.home, ignore_errors=True)
        shutil.rmtree(self.out, ignore_errors=True)


def _timeless(value: object) -> object:
    if isinstance(value, dict):
        return {key: _timeless(inner) for key, inner in value.items() if not any(word in key for word in TIMED)}
    return [_timeless(inner) for inner in value] if isinstance(value, list) else value


def _inside_a_save(place: Place, process: subprocess.Popen, count: int) -> bool:
    """Kills at the ``count``-th save that begins; whether it was one, as what is left shows."""
    old, seen = place.drafts(), set()
    while process.poll() is None:
        fresh = place.drafts() - old
        if len(seen | fresh) >= count and fresh:
            process.kill()
            process.wait()
            return bool(place.drafts() - old)
        seen |= fresh
        time.sleep(0.0005)  # a save takes some milliseconds; the run needs the core too
    return False


def _at_a_moment(process: subprocess.Popen, seconds: float) -> bool:
    """Kills after so long; whether it still ran."""
    try:
        process.wait(timeout=seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        return True
    return False


def _campaign(folder: Path, workers: int, moments: int, saves: int, seed: int, most: int, tried) -> None:
    """Kills a run until there were so many kills at random moments and inside saves; each whole run is compared.

    ``most``: saves that a process may begin before it is killed in one.
    """
    chance = random.Random(seed)
    whole = Place(folder / "whole", workers)
    began = time.monotonic()
    whole.finish(whole.begin())
    length, wanted = time.monotonic() - began, whole.given()
    assert len(wanted["arms"]) == 7  # a teacher, three arms of two seeds
    cut, wanted_kills, runs = Place(folder / "cut", workers), (moments, saves), 1
    while moments > 0 or saves > 0:
        process = cut.begin()
        try:
            if saves > 0 and chance.random() < saves / (saves + max(0, moments)):
                saves -= _inside_a_save(cut, process, chance.randint(1, most))
            else:
                moments -= _at_a_moment(process, chance.uniform(0.3, 1.0) * length)
            if process.poll() != -9:
                cut.finish(process)
                assert cut.given() == wanted
                cut.clear()
                runs += 1
        finally:
            process.kill()
    cut.finish(cut.begin())
    assert cut.given() == wanted
    left = [path for root in (cut.home, cut.out) for path in root.rglob("*") if ".new-" in path.name]
    assert not left, "what was begun and never ended is cleared away"
    at_moments, in_saves = wanted_kills[0] - moments, wanted_kills[1] - saves
    tried(kills_at_random_moments=at_moments, kills_inside_a_save=in_saves, resumed_runs_compared=runs)


@pytest.mark.proof("Q1")
def test_a_run_killed_five_times_is_the_run_that_was_never_killed(tmp_path, tried):
    _campaign(tmp_path, workers=2, moments=2, saves=3, seed=4, most=12, tried=tried)


@pytest.mark.faults
@pytest.mark.proof("Q1")
@pytest.mark.parametrize("workers", [0, 2])
def test_a_run_killed_fifty_times_is_the_run_that_was_never_killed(tmp_path, workers, tried):
    _campaign(tmp_path, workers, moments=25, saves=25, seed=workers, most=25, tried=tried)


@pytest.mark.faults
@pytest.mark.proof("Q1")
def test_a_run_killed_twice_and_more_in_each_epoch_is_the_run_that_was_never_killed(tmp_path, tried):
    """An epoch of a student has six saves, and every third is not outlived."""
    _campaign(tmp_path, workers=0, moments=0, saves=24, seed=9, most=3, tried=tried)

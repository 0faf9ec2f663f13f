"""A small disk that is full in earnest: the place is named, what was there before is there, and with room it goes on."""

import os
import subprocess
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tests.fakes.rows import LOGITS, Named
from tests.faults.test_run_faults import COMMAND, RECIPE
from tests.faults.test_store_faults import DATA, committed

from limbeck.errors import LimbeckError
from limbeck.teachers.cached import CachedTeacher
from limbeck.teachers.labelling import label
from limbeck.training.checkpoint import latest, save

PAGE = 4096
ROWS = 400


@contextmanager
def disk(place: Path, size: int):
    """A disk of so many bytes, mounted at ``place`` for the length of the block."""
    place.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", place], capture_output=True, text=True
    )
    if done.returncode:
        pytest.skip(f"a small disk cannot be mounted here: {done.stderr.strip()}")
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", place], check=True)


def leave(place: Path, free: int) -> Path:
    """A file that leaves so many bytes."""
    there = os.statvfs(place)
    (place / "ballast").write_bytes(b"x" * max(0, there.f_bavail * there.f_frsize - free))
    return place / "ballast"


def refusal(act) -> str:
    """What ``act`` is refused with; empty if it is not."""
    try:
        act()
    except LimbeckError as error:
        return str(error)
    return ""


def checkpoints(place, free):
    """Whether a second checkpoint found room; if it did not, the first one is there and nothing else."""
    folder = place / "checkpoints"
    tree = {"step": 1, "weights": torch.ones(20_000)}
    save(folder, 1, tree)
    ballast = leave(place, free)
    said = refusal(lambda: save(folder, 2, {**tree, "step": 2}))
    if said:
        assert str(folder / "step-000000002") in said
        assert "LIMBECK_HOME" in said
        assert latest(folder)["step"] == 1
        assert [path.name for path in folder.iterdir()] == ["step-000000001"]
    ballast.unlink()
    save(folder, 2, {**tree, "step": 2})
    assert latest(folder)["step"] == 2
    return not said


def labels(place, free):
    """Whether all rows found room, and how many did; those that did are right, and are not asked for again."""
    ballast, root, data = leave(place, free), place / "store", replace(DATA, rows=DATA.rows[:ROWS])

    def go():
        teacher = Named()
        with CachedTeacher(teacher, root, "inputs", shard_rows=20) as cached:
            label(cached, data, (0,), 10, LOGITS)
        return teacher.rows

    said = refusal(go)
    assert not said or (str(root) in said and "make room" in said)
    kept = committed(root)
    ballast.unlink()
    assert go() == ROWS - len(kept)
    assert committed(root) == set(range(ROWS))
    return not said, len(kept)


def full(tmp_path, pages, tried):
    stored, saved = [], []
    for number, free in enumerate(pages):
        with disk(tmp_path / f"{number}", 2**20) as place:
            saved.append(checkpoints(place, free * PAGE))
            stored.append(labels(place, free * PAGE))
    assert not saved[0], "the smallest is too small"
    assert not stored[0][0]
    assert saved[-1], "the largest is large enough"
    assert stored[-1][0]
    assert len({kept for _, kept in stored}) > 2, "some stopped half-way"
    tried(small_disks=len(pages))


@pytest.mark.proof("Q3")
def test_what_was_saved_survives_a_small_disk(tmp_path, tried):
    full(tmp_path, (0, 9, 25, 60), tried)


@pytest.mark.faults
@pytest.mark.proof("Q3")
def test_what_was_saved_survives_twenty_small_disks(tmp_path, tried):
    full(tmp_path, [*range(0, 38, 2), 60], tried)


def run_on(place, tmp_path, size):
    """The exit code of a run on a disk of its own, and what it says."""
    subprocess.run(["mount", "-o", f"remount,size={size}", place], check=True)
    env = {**os.environ, "OMP_NUM_THREADS": "1", "LIMBECK_HOME": str(place / "home")}
    command = [COMMAND, "run", tmp_path / "recipe.yaml", "--out", place / "out"]
    done = subprocess.run(command, env=env, capture_output=True, text=True)
    assert "Traceback" not in done.stderr
    return done.returncode, " ".join(done.stderr.split())


@pytest.mark.faults
@pytest.mark.proof("Q3")
@pytest.mark.parametrize("kilobytes", [8, 40, 100, 200, 300, 400])
def test_a_run_on_a_small_disk_ends_by_naming_it_and_goes_on_on_a_larger_one(tmp_path, kilobytes, tried):
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    with disk(tmp_path / "disk", 1024 * kilobytes) as place:
        code, said = run_on(place, tmp_path, 1024 * kilobytes)
        assert code == 2, said
        assert str(place) in said.replace(" ", "")
        assert not (place / "out" / "evidence.json").exists()
        code, said = run_on(place, tmp_path, 2**26)
        assert code == 0, said
    tried(runs_on_small_disks=1)

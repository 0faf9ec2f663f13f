"""Launchers and clusters, as a user types them: `accelerate launch` with DDP and FSDP, labelling over Ray (make scale)."""

import os
import shutil
import signal
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
import yaml

from limbeck.evidence.schema import Evidence
from limbeck.teachers.store import Store, describe
from limbeck.teachers.store.writer import read_key

pytestmark = pytest.mark.scale
needs_ray = pytest.mark.skipif(find_spec("ray") is None, reason="Ray is not installed: make scale installs it")
LIMBECK = [sys.executable, "-m", "limbeck"]
ENV = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "200"}
SGD = {"name": "sgd", "learning-rate": 0.05}
RECIPE = {
    "limbeck": 1,
    "name": "tiny",
    "data": {"source": "mnist-5k", "limit": 600, "validation": 101, "test": 200, "views": 2, "augment": {"shift": 2}},
    "teacher": {"model": {"name": "mlp", "hidden": 64}, "training": {"steps": 20, "batch-size": 32, "optimizer": SGD}},
    "student": {"name": "vit", "hidden": 16, "layers": 2, "heads": 2, "patch": 7, "dropout": 0.0},
    "objective": {"labels": 0.3, "soft-targets": 0.7},
    "training": {"steps": 20, "batch-size": 32, "optimizer": SGD},
    "seeds": 2,
}
LABELLED = RECIPE | {  # a teacher that takes its time
    "teacher": {"model": {"name": "small-resnet", "width": 16}, "training": {"steps": 5, "batch-size": 32}},
}
LAUNCHED = {"compute_environment": "LOCAL_MACHINE", "num_machines": 1, "num_processes": 2, "machine_rank": 0}
DOCUMENT = (Path(__file__).parents[2] / "docs/scale.md").read_text()
CONFIGS = {
    "ddp": {**LAUNCHED, "distributed_type": "MULTI_GPU"},
    "fsdp": {**yaml.safe_load(DOCUMENT.partition("```yaml\n")[2].partition("```")[0]), "num_processes": 2},
}


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """The run of one process: its folder, which holds the recipe too, and its home."""
    folder = tmp_path_factory.mktemp("alone")
    (folder / "tiny.yaml").write_text(yaml.safe_dump(RECIPE))
    did(folder, folder / "home", *LIMBECK, "run", str(folder / "tiny.yaml"), "--out", str(folder / "run"))
    return folder


@pytest.fixture(scope="module")
def labelled(tmp_path_factory):
    """The labelling of one process."""
    folder = tmp_path_factory.mktemp("labelled")
    (folder / "tiny.yaml").write_text(yaml.safe_dump(LABELLED))
    did(folder, folder / "home", *LIMBECK, "label", str(folder / "tiny.yaml"))
    return folder


def did(folder: Path, home: Path, *command: str) -> subprocess.CompletedProcess[str]:
    """The command, done well."""
    env = {**ENV, "LIMBECK_HOME": str(home)}
    found = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=900)
    assert found.returncode == 0, found.stdout[-2000:] + found.stderr[-4000:]
    return found


@pytest.mark.parametrize("kind", CONFIGS)
def test_a_launched_run_is_that_of_one_process(tmp_path, alone, kind):
    (tmp_path / "launch.yaml").write_text(yaml.safe_dump(CONFIGS[kind]))
    accelerate = [str(Path(sys.executable).with_name("accelerate")), "launch", "--config_file", "launch.yaml"]
    command = [*accelerate, "-m", "limbeck", "run", str(alone / "tiny.yaml"), "--out", "run"]
    first = did(tmp_path, tmp_path / "home", *command)
    assert first.stdout.count("Report: ") == 1, "one process speaks"
    ours, theirs = (Evidence.read(folder / "run").arms.present() for folder in (tmp_path, alone))
    assert ours.keys() == theirs.keys() == {"teacher", "control", "distilled"}
    for name, arm in theirs.items():
        for mine, its in zip(ours[name].per_seed, arm.per_seed, strict=True):
            assert mine.nll == pytest.approx(its.nll, abs=1e-4), name  # two processes add in another order
    store = the_store(tmp_path / "home")
    assert describe(Store(store.parent, read_key(store / "key.json"))).writers == 2, "each process labelled a part"
    again = did(tmp_path, tmp_path / "home", *command)
    assert again.stderr.count("trained before") == 5, "a teacher and four students, said by one process"


def bits(folder: Path) -> dict[tuple[int, int], bytes]:
    """Every row of a store."""
    store = Store(folder.parent, read_key(folder / "key.json"))
    pairs = store.pairs()
    at = store.find(pairs[:, 0], pairs[:, 1], {"logits"})["logits"]
    assert (at[0] >= 0).all()
    rows = store.read("logits", at).contiguous().view(torch.uint8).numpy()
    return {(int(row), int(view)): value.tobytes() for (row, view), value in zip(pairs, rows, strict=True)}


def the_store(home: Path) -> Path:
    (found,) = home.glob("stores/*/key.json")
    return found.parent


def taught(home: Path, labelled: Path) -> Path:
    """A home in which the teacher is trained already."""
    shutil.copytree(labelled / "home" / "arms", home / "arms")
    return home


@needs_ray
def test_two_workers_of_ray_label_as_one_process_does(tmp_path, labelled, monkeypatch):
    # both are there before parts are given out: else the first one may have done all when the second has started
    monkeypatch.setitem(ENV, "RAY_DATA_DEFAULT_WAIT_FOR_MIN_ACTORS_S", "300")
    home = taught(tmp_path / "home", labelled)
    found = did(tmp_path, home, *LIMBECK, "label", str(labelled / "tiny.yaml"), "--ray", "--workers", "2")
    assert "rows     1,200" in found.stdout
    assert bits(the_store(home)) == bits(the_store(labelled / "home"))
    store = the_store(home)
    assert describe(Store(store.parent, read_key(store / "key.json"))).writers == 2
    again = did(tmp_path, home, *LIMBECK, "label", str(labelled / "tiny.yaml"), "--ray", "--workers", "2")
    assert again.stdout == found.stdout


@needs_ray
def test_a_killed_workers_part_is_given_to_another(tmp_path, labelled):
    home = taught(tmp_path / "home", labelled)
    slow = ["--set", "data.views=16", "--set", "training.steps=300", "--ray", "--workers", "2"]
    command = [*LIMBECK, "label", str(labelled / "tiny.yaml"), *slow]
    env = {**ENV, "LIMBECK_HOME": str(home)}
    running = subprocess.Popen(
        command, cwd=tmp_path, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        until = time.monotonic() + 300
        while not list(home.glob("stores/*/w-*/*.safetensors")) and time.monotonic() < until:
            time.sleep(0.05)
        (writer, *_) = [pid for pid in below(running.pid) if any("/w-" in path for path in opened(pid))]
        os.kill(writer, signal.SIGKILL)  # it has stored some of its part's rows, or all of them, and not said so
        out, err = running.communicate(timeout=600)
    finally:
        running.kill()
    assert running.returncode == 0, err[-4000:]
    assert "rows     9,600" in out
    did(tmp_path, taught(tmp_path / "one", labelled), *LIMBECK, "label", str(labelled / "tiny.yaml"), *slow[:4])
    assert bits(the_store(home)) == bits(the_store(tmp_path / "one"))
    store = the_store(home)
    assert describe(Store(store.parent, read_key(store / "key.json"))).writers >= 2


def below(pid: int) -> list[int]:
    """The processes that this one started, and those that they did."""
    parents = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            parents[int(path.parent.name)] = int(path.read_text().rpartition(")")[2].split()[1])
        except OSError:  # it has just ended
            continue
    found, new = [], [pid]
    while new:
        new = [child for child, parent in parents.items() if parent in new]
        found += new
    return found


def opened(pid: int) -> list[str]:
    """The files that a process has open."""
    try:
        return [str(path.readlink()) for path in Path(f"/proc/{pid}/fd").iterdir()]
    except OSError:  # it has just ended
        return []


def test_parts_on_two_machines_are_one_labelling(tmp_path, labelled):
    home = taught(tmp_path / "home", labelled)
    env = {**ENV, "LIMBECK_HOME": str(home)}
    both = [
        subprocess.Popen(
            [*LIMBECK, "label", str(labelled / "tiny.yaml"), "--part", f"{number}/2"], env=env, cwd=tmp_path
        )
        for number in (1, 2)
    ]
    assert [one.wait(300) for one in both] == [0, 0]
    assert bits(the_store(home)) == bits(the_store(labelled / "home"))

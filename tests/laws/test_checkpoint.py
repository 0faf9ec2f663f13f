"""Laws of checkpoints: whole or absent, every byte verified, two kept, random states to the bit."""

import json
import os
import random
import shutil
import subprocess
import sys
import textwrap

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.fakes.experiments import flipped

from limbeck.errors import LimbeckError
from limbeck.training import checkpoint
from limbeck.training.checkpoint import flatten, latest, random_state, restore_random_state, save, unflatten, verified

DTYPES = [torch.float32, torch.bfloat16, torch.float16, torch.float64, torch.int64, torch.uint8, torch.bool]
TENSORS = st.builds(
    lambda shape, dtype, seed: (torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * 9).to(dtype),
    st.lists(st.integers(0, 3), max_size=3),
    st.sampled_from(DTYPES),
    st.integers(0, 99),
)
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text()
KEYS = st.text() | st.integers() | st.sampled_from(["1", 1, "a/b", "a", "b", "", True])
TREES = st.recursive(
    SCALARS | TENSORS,
    lambda inner: st.lists(inner, max_size=4) | st.lists(inner, max_size=4).map(tuple) | st.dictionaries(KEYS, inner),
    max_leaves=12,
)


def alike(one, other) -> bool:
    """Equal in kind and in every bit."""
    if type(one) is not type(other):
        return False
    if isinstance(one, torch.Tensor):
        return one.dtype == other.dtype and one.shape == other.shape and torch.equal(one, other)
    if isinstance(one, dict):
        kinds = [type(key) for key in one] == [type(key) for key in other]
        return kinds and list(one) == list(other) and all(alike(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(alike(a, b) for a, b in zip(one, other, strict=True))
    if isinstance(one, float):
        return repr(one) == repr(other)
    return one == other


@settings(max_examples=150, deadline=None)
@given(TREES)
def test_flatten_and_unflatten_round_trip_through_json(tree):
    plain, tensors = flatten(tree)
    assert alike(unflatten(json.loads(json.dumps(plain)), tensors), tree)


@settings(max_examples=25, deadline=None)
@given(TREES)
def test_a_checkpoint_reads_back_what_was_saved(tmp_path_factory, tree):
    folder = tmp_path_factory.mktemp("any")
    save(folder, 3, tree)
    assert alike(latest(folder), tree)


def test_keys_that_make_one_path_keep_their_tensors():
    a, b = torch.zeros(1), torch.ones(1)
    for tree in ({1: a, "1": b}, {"x/y": a, "x": {"y": b}}, {"x": [a], "x/0": b}):
        plain, tensors = flatten(tree)
        assert alike(unflatten(plain, tensors), tree)


def test_tied_and_strided_tensors_are_saved(tmp_path):
    whole = torch.arange(12.0).view(3, 4)
    tree = {"a": whole, "b": whole, "c": whole[1], "d": whole.t(), "e": whole[:, ::2]}
    save(tmp_path, 1, tree)
    assert alike(latest(tmp_path), tree)


def test_what_is_neither_tensor_nor_plain_is_refused():
    with pytest.raises(TypeError, match=r"/a/0.*object"):
        flatten({"a": [object()]})


def _tree(step):
    return {"step": step, "weights": torch.full((20,), float(step)), "randomness": [random_state()]}


def _names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_the_newest_two_are_kept_and_the_newest_is_read(tmp_path):
    for step in (3, 6, 9, 1000):
        save(tmp_path, step, {"step": step})
        assert latest(tmp_path)["step"] == step
    assert _names(tmp_path) == ["step-000000009", "step-000001000"]


def test_damaged_ones_do_not_push_out_those_that_training_writes_on_its_way_back(tmp_path):
    for step in (9, 12):
        save(tmp_path, step, {"step": step})
        flipped(tmp_path / f"step-{step:09d}" / "state.json", 1, 0)
    assert latest(tmp_path) is None
    for step in (3, 6):
        save(tmp_path, step, {"step": step})
        assert latest(tmp_path)["step"] == step
    assert _names(tmp_path) == ["step-000000003", "step-000000006"]


def test_none_is_none(tmp_path):
    assert latest(tmp_path) is None
    assert latest(tmp_path / "nowhere") is None


def test_the_same_step_is_replaced(tmp_path):
    save(tmp_path, 3, {"x": 1})
    save(tmp_path, 3, {"x": 2})
    assert latest(tmp_path) == {"x": 2}
    assert _names(tmp_path) == ["step-000000003"]


@pytest.mark.proof("Q2")
@pytest.mark.parametrize("moment", ["save_file", "write_text", "sync", "rename"])
def test_a_save_that_fails_leaves_the_one_before_and_no_rest(tmp_path, monkeypatch, moment, tried):
    save(tmp_path, 1, _tree(1))
    save(tmp_path, 2, _tree(2))

    def fail(*_, **__):
        raise OSError(28, "No space left on device")

    target = {
        "save_file": "safetensors.torch.save_file",
        "write_text": "pathlib.Path.write_text",
        "sync": "limbeck.files.sync",
        "rename": "pathlib.Path.rename",
    }[moment]
    with monkeypatch.context() as patch:
        patch.setattr(target, fail)
        with pytest.raises(LimbeckError, match=r"step-000000003.*No space left.*LIMBECK_HOME"):
            save(tmp_path, 3, _tree(3))
    assert latest(tmp_path)["step"] == 2
    assert _names(tmp_path) == ["step-000000001", "step-000000002"]
    tried(failing_saves=1)


@pytest.mark.proof("Q2")
def test_there_is_a_good_one_at_every_moment_of_a_save(tmp_path, tried):
    """Looks at the folder before and after each file operation, as a power cut would."""
    save(tmp_path, 1, _tree(1))
    save(tmp_path, 2, _tree(2))
    seen, looking = [], False

    def watched(event, _):
        nonlocal looking
        if looking or not event.startswith(("open", "os.", "shutil.")):
            return
        looking = True
        try:
            seen.append(latest(tmp_path)["step"])
        finally:
            looking = False

    sys.addaudithook(watched)  # for good: below it is told to look no more
    save(tmp_path, 3, _tree(3))
    looking = True
    assert len(seen) > 10
    assert set(seen) == {2, 3}
    assert seen == sorted(seen)
    tried(moments_looked_at=len(seen))


def _damages(folder, count, seed):
    """Makes ``count`` damages to the newest of two checkpoints, one at a time; all must be seen."""
    chance = random.Random(seed)
    for step in (1, 2):
        save(folder, step, _tree(step))
    whole = folder / "step-000000002"
    files = sorted(whole.iterdir())
    assert [path.name for path in files] == ["checksums.json", "state.json", "tensors.safetensors"]
    for turn in range(count):
        path = files[turn % 3]
        content = path.read_bytes()
        if turn % 5 == 4:
            path.write_bytes(content[: chance.randrange(len(content))])
        else:
            flipped(path, chance.randrange(len(content)), chance.randrange(8))
        yield path.name
        path.write_bytes(content)
    assert latest(folder)["step"] == 2, "the damages are undone"


def _all_detected(folder, count, seed, tried):
    found = 0
    for name in _damages(folder, count, seed):
        assert verified(folder / "step-000000002") is None, name
        assert latest(folder)["step"] == 1, name
        found += 1
    tried(damages_of_checkpoints=found)


@pytest.mark.proof("Q4")
def test_a_flipped_bit_or_a_cut_anywhere_falls_back(tmp_path, tried):
    _all_detected(tmp_path, 60, seed=0, tried=tried)


@pytest.mark.faults
@pytest.mark.proof("Q4")
def test_a_thousand_flipped_bits_and_cuts(tmp_path, tried):
    _all_detected(tmp_path, 1000, seed=1, tried=tried)


@pytest.mark.parametrize("name", ["checksums.json", "state.json", "tensors.safetensors"])
def test_a_lost_file_falls_back(tmp_path, name):
    for step in (1, 2):
        save(tmp_path, step, _tree(step))
    (tmp_path / "step-000000002" / name).unlink()
    assert latest(tmp_path)["step"] == 1
    shutil.rmtree(tmp_path / "step-000000001")
    assert latest(tmp_path) is None


def test_random_states_come_back_bit_for_bit(tmp_path):
    random.gauss(0, 1), np.random.normal()  # both keep a second draw in hand
    torch.rand(3)
    save(tmp_path, 1, random_state())

    def draws():
        return (
            torch.randn(5).tolist(),
            np.random.normal(size=5).tolist(),
            np.random.randint(9, size=3).tolist(),
            [random.gauss(0, 1) for _ in range(5)],
            random.sample(range(99), 5),
        )

    wanted = draws()
    assert draws() != wanted
    restore_random_state(latest(tmp_path))
    assert draws() == wanted


def test_nothing_is_unpickled(tmp_path):
    save(tmp_path, 1, _tree(1))
    for path in (tmp_path / "step-000000001").iterdir():
        assert path.suffix in {".json", ".safetensors"}


@pytest.mark.proof("Q3")
@pytest.mark.parametrize(
    "share",
    [0.0, 0.3, 0.9, *(pytest.param(one / 20, marks=pytest.mark.faults) for one in range(1, 20) if one not in (6, 18))],
)
def test_a_full_disk_leaves_the_last_checkpoint_and_names_the_path(tmp_path, share, tried):
    """No file may grow beyond a share of the tensors' size: the system itself refuses to write on."""
    code = f"""
        import resource, signal, sys, torch
        from pathlib import Path
        from limbeck.errors import LimbeckError
        from limbeck.training.checkpoint import save
        folder = Path({str(tmp_path)!r})
        tree = {{"step": 1, "weights": torch.ones(100_000)}}
        save(folder, 1, tree)
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (int({share} * 400_000), resource.RLIM_INFINITY))
        try:
            save(folder, 2, {{**tree, "step": 2}})
        except LimbeckError as error:
            print(error)
            sys.exit(2)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 2, done.stderr
    assert str(tmp_path / "step-000000002") in done.stdout
    assert "LIMBECK_HOME" in done.stdout
    assert checkpoint.latest(tmp_path)["step"] == 1
    assert [path.name for path in tmp_path.iterdir()] == ["step-000000001"]
    tried(full_disks=1)

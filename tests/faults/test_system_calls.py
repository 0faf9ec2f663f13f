"""Killed before each system call of a save, one after another: what was there is there, whole, or what was to come is."""

import json
import shutil
from contextlib import suppress

import pytest
import torch
from tests.fakes.rows import LOGITS, Named, batch_of, examples
from tests.fakes.tracer import killed_at
from tests.laws.test_upkeep import everything, written

from limbeck.files import whole_folder, write_json
from limbeck.teachers.cached import CachedTeacher
from limbeck.teachers.store import Store, upkeep
from limbeck.training.checkpoint import latest, save

DATA = examples(60)
pytestmark = pytest.mark.proof("Q2")


def each_moment(tmp_path, work, look, tried, every=1):
    """Kills ``work(folder)`` before each system call, or one of ``every``, on a copy of what is there; what ``look`` then saw."""
    before, folder = tmp_path / "before", tmp_path / "now"
    before.mkdir(exist_ok=True)
    seen, moment, killed = [], 0, True
    while killed:
        shutil.copytree(before, folder)
        killed = killed_at(moment, lambda: work(folder))
        seen.append(look(folder))
        shutil.rmtree(folder)
        moment += every
    assert moment > 10, "saves take more calls than that"
    tried(kills_at_a_system_call=len(seen) - 1)  # the last time it came to its end
    return seen


def turned_once(seen, old, new):
    """First the old, and from some moment on the new."""
    assert set(map(str, seen)) <= {str(old), str(new)}
    at = [str(one) for one in seen].index(str(new))
    assert at > 0
    assert all(str(one) == str(new) for one in seen[at:])


def tree(step):
    return {"step": step, "weights": torch.full((1000,), float(step)), "momenta": [torch.zeros(10), {"a": 1}]}


@pytest.mark.parametrize("kept", [1, 2])
def test_a_checkpoint_is_there_at_every_moment_of_a_save(tmp_path, kept, tried):
    for step in range(1, kept + 1):
        save(tmp_path / "before", step, tree(step))
    seen = each_moment(
        tmp_path, lambda folder: save(folder, kept + 1, tree(kept + 1)), lambda at: latest(at)["step"], tried
    )
    turned_once(seen, kept, kept + 1)


def test_a_file_is_the_old_or_the_new(tmp_path, tried):
    (tmp_path / "before").mkdir()
    write_json(tmp_path / "before" / "a.json", {"a": 1})
    seen = each_moment(
        tmp_path,
        lambda folder: write_json(folder / "a.json", {"a": list(range(3000))}),
        lambda folder: json.loads((folder / "a.json").read_text())["a"],
        tried,
    )
    turned_once(seen, 1, list(range(3000)))


def test_a_folder_is_the_old_or_the_new_and_never_neither(tmp_path, monkeypatch, tried):
    def fill(folder, text):
        with whole_folder(folder / "it") as draft:
            (draft / "one").write_text(text)
            (draft / "inner").mkdir()
            (draft / "inner" / "two").write_text(text)

    def found(folder):
        texts = {path.read_text() for path in (folder / "it").rglob("*") if path.is_file()}
        assert len(texts) == 1, "not some of each"
        return texts.pop()

    fill(tmp_path / "before", "old")
    turned_once(each_moment(tmp_path, lambda folder: fill(folder, "new"), found, tried), "old", "new")

    def found_by_the_next(folder):
        with suppress(RuntimeError), whole_folder(folder / "it"):
            raise RuntimeError
        return found(folder)

    monkeypatch.setattr("limbeck.files._exchanged", lambda *_: False)  # of a system that cannot
    assert set(each_moment(tmp_path, lambda folder: fill(folder, "new"), found_by_the_next, tried)) == {"old", "new"}


@pytest.mark.parametrize("every", [5, pytest.param(1, marks=pytest.mark.faults)])
def test_rows_of_a_store_stay_and_come_whole(tmp_path, every, tried):
    def more(folder):
        with CachedTeacher(Named(), folder, "inputs") as cached:
            cached.observe(batch_of(DATA, range(20, 60)), LOGITS)

    def rows(folder):
        found = everything(next(folder.glob("*/key.json")).parent)
        for (_, row, view), value in found.items():
            assert torch.equal(
                torch.frombuffer(bytearray(value[-8:]), dtype=torch.float32), torch.tensor([row, view]).float()
            )
        return len(found)

    written(tmp_path / "before", range(20))
    turned_once(each_moment(tmp_path, more, rows, tried, every), 20, 60)


@pytest.mark.parametrize("every", [7, pytest.param(1, marks=pytest.mark.faults)])
def test_a_store_says_the_same_at_every_moment_of_its_compaction(tmp_path, every, tried):
    (tmp_path / "before").mkdir()
    place = written(tmp_path / "before", range(8), shard_rows=3).name
    expected = everything(tmp_path / "before" / place)
    seen = each_moment(
        tmp_path,
        lambda folder: upkeep.compact(folder / place),
        lambda folder: everything(folder / place) == expected,
        tried,
        every,
    )
    assert all(seen)
    assert Store.at(tmp_path / "before" / place).shards()

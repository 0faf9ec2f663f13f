"""Upkeep of stores: what is kept stays what it was, bit for bit, whatever happens on the way."""

import os
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.fakes.rows import LOGITS, Named, Reader, Texts, batch_of, examples, local

from limbeck.cli.main import main
from limbeck.errors import Busy, LimbeckError
from limbeck.teachers.cached import CachedTeacher
from limbeck.teachers.store import Store, describe, upkeep
from limbeck.teachers.store.writer import Writer
from limbeck.teachers.stored import StoredTeacher

DATA, WORDS = examples(200), examples(60, Texts)
BOTH = frozenset({"logits", "states"})


def written(root, rows, needs=LOGITS, teacher=None, data=DATA, shard_rows=7) -> Path:
    """Rows in files of ``shard_rows``, by a writer of its own; gives the store's folder."""
    with CachedTeacher(teacher or Named(), root, "inputs", shard_rows=shard_rows) as cached:
        for ids in torch.as_tensor(list(rows)).split(shard_rows):
            cached.observe(batch_of(data, ids), needs)
    return cached.store.folder


def twice(root, monkeypatch, rows) -> Path:
    """The same rows by two writers who do not see each other."""
    monkeypatch.setattr(Store, "refresh", lambda self: False)
    folder = written(root, rows)
    written(root, rows)
    monkeypatch.undo()
    return folder


def everything(folder) -> dict[tuple[str, int, int], bytes]:
    """Every row of every signal, as it is read."""
    store = Store.at(folder)
    found = {}
    for name in store.names:
        for row, view in store.pairs().tolist():
            at = store.find(np.array([row]), np.array([view]), {name})[name]
            if at[0][0] >= 0:
                values = store.read(name, at)
                found[name, row, view] = repr(values.dtype).encode() + values.numpy().tobytes()
    return found


def test_many_small_files_become_few_and_say_the_same(tmp_path):
    folder = written(tmp_path, range(150))
    before, rows = everything(folder), describe(Store.at(folder)).rows
    done = upkeep.compact(folder)
    assert done.files == (22, 1)
    assert done.twice == 0
    assert done.bytes[1] < done.bytes[0]
    assert everything(folder) == before
    assert describe(Store.at(folder)).rows == rows == 150
    assert upkeep.compact(folder).files == (1, 1), "and then there is nothing to do"
    teacher = Named()
    with CachedTeacher(teacher, tmp_path, "inputs") as cached:
        cached.observe(batch_of(DATA, range(150)), LOGITS)
    assert teacher.rows == 0, "nobody is asked again"


def test_rows_of_unequal_length_and_other_signals_too(tmp_path):
    live = local(Reader)
    folder = written(tmp_path, range(40), teacher=live, data=WORDS)
    written(tmp_path, range(20, 60), BOTH, live, WORDS)
    before = everything(folder)
    done = upkeep.compact(folder)
    assert done.files[1] < done.files[0] / 3
    assert everything(folder) == before


def test_files_of_usual_size_are_left_as_they_are(tmp_path):
    """Half of 4,096 rows is enough; what is smaller is put together beside them."""
    many = examples(4400)
    folder = written(tmp_path, range(4200), data=many, shard_rows=2100)
    large = set(folder.glob("w-*/*.safetensors"))
    written(tmp_path, range(4200, 4400), data=many, shard_rows=50)
    assert upkeep.compact(folder).files == (6, 3)
    assert large < set(folder.glob("w-*/*.safetensors"))
    assert describe(Store.at(folder)).rows == 4400


def test_what_is_there_twice_is_there_once(tmp_path, monkeypatch):
    folder = twice(tmp_path, monkeypatch, range(30))
    assert sum(len(shard.ids) for shard in Store.at(folder).shards()) == 60
    before = everything(folder)
    assert upkeep.compact(folder).twice == 30
    assert sum(len(shard.ids) for shard in Store.at(folder).shards()) == 30
    assert everything(folder) == before


def test_a_writer_at_work_is_left_alone_and_so_are_its_readers(tmp_path):
    folder = written(tmp_path, range(50))
    with CachedTeacher(Named(), tmp_path, "inputs", shard_rows=5) as busy:
        busy.observe(batch_of(DATA, range(50, 60)), LOGITS)
        own = {path for path in folder.glob("w-*/*.safetensors") if path.parent == busy.store._writer.folder}
        reader = StoredTeacher(tmp_path)
        done = upkeep.compact(folder)
        assert done.busy == 1
        assert own <= set(folder.glob("w-*/*.safetensors"))
        shown = reader.observe(batch_of(DATA, range(60)), LOGITS)["logits"]
        assert torch.equal(shown[:, 0], torch.arange(60).float()), "whose files are gone reads the new ones"
        busy.observe(batch_of(DATA, range(60, 70)), LOGITS)
    assert describe(Store.at(folder)).rows == 70


class Killed(BaseException):
    """What ends a process."""


@pytest.mark.parametrize("moment", range(14))
def test_killed_at_any_moment_nothing_is_lost_and_the_next_time_goes_on(tmp_path, monkeypatch, moment):
    folder = twice(tmp_path, monkeypatch, range(20))
    before, left = everything(folder), [moment]

    def counted(function):
        def wrapper(*arguments, **settings):
            left[0] -= 1
            if left[0] < 0:
                raise Killed
            return function(*arguments, **settings)

        return wrapper

    monkeypatch.setattr(Writer, "commit", counted(Writer.commit))
    monkeypatch.setattr(Path, "unlink", counted(Path.unlink))
    monkeypatch.setattr(upkeep, "sync", counted(upkeep.sync))
    monkeypatch.setattr(upkeep, "_tidy", counted(upkeep._tidy))
    with pytest.raises(Killed):
        upkeep.compact(folder)
    monkeypatch.undo()
    assert everything(folder) == before
    upkeep.compact(folder)
    assert everything(folder) == before
    assert [len(shard.ids) for shard in Store.at(folder).shards()] == [20]


def test_two_do_not_compact_at_once(tmp_path):
    folder = written(tmp_path, range(20))
    with upkeep.held(folder / ".compact", "it is being compacted"), pytest.raises(Busy, match="being compacted"):
        upkeep.compact(folder)


def test_damage_is_found_and_told(tmp_path):
    folder = written(tmp_path, range(50))
    one, other, *_ = sorted(folder.glob("w-*/*.safetensors"))
    content = bytearray(one.read_bytes())
    content[-1] ^= 1  # a value
    one.write_bytes(content)
    other.write_bytes(b"short")  # not even a beginning
    assert upkeep.verify(folder) == upkeep.Verified(files=8, damaged=2, rows=7)
    assert upkeep.verify(folder) == upkeep.Verified(files=6, damaged=0, rows=0)
    assert upkeep.leftovers(folder) == len(content) + 5
    upkeep.clean(folder)
    assert upkeep.leftovers(folder) == 0
    assert describe(Store.at(folder)).rows == 36


def test_a_store_is_removed_whole_unless_somebody_writes(tmp_path):
    folder = written(tmp_path, range(10))
    with CachedTeacher(Named(), tmp_path, "inputs") as busy:
        busy.observe(batch_of(DATA, [11]), LOGITS)
        busy.flush()
        with pytest.raises(Busy, match="being written to"):
            upkeep.remove(folder)
        assert describe(Store.at(folder)).rows == 11
    half = tmp_path / ".limbeck-removed-half"
    half.mkdir()
    upkeep.remove(folder)
    assert not list(tmp_path.iterdir()), "and what a killed process did not come to is gone with it"


def test_stores_are_listed_the_newest_first_and_damaged_ones_with_why(tmp_path):
    old, new = (written(tmp_path, range(10), teacher=Named(name)) for name in ("old", "new"))
    for path in (old, *old.glob("w-*")):
        os.utime(path, (time.time() - 3 * 86_400,) * 2)
    found = upkeep.stores(tmp_path)
    assert [one.folder for one in found] == [new, old]
    assert [round(one.days) for one in found] == [0, 3]
    assert [one.info.rows for one in found] == [10, 10]
    assert upkeep.stores(new)[0].folder == new, "one store alone may be named"
    (old / "key.json").write_text("{}")
    damaged = upkeep.stores(tmp_path)[1]
    assert damaged.info is None
    assert "holds no stored teacher outputs" in damaged.why
    with pytest.raises(LimbeckError, match="There is no folder"):
        upkeep.stores(tmp_path / "nowhere")


def told(capsys, *arguments) -> tuple[int, str]:
    with pytest.raises(SystemExit) as ended:
        main(["store", *map(str, arguments)])
    shown = capsys.readouterr()
    return int(ended.value.code or 0), " ".join((shown.out + shown.err).split())


def test_the_command_lists_verifies_compacts_and_cleans(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("LIMBECK_HOME", str(tmp_path))
    code, said = told(capsys, "verify")
    assert (code, said) == (0, f"No stored teacher outputs in {tmp_path}/stores.")
    folder = written(tmp_path / "stores", range(50))
    code, said = told(capsys, "list")
    assert code == 0
    assert folder.name[:12] in said
    assert "50 logits float32 [2]" in said
    assert told(capsys, "verify") == (0, f"{folder.name[:12]}: 8 files read, all whole.")
    path = min(folder.glob("w-*/*.safetensors"))
    path.write_bytes(path.read_bytes()[:-1])
    code, said = told(capsys, "verify", folder)
    assert code == 2
    assert "8 files read, 1 damaged, set aside" in said
    code, said = told(capsys, "compact")
    assert code == 0
    assert "7 files are now 1" in said
    code, said = told(capsys, "clean")
    assert code == 0
    assert "that were set aside as damaged" in said
    assert folder.exists()
    code, said = told(capsys, "clean", "--older-than", 0)
    assert code == 2, "nobody can be asked"
    assert "say --yes" in said
    code, said = told(capsys, "clean", "--older-than", 0, "--yes")
    assert code == 0
    assert not folder.exists()
    code, said = told(capsys, "list")
    assert said.startswith("No stored teacher outputs in")
    code, said = told(capsys, "lst")
    assert code == 2
    assert "limbeck store --help" in said

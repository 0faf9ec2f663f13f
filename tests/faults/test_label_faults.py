"""Labels and files of every task that are malformed: one paragraph that says what, where and what to do."""

import json
import math

import pytest

from limbeck.data.batch import NO_LABEL
from limbeck.data.labels import flagged, measured, spanned, tagged
from limbeck.data.sources import Data
from limbeck.data.task import ASKED
from limbeck.errors import DataError


def refused(said, act):
    with pytest.raises(DataError, match=said) as caught:
        act()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("read", "labels", "names", "said"),
    [
        (flagged, [["a"], ["b"]], ("a",), r"rows: the label 'b' of row 1 is none of 'a'"),
        (flagged, [[0, 1], [0, 2]], ("a", "b"), r"the labels of row 1 are \[0, 2\].*a 0 or 1 for each of the 2 labels"),
        (flagged, [[0, 1], [0]], ("a", "b"), r"the labels of row 1 are \[0\]"),
        (flagged, [["a"], 2.5], None, r"the labels of row 1 are \[2\.5\]"),
        (flagged, [["a"], object()], None, r"the labels of row 1 are a object"),
        (measured, [1.0, "three"], None, r"the label 'three' of row 1 is no number .*decimal point"),
        (measured, [1.0, "3,5"], None, r"the label '3,5' of row 1"),
        (measured, [1.0, math.nan], None, r"the label nan of row 1 .*leave the label empty"),
        (measured, [1.0, math.inf], None, r"the label inf of row 1"),
        (measured, [[1.0, 2.0], [1.0]], None, r"row 1 has 1 numbers, but 2 were expected"),
        (tagged, [["A"], ["B"]], ("A",), r"the label 'B' of row 1 is none of the 1 classes"),
        (tagged, [["A"], None], None, r"the labels of row 1 are a NoneType, but a list was expected"),
        (tagged, [["A", 0.5]], None, r"0\.5"),
        (spanned, [(0, 3), (1,)], None, r"the label of row 1 is \[1\], but a span was expected"),
        (spanned, [(0, 3, 4)], None, r"the label of row 0 is \[0, 3, 4\]"),
        (spanned, [(0, 3.5)], None, r"the label of row 0"),
    ],
)
def test_labels_of_another_kind_name_their_row(read, labels, names, said):
    refused(said, lambda: read(labels, "rows", *([names] if names else [])))


def test_what_counts_as_unknown():
    assert flagged([["a"], None, []], "x")[0].tolist() == [[1], [NO_LABEL], [0]]
    assert flagged([[1, None], [0, ASKED]], "x")[0].tolist() == [[1, NO_LABEL], [0, NO_LABEL]]
    assert measured([1.5, None, "", "2"], "x")[0].nan_to_num(99).flatten().tolist() == [1.5, 99, 99, 2]
    assert measured([[1.0, None]], "x")[0].isnan().all()
    assert tagged([["A", None, ""], [NO_LABEL, "B", ASKED]], "x")[0].tolist() == [
        [0, ASKED, ASKED],
        [NO_LABEL, 1, ASKED],
    ]
    assert spanned([None, (0, 0), (2, 5)], "x").tolist() == [[ASKED, ASKED], [0, 0], [2, 5]]
    assert tagged([[], []], "x")[0].shape == (2, 0)


def source(tmp_path, name, content, kind, **settings):
    path = tmp_path / name
    path.write_text(content)
    return lambda: Data(
        source={"name": kind, "path": str(path), **settings}, task={"tagged": "tags", "questions": "spans"}[kind]
    ).load()


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.conll", "", r"has no rows"),
        ("a.conll", "one A\ntwo\n", r"line 2: 1 columns where the lines before it have 2"),
        ("a.conll", "one NN A\ntwo B\n\n", r"line 2: 2 columns"),
        ("a.conll", "one\ntwo\n\nthree\n", r"no label at all"),
        ("a.jsonl", json.dumps({"words": ["a"], "tags": ["A", "B"]}), r"text 1: there are 1 words but 2 tags"),
        ("a.jsonl", json.dumps({"words": "a b", "tags": []}), r"text 1 has no list 'words'"),
        ("a.jsonl", json.dumps({"tokens": ["a"], "tags": ["A"]}), r"it has 'tokens', 'tags'. Name them in 'words'"),
        ("a.jsonl", json.dumps({"words": ["a", " "], "tags": ["A", "B"]}), r"text 1: the words are no list of words"),
        ("a.jsonl", "{", r"line 1 is no JSON"),
    ],
)
def test_tagged_files(tmp_path, name, content, said):
    refused(said, source(tmp_path, name, content, "tagged"))


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.json", "[]", r"is not of SQuAD's form.*JSON lines \(\.jsonl\)"),
        ("a.json", json.dumps({"data": [{"paragraphs": [{"qas": []}]}]}), r"has no rows"),
        ("a.json", json.dumps({"data": [{"paragraphs": [{"qas": [{"question": "a"}]}]}]}), r"KeyError\('context'\)"),
        ("a.json", json.dumps({"data": 3}), r"is not of SQuAD's form"),
        ("a.jsonl", json.dumps({"question": "a"}), r"question 1: 'question' or 'text' is missing"),
        ("a.jsonl", json.dumps({"question": "a", "text": "b", "answer": 3}), r"question 1: 'answer' is a int"),
        (
            "a.jsonl",
            json.dumps({"question": "a", "text": "b c", "answer": "c", "start": 1}),
            r"1 of 1 answers do not stand at their place in the text. 'start' counts characters from 0",
        ),
    ],
)
def test_files_of_questions(tmp_path, name, content, said):
    refused(said, source(tmp_path, name, content, "questions"))


@pytest.mark.parametrize(
    ("task", "label", "rows", "said"),
    [
        (
            "multi-label",
            ["x", "y"],
            ["a,1,2"],
            r"the column 'y' holds '2', but labels of 'multi-label' columns are 0 or 1",
        ),
        (
            "classes",
            ["x", "y"],
            ["a,1,0"],
            r"several columns of labels \(x, y\) are for 'task: multi-task', .*multi-label'",
        ),
        ("numbers", "x", ["a,1.5,0", "b,much,0"], r"the label 'much' of row 1 is no number"),
        ("classes", "x", ["a,1.5,0", "b,2,0"], r"1\.5 is a fraction.*write 'task: numbers'"),
        ("numbers", "z", ["a,1,0"], r"has no column 'z'"),
        ("numbers", "x", ["a,,0"] * 9, r"has no label at all to train on: some rows need one"),
        ("numbers", "x", ["a,1,0", "b,2,0"], r"leave nothing to train on|has no rows of its own"),
    ],
)
def test_tables_of_other_tasks(tmp_path, task, label, rows, said):
    (tmp_path / "a.csv").write_text("\n".join(["text,x,y", *rows]) + "\n")
    table = {"name": "table", "path": str(tmp_path / "a.csv"), "label": label}
    refused(said, lambda: Data(source=table, task=task, tokenizer="words", test=0.5, validation=0.5).load())

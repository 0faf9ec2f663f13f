"""Data sets in memory: pure under any composition of batches, the random states untouched, errors that name the row."""

import json
import random
import time

import numpy as np
import pytest
import torch
from datasets import Dataset as HubDataset
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch.utils.data import ConcatDataset, IterableDataset, Subset, TensorDataset

from limbeck.data.augment import Augment
from limbeck.data.batch import NO_LABEL
from limbeck.data.memory import MapTable
from limbeck.data.tensors import TensorReader
from limbeck.errors import DataError
from limbeck.models.readers import load_reader, save_reader

X = torch.randn(200, 5, generator=torch.Generator().manual_seed(0))
Y = torch.arange(200) % 3


class Items:
    """A data set of what ``make`` gives."""

    def __init__(self, make, count=6, **facts):
        self.make, self.count = make, count
        self.__dict__.update(facts)

    def __len__(self):
        return self.count

    def __getitem__(self, row):
        return self.make(row)


def noisy(row):
    scale = random.random() + np.random.rand()
    return X[row] * scale + torch.randn(5), int(Y[row])


def read(table, rows, views=0):
    rows = torch.as_tensor(rows)
    return table.read(rows, torch.as_tensor(views).expand_as(rows))


def states():
    return random.getstate(), str(np.random.get_state()), torch.get_rng_state().tolist()


NOISY = MapTable(Items(noisy, 100))


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 99), st.integers(0, 2**62)), min_size=1, max_size=12), st.integers(0, 99))
def test_an_item_is_the_same_in_every_batch(pairs, seed):
    rows, views = torch.tensor(pairs).T
    torch.manual_seed(seed), np.random.seed(seed), random.seed(seed)
    together = NOISY.read(rows, views)["x"]
    for place, (row, view) in enumerate(pairs):
        assert read(NOISY, [row], view)["x"][0].equal(together[place])


def test_the_random_states_are_untouched():
    before = states()
    table = MapTable(Items(noisy))
    read(table, [0, 1], 3)
    table.show(0), table.raw(1)
    assert states() == before
    with pytest.raises(DataError):
        MapTable(Items(lambda row: noisy(row) if row < 3 else 1 / 0))
    assert states() == before


def test_views_differ_only_where_the_data_set_draws():
    assert NOISY.varies
    assert len({read(NOISY, [4], view)["x"][0].sum().item() for view in range(5)}) == 5
    plain = MapTable(TensorDataset(X, Y))
    assert not plain.varies
    assert read(plain, [1, 2], 7)["x"].equal(X[1:3])


@pytest.mark.parametrize("draw", [random.random, np.random.rand, lambda: torch.rand(()).item()])
def test_each_generator_is_noticed_and_seeded_even_if_few_rows_draw(draw):
    table = MapTable(Items(lambda row: (X[row] + (draw() if row == 150 else 0), 0), 200))
    first = read(table, [150], 2)["x"]
    draw()
    assert read(table, [150], 2)["x"].equal(first)
    assert not read(table, [150], 3)["x"].equal(first)


def test_a_generator_of_its_own_is_refused():
    own = np.random.default_rng(0)
    with pytest.raises(DataError, match="generator of its own"):
        MapTable(Items(lambda row: (float(own.random()), 0)))


def test_a_table_made_again_is_the_same():
    again = MapTable(Items(noisy, 100))
    assert again.fingerprint == NOISY.fingerprint
    assert read(again, [3], 9)["x"].equal(read(NOISY, [3], 9)["x"])


def test_fingerprints_follow_the_content():
    touched = X.clone()
    touched[199].view(torch.uint8)[0] ^= 1
    tables = [
        MapTable(TensorDataset(X, Y)),
        MapTable(TensorDataset(touched, Y)),
        MapTable(TensorDataset(X[:199], Y[:199])),
        MapTable(TensorDataset(X.flip(0), Y)),
        MapTable(Items(lambda row: ({"z": X[row]}, int(Y[row])), 200)),
        NOISY,
        MapTable(Items(lambda row: (noisy(row)[0] * 2, 0), 100)),
    ]
    assert len({table.fingerprint for table in tables}) == len(tables)
    # labels are named by Examples: a teacher's outputs do not depend on them
    assert MapTable(TensorDataset(X, Y.flip(0))).fingerprint == tables[0].fingerprint


GREY = [Image.fromarray(np.full((4, 6), 50 * row, np.uint8)) for row in range(6)]
COLOURS = np.random.default_rng(0).integers(0, 255, (6, 4, 6, 3), np.uint8)


@pytest.mark.parametrize(
    ("make", "column", "shape", "dtype"),
    [
        (lambda row: (X[row], 1), "x", (5,), torch.float32),
        (lambda row: [X[row].double().numpy(), np.int64(1)], "x", (5,), torch.float32),
        (lambda row: (row, torch.tensor(1)), "x", (), torch.int64),
        (lambda row: ([1, 2.5] if row else [1, 2], 1), "x", (2,), torch.float32),
        (lambda row: (GREY[row], 1), "pixel_values", (1, 4, 6), torch.float32),
        (lambda row: (COLOURS[row], 1), "pixel_values", (3, 4, 6), torch.float32),
        (lambda row: (torch.from_numpy(COLOURS[row]).movedim(-1, 0), 1), "pixel_values", (3, 4, 6), torch.float32),
        (lambda row: {"a": X[row], "targets": 1}, "a", (5,), torch.float32),
        (lambda row: ({"a": X[row]}, 1), "a", (5,), torch.float32),
    ],
)
def test_items_of_all_kinds(make, column, shape, dtype):
    table = MapTable(Items(make))
    columns = read(table, [5, 0])
    assert {name: (value.shape, value.dtype) for name, value in columns.items()} == {column: ((2, *shape), dtype)}
    assert table.found == [1] * 6
    if column == "pixel_values":
        assert 0 <= columns[column].min() < columns[column].max() <= 1
    inputs = [make(row)[0] if isinstance(make(row), list | tuple) else make(row) for row in (5, 0)]
    assert table.reader.encode(inputs)[column].equal(columns[column])


@pytest.mark.parametrize("key", ["label", "labels", "target", "targets", "y", "class"])
def test_every_label_key(key):
    table = MapTable(Items(lambda row: {"a": X[row], key: row % 2}))
    assert set(read(table, [0])) == {"a"}
    assert table.labels.tolist() == [0, 1, 0, 1, 0, 1]


def test_labels_and_the_names_of_the_classes():
    labels = [2, None, np.float64("nan"), NO_LABEL, 0.0, torch.tensor([1])]
    table = MapTable(Items(lambda row: (X[row], labels[row])))
    assert table.labels.tolist() == [2, NO_LABEL, NO_LABEL, NO_LABEL, 0, 1]
    assert table.classes == ("0", "1", "2")
    assert MapTable(Items(lambda row: (X[row], "ba"[row % 2]))).classes == ("a", "b")
    named = Items(lambda row: (X[row], row % 2), classes=["no", "yes", "maybe"])
    assert MapTable(Subset(named, [1, 2])).classes == ("no", "yes", "maybe")
    assert MapTable(Subset(named, [1, 2])).labels.tolist() == [1, 0]
    with pytest.raises(DataError, match="row 5"):
        _ = MapTable(Items(lambda row: (X[row], row), classes=list("abcde"))).labels


def test_data_sets_of_torch_and_of_the_hub():
    whole = TensorDataset(X, Y)
    assert read(MapTable(Subset(whole, [7, 3])), [1])["x"].equal(X[3:4])
    assert read(MapTable(ConcatDataset([whole, whole])), [203])["x"].equal(X[3:4])
    rows = {"values": X[:4].tolist(), "label": [0, 1, 1, 0]}
    hub = HubDataset.from_dict(rows)
    tables = [MapTable(hub), MapTable(hub.with_format("torch")), MapTable(hub.with_format("numpy")), MapTable([*hub])]
    assert len({table.fingerprint for table in tables}) == 1
    for table in tables:
        assert read(table, [2, 0])["values"].equal(X[[2, 0]])
        assert table.labels.tolist() == rows["label"]


def test_class_names_and_images_of_the_hub():
    from datasets import ClassLabel, Features
    from datasets import Image as HubImage

    rows = {"image": GREY, "label": [0, 1] * 3}
    hub = HubDataset.from_dict(rows, Features({"image": HubImage(), "label": ClassLabel(names=["no", "yes"])}))
    for table in (MapTable(hub), MapTable(hub.with_format("torch"))):
        assert table.classes == ("no", "yes")
        assert read(table, [3])["image"].shape == (1, 1, 4, 6)
        assert (table.show(3) == np.asarray(GREY[3])).all()


class Stream(IterableDataset):
    def __iter__(self):
        return iter([(1, 2)])

    def __len__(self):
        return 1


BAD = {
    "no rows": Items(None, 0),
    "map-style": Stream(),
    "a mapping of 'train'": {"train": []},
    r"row 3.*\[4\].*row 0.*\[5\]": Items(lambda row: (X[row, : 4 if row == 3 else 5], 0)),
    "row 2 has the columns b, but row 0 has a": Items(lambda row: {"b" if row == 2 else "a": 1, "y": 0}),
    "row 4 cannot be read: ZeroDivisionError": Items(lambda row: (1 / (row - 4), 0)),
    "no row has a label": TensorDataset(X),
    "no row has a label.*": Items(lambda row: X[row]),
    "row 1: its label 1.5 is a fraction": Items(lambda row: (X[row], row * 1.5)),
    "row 2: its label -2 is negative": Items(lambda row: (X[row], -2 if row == 2 else 1)),
    r"row 0: its label has shape \[3\]": Items(lambda row: (X[row], torch.eye(3)[0])),
    "row 0: its label is a list": Items(lambda row: (X[row], [1])),
    "row 5 has a NaN": Items(lambda row: (X[row] / (float("nan") if row == 5 else 1), 0)),
    "row 5 has a NaN or an infinite": Items(lambda row: (X[row] / (0 if row == 5 else 1), 0)),
    "row 0: it is a tuple of 3": Items(lambda row: (X[row], 0, row)),
    "row 0: a text cannot be stacked; texts need a tokenizer": Items(lambda row: ("good", 0)),
    "row 0: column 'a': nothing cannot be stacked": Items(lambda row: {"a": None, "y": 0}),
    "row 0: there is no input": Items(lambda row: {"y": 0}),
}


@pytest.mark.parametrize("message", BAD)
def test_what_cannot_be_learnt_from_is_named(message):
    with pytest.raises(DataError, match=message):
        MapTable(BAD[message])


def test_a_view_of_another_shape_is_named():
    table = MapTable(Items(lambda row: (X[row, : 5 if torch.rand(()) < 2 else 4], 0)))
    table.dataset = Items(lambda row: (X[row, :4], 0))
    with pytest.raises(DataError, match="row 2 under view 9"):
        read(table, [2], 9)


def test_augmentation_comes_on_top_for_images():
    images = Items(lambda row: (COLOURS[row], row % 2))
    plain = MapTable(images)
    varied = plain.augmented(Augment(shift=1, noise=0.1))
    assert plain.augmented(Augment()) is plain
    assert varied.varies
    assert varied.fingerprint != plain.fingerprint
    assert read(varied, [0, 1])["pixel_values"].equal(read(plain, [0, 1])["pixel_values"])
    assert not read(varied, [0, 1], 1)["pixel_values"].equal(read(plain, [0, 1])["pixel_values"])
    with pytest.raises(DataError, match="augment"):
        NOISY.augmented(Augment(flip=True))


def test_rows_are_shown():
    assert MapTable(Items(lambda row: (COLOURS[row], 0))).show(2).tolist() == COLOURS[2].tolist()
    stretched = MapTable(Items(lambda row: (torch.linspace(-2, 2, 24).view(1, 4, 6), 0))).show(0)
    assert (stretched.shape, stretched.dtype, stretched.min(), stretched.max()) == ((4, 6), np.uint8, 0, 255)
    assert MapTable(Items(lambda row: {"a": 1.5, "b": list(range(9)), "y": 1})).show(0) == (
        "a: 1.5; b: 0, 1, 2, 3, 4, 5, 6, 7, ..."
    )


def test_the_reader_is_delivered_and_refuses_what_the_model_does_not_know(tmp_path):
    reader = MapTable(Items(lambda row: {"a": X[row], "b": row, "y": 0})).reader
    delivered = load_reader(json.loads(json.dumps(save_reader(reader, tmp_path))), tmp_path, None)
    assert delivered == reader
    assert delivered.fingerprint == reader.fingerprint
    good = {"a": [1, 2, 3, 4, 5], "b": 2.0, "more": "left out"}
    columns = delivered.encode([good])
    assert columns["a"].dtype == torch.float32
    assert columns["b"].tolist() == [2]
    assert {name: len(value) for name, value in delivered.encode([]).items()} == {"a": 0, "b": 0}
    for bad, message in (
        ({"a": X[0]}, "lacks the column 'b'"),
        ({**good, "a": X[0, :4]}, r"float32 of shape \[4\]"),
        ({**good, "b": 2.5}, "int64"),
        ({**good, "a": "text"}, "input 1, column 'a'"),
        (X[0], "mappings with a, b"),
    ):
        with pytest.raises(DataError, match=message):
            delivered.encode([good, bad])


def test_a_grey_image_is_read_as_colours_where_the_data_set_gave_colours():
    reader = TensorReader.of({"pixel_values": torch.zeros(3, 4, 6)})
    encoded = reader.encode([GREY[2], COLOURS[2]])["pixel_values"]
    assert encoded[0, 0].equal(encoded[0, 2])
    assert encoded.shape == (2, 3, 4, 6)


def test_reading_is_quick():
    rows, views = torch.arange(64), torch.ones(64, dtype=torch.int64)
    for table in (MapTable(TensorDataset(X, Y)), NOISY):
        best = {"table": 9.0, "alone": 9.0}
        for _ in range(20):
            for name, act in (
                ("table", lambda table=table: table.read(rows, views)),
                ("alone", lambda table=table: [table.dataset[row] for row in range(64)]),
            ):
                start = time.perf_counter()
                act()
                best[name] = min(best[name], time.perf_counter() - start)
        assert best["table"] - best["alone"] < 0.006  # twice what is promised: machines are shared

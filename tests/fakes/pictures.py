"""Tiny pictures, a teacher with BatchNorm that knows them a little, and a plan of both."""

from dataclasses import replace

import torch
from tests.fakes.experiments import SOFT, TRAINING, plan, seeded_teacher
from torch import nn

from limbeck.data.examples import Examples, Splits
from limbeck.data.images import ImageReader, ImageTable
from limbeck.models.given import Given
from limbeck.models.spec import BuildContext

CLASSES, SIDE = 3, 6
READER = ImageReader(height=SIDE, width=SIDE, channels=1, mean=(0.3,), std=(0.25,))


def images(rows: int = 100, seed: int = 0) -> ImageTable:
    """One bright stripe a class, in noise."""
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 90, (rows, 1, SIDE, SIDE), generator=generator)
    for row in range(rows):
        pixels[row, :, 2 * (row % CLASSES)] += 140
    return ImageTable(pixels.to(torch.uint8), READER)


def splits() -> Splits:
    """50 rows to train on, 20 to choose by, 30 to judge by."""
    table = images()
    labels, known = torch.arange(100) % CLASSES, torch.ones(100, dtype=torch.bool)
    whole = Examples(table, torch.arange(100), labels, known, ("a", "b", "c"))
    parts = (torch.arange(50), torch.arange(50, 70), torch.arange(70, 100))
    return Splits(*(replace(whole, rows=rows) for rows in parts))


class Convolutions(nn.Module):
    """Convolutions with BatchNorm and dropout."""

    def __init__(self, width: int = 4, norm: bool = True):
        super().__init__()
        self.conv1 = nn.Conv2d(1, width, 3, padding=1)
        self.norm1 = nn.BatchNorm2d(width) if norm else nn.Identity()
        self.conv2 = nn.Conv2d(width, width, 3, stride=2, padding=1)
        self.norm2 = nn.BatchNorm2d(width) if norm else nn.Identity()
        self.drop = nn.Dropout(0.2)
        self.head = nn.Linear(9 * width, CLASSES)

    def forward(self, pixel_values):
        x = torch.relu(self.norm1(self.conv1(pixel_values)))
        return self.head(self.drop(torch.relu(self.norm2(self.conv2(x))).flatten(1)))


def experienced(norm: bool = True) -> nn.Module:
    """A network whose BatchNorm has seen the training pictures; untrained otherwise."""
    module = Convolutions(6, norm)
    train = splits().train
    with torch.no_grad():
        for _ in range(20):
            module(train.batch(train.rows, torch.zeros_like(train.rows)).inputs["pixel_values"])
    return module.eval()


def picture_plan(tmp_path, **changes):
    """A plan of 12 steps for a regime that makes pictures."""
    parts = splits()
    sample = parts.train.batch(parts.train.rows[:4], torch.zeros(4, dtype=torch.int64)).columns("student")
    given = {
        "splits": parts,
        "student": Given(Convolutions),
        "terms": (SOFT,),
        "training": TRAINING,
        "teacher": seeded_teacher(experienced),
        "views": 0,
        "context": BuildContext(CLASSES, sample, parts.classes),
        "store": tmp_path / "stores",
    }
    return plan(**{**given, **changes})

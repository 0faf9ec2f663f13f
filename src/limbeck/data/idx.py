"""Images in files of MNIST's format (IDX), and Fashion-MNIST, which comes so."""

import gzip
import zlib
from pathlib import Path
from typing import Final, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from limbeck.config import Config
from limbeck.data.labels import named
from limbeck.data.raw import Raw, existing, rows_of
from limbeck.data.task import Task
from limbeck.data.tasks import CLASSES
from limbeck.errors import DataError

_GARMENTS: Final = (
    "T-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot",
)  # fmt: skip


class Idx(Config):
    """Images and labels in files of MNIST's format, compressed (.gz) or not."""

    name: Literal["idx"] = "idx"
    """The kind of source."""
    images: str
    """File of images: bytes [N, height, width] or [N, height, width, channels]."""
    labels: str
    """File of labels: bytes [N]."""
    test_images: str | None = None
    """File of the test images; drawn from the others if left out."""
    test_labels: str | None = None
    """File of the test labels."""
    classes: tuple[str, ...] | None = None
    """The names of labels 0, 1, 2...; the numbers that occur if left out."""

    def load(self, task: Task = CLASSES) -> Raw:
        """The images; the test files are their own part; their labels are classes, whatever the ``task``.

        Raises:
            DataError: a file is missing, damaged or does not fit the others; a label is outside the classes.
        """
        if (self.test_images is None) != (self.test_labels is None):
            raise DataError("'test-images' and 'test-labels' belong together: give both or neither.")
        pairs = [(self.images, self.labels)]
        if self.test_images is not None and self.test_labels is not None:
            pairs.append((self.test_images, self.test_labels))
        pixels, labels = [], []
        for images, names in pairs:
            some, their = read_idx(existing(images)), read_idx(existing(names))
            if some.ndim not in (3, 4) or their.ndim != 1 or len(some) != len(their):
                raise DataError(
                    f"{images} holds bytes {list(some.shape)} and {names} {list(their.shape)}: expected are images "
                    "[count, height, width] and labels [count], of the same count."
                )
            pixels.append(some.reshape(*some.shape[:3], -1).transpose(0, 3, 1, 2))
            labels += their.tolist()
        if len({some.shape[1:] for some in pixels}) > 1:
            raise DataError(f"{self.images} and {self.test_images} hold images of different sizes.")
        known, classes = named(labels, self.images, self.classes)
        content = torch.from_numpy(np.ascontiguousarray(np.concatenate(pixels)))
        test = rows_of([len(some) for some in pixels])[1] if len(pixels) > 1 else None
        return Raw("images", content, known, classes, test=test, name=self.images)


class FashionMnist(Config):
    """60,000 + 10,000 garments, 28 x 28, grey, from Debian's package; the 10,000 are the test part."""

    name: Literal["fashion-mnist"] = "fashion-mnist"
    """The kind of source."""
    path: str = "/usr/share/datasets/fashion-mnist"
    """The folder of the four files."""

    def load(self, task: Task = CLASSES) -> Raw:
        """The garments; their labels are classes, whatever the ``task``.

        Raises:
            DataError: the files are missing or damaged.
        """
        folder = Path(self.path).expanduser()
        if not folder.is_dir():
            raise DataError(
                f"Fashion-MNIST is not in {folder}. On Debian or Ubuntu: apt install dataset-fashion-mnist. Elsewhere "
                "put its four .gz files into a folder and name it in 'path', or use the source 'huggingface'."
            )
        files = [f"{part}-{what}-ubyte.gz" for part in ("train", "t10k") for what in ("images-idx3", "labels-idx1")]
        images, labels, test_images, test_labels = (str(folder / file) for file in files)
        return Idx(
            images=images, labels=labels, test_images=test_images, test_labels=test_labels, classes=_GARMENTS
        ).load()


def read_idx(path: Path) -> NDArray[np.uint8]:
    """The bytes of an IDX file, in its shape.

    Raises:
        DataError: it is missing, damaged, or holds anything but bytes.
    """
    content = _content(path)
    if len(content) < 4 or content[:3] != b"\0\0\x08" or len(content) < 4 + 4 * content[3]:
        raise DataError(f"{path} is no IDX file of bytes (it must begin with 00 00 08).")
    shape = tuple(int(length) for length in np.frombuffer(content, ">u4", content[3], 4))
    body = np.frombuffer(content, np.uint8, offset=4 + 4 * content[3])
    if body.size != int(np.prod(shape, dtype=np.int64)):
        raise DataError(f"{path} is cut off or damaged: it promises bytes {list(shape)} and holds {body.size}.")
    return body.reshape(shape)


def _content(path: Path) -> bytes:
    try:
        content = path.read_bytes()
        return gzip.decompress(content) if content[:2] == b"\x1f\x8b" else content
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path} cannot be read, being damaged or not open to you ({error}). Fetch it anew.") from error

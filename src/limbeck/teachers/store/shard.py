"""One committed file of rows. Its name is ``number-sha256.safetensors``: whole and named, or absent."""

import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from limbeck.errors import LimbeckError
from limbeck.teachers.store import codec
from limbeck.teachers.store.codec import Column, Ints

ASIDE = "aside"
SUFFIX = ".safetensors"
log = logging.getLogger(__name__)


class DamagedError(LimbeckError):
    """A shard is not what was committed; its rows are to be labelled again."""


class Piece:
    """Rows in memory: what one call added, before it is committed."""

    def __init__(self, ids: Ints, views: Ints, columns: Mapping[str, Column]) -> None:
        self.ids, self.views, self.columns = ids, views, dict(columns)
        self.names = frozenset(columns)

    @property
    def bytes(self) -> int:
        """The size of the values."""
        return sum(column.values.nbytes for column in self.columns.values())

    def ready(self) -> None:
        """Nothing to verify in memory."""


def content(pieces: Sequence[Piece]) -> bytes:
    """A file with the rows of all pieces, which are of one kind; see `codec.packed`."""
    columns = {name: codec.joined([piece.columns[name] for piece in pieces]) for name in pieces[0].names}
    ids, views = (np.concatenate([getattr(piece, which) for piece in pieces]) for which in ("ids", "views"))
    return codec.packed(ids, views, columns)


class Shard(Piece):
    """Rows on disk, mapped into memory. Values are shown only after the file's checksum was found right.

    Raises:
        DamagedError: the file cannot be read as a shard, on opening; its checksum is wrong, on `ready`.
    """

    def __init__(self, path: Path, verified: bool = False) -> None:
        self.path = path
        self._verified = verified
        try:
            with safe_open(path, "pt") as opened:
                header = json.loads(opened.metadata()["limbeck"])
                tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 - not a dict
            if (header["codec"], header["version"]) != (codec.NAME, codec.VERSION):
                raise ValueError("another codec")
            columns = {}
            for number, signal in enumerate(header["signals"]):
                parts = (tensors.get(f"{number}.{part}") for part in ("offsets", "shapes"))
                columns[str(signal["name"])] = Column(
                    tensors[f"{number}.values"], tuple(map(int, signal["tokens"])), *parts
                )
            ids, views = _ints(tensors["ids"]), _ints(tensors["views"])
            if header["index"] != codec.index_digest(ids, views, header["signals"]):
                raise ValueError("the index has a wrong checksum")
            if any(codec.rows_of(column) != len(ids) for column in columns.values()):
                raise ValueError("columns of unequal length")
        except FileNotFoundError:
            raise DamagedError(f"{path} is gone") from None
        except OSError as error:  # too many open files, no permission: the shard itself may be whole
            raise LimbeckError(f"{path} cannot be read: {error}.") from error
        except (SafetensorError, ValueError, KeyError, TypeError, IndexError) as error:
            raise DamagedError(f"{path} cannot be read ({error})") from error
        super().__init__(ids, views, columns)

    def ready(self) -> None:
        """Verifies the checksum, once.

        Raises:
            DamagedError: it is wrong.
        """
        if not self._verified:
            verify(self.path)
            self._verified = True


def _ints(tensor: Tensor) -> Ints:
    if tensor.dtype != torch.int64 or tensor.ndim != 1:
        raise ValueError("ids and views must be int64")
    return np.asarray(tensor.numpy(), dtype=np.int64)


def verify(path: Path) -> None:
    """Compares a shard's bytes with the checksum in its name.

    Raises:
        DamagedError: they differ, or the file is gone.
        LimbeckError: the system does not let it be read.
    """
    try:
        with path.open("rb") as stream:
            found = hashlib.file_digest(stream, "sha256").hexdigest()
    except FileNotFoundError:
        raise DamagedError(f"{path} is gone") from None
    except OSError as error:
        raise LimbeckError(f"{path} cannot be read: {error.strerror}.") from error
    if path.name.removesuffix(SUFFIX).rpartition("-")[2] != found:
        raise DamagedError(f"{path} has a wrong checksum")


def set_aside(path: Path, why: DamagedError) -> None:
    """Moves a damaged shard out of the way; where that is not allowed, the caller goes on without it."""
    log.warning("%s: its rows will be asked of the teacher again.", why)
    aside = path.parent.parent / ASIDE
    with suppress(OSError):
        if aside.is_symlink():
            return
        aside.mkdir(exist_ok=True)
        path.rename(aside / f"{path.parent.name}-{path.name}")

"""What models wrote, kept on disk: whole blocks of rows, each file whole or absent."""

import json
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from limbeck.config import digest
from limbeck.errors import LimbeckError
from limbeck.files import held, home, write_json

BLOCK: Final = 32
"""Rows that go through a model together: always the same ones, as companions may change the last bits of a row."""

Make = Callable[[Sequence[str], Tensor, Tensor], list[Any]]


def kept(maker: str, texts: Sequence[str], ids: Tensor, views: Tensor, make: Make) -> list[Any]:
    """What ``make(texts, ids, views)`` gives for each row (JSON values), [B]; made where it is not on disk yet.

    ``maker``: names all that ``make`` depends on but its arguments. ``texts``: all texts of the table. ``ids``, ``views``:
    int64 [B]. ``make`` is asked for whole blocks of rows of one view, so that the order of asking changes nothing.

    Raises:
        LimbeckError: the disk is full, or cannot be written.
    """
    blocks: dict[tuple[int, int], Sequence[Any]] = {}
    found = []
    for row, view in zip(ids.tolist(), views.tolist(), strict=True):
        place = (row // BLOCK, view)
        if place not in blocks:
            blocks[place] = _block(maker, texts, *place, make)
        found.append(blocks[place][row % BLOCK])
    return found


def _block(maker: str, texts: Sequence[str], block: int, view: int, make: Make) -> Sequence[Any]:
    rows = range(block * BLOCK, min((block + 1) * BLOCK, len(texts)))
    part = [texts[row] for row in rows]
    folder = home() / "written" / maker
    path = folder / f"{digest([part, rows.start, view])}.json"
    try:
        with suppress(FileNotFoundError, ValueError, KeyError, TypeError):  # absent, or damaged and written again
            return _read(path)
        with held(folder, "texts are being written", wait=True):
            with suppress(FileNotFoundError, ValueError, KeyError, TypeError):  # another process was faster
                return _read(path)
            made = make(part, torch.tensor(rows), torch.full((len(rows),), view))
            write_json(path, {"rows": made, "digest": digest(made)})
            return _read(path)
    except OSError as error:
        raise LimbeckError(
            f"Written texts cannot be kept in {folder} ({error.strerror}): make room, or choose another place with "
            "LIMBECK_HOME. What was written before is intact, and the same command goes on from there."
        ) from error


@lru_cache(maxsize=4096)
def _read(path: Path) -> tuple[Any, ...]:
    told = json.loads(path.read_bytes())
    if digest(told["rows"]) != told["digest"]:
        raise ValueError("the checksum differs")
    return tuple(told["rows"])

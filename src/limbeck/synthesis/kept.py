"""Made pictures on the disk: batch by batch, each whole or absent, so that what was made is never made again."""

import time
from collections.abc import Callable
from pathlib import Path

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from limbeck.config import digest
from limbeck.data import fingerprint
from limbeck.files import write_bytes
from limbeck.synthesis.inversion import Pictures, invert
from limbeck.synthesis.space import InputSpace
from limbeck.teachers.teacher import Teacher

FORMAT = 1
"""Raised whenever the same settings would make other pictures than before."""
_NAME, _SECONDS = "pictures", "seconds"


def made(
    teacher: Teacher,
    space: InputSpace,
    classes: int,
    settings: Pictures,
    root: Path,
    first: int = 0,
    student: Teacher | None = None,
    device: str = "cpu",
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> tuple[Tensor, float]:
    """Pictures by inversion, uint8 [count, C, H, W], of all classes in turn; and the seconds of making them, whenever that was.

    What an earlier call made is read.

    Args:
        teacher: whom they are made of, a model that is here.
        space: what it reads.
        classes: how many it knows.
        settings: how many, and how.
        root: the folder that keeps them, by all that they depend on.
        first: the number of the first; other numbers begin as other noise.
        student: what they are to tell from the teacher, if anything.
        device: where it is done.
        on_progress: hears (done, all) pictures.
    """
    key = digest([FORMAT, teacher.fingerprint, student and student.fingerprint, space.reader, classes, settings])
    folder, found, seconds = root / key[:2] / key, list[Tensor](), 0.0
    ids = torch.arange(first, first + settings.count)
    for own in ids.chunk(-(-settings.count // settings.batch_size)):
        path = folder / f"{int(own[0])}-{len(own)}.safetensors"
        batch = _kept(path, (len(own), *space.shape))
        if batch is None:
            began = time.perf_counter()
            module, other = (one.module.to(device).eval() if one and one.module else None for one in (teacher, student))
            assert module is not None
            levels = space.levels(invert(module, space, own % classes, own, settings, other))
            batch = levels, time.perf_counter() - began
            told = {_NAME: fingerprint.tensors({_NAME: levels}), _SECONDS: repr(batch[1])}
            write_bytes(path, safetensors.torch.save({_NAME: levels}, told))
        found.append(batch[0])
        seconds += batch[1]
        on_progress(int(own[-1]) + 1 - first, settings.count)
    return torch.cat(found), seconds


def _kept(path: Path, shape: tuple[int, ...]) -> tuple[Tensor, float] | None:
    """What an earlier call kept there and how long it took, if it is whole and undamaged."""
    try:
        with safetensors.safe_open(path, "pt") as file:
            levels, told = file.get_tensor(_NAME), file.metadata() or {}
        seconds = float(told[_SECONDS])
    except (OSError, SafetensorError, KeyError, ValueError):
        return None
    sound = levels.shape == shape and levels.dtype == torch.uint8
    return (levels, seconds) if sound and fingerprint.tensors({_NAME: levels}) == told[_NAME] else None

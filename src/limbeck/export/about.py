"""``limbeck.json``: what a foreign runtime has to know beside the model file."""

from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from torch import Tensor

from limbeck.export.proof import ABOUT
from limbeck.models.readers import save_reader
from limbeck.models.saved import write_about
from limbeck.models.student import Student


def write_sidecar(
    student: Student, folder: Path, columns: Mapping[str, Tensor], free: Mapping[str, Mapping[int, str]]
) -> dict[str, Any]:
    """Writes class names, preprocessing (a tokenizer's files too) and inputs; returns what was written.

    ``free``: of each column, which dimensions may have any size, and what they are called.
    """
    about = {
        "format": 1,
        "limbeck": version("limbeck"),
        "classes": list(student.classes),
        "task": student.task.name,
        "output": "logits",
        "inputs": {
            name: {
                "type": str(value.dtype).removeprefix("torch."),
                "shape": [
                    free.get(name, {}).get(dim, "batch" if dim == 0 else size) for dim, size in enumerate(value.shape)
                ],
            }
            for name, value in columns.items()
        },
        "reader": save_reader(student.reader, folder),
    }
    write_about(folder / ABOUT, about)
    return about

"""ONNX Runtime behind columns: names, types and shapes brought together."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from limbeck.errors import LimbeckError, SignalError
from limbeck.teachers.onnx.file import library

_TYPES: Final = {
    "tensor(float)": torch.float32,
    "tensor(double)": torch.float64,
    "tensor(float16)": torch.float16,
    "tensor(int64)": torch.int64,
    "tensor(int32)": torch.int32,
    "tensor(int16)": torch.int16,
    "tensor(int8)": torch.int8,
    "tensor(uint8)": torch.uint8,
    "tensor(bool)": torch.bool,
}
_MASK: Final = "attention_mask"
Shape = Sequence[int | str | None]


class Session:
    """A file's graph, ready to run.

    Args:
        path: the file.
        inputs: ``{input: column}`` where their names differ.

    Raises:
        LimbeckError: ONNX Runtime cannot run it, or there is no such input.
    """

    def __init__(self, path: Path, inputs: Mapping[str, str]) -> None:
        ort = library()
        options = ort.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = torch.get_num_threads()
        cuda = torch.cuda.is_available() and "CUDAExecutionProvider" in ort.get_available_providers()
        providers = [*(["CUDAExecutionProvider"] if cuda else []), "CPUExecutionProvider"]
        try:
            self._session = ort.InferenceSession(str(path), options, providers=providers)
        except Exception as error:  # the runtime raises a kind of its own for each reason
            raise LimbeckError(f"ONNX Runtime cannot run {path}: {_reason(error)}") from error
        self.path, self._named = path, dict(inputs)
        self.inputs = {one.name: one for one in self._session.get_inputs()}
        self.outputs = {one.name: one.type for one in self._session.get_outputs()}
        if unknown := sorted(inputs.keys() - self.inputs.keys()):
            raise LimbeckError(
                f"{path} has no input {unknown[0]!r}; its inputs are {', '.join(map(repr, self.inputs))}."
            )
        if odd := [name for name, one in self.inputs.items() if one.type not in _TYPES]:
            raise LimbeckError(
                f"The input {odd[0]!r} of {path} is {self.inputs[odd[0]].type}, and columns are tensors of numbers."
            )

    def run(self, columns: Mapping[str, Tensor], outputs: Sequence[str]) -> dict[str, Any]:
        """The outputs by name for columns [B, ...]: tensors [B, ...] on the CPU, or a list of B mappings, or of B names.

        Raises:
            SignalError: the columns are not those that the graph reads, or it fails on them.
        """
        given = {name: self._fitted(name, columns[column]) for name, column in self._columns(columns).items()}
        rows = len(next(iter(given.values())))
        fixed = {one.shape[0] for one in self.inputs.values() if one.shape and isinstance(one.shape[0], int)}
        size = min(fixed) if fixed else rows
        parts = [
            self._run({name: _part(value, start, size) for name, value in given.items()}, outputs)
            for start in range(0, rows, max(1, size))
        ]
        return {name: _joined([part[place] for part in parts], rows) for place, name in enumerate(outputs)}

    def _columns(self, columns: Mapping[str, Tensor]) -> dict[str, str]:
        """Which column each input reads: by name, or the only one."""
        found = {name: self._named.get(name, name) for name in self.inputs}
        if len(found) == 1 and len(columns) == 1 and not self._named:
            return dict(zip(found, columns, strict=True))
        if lacking := [name for name, column in found.items() if column not in columns]:
            raise SignalError(
                f"{self.path} reads {', '.join(map(repr, self.inputs))}, and the data has {', '.join(map(repr, columns))}: say "
                f"which column {lacking[0]!r} is, 'inputs: {{{lacking[0]}: {next(iter(columns))}}}'."
            )
        return found

    def _fitted(self, name: str, column: Tensor) -> Tensor:
        """A column in the type and shape of an input: images as one row of numbers, texts as long as it reads."""
        told, dtype = self.inputs[name], _TYPES[self.inputs[name].type]
        column = column.detach().cpu()
        if not dtype.is_floating_point and column.is_floating_point() and bool((column != column.round()).any()):
            raise SignalError(
                f"The input {name!r} of {self.path} is {told.type}, and the data's column holds fractions: for a model that "
                "reads the bytes of images set 'pixels: 0-255'."
            )
        if len(told.shape) == 2 and column.ndim > 2:
            column = column.flatten(1)
        length = told.shape[1] if len(told.shape) == 2 else None
        if isinstance(length, int) and column.shape[1] < length and _MASK in self.inputs:
            column = F.pad(column, (0, length - column.shape[1]))  # the mask says that nothing is there
        if not _fits(told.shape, column.shape):
            raise SignalError(
                f"The input {name!r} of {self.path} has the shape {list(told.shape)}, and the data's column "
                f"{list(column.shape)}: bring the data to the size that the model was made for."
            )
        return column.to(dtype)

    def _run(self, given: Mapping[str, Tensor], outputs: Sequence[str]) -> list[Any]:
        try:
            found: list[Any] = self._session.run(
                list(outputs), {name: one.contiguous().numpy() for name, one in given.items()}
            )
        except Exception as error:  # the runtime raises a kind of its own for each reason
            raise SignalError(f"{self.path} fails on the data: {_reason(error)}") from error
        return found


def _fits(told: Shape, shape: Sequence[int]) -> bool:
    """Whether a graph's shape takes this one; the first dimension is the batch, which is divided to fit."""
    if not told:
        return True  # nothing is said
    return len(told) == len(shape) and all(
        not isinstance(size, int) or size == own for size, own in zip(told[1:], shape[1:], strict=True)
    )


def _part(value: Tensor, start: int, size: int) -> Tensor:
    """``size`` rows from ``start``; the last one again where there are fewer."""
    return value[torch.arange(start, start + size).clamp_max(len(value) - 1)]


def _joined(parts: Sequence[Any], rows: int) -> Any:
    if isinstance(parts[0], list):
        return [one for part in parts for one in part][:rows]
    whole = np.concatenate(parts)[:rows]
    return whole.tolist() if whole.dtype.kind in "OUS" else torch.from_numpy(whole)


def _reason(error: Exception) -> str:
    return " ".join(str(error).split())[:300]

"""`OnnxTeacher`: what an ONNX file says of a batch, as logits."""

import logging
from collections.abc import Mapping, Sequence
from typing import Any, Final

import torch
from torch import Tensor

from limbeck.config import digest
from limbeck.data.batch import REAL, Batch
from limbeck.data.images import PIXELS
from limbeck.data.sight import Normalised
from limbeck.data.task import Task
from limbeck.data.tasks import CLASSES
from limbeck.errors import LimbeckError, SignalError
from limbeck.signals.call import logits_of
from limbeck.signals.capture import Signals
from limbeck.teachers.onnx.file import checked
from limbeck.teachers.onnx.session import Session
from limbeck.teachers.onnx.settings import Onnx
from limbeck.teachers.teacher import Provides

LOGITS: Final = frozenset({"logits"})
_log = logging.getLogger(__name__)
_NUMBERS: Final = ("tensor(float)", "tensor(double)", "tensor(float16)")
_USUAL: Final = ("logits", "probabilities", "output_probability")  # the latter two are scikit-learn's
_CLOSE: Final = 1e-3  # by how much probabilities of float32 may miss a sum of 1


class OnnxTeacher:
    """A model in an ONNX file. It shows its logits alone, float32: of probabilities their logarithms.

    Args:
        onnx: the file, and how it is read.
        task: what is asked of a row.
        names: of the classes, in order; where the file names its own, these are compared with them.
        normalised: mean and deviation of each channel of images, as the student's reader has them.

    Raises:
        LimbeckError: the file is not there, is no model, or does not say which of its outputs answers.
    """

    def __init__(
        self,
        onnx: Onnx,
        task: Task = CLASSES,
        names: Sequence[str] = (),
        normalised: Normalised | None = None,
    ) -> None:
        self.onnx, self.task, self.names = onnx, task, tuple(names)
        path, content = checked(onnx.path)
        self._sight = onnx.sight(normalised) if onnx.otherwise else None
        self._fingerprint = digest(["onnx", content, onnx.plain() | {"path": None, "tokenizer": None}])
        self._session = Session(path, onnx.inputs)
        self._answering = self._outputs()
        self._labels = next((name for name, kind in self._session.outputs.items() if kind in _NAMES), None)
        self._means: str | None = None if onnx.outputs == "auto" else onnx.outputs
        self._compared = False

    @property
    def fingerprint(self) -> str:
        """Names the file's content and how it is read, wherever it lies."""
        return self._fingerprint

    @property
    def provides(self) -> Provides:
        """Its logits, for any row."""
        return Provides(LOGITS, classes=len(self.names) or None)

    @property
    def module(self) -> None:
        """None: it is no PyTorch model."""
        return None

    def observe(self, batch: Batch, needs: frozenset[str]) -> Signals:
        """The needed signals; see `Teacher.observe`.

        Raises:
            SignalError: another signal than the logits is needed; columns, classes or their order do not fit; an answer is NaN.
        """
        if lacking := needs - LOGITS:
            raise SignalError(
                f"An ONNX file shows its logits alone, not {', '.join(map(repr, sorted(lacking)))}: compare logits, or load the "
                "teacher as a PyTorch model for that."
            )
        compare = self._labels is not None and bool(self.names) and not self._compared
        asked = [*self._answering, *([self._labels] if compare and self._labels else [])]
        found = self._session.run(self._columns(batch), asked)
        told = {name: self._matrix(found[name]) for name in self._answering}
        values = self._widened(logits_of(told) if len(told) > 1 else next(iter(told.values())).float())
        self._demand_sound(values, batch)
        if compare and self._labels:
            self._demand_order(found[self._labels], values)
            self._compared = True
        return {"logits": self._logits(values).to(batch.ids.device)} if needs else {}

    def _outputs(self) -> list[str]:
        """The outputs that answer."""
        kinds, path = self._session.outputs, self._session.path
        if (wanted := self.onnx.output_name) is not None:
            if wanted not in kinds:
                raise LimbeckError(f"{path} has no output {wanted!r}; its outputs are {', '.join(map(repr, kinds))}.")
            return [wanted]
        found = [name for name, kind in kinds.items() if kind in _NUMBERS or kind in _MAPS]
        ends = ["start_logits", "end_logits"]
        if set(ends) <= set(found):
            return ends
        found = found if len(found) == 1 else [name for name in _USUAL if name in found][:1]
        if not found:
            raise LimbeckError(
                f"{path} has the outputs {', '.join(map(repr, kinds))}: say with 'output-name' which of them answers."
            )
        return found

    def _columns(self, batch: Batch) -> dict[str, Tensor]:
        """The teacher's columns, images as the model was trained on them."""
        columns = batch.columns("teacher")
        if self._sight is None or PIXELS not in columns:
            return columns
        images: Tensor = self._sight(columns[PIXELS].detach().cpu())
        return {**columns, PIXELS: images.round() if self.onnx.pixels == "0-255" else images}

    def _matrix(self, found: Any) -> Tensor:
        """An output as a tensor [B, ...]; of a map of each row's classes, in the order of the data's.

        Raises:
            SignalError: they are other classes.
        """
        if isinstance(found, Tensor):
            return found
        rows: Sequence[Mapping[Any, float]] = found
        keys = list(rows[0])
        by_name = {str(key): key for key in keys}
        if set(by_name) == set(self.names):
            order = [by_name[name] for name in self.names]
        elif sorted(keys, key=str) == sorted(range(len(keys)), key=str):
            order = sorted(keys)
        else:
            raise SignalError(
                f"{self._session.path} has the classes {keys[:8]}, and the data {list(self.names)[:8]}: train it on the data's "
                "classes, or write its own names into the data."
            )
        return torch.tensor([[row[key] for key in order] for row in rows])

    def _widened(self, values: Tensor) -> Tensor:
        """Two classes where a model gives one number: that of the second.

        Raises:
            SignalError: there are other than the data's classes, or it is not known what the number is.
        """
        if values.ndim == 1:
            values = values[:, None]
        count, classes = values.shape[-1], len(self.names)
        if not self.task.single or self.task.gives != "choices" or not classes or count == classes:
            if classes and self.task.named and count != classes:
                raise SignalError(self._counted(count))
            return values
        if (count, classes) != (1, 2):
            raise SignalError(self._counted(count))
        if self._means is None:
            raise SignalError(
                f"{self._session.path} gives one number for two classes: say what it is, 'outputs: probabilities' or "
                "'outputs: logits', of the second class."
            )
        return torch.cat([1 - values if self._means == "probabilities" else torch.zeros_like(values), values], -1)

    def _counted(self, count: int) -> str:
        return (
            f"{self._session.path} gives {count} numbers an example, and the data has {len(self.names)} {self.task.outputs}: "
            f"{list(self.names)[:12]}. Train it on the data's {self.task.outputs}, or choose another output with 'output-name'."
        )

    def _demand_sound(self, values: Tensor, batch: Batch) -> None:
        real = batch.masks[REAL].cpu()
        wrong = ~values.isfinite().flatten(1).all(1) & real
        if bool(wrong.any()):
            raise SignalError(
                f"{self._session.path} gives NaN or infinities for {int(wrong.sum())} of {len(values)} rows (first: id "
                f"{int(batch.ids[wrong.to(batch.ids.device)][0])}): look for missing values in the data, or columns of another "
                "scale than it was trained on."
            )

    def _demand_order(self, told: Any, values: Tensor) -> None:
        """The class that the file names for a row is the one that its numbers say.

        Raises:
            SignalError: it is not, so its classes stand in another order.
        """
        said = [str(one) for one in (told.flatten().tolist() if isinstance(told, Tensor) else told)]
        top = values.argmax(-1).tolist()
        if len(said) != len(top):
            return
        ties = values.sort(-1).values[:, -2:].diff()[:, 0].abs() < _CLOSE if values.shape[-1] > 1 else None
        for row, (name, place) in enumerate(zip(said, top, strict=True)):
            if name not in (self.names[place], str(place)) and not (ties is not None and bool(ties[row])):
                raise SignalError(
                    f"{self._session.path} calls a row {name!r} where its numbers say class {place}, {self.names[place]!r}: its "
                    f"classes stand in another order than the data's {list(self.names)[:12]}. Train it on labels that sort alike."
                )

    def _logits(self, values: Tensor) -> Tensor:
        """Logits of what the file gives; probabilities are recognised on the first batch, unless they are named."""
        if self.task.gives != "choices":
            return values.contiguous()
        whole = self._sums_to_one()
        if self._means is None:
            inside = bool(((values > -_CLOSE) & (values < 1 + _CLOSE)).all())  # means over trees may round above 1
            sums = bool(((values.sum(-1) - 1).abs() < _CLOSE).all()) if whole else True
            self._means = "probabilities" if inside and sums else "logits"
            _log.warning(
                "%s: its output %s %s, so it is read as %s; 'outputs: %s' says so without this.",
                *(self._session.path, ", ".join(map(repr, self._answering))),
                *("holds probabilities" if inside and sums else "holds no probabilities", self._means, self._means),
            )
        if self._means != "probabilities":
            return values.contiguous()
        if bool((values < -_CLOSE).any()) or (whole and bool(((values.sum(-1) - 1).abs() > _CLOSE).any())):
            raise SignalError(
                f"{self._session.path} was to give probabilities, and some are below 0 or do not sum to 1: set 'outputs: "
                "logits'."
            )
        floor = self.onnx.floor
        logs = values.clamp_min(floor).log()
        return logs if whole else logs - (1 - values).clamp_min(floor).log()

    def _sums_to_one(self) -> bool:
        """Whether an example's probabilities sum to 1, as they do but where it may have several labels."""
        return bool((self.task.probabilities(torch.zeros(1, 1, 4)).sum(-1) - 1).abs() < _CLOSE)


_MAPS: Final = tuple(f"seq(map({key},{value}))" for key in ("int64", "string") for value in ("float", "tensor(float)"))
_NAMES: Final = ("tensor(int64)", "tensor(string)")

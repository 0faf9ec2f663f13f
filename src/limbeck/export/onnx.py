"""The export that ONNX Runtime reads: one file, any batch size, texts of any length."""

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor, nn

from limbeck.config import Config
from limbeck.errors import LimbeckError
from limbeck.evidence.efficiency import compare_latency
from limbeck.export.about import write_sidecar
from limbeck.export.proof import Proof, difference
from limbeck.extras import imported
from limbeck.models.readers import load_reader
from limbeck.models.student import Student
from limbeck.signals.call import call, logits_of

FILE: Final = "model.onnx"
BATCHES: Final = (1, 3, 8)
_NEEDED: Final = ("onnx", "onnxscript", "onnxruntime")
_ONE_FILE = 1_800_000_000  # bytes; a protobuf ends at 2 GB
_RELATIVE = 1e-4

Free = dict[str, dict[int, str]]


class _Logits(nn.Module):
    """Columns in a fixed order to logits: the form that is exported."""

    def __init__(self, module: nn.Module, names: Sequence[str]) -> None:
        super().__init__()
        self.student = module
        self.names = tuple(names)

    def forward(self, *columns: Tensor) -> Tensor:
        return logits_of(call(self.student, dict(zip(self.names, columns, strict=True))))


def write(student: Student, folder: Path, samples: Sequence[Any], seconds: float) -> Proof:
    """Writes ``model.onnx`` and ``limbeck.json`` and runs them with ONNX Runtime; see `limbeck.export.export`.

    Raises:
        LimbeckError: onnx, onnxscript or onnxruntime is missing, or the model cannot be exported.
    """
    ort = _library()
    several = [samples[index % len(samples)] for index in range(max(BATCHES))]
    columns = student.reader.encode(several[:2])  # two rows: torch.export takes a size of 1 for a constant
    free = _free(columns)
    _convert(student, columns, free, folder / FILE)
    told = write_sidecar(student, folder, columns, free)
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = torch.get_num_threads()
    session = ort.InferenceSession(folder / FILE, options, providers=["CPUExecutionProvider"])
    reader = load_reader(told["reader"], folder, None if isinstance(student.reader, Config) else student.reader)

    def run(given: Mapping[str, Tensor]) -> Tensor:
        wanted = {one.name: given[one.name].numpy() for one in session.get_inputs()}
        return torch.from_numpy(session.run(["logits"], wanted)[0])

    def torch_run(given: Mapping[str, Tensor]) -> Tensor:
        with torch.inference_mode():
            return logits_of(call(student.module, given))

    # Batches of every size over real inputs, then the same cut short, where lengths are free.
    batches = [reader.encode(several[:size]) for size in BATCHES]
    batches += [reader.encode(samples[start : start + 32]) for start in range(0, len(samples), 32)]
    batches += [_shorter(batch, free) for batch in batches[: len(BATCHES)] if any(1 in dims for dims in free.values())]
    pairs = [(torch_run(batch), run(batch)) for batch in batches]
    tolerance = _RELATIVE * max(1.0, max(float(one.abs().max()) for one, _ in pairs))
    single = batches[0]
    latency = (
        compare_latency({"torch": lambda: torch_run(single), "onnxruntime": lambda: run(single)}, seconds=seconds)
        if seconds > 0
        else {}
    )
    return Proof(float(torch.tensor([difference(*pair) for pair in pairs]).max()), tolerance, latency)


def _library() -> Any:
    return [imported(name, f"The export to ONNX needs {name}", "onnx") for name in _NEEDED][-1]


def _free(columns: Mapping[str, Tensor]) -> Free:
    """Which dimensions may have any size: the batch; and the length, in columns that are as long as the tokens."""
    tokens = columns.get("input_ids")
    length = tokens.shape[1] if tokens is not None and tokens.ndim == 2 else None
    return {
        name: {0: "batch", 1: "length"} if length and value.ndim == 2 and value.shape[1] == length else {0: "batch"}
        for name, value in columns.items()
    }


def _shorter(batch: Mapping[str, Tensor], free: Free) -> dict[str, Tensor]:
    return {
        name: value[:, : max(1, value.shape[1] // 2)].contiguous() if 1 in free[name] else value
        for name, value in batch.items()
    }


def _convert(student: Student, columns: Mapping[str, Tensor], free: Free, path: Path) -> None:
    import onnx

    size = sum(value.numel() * value.element_size() for value in student.module.state_dict().values())
    if size > _ONE_FILE:
        raise LimbeckError(f"The student has {size / 1e9:.1f} GB of weights; one ONNX file holds 2 GB.")
    with _silent():
        try:
            program = torch.onnx.export(
                _Logits(student.module, list(columns)).eval(),
                tuple(columns.values()),
                input_names=list(columns),
                output_names=["logits"],
                dynamic_shapes={"columns": tuple(free[name] for name in columns)},
                dynamo=True,
                external_data=False,
                verbose=False,
            )
        except Exception as error:  # any model may use what cannot be traced
            reason = " ".join(str(error.__cause__ or error).split())[:300]
            kind = type(student.module).__qualname__
            raise LimbeckError(f"The student, a {kind}, cannot be exported to ONNX: {reason}") from error
    assert program is not None
    model = program.model_proto
    _strip(model)
    onnx.checker.check_model(model)
    path.write_bytes(model.SerializeToString())


def _strip(model: Any) -> None:
    """Takes away what the exporter notes for debugging: it quotes source files with their folders."""
    del model.metadata_props[:]
    model.doc_string = ""
    for graph in (model.graph, *model.functions):
        values = [] if graph is not model.graph else [*graph.input, *graph.output, *graph.initializer]
        for item in (graph, *graph.node, *graph.value_info, *values):
            del item.metadata_props[:]
            item.doc_string = ""


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)

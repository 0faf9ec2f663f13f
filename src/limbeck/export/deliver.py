"""`export`: a student into a folder of another format, refused unless it answers as the student does."""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from dataclasses import replace as altered
from pathlib import Path
from typing import Any, Final, Literal

from limbeck.errors import LimbeckError
from limbeck.evidence.records import Latency
from limbeck.export.card import CARD, Story, card
from limbeck.export.proof import ABOUT, Proof
from limbeck.files import whole_folder, write_text
from limbeck.models.student import Student

Format = Literal["safetensors", "hf", "onnx"]
FORMATS: Final[tuple[Format, ...]] = ("safetensors", "hf", "onnx")
_MINE: Final = (ABOUT, "student.json")  # what marks a folder that an export may replace


@dataclass(frozen=True)
class Exported:
    """A written and proven export.

    ``path``: its folder. ``bytes``: of all its files. ``compared``: how many real inputs it was compared on.
    ``max_difference``: the largest absolute difference between its logits and the student's; at most ``tolerance``.
    ``latency``: of single inputs in turns, ``torch`` and ``onnxruntime``; empty for the formats that torch runs.
    """

    path: Path
    to: Format
    bytes: int
    compared: int
    max_difference: float
    tolerance: float
    latency: dict[str, Latency]


def export(
    student: Student,
    to: Format,
    folder: Path | str,
    samples: Sequence[Any],
    seconds: float = 1.0,
    story: Story | None = None,
) -> Exported:
    """Writes the student in another format, reads it again, and compares logits on real inputs.

    ``safetensors``: weights, architecture, reader and classes, as `limbeck.models.saved.load_student` reads them; no
    record of the run. ``hf``: a folder for transformers, with a model card. ``onnx``: a single file with batch (and text
    length) of any size. The first two must be bit-equal to the student. ONNX Runtime adds in another order, so float32
    logits may differ by 1e-4 of their size: a thousand times the rounding unit, and a hundredth of what shows in a
    probability.

    Args:
        student: it is not altered.
        to: the format.
        folder: a new or empty one, or one that an earlier export wrote, which is replaced.
        samples: real raw inputs, at least one; some dozens are a good proof.
        seconds: how long each latency is measured; 0 for not at all.
        story: what the model card says beside what the student shows.

    Raises:
        LimbeckError: it answers otherwise than the student (nothing is left in the folder); the student is not of a
            kind that this format holds; a library is missing; or the folder holds something else.
    """
    folder = Path(folder).expanduser()
    if to not in FORMATS:
        raise LimbeckError(f"There is no export {to!r}: choose one of {', '.join(FORMATS)}.")
    if len(samples) == 0:
        raise LimbeckError("An export is proven on real inputs: give at least one.")
    if folder.exists() and not _replaceable(folder):
        raise LimbeckError(f"'{folder}' holds something that no export wrote: name a new folder.")
    if student.task.reads == "pairs":  # what is delivered reads one text
        samples = [text for pair in samples for text in ((pair,) if isinstance(pair, str) else pair)]
    plain = altered(student, module=copy.deepcopy(student.module).cpu().eval().requires_grad_(False), metadata={})
    with whole_folder(folder) as draft:
        proof = _writer(to)(plain, draft, samples, seconds)
        # Not <=: a difference that is not a number is no proof either.
        if not proof.max_difference <= proof.tolerance:
            raise LimbeckError(
                f"The {to} export answers otherwise than the student: its logits differ by {proof.max_difference:.2g}, "
                f"where {proof.tolerance:.2g} is allowed. Nothing was written to '{folder}'."
            )
        if to == "hf":
            write_text(draft / CARD, card(plain, story or Story(), list(plain.reader.encode(samples[:1]))))
        size = sum(item.stat().st_size for item in draft.rglob("*") if item.is_file())
    return Exported(folder, to, size, len(samples), proof.max_difference, proof.tolerance, proof.latency)


def _replaceable(folder: Path) -> bool:
    return folder.is_dir() and (not any(folder.iterdir()) or any((folder / name).is_file() for name in _MINE))


def _writer(to: Format) -> Callable[[Student, Path, Sequence[Any], float], Proof]:
    if to == "safetensors":
        from limbeck.export.plain import write
    elif to == "hf":
        from limbeck.export.hf import write
    else:
        from limbeck.export.onnx import write
    return write

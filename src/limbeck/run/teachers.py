"""The teacher that a recipe names, ready to be asked."""

from pathlib import Path

from limbeck.config import digest
from limbeck.data.examples import Splits
from limbeck.data.images import ImageReader
from limbeck.errors import DataError, LimbeckError
from limbeck.files import home
from limbeck.models.identity import of_module
from limbeck.models.specs import BuildContext, Spec, build
from limbeck.recipe.teacher import Ensemble, Member, TeacherPart, tokenizer_of
from limbeck.teachers.ensemble import EnsembleTeacher
from limbeck.teachers.local import LocalTeacher
from limbeck.teachers.onnx.settings import Onnx
from limbeck.teachers.onnx.teacher import OnnxTeacher
from limbeck.teachers.precision import Asking
from limbeck.teachers.served.settings import Served
from limbeck.teachers.served.teacher import ServedTeacher
from limbeck.teachers.stored import StoredTeacher
from limbeck.teachers.teacher import Teacher
from limbeck.teachers.weighing import ByDomain, Fixed

TEACHER_SEED = 0


def teacher_of(part: TeacherPart, splits: Splits, context: BuildContext) -> Teacher | None:
    """The teacher; None if it is yet to be trained. ``context``: what a model that teaches is built from.

    Raises:
        LimbeckError: it is not there, or does not suit the data or the task.
    """
    if part.training is not None:
        return None
    return _one(part, splits, context) if part.ensemble is None else _several(part.ensemble, splits, context)


def _one(part: TeacherPart | Member, splits: Splits, context: BuildContext) -> Teacher:
    if part.stored is not None:
        return StoredTeacher(Path(part.stored))
    if part.served is not None:
        return _served(part.served, splits)
    if part.onnx is not None:
        return _onnx(part.onnx, splits)
    assert part.model is not None
    return _local(part.model.finished(splits.task), part.asking, context)


def _local(spec: Spec, asking: Asking, context: BuildContext) -> Teacher:
    module = build(spec, context, TEACHER_SEED)
    return LocalTeacher(module.requires_grad_(False), of_module(module), asking)


def _onnx(file: Onnx, splits: Splits) -> Teacher:
    if splits.task.gives == "vectors":
        raise DataError(
            "In the task 'vectors' a model is run once for each text of a row, and an ONNX file is run once a row: load the "
            "teacher as a model."
        )
    reader = splits.reader
    normalised = (reader.mean, reader.std) if isinstance(reader, ImageReader) else None
    return OnnxTeacher(file, splits.task, splits.classes, normalised)


def _served(served: Served, splits: Splits) -> Teacher:
    """A served model, whose answers and cost are kept."""
    if splits.task.reads != "sequences":
        raise DataError(
            f"A served model says which token is next, and the task here is {splits.task.name!r}: write 'task: next-token', or "
            "load the teacher here."
        )
    vocabulary = getattr(splits.reader, "vocabulary", 0)
    return ServedTeacher(served, vocabulary, home() / "served" / digest([served.url, served.model])[:16])


def _several(ensemble: Ensemble, splits: Splits, context: BuildContext) -> Teacher:
    texts, domains, weights = splits.train.table.texts, splits.train.domains, ensemble.weights
    teachers = []
    for number, member in enumerate(ensemble.members, 1):
        tokenizer = tokenizer_of(member)
        if texts is not None and tokenizer is not None:
            texts.demand_tokens_of("teacher", tokenizer, f"Teacher {number} of the ensemble")
        if member.model is not None:
            _demand_trained(member.model.finished(splits.task), context, number)
        teachers.append(_one(member, splits, context))
    if isinstance(weights, dict):
        weighing: ByDomain | Fixed = ByDomain(weights, domains.names if domains is not None else None)
    else:
        weighing = Fixed(weights or [1.0] * len(teachers))
    return EnsembleTeacher(teachers, weighing, ensemble.combine, splits.task)


def _demand_trained(spec: Spec, context: BuildContext, number: int) -> None:
    """A mean hides a teacher that knows nothing."""
    if spec.weights is not None or spec.tokenizer is not None:
        return
    if len({of_module(build(spec, context, seed)) for seed in (TEACHER_SEED, TEACHER_SEED + 1)}) > 1:
        raise LimbeckError(
            f"Teacher {number} of the ensemble hangs on a seed, so it was never trained: name its 'weights', take a model that "
            "knows these answers, or an ONNX file of one."
        )

"""The teacher that a recipe names, ready to be asked."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from limbeck.config import digest
from limbeck.data.examples import Splits
from limbeck.data.images import ImageReader
from limbeck.data.sight import Normalised
from limbeck.data.task import Task
from limbeck.data.tasks import CLASSES
from limbeck.errors import DataError, LimbeckError, nearest
from limbeck.files import home
from limbeck.models.identity import of_module
from limbeck.models.specs import BuildContext, Spec, build
from limbeck.recipe.teacher import Ensemble, Member, TeacherPart, tokenizer_of
from limbeck.regimes.plan import Join, Learnt
from limbeck.teachers.by_task import ByTask, HeadOf
from limbeck.teachers.calibrated import Calibrated
from limbeck.teachers.ensemble import EnsembleTeacher
from limbeck.teachers.folds import ByFold
from limbeck.teachers.local import LocalTeacher
from limbeck.teachers.onnx.settings import Onnx
from limbeck.teachers.onnx.teacher import OnnxTeacher
from limbeck.teachers.precision import Asking
from limbeck.teachers.served.settings import Served
from limbeck.teachers.served.teacher import ServedTeacher
from limbeck.teachers.stored import StoredTeacher
from limbeck.teachers.teacher import Teacher
from limbeck.teachers.weighing import ByConfidence, ByCorrectness, ByDomain, Fixed, Weighing
from limbeck.training.settings import Training

TEACHER_SEED = 0


@dataclass(frozen=True)
class Learner:
    """A teacher that is trained here, on the labelled rows. ``unseen``: but for those of this fold."""

    name: str
    spec: Spec
    training: Training
    smoothing: float = 0.0
    seed: int = TEACHER_SEED
    task: str | None = None
    classes: tuple[str, ...] | None = None
    unseen: tuple[ByFold, int] | None = None


def learners_of(part: TeacherPart, splits: Splits) -> tuple[Learner, ...]:
    """Those who are trained here: one alone, one for each fold, or those of several teachers.

    The first of an architecture has the seed of a teacher that is alone, so that it is that teacher; the others have their own.
    """
    if part.spec is not None and part.training is not None:
        alone = Learner("teacher", part.spec, part.training, part.smoothing)
        if part.folds is None:
            return (alone,)
        folds = ByFold(splits.train, part.folds)
        return tuple(
            replace(alone, name=f"teacher {name}", seed=TEACHER_SEED + fold, unseen=(folds, fold))
            for fold, name in enumerate(folds.names)
        )
    found: list[Learner] = []
    for name, one in zip(part.ensemble.names, part.ensemble.members, strict=True) if part.ensemble else ():
        if one.spec is not None and one.training is not None:
            alike = [(other.spec, other.task, other.classes) for other in found]
            seed = TEACHER_SEED + alike.count((one.spec, one.task, one.classes))
            found.append(Learner(f"teacher {name}", one.spec, one.training, one.smoothing, seed, one.task, one.classes))
    return tuple(found)


def teacher_of(part: TeacherPart, splits: Splits, context: BuildContext) -> tuple[Teacher | None, Join | None]:
    """The teacher, None if it is yet to be trained; and what makes it of several that are trained, if it consists of them.

    ``context``: what a model that teaches is built from.

    Raises:
        LimbeckError: it is not there, or does not suit the data or the task.
    """
    if part.training is not None:
        return None, _folds(part, splits) if part.folds is not None else None
    if part.ensemble is None:
        return _one(part, splits, context), None
    join = _several(part.ensemble, splits, context)
    return (None, join) if learners_of(part, splits) else (join(()), None)


def _folds(part: TeacherPart, splits: Splits) -> Join:
    """Makes one teacher of those who have not seen a fold each."""
    assert part.folds is not None
    folds, asking = ByFold(splits.train, part.folds), part.asking
    return lambda trained: EnsembleTeacher([one(asking) for one in trained], folds, task=splits.task, names=folds.names)


def _one(part: TeacherPart | Member, splits: Splits, context: BuildContext) -> Teacher:
    if part.stored is not None:
        return StoredTeacher(Path(part.stored))
    if part.served is not None:
        return _served(part.served, splits)
    if part.onnx is not None:
        return _onnx(part.onnx, splits)
    assert part.spec is not None
    return _local(part.spec.finished(splits.task), part.asking, context)


def _local(spec: Spec, asking: Asking, context: BuildContext) -> Teacher:
    module = build(spec, context, TEACHER_SEED)
    return LocalTeacher(module.requires_grad_(False), of_module(module), asking)


def normalised_by(splits: Splits) -> Normalised | None:
    """Mean and deviation of each channel that images were normalised by; None of other data."""
    reader = splits.reader
    return (reader.mean, reader.std) if isinstance(reader, ImageReader) else None


def _onnx(file: Onnx, splits: Splits) -> Teacher:
    if splits.task.gives == "vectors":
        raise DataError(
            "In the task 'vectors' a model is run once for each text of a row, and an ONNX file is run once a row: load the "
            "teacher as a model."
        )
    return OnnxTeacher(file, splits.task, splits.classes, normalised_by(splits))


def _served(served: Served, splits: Splits) -> Teacher:
    """A served model, whose answers and cost are kept."""
    if splits.task.reads != "sequences":
        raise DataError(
            f"A served model says which token is next, and the task here is {splits.task.name!r}: write 'task: next-token', or "
            "load the teacher here."
        )
    vocabulary = getattr(splits.reader, "vocabulary", 0)
    return ServedTeacher(served, vocabulary, home() / "served" / digest([served.url, served.model])[:16])


def _several(ensemble: Ensemble, splits: Splits, context: BuildContext) -> Join:
    """Makes one teacher of those that know the answers, which are loaded here, and of those that are trained."""
    texts, known = splits.train.table.texts, dict[int, Teacher]()
    for place, member in enumerate(ensemble.members):
        tokenizer = tokenizer_of(member)
        if texts is not None and tokenizer is not None:
            texts.demand_tokens_of("teacher", tokenizer, f"Teacher {place + 1} of the ensemble")
        if member.training is not None:
            continue
        own = splits.only(member.task) if member.task else splits
        theirs = context.about(own.task, own.classes)
        if member.spec is not None:
            _demand_trained(member.spec.finished(own.task), theirs, place + 1)
        known[place] = _one(member, own, theirs)
    weighing = None if ensemble.by_task else _weighing(ensemble, splits)

    def join(trained: Sequence[Learnt]) -> Teacher:
        left, teachers = iter(trained), list[Teacher]()
        for place, member in enumerate(ensemble.members):
            one = known[place] if place in known else next(left)(member.asking)
            teachers.append(one if member.temperature == 1 else Calibrated(one, member.temperature))
        if ensemble.by_task:
            return _by_task(ensemble, teachers, splits)
        return EnsembleTeacher(teachers, weighing, ensemble.combine, splits.task, ensemble.names)

    return join


def _by_task(ensemble: Ensemble, teachers: Sequence[Teacher], splits: Splits) -> Teacher:
    """One teacher of all heads: of each the mean of those who know it."""
    heads, names = dict[str, Teacher](), ensemble.names
    for head in splits.task.heads:
        places = [place for place, one in enumerate(ensemble.members) if one.task in (None, head)]
        each = [
            teachers[place] if ensemble.members[place].task else HeadOf(teachers[place], splits.task, head)
            for place in places
        ]
        if len(each) > 1:
            called = [names[place] for place in places]
            weighing = _weighing(ensemble.of(places), splits.only(head))
            heads[head] = EnsembleTeacher(each, weighing, ensemble.combine, CLASSES, called)
        elif each:
            heads[head] = each[0]
    return ByTask(splits.task, heads, dict(zip(names, teachers, strict=True)))


def demand_tasks(part: TeacherPart, task: Task) -> None:
    """Each teacher's task is one that is asked.

    Raises:
        LimbeckError: it is not.
    """
    ensemble = part.ensemble or Ensemble.model_construct(members=())
    for name, one in zip(ensemble.names, ensemble.members, strict=True):
        if one.task is not None and one.task not in task.heads:
            hint = nearest(one.task, list(task.heads)) or f"there are {', '.join(task.heads)}."
            raise LimbeckError(
                f"The teacher {name} is for the task {one.task!r}, "
                + (
                    f"and the data has none of that name: {hint}"
                    if task.heads
                    else "and this data asks one thing alone."
                )
            )


def _weighing(ensemble: Ensemble, splits: Splits) -> Weighing:
    weights, domains = ensemble.weights, splits.train.domains
    if weights == "confidence":
        return ByConfidence()
    if weights == "correctness":
        return ByCorrectness(splits.train)
    if isinstance(weights, dict):
        return ByDomain(weights, domains.names if domains is not None else None)
    return Fixed(weights if isinstance(weights, tuple) else [1.0] * len(ensemble.members))


def _demand_trained(spec: Spec, context: BuildContext, number: int) -> None:
    """A mean hides a teacher that knows nothing."""
    if spec.known:
        return
    if len({of_module(build(spec, context, seed)) for seed in (TEACHER_SEED, TEACHER_SEED + 1)}) > 1:
        raise LimbeckError(
            f"Teacher {number} of the ensemble hangs on a seed, so it was never trained: name its 'weights', give it 'training', "
            "or take a model or an ONNX file that knows these answers."
        )

"""`distill`: objects in memory in, evidence out."""

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Literal

import torch
from accelerate import PartialState
from pydantic import ValidationError
from torch import nn
from torch.utils.data import ConcatDataset

from limbeck.config import Config, digest
from limbeck.data.examples import Splits
from limbeck.data.memory import MapTable, demand_rows
from limbeck.data.sources import Asked
from limbeck.data.splits import split_table
from limbeck.data.task import Task
from limbeck.data.tasks import CLASSES
from limbeck.data.tensors import parted
from limbeck.data.text import TextTable
from limbeck.data.text_reader import TextReader
from limbeck.errors import LimbeckError
from limbeck.models.given import Given
from limbeck.models.identity import of_module
from limbeck.objective import Labels, SoftTargets, Term, Terms, by_task
from limbeck.objective.schedules import Fixed
from limbeck.recipe import NAME, Regimes
from limbeck.recipe.complaints import refusal
from limbeck.recipe.marked import Node
from limbeck.regimes.offline import Offline
from limbeck.regimes.regime import Teaching
from limbeck.run.conduct import conduct
from limbeck.run.experiment import Experiment
from limbeck.run.result import Result
from limbeck.run.teachers import Learner
from limbeck.teachers.local import LocalTeacher
from limbeck.teachers.teacher import Teacher
from limbeck.training.progress import Watcher
from limbeck.training.settings import Training

_MOST_SEEDS: Final = 100  # as in a recipe
_OFFLINE: Final = Offline()
_DEFAULT: tuple[Term, ...] = (Labels(weight=Fixed(value=0.1)), SoftTargets(weight=Fixed(value=0.9)))


def distill(
    teacher: nn.Module | Teacher | None,
    student: nn.Module | Callable[[], nn.Module],
    data: Any,
    *,
    test: Any = None,
    validation: Any = None,
    objective: Sequence[Term] | Mapping[str, Any] | None = None,
    training: Training | Mapping[str, Any] | None = None,
    teacher_training: Training | Mapping[str, Any] | None = None,
    labelled: int | Literal["all"] = "all",
    labelled_share: float | None = None,
    tokenizer: str | None = None,
    task: Task | str = CLASSES,
    seeds: int = 3,
    metrics: Sequence[str] = (),
    name: str = "distilled",
    out: Path | str | None = None,
    store: bool = True,
    equal_compute: bool = False,
    ceiling: bool = False,
    apart: bool = False,
    regime: Teaching | Mapping[str, Any] | str = _OFFLINE,
    quiet: bool = False,
) -> Result:
    """Distils ``teacher`` into ``student`` and says, against the same student without it, whether the teacher helped.

    Neither module is altered: copies are trained. If ``student`` is a module, every seed starts from its weights; if it
    is a function that makes one, each seed starts from weights of its own.

    Args:
        teacher: any module that gives logits for the classes of ``data``, or any `Teacher`; None in regimes whose student teaches
            itself.
        student: any module, or a function without arguments that makes one.
        data: any map-style data set of (input, label); labels of None or -100 mean "unlabelled". A fifth of it is set
            aside to judge by unless ``test`` is given, and a tenth to choose by unless ``validation`` is. For another
            ``task`` labels are as `limbeck.data.labels` reads them: names or 0 and 1, numbers, a tag a word, a span.
        test: a map-style data set to judge by.
        validation: a map-style data set to choose by.
        objective: terms, or a mapping as in a recipe; by default ``{"labels": 0.1, "soft-targets": 0.9}``.
        training: budget and optimiser, or a mapping as in a recipe; by default 20 epochs of AdamW.
        teacher_training: if the teacher has yet to be trained on the labelled rows.
        labelled: how many training rows keep their label.
        labelled_share: about which share of a batch has its label, above 0 and below 1, where rows without one are learnt
            from too; None: all rows come once an epoch.
        tokenizer: a folder or name on the hub, if the inputs are texts (or pairs, lists of words, questions with a text).
        task: what is asked of a row: ``classes``, ``multi-label``, ``multi-task``, ``numbers``, ``tags`` or ``spans``, as in a
            recipe.
        seeds: how often each student is trained.
        metrics: further metrics by name, such as ``f1-macro``.
        name: what the report calls it.
        out: the run folder; by default ``runs/<name>-<hash>``.
        store: whether the teacher's outputs are stored first, and read from there.
        equal_compute: whether there is a second control, with as much compute as the distilled student.
        ceiling: whether there is a student that sees the labels which ``labelled`` hides from the others.
        apart: of several tasks, whether there is also a student for each.
        regime: who teaches whom and when: as in a recipe, such as ``"born-again"`` or a mapping with its settings, or an object
            of one's own; see `limbeck.regimes.regime.Teaching`.
        quiet: no progress, and no results on the error stream at the end; ``print(result)`` shows them.

    Raises:
        LimbeckError: something that the caller can mend.
    """
    chosen = _regime(regime)
    _demand(teacher, seeds, name, chosen, labelled_share)
    asked: Task = _read(task, "task")
    splits = _split(data, validation, test, labelled, tokenizer, asked)
    table = splits.train.table
    spec, settings = Given(student), _training(training, "training") or Training(epochs=20.0)
    known_tasks = (
        teacher.provides.heads if isinstance(teacher, Teacher) and not isinstance(teacher, nn.Module) else None
    )
    terms = by_task(_terms(objective), splits.task, known_tasks)
    taught = _training(teacher_training, "teacher_training")
    known = LocalTeacher(teacher, of_module(teacher)) if isinstance(teacher, nn.Module) and not taught else teacher
    given = {
        "teacher": of_module(teacher) if isinstance(teacher, nn.Module) else teacher and teacher.fingerprint,
        "teacher-training": taught.plain() if taught else None,
        "student": spec.plain(),
        **({} if asked == CLASSES else {"task": asked.name}),
        "data": splits.train.fingerprint,
        "test": splits.test.fingerprint,
        "objective": [term.plain() for term in terms],
        "training": settings.plain(),
        "seeds": seeds,
        "metrics": list(metrics),
        **({"equal-compute": True} if equal_compute else {}),
        **({"ceiling": True} if ceiling else {}),
        **({} if labelled_share is None else {"labelled-share": labelled_share}),
        **({"apart": True} if apart else {}),
        **({} if chosen == _OFFLINE else {"regime": chosen.plain()}),
    }
    experiment = Experiment(
        name=name,
        settings=given,
        splits=splits,
        student=spec,
        terms=terms,
        training=settings,
        teacher=None if taught else known,  # type: ignore[arg-type]
        learners=(Learner("teacher", Given(teacher), taught),) if taught else (),  # type: ignore[arg-type]
        store=store,
        views=None if isinstance(table, MapTable) and table.varies else 0,
        labelled_share=labelled_share,
        seeds=tuple(range(seeds)),
        metrics=tuple(metrics),
        equal_compute=equal_compute,
        ceiling=ceiling,
        apart=apart,
        regime=chosen,
    )
    folder = Path(out) if out else Path("runs") / f"{name}-{digest(given)[:8]}"
    result = conduct(experiment, folder, _described(teacher, student, given), quiet=quiet)
    if not quiet and PartialState().is_main_process:
        Watcher().say(f"\n{result}\n")
    return result


def _demand(teacher: Any, seeds: Any, name: Any, regime: Teaching, share: float | None) -> None:
    """What the types promise, and a caller may not keep."""
    if teacher is None and regime.taught:
        raise LimbeckError(f"The regime {regime.name!r} needs a teacher, and there is none.")
    if teacher is not None and not isinstance(teacher, nn.Module | Teacher):
        raise LimbeckError(f"teacher is a {type(teacher).__name__}, but an nn.Module or a limbeck.Teacher is needed.")
    if share is not None and not 0 < share < 1:
        raise LimbeckError(f"labelled_share is {share}, but a number above 0 and below 1 is needed.")
    if not isinstance(seeds, int) or not 1 <= seeds <= _MOST_SEEDS:
        raise LimbeckError(f"seeds is {seeds!r}, but a whole number from 1 to {_MOST_SEEDS} is needed.")
    if not isinstance(name, str) or not re.fullmatch(NAME, name):
        raise LimbeckError(
            f"name is {name!r}, but up to 64 letters, digits, spaces, '.', '_' and '-' are needed, the first one a letter "
            "or digit."
        )


def _split(
    data: Any, validation: Any, test: Any, labelled: int | Literal["all"], tokenizer: str | None, task: Task
) -> Splits:
    """The parts of one table that holds all rows."""
    given = {"train": data, "validation": validation, "test": test}
    parts = {name: part for name, part in given.items() if part is not None or name == "train"}
    rows, first = {}, 0
    if labelled != "all" and not isinstance(labelled, int):
        raise LimbeckError(f"labelled is {labelled!r}, but a whole number or 'all' is needed.")
    for name, part in parts.items():
        demand_rows(part, "the data set" if name == "train" else f"the {name} part")
        rows[name] = torch.arange(first, first + len(part))
        first += len(part)
    rows.pop("train")
    whole = data if len(parts) == 1 else ConcatDataset(list(parts.values()))
    if tokenizer is None:
        found = MapTable(whole, task=task)
        task = task.asking(found.classes)
        return split_table(found, found.labels, found.classes, own=rows, labelled=labelled, keys=found.keys, task=task)
    inputs, labels = zip(*(parted(whole[row], task) for row in range(len(whole))), strict=True)
    texts = [tuple(text) if isinstance(text, list) else text for text in inputs]
    known, classes = task.read(labels, "the data set")
    task = task.asking(classes)
    table = TextTable(texts, TextReader(tokenizer=tokenizer, reads=task.reads))
    return split_table(table, table.placed(known, task), classes, own=rows, labelled=labelled, keys=texts, task=task)


def _training(given: Training | Mapping[str, Any] | None, argument: str) -> Training | None:
    if given is None or isinstance(given, Training):
        return given
    if not isinstance(given, Mapping):
        raise LimbeckError(f"{argument} is a {type(given).__name__}, but a limbeck.Training or a mapping is needed.")
    read: Training = _read(given, argument)
    return read


def _terms(given: Sequence[Term] | Mapping[str, Any] | None) -> tuple[Term, ...]:
    if given is None:
        return _DEFAULT
    terms: tuple[Any, ...] = _read(given, "objective") if isinstance(given, Mapping) else tuple(given)
    if not terms or not all(isinstance(term, Term) for term in terms):
        raise LimbeckError(
            "objective must be a list of terms such as limbeck.Labels(weight=0.1), or a mapping such as {'labels': 0.1}."
        )
    return terms


def _regime(given: Teaching | Mapping[str, Any] | str) -> Teaching:
    if not isinstance(given, Teaching | Mapping | str):
        raise LimbeckError(
            f"regime is a {type(given).__name__}, but a name such as 'born-again', a mapping as in a recipe, or an object with "
            "name, taught, arms, stages, budgeted and plain is needed."
        )
    chosen: Teaching = given if isinstance(given, Teaching) else _read(given, "regime")
    return chosen


class _Arguments(Config):
    """Those of `distill` that take what a recipe takes."""

    objective: Terms | None = None
    training: Training | None = None
    teacher_training: Training | None = None
    task: Asked = CLASSES
    regime: Regimes = _OFFLINE


def _read(given: Any, argument: str) -> Any:
    plain = dict(given) if isinstance(given, Mapping) else given
    try:
        return getattr(_Arguments.model_validate({argument: plain}), argument)
    except ValidationError as error:
        raise refusal(error, _node({argument: plain}), _Arguments, "") from None


def _node(value: Any) -> Node:
    """A value of Python as if it stood in a recipe."""
    if isinstance(value, Mapping):
        return Node({str(key): _node(inner) for key, inner in value.items()}, "limbeck.distill")
    if isinstance(value, list | tuple):
        return Node([_node(inner) for inner in value], "limbeck.distill")
    return Node(value, "limbeck.distill")


def _described(teacher: Any, student: Any, given: Mapping[str, Any]) -> str:
    """What stands where a recipe's text would."""
    import yaml

    text: str = yaml.safe_dump({**given, "objects": {"teacher": repr(teacher)[:2000], "student": repr(student)[:2000]}})
    return text

"""What a preflight warns of: nothing that forbids a run, and much that would make it worth less."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Final

from limbeck.advice.preflight import floor_of, score_of
from limbeck.data.batch import SUPERVISED
from limbeck.data.measure import Measure
from limbeck.regimes.plan import Plan
from limbeck.run.experiment import Experiment

_FEW: Final = 0.1  # of all rows
_CUT: Final = 0.05  # of the texts
_ASKED: Final = 128  # rows of the validation part that a finished teacher is tried on
_TEST: Final = 200  # rows
_SEEDS: Final = 3


def doubts(experiment: Experiment, plan: Plan, silent: tuple[str, ...], teaching: bool) -> list[str]:
    """A sentence or two for each thing that is to be looked at.

    ``silent``: parameters of the student without a gradient. ``teaching``: whether the teacher is yet to be trained.
    """
    return list(_found(experiment, plan, silent, teaching))


def _found(experiment: Experiment, plan: Plan, silent: tuple[str, ...], teaching: bool) -> Iterator[str]:
    splits = experiment.splits
    labelled = len(splits.train.labelled())
    unused = len(splits.train) - labelled
    if silent:
        more = ", ..." if len(silent) > 3 else ""
        yield f"{len(silent)} parameters of the student get no gradient and stay as they are: {', '.join(silent[:3])}{more}"
    for term in plan.terms:
        if term.weight.turns == (0.0,):
            yield f"The term {term.name!r} has the weight 0 and takes no part."
    if not teaching:
        yield from _ignorant(experiment, plan)
    yield from _cut(experiment)
    if unused and not any(term.needs().teacher for term in plan.terms):
        yield f"{unused:,} rows without label are not used: no term of the objective reads the teacher."
    yield from _hardly_heard(plan, labelled)
    if len(splits.test) < _TEST:
        yield f"With {len(splits.test)} test rows only large differences can be told from chance."
    if len(experiment.seeds) < _SEEDS:
        yield f"With fewer than {_SEEDS} seeds the verdict will hardly be certain."


def _ignorant(experiment: Experiment, plan: Plan) -> Iterator[str]:
    """A run refuses a teacher that knows nothing; some rows show it before anything is spent."""
    teacher, validation = plan.teacher, experiment.splits.validation
    if teacher is None or not teacher.provides.unseen or validation.task.gives == "tokens" or validation.task.heads:
        return
    some, measure = replace(validation, rows=validation.rows[:_ASKED]), Measure.of(validation.task)
    score, floor = score_of(teacher, some, plan.device), floor_of(some)
    if score <= floor:
        names = ", ".join(map(repr, validation.classes[:6])) + (", ..." if len(validation.classes) > 6 else "")
        order = f" Are its outputs in the order of the data, {names}?" if len(validation.classes) > 1 else ""
        yield (
            f"On {len(some)} validation rows the teacher's {measure.name} is {measure.value(score)}, and that of "
            f"{validation.task.constant} {measure.value(floor)}: a run refuses a teacher that is no better on the whole "
            f"part.{order}"
        )


def _cut(experiment: Experiment) -> Iterator[str]:
    """Texts that end where ``max-length`` lets them; running text, which is cut to that length, is not meant."""
    texts, task = experiment.splits.train.table.texts, experiment.splits.task
    if texts is None or task.gives == "tokens":
        return
    longest = texts.reach("student").limit
    share = float((texts.lengths("student")[experiment.splits.train.rows] >= longest).float().mean())
    if share > _CUT:
        yield (
            f"{100 * share:.0f} % of the training texts have {longest} tokens or more, and what is beyond is not read: raise "
            "data.max-length if it matters."
        )


def _hardly_heard(plan: Plan, labelled: int) -> Iterator[str]:
    """Of terms that learn from the teacher about rows with a label alone, where these are few."""
    share = labelled / len(plan.splits.train)
    names = [term.name for term in plan.terms if term.needs().teacher and term.mask == SUPERVISED]
    if names and share < _FEW and plan.labelled_share is None:
        yield (
            f"{', '.join(names)} learn from rows with a label alone, which are {100 * share:.1f} % of a batch: set "
            "data.labelled-share to 0.25, say, or compare by a term of all rows, such as soft-targets."
        )

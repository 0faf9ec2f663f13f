"""Students that teach."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from limbeck.config import digest
from limbeck.data.asked import asked
from limbeck.data.examples import Examples
from limbeck.data.task import Answered
from limbeck.errors import LimbeckError
from limbeck.models.identity import of_module
from limbeck.objective.suits import demand_suited
from limbeck.regimes.budget import Arm, at_whole_budget, earlier
from limbeck.regimes.offline import Offline
from limbeck.regimes.plan import Plan
from limbeck.regimes.regime import Regime, Teaching, train
from limbeck.signals.capture import show
from limbeck.signals.perturbed import is_logits
from limbeck.teachers.local import LocalTeacher
from limbeck.teachers.teacher import Teacher
from limbeck.training.stage import Together
from limbeck.training.workshop import Trained

PART: Final = "part: "
"""How the names of metrics begin that are of a part of a student."""


def demand_answers(plan: Plan, regime: str) -> None:
    """Refuses what a student cannot teach.

    Raises:
        LimbeckError: the objective reads layers of the first teacher, or the teacher reads the texts by other tokens.
    """
    for term in plan.terms:
        if layers := sorted(name for name in term.needs().teacher if not is_logits(name)):
            raise LimbeckError(
                f"In the regime {regime!r} students teach in their turn, and the term {term.name!r} reads {layers[0]!r} of the "
                "teacher, which need not be in them: compare answers."
            )
    texts = plan.splits.train.table.texts
    if texts is not None and texts.teacher is not None:
        raise LimbeckError(
            f"In the regime {regime!r} students teach in their turn, and here the teacher reads the texts by other tokens than "
            "they do: give both one tokenizer (leave out data.tokenizer), or choose another regime."
        )


def demand_alone(plan: Plan, regime: str) -> None:
    """Refuses another teacher where the student is its own, and what it cannot be for itself.

    Raises:
        LimbeckError: a teacher is given, or no term learns from one.
    """
    if plan.teacher is not None or plan.teacher_stages:
        raise LimbeckError(f"In the regime {regime!r} the student is its own teacher: leave 'teacher' out.")
    if not any(term.needs().teacher for term in plan.terms):
        raise LimbeckError(
            f"In the regime {regime!r} nothing is learnt from a teacher by this objective: add soft-targets, say."
        )


def demand_apart(plan: Plan, regime: str, layers: bool = False) -> None:
    """Refuses what one part of a student cannot tell another. ``layers``: whether terms may read layers.

    Raises:
        LimbeckError: the task has several answers an example, or a term reads more than it may.
        SignalError: the task has nothing that a term compares.
    """
    task = plan.splits.task
    if not task.single or task.gives not in ("choices", "numbers"):
        raise LimbeckError(
            f"In the regime {regime!r} parts of the student compare their answers, one to an example, and in the task "
            f"{task.name!r} an example has several: choose another regime."
        )
    for term in plan.terms:
        demand_suited(term.name, term, task)
        reads = term.needs().student | term.needs().teacher
        if (others := sorted(reads - {"logits"})) and not layers:
            raise LimbeckError(
                f"In the regime {regime!r} parts of the student compare their answers, and the term {term.name!r} reads "
                f"{others[0]!r}: compare logits."
            )


def metrics_of(trained: Trained, examples: Examples, device: str, signal: str = "logits") -> dict[str, float]:
    """The task's measure and the mean of its costs on examples as they are. ``signal``: what stands for the logits."""
    found, task = answers_of(trained, examples, device, signal), examples.task
    return {task.measure: float(task.scores(found).mean()), task.cost: float(task.costs(found).mean())}


def answers_of(trained: Trained, examples: Examples, device: str, signal: str = "logits") -> Answered:
    """What a trained student answers to examples as they are. ``signal``: what stands for the logits."""
    module = trained.module().to(device)
    return asked(lambda batch: show(module, batch.columns("student"), {signal})[signal], examples, device)


def ensemble_of(students: Sequence[Trained], validation: Examples, device: str) -> Trained:
    """The last of these students with the others beside it: they answer as one, by the mean of their probabilities."""
    *others, last = students
    key, fingerprint = digest([one.key for one in students]), digest([one.fingerprint for one in students])
    beside = Together(tuple(others), validation.task.gives == "numbers")
    whole = replace(last, beside=beside, key=key, fingerprint=fingerprint)
    found = [metrics_of(one, validation, device)[validation.task.measure] for one in students]
    each = {f"{PART}generation {place}": one for place, one in enumerate(found, 1)}
    return replace(whole, metrics=metrics_of(whole, validation, device) | each)


def untrained(plan: Plan) -> Teacher:
    """A student in place of one that will teach: it shows the same signals."""
    module = plan.at(plan.seed + 1).start.module()
    return LocalTeacher(module.requires_grad_(False), of_module(module))


def arms_beside(regime: Teaching, plan: Plan) -> dict[str, Arm]:
    """The arms of the offline regime but the distilled student, each with as many steps in one training as the regime has in all.

    ``direct``, where the regime has other teachers in between: the student of the first one all that time.
    """
    if (
        plan.teacher is None and not plan.teacher_stages
    ):  # the student that learns from labels alone is the first teacher
        return {"control": at_whole_budget(Offline().control, regime)}
    found = {name: at_whole_budget(arm, regime) for name, arm in Offline().arms(plan).items() if name != "distilled"}
    return found | ({"direct": at_whole_budget(_directly, regime)} if earlier(regime.stages(plan)) else {})


def _directly(plan: Plan) -> Regime[Trained]:
    plan = yield from plan.taught()
    teacher = yield from plan.labelled()
    return (yield from train(plan.stage("direct", teacher=teacher)))

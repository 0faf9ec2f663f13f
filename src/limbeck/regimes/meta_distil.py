"""A teacher that learns to teach, from how its student does (MetaDistil, Zhou et al. 2022, arXiv:2106.04570)."""

from dataclasses import dataclass, field, replace
from typing import Annotated, Any, Final, Literal

import torch
from accelerate import PartialState
from pydantic import Field
from torch import Tensor, nn

from limbeck.data.batch import NO_LABEL, Batch
from limbeck.data.draw import normals
from limbeck.data.examples import Examples
from limbeck.data.splits import balanced
from limbeck.errors import LimbeckError
from limbeck.losses.taught import followed
from limbeck.objective import Term
from limbeck.objective.schedules import Place
from limbeck.regimes.budget import Arm
from limbeck.regimes.offline import Offline
from limbeck.regimes.plan import Plan
from limbeck.regimes.regime import Common, Regime, train
from limbeck.teachers.learning import LearningTeacher
from limbeck.teachers.precision import Asking
from limbeck.training.pilot import Pilot
from limbeck.training.stage import Stage
from limbeck.training.workshop import Trained

FIXED: Final = "fixed_teacher"
"""The arm of a student whose teacher stays as it is."""
_QUIZ: Final = 16  # salt


class MetaDistil(Common):
    """Before each step the student takes a trial step, and the teacher learns from how its student then does in a quiz.

    The quiz is a part of the labelled rows, which the distilled student does not learn from. The teacher's gradient is exact and
    of second order; no loss of its own holds it to what it was. It starts as the recipe's teacher and is asked live.
    """

    name: Literal["meta-distil"] = "meta-distil"
    quiz: Annotated[float, Field(gt=0, lt=1)] = 0.2
    """The share of the labelled rows that is kept for the quiz, with every class in its proportion; 0.1 in the paper, which has
    thousands."""
    trial_learning_rate: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 0.1
    """Of the student's trial step, which is plain gradient descent."""
    teacher_learning_rate: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 1e-5
    """The teacher's peak, hundreds of times smaller than the student's; it rises and falls as that does. 0: the teacher stays as
    it is."""

    def arms(self, plan: Plan) -> dict[str, Arm]:
        """The control and, where rows have no label, pseudo-labels; the student of the teacher as it was; the distilled student.

        All but the last learn from the rows of the quiz too.
        """
        beside = {name: arm for name, arm in Offline().arms(plan).items() if name in ("control", "pseudo_labels")}
        return {**beside, FIXED: self.fixed_teacher, "distilled": self.distilled}

    def stages(self, plan: Plan) -> tuple[Stage, ...]:
        """The one training."""
        return (self._stage(plan, "student"),)

    def fixed_teacher(self, plan: Plan) -> Regime[Trained]:
        """The same student and objective with the teacher as it was, on all rows: what learning to teach adds."""
        plan = yield from plan.taught()
        teacher = yield from plan.labelled()
        return (yield from train(plan.stage("fixed teacher", teacher=teacher)))

    def distilled(self, plan: Plan) -> Regime[Trained]:
        """The student that the recipe is about."""
        plan = yield from plan.taught()
        return (yield from train(self._stage(plan, "distilled")))

    def _stage(self, plan: Plan, name: str) -> Stage:
        beginning = _beginning(plan)
        _demand_followed(plan)
        examples = plan.splits.train
        quiz = quiz_of(examples, self.quiz, plan.seed)
        read = plan.read(plan.terms)
        rest = replace(read, rows=read.rows[~torch.isin(read.rows, quiz)])
        asked = replace(examples, rows=quiz, mixup=0.0)
        return replace(plan.stage(name, examples=rest), past=beginning, writing=Quizzed(self, asked))


@dataclass(frozen=True)
class Beginning:
    """How a teacher begins that learns; see `limbeck.training.stage.Past`."""

    module: nn.Module = field(repr=False)
    fingerprint: str

    def plain(self) -> dict[str, Any]:
        """Which model it is."""
        return {"begins": self.fingerprint}

    def teacher(self, student: nn.Module) -> LearningTeacher:
        """A copy, beside the processes' device."""
        return LearningTeacher(self.module, PartialState().device)


@dataclass(frozen=True)
class Quizzed:
    """How the teacher learns; see `limbeck.training.stage.Writing`. ``quiz``: its rows."""

    settings: MetaDistil
    quiz: Examples

    def plain(self) -> dict[str, Any]:
        """The settings, and which rows."""
        return {**self.settings.plain(), "rows": self.quiz.fingerprint}

    def pen(self, stage: Stage, student: nn.Module) -> Pilot:
        """What teaches the teacher before each step.

        Raises:
            LimbeckError: several processes train, each of which would have a teacher of its own.
        """
        state = PartialState()
        if state.num_processes > 1:
            raise LimbeckError(
                "In the regime 'meta-distil' one process trains: a teacher learns from a whole step of its student. Start it "
                "without several processes, or choose 'regime: offline'."
            )
        chosen = self.settings
        return Pilot(stage, student, self.quiz, chosen.trial_learning_rate, chosen.teacher_learning_rate, state.device)


def quiz_of(examples: Examples, share: float, seed: int) -> Tensor:
    """The rows of the quiz, int64, ascending: a share of those with a label that may be seen, balanced by class.

    Raises:
        LimbeckError: there is not one row of each class for the quiz, or none is left to learn from.
    """
    rows, labels = examples.labelled().rows, examples.task.strata(examples.labels)
    rows = rows[labels[rows] != NO_LABEL]
    size = round(share * len(rows))
    quiz = balanced(rows, labels, size, seed, _QUIZ)
    whole, inside = (torch.bincount(labels[some], minlength=int(labels.max()) + 1) for some in (rows, quiz))
    if bool(((whole > 0) & ((inside == 0) | (inside == whole))).any()):
        raise LimbeckError(
            f"In the regime 'meta-distil' the quiz takes {size} of the {len(rows)} labelled rows ('quiz: {share}'), and both it "
            f"and what is left to learn from need a row of each of the {int((whole > 0).sum())} classes: show more labels "
            "(data.labelled), or choose another share."
        )
    return quiz.sort()[0]


def _beginning(plan: Plan) -> Beginning:
    """The teacher that will learn.

    Raises:
        LimbeckError: it is no model that is here in full precision.
    """
    module = plan.teacher.module if plan.teacher is not None else None
    if plan.teacher is None or module is None or plan.codec is not None or plan.asking not in (None, Asking()):
        raise LimbeckError(
            "In the regime 'meta-distil' the teacher learns while it teaches, so it must be a model that is here, as it is: give "
            "teacher.model, not stored, served or ONNX answers and no ensemble, and leave teacher.precision, teacher.compile and "
            "a codec in teacher.store out."
        )
    assert plan.teacher.fingerprint is not None
    return Beginning(module, plan.teacher.fingerprint)


def _demand_followed(plan: Plan) -> None:
    """Refuses an objective that no gradient can be followed through to the teacher.

    Raises:
        LimbeckError: the task has other answers than one class; a term reads more than logits, has a gate, trains something of
            its own or takes the teacher for a constant; or none learns from the teacher.
    """
    task = plan.splits.task
    if not task.single or task.gives != "choices":
        raise LimbeckError(
            f"In the regime 'meta-distil' an example has one class, and in the task {task.name!r} it has other answers: choose "
            "another regime."
        )
    if not any(term.needs().teacher for term in plan.terms):
        raise LimbeckError(
            "In the regime 'meta-distil' the teacher learns by what its student learns from it, and no term of this objective "
            "reads the teacher: add soft-targets, say."
        )
    logits, shown = frozenset({"logits"}), {"logits": torch.zeros(2, len(plan.splits.classes))}
    for term in plan.terms:
        needs = term.needs()
        if not (needs.student | needs.teacher) <= logits:
            other = min((needs.student | needs.teacher) - logits)
            why = f"reads {other!r}"
        elif term.gate is not None:
            why = "has a gate"
        elif term.build(shown, shown, len(plan.splits.train)) is not None or term.weight.build() is not None:
            why = "trains or remembers something of its own"
        elif needs.teacher and not _leads_to_the_teacher(term, len(plan.splits.classes)):
            why = "takes its teacher for a constant"
        else:
            continue
        raise LimbeckError(
            f"In the regime 'meta-distil' a gradient is followed through the student's step to the teacher, and the term "
            f"{term.name!r} {why}: compare logits with fixed weights and temperatures, by soft-targets or decoupled, say."
        )


def _leads_to_the_teacher(term: Term, classes: int) -> bool:
    """Whether what the term says of two random answers has a gradient to the teacher's."""
    ours, theirs = torch.split(normals(0, torch.arange(4), torch.zeros(4, dtype=torch.int64), classes), 2)
    batch = Batch.of(torch.zeros(2, 1), torch.arange(2))
    with torch.enable_grad(), followed():
        said = {"logits": theirs.clone().requires_grad_()}
        value = term.values({"logits": ours}, said, batch, Place(0, 1), None).sum()
        return value.requires_grad and torch.autograd.grad(value, said["logits"], allow_unused=True)[0] is not None

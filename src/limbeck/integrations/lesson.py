"""What one student learns from one teacher, for training loops that are not ours."""

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any, final

import torch
from torch import Tensor, nn

from limbeck.data.batch import CLASS, NO_LABEL, SUPERVISED, Batch
from limbeck.errors import DataError, LimbeckError, SignalError
from limbeck.objective import Objective, Term, matched
from limbeck.signals.capture import Capture, Signals, show
from limbeck.teachers.teacher import Teacher
from limbeck.training.optimizers import groups
from limbeck.training.order import derived

_log = logging.getLogger(__name__)
_BUILT_ON = 8  # examples, as in our own loop
_TELLING = 32  # labels; fewer say little of a teacher


@final
class Lesson:
    """An objective that is fitted to a student and a teacher, and the hooks that show the student's signals.

    Args:
        terms: what is learnt.
        student: the bare model; it is not altered.
        teacher: whom it learns from.
        batches: a few, as training will see them, on the student's device.
        seed: of the initial weights of what is trained beside the student.
        examples: how many the data set has; 0 if that is not known.

    Raises:
        LimbeckError: student, teacher, data and terms do not fit; nothing has been trained then.
    """

    def __init__(
        self,
        terms: Sequence[Term],
        student: nn.Module,
        teacher: Teacher | None,
        batches: Sequence[Batch],
        seed: int,
        examples: int,
    ) -> None:
        self.student, self.teacher = student, teacher
        _apart(student, teacher)
        self.objective = Objective(matched(terms, student, teacher, batches))
        self.objective.check(teacher.provides if teacher else None)
        few = batches[0].select(torch.arange(min(_BUILT_ON, len(batches[0]))))
        needs = self.objective.needs()
        ours = _shown("student", lambda: show(student, few.columns("student"), needs.student | {"logits"}, few.keys))
        theirs = _shown("teacher", lambda: self._observed(few))
        _demand_classes(self.objective, few, ours["logits"])
        self._classes = ours["logits"].shape[-1]
        self._supervised = any(term.mask == SUPERVISED for term in self.objective.terms)
        _demand_the_same(student, teacher, ours, theirs)
        fitted = derived(seed, "objective")
        try:
            self.objective.build(ours, theirs, fitted)
            self.remembers = False
            """Whether a term keeps something for every example, and so has to be told the rows' numbers."""
        except SignalError:  # or because a term has to know how many examples there are
            self.objective.build(ours, theirs, fitted, examples)
            self.remembers = True
        self._capture: Capture | None = None
        self._weigh_teacher(batches)

    def __call__(
        self, model: nn.Module, batch: Batch, counts: Mapping[str, Tensor] | None
    ) -> tuple[Tensor, dict[str, Tensor], Signals]:
        """The loss and its parts, see `Objective`, and the student's signals.

        Args:
            model: the student, or a wrapper around it.
            batch: what both see.
            counts: denominators of the whole step; None for those of this batch.
        """
        assert self._capture is not None, "open it first"
        if self._supervised:
            _demand_known(batch.labels[CLASS], self._classes)
        shown = self._capture(batch.columns("student"), module=model, keys=batch.keys)
        loss, parts = self.objective(shown, self._observed(batch), batch, counts)
        return loss, parts, shown

    def open(self) -> None:
        """Places the hooks, which must be there before a compiled model runs."""
        if self._capture is None:
            self._capture = Capture(self.student, self.objective.needs().student)

    def close(self) -> None:
        """Takes the hooks away."""
        if self._capture is not None:
            self._capture.close()
        self._capture = None

    def groups(self, rate: float, weight_decay: float) -> list[dict[str, Any]]:
        """Parameter groups of what is trained beside the student; ``clip`` names what each is clipped with.

        Args:
            rate: the student's learning rate.
            weight_decay: the student's.
        """
        found = groups(self.student, self.objective.owned(), weight_decay)
        own: list[dict[str, Any]] = [{**one} for one in found if one["clip"] != "student"]
        return [{**one, "lr": rate * one.pop("factor")} for one in own]

    def _weigh_teacher(self, batches: Sequence[Batch]) -> None:
        """Says so if the teacher's answers are hardly better than always the same one."""
        if "logits" not in self.objective.needs().teacher or batches[0].labels[CLASS].is_floating_point():
            return
        known = [batch.select(batch.masks[SUPERVISED]) for batch in batches]
        known = [batch for batch in known if len(batch)]
        labels = torch.cat([batch.labels[CLASS] for batch in known]) if known else torch.zeros(0, dtype=torch.int64)
        if len(labels) < _TELLING:
            return
        right = sum(int((self._observed(one)["logits"].argmax(-1) == one.labels[CLASS]).sum()) for one in known)
        commonest = int(torch.bincount(labels).max())
        if right - commonest < len(labels) ** 0.5 / 2:
            _log.warning(
                "The teacher is right on %d of %d training rows, where always the same answer is right on %d: has its classifier "
                "been trained, and are its classes in the order of the labels?",
                *(right, len(labels), commonest),
            )

    def _observed(self, batch: Batch) -> Signals:
        wanted = self.objective.needs().teacher
        return self.teacher.observe(batch, wanted) if self.teacher and wanted else {}


def _shown(side: str, show_it: Callable[[], Signals]) -> Signals:
    try:
        return show_it()
    except LimbeckError:
        raise
    except Exception as error:  # any model may fail in any way on columns that it was not made for
        reason = " ".join(str(error).split())[:300]
        raise DataError(f"The {side} fails on the data: {type(error).__name__}: {reason}") from error


def _apart(student: nn.Module, teacher: Teacher | None) -> None:
    """What the student trains is not the teacher's."""
    module = teacher.module if teacher else None
    theirs = {id(one) for one in module.parameters()} if module else set()
    for name, parameter in student.named_parameters():
        if parameter.requires_grad and id(parameter) in theirs:
            raise LimbeckError(
                f"Student and teacher share the parameter {name!r}, so the teacher would change while it teaches: give one of "
                "them a copy, copy.deepcopy(model), or freeze what they share."
            )


def _demand_classes(objective: Objective, batch: Batch, logits: Tensor) -> None:
    """Examples have one answer each, and a label where terms learn from labels.

    Raises:
        DataError: they have not.
    """
    labels, classes = batch.labels[CLASS], logits.shape[-1]
    wanted = [name for name, term in zip(objective.names, objective.terms, strict=True) if term.mask == SUPERVISED]
    if logits.ndim != 2:
        raise DataError(
            f"The student gives logits {list(logits.shape)}, but only classifiers of whole examples, [batch, classes], "
            "can be distilled here so far."
        )
    if labels.is_floating_point():
        sums = labels.sum(-1) if labels.ndim == 2 else labels.new_zeros(1)
        if labels.shape != logits.shape or not bool(((sums - 1).abs() < 1e-3).all()):
            raise DataError(
                f"The labels are numbers of shape {list(labels.shape)}; what can be learnt from are class numbers [batch] or "
                f"probabilities [batch, {classes}] that sum to 1."
            )
        return
    if labels.ndim != 1:
        raise DataError(f"The labels have the shape {list(labels.shape)}, but one class an example is needed, [batch].")
    if wanted:
        _demand_known(labels, classes)


def _demand_known(labels: Tensor, classes: int) -> None:
    """Class numbers are those of classes; probabilities were looked at.

    Raises:
        DataError: one is not.
    """
    wrong = labels[(labels != NO_LABEL) & ((labels < 0) | (labels >= classes))] if labels.ndim == 1 else labels[:0]
    if len(wrong):
        raise DataError(
            f"A label is {int(wrong[0])}, but the student has the classes 0 to {classes - 1}: mend the label, load the student "
            f"with more (num_labels), or write {NO_LABEL} where there is none."
        )


def _demand_the_same(student: nn.Module, teacher: Teacher | None, ours: Signals, theirs: Signals) -> None:
    """Both sides answer for the same classes in the same order.

    Raises:
        SignalError: they do not.
    """
    if "logits" not in theirs:
        return
    widths = ours["logits"].shape[-1], theirs["logits"].shape[-1]
    if widths[0] != widths[1]:
        raise SignalError(
            f"The teacher gives {widths[1]} logits an example and the student {widths[0]}: both need the same classes. Load them "
            "with the same num_labels, or compare inner layers alone."
        )
    names = [_classes(student), _classes(teacher.module if teacher else None)]
    if names[0] != names[1] and sorted(names[0]) == sorted(names[1]):
        raise SignalError(
            f"The student has its classes in the order {names[0]}, the teacher in the order {names[1]}: the teacher's logits "
            "would be read for the wrong classes."
        )


def _classes(module: nn.Module | None) -> list[str]:
    """The names of the classes in the order of the logits, as the config of a transformers model says."""
    named = getattr(getattr(module, "config", None), "id2label", None) or {}
    return [str(named[index]) for index in sorted(named)]

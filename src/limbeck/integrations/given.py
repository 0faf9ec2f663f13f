"""What a caller gives for teacher and objective, in the form that training takes."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from torch import nn

from limbeck.config import Config
from limbeck.errors import LimbeckError
from limbeck.objective import Objective, Term, Terms
from limbeck.teachers.local import LocalTeacher
from limbeck.teachers.teacher import Teacher

_DEFAULT: Final = {"labels": 0.1, "soft-targets": 0.9}


class Arguments(Config):
    """What is written as in a recipe."""

    objective: Terms


Arguments.__name__ = "DistillationTrainer"  # complaints name it


def terms_of(given: Objective | Sequence[Term] | Mapping[str, Any] | None) -> tuple[Term, ...]:
    """The terms; None for the usual ones.

    Raises:
        SettingError: a setting is wrong.
        LimbeckError: it is no list of terms, or an objective that was fitted already.
    """
    if isinstance(given, Objective):
        if any(True for _ in given.parameters()):
            raise LimbeckError(
                "This objective is built already, for other models perhaps: give its terms, objective.terms."
            )
        return given.terms
    if given is None or isinstance(given, Mapping):
        written: Any = _DEFAULT if given is None else dict(given)
        return Arguments(objective=written).objective
    terms = tuple(given)
    if not terms or not all(isinstance(term, Term) for term in terms):
        raise LimbeckError(
            "objective must be a list of terms such as limbeck.Labels(weight=0.1), or a mapping such as {'labels': 0.1}."
        )
    return terms


def teacher_of(given: nn.Module | Teacher | None) -> Teacher | None:
    """The teacher; a module becomes one.

    Raises:
        LimbeckError: it is neither.
    """
    if isinstance(given, nn.Module):
        return LocalTeacher(given, "a module in memory")  # nothing is stored here that a fingerprint would name
    if given is not None and not isinstance(given, Teacher):
        raise LimbeckError(f"teacher is a {type(given).__name__}, but an nn.Module or a limbeck.Teacher is needed.")
    return given

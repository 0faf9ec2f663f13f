"""What one value of a term stands for in a task, and what is counted to make a mean of them."""

from typing import Final, Literal

from torch import Tensor

from limbeck.data.batch import REAL, Batch
from limbeck.data.task import Task
from limbeck.objective.chunks import opened
from limbeck.objective.term import Term
from limbeck.signals.perturbed import is_logits

Grain = Literal["example", "answer", "chunk"]
"""A row of the batch; each answer of an example that has several; a stretch of text that both sides foresee."""
_NAMES: Final[dict[Grain, str]] = {"example": "", "answer": " answers", "chunk": " chunks"}


def grain(term: Term, task: Task) -> Grain:
    """What one value of the term stands for. One that reads nothing but logits compares them answer by answer."""
    if term.scope == "token":
        return "chunk"
    needs = term.needs()
    several = not task.single and not term.whole
    return "answer" if several and all(map(is_logits, needs.student | needs.teacher)) else "example"


def counted_as(term: Term, task: Task) -> str:
    """The name of the term's denominator: terms that count the same share it."""
    return f"{term.mask}{_NAMES[grain(term, task)]}" + (f" of {term.task}" if term.task else "")


def counted(term: Term, rows: Batch) -> Tensor:
    """What counts for the term, bool [B], of chunks [B, L]; ``rows``: of its grain."""
    return opened(rows) if term.scope == "token" else rows.masks[term.mask] & rows.masks[REAL]

"""Terms about one of several tasks: they see its head alone, as if nothing else were asked."""

from collections.abc import Sequence
from collections.abc import Set as AbstractSet

from torch import Tensor

from limbeck.data.task import Head, Task
from limbeck.errors import SignalError, nearest
from limbeck.objective.means import Seen
from limbeck.objective.term import Term
from limbeck.signals.capture import Signals
from limbeck.signals.perturbed import is_logits


def by_task(terms: Sequence[Term], task: Task, taught: AbstractSet[str] | None = None) -> tuple[Term, ...]:
    """The terms, with one for each task in place of one that reads logits and names none; each has the whole weight.

    ``taught``: the tasks that the teacher knows, None for all; those that read its logits are about these alone.

    Raises:
        SignalError: one names a task that is not there, or that the teacher does not know.
    """
    found, heads = list[Term](), task.heads
    for term in terms:
        try:
            reads = term.needs()
        except SignalError:  # layers by a rule, which are found later, when both models are known
            found.append(term)
            continue
        heard = any(map(is_logits, reads.teacher)) and taught is not None
        if term.task is not None:
            _demand(term, term.task, heads.keys(), taught if heard else None)
        if term.task is not None or not heads or not any(map(is_logits, reads.student | reads.teacher)):
            found.append(term)
            continue
        found += [term.about_task(name) for name in heads if not heard or name in (taught or ())]
    return tuple(found)


def _demand(term: Term, name: str, known: AbstractSet[str], taught: AbstractSet[str] | None) -> None:
    if name not in known:
        hint = nearest(name, list(known)) or f"there are {', '.join(known)}."
        raise SignalError(
            f"The term {term.name!r} is about the task {name!r}, and "
            + (f"there is none of that name: {hint}" if known else "this data asks one thing alone: leave 'task' out.")
        )
    if taught is not None and name not in taught:
        raise SignalError(
            f"The term {term.name!r} is about the task {name!r}, which no teacher knows: they know {', '.join(sorted(taught))}."
        )


def of_head(seen: Seen, task: Task, name: str) -> Seen:
    """A batch, and what both sides say of it, as one of which nothing but this task is asked."""
    head = task.heads[name]
    return Seen(task.headed(seen.rows, name), cut(seen.student, task, head), cut(seen.teacher, task, head))


def cut(signals: Signals, task: Task, head: Head) -> dict[str, Tensor]:
    """The signals, with logits of all heads cut to those of one. Others, as of a teacher of that task alone, stay."""
    width = max(one.stop for one in task.heads.values())
    return {
        name: value[..., head.start : head.stop] if _whole(name, value, width) else value
        for name, value in signals.items()
    }


def _whole(name: str, value: Tensor, width: int) -> bool:
    return (is_logits(name) or name.endswith(".logits")) and value.shape[-1] == width

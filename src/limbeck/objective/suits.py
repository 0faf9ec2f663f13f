"""What an objective refuses before anything runs: terms that a task or a teacher has nothing for."""

from collections.abc import Mapping
from typing import Final

from limbeck.data.task import Gives, Task
from limbeck.errors import SignalError
from limbeck.objective.grain import grain
from limbeck.objective.term import Term
from limbeck.objective.together import processes
from limbeck.signals.logits import Offer
from limbeck.signals.perturbed import is_logits
from limbeck.teachers.teacher import Provides

_INSTEAD: Final[dict[Gives, str]] = {
    "choices": "use labels, soft-targets or another term between probabilities",
    "numbers": "use soft-targets with loss: logit-mse, which compares the numbers, or terms between layers",
    "tokens": "use labels, divergence or soft-targets of loss: kl, or terms between layers",
    "vectors": "use partners, which needs no teacher, margin-mse, or cosine with student: logits and teacher: logits",
}
"""What suits a task instead, by what its answers are."""

_COMPARED: Final[dict[Gives, str]] = {
    "choices": "probabilities",
    "numbers": "numbers",
    "tokens": "next tokens",
    "vectors": "vectors",
}
"""What a term compares, by what it takes; the first that it takes names it."""


def demand_known(terms: Mapping[str, Term]) -> None:
    """The term that another's weight is set against is one of them.

    Raises:
        SignalError: it is not.
    """
    for name, term in terms.items():
        other = getattr(term.weight, "against", None)
        if other is not None and (other not in terms or other == name):
            known = ", ".join(repr(one) for one in terms if one != name) or "none beside it"
            raise SignalError(f"The weight of {name!r} is set against {other!r}; the objective's terms are {known}.")


def demand_suited(name: str, term: Term, task: Task) -> None:
    """The task has what the term compares.

    Raises:
        SignalError: it has not.
    """
    needs, gives = term.needs(), task.gives
    reads = needs.student | needs.teacher
    suits = "logits" not in reads or gives in term.takes
    if not suits or (term.gate and gives != "choices"):
        who = "The term" if not suits else "The gate of"
        kinds: list[Gives] = ["choices"] if suits else [kind for kind in _COMPARED if kind in term.takes]
        what = _COMPARED[kinds[0]] if kinds else "other answers"
        raise SignalError(f"{who} {name!r} compares {what}, and the task {task.name!r} has none: {_INSTEAD[gives]}.")
    layers = sorted(one for one in reads if not is_logits(one))
    if gives == "vectors" and layers:
        raise SignalError(
            f"The term {name!r} reads {layers[0]!r}, but in the task {task.name!r} a model runs once for each text of "
            "an example, and only the vectors are shown: name 'logits' on both sides."
        )
    if task.reads == "sources" and any("decoder" in one for one in layers):
        raise SignalError(
            f"The term {name!r} reads a layer of the decoder, and which of its places are padding is not told to terms of "
            "layers: compare layers of the encoder, or answers (divergence)."
        )
    if task.single:
        return
    answers = grain(term, task) == "answer"
    single = sorted(one for one in reads if one.endswith(".logits"))
    if single and not answers:
        raise SignalError(
            f"The term {name!r} reads {single[0]!r}, one teacher's answers, and in the task {task.name!r} an example has "
            "several: use soft-targets, which learn from the mean of the teachers."
        )
    if term.gate and not answers:
        raise SignalError(
            f"The term {name!r} compares layers and takes no gate in the task {task.name!r}: its examples have "
            "several answers, and a gate weighs answers."
        )
    if term.scope == "batch" and answers and processes() > 1:
        raise SignalError(
            f"The term {name!r} compares the answers of a batch with each other; in the task {task.name!r} that "
            "works with one process alone."
        )


_READ: Final = {
    Offer.EXPECTATIONS: "means",
    Offer.OUTCOMES: "the probability of given tokens",
    Offer.ROWS: "the probability of every token",
    Offer.MATRIX: "the probability of every token, of all rows at once,",
}
_KEPT: Final = {
    Offer.EXPECTATIONS: "samples, which give means alone (forward-kl at temperature 1)",
    Offer.OUTCOMES: "the likeliest tokens and what the rest have together",
    Offer.ROWS: "hidden states, which give a block of rows at a time",
}
_STORE: Final = {
    Offer.EXPECTATIONS: "sampled",
    Offer.OUTCOMES: "top-k",
    Offer.ROWS: "hidden",
    Offer.MATRIX: "false",
}


def demand_taught(name: str, term: Term, provides: Provides | None) -> None:
    """The teacher gives what term and gate read.

    Raises:
        SignalError: there is no teacher, or it lacks a signal, or its logits are stored too coarsely.
    """
    gated = term.gate.teacher if term.gate else frozenset[str]()
    wanted = term.needs().teacher | gated
    if not wanted:
        return
    if provides is None:
        raise SignalError(f"The term {name!r} needs a teacher, and there is none.")
    if lacking := provides.lacking(wanted):
        members = f": it consists of {', '.join(provides.members)}" if len(provides.members) > 1 else ""
        raise SignalError(f"The term {name!r} needs {sorted(lacking)} of the teacher, which does not show it{members}.")
    if term.task and provides.heads is not None and term.task not in provides.heads and any(map(is_logits, wanted)):
        raise SignalError(
            f"The term {name!r} reads the teacher's logits, and it knows nothing of this task: it knows "
            f"{', '.join(sorted(provides.heads))}."
        )
    reads = max(term.reads, Offer.MATRIX) if gated else term.reads
    sources = {"logits": provides, **{f"{who}.logits": one for who, one in provides.members.items()}}
    for one in sorted(wanted & sources.keys()):
        if reads > (offers := sources[one].offers):
            raise SignalError(
                f"The term {name!r} reads {_READ[reads]} of the teacher's {one}, and they are stored as {_KEPT[offers]}. Of a "
                f"model that is here 'teacher.store: {_STORE[reads]}' gives them; else take another divergence or temperature."
            )

"""What a preflight says of language models: tokenizers, who foresees better, what is stored, what a served teacher costs."""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any, Final

import torch

from limbeck.advice.preflight import answers_by
from limbeck.data.asked import asked
from limbeck.data.batch import NO_LABEL
from limbeck.data.examples import Examples
from limbeck.data.task import Answered
from limbeck.data.tokenizers import TASK, loaded
from limbeck.data.vocabularies import compared
from limbeck.errors import PreflightError
from limbeck.evidence.language import bits_per_byte
from limbeck.regimes.plan import Plan
from limbeck.run.experiment import Experiment
from limbeck.run.tokenizers import ROWS, described, differences, endless, joined, texts_of
from limbeck.signals.capture import show
from limbeck.teachers.expense import Charged, Expense

_SAME: Final = 1e-4  # bits per byte: of the same model, in another arrangement
_FLOAT: Final = 4  # bytes
_CHUNK: Final = 2**22  # logits that are made at a time, of any vocabulary


@dataclass
class Told:
    """Pairs (what, finding) for a person, and warnings."""

    found: list[tuple[str, str]] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def tokens(experiment: Experiment, plan: Plan, trained_here: bool) -> Told:
    """The tokenizers of both sides, and the bits that a byte takes teacher and untrained student.

    ``trained_here``: the teacher knows nothing yet, so it is not asked.
    """
    told = Told()
    table = experiment.splits.train.table.texts
    if experiment.splits.task.gives != "tokens" or table is None:
        return told
    own = loaded(experiment.splits.reader.tokenizer)  # type: ignore[attr-defined]
    size = len(own.tokenizer)
    name = experiment.teacher_spec.tokenizer if experiment.teacher_spec is not None else None
    like = None
    if name is not None and name != TASK:
        few = [text for row in experiment.splits.train.rows[:ROWS].tolist() for text in texts_of(table.raw(row))]
        like = compared(own.tokenizer, loaded(name).tokenizer, few)
    told.found.append(("tokenizer", described(size, own.tokenizer, like)))
    if like is not None and like.alike:
        told.warnings += differences(like)
    told.warnings += endless(experiment.splits.train, own.tokenizer)
    told.warnings += joined(experiment.splits.train, own.tokenizer)
    teacher = plan.teacher
    if trained_here or teacher is None or not teacher.provides.unseen:
        return told
    validation = experiment.splits.validation
    few_rows = _few(validation)
    module = plan.start.module().to(plan.device)
    ours = _bits(
        asked(lambda batch: show(module, batch.columns("student"))["logits"], few_rows, plan.device),
        "untrained student",
    )
    theirs = _bits(answers_by(teacher, few_rows, plan.device), "teacher")
    text = f"{len(few_rows)} validation texts"
    told.found.append(
        ("bits per byte", f"{theirs:.3f} for the teacher and {ours:.3f} for the untrained student, on {text}")
    )
    if theirs >= ours - _SAME and abs(theirs - ours) > _SAME:
        told.warnings.append(
            f"On {text} a byte takes the teacher {theirs:.3f} bits and the untrained student {ours:.3f}: a teacher that foresees "
            "no better than the student has little to teach. Is it for texts of this language and kind?"
        )
    return told


def exact_bytes(experiment: Experiment, plan: Plan) -> int | None:
    """What the teacher's exact logits at every token to be foreseen would take in a store; None of other tasks."""
    if experiment.splits.task.gives != "tokens" or plan.teacher is None:
        return None
    train = experiment.splits.train.as_read_by("teacher")
    count = int((train.labels[train.rows][..., 0] != NO_LABEL).sum()) * max(1, len(plan.needed_views))
    config: Any = getattr(plan.teacher.module, "config", None)
    classes = plan.teacher.provides.classes or getattr(config, "vocab_size", None) or experiment.vocabulary
    return count * int(classes) * _FLOAT if classes else None


def logits_bytes(experiment: Experiment, plan: Plan) -> int:
    """What is made of the logits at a time: the student's, the teacher's, and their gradient; 0 of other tasks."""
    table = experiment.splits.train.table.texts
    if experiment.splits.task.gives != "tokens" or table is None:
        return 0
    every = plan.training.batch_size * table.reach("student").longest * (experiment.vocabulary or 1)
    return 3 * _FLOAT * min(every, _CHUNK)


def expense(experiment: Experiment) -> Told:
    """What a teacher would still cost that is paid for: all that it will be asked, less the answers that are kept.

    Raises:
        PreflightError: that is more than the limit leaves. Nothing was asked yet.
    """
    told, teacher, splits = Told(), experiment.teacher, experiment.splits
    if not isinstance(teacher, Charged):
        return told
    wanted = experiment.regime.core.wanted
    if wanted is not None:
        rows = [splits.train.table.raw(row) for row in splits.train.rows.tolist()]
        prompts = [one[0] for one in rows if not isinstance(one, str)]
        marked = any(term.needs().teacher for term in experiment.terms)
        most = teacher.writing(prompts, wanted, marked)
        told.found.append(
            (
                "served texts",
                f"after {len(rows):,} prompts, at most {most.input:,} tokens sent and {most.output:,} written"
                f"{' and marked' * (marked and teacher.provides.unseen)}: {_price(most)}; nothing is sent that might pass the "
                "limit",
            )
        )
        if most.beyond:
            told.warnings.append(
                f"The texts of the served teacher may take more than the limit leaves ({most.left}): then the run stops there, "
                "and what was paid for is kept. To be sure, raise teacher.served.limit, or lower data.limit or "
                "regime.max-new-tokens."
            )
    if not teacher.provides.unseen:
        return told
    parts = (splits.validation, splits.test) if wanted is not None else (splits.train, splits.validation, splits.test)
    found = teacher.marking(tokens for part in parts for tokens in _asked_about(part.as_read_by("teacher")))
    written = "; texts that 'augment' writes anew come on top" if experiment.views != 0 else ""
    spent = f"; {found.spent_money:.4g} spent so far" if found.priced and found.spent_money else ""
    told.found.append(
        (
            "served teacher",
            f"{found.requests:,} requests to come, {found.input:,} tokens sent and {found.output:,} written: "
            f"{_price(found)}{spent}{written}",
        )
    )
    if found.beyond:
        raise PreflightError(
            f"Asking the served teacher about all {found.requests:,} texts that are not answered yet sends {found.input:,} "
            f"tokens and costs {_price(found)}, and the limit leaves {found.left}. Nothing was asked. Raise "
            "teacher.served.limit, or lower data.limit, data.test or data.max-length."
        )
    return told


def _price(found: Expense) -> str:
    if found.priced:
        return f"{found.money:.4g} at the prices given"
    return "what that costs is not known: give teacher.served.prices"


def _asked_about(examples: Examples) -> Iterable[tuple[int, ...]]:
    for ids in torch.split(examples.rows, 256):
        columns = examples.table.read(ids, torch.zeros_like(ids))
        for own, mask in zip(columns["input_ids"], columns["attention_mask"].bool(), strict=True):
            yield tuple(own[mask].tolist())


def _few(examples: Examples) -> Examples:
    return replace(examples, rows=examples.rows[:ROWS])


def _bits(answered: Answered, who: str) -> float:
    nats, sizes = -answered.logits[:, 0].double(), answered.logits[:, 4].double()
    if not bool(torch.isfinite(nats).all()):
        raise PreflightError(
            f"The {who} gives NaN, or no probability at all, to some token of the validation part: look at its weights, and at "
            "the precision in which it runs."
        )
    return bits_per_byte([float(nats.sum())], [float(sizes.sum())])

"""What a preflight says of language models: tokenizers, who foresees better, what is stored, what a served teacher costs."""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any, Final

import torch

from limbeck.advice.preflight import answers_by
from limbeck.data.asked import asked
from limbeck.data.batch import NO_LABEL
from limbeck.data.examples import Examples
from limbeck.data.sequences import end_of
from limbeck.data.task import Answered
from limbeck.data.tokenizers import TASK, loaded
from limbeck.data.vocabularies import Likeness, compared
from limbeck.errors import PreflightError
from limbeck.evidence.language import bits_per_byte
from limbeck.regimes.plan import Plan
from limbeck.run.experiment import Experiment
from limbeck.signals.capture import show
from limbeck.teachers.served.teacher import Outstanding

ROWS: Final = 16  # texts that both are tried on
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
        few = [text for row in experiment.splits.train.rows[:ROWS].tolist() for text in _texts(table.raw(row))]
        like = compared(own.tokenizer, loaded(name).tokenizer, few)
    told.found.append(("tokenizer", _tokenizer(size, own.tokenizer, like)))
    if like is not None and like.alike:
        told.warnings += _differences(like)
    told.warnings += _endless(experiment.splits.train, own.tokenizer)
    told.warnings += _joined(experiment.splits.train, own.tokenizer)
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
    """What a served teacher would still cost: every text that it will be asked about, less the answers that are kept.

    Raises:
        PreflightError: that is more than the limit leaves. Nothing was asked yet.
    """
    told = Told()
    outstanding = getattr(experiment.teacher, "outstanding", None)
    if outstanding is None:
        return told
    splits = experiment.splits
    found: Outstanding = outstanding(
        tokens
        for part in (splits.train, splits.validation, splits.test)
        for tokens in _asked_about(part.as_read_by("teacher"))
    )
    written = "; texts that 'augment' writes anew come on top" if experiment.views != 0 else ""
    price = (
        f"{found.money:.4g} at the prices given"
        if found.priced
        else "what that costs is not known: give teacher.served.prices"
    )
    spent = f"; {found.spent_money:.4g} spent so far" if found.priced and found.spent_money else ""
    told.found.append(
        (
            "served teacher",
            f"{found.requests:,} requests to come, {found.input:,} tokens sent and {found.output:,} written: {price}{spent}"
            f"{written}",
        )
    )
    if found.beyond:
        raise PreflightError(
            f"Asking the served teacher about all {found.requests:,} texts that are not answered yet sends {found.input:,} "
            f"tokens and costs {price}, and the limit leaves {found.beyond}. Nothing was asked. Raise teacher.served.limit, or "
            "lower data.limit, data.test or data.max-length."
        )
    return told


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


def _texts(raw: Any) -> tuple[str, ...]:
    return (raw,) if isinstance(raw, str) else tuple(raw)


def _tokenizer(size: int, own: Any, like: Likeness | None) -> str:
    """The row of the table."""
    end, pad = own.eos_token_id if own.eos_token_id is not None else own.sep_token_id, own.pad_token_id
    ends = f"a text ends with {_named(own, end)}, padding is {_named(own, pad if pad is not None else end)}"
    if like is None:
        return f"{size:,} tokens; {ends}"
    if like.apart is not None:
        text, ours, theirs = like.apart
        shown = text if len(text) <= 24 else text[:24] + " …"
        return (
            f"two: {like.sizes[0]:,} tokens for the student and {like.sizes[1]:,} for the teacher; {shown!r} begins with "
            f"{_some(ours)} and with {_some(theirs)}"
        )
    sizes = f"{size:,} tokens" if len(set(like.sizes)) == 1 else f"{like.sizes[0]:,} tokens and {like.sizes[1]:,}"
    return f"the same ids for student and teacher on {like.asked:,} probes ({sizes}); {ends}"


def _differences(like: Likeness) -> list[str]:
    """Where two tokenizers that read a text alike do not agree."""
    found = []
    if like.chats is False:
        lacking = [who for who, there in zip(("student's", "teacher's"), like.templates, strict=True) if not there]
        found.append(
            (
                f"The {lacking[0]} tokenizer has no chat template and the other one has"
                if lacking
                else "Student and teacher write a chat by different templates"
            )
            + ": prompts and continuations are written as the student's tokenizer does, which the teacher may not be used to."
        )
    for what, (ours, theirs) in (("ends with", like.ends), ("begins with", like.begins)):
        if ours != theirs:
            found.append(
                f"To the student's tokenizer a text {what} token {ours}, to the teacher's {what} {theirs}: the student's is used "
                "for both, and the teacher may not know it there."
            )
    if like.renamed:
        found.append(
            f"{like.renamed:,} ids stand for other tokens in the two tokenizers, though none of the probes has any of them."
        )
    return found


def _endless(examples: Examples, tokenizer: Any) -> list[str]:
    """Whether the chat template closes answers by another token than the one at which writing stops."""
    table, end = examples.table.texts, end_of(tokenizer)
    if table is None or tokenizer.chat_template is None or not end or examples.task.reads != "sequences":
        return []
    reader: Any = examples.table.reader
    whole = table.lengths("student")[examples.rows] < reader.max_length
    rows = [row for row in examples.rows[whole][:ROWS].tolist() if not isinstance(table.raw(row), str)]
    last = [int(row[row != NO_LABEL][-1]) for row in examples.labels[rows][..., 0]]
    if not last or set(last) & set(end):
        return []
    said = "what was said"
    chat = [{"role": "user", "content": "?"}, {"role": "assistant", "content": said}]
    closed = str(tokenizer.apply_chat_template(chat, tokenize=False)).rpartition(said)[2]
    return [
        f"The chat template writes {closed!r} after an answer, and a text ends with {_named(tokenizer, end[0])}: no answer that "
        "is learnt holds the token at which writing stops, so what the student writes goes on to the limit. Name the template's "
        "own as 'eos_token' in tokenizer_config.json."
    ]


def _joined(examples: Examples, tokenizer: Any) -> list[str]:
    """Whether prompts run into their continuations: no chat template says where the one ends."""
    table = examples.table.texts
    if table is None or tokenizer.chat_template is not None or examples.task.reads != "sequences":
        return []
    pairs = [raw for row in examples.rows[:ROWS].tolist() if not isinstance(raw := table.raw(row), str)]
    joined = [pair for pair in pairs if pair[0][-1:].isalnum() and pair[1][:1].isalnum()]
    if not joined or len(joined) < len(pairs):  # one that goes on in the middle of a word may be meant
        return []
    shown = joined[0][0][-12:] + joined[0][1][:12]
    return [
        f"The tokenizer has no chat template, so a prompt runs on into its continuation: {shown!r}. "
        "End prompts with a space, a new line or a mark of your own, or give the tokenizer a template."
    ]


def _named(tokenizer: Any, token: int | None) -> str:
    return "none" if token is None else f"{token} {tokenizer.convert_ids_to_tokens(token)!r}"


def _some(ids: list[int]) -> str:
    return ", ".join(map(str, ids[:4])) + (", ..." if len(ids) > 4 else "")

"""What a preflight says of the tokenizers of language models, and of how they write prompts and answers."""

from typing import Any, Final

from limbeck.data.batch import NO_LABEL
from limbeck.data.examples import Examples
from limbeck.data.sequences import end_of
from limbeck.data.vocabularies import Likeness

ROWS: Final = 16  # texts that are looked at


def texts_of(raw: Any) -> tuple[str, ...]:
    """A row as texts: one, or a prompt and what follows it."""
    return (raw,) if isinstance(raw, str) else tuple(raw)


def described(size: int, own: Any, like: Likeness | None) -> str:
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


def differences(like: Likeness) -> list[str]:
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


def endless(examples: Examples, tokenizer: Any) -> list[str]:
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


def joined(examples: Examples, tokenizer: Any) -> list[str]:
    """Whether prompts run into their continuations: no chat template says where the one ends."""
    table = examples.table.texts
    if table is None or tokenizer.chat_template is not None or examples.task.reads != "sequences":
        return []
    pairs = [raw for row in examples.rows[:ROWS].tolist() if not isinstance(raw := table.raw(row), str)]
    run_on = [pair for pair in pairs if pair[0][-1:].isalnum() and pair[1][:1].isalnum()]
    if not run_on or len(run_on) < len(pairs):  # one that goes on in the middle of a word may be meant
        return []
    shown = run_on[0][0][-12:] + run_on[0][1][:12]
    return [
        f"The tokenizer has no chat template, so a prompt runs on into its continuation: {shown!r}. "
        "End prompts with a space, a new line or a mark of your own, or give the tokenizer a template."
    ]


def _named(tokenizer: Any, token: int | None) -> str:
    return "none" if token is None else f"{token} {tokenizer.convert_ids_to_tokens(token)!r}"


def _some(ids: list[int]) -> str:
    return ", ".join(map(str, ids[:4])) + (", ..." if len(ids) > 4 else "")

"""Errors that a user can act on; the command line prints them as one paragraph and exits with 2."""


class LimbeckError(Exception):
    """Anything that went wrong for a reason the user can mend. The message is one plain paragraph."""


class RecipeError(LimbeckError):
    """A recipe says something impossible: names file, line, field, what was found and what is allowed."""


class SettingError(RecipeError, ValueError):
    """The same of a setting that was given in Python: names the type, the setting, what was found and what is allowed."""


class DataError(LimbeckError):
    """The data cannot be read or cannot be learnt from."""


class SignalError(LimbeckError):
    """A model does not show what was asked of it."""


class PreflightError(LimbeckError):
    """The dry batch found something that would waste the run."""


class Busy(LimbeckError):
    """Another process holds the folder."""


class Interrupted(LimbeckError):
    """Training stopped cleanly at the user's wish; the same command goes on from there."""


_OTHERWISE = {
    **dict.fromkeys(("csv", "tsv", "json", "jsonl", "parquet", "excel", "pandas"), "table"),
    **dict.fromkeys(("classification", "class", "text-classification", "sentiment"), "classes"),
    **dict.fromkeys(("regression", "scores", "sts"), "numbers"),
    **dict.fromkeys(("ner", "token-classification", "pos"), "tags"),
    **dict.fromkeys(("qa", "squad", "question-answering"), "spans"),
    **dict.fromkeys(("embeddings", "sentence-embeddings", "similarity", "retrieval"), "vectors"),
    **dict.fromkeys(("lm", "causal-lm", "language-modeling", "text-generation"), "next-token"),
    **dict.fromkeys(("seq2seq", "summarization", "translation"), "text-to-text"),
    **dict.fromkeys(("kd", "logits", "hinton", "kl"), "soft-targets"),
    **dict.fromkeys(("ce", "cross-entropy"), "labels"),
    "word": "words",
}
"""What others call it: what is not spelt alike is not found by its letters."""


def nearest(name: str, known: "list[str]", count: int = 3) -> str:
    """A phrase suggesting the names most like ``name``: ``"did you mean 'a' or 'b'?"``, or ``""``."""
    from difflib import get_close_matches

    found = [_OTHERWISE[name.lower()]] if _OTHERWISE.get(name.lower()) in known else []
    found = found or get_close_matches(name, known, n=count, cutoff=0.4)
    return f"did you mean {' or '.join(repr(near) for near in found)}?" if found else ""

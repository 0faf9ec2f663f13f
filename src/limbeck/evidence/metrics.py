"""The metrics that a user may ask for by name."""

import warnings
from collections.abc import Callable, Sequence

import numpy as np
import torch

from limbeck.data.task import Task
from limbeck.data.vectors import ranks
from limbeck.errors import LimbeckError, nearest
from limbeck.evidence.exam import Exam, Floats

Metric = Callable[[Floats, Exam], float | None]  # (answers [M, C], what they are to) -> value


def softmax(logits: Floats) -> Floats:
    """Probabilities over the last axis, without overflow."""
    exponent: Floats = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return exponent / exponent.sum(axis=-1, keepdims=True)  # type: ignore[no-any-return]


def log_softmax(logits: Floats) -> Floats:
    """Log-probabilities over the last axis, exact where the probability itself underflows."""
    shifted = logits - logits.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))  # type: ignore[no-any-return]


def _f1(average: str) -> Metric:
    """Over classes; where the names are an example's answers, each yes or no, over those."""

    def value(logits: Floats, exam: Exam) -> float | None:
        from sklearn.metrics import f1_score

        truth, said = exam.labels, logits.argmax(1)
        if not exam.named:
            if exam.place is None:  # some labels are unknown, so the others have no column
                return None
            truth, said = truth.reshape(exam.examples, -1), said.reshape(exam.examples, -1)
        return float(f1_score(truth, said, average=average, zero_division=0.0))

    return value


def _balanced_accuracy(logits: Floats, exam: Exam) -> float:
    right = logits.argmax(1) == exam.labels
    return float(np.mean([right[exam.labels == one].mean() for one in np.unique(exam.labels)]))


def _mcc(logits: Floats, exam: Exam) -> float:
    from sklearn.metrics import matthews_corrcoef

    return float(matthews_corrcoef(exam.labels, logits.argmax(1)))


def _auroc(logits: Floats, exam: Exam) -> float | None:
    """Area under the ROC curve, each class against the rest, mean over classes; undefined if a class has no example."""
    from sklearn.metrics import roc_auc_score

    classes, labels = logits.shape[1], exam.labels
    if len(np.unique(labels)) < classes:
        return None
    probabilities = softmax(logits)
    if classes == 2:
        return float(roc_auc_score(labels, probabilities[:, 1]))
    return float(np.mean([roc_auc_score(labels == one, probabilities[:, one]) for one in range(classes)]))


def _top5(logits: Floats, exam: Exam) -> float:
    """Share of examples whose class is among the five largest logits; ties go to the lower class number."""
    best = np.argsort(-logits, axis=1, kind="stable")[:, :5]
    return float((best == exam.labels[:, None]).any(1).mean())


def _all_right(logits: Floats, exam: Exam) -> float:
    """Share of examples whose answers are all right."""
    return float((exam.mean_by_example(logits.argmax(1) == exam.labels) == 1).mean())


def entities(tags: Sequence[str]) -> set[tuple[int, int, str]]:
    """Entities of a text as (first word, last word, kind), by its tags ``O``, ``B-kind``, ``I-kind``, also ``E-``, ``S-``.

    What goes on without having begun, or as another kind, begins there, as conlleval and seqeval count.
    """
    found, first = set[tuple[int, int, str]](), 0
    before, kind_before = "O", ""
    for place, tag in enumerate((*tags, "O")):
        part, _, kind = tag.partition("-")
        goes_on = part in ("I", "E") and before in ("B", "I") and kind == kind_before
        if before != "O" and not goes_on:
            found.add((first, place - 1, kind_before))
        if not goes_on:
            first = place
        before, kind_before = part, kind
    return found


def _entity_f1(logits: Floats, exam: Exam) -> float | None:
    """F1 of whole entities, over all texts (Tjong Kim Sang and De Meulder, 2003); undefined if there are none."""
    assert exam.names is not None  # see `check_names`
    names = np.asarray(exam.names, dtype=object)
    cuts = np.flatnonzero(np.diff(exam.example)) + 1
    both = ours = theirs = 0
    for said, true in zip(*(np.split(names[one], cuts) for one in (logits.argmax(1), exam.labels)), strict=True):
        found, there = entities(said), entities(true)
        both, ours, theirs = both + len(found & there), ours + len(found), theirs + len(there)
    return 2 * both / (ours + theirs) if ours + theirs else None


def _correlation(which: str) -> Metric:
    """Mean over the outputs; undefined where one side is constant."""

    def value(answers: Floats, exam: Exam) -> float | None:
        from scipy import stats

        if min(np.ptp(answers, 0).min(), np.ptp(exam.labels, 0).min()) == 0:
            return None
        each = zip(answers.T, exam.labels.T, strict=True)
        return float(np.mean([getattr(stats, which)(ours, theirs)[0] for ours, theirs in each]))

    return value


def _mae(answers: Floats, exam: Exam) -> float:
    return float(np.abs(answers - exam.labels).mean())


def _rmse(answers: Floats, exam: Exam) -> float:
    return float(np.sqrt(np.square(answers - exam.labels).mean()))


def _recall(count: int) -> Metric:
    """The share of first texts whose own partner is among the nearest ``count``; equal ones stand in a random order."""

    def value(vectors: Floats, exam: Exam) -> float:
        nearer, equal = (one.double() for one in ranks(torch.from_numpy(vectors)))
        return float(((count - nearer) / equal).clamp(0, 1).mean())

    return value


def _bits_per_byte(answers: Floats, exam: Exam) -> float | None:
    """Of all texts together; what is kept of an answer is in `limbeck.data.language`."""
    size = float(answers[:, 4].sum())
    return float(-answers[:, 0].sum()) / np.log(2) / size if size else None


def _perplexity(answers: Floats, exam: Exam) -> float:
    """Of a token: models of different tokenizers cannot be compared by it."""
    return float(np.exp(-answers[:, 0].mean()))


METRICS: dict[str, Metric] = {
    "f1-macro": _f1("macro"),
    "f1-micro": _f1("micro"),
    "f1-weighted": _f1("weighted"),
    "balanced-accuracy": _balanced_accuracy,
    "mcc": _mcc,
    "auroc": _auroc,
    "top-5": _top5,
    "subset-accuracy": _all_right,
    "exact-match": _all_right,
    "entity-f1": _entity_f1,
    "pearson": _correlation("pearsonr"),
    "spearman": _correlation("spearmanr"),
    "mae": _mae,
    "rmse": _rmse,
    "recall-1": _recall(1),
    "recall-10": _recall(10),
    "bits-per-byte": _bits_per_byte,
    "perplexity": _perplexity,
}
TITLES: dict[str, str] = {
    "f1-macro": "F1, macro",
    "f1-micro": "F1, micro",
    "f1-weighted": "F1, weighted",
    "balanced-accuracy": "Balanced accuracy",
    "mcc": "Matthews correlation",
    "auroc": "AUROC",
    "top-5": "Top-5 accuracy",
    "subset-accuracy": "Subset accuracy",
    "exact-match": "Exact match",
    "entity-f1": "F1 of entities",
    "pearson": "Pearson correlation",
    "spearman": "Spearman correlation",
    "mae": "Mean absolute error",
    "rmse": "Root mean squared error",
    "recall-1": "Recall at 1",
    "recall-10": "Recall at 10",
    "bits-per-byte": "Bits per byte",
    "perplexity": "Perplexity",
}
"""For a person."""


def check_names(names: Sequence[str], task: Task, classes: Sequence[str]) -> None:
    """Cheap enough to call before training. ``classes``: the names of the model's outputs.

    Raises:
        LimbeckError: a metric does not exist for this task, or not for these tags.
    """
    for name in names:
        if name not in task.metrics:
            hint = nearest(name, sorted(task.metrics))
            known = f"No metric is called {name!r}" if name not in METRICS else f"{name!r} is no metric of {task.name}"
            raise LimbeckError(f"{known}{': ' + hint if hint else '.'} There are {', '.join(sorted(task.metrics))}.")
    strange = [tag for tag in classes if tag != "O" and tag[:2] not in ("B-", "I-", "E-", "S-")]
    if "entity-f1" in names and (strange or not classes):
        raise LimbeckError(
            f"entity-f1 needs tags that begin with B- and I- beside O, but there is {strange[0]!r}: leave it out, and ask "
            "for f1-macro, say."
            if strange
            else "entity-f1 needs the names of the tags."
        )


def measure(name: str, answers: Floats, exam: Exam) -> float | None:
    """One metric by name; None where these labels leave it undefined."""
    with warnings.catch_warnings():  # a class that is never predicted is a fact of the model, not a fault of the call
        warnings.simplefilter("ignore")
        value = METRICS[name](answers, exam)
    return None if value is None or not np.isfinite(value) else value

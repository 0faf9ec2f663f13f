"""How good predictions are: the task's score, accuracy, proper scores, calibration."""

from collections.abc import Sequence
from typing import Any, Final

import numpy as np

from limbeck.data.task import Task
from limbeck.data.tasks import CLASSES
from limbeck.errors import DataError
from limbeck.evidence.exam import Exam, Floats
from limbeck.evidence.metrics import check_names, log_softmax, measure
from limbeck.evidence.records import Bin, Quality

BINS = 15
NUMBERS: Final = ("score", "accuracy", "nll", "ece", "brier", "mse")


def reliability(confidence: Floats, right: Any) -> tuple[Bin, ...]:
    """Bins of top-1 confidence, each open on the left and closed on the right: (0, 1/15], ..., (14/15, 1]."""
    edges = np.arange(BINS + 1) / BINS
    index = np.clip(np.searchsorted(edges, confidence, side="left") - 1, 0, BINS - 1)
    count = np.bincount(index, minlength=BINS)
    confident = np.bincount(index, weights=confidence, minlength=BINS)
    correct = np.bincount(index, weights=np.asarray(right, dtype=np.float64), minlength=BINS)
    return tuple(
        Bin(
            low=float(edges[b]),
            high=float(edges[b + 1]),
            count=int(count[b]),
            confidence=float(confident[b] / count[b]) if count[b] else None,
            accuracy=float(correct[b] / count[b]) if count[b] else None,
        )
        for b in range(BINS)
    )


def expected_calibration_error(bins: Sequence[Bin]) -> float:
    """``sum n_b / n |accuracy_b - confidence_b|`` (Naeini et al., AAAI 2015); biased upwards on few examples."""
    total = sum(one.count for one in bins)
    return sum(one.count / total * abs((one.accuracy or 0.0) - (one.confidence or 0.0)) for one in bins if one.count)


def quality(
    logits: Any,
    labels: Any,
    metrics: Sequence[str] = (),
    classes: Sequence[str] | None = None,
    what: str = "Predictions",
    task: Task = CLASSES,
    example: Any | None = None,
) -> Quality:
    """The quality of the answers ``logits`` [M, C] for the true ``labels`` [M] (of numbers [M, d]), in float64.

    The top-1 answer is the first maximum. ``metrics``: names of further metrics (`limbeck.evidence.metrics.METRICS`).
    ``classes``: the names of the model's outputs; default: numbers. ``example``: [M], whose answer each is, ascending;
    default: one each.

    Raises:
        LimbeckError: a metric that does not exist for this task. DataError: see `Exam.checked`.
    """
    return judged(Exam.of(labels, classes, task, example), logits, metrics, what)


def judged(exam: Exam, logits: Any, metrics: Sequence[str] = (), what: str = "Predictions") -> Quality:
    """The same of an exam."""
    check_names(metrics, exam.task, exam.names or ())
    z = exam.checked(logits, what)
    common: dict[str, Any] = {
        "examples": exam.examples,
        "measure": exam.measure,
        "score": float(exam.scores(logits).mean()),
        "answers": None if exam.task.gives == "vectors" else len(z),
        "metrics": {name: measure(name, z, exam) for name in metrics},
    }
    if exam.task.gives == "numbers":
        mse = float(np.square(z - exam.labels).mean())
        return Quality(**common, accuracy=None, nll=None, ece=None, brier=None, mse=mse)
    if exam.task.gives == "vectors":
        return Quality(**common, accuracy=None, nll=None, ece=None, brier=None)
    if exam.task.gives == "tokens":
        bins = reliability(np.clip(z[:, 2], 0, 1), z[:, 1])
        return Quality(
            **common,
            accuracy=float(z[:, 1].mean()),
            nll=float(-z[:, 0].mean()),
            ece=expected_calibration_error(bins),
            brier=None,
            reliability=bins,
        )
    y, rows = exam.labels, np.arange(len(z))
    log_p = log_softmax(z)
    p = np.exp(log_p)
    right = z.argmax(1) == y
    bins = reliability(p.max(1), right)
    return Quality(
        **common,
        accuracy=float(right.mean()),
        nll=float(-log_p[rows, y].mean()),
        ece=expected_calibration_error(bins),
        brier=float((np.square(p).sum(1) - 2 * p[rows, y] + 1).mean()),
        per_class=_by_name(exam, right, z.shape[1], what),
        reliability=bins,
    )


def _by_name(exam: Exam, right: Any, width: int, what: str) -> dict[str, float | None]:
    """Accuracy by the names of the model's outputs: of true classes, or of an example's answers."""
    place = exam.labels if exam.named else exam.place
    if place is None or (exam.names is None and not exam.named):
        return {}
    count = np.bincount(place, minlength=width if exam.named else 0)
    names = [str(one) for one in range(len(count))] if exam.names is None else list(exam.names)
    if len(names) != len(count):
        raise DataError(
            f"{what} have {len(count)} {exam.task.outputs or 'outputs'}, but {len(names)} names of them are given."
        )
    # Two classes may bear one name; a mapping must keep both.
    keys = names if len(set(names)) == len(names) else [f"{number} {name}" for number, name in enumerate(names)]
    hits = np.bincount(place, weights=right.astype(np.float64), minlength=len(count))
    return {key: float(hits[c] / count[c]) if count[c] else None for c, key in enumerate(keys)}


def mean_quality(several: Sequence[Quality]) -> tuple[Quality, dict[str, float | None]]:
    """The mean over seeds, and the sample standard deviations (None with one seed). Bins are pooled, not averaged."""

    def mean(values: Sequence[float | None]) -> float | None:
        known = [value for value in values if value is not None]
        return float(np.mean(known)) if len(known) == len(values) else None

    def spread(values: Sequence[float | None]) -> float | None:
        known = [value for value in values if value is not None]
        return float(np.std(known, ddof=1)) if len(known) == len(values) > 1 else None

    def pool(parts: Sequence[Bin]) -> Bin:
        count = sum(one.count for one in parts)

        def share(values: Sequence[float | None]) -> float | None:
            weighted = zip(values, parts, strict=True)
            return sum((value or 0.0) * one.count for value, one in weighted) / count if count else None

        confidence, accuracy = share([one.confidence for one in parts]), share([one.accuracy for one in parts])
        return Bin(low=parts[0].low, high=parts[0].high, count=count, confidence=confidence, accuracy=accuracy)

    first = several[0]
    columns: dict[str, list[float | None]] = {name: [getattr(one, name) for one in several] for name in NUMBERS}
    columns = {name: values for name, values in columns.items() if any(value is not None for value in values)}
    extra: dict[str, list[float | None]] = {name: [one.metrics[name] for one in several] for name in first.metrics}
    average = first.model_copy(
        update={
            **{name: mean(values) for name, values in columns.items()},
            "metrics": {name: mean(values) for name, values in extra.items()},
            "per_class": {name: mean([one.per_class[name] for one in several]) for name in first.per_class},
            "reliability": tuple(map(pool, zip(*(one.reliability for one in several), strict=True))),
        }
    )
    return average, {name: spread(values) for name, values in (columns | extra).items()}

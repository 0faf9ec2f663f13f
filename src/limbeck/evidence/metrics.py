"""The metrics that a user may ask for by name."""

import warnings
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from limbeck.errors import LimbeckError, nearest

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Metric = Callable[[Floats, Ints], float | None]  # (logits [N, C], labels [N]) -> value


def softmax(logits: Floats) -> Floats:
    """Probabilities over the last axis, without overflow."""
    exponent: Floats = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return exponent / exponent.sum(axis=-1, keepdims=True)  # type: ignore[no-any-return]


def log_softmax(logits: Floats) -> Floats:
    """Log-probabilities over the last axis, exact where the probability itself underflows."""
    shifted = logits - logits.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))  # type: ignore[no-any-return]


def _f1(average: str) -> Metric:
    def value(logits: Floats, labels: Ints) -> float:
        from sklearn.metrics import f1_score

        return float(f1_score(labels, logits.argmax(1), average=average, zero_division=0.0))

    return value


def _balanced_accuracy(logits: Floats, labels: Ints) -> float:
    right = logits.argmax(1) == labels
    return float(np.mean([right[labels == one].mean() for one in np.unique(labels)]))


def _mcc(logits: Floats, labels: Ints) -> float:
    from sklearn.metrics import matthews_corrcoef

    return float(matthews_corrcoef(labels, logits.argmax(1)))


def _auroc(logits: Floats, labels: Ints) -> float | None:
    """Area under the ROC curve, each class against the rest, mean over classes; undefined if a class has no example."""
    from sklearn.metrics import roc_auc_score

    classes = logits.shape[1]
    if len(np.unique(labels)) < classes:
        return None
    probabilities = softmax(logits)
    if classes == 2:
        return float(roc_auc_score(labels, probabilities[:, 1]))
    return float(np.mean([roc_auc_score(labels == one, probabilities[:, one]) for one in range(classes)]))


def _top5(logits: Floats, labels: Ints) -> float:
    """Share of examples whose class is among the five largest logits; ties go to the lower class number."""
    best = np.argsort(-logits, axis=1, kind="stable")[:, :5]
    return float((best == labels[:, None]).any(1).mean())


METRICS: dict[str, Metric] = {
    "f1-macro": _f1("macro"),
    "f1-weighted": _f1("weighted"),
    "balanced-accuracy": _balanced_accuracy,
    "mcc": _mcc,
    "auroc": _auroc,
    "top-5": _top5,
}


def check_names(names: "tuple[str, ...] | list[str]") -> None:
    """Raises a `LimbeckError` naming the first metric that does not exist; cheap enough to call before training."""
    for name in names:
        if name not in METRICS:
            hint = nearest(name, sorted(METRICS))
            raise LimbeckError(
                f"No metric is called {name!r}{': ' + hint if hint else '.'} There are {', '.join(sorted(METRICS))}."
            )


def measure(name: str, logits: Floats, labels: Ints) -> float | None:
    """One metric by name; None where these labels leave it undefined."""
    check_names([name])
    with warnings.catch_warnings():  # a class that is never predicted is a fact of the model, not a fault of the call
        warnings.simplefilter("ignore")
        value = METRICS[name](logits, labels)
    return None if value is None or not np.isfinite(value) else value

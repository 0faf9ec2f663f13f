"""How good predictions are: accuracy, proper scores, calibration."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from limbeck.errors import DataError
from limbeck.evidence.metrics import Floats, Ints, check_names, log_softmax, measure
from limbeck.evidence.schema import Bin, Quality

BINS = 15


def checked(logits: Any, labels: Any, what: str = "The predictions") -> tuple[Floats, Ints]:
    """Logits as float64 [N, C] and labels as int64 [N].

    Raises:
        DataError: shapes that do not fit, logits that are not finite, or labels outside 0..C-1.
    """
    z, y = np.asarray(logits, dtype=np.float64), np.asarray(labels)
    if z.ndim != 2 or y.ndim != 1 or len(z) != len(y) or not len(y) or z.shape[1] < 2:
        raise DataError(
            f"{what} have shape {list(z.shape)} and the labels {list(y.shape)}: expected [N, C] and [N] with C >= 2."
        )
    if not np.isfinite(z).all():
        bad = int((~np.isfinite(z)).any(1).sum())
        raise DataError(f"{what} are not finite for {bad} of {len(z)} test examples: the training diverged.")
    if not np.issubdtype(y.dtype, np.integer) or y.min() < 0 or y.max() >= z.shape[1]:
        raise DataError(f"The test labels must be whole numbers from 0 to {z.shape[1] - 1}, every example labelled.")
    return z, y.astype(np.int64)


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
) -> Quality:
    """The quality of ``logits`` [N, C] for the true ``labels`` [N], in float64; the top-1 answer is the first maximum.

    ``metrics``: names of further metrics (`limbeck.evidence.metrics.METRICS`). ``classes``: C names; default: numbers.

    Raises:
        LimbeckError: a metric that does not exist. DataError: see `checked`.
    """
    check_names(list(metrics))
    z, y = checked(logits, labels, what)
    rows, width = z.shape
    log_p = log_softmax(z)
    p = np.exp(log_p)
    right = z.argmax(1) == y
    bins = reliability(p.max(1), right)
    names = [str(one) for one in range(width)] if classes is None else list(classes)
    if len(names) != width:
        raise DataError(f"{what} have {width} classes, but {len(names)} class names are given.")
    # Two classes may bear one name; a mapping must keep both.
    keys = names if len(set(names)) == width else [f"{number} {name}" for number, name in enumerate(names)]
    count = np.bincount(y, minlength=width)
    hits = np.bincount(y, weights=right.astype(np.float64), minlength=width)
    return Quality(
        examples=rows,
        accuracy=float(right.mean()),
        nll=float(-log_p[np.arange(rows), y].mean()),
        ece=expected_calibration_error(bins),
        brier=float((np.square(p).sum(1) - 2 * p[np.arange(rows), y] + 1).mean()),
        metrics={name: measure(name, z, y) for name in metrics},
        per_class={key: float(hits[c] / count[c]) if count[c] else None for c, key in enumerate(keys)},
        reliability=bins,
    )


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
    columns: dict[str, list[float | None]] = {
        name: [getattr(one, name) for one in several] for name in ("accuracy", "nll", "ece", "brier")
    }
    extra: dict[str, list[float | None]] = {name: [one.metrics[name] for one in several] for name in first.metrics}
    averages = {name: mean(values) for name, values in columns.items()}
    average = Quality(
        examples=first.examples,
        accuracy=averages["accuracy"] or 0.0,
        nll=averages["nll"] or 0.0,
        ece=averages["ece"] or 0.0,
        brier=averages["brier"] or 0.0,
        metrics={name: mean(values) for name, values in extra.items()},
        per_class={name: mean([one.per_class[name] for one in several]) for name in first.per_class},
        reliability=tuple(map(pool, zip(*(one.reliability for one in several), strict=True))),
    )
    return average, {name: spread(values) for name, values in (columns | extra).items()}

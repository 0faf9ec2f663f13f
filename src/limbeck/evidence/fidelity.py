"""How much a student behaves like its teacher; low fidelity may coexist with high accuracy (Stanton et al., 2021)."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from limbeck.evidence.metrics import Floats, Ints, log_softmax, softmax
from limbeck.evidence.quality import checked
from limbeck.evidence.schema import Fidelity, Relations

SHOWN_CLASSES = 50  # above this the matrices are no picture but a burden to the file
ENOUGH = 20  # examples a class, below which a mean prediction is mostly noise


def kl(p_log: Floats, q_log: Floats) -> Floats:
    """KL(p || q) in nats from log-probabilities [..., C], one value an example; 0 log 0 = 0."""
    return (np.exp(p_log) * (p_log - q_log)).sum(-1)  # type: ignore[no-any-return]


def jensen_shannon(p_log: Floats, q_log: Floats) -> Floats:
    """Half the KL of each side to the mixture, nats, in [0, ln 2]."""
    mixture = np.logaddexp(p_log, q_log) - np.log(2)
    return np.clip((kl(p_log, mixture) + kl(q_log, mixture)) / 2, 0, np.log(2))


def relation_matrix(logits: Floats, labels: Ints) -> Floats:
    """Cosines [C, C] between the log-centred mean predictions of the classes.

    Row k of the mean is over the examples whose true class is k. Centred logs are (nearly) blind to temperature.
    """
    p, width = softmax(logits), logits.shape[1]
    mean = np.stack([p[labels == one].mean(0) for one in range(width)])
    u = np.log(mean + 1e-12)
    u = u - u.mean(1, keepdims=True)
    norm = np.linalg.norm(u, axis=1, keepdims=True)
    u = u / np.where(norm > 1e-9, norm, 1.0)  # a flat prediction is like nothing: cosine 0
    return np.clip(u @ u.T, -1, 1)  # type: ignore[no-any-return]


def relations(teacher: Floats, student: Floats, labels: Ints) -> Relations:
    """Class-relation preservation: correlation of the upper triangles of both `relation_matrix`, in [-1, 1]."""
    from scipy.stats import pearsonr, spearmanr

    width = teacher.shape[1]
    fewest = int(np.bincount(labels, minlength=width).min())
    if fewest == 0:
        return Relations(pearson=None, spearman=None, reason="some class has no test example")
    s_t, s_s = relation_matrix(teacher, labels), relation_matrix(student, labels)
    shown = width <= SHOWN_CLASSES
    picture: dict[str, Any] = {
        "teacher": tuple(tuple(row) for row in s_t.round(4).tolist()) if shown else None,
        "student": tuple(tuple(row) for row in s_s.round(4).tolist()) if shown else None,
    }

    def silent(reason: str) -> Relations:
        return Relations(pearson=None, spearman=None, reason=reason, **picture)

    if width < 4:
        return silent(f"{width} classes have too few pairs to correlate; at least 4 are needed")
    if fewest < ENOUGH:
        return silent(f"some class has only {fewest} test examples; at least {ENOUGH} are needed")
    upper = np.triu_indices(width, 1)
    a, b = s_t[upper], s_s[upper]
    for who, values in (("teacher", a), ("student", b)):
        if np.ptp(values) < 1e-9:
            return silent(f"the {who} finds all pairs of classes equally alike")
    return Relations(pearson=float(pearsonr(a, b)[0]), spearman=float(spearmanr(a, b)[0]), **picture)


def fidelity(teacher: Any, student: Any, labels: Any, shown: int = 8) -> Fidelity:
    """Fidelity of ``student`` logits [N, C] to ``teacher`` logits [N, C], for the true ``labels`` [N].

    ``shown``: how many test positions to name where both disagree most: by Jensen-Shannon among those with different
    top-1 answers.

    Raises:
        DataError: shapes that do not fit, or values that are not finite.
    """
    t, y = checked(teacher, labels, "The teacher's predictions")
    s, _ = checked(student, labels, "The student's predictions")
    if t.shape != s.shape:
        from limbeck.errors import DataError

        raise DataError(f"The teacher answers with {t.shape[1]} classes and the student with {s.shape[1]}.")
    t_log, s_log = log_softmax(t), log_softmax(s)
    same = t.argmax(1) == s.argmax(1)
    wrong = t.argmax(1) != y
    js = jensen_shannon(t_log, s_log)
    differ = np.flatnonzero(~same)
    worst = differ[np.argsort(-js[differ], kind="stable")][:shown]
    return Fidelity(
        agreement=float(same.mean()),
        agreement_where_teacher_wrong=float(same[wrong].mean()) if wrong.any() else None,
        teacher_wrong=int(wrong.sum()),
        kl=max(0.0, float(kl(t_log, s_log).mean())),  # rounding may leave -1e-17
        js=float(js.mean()),
        relations=relations(t, s, y),
        disagreements=tuple(int(one) for one in worst),
    )


def mean_fidelity(several: Sequence[Fidelity]) -> Fidelity:
    """The mean over seeds; the pictures and the disagreements are the first seed's."""
    first = several[0]

    def mean(values: Sequence[float | None]) -> float | None:
        return None if any(value is None for value in values) else float(np.mean([value or 0.0 for value in values]))

    pearson = mean([one.relations.pearson for one in several])
    spearman = mean([one.relations.spearman for one in several])
    reason = next((one.relations.reason for one in several if one.relations.reason), None)
    return first.model_copy(
        update={
            "agreement": float(np.mean([one.agreement for one in several])),
            "agreement_where_teacher_wrong": mean([one.agreement_where_teacher_wrong for one in several]),
            "kl": float(np.mean([one.kl for one in several])),
            "js": float(np.mean([one.js for one in several])),
            "relations": first.relations.model_copy(
                update={"pearson": pearson, "spearman": spearman, "reason": reason}
            ),
        }
    )

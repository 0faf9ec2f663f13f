"""How much a student behaves like its teacher; low fidelity may coexist with high accuracy (Stanton et al., 2021)."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from limbeck.data.task import Task
from limbeck.data.tasks import CLASSES
from limbeck.data.vectors import pairs
from limbeck.errors import DataError
from limbeck.evidence.exam import Exam, Floats, Ints
from limbeck.evidence.metrics import log_softmax, softmax
from limbeck.evidence.records import Fidelity, Relations

SHOWN_CLASSES = 50  # above this the matrices are no picture but a burden to the file
COMPARED = 1000  # pairs of texts whose vectors are compared with each other
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


def fidelity(
    teacher: Any, student: Any, labels: Any, shown: int = 8, task: Task = CLASSES, example: Any | None = None
) -> Fidelity:
    """Fidelity of ``student`` logits [M, C] to ``teacher`` logits [M, C], for the true ``labels`` [M] (of numbers [M, d]).

    ``shown``: how many test positions to name where both disagree most: by Jensen-Shannon (of numbers by the squared
    difference) among those with different top-1 answers; of vectors none. ``example``: see `limbeck.evidence.quality.quality`.

    Raises:
        DataError: shapes that do not fit, or values that are not finite.
    """
    return likeness(Exam.of(labels, None, task, example), teacher, student, shown)


def likeness(exam: Exam, teacher: Any, student: Any, shown: int = 8) -> Fidelity:
    """The same of an exam."""
    t = exam.checked(teacher, "The teacher's predictions")
    s = exam.checked(student, "The student's predictions")
    if exam.task.gives == "vectors":
        return _of_vectors(t, s)
    if exam.task.gives == "tokens":
        return _of_tokens(t, s)
    if t.shape != s.shape:
        raise DataError(f"The teacher answers with {t.shape[1]} classes and the student with {s.shape[1]}.")
    if exam.task.gives == "numbers":
        return _of_numbers(exam, t, s, shown)
    t_log, s_log = log_softmax(t), log_softmax(s)
    same = t.argmax(1) == s.argmax(1)
    wrong = t.argmax(1) != exam.labels
    js = jensen_shannon(t_log, s_log)
    return Fidelity(
        agreement=float(same.mean()),
        agreement_where_teacher_wrong=float(same[wrong].mean()) if wrong.any() else None,
        teacher_wrong=int(wrong.sum()),
        kl=max(0.0, float(kl(t_log, s_log).mean())),  # rounding may leave -1e-17
        js=float(js.mean()),
        relations=relations(t, s, exam.labels) if exam.named and not exam.task.heads else None,
        disagreements=_worst(exam, js, ~same, shown),
    )


def _of_numbers(exam: Exam, t: Floats, s: Floats, shown: int) -> Fidelity:
    apart, constant = np.square(t - s).mean(1), min(np.ptp(t, 0).min(), np.ptp(s, 0).min()) == 0
    each = [float(np.corrcoef(t[:, one], s[:, one])[0, 1]) for one in range(0 if constant else t.shape[1])]
    return Fidelity(
        agreement=None,
        agreement_where_teacher_wrong=None,
        teacher_wrong=None,
        kl=None,
        js=None,
        squared_difference=float(apart.mean()),
        correlation=float(np.mean(each)) if each else None,
        relations=None,
        disagreements=_worst(exam, apart, apart > 0, shown),
    )


def _of_tokens(t: Floats, s: Floats) -> Fidelity:
    """What is kept of an answer has the likeliest token, and how likely the right one was; see `limbeck.data.language`."""
    same, wrong = t[:, 3] == s[:, 3], t[:, 1] == 0
    return Fidelity(
        agreement=float(same.mean()),
        agreement_where_teacher_wrong=float(same[wrong].mean()) if wrong.any() else None,
        teacher_wrong=int(wrong.sum()),
        kl=max(0.0, float(s[:, 5].mean())) if s.shape[1] > 5 else None,  # the whole distributions are not kept
        js=None,
        relations=None,
        disagreements=(),
    )


def _of_vectors(t: Floats, s: Floats) -> Fidelity:
    """Widths may differ, so what is compared is how near each first text finds each second one."""
    sides = [pairs(torch.from_numpy(one[: 2 * COMPARED])) for one in (t, s)]
    near = [(first @ second.T).numpy() for first, second in sides]
    constant = min(float(np.ptp(one)) for one in near) < 1e-9
    return Fidelity(
        agreement=None,
        agreement_where_teacher_wrong=None,
        teacher_wrong=None,
        kl=None,
        js=None,
        correlation=None if constant else float(np.corrcoef(near[0].ravel(), near[1].ravel())[0, 1]),
        relations=None,
        disagreements=(),
    )


def _worst(exam: Exam, apart: Floats, differ: Any, shown: int) -> tuple[int, ...]:
    """The examples with answers that ``differ`` [M] whose answers are most ``apart`` [M], on their mean; the worst first."""
    some, far = np.flatnonzero(exam.mean_by_example(differ)), exam.mean_by_example(apart)
    return tuple(int(one) for one in some[np.argsort(-far[some], kind="stable")][:shown])


def mean_fidelity(several: Sequence[Fidelity]) -> Fidelity:
    """The mean over seeds; the pictures and the disagreements are the first seed's."""
    first = several[0]

    def mean(values: Sequence[float | None]) -> float | None:
        return None if any(value is None for value in values) else float(np.mean([value or 0.0 for value in values]))

    names = ("agreement", "agreement_where_teacher_wrong", "kl", "js", "squared_difference", "correlation")
    update: dict[str, Any] = {name: mean([getattr(one, name) for one in several]) for name in names}
    each = [one.relations for one in several if one.relations is not None]
    if each:
        update["relations"] = each[0].model_copy(
            update={
                "pearson": mean([one.pearson for one in each]),
                "spearman": mean([one.spearman for one in each]),
                "reason": next((one.reason for one in each if one.reason), None),
            }
        )
    return first.model_copy(update=update)

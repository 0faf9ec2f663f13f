"""Scores and metrics of every task against independent forms: scikit-learn, SciPy, and counting by hand."""

import math

import numpy as np
import pytest
from scipy import stats
from sklearn import metrics as sk
from tests.fakes.worlds import world

from limbeck.data.tasks import MultiLabel, Numbers, Spans, Tags
from limbeck.evidence.exam import Exam
from limbeck.evidence.fidelity import fidelity
from limbeck.evidence.metrics import entities
from limbeck.evidence.quality import quality


def judged(one, logits, *names):
    return quality(logits, one.labels, names, one.names, task=one.task, example=one.example)


def test_multi_label_is_sklearns():
    one = world(MultiLabel(), examples=150)
    logits = one.arms.control.logits[0]
    said, true = (each.reshape(150, 5) for each in (logits.argmax(1), one.labels))
    assert (true.sum(1) == 0).any()
    found = judged(one, logits, "f1-micro", "f1-macro", "subset-accuracy")
    assert found.score == pytest.approx(sk.f1_score(true, said, average="samples", zero_division=1.0))
    assert found.metrics["f1-micro"] == pytest.approx(sk.f1_score(true, said, average="micro"))
    assert found.metrics["f1-macro"] == pytest.approx(sk.f1_score(true, said, average="macro"))
    assert found.metrics["subset-accuracy"] == pytest.approx(sk.accuracy_score(true, said))
    assert found.accuracy == pytest.approx(1 - sk.hamming_loss(true, said))
    p = 1 / (1 + np.exp(-(logits[:, 1] - logits[:, 0]).astype(np.float64)))
    assert found.nll == pytest.approx(sk.log_loss(one.labels, p), rel=1e-6)
    assert found.brier == pytest.approx(2 * np.square(p - one.labels).mean()), "over both choices, no and yes"
    for place, name in enumerate(one.names):
        assert found.per_class[name] == pytest.approx((said == true)[:, place].mean())


def test_no_label_where_there_is_none_is_perfect_and_one_too_many_is_worth_nothing():
    exam = Exam.of([0, 0, 0, 0, 1, 1, 1, 0], None, MultiLabel(), [0, 0, 1, 1, 2, 2, 3, 3])
    said = np.eye(2)[[0, 0, 1, 0, 1, 0, 0, 1]]
    assert exam.scores(said) == pytest.approx([1, 0, 2 / 3, 0])


@pytest.mark.parametrize("outputs", [1, 3])
def test_numbers_are_sklearns(outputs):
    generator = np.random.default_rng(outputs)
    labels = generator.normal(2, 3, (200, outputs))
    answers = labels + generator.normal(0, 1.5, (200, outputs))
    found = quality(answers, labels, ("pearson", "spearman", "mae", "rmse"), task=Numbers())
    # the spread is of all outputs together, so that several are weighed by their variance
    assert found.score == pytest.approx(sk.r2_score(labels, answers, multioutput="variance_weighted"))
    if outputs == 1:
        assert found.score == pytest.approx(sk.r2_score(labels, answers))
    assert found.mse == pytest.approx(sk.mean_squared_error(labels, answers))
    assert found.metrics["mae"] == pytest.approx(sk.mean_absolute_error(labels, answers))
    assert found.metrics["rmse"] == pytest.approx(math.sqrt(sk.mean_squared_error(labels, answers)))
    for name, law in (("pearson", stats.pearsonr), ("spearman", stats.spearmanr)):
        each = [law(answers[:, one], labels[:, one])[0] for one in range(outputs)]
        assert found.metrics[name] == pytest.approx(np.mean(each))
    assert quality(answers * 0, labels, ("pearson",), task=Numbers()).metrics["pearson"] is None


def test_likeness_of_numbers_by_hand():
    teacher, student = np.array([[1.0], [2.0], [4.0]]), np.array([[1.5], [2.0], [3.0]])
    found = fidelity(teacher, student, np.array([[0.0], [1.0], [2.0]]), task=Numbers())
    assert found.squared_difference == pytest.approx((0.25 + 0 + 1) / 3)
    assert found.correlation == pytest.approx(stats.pearsonr(teacher[:, 0], student[:, 0])[0])
    assert found.disagreements == (2, 0), "the farthest first, and none where they agree"
    assert (found.agreement, found.kl, found.js, found.relations) == (None, None, None, None)


def words(first, last):
    return [] if last < first else list(range(first, last + 1))


def squad_f1(said, true):
    """As the official script counts: tokens in both, of those said and of those true."""
    ours, theirs = words(*said), words(*true)
    both = len(set(ours) & set(theirs))
    return 0.0 if both == 0 else 2 * both / (len(ours) + len(theirs))


def test_spans_are_counted_token_by_token():
    generator = np.random.default_rng(3)
    true = np.stack([first := generator.integers(1, 20, 300), first + generator.integers(0, 5, 300)], 1)
    said = np.stack([first + generator.integers(-2, 3, 300), first + generator.integers(-2, 6, 300)], 1).clip(0, 31)
    true[:20], said[:10] = 0, 0  # without an answer; ten of them are found to have none
    assert (said[:, 1] < said[:, 0]).any()
    exam = Exam.of(true.reshape(-1), None, Spans(), np.repeat(np.arange(300), 2))
    logits = np.eye(32)[said.reshape(-1)]
    expected = [squad_f1(*pair) for pair in zip(said, true, strict=True)]
    assert exam.scores(logits) == pytest.approx(expected)
    found = quality(logits, exam.labels, ("exact-match",), ("first", "last"), task=Spans(), example=exam.example)
    assert found.metrics["exact-match"] == pytest.approx((said == true).all(1).mean())
    assert found.per_class == pytest.approx({"first": (said == true)[:, 0].mean(), "last": (said == true)[:, 1].mean()})


@pytest.mark.parametrize(
    ("tags", "expected"),
    [
        ("O O", set()),
        ("B-PER I-PER O B-LOC", {(0, 1, "PER"), (3, 3, "LOC")}),
        ("B-PER B-PER I-PER", {(0, 0, "PER"), (1, 2, "PER")}),
        ("I-PER I-PER O I-LOC", {(0, 1, "PER"), (3, 3, "LOC")}),  # begins without B
        ("B-PER I-LOC I-LOC", {(0, 0, "PER"), (1, 2, "LOC")}),  # goes on as another kind
        ("O B-PER I-PER I-PER", {(1, 3, "PER")}),  # up to the end of the text
        ("S-PER B-LOC I-LOC E-LOC S-LOC", {(0, 0, "PER"), (1, 3, "LOC"), (4, 4, "LOC")}),
        ("B-LOC E-LOC I-LOC", {(0, 1, "LOC"), (2, 2, "LOC")}),  # ended, so this is a new one
        ("B-a-b I-a-b", {(0, 1, "a-b")}),
        ("I I B", {(0, 1, ""), (2, 2, "")}),
    ],
)
def test_entities_by_hand(tags, expected):
    assert entities(tags.split()) == expected


def test_entity_f1_by_hand():
    names = ("O", "B-PER", "I-PER", "B-LOC", "I-LOC")
    true = ["B-PER I-PER O B-LOC", "O B-LOC I-LOC", "O O"]
    said = ["B-PER I-PER O B-PER", "O B-LOC O", "O B-LOC"]
    # said 4 entities, true 3, both 1: the person of the first text, whole and of its kind
    labels, answers = (np.array([names.index(tag) for text in side for tag in text.split()]) for side in (true, said))
    example = np.repeat([0, 1, 2], [4, 3, 2])
    found = quality(np.eye(5)[answers], labels, ("entity-f1", "f1-macro"), names, task=Tags(), example=example)
    assert found.metrics["entity-f1"] == pytest.approx(2 * 1 / (4 + 3))
    assert found.metrics["f1-macro"] == pytest.approx(sk.f1_score(labels, answers, average="macro", zero_division=0))
    assert found.score == pytest.approx((3 / 4 + 2 / 3 + 1 / 2) / 3), "each text counts the same"
    assert found.accuracy == pytest.approx(6 / 9), "each word counts the same"
    nothing = quality(np.eye(5)[labels * 0], labels * 0, ("entity-f1",), names, task=Tags(), example=example)
    assert nothing.metrics["entity-f1"] is None
    joined = quality(np.eye(5)[[1, 2]], [1, 2], ("entity-f1",), names, task=Tags(), example=[0, 1])
    assert joined.metrics["entity-f1"] == 1, "an entity does not go on in the next text"
    apart = quality(np.eye(5)[[1, 1]], [1, 2], ("entity-f1",), names, task=Tags(), example=[0, 1])
    assert apart.metrics["entity-f1"] == 1, "what begins a text begins an entity"


def test_likeness_counts_answers_and_names_examples():
    one = world(Tags(), examples=50)
    teacher, student = one.arms.teacher.logits[0], one.arms.control.logits[0]
    found = fidelity(teacher, student, one.labels, shown=50, task=Tags(), example=one.example)
    same = teacher.argmax(1) == student.argmax(1)
    assert found.agreement == pytest.approx(same.mean())
    assert set(found.disagreements) == set(one.example[~same].tolist())
    p, q = (
        np.exp(z.astype(np.float64)) / np.exp(z.astype(np.float64)).sum(1, keepdims=True) for z in (teacher, student)
    )
    m = (p + q) / 2
    js = ((p * np.log(p / m)).sum(1) + (q * np.log(q / m)).sum(1)) / 2
    far = {place: js[one.example == place].mean() for place in found.disagreements}
    assert list(far.values()) == sorted(far.values(), reverse=True)
    assert found.js == pytest.approx(js.mean())

import pytest
import torch

from limbeck.data.batch import CLASS, Batch
from limbeck.errors import SignalError
from limbeck.objective import Dist, Labels, Objective, SoftTargets
from limbeck.objective.gates import Gate

MEASURES = ("teacher-confidence", "teacher-certainty", "teacher-correct", "student-difficulty", "gap")
X = torch.zeros(6, 2)


def sides(seed=0, rows=6, classes=4):
    generator = torch.Generator().manual_seed(seed)
    return tuple({"logits": 3 * torch.randn(rows, classes, generator=generator, dtype=torch.float64)} for _ in range(2))


def batch(labels=(0, 1, 2, 3, 0, -100)):
    return Batch.of(X, torch.tensor(labels))


def objective(gate):
    return Objective([SoftTargets(gate=gate)])


@pytest.mark.parametrize("by", MEASURES)
def test_scores_are_shares_without_a_gradient(by):
    student, teacher = sides()
    student["logits"].requires_grad_()
    weights = Gate(by=by).weights(student, teacher, batch())
    assert weights.shape == (6,)
    assert not weights.requires_grad
    assert weights.min() >= 0
    assert weights.max() <= 1


def test_what_each_score_is():
    student, teacher = sides()
    p, q = teacher["logits"].softmax(-1), student["logits"].softmax(-1)
    whole = batch()

    def score(by):
        return Gate(by=by).weights(student, teacher, whole)

    def share(r):
        return -(r * r.log()).sum(-1) / torch.tensor(4.0).double().log()

    # float64, sums of four terms
    close = {"rtol": 1e-12, "atol": 1e-14}
    torch.testing.assert_close(score("teacher-confidence"), p.amax(-1), **close)
    torch.testing.assert_close(score("teacher-certainty"), 1 - share(p), **close)
    torch.testing.assert_close(score("student-difficulty"), share(q), **close)
    torch.testing.assert_close(score("gap"), 1 - torch.exp(-(p * (p / q).log()).sum(-1)), **close)
    right = (p.argmax(-1) == whole.labels[CLASS]).double()
    right[-1] = 1  # without a label nothing speaks against it
    assert torch.equal(score("teacher-correct"), right)
    assert 0 < right.sum() < 6


def test_thresholds_keep_or_leave_out():
    student, teacher = sides()
    score = Gate(by="teacher-confidence").weights(student, teacher, batch())
    middle = float(score.median())
    above = Gate(by="teacher-confidence", above=middle).weights(student, teacher, batch())
    below = Gate(by="teacher-confidence", below=middle).weights(student, teacher, batch())
    assert torch.equal(above, (score > middle).double())
    assert torch.equal(below, (score < middle).double())
    assert above.sum() + below.sum() == 5, "the middle one is neither"


def test_a_gate_that_keeps_everything_is_no_gate():
    student, teacher = sides()
    with_gate, parts = objective({"by": "teacher-confidence", "above": 0.0})(student, teacher, batch())
    without, _ = Objective([SoftTargets()])(student, teacher, batch())
    assert torch.equal(with_gate, without)
    assert parts["soft-targets.kept"] == 1


def test_a_gate_that_keeps_nothing_is_zero_with_zero_gradient():
    student, teacher = sides()
    student["logits"].requires_grad_()
    loss, parts = objective({"by": "teacher-confidence", "above": 1.0})(student, teacher, batch())
    loss.backward()
    assert loss == 0
    assert parts["soft-targets.kept"] == 0
    assert student["logits"].grad.abs().max() == 0


def test_weights_never_enter_the_denominator():
    student, teacher = sides()
    gate = Gate(by="student-difficulty")
    weights = gate.weights(student, teacher, batch())
    loss, parts = objective(gate)(student, teacher, batch())
    plain, ungated = Objective([SoftTargets()]), []
    for row in torch.arange(6):
        one = [{"logits": side["logits"][row : row + 1]} for side in (student, teacher)]
        ungated.append(plain(*one, batch().select(row[None]))[0])
    torch.testing.assert_close(loss, sum(w * one for w, one in zip(weights, ungated, strict=True)) / 6)
    torch.testing.assert_close(parts["soft-targets.kept"], weights.mean())


def test_the_share_of_each_class_is_kept_count_of():
    student, teacher = sides()
    one = objective("teacher-correct")
    for _ in range(2):
        one(student, teacher, batch())
    right = (teacher["logits"].argmax(-1) == batch().labels[CLASS]).double()
    shares = one.shares()["soft-targets"]
    assert shares[0] == pytest.approx(float((right[0] + right[4]) / 2))
    assert shares[1:4] == [float(right[i]) for i in (1, 2, 3)]
    assert shares[4] == 1.0
    one.eval()(student, sides(3)[1], batch())
    assert one.shares()["soft-targets"] == shares, "evaluation is not counted"


def test_half_of_what_it_learns_from_hardens_nothing_else():
    student, teacher = sides()
    gated = Objective([Labels(), SoftTargets(gate={"by": "teacher-confidence", "above": 1.0})])
    assert gated(student, teacher, batch())[0] == Objective([Labels()])(student, None, batch())[0]


def test_a_gate_on_labels_needs_a_teacher_and_is_dropped_without_one():
    gated = Labels(gate="teacher-correct")
    with pytest.raises(SignalError, match="needs a teacher"):
        Objective([gated]).check(None)
    assert gated.alone() == Labels()


def test_relations_take_no_gate():
    with pytest.raises(ValueError, match="compares the examples"):
        Dist(gate="teacher-correct")


def test_what_a_gate_left_out_holds_never_reaches_the_gradient():
    student, teacher = sides()
    teacher["logits"][2] = torch.tensor([-torch.inf, 50.0, -torch.inf, -torch.inf]).double()
    student["logits"][2, 1] = -torch.inf
    student["logits"].requires_grad_()
    loss, _ = objective({"by": "teacher-confidence", "below": 0.999999})(student, teacher, batch())
    (slope,) = torch.autograd.grad(loss, student["logits"])
    assert loss.isfinite()
    assert slope.isfinite().all()

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from limbeck.losses.decoupled import dkd, label_smoothing, nkd, wsld
from limbeck.losses.responses import cross_entropy, kl_divergence, soft_cross_entropy

# float64, at most 20 classes and logits of some 10: sums are exact to 1e-15 of terms that T^2 <= 400 magnifies
TIGHT = 1e-11
INF = float("inf")
TAUGHT = [dkd, nkd, wsld]
law = settings(max_examples=40, deadline=None, derandomize=True)
temperatures = st.floats(0.5, 20)


@st.composite
def cases(draw):
    rows, classes = draw(st.integers(1, 6)), draw(st.integers(2, 20))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    scale = draw(st.sampled_from([0.01, 1.0, 5.0]))
    student, teacher = scale * torch.randn(2, rows, classes, generator=generator, dtype=torch.float64)
    return student, teacher, torch.randint(classes, (rows,), generator=generator)


def case(rows=4, classes=6, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    student, teacher = 3 * torch.randn(2, rows, classes, generator=generator, dtype=dtype)
    return student, teacher, torch.randint(classes, (rows,), generator=generator)


def gradient(loss, student, *rest, **settings):
    student = student.clone().requires_grad_()
    return torch.autograd.grad(loss(student, *rest, **settings).sum(), student)[0]


@pytest.fixture
def watched():
    """A later mask may hide a gradient that is not a number; here it may not."""
    with torch.autograd.set_detect_anomaly(True):
        yield


def at(values, labels):
    return values.gather(-1, labels.unsqueeze(-1)).squeeze(-1)


def with_class(z, value):
    return torch.cat([z, torch.full((len(z), 1), value, dtype=z.dtype)], 1)


@law
@given(cases(), temperatures)
def test_dkd_weighted_by_the_teachers_doubt_is_kl(sides, t):
    student, teacher, labels = sides
    doubt = 1 - at((teacher / t).softmax(-1), labels)
    value = dkd(student, teacher, labels, 1.0, doubt, t)
    assert torch.allclose(value, kl_divergence(student, teacher, t), rtol=TIGHT, atol=TIGHT)
    slopes = gradient(dkd, student, teacher, labels, 1.0, doubt, t), gradient(kl_divergence, student, teacher, t)
    assert torch.allclose(*slopes, atol=TIGHT)


@law
@given(cases(), temperatures, st.floats(-50, 50))
def test_dkd_is_zero_with_zero_gradient_where_the_logits_differ_by_a_constant(sides, t, shift):
    _, teacher, labels = sides
    assert dkd(teacher + shift, teacher, labels, 1.0, 8.0, t).abs().max() < TIGHT
    # a logit shifted by 50 is rounded to 7e-15, which T * beta <= 160 magnifies
    assert gradient(dkd, teacher + shift, teacher, labels, 1.0, 8.0, t).abs().max() < TIGHT


@law
@given(cases(), temperatures)
def test_dkd_is_not_negative_and_linear_in_its_weights(sides, t):
    target, others = dkd(*sides, 1.0, 0.0, t), dkd(*sides, 0.0, 1.0, t)
    assert min(target.min(), others.min()) >= -TIGHT
    assert target.shape == others.shape == sides[2].shape
    both = dkd(*sides, 0.7, 3.0, t)
    assert torch.allclose(both, 0.7 * target + 3 * others, rtol=TIGHT, atol=TIGHT)
    if sides[0].shape[-1] > 2:
        assert (target + others).min() > 0


@law
@given(cases(), st.floats(-300, 300), st.floats(-300, 300))
def test_the_part_of_the_others_knows_nothing_of_the_targets_logit(sides, a, b):
    student, teacher, labels = sides
    place = labels.unsqueeze(-1)
    moved = student.scatter(-1, place, a), teacher.scatter(-1, place, b)
    assert torch.equal(dkd(*moved, labels, 0.0, 1.0), dkd(*sides, 0.0, 1.0))
    slope = gradient(dkd, *sides, 0.0, 1.0)
    assert torch.equal(at(slope, labels), torch.zeros(len(labels), dtype=torch.float64))


def test_the_part_of_the_target_sees_the_others_as_one():
    student, teacher, labels = case()
    merged = []
    for z in (student, teacher):
        rest = z.masked_fill(F.one_hot(labels, 6).bool(), -INF).logsumexp(-1)
        merged.append(torch.stack([at(z, labels), rest], -1))
    # at T = 1, where adding probabilities is adding exponentials
    expected = kl_divergence(*merged)
    assert torch.allclose(dkd(student, teacher, labels, 1.0, 0.0, 1.0), expected, rtol=TIGHT)


@pytest.mark.parametrize("loss", TAUGHT)
def test_names_of_classes_and_the_order_of_rows_do_not_matter(loss):
    student, teacher, labels = case(6, 6)
    turn = torch.tensor([3, 0, 5, 1, 4, 2])
    flat = loss(student, teacher, labels)
    assert torch.allclose(loss(student[:, turn], teacher[:, turn], turn.argsort()[labels]), flat, rtol=TIGHT)
    assert torch.equal(loss(student[turn], teacher[turn], labels[turn]), flat[turn])
    shaped = loss(student.reshape(2, 3, 6), teacher.reshape(2, 3, 6), labels.reshape(2, 3))
    assert torch.equal(shaped, flat.reshape(2, 3))


@pytest.mark.parametrize("loss", TAUGHT)
def test_exchanging_two_other_classes_on_both_sides_changes_nothing_but_on_one_side_does(loss):
    student, teacher, _ = case()
    labels, turn = torch.zeros(4, dtype=torch.int64), torch.tensor([0, 3, 1, 2, 5, 4])
    value = loss(student, teacher, labels)
    assert torch.allclose(loss(student[:, turn], teacher[:, turn], labels), value, rtol=TIGHT)
    assert (loss(student[:, turn], teacher, labels) - value).abs().min() > 1e-3


@pytest.mark.parametrize("loss", TAUGHT)
def test_softened_losses_do_not_see_a_constant_on_either_side(loss):
    student, teacher, labels = case()
    assert torch.allclose(loss(student + 7, teacher - 3, labels), loss(student, teacher, labels), rtol=TIGHT)


@pytest.mark.parametrize("loss", [dkd, lambda *a, temperature: nkd(*a, temperature=temperature), wsld])
def test_a_temperature_for_each_example(loss):
    student, teacher, labels = case(5)
    t = torch.tensor([0.5, 1.0, 2.0, 4.0, 9.0], dtype=torch.float64)
    rows = [loss(*(x[i] for x in (student, teacher, labels)), temperature=float(t[i])) for i in range(5)]
    assert torch.allclose(loss(student, teacher, labels, temperature=t), torch.stack(rows), rtol=TIGHT)
    one = loss(student, teacher, labels, temperature=torch.tensor(2.0))
    assert torch.allclose(one, loss(student, teacher, labels, temperature=2.0))


def test_weights_for_each_example():
    student, teacher, labels = case(3)
    alpha, beta = torch.tensor([0.0, 1.0, 2.0]), torch.tensor([3.0, 0.0, 0.5])
    rows = [dkd(*(x[i] for x in (student, teacher, labels)), float(alpha[i]), float(beta[i])) for i in range(3)]
    value = dkd(student, teacher, labels, alpha, beta)
    assert value.dtype == torch.float64
    assert torch.allclose(value, torch.stack(rows), rtol=TIGHT)


def test_with_two_classes_nothing_is_left_of_the_others():
    student, teacher, labels = case(classes=2)
    assert torch.equal(dkd(student, teacher, labels, 0.0, 8.0), torch.zeros(4, dtype=torch.float64))
    assert torch.equal(gradient(dkd, student, teacher, labels, 0.0, 8.0), torch.zeros(4, 2, dtype=torch.float64))
    assert torch.allclose(dkd(student, teacher, labels, 1.0, 8.0, 2.0), kl_divergence(student, teacher, 2.0))
    p_y = at(teacher.softmax(-1), labels)
    assert torch.allclose(nkd(student, teacher, labels), p_y * cross_entropy(student, labels))


@law
@given(cases(), temperatures)
def test_nkd_is_two_cross_entropies(sides, t):
    student, teacher, labels = sides
    target = nkd(*sides, 0.0, t)
    assert torch.allclose(target, at(teacher.softmax(-1), labels) * cross_entropy(student, labels), atol=TIGHT)
    # the second is DKD's second part and the entropy of the teacher's others, so its gradient is DKD's
    others = nkd(*sides, 2.0, t) - target
    entropy = nkd(teacher, teacher, labels, 2.0, t) - nkd(teacher, teacher, labels, 0.0, t)
    assert torch.allclose(others, 2 * dkd(*sides, 0.0, 1.0, t) + entropy, rtol=TIGHT, atol=TIGHT)
    slope = gradient(nkd, *sides, 2.0, t) - gradient(nkd, *sides, 0.0, t)
    assert torch.allclose(slope, 2 * gradient(dkd, *sides, 0.0, 1.0, t), atol=TIGHT)


def test_nkd_at_a_match_is_not_zero_and_still_pulls_at_the_target_alone():
    _, teacher, labels = case()
    assert nkd(teacher, teacher, labels).min() > 1e-2
    p = teacher.softmax(-1)
    expected = at(p, labels).unsqueeze(-1) * (p - F.one_hot(labels, 6))
    assert torch.allclose(gradient(nkd, teacher, teacher, labels, 1.5, 3.0), expected, atol=TIGHT)


@law
@given(cases(), temperatures)
def test_wsld_is_soft_cross_entropy_times_a_weight_without_gradient(sides, t):
    student, teacher, labels = sides
    ratio = cross_entropy(student, labels) / cross_entropy(teacher, labels)
    weight = 1 - (-ratio).exp()
    assert torch.allclose(wsld(*sides, t), weight * soft_cross_entropy(student, teacher, t), rtol=TIGHT, atol=TIGHT)
    expected = weight.unsqueeze(-1) * t * ((student / t).softmax(-1) - (teacher / t).softmax(-1))
    assert torch.allclose(gradient(wsld, *sides, t), expected, atol=TIGHT)


def test_wsld_at_a_match_weighs_one_less_one_over_e_and_does_not_pull():
    _, teacher, labels = case()
    expected = (1 - math.exp(-1)) * soft_cross_entropy(teacher, teacher, 2.0)
    assert torch.allclose(wsld(teacher, teacher, labels), expected, rtol=TIGHT)
    assert gradient(wsld, teacher, teacher, labels).abs().max() < TIGHT


def test_wsld_trusts_the_teacher_where_it_knows_more_than_the_student():
    """The label's logit of the student falls, and then the teacher's: the weight rises to 1, and falls to 0."""
    _, z, labels = case()
    hit = F.one_hot(labels, 6)

    def weight(student, teacher):
        return wsld(student, teacher, labels) / soft_cross_entropy(student, teacher, 2.0)

    worse = torch.stack([weight(z - fall * hit, z) for fall in (-4.0, 0.0, 4.0, 8.0)])
    assert (worse.diff(dim=0) > 0).all()
    assert weight(z + 20 * hit, z).max() < 1e-3
    assert weight(z, z - 100 * hit).max() < 0.2
    # two that are as sure as each other: CE near 1e-8 is known to 1e-16
    sure = z + 25 * hit
    assert torch.allclose(weight(sure, sure), torch.tensor(1 - math.exp(-1), dtype=torch.float64), rtol=1e-6)
    # the teacher's cross-entropy is rounded to zero, and the student's is not
    assert torch.equal(weight(z, z + 800 * hit), torch.ones(4, dtype=torch.float64))


@pytest.mark.parametrize("share", [0.0, 0.1, 0.9])
def test_label_smoothing_is_a_mixture_and_a_uniform_teacher_but_for_a_constant(share):
    logits, _, labels = case()
    uniform = torch.zeros_like(logits)
    value, hard = label_smoothing(logits, labels, share), (1 - share) * cross_entropy(logits, labels)
    assert torch.allclose(value, hard + share * cross_entropy(logits, uniform.softmax(-1)), rtol=TIGHT)
    taught = hard + share * kl_divergence(logits, uniform)
    assert torch.allclose(value - taught, torch.full((4,), share * math.log(6), dtype=torch.float64), atol=TIGHT)
    assert torch.equal(value, cross_entropy(logits, labels, share))
    assert label_smoothing(logits[:1] * 0, labels[:1], share).item() == pytest.approx(math.log(6))


@pytest.mark.parametrize("loss", [*TAUGHT, lambda student, _, labels: label_smoothing(student, labels)])
def test_rows_without_a_label_are_zero_and_pull_at_nothing(loss):
    student, teacher, labels = case()
    some = labels.clone()
    some[1], some[2] = -100, -1
    value, slope = loss(student, teacher, some), gradient(loss, student, teacher, some)
    assert torch.equal(value[1:3], torch.zeros(2, dtype=torch.float64))
    assert torch.equal(slope[1:3], torch.zeros(2, 6, dtype=torch.float64))
    assert torch.equal(value[[0, 3]], loss(student, teacher, labels)[[0, 3]])
    assert (value[[0, 3]] > 0).all()
    none = torch.full((4,), -100)
    assert torch.equal(loss(student, teacher, none), torch.zeros(4, dtype=torch.float64))


@pytest.mark.usefixtures("watched")
class TestAbsentClasses:
    """Logits of minus infinity."""

    @pytest.mark.parametrize("loss", TAUGHT)
    def test_on_both_sides_change_nothing(self, loss):
        student, teacher, labels = case()
        wider = with_class(student, -INF), with_class(teacher, -INF)
        assert torch.allclose(loss(*wider, labels), loss(student, teacher, labels), rtol=TIGHT)
        slope = gradient(loss, *wider, labels)
        assert torch.allclose(slope[:, :6], gradient(loss, student, teacher, labels), atol=TIGHT)
        assert torch.equal(slope[:, 6], torch.zeros(4, dtype=torch.float64))

    @pytest.mark.parametrize("loss", TAUGHT)
    def test_on_the_teachers_side_are_probabilities_of_zero(self, loss):
        student, teacher, labels = case()
        sides = with_class(student, 1.0), with_class(teacher, -INF)
        near = loss(sides[0], with_class(teacher, -1e4), labels)
        assert torch.allclose(loss(*sides, labels), near, rtol=TIGHT)
        assert gradient(loss, *sides, labels).isfinite().all()

    @pytest.mark.parametrize("loss", TAUGHT)
    def test_on_the_students_side_are_infinitely_far(self, loss):
        student, teacher, labels = case()
        sides = with_class(student, -INF), with_class(teacher, 1.0)
        assert torch.equal(loss(*sides, labels), torch.full((4,), INF, dtype=torch.float64))

    def test_weighted_by_zero_are_no_matter(self):
        student, teacher, labels = case()
        sides = with_class(student, -INF), with_class(teacher, 1.0)
        for nothing in (0.0, torch.zeros(4)):
            assert dkd(*sides, labels, 1.0, nothing).isfinite().all()
            assert gradient(dkd, *sides, labels, 1.0, nothing).isfinite().all()
        assert nkd(*sides, labels, 0.0).isfinite().all()

    @pytest.mark.parametrize("loss", TAUGHT)
    @pytest.mark.parametrize("alone", [(True, True), (False, True)], ids=["both", "teacher"])
    def test_may_be_all_but_the_label(self, loss, alone):
        student, teacher, labels = case()
        others = ~F.one_hot(labels, 6).bool()
        sides = [z.masked_fill(others, -INF) if only else z for z, only in zip((student, teacher), alone, strict=True)]
        value = loss(*sides, labels)
        # the teacher is certain, so what is left is a cross-entropy with the label, or nothing
        scale = {dkd: 16 * cross_entropy(sides[0] / 4, labels), nkd: cross_entropy(sides[0], labels)}
        scale[wsld] = 4 * cross_entropy(sides[0] / 2, labels)
        assert torch.allclose(value, scale[loss], rtol=TIGHT)
        assert gradient(loss, *sides, labels).isfinite().all()

    @pytest.mark.parametrize("loss", TAUGHT)
    def test_may_be_the_label_itself(self, loss):
        student, teacher, labels = case()
        hit = F.one_hot(labels, 6).bool()
        for sides in (
            (student, teacher.masked_fill(hit, -INF)),
            [z.masked_fill(hit, -INF) for z in (student, teacher)],
        ):
            assert loss(*sides, labels).isfinite().all()
            assert gradient(loss, *sides, labels).isfinite().all()
        if loss is wsld:
            # both are infinitely wrong, so as wrong as each other; against an infinitely wrong teacher nothing counts
            expected = (1 - math.exp(-1)) * soft_cross_entropy(*sides, 2.0)
            assert torch.allclose(loss(*sides, labels), expected, rtol=TIGHT)
            assert loss(student, sides[1], labels).max() < TIGHT


@pytest.mark.usefixtures("watched")
@pytest.mark.parametrize("loss", TAUGHT)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("size", [0.0, 1e-6, 1.0, 1e4])
@pytest.mark.parametrize("classes", [1, 2, 6])
def test_any_size_of_logits_stays_finite_and_is_not_negative(loss, dtype, size, classes):
    student, teacher, labels = case(classes=classes, dtype=dtype)
    for sides in ((size * student, size * teacher), (size * teacher, size * teacher), (0 * student, size * teacher)):
        for t in (0.1, 1.0, 20.0):
            value = loss(*sides, labels, temperature=t)
            slope = gradient(loss, *sides, labels, temperature=t)
            assert value.dtype == slope.dtype == dtype
            assert value.isfinite().all()
            assert slope.isfinite().all()
            # DKD's weight of 9 and T^2, times a few units in the last place of log-probabilities near log 6
            assert value.min() >= -128 * torch.finfo(dtype).eps * max(1.0, t**2)


@pytest.mark.parametrize("loss", TAUGHT)
def test_the_teacher_gets_no_gradient(loss):
    student, teacher, labels = case()
    student.requires_grad_()
    teacher.requires_grad_()
    loss(student, teacher, labels).sum().backward()
    assert student.grad is not None
    assert teacher.grad is None


@pytest.mark.parametrize("loss", [dkd, nkd])
def test_gradients_are_those_of_finite_differences(loss):
    student, teacher, labels = case(3, 4)
    labels[1] = -100
    assert torch.autograd.gradcheck(lambda z: loss(z, teacher, labels), student.requires_grad_())


@pytest.mark.parametrize("loss", TAUGHT)
def test_shapes_that_cannot_be_are_named(loss):
    student, teacher, labels = case()
    with pytest.raises(ValueError, match=r"\(4, 6\) and \(4, 5\)"):
        loss(student, teacher[:, :5], labels)
    with pytest.raises(ValueError, match=r"\(4, 6\), not torch.int64 of shape \(3,\)"):
        loss(student, teacher, labels[:3])
    with pytest.raises(ValueError, match=r"\(4, 6\), not torch.float64 of shape \(4, 6\)"):
        loss(student, teacher, teacher.softmax(-1))
    with pytest.raises(ValueError, match=r"\(4, 6\), not torch.float64 of shape \(4,\)"):
        loss(student, teacher, labels.double())
    with pytest.raises(ValueError, match=r"\(4, 6\), not torch.int64 of shape \(2, 2\)"):
        label_smoothing(student, labels.reshape(2, 2))

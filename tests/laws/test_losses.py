import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from limbeck import losses

# float64 with classes <= 20 and logits of some 10: sums are exact to 1e-15 of terms that T^2 <= 400 magnifies
TIGHT = 1e-11
SOFTENED = (losses.kl_divergence, losses.soft_cross_entropy, losses.probability_mse)
INF = float("inf")


@st.composite
def logits(draw, sides=2):
    rows, classes = draw(st.integers(1, 6)), draw(st.integers(2, 20))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    scale = draw(st.sampled_from([0.01, 1.0, 10.0]))
    return tuple(scale * torch.randn(rows, classes, generator=generator, dtype=torch.float64) for _ in range(sides))


temperatures = st.floats(0.5, 20)
law = settings(max_examples=40, deadline=None, derandomize=True)


def pair(rows=4, classes=6, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return tuple(3 * torch.randn(rows, classes, generator=generator, dtype=dtype) for _ in range(2))


def gradient(loss, student, *rest):
    student = student.clone().requires_grad_()
    return torch.autograd.grad(loss(student, *rest).sum(), student)[0]


@law
@given(logits(), temperatures, st.floats(-50, 50))
def test_kl_is_zero_with_zero_gradient_where_the_logits_differ_by_a_constant(sides, t, shift):
    (z, _) = sides
    assert losses.kl_divergence(z + shift, z, t).abs().max() < TIGHT
    assert gradient(losses.kl_divergence, z + shift, z, t).abs().max() < TIGHT


@law
@given(logits(), temperatures)
def test_kl_is_not_negative_and_zero_at_a_match_only(sides, t):
    student, teacher = sides
    value = losses.kl_divergence(student, teacher, t)
    assert value.shape == student.shape[:-1]
    assert value.min() >= -TIGHT
    p, q = (teacher / t).softmax(-1), (student / t).softmax(-1)
    # Pinsker: KL >= 2 TV^2, so a value of zero needs equal distributions
    assert (value - t**2 * (p - q).abs().sum(-1).square() / 2).min() >= -TIGHT


@law
@given(logits(), temperatures)
def test_the_gradient_of_kl_is_t_times_the_difference_of_probabilities(sides, t):
    student, teacher = sides
    expected = t * ((student / t).softmax(-1) - (teacher / t).softmax(-1))
    assert torch.allclose(gradient(losses.kl_divergence, student, teacher, t), expected, atol=TIGHT)


@law
@given(logits(), temperatures)
def test_soft_cross_entropy_is_kl_plus_the_teachers_entropy_with_the_same_gradient(sides, t):
    student, teacher = sides
    p = (teacher / t).softmax(-1)
    entropy = t**2 * torch.special.entr(p).sum(-1)
    kl, ce = losses.kl_divergence(student, teacher, t), losses.soft_cross_entropy(student, teacher, t)
    assert torch.allclose(ce, kl + entropy, rtol=TIGHT, atol=TIGHT)
    gradients = [gradient(loss, student, teacher, t) for loss in (losses.kl_divergence, losses.soft_cross_entropy)]
    assert torch.allclose(*gradients, atol=TIGHT)


def test_soft_cross_entropy_at_a_match_is_the_entropy_and_not_zero():
    _, teacher = pair()
    value = losses.soft_cross_entropy(teacher, teacher, 2.0)
    assert torch.allclose(value, 4 * torch.special.entr((teacher / 2).softmax(-1)).sum(-1))
    assert value.min() > 0.1
    assert gradient(losses.soft_cross_entropy, teacher, teacher, 2.0).abs().max() < TIGHT


def test_kl_tends_to_half_the_mean_squared_difference_of_centred_logits():
    student, teacher = pair(rows=16)
    limit = losses.logit_mse(student, teacher) / 2
    errors = [((losses.kl_divergence(student, teacher, t) - limit).abs() / limit).max() for t in (1e2, 1e3, 1e4)]
    # the next term of the expansion is of the order 1 / T; at 1e4 rounding is T^2 * 1e-16 = 1e-8, far below it
    assert errors[2] < 1e-3
    assert errors[1] / errors[0] == pytest.approx(0.1, rel=0.2)
    assert errors[2] / errors[1] == pytest.approx(0.1, rel=0.2)


def test_t_squared_keeps_the_size_of_the_gradient():
    student, teacher = pair(rows=64)
    sizes = [gradient(losses.kl_divergence, student, teacher, t).norm() for t in (10.0, 100.0, 1000.0)]
    assert max(sizes) / min(sizes) < 1.5  # without T^2 they would differ by 10^4
    sizes = [gradient(losses.probability_mse, student, teacher, t).norm() for t in (10.0, 100.0, 1000.0)]
    assert max(sizes) / min(sizes) < 1.5


def test_kl_at_one_is_torchs_kl_summed_over_classes():
    student, teacher = pair()
    theirs = F.kl_div(student.log_softmax(-1), teacher.log_softmax(-1), reduction="none", log_target=True).sum(-1)
    assert torch.allclose(losses.kl_divergence(student, teacher), theirs, atol=TIGHT)
    assert torch.allclose(losses.forward_kl(student, teacher), theirs, atol=TIGHT)


@pytest.mark.parametrize("loss", SOFTENED)
def test_classes_are_summed_and_not_averaged(loss):
    """A class that nobody believes in changes nothing; a mean over classes would shrink."""
    student, teacher = pair()
    wider = [torch.cat([z, torch.full((4, 3), -1e4, dtype=z.dtype)], 1) for z in (student, teacher)]
    assert torch.allclose(loss(*wider, 2.0), loss(student, teacher, 2.0), rtol=TIGHT)


@pytest.mark.parametrize("loss", SOFTENED)
@pytest.mark.parametrize("t", [1.0, 4.0])
def test_softened_losses_do_not_see_a_constant_on_either_side(loss, t):
    student, teacher = pair()
    assert torch.allclose(loss(student + 7, teacher - 3, t), loss(student, teacher, t), atol=TIGHT)


@law
@given(logits(), st.floats(-50, 50), st.floats(-50, 50))
def test_logit_mse_does_not_see_a_constant_on_either_side(sides, a, b):
    student, teacher = sides
    assert torch.allclose(losses.logit_mse(student + a, teacher + b), losses.logit_mse(student, teacher), atol=1e-10)
    assert losses.logit_mse(teacher + a, teacher).max() < 1e-20
    assert torch.allclose(losses.logit_mse(student, teacher), losses.logit_mse(teacher, student))


def test_probability_mse_is_symmetric_and_at_most_two_t_squared():
    student, teacher = pair(rows=50)
    value = losses.probability_mse(100 * student, 100 * teacher, 3.0)
    assert torch.allclose(value, losses.probability_mse(100 * teacher, 100 * student, 3.0))
    assert value.min() >= 0
    assert value.max() <= 18 + TIGHT


def test_kl_is_not_symmetric_and_the_teacher_is_the_reference():
    """A student that is spread misses nothing cheaply; a student that has dropped a mode pays without bound."""
    modes, one = torch.tensor([[0.0, 0.0, -20.0]]), torch.tensor([[0.0, -20.0, -20.0]])
    assert losses.kl_divergence(one, modes).item() > 9
    assert losses.kl_divergence(modes, one).item() == pytest.approx(0.6931, abs=1e-3)


class TestMinusInfinity:
    """A class that cannot be: finite wherever the value is defined, and equal to leaving the class out."""

    def both(self):
        student, teacher = pair()
        absent = torch.full((4, 1), -INF, dtype=torch.float64)
        return student, teacher, absent

    @pytest.mark.parametrize("loss", SOFTENED)
    def test_on_both_sides(self, loss):
        student, teacher, absent = self.both()
        a, b = torch.cat([student, absent], 1), torch.cat([teacher, absent], 1)
        assert torch.allclose(loss(a, b, 2.0), loss(student, teacher, 2.0), atol=TIGHT)
        slope = gradient(loss, a, b, 2.0)
        assert torch.allclose(slope[:, :-1], gradient(loss, student, teacher, 2.0), atol=TIGHT)
        assert torch.equal(slope[:, -1], torch.zeros(4, dtype=torch.float64))

    @pytest.mark.parametrize("loss", SOFTENED)
    def test_on_the_teachers_side(self, loss):
        student, teacher, absent = self.both()
        a, b = torch.cat([student, torch.ones_like(absent)], 1), torch.cat([teacher, absent], 1)
        assert loss(a, b, 2.0).isfinite().all()
        assert gradient(loss, a, b, 2.0).isfinite().all()

    def test_on_the_students_side(self):
        student, teacher, absent = self.both()
        a, b = torch.cat([student, absent], 1), torch.cat([teacher, torch.ones_like(absent)], 1)
        # the teacher believes in what the student excludes: infinitely far, not nan; the bounded loss stays finite
        assert torch.equal(losses.kl_divergence(a, b), torch.full((4,), INF, dtype=torch.float64))
        assert torch.equal(losses.soft_cross_entropy(a, b), torch.full((4,), INF, dtype=torch.float64))
        assert losses.probability_mse(a, b).isfinite().all()
        assert gradient(losses.probability_mse, a, b).isfinite().all()

    def test_under_labels(self):
        student, _, absent = self.both()
        wider, labels = torch.cat([student, absent], 1), torch.tensor([0, 1, 2, 3])
        whole = F.one_hot(labels, 7).double()
        for target in (labels, whole):
            assert torch.allclose(losses.cross_entropy(wider, target), losses.cross_entropy(student, labels))
            assert gradient(losses.cross_entropy, wider, target).isfinite().all()


@pytest.mark.parametrize("loss", SOFTENED)
def test_a_temperature_for_each_example(loss):
    student, teacher = pair(rows=5)
    t = torch.tensor([0.5, 1.0, 2.0, 4.0, 9.0], dtype=torch.float64)
    rows = torch.stack([loss(a, b, float(c)) for a, b, c in zip(student, teacher, t, strict=True)])
    assert torch.allclose(loss(student, teacher, t), rows, rtol=TIGHT)
    assert torch.allclose(loss(student, teacher, torch.tensor(2.0)), loss(student, teacher, 2.0))
    tokens = [z.reshape(5, 1, -1).expand(5, 3, -1) for z in (student, teacher)]
    assert torch.allclose(loss(*tokens, t[:, None].expand(5, 3)), rows[:, None].expand(5, 3), rtol=TIGHT)


@pytest.mark.parametrize("loss", [*SOFTENED, losses.logit_mse])
def test_rows_of_any_leading_shape_stand_for_themselves(loss):
    student, teacher = pair(rows=6)
    flat = loss(student, teacher)
    assert torch.equal(loss(student.reshape(2, 3, 6), teacher.reshape(2, 3, 6)), flat.reshape(2, 3))
    turn = torch.tensor([3, 0, 5, 1, 4, 2])
    assert torch.equal(loss(student[turn], teacher[turn]), flat[turn])
    assert torch.allclose(loss(student[:, turn], teacher[:, turn]), flat, rtol=TIGHT)  # names of classes do not matter


@pytest.mark.parametrize("loss", [*SOFTENED, losses.logit_mse, losses.hint])
def test_the_teacher_gets_no_gradient(loss):
    student, teacher = (z.requires_grad_() for z in pair())
    loss(student, teacher).sum().backward()
    assert student.grad is not None
    assert teacher.grad is None


@pytest.mark.parametrize("share", [0.0, 0.1, 0.9])
def test_label_smoothing_is_a_mixture_with_the_uniform_target(share):
    logits, _ = pair()
    labels = torch.tensor([0, 5, 2, 2])
    uniform = torch.full((4, 6), 1 / 6, dtype=torch.float64)
    expected = (1 - share) * losses.cross_entropy(logits, labels) + share * losses.cross_entropy(logits, uniform)
    assert torch.allclose(losses.cross_entropy(logits, labels, share), expected, rtol=TIGHT)
    theirs = F.cross_entropy(logits, labels, reduction="none", label_smoothing=share)
    assert torch.allclose(losses.cross_entropy(logits, labels, share), theirs, rtol=TIGHT)
    one_hot = F.one_hot(labels, 6).double()
    assert torch.allclose(losses.cross_entropy(logits, one_hot, share), theirs, rtol=TIGHT)


def test_mixed_labels_mix_the_losses():
    logits, _ = pair()
    first, second, part = torch.tensor([0, 1, 2, 3]), torch.tensor([3, 3, 2, 1]), 0.3
    mixed = part * F.one_hot(first, 6) + (1 - part) * F.one_hot(second, 6)
    expected = part * losses.cross_entropy(logits, first) + (1 - part) * losses.cross_entropy(logits, second)
    # probabilities are float32, as augmentation gives them: 6e-8 of the value
    assert torch.allclose(losses.cross_entropy(logits, mixed), expected, rtol=1e-6)


@pytest.mark.parametrize("share", [0.0, 0.2])
def test_rows_without_a_label_are_zero_and_pull_at_nothing(share):
    logits, _ = pair()
    logits[2] = 0.0
    labels = torch.tensor([1, -100, -1, 4])
    value = losses.cross_entropy(logits, labels, share)
    assert torch.equal(value[1:3], torch.zeros(2, dtype=torch.float64))
    assert (value[[0, 3]] > 0).all()
    slope = gradient(losses.cross_entropy, logits, labels, share)
    assert torch.equal(slope[1:3], torch.zeros(2, 6, dtype=torch.float64))
    none = torch.zeros(4, 6, dtype=torch.float64)
    none[0, 1] = none[3, 4] = 1
    assert torch.allclose(losses.cross_entropy(logits, none, share), value)


def test_cross_entropy_of_the_truth_is_its_entropy_and_smallest_there():
    logits, other = pair()
    truth = logits.softmax(-1)
    entropy = torch.special.entr(truth).sum(-1)
    assert torch.allclose(losses.cross_entropy(logits, truth), entropy)
    assert (losses.cross_entropy(other, truth) > entropy).all()


def test_hints_count_the_tokens_of_the_mask_alone_even_beside_nan():
    student, teacher = (z.reshape(3, 4, 5) for z in pair(12, 5))
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0], [0, 0, 0, 0]]).bool()
    clean = losses.hint(student, teacher, mask)
    assert clean[0] == pytest.approx((student[0] - teacher[0]).square().mean().item())
    assert clean[2] == 0
    for side in (student, teacher):
        dirty = side.clone()
        dirty[~mask] = torch.nan
        sides = (dirty, teacher) if side is student else (student, dirty)
        assert torch.equal(losses.hint(*sides, mask), clean)
        assert torch.equal(gradient(losses.hint, *sides, mask), gradient(losses.hint, student, teacher, mask))


def test_without_a_projector_a_hint_sees_a_rotation_and_every_scale():
    (feature, _), (other, _) = pair(3, 5), pair(5, 5)
    turn, _ = torch.linalg.qr(other)
    assert losses.hint(feature, feature).max() == 0
    assert losses.hint(feature @ turn, feature).min() > 1e-3
    wide = feature.repeat(1, 4)
    assert torch.allclose(losses.hint(2 * wide, wide), losses.hint(2 * feature, feature))  # a mean, not a sum


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("size", [1e-6, 1.0, 1e4])
def test_large_and_small_logits_stay_finite_and_are_not_negative(dtype, size):
    student, teacher = (size * z for z in pair(dtype=dtype))
    for t in (0.1, 1.0, 20.0):
        for loss in SOFTENED:
            value = loss(student, teacher, t)
            assert value.dtype == dtype
            assert value.isfinite().all()
            # T^2 times a few units in the last place of log-probabilities near log 6
            assert value.min() >= -16 * torch.finfo(dtype).eps * max(1.0, t**2)
            assert gradient(loss, student, teacher, t).isfinite().all()

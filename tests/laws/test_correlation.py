import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from limbeck.losses.correlation import dist, standardize_logits
from limbeck.losses.responses import kl_divergence

# float64; unit vectors of at most 20 entries are exact to 1e-15, less what probabilities lose that hardly vary: a
# spread of 1e-3 of the mean (logits of 0.01, T <= 4) costs three digits, and T^2 <= 16 magnifies
TIGHT = 1e-10
law = settings(max_examples=40, deadline=None, derandomize=True)


@st.composite
def logits(draw, least=1):
    rows, classes = draw(st.integers(least, 6)), draw(st.integers(2, 20))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    scale = draw(st.sampled_from([0.1, 1.0, 5.0]))
    return tuple(scale * torch.randn(2, rows, classes, generator=generator, dtype=torch.float64))


temperatures = st.floats(0.5, 4)


def pair(rows=4, classes=6, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return tuple(3 * torch.randn(2, rows, classes, generator=generator, dtype=dtype))


def gradient(loss, student, *rest):
    student = student.clone().requires_grad_()
    return torch.autograd.grad(loss(student, *rest).sum(), student)[0]


@pytest.fixture
def watched():
    """A later mask may hide a gradient that is not a number; here it may not."""
    with torch.autograd.set_detect_anomaly(True):
        yield


@law
@given(logits(), temperatures)
def test_dist_is_zero_with_zero_gradient_where_rows_differ_by_a_constant(sides, t):
    z, shift = sides[0], sides[1][:, :1]
    assert torch.equal(dist(z, z, 1.0, 1.0, t), torch.tensor(0.0, dtype=torch.float64))
    assert torch.equal(gradient(dist, z, z, 1.0, 1.0, t), torch.zeros_like(z))
    assert dist(z + shift, z, 1.0, 1.0, t) < TIGHT
    # one minus a correlation is quadratic, so rounding of 1e-16 of the probabilities shows in the gradient itself
    assert gradient(dist, z + shift, z, 1.0, 1.0, t).abs().max() < TIGHT


@law
@given(logits(), temperatures, st.floats(0, 3), st.floats(0, 3))
def test_dist_lies_between_zero_and_twice_its_weights(sides, t, beta, gamma):
    value = dist(*sides, beta, gamma, t)
    assert value.shape == ()
    assert 0 <= value <= 2 * t**2 * (beta + gamma) + TIGHT
    parts = dist(*sides, 1.0, 0.0, t), dist(*sides, 0.0, 1.0, t)
    assert value.item() == pytest.approx((beta * parts[0] + gamma * parts[1]).item(), abs=TIGHT)


@law
@given(logits(least=2), temperatures)
def test_the_order_of_rows_and_the_names_of_classes_do_not_matter(sides, t):
    student, teacher = sides
    value = dist(student, teacher, 1.0, 1.0, t).item()
    generator = torch.Generator().manual_seed(0)
    rows, classes = (torch.randperm(n, generator=generator) for n in student.shape)
    assert dist(student[rows], teacher[rows], 1.0, 1.0, t).item() == pytest.approx(value, abs=TIGHT)
    assert dist(student[:, classes], teacher[:, classes], 1.0, 1.0, t).item() == pytest.approx(value, abs=TIGHT)
    # both sides count alike
    assert dist(teacher, student, 1.0, 1.0, t).item() == pytest.approx(value, abs=TIGHT)


@law
@given(logits(), st.floats(0.1, 0.9))
def test_dist_forgives_mixing_with_a_constant_distribution_but_not_a_scale_of_logits(sides, share):
    """An affine map of probabilities that keeps them probabilities: the same in every row and every column."""
    student, teacher = sides
    q = student.softmax(-1)
    mixed = (share * q + (1 - share) / q.shape[1]).log()
    # q itself is rounded to 1e-16, and its columns may hold values of 1e-4 that the mixture lifts to 1e-1
    assert dist(mixed, teacher).item() == pytest.approx(dist(student, teacher).item(), abs=1e-9)


def test_dist_sees_a_factor_of_the_logits():
    _, teacher = pair(16)
    assert dist(2 * teacher, teacher) > 1e-2


def test_both_parts_pull_a_student_to_the_teachers_relations():
    student, teacher = (z / 3 for z in pair(16))
    for weights in ((1.0, 0.0), (0.0, 1.0)):
        z = student.clone()
        for _ in range(50):
            z -= 0.2 * len(z) * gradient(dist, z, teacher, *weights)
        assert dist(z, teacher, *weights) < 0.5 * dist(student, teacher, *weights)


def test_t_squared_keeps_the_size_of_the_value_known():
    student, teacher = pair()
    assert dist(4 * student, 4 * teacher, temperature=4.0).item() == pytest.approx(16 * dist(student, teacher).item())


def test_a_batch_of_one_has_no_columns_to_compare():
    student, teacher = pair(1)
    assert dist(student, teacher, 0.0, 1.0) == 0
    assert torch.equal(gradient(dist, student, teacher, 0.0, 1.0), torch.zeros(1, 6, dtype=torch.float64))
    assert dist(student, teacher, 1.0, 5.0) == dist(student, teacher, 1.0, 0.0) > 0


def test_a_batch_of_none_is_zero():
    student, teacher = pair(0)
    assert dist(student, teacher) == 0
    assert gradient(dist, student, teacher).shape == (0, 6)


@pytest.mark.usefixtures("watched")
class TestConstants:
    """Uniform rows, and classes of one probability in the whole batch."""

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    @pytest.mark.parametrize("level", [0.0, 0.3, -1000.0])
    def test_on_both_sides_they_agree(self, dtype, level):
        # 1 / 7 is not exact, so means and softmaxes of it are constant up to rounding only
        flat = torch.full((5, 7), level, dtype=dtype)
        assert dist(flat, flat + 0.1) == 0
        assert torch.equal(gradient(dist, flat, flat + 0.1), torch.zeros(5, 7, dtype=dtype))
        same = pair(1, 7, dtype=dtype)[0].expand(5, 7)
        assert dist(same, same) == 0
        assert dist(same, same + 5, 0.0, 1.0) == 0
        assert torch.equal(gradient(dist, same, same), torch.zeros(5, 7, dtype=dtype))

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_they_are_constant_up_to_rounding(self, dtype):
        eps = torch.finfo(dtype).eps
        noise = [2 * eps * z.sign() for z in pair(5, 8, dtype=dtype)]
        assert noise[0].softmax(-1).unique().numel() > 1
        assert dist(*noise) == 0
        assert torch.equal(standardize_logits(100 + 100 * noise[0]), torch.zeros(5, 8, dtype=dtype))
        # and a signal is what stands well above it
        assert dist(*(1000 * z for z in noise)) > 0.1
        assert standardize_logits(100 + 1000 * noise[0] * 100).abs().min() > 0

    def test_a_class_that_nobody_believes_in_agrees(self):
        student, teacher = pair(6, 4)
        alone = dist(student, teacher, 0.0, 1.0).item()
        for nothing in (-float("inf"), -1e4):
            wider = [torch.cat([z, torch.full((6, 1), nothing, dtype=z.dtype)], 1) for z in (student, teacher)]
            assert dist(*wider, 0.0, 1.0).item() == pytest.approx(alone * 4 / 5, rel=TIGHT)
            slope = gradient(dist, *wider)
            assert slope.isfinite().all()
            assert torch.equal(slope[:, 4], torch.zeros(6, dtype=torch.float64))

    def test_on_one_side_they_are_uncorrelated_and_do_not_pull(self):
        signal, _ = pair(5, 6)
        for sides in ((torch.zeros_like(signal), signal), (signal, torch.zeros_like(signal))):
            assert dist(*sides, 2.0, 3.0, 2.0).item() == 4 * (2 + 3)
            assert torch.equal(gradient(dist, *sides), torch.zeros_like(signal))

    def test_beside_signals_they_leave_the_rest_alone(self):
        student, teacher = pair(5, 6)
        mixed = student.clone()
        mixed[0] = 0
        assert dist(mixed, teacher, 1.0, 0.0).item() == pytest.approx(
            (1 + 4 * dist(student[1:], teacher[1:], 1.0, 0.0).item()) / 5, rel=TIGHT
        )
        slope = gradient(dist, mixed, teacher, 1.0, 0.0)
        assert torch.equal(slope[0], torch.zeros(6, dtype=torch.float64))
        expected = gradient(dist, student[1:], teacher[1:], 1.0, 0.0) * 4 / 5
        assert torch.allclose(slope[1:], expected, atol=TIGHT)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("size", [1e-6, 1e-3, 1.0, 30.0, 1e4])
@pytest.mark.parametrize("shape", [(1, 1), (1, 6), (2, 2), (8, 1), (8, 6)])
def test_any_size_of_logits_stays_finite(dtype, size, shape):
    student, teacher = (size * z for z in pair(*shape, dtype=dtype))
    for t in (0.1, 1.0, 20.0):
        value, slope = dist(student, teacher, 1.0, 1.0, t), gradient(dist, student, teacher, 1.0, 1.0, t)
        assert value.dtype == dtype
        assert value.isfinite()
        assert 0 <= value <= 4 * t**2 * (1 + 1e-6)
        assert slope.isfinite().all()
        assert dist(student, student, 1.0, 1.0, t) == 0
    standard = standardize_logits(student)
    assert standard.dtype == dtype
    assert standard.isfinite().all()
    assert gradient(lambda z: standardize_logits(z).square(), student).isfinite().all()


@pytest.mark.usefixtures("watched")
@pytest.mark.parametrize("exponent", [-30, -44, -60, -80, -95])
def test_rare_classes_in_float32_are_finite_on_both_sides_of_the_floor(exponent):
    """Probabilities of e^-44 are near the floor of 1e-19; e^-80 squared and 1 over e^-95 are out of float32's range."""
    student, teacher = pair(8, 6, dtype=torch.float32)
    for z in (student, teacher):
        z[:, 3:] += exponent
    assert dist(student, student) == 0
    assert dist(student, teacher).isfinite()
    slope = gradient(dist, student, teacher)
    assert slope.isfinite().all()
    assert slope.abs().max() < 10  # each of the 14 correlations moves by no more than its logits do


def test_dist_gives_the_teacher_no_gradient_and_is_differentiable():
    student, teacher = (z.requires_grad_() for z in pair())
    dist(student, teacher).backward()
    assert student.grad is not None
    assert teacher.grad is None
    teacher.requires_grad_(False)
    assert torch.autograd.gradcheck(lambda z: dist(z, teacher, 1.0, 2.0, 2.0), student)


def test_shapes_that_cannot_be_are_named():
    student, teacher = pair()
    with pytest.raises(ValueError, match=r"\(4, 6\) and \(4, 5\)"):
        dist(student, teacher[:, :5])
    with pytest.raises(ValueError, match=r"\[B, C\], not \(2, 2, 6\) and \(2, 2, 6\)"):
        dist(student.reshape(2, 2, 6), teacher.reshape(2, 2, 6))


@law
@given(logits(), st.floats(0.1, 50), st.floats(-50, 50))
def test_standardised_logits_forgive_a_positive_scale_and_a_shift(sides, scale, shift):
    z, _ = sides
    ours = standardize_logits(z)
    # the small number in the denominator, 1e-7, against deviations of 0.1 and less in two close classes
    assert torch.allclose(standardize_logits(scale * z + shift), ours, atol=1e-3)
    assert kl_divergence(standardize_logits(scale * z + shift), ours, 2.0).abs().max() < 1e-6
    assert torch.allclose(standardize_logits(-z), -ours, atol=TIGHT)


@law
@given(logits())
def test_standardised_logits_have_mean_zero_and_deviation_one_and_a_ceiling(sides):
    z, _ = sides
    ours = standardize_logits(z)
    assert ours.mean(-1).abs().max() < TIGHT
    std = z.std(-1, correction=0)
    assert torch.allclose(ours.std(-1, correction=0), std / (std + 1e-7), atol=TIGHT)
    assert ours.max() <= math.sqrt(z.shape[-1] - 1) + TIGHT
    assert torch.equal(ours.argmax(-1), z.argmax(-1))


def test_a_single_peak_reaches_the_ceiling_and_two_classes_keep_the_argmax_alone():
    peak = torch.zeros(1, 10, dtype=torch.float64)
    peak[0, 3] = 100.0
    assert standardize_logits(peak)[0, 3].item() == pytest.approx(3.0, rel=1e-8)
    two = torch.tensor([[0.1, 5.0], [9.0, -3.0]], dtype=torch.float64)
    signs = torch.tensor([[-1.0, 1.0], [1.0, -1.0]], dtype=torch.float64)
    assert torch.allclose(standardize_logits(two), signs, rtol=1e-7)


def test_standardising_is_a_temperature_of_its_own_for_each_row():
    student, teacher = pair()
    standard = standardize_logits(student), standardize_logits(teacher)
    by_hand = [z / (z.std(-1, correction=0, keepdim=True) + 1e-7) for z in (student, teacher)]
    assert torch.allclose(kl_divergence(*standard, 2.0), kl_divergence(*by_hand, 2.0), rtol=TIGHT)


@pytest.mark.usefixtures("watched")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("level", [0.0, 0.1, -1234.567, 1e20])
@pytest.mark.parametrize("classes", [1, 2, 7, 1000])
def test_constant_rows_are_zero_and_do_not_pull_even_beside_others(dtype, level, classes):
    logits = torch.full((2, classes), level, dtype=dtype)
    other = torch.linspace(-1, 1, classes, dtype=dtype)
    logits[1] = other
    assert torch.equal(standardize_logits(logits)[0], torch.zeros(classes, dtype=dtype))
    weights = torch.linspace(1, 2, classes, dtype=dtype).square()
    slope = gradient(lambda z: standardize_logits(z) * weights, logits)
    assert torch.equal(slope[0], torch.zeros(classes, dtype=dtype))
    assert slope[1].isfinite().all()
    assert torch.allclose(standardize_logits(logits)[1], standardize_logits(other))


def test_standardising_keeps_shape_scale_range_and_gradient():
    z = pair(6)[0].reshape(2, 3, 6)
    assert torch.equal(standardize_logits(z).reshape(6, 6), standardize_logits(z.reshape(6, 6)))
    huge = standardize_logits(z.float() * 1e30)
    assert torch.allclose(huge, standardize_logits(z.float()), rtol=1e-5)
    assert torch.autograd.gradcheck(standardize_logits, z.requires_grad_())

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from limbeck.losses import maps

# float64 sums of at most some 500 numbers of size 10: exact to 1e-13 of them
TIGHT = 1e-11
law = settings(max_examples=25, deadline=None, derandomize=True)


def pair(seed=0, shape=(3, 4, 5, 6), scale=1.0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return tuple(scale * torch.randn(shape, generator=generator, dtype=dtype) for _ in range(2))


def gradient(loss, student, *rest):
    student = student.clone().requires_grad_()
    return torch.autograd.grad(loss(student, *rest).sum(), student)[0]


def test_below_a_target_that_is_not_positive_nothing_is_paid_or_pulled():
    teacher = -pair()[0].abs() - 0.1
    student, margin = teacher.clamp_min(-0.5) - 1.0, torch.full((4,), -0.5, dtype=torch.float64)
    assert torch.equal(maps.ofd(student, teacher, margin), torch.zeros(3, dtype=torch.float64))
    assert torch.equal(gradient(maps.ofd, student, teacher, margin), torch.zeros_like(student))


def test_a_positive_target_and_a_student_above_it_are_paid_in_full():
    student, teacher = pair()
    none = torch.zeros(4, dtype=torch.float64)
    whole = (student - teacher.abs()).square().sum((1, 2, 3))
    assert torch.allclose(maps.ofd(student, teacher.abs(), none), whole, rtol=TIGHT)
    relu = (student.abs() - teacher.clamp_min(0)).square().sum((1, 2, 3))
    assert torch.allclose(maps.ofd(student.abs(), teacher, none), relu, rtol=TIGHT)


def test_a_teacher_below_the_margin_stands_at_the_margin():
    (student, teacher), margin = pair(), torch.full((4,), -0.3, dtype=torch.float64)
    lower = torch.where(teacher < -0.3, teacher - 5, teacher)
    assert torch.equal(maps.ofd(student, lower, margin), maps.ofd(student, teacher, margin))


def test_it_is_a_sum_over_the_elements():
    (student, teacher), margin = pair(), -torch.linspace(0, 1, 4, dtype=torch.float64)
    twice = [torch.cat([side, side], 2) for side in (student, teacher)]
    assert torch.allclose(maps.ofd(*twice, margin), 2 * maps.ofd(student, teacher, margin), rtol=TIGHT)


class TestNegativeMean:
    @law
    @given(st.floats(-1e6, 1e6), st.floats(1e-6, 1e6), st.floats(1e-3, 1e3))
    def test_it_is_below_zero_and_the_mean_and_scales_with_both(self, mean, std, scale):
        mean, std = torch.tensor([mean]).double(), torch.tensor([std]).double()
        value = maps.negative_mean(mean, std)
        assert value <= 0
        assert value <= mean + TIGHT * mean.abs()
        assert torch.allclose(maps.negative_mean(scale * mean, scale * std), scale * value, rtol=1e-9)
        assert torch.equal(maps.negative_mean(mean, -std), value)

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_it_rises_without_a_step_through_all_ratios(self, dtype):
        """Two formulas meet at a ratio of 4, where their errors are 16 eps: the steps of this ladder are larger."""
        ratio = torch.cat([torch.linspace(-50, 50, 2001), torch.linspace(3.99, 4.01, 41)]).to(dtype).sort().values
        value = maps.negative_mean(ratio, torch.ones_like(ratio))
        slope = value.diff() / ratio.diff()
        assert value.isfinite().all()
        assert value.diff().min() >= 0
        # the slope is the variance of the truncated normal over that of the whole, between 0 and 1; 1e-2 for rounding
        assert slope[ratio.diff() > 1e-6].max() <= 1 + 1e-2

    def test_limits(self):
        mean = torch.tensor([-1e30, -100.0, 100.0, 1e8, 1e30, 2.0, -2.0, 0.0], dtype=torch.float64)
        std = torch.tensor([1e-30, 1.0, 1.0, 1.0, 1e-30, 0.0, 0.0, 0.0], dtype=torch.float64)
        # 100 stds above 0 the tail is 1 / (r + 2 / (r + 3 / r)); at 1e8 its next term is lost
        tail = -1 / (100 + 2 / (100 + 3 / (100 + 4 / 100)))
        known = torch.tensor([-1e30, -100.0, tail, -1e-8, -1e-90, 0.0, -2.0, 0.0], dtype=torch.float64)
        assert torch.allclose(maps.negative_mean(mean, std), known, rtol=1e-12, atol=0)
        assert maps.negative_mean(torch.tensor([1e3]), torch.tensor([1.0])).item() == pytest.approx(-1e-3, rel=1e-5)

    def test_the_mean_of_the_whole_is_that_of_its_parts(self):
        """E[x] = P(x < 0) E[x | x < 0] + P(x > 0) E[x | x > 0], the latter by symmetry."""
        for r in (-3.0, -1.0, 0.0, 0.4, 2.0, 5.0):
            below = 0.5 * math.erfc(r / math.sqrt(2))
            m, one = torch.tensor([r, -r], dtype=torch.float64), torch.ones(2, dtype=torch.float64)
            low, high = maps.negative_mean(m, one)
            assert below * low.item() - (1 - below) * high.item() == pytest.approx(r, abs=1e-13)

    def test_no_gradient_reaches_the_normalisation(self):
        mean, std = torch.zeros(3, requires_grad=True), torch.ones(3, requires_grad=True)
        assert not maps.negative_mean(mean, std).requires_grad


def test_margins_are_one_a_channel():
    x = torch.zeros(3, 4, 5, 6)
    for margin in (torch.zeros(5), torch.zeros(1), torch.tensor(0.0)):
        with pytest.raises(ValueError, match="one a channel"):
            maps.ofd(x, x, margin)
    with pytest.raises(ValueError, match="same shape"):
        maps.negative_mean(torch.zeros(3), torch.ones(1))

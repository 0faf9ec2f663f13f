"""How alike features are, and which layers the rules pair by number or by that."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.fakes.layered import normal

from limbeck.losses.similarity import linear_cka, unit_kernel
from limbeck.objective.mapping import last, similar, uniform

law = settings(max_examples=40, deadline=None, derandomize=True)
# float64 kernels of at most 30 examples, of norm 1: rounding of some 1e-15
TIGHT = 1e-11


class TestCka:
    @law
    @given(st.integers(5, 30), st.integers(1, 9), st.integers(1, 9), st.integers(0, 99), st.floats(1e-3, 1e3))
    def test_it_does_not_see_rotations_shifts_and_scales_and_is_symmetric(self, rows, ours, theirs, seed, scale):
        x, y = normal(rows, ours, seed=seed), normal(rows, theirs, seed=seed + 100)
        y = y + x.mean(1, keepdim=True)
        value = linear_cka(x, y)
        assert value.shape == ()
        assert value.dtype == torch.float64
        assert abs(value) <= 1 + TIGHT
        turn = torch.linalg.qr(normal(ours, ours, seed=seed + 200))[0]
        assert torch.allclose(linear_cka(scale * (x @ turn) + 5, y), value, atol=TIGHT)
        assert torch.allclose(linear_cka(y, x), value, atol=TIGHT)
        order = torch.randperm(rows, generator=torch.Generator().manual_seed(seed))
        assert torch.allclose(linear_cka(x[order], y[order]), value, atol=TIGHT)
        assert torch.allclose(linear_cka(x, scale * (x @ turn) - 5), torch.ones((), dtype=torch.float64), atol=TIGHT)

    def test_it_sees_other_linear_maps_and_other_orders_of_the_examples(self):
        x = normal(20, 4)
        assert linear_cka(x, x * torch.tensor([10.0, 1, 1, 1])) < 0.9
        assert linear_cka(x, x.flip(0)).abs() < 0.5

    def test_unrelated_features_are_near_zero_on_either_side_of_it(self):
        values = torch.stack([linear_cka(normal(40, 100, seed=i), normal(40, 60, seed=i + 50)) for i in range(20)])
        # one value deviates by 1 / sqrt(40 * 39 / 2) = 0.036, the mean of twenty by 0.008
        assert values.abs().max() < 0.15
        assert values.mean().abs() < 0.03
        assert values.min() < 0 < values.max()

    def test_features_of_any_shape_are_flattened_and_half_precision_is_not_squared_in_its_own(self):
        x, y = normal(6, 2, 3, 3), normal(6, 4, 5, seed=1)
        assert torch.equal(linear_cka(x, y), linear_cka(x.flatten(1), y.flatten(1)))
        halves = (400 * x).half(), y.bfloat16()
        assert torch.equal(linear_cka(*halves), linear_cka(*(one.double() for one in halves)))

    @pytest.mark.parametrize("size", [1e-300, 1e-30, 1e30, 1e300])
    def test_neither_huge_nor_tiny_features_are_lost(self, size):
        x, y = normal(8, 3), normal(8, 4, seed=1)
        assert torch.allclose(linear_cka(size * x, y), linear_cka(x, y), atol=TIGHT)

    @pytest.mark.parametrize("value", [0.0, 0.1, 1e30])
    def test_constant_features_are_like_nothing_not_even_themselves(self, value):
        still = torch.full((7, 3), value)
        assert linear_cka(still, normal(7, 3)) == 0
        assert linear_cka(normal(7, 3), still) == 0
        assert linear_cka(still, still) == 0

    def test_examples_that_are_equally_far_apart_are_like_nothing(self):
        assert linear_cka(torch.eye(6), normal(6, 3)) == 0
        assert linear_cka(torch.eye(6), torch.eye(6)) == 0

    @pytest.mark.parametrize("rows", [0, 1, 2, 3])
    def test_fewer_than_four_examples_are_refused_with_their_number(self, rows):
        with pytest.raises(ValueError, match=rf"at least 4 examples.*\[{rows}, 2\]"):
            linear_cka(torch.zeros(rows, 2), torch.zeros(rows, 2))
        assert linear_cka(normal(4, 2), normal(4, 3)).isfinite()

    @pytest.mark.parametrize(("ours", "theirs"), [((5, 2), (6, 2)), ((5,), (5,)), ((5, 0), (5, 2))])
    def test_what_is_no_feature_of_the_same_examples_is_refused(self, ours, theirs):
        with pytest.raises(ValueError, match=r"\["):
            linear_cka(torch.zeros(ours), torch.zeros(theirs))

    def test_it_is_a_measure_without_gradient(self):
        assert not linear_cka(normal(5, 2).requires_grad_(), normal(5, 2).requires_grad_()).requires_grad
        kernel = unit_kernel(normal(9, 2))
        assert kernel.norm().item() == pytest.approx(1)
        # U-centred: rows sum to zero, and the diagonal is zero
        assert kernel.sum(0).abs().max() < 1e-14
        assert torch.equal(kernel.diagonal(), torch.zeros(9, dtype=torch.float64))


def rising(pairs, students, teachers):
    assert len(pairs) == min(students, teachers)
    for place, count in ((0, students), (1, teachers)):
        side = [pair[place] for pair in pairs]
        assert all(0 <= one < count for one in side)
        assert all(a < b for a, b in itertools.pairwise(side))


class TestRules:
    @law
    @given(st.integers(1, 40), st.integers(1, 40))
    def test_uniform_and_last_rise_and_end_with_the_last(self, students, teachers):
        for rule in (uniform, last):
            pairs = rule(students, teachers)
            rising(pairs, students, teachers)
            assert pairs[-1] == (students - 1, teachers - 1)
            assert rule(teachers, students) == [(b, a) for a, b in pairs]
        # no layer is further than half a layer from its even place
        small, large = sorted((students, teachers))
        for one, other in uniform(small, large):
            assert abs((other + 1) - (one + 1) * large / small) <= 0.5

    @pytest.mark.parametrize(
        ("students", "teachers", "numbers"),
        [
            (6, 12, [2, 4, 6, 8, 10, 12]),
            (4, 12, [3, 6, 9, 12]),
            (3, 3, [1, 2, 3]),
            (5, 12, [2, 5, 7, 10, 12]),  # 2.4, 4.8, 7.2, 9.6, 12
            (2, 5, [3, 5]),  # 2.5, and halves go up
            (4, 6, [2, 3, 5, 6]),  # 1.5, 3, 4.5, 6
            (1, 7, [7]),
        ],
    )
    def test_uniform_by_hand(self, students, teachers, numbers):
        assert uniform(students, teachers) == [(m, number - 1) for m, number in enumerate(numbers)]

    def test_last_by_hand(self):
        assert last(2, 5) == [(0, 3), (1, 4)]
        assert last(5, 2) == [(3, 0), (4, 1)]

    @pytest.mark.parametrize("rule", [uniform, last])
    def test_nothing_is_paired_with_nothing(self, rule):
        assert rule(0, 3) == rule(3, 0) == []

    @law
    @given(st.integers(1, 6), st.integers(1, 6), st.integers(0, 999), st.sampled_from([1, 8]))
    def test_similar_is_the_best_of_all_that_rise(self, students, teachers, seed, steps):
        # few steps make many ties
        cka = (normal(students, teachers, seed=seed) * steps).round() / steps
        pairs = similar(cka)
        rising(pairs, students, teachers)
        count = min(students, teachers)
        every = [
            list(zip(a, b, strict=True))
            for a in itertools.combinations(range(students), count)
            for b in itertools.combinations(range(teachers), count)
        ]
        sums = {tuple(one): sum(cka[a, b].item() for a, b in one) for one in every}
        assert sums[tuple(pairs)] == pytest.approx(max(sums.values()), abs=1e-12)  # of six numbers below 8

    def test_similar_by_hand(self):
        assert similar(torch.tensor([[0.9, 0.1, 0.2, 0.1], [0.8, 0.1, 0.7, 0.2]])) == [(0, 0), (1, 2)]
        assert similar(torch.tensor([[0.1, 0.9], [0.9, 0.1]])) == [(0, 0), (1, 1)]  # a crossing does not rise
        assert similar(torch.zeros(2, 4)) == [(0, 2), (1, 3)]
        assert similar(torch.zeros(0, 3)) == []

    @pytest.mark.parametrize("wrong", [torch.zeros(3), torch.tensor([[torch.nan]]), torch.tensor([[torch.inf, 0]])])
    def test_similar_refuses_what_has_no_largest_sum(self, wrong):
        with pytest.raises(ValueError, match="finite"):
            similar(wrong)

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from limbeck.losses import features

# float64 sums of at most some 200 numbers of size 10: exact to 1e-14 of them
TIGHT = 1e-11
SHAPES = [(3, 5), (3, 4, 5), (3, 5, 2, 3)]
law = settings(max_examples=25, deadline=None, derandomize=True)


def sobolev(student, teacher):
    return features.jacobian(student, teacher, normalize=False)


def likelihood(student, teacher):
    width = student.shape[1] if student.ndim == 4 else student.shape[-1]
    return features.vid(student, teacher, torch.linspace(0.5, 2, width, dtype=student.dtype))


DISTANCES = [features.simkd, features.squared_euclidean, features.cosine, features.jacobian, sobolev]
DIRECTIONS = [features.cosine, features.jacobian]
EVERY = [*DISTANCES, likelihood]


@st.composite
def pairs(draw):
    shape = tuple(draw(st.lists(st.integers(1, 5), min_size=2, max_size=4)))
    return pair(draw(st.integers(0, 2**31)), shape, draw(st.sampled_from([1e-3, 1.0, 10.0])))


def pair(seed=0, shape=(3, 5), scale=1.0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return tuple(scale * torch.randn(shape, generator=generator, dtype=dtype) for _ in range(2))


def gradient(loss, student, *rest):
    student = student.clone().requires_grad_()
    return torch.autograd.grad(loss(student, *rest).sum(), student)[0]


@pytest.mark.parametrize("loss", DISTANCES)
@law
@given(pairs())
def test_distances_are_zero_with_zero_gradient_at_a_match_and_never_negative(loss, sides):
    student, teacher = sides
    assert torch.equal(loss(teacher, teacher), torch.zeros(len(teacher), dtype=torch.float64))
    assert torch.equal(gradient(loss, teacher, teacher), torch.zeros_like(teacher))
    value = loss(student, teacher)
    assert value.shape == student.shape[:1]
    assert value.min() >= 0
    assert torch.allclose(value, loss(teacher, student), rtol=TIGHT)


@pytest.mark.parametrize("loss", EVERY)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_examples_stand_for_themselves_and_the_teacher_gets_no_gradient(loss, shape):
    student, teacher = (side.requires_grad_() for side in pair(shape=shape))
    value, turn = loss(student, teacher), torch.tensor([2, 0, 1])
    assert torch.equal(loss(student[turn], teacher[turn]), value[turn])
    assert torch.allclose(loss(student[:1], teacher[:1]), value[:1], rtol=TIGHT)
    value.sum().backward()
    assert student.grad.abs().sum() > 0
    assert teacher.grad is None


@pytest.mark.parametrize("loss", EVERY)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_gradients_are_those_of_the_values(loss, shape):
    student, teacher = pair(shape=shape)
    assert torch.autograd.gradcheck(lambda x: loss(x, teacher), student.requires_grad_())


@pytest.mark.parametrize("loss", [features.squared_euclidean, features.cosine, features.simkd, sobolev])
def test_a_common_rotation_and_the_order_of_positions_change_nothing(loss):
    student, teacher = pair(shape=(3, 4, 5))
    turn, _ = torch.linalg.qr(pair(7, (5, 5))[0])
    order = torch.tensor([2, 3, 0, 1])
    value = loss(student, teacher)
    assert torch.allclose(loss(student @ turn, teacher @ turn), value, rtol=TIGHT)
    assert torch.allclose(loss(student[:, order], teacher[:, order]), value, rtol=TIGHT)
    assert (loss(student[:, order], teacher) - value).abs().min() > 1e-3


@pytest.mark.parametrize("loss", [features.squared_euclidean, features.cosine, likelihood])
def test_maps_are_their_positions_as_tokens_and_vectors_a_single_token(loss):
    student, teacher = pair(shape=(3, 5, 2, 3))
    tokens = [side.flatten(2).transpose(1, 2) for side in (student, teacher)]
    assert torch.allclose(loss(student, teacher), loss(*tokens), rtol=TIGHT)
    vectors = [side[:, 0] for side in tokens]
    assert torch.allclose(loss(*vectors), loss(*[side[:, :1] for side in tokens]), rtol=TIGHT)


@law
@given(pairs())
def test_squared_euclidean_is_hint_times_the_number_of_features(sides):
    width = sides[0].shape[1] if sides[0].ndim == 4 else sides[0].shape[-1]
    assert torch.allclose(features.squared_euclidean(*sides), width * features.hint(*sides), rtol=TIGHT)


@pytest.mark.parametrize("loss", DIRECTIONS)
@law
@given(pairs(), st.floats(1e-6, 1e6), st.floats(1e-6, 1e6))
def test_directions_do_not_see_positive_scales_and_an_opposite_is_furthest(loss, sides, a, b):
    student, teacher = sides
    most = 2 if loss is features.cosine else 4
    assert torch.allclose(loss(a * student, b * teacher), loss(student, teacher), rtol=1e-9, atol=1e-12)
    assert torch.allclose(loss(-a * student, student), torch.full((len(student),), float(most)).double())
    assert loss(student, teacher).max() <= most + TIGHT
    # blind to the student's scale: the gradient has no part along the student
    assert (gradient(loss, student, teacher) * student).sum().abs() < TIGHT


@pytest.mark.parametrize("loss", DIRECTIONS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("size", [1e-30, 1e-20, 1e20, 1e37])
def test_directions_of_very_small_and_large_vectors(loss, dtype, size):
    """The squares of these sizes leave float32 on either side."""
    student, teacher = pair(dtype=dtype)
    close = 100 * torch.finfo(dtype).eps  # five features, rounded a few times each
    assert torch.allclose(loss(size * student, teacher), loss(student, teacher), rtol=close)
    assert torch.allclose(loss(student, size * teacher), loss(student, teacher), rtol=close)
    assert gradient(loss, size * student, size * teacher).isfinite().all()


@pytest.mark.parametrize("loss", DIRECTIONS)
@pytest.mark.parametrize("tiny", [0.0, 1e-40, 1e-45])
def test_a_vector_of_zeros_matches_zeros_and_is_at_a_right_angle_to_all_else(loss, tiny):
    """1e-45, the least float32, counts as zero: the gradient of its direction would be infinite."""
    something, zeros = pair(dtype=torch.float32)[0], torch.full((3, 5), tiny)
    one, none = torch.ones(3), torch.zeros(3)
    assert torch.allclose(loss(zeros, something), one)
    assert torch.allclose(loss(something, zeros), one)
    assert torch.equal(loss(zeros, torch.zeros(3, 5)), none)
    for sides in ((zeros, something), (something, zeros), (zeros, zeros)):
        assert gradient(loss, *sides).abs().max() < 1e-6  # float32 directions of vectors of length 1 and more


@pytest.mark.parametrize("loss", EVERY)
def test_constant_features_and_one_element_are_finite(loss):
    for shape in ((1, 1), (1, 1, 1), (1, 1, 1, 1), (4, 3, 2)):
        for a, b in itertools.product((0.0, 1.0, -1.0), repeat=2):
            student, teacher = (torch.full(shape, x, dtype=torch.float64) for x in (a, b))
            assert loss(student, teacher).isfinite().all()
            assert gradient(loss, student, teacher).isfinite().all()


@pytest.mark.parametrize("loss", [features.squared_euclidean, features.cosine])
def test_only_the_tokens_of_the_mask_count_even_beside_nan(loss):
    student, teacher = pair(shape=(3, 4, 5))
    mask = torch.tensor([[1, 1, 1, 1], [0, 1, 1, 0], [0, 0, 0, 0]]).bool()
    clean = loss(student, teacher, mask)
    assert torch.allclose(clean[:1], loss(student[:1], teacher[:1]), rtol=TIGHT)
    assert torch.allclose(clean[1:2], loss(student[1:2, 1:3], teacher[1:2, 1:3]), rtol=TIGHT)
    assert clean[2] == 0
    slope = gradient(loss, student, teacher, mask)
    assert torch.equal(slope[~mask], torch.zeros(6, 5, dtype=torch.float64))
    for side in (0, 1):
        dirty = [student.clone(), teacher.clone()]
        dirty[side][~mask] = torch.nan
        assert torch.equal(loss(*dirty, mask), clean)
        assert torch.equal(gradient(loss, *dirty, mask), slope)


class TestVariance:
    """What a learnt variance does to the likelihood of the teacher."""

    def test_at_a_match_it_is_half_the_mean_log_variance_and_can_be_negative(self):
        teacher, _ = pair(shape=(3, 4, 5))
        variance = torch.tensor([0.1, 0.2, 0.5, 1.0, 0.3], dtype=torch.float64)
        value = features.vid(teacher, teacher, variance)
        assert torch.allclose(value, (variance.log().mean() / 2).expand(3), rtol=TIGHT)
        assert value.max() < 0
        slope = gradient(features.vid, teacher, teacher, variance)
        assert torch.equal(slope, torch.zeros_like(teacher))

    @pytest.mark.parametrize("shape", SHAPES, ids=str)
    def test_the_best_variance_is_each_channels_mean_squared_error(self, shape):
        student, teacher = pair(shape=shape)
        others = (0, 2, 3) if len(shape) == 4 else tuple(range(len(shape) - 1))
        best = (student - teacher).square().mean(others).requires_grad_()
        (slope,) = torch.autograd.grad(features.vid(student, teacher, best).mean(), best)
        assert slope.abs().max() < TIGHT
        for factor in (0.5, 0.9, 1.1, 2.0):
            assert features.vid(student, teacher, factor * best).mean() > features.vid(student, teacher, best).mean()

    def test_a_variance_of_one_leaves_half_the_mean_square(self):
        student, teacher = pair(shape=(3, 5, 2, 3))
        half = features.hint(student, teacher) / 2
        assert torch.allclose(features.vid(student, teacher, torch.ones(5).double()), half, rtol=TIGHT)

    def test_its_gradient_is_that_of_the_value(self):
        student, teacher = pair(shape=(2, 5, 2, 2))
        variance = torch.linspace(0.5, 2, 5, dtype=torch.float64).requires_grad_()
        assert torch.autograd.gradcheck(lambda v: features.vid(student, teacher, v), variance)


class TestInputGradients:
    def test_on_linear_models_matching_them_is_noise_on_the_input(self):
        """E[(f_s(x + e) - f_t(x + e))^2] = (f_s - f_t)^2 + sigma^2 |J_s - J_t|^2 for white noise of any size."""
        generator, sigma = torch.Generator().manual_seed(5), 0.7
        (w_s, w_t), (b_s, b_t) = pair(1, (3,)), pair(2, (1,))
        x = torch.randn(4, 3, generator=generator, dtype=torch.float64).requires_grad_()
        outputs = [x @ w + b for w, b in ((w_s, b_s), (w_t, b_t))]
        slopes = [torch.autograd.grad(f.sum(), x)[0] for f in outputs]
        expected = (outputs[0] - outputs[1]).square() + sigma**2 * sobolev(*slopes)
        # Gauss-Hermite with two nodes a dimension is exact for this polynomial of degree 2
        nodes, weights = np.polynomial.hermite_e.hermegauss(2)
        weights = weights / weights.sum()
        mean = torch.zeros(4, dtype=torch.float64)
        for places in itertools.product(range(2), repeat=3):
            noisy = x + sigma * torch.from_numpy(nodes[list(places)])
            gap = (noisy @ w_s + b_s) - (noisy @ w_t + b_t)
            mean = mean + math.prod(weights[list(places)]) * gap.square()
        assert torch.allclose(mean, expected, rtol=TIGHT)

    def test_the_students_weights_learn_through_its_gradient(self):
        x = pair(3, (4, 3))[0].requires_grad_()
        w_s, w_t = (w.requires_grad_() for w in pair(1, (3,)))
        slopes = [torch.autograd.grad((x @ w).sum(), x, create_graph=True)[0] for w in (w_s, w_t)]
        sobolev(*slopes).mean().backward()
        assert torch.allclose(w_s.grad, 2 * (w_s - w_t).detach(), rtol=TIGHT)
        assert w_t.grad is None

    def test_normalised_it_is_twice_one_minus_the_cosine_over_the_example(self):
        student, teacher = pair(shape=(3, 4, 5))
        flat = [side.flatten(1) for side in (student, teacher)]
        assert torch.allclose(features.jacobian(student, teacher), 2 * features.cosine(*flat), rtol=TIGHT)


@pytest.mark.parametrize("loss", EVERY)
@pytest.mark.parametrize("other", [(3, 1), (2, 5), (3, 5, 1), (5,)], ids=str)
def test_shapes_that_do_not_agree_are_refused_with_both_of_them(loss, other):
    with pytest.raises(ValueError, match="same shape") as caught:
        loss(torch.zeros(3, 5), torch.zeros(other))
    assert "[3, 5]" in str(caught.value)
    assert str(list(other)) in str(caught.value)


def test_other_shapes_that_cannot_be():
    vectors, tokens, volumes = torch.zeros(3, 5), torch.zeros(3, 4, 5), torch.zeros(3, 1, 1, 1, 5)
    for variance in (torch.ones(4), torch.ones(1), torch.tensor(1.0), torch.ones(1, 5)):
        with pytest.raises(ValueError, match="one a channel"):
            features.vid(tokens, tokens, variance)
    for loss in (features.cosine, features.squared_euclidean):
        with pytest.raises(ValueError, match="a feature is"):
            loss(volumes, volumes)
        for feature, mask in ((vectors, (3,)), (vectors, (3, 5)), (tokens, (3, 1)), (tokens, (3, 4, 5))):
            with pytest.raises(ValueError, match="a mask is"):
                loss(feature, feature, torch.ones(mask).bool())

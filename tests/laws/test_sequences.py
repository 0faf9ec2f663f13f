import inspect
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.fakes.divergences import CASES
from torch.nn import functional as F

from limbeck import losses
from limbeck.losses import divergences as d
from limbeck.losses.offer import Offer
from limbeck.losses.responses import elementwise_kl
from limbeck.losses.sequences import NO_LABEL, next_tokens

# float64, at most 16 classes and logits of some 10: terms below 100 are exact to 1e-14, alpha beta >= 0.14 magnifies
TIGHT = 1e-11
INF = float("inf")
law = settings(max_examples=20, deadline=None, derandomize=True)
few = settings(
    max_examples=6, deadline=None, derandomize=True
)  # of each of many cases, up to six distributions an example
each = pytest.mark.parametrize(("loss", "definition", "parameters"), CASES.values(), ids=CASES.keys())
sparse = pytest.mark.parametrize(
    ("loss", "definition", "parameters"),
    [case for case in CASES.values() if case[1].reads <= Offer.OUTCOMES],
    ids=[name for name, case in CASES.items() if case[1].reads <= Offer.OUTCOMES],
)


@st.composite
def logits(draw):
    """Of a student and a teacher, [B, T, V]."""
    shape = draw(st.integers(1, 2)), draw(st.integers(1, 3)), draw(st.integers(2, 16))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    scale = draw(st.sampled_from([0.01, 1.0, 5.0]))
    return tuple(scale * torch.randn(2, *shape, generator=generator, dtype=torch.float64))


def pair(shape=(2, 3, 7), seed=0, scale=2.0, dtype=torch.float64):
    return tuple(scale * torch.randn(2, *shape, generator=torch.Generator().manual_seed(seed), dtype=dtype))


def gradient(loss, student, *rest):
    student = student.clone().requires_grad_()
    return torch.autograd.grad(loss(student, *rest).sum(), student)[0]


def parts(definition, student, teacher):
    """Contributions and slopes, and the student's log-probabilities that autograd follows; nothing ties these to sum to 1."""
    log_q = d.log_probabilities(student).requires_grad_()
    log_p = d.log_probabilities(teacher)
    return *definition.parts(log_q, log_q.exp(), log_p, log_p.exp()), log_q


def frozen(definition, student, teacher):
    """The loss as a function of the student's logits; what is a constant to the gradient stays what it is at ``student``."""
    if not hasattr(definition, "_share"):
        return lambda z: d.dense(definition, z, teacher)
    share = definition._share(student.softmax(-1), teacher.softmax(-1))
    return lambda z: share * losses.forward_kl(z, teacher) + (1 - share) * losses.reverse_kl(z, teacher)


# the definitions


def test_every_divergence_is_here():
    defined = {
        one for _, one in inspect.getmembers(d, inspect.isclass) if hasattr(one, "reads") and one is not d.Divergence
    }
    assert defined == {definition for _, definition, _ in CASES.values()}


@each
def test_a_function_is_its_definition_with_the_same_defaults(loss, definition, parameters):
    student, teacher = pair()
    assert torch.equal(loss(student, teacher, *parameters), d.dense(definition(*parameters), student, teacher))
    assert torch.equal(loss(student, teacher), d.dense(definition(), student, teacher))
    named = dict(zip(list(inspect.signature(loss).parameters)[2:], parameters, strict=True))
    assert definition(**named) == definition(*parameters)


@each
@few
@given(sides=logits())
def test_slopes_are_the_derivatives_of_the_sum_of_contributions(loss, definition, parameters, sides):
    contributions, slopes, log_q = parts(definition(*parameters), *sides)
    assert contributions.shape == slopes.shape == log_q.shape
    (theirs,) = torch.autograd.grad(contributions.sum(), log_q)
    assert torch.allclose(slopes, theirs, rtol=TIGHT, atol=TIGHT)


@each
@few
@given(sides=logits())
def test_the_gradient_is_the_slope_less_q_times_the_sum_of_slopes(loss, definition, parameters, sides):
    _, slopes, log_q = parts(definition(*parameters), *sides)
    closed = slopes - log_q.exp() * slopes.sum(-1, keepdim=True)
    assert torch.allclose(gradient(loss, *sides, *parameters), closed, rtol=TIGHT, atol=TIGHT)


@each
def test_the_gradient_is_that_of_finite_differences(loss, definition, parameters):
    student, teacher = pair((1, 2, 5))
    student.requires_grad_()
    loose = frozen(definition(*parameters), student.detach(), teacher)
    assert torch.autograd.gradcheck(loose, student)
    ours = torch.autograd.grad(loss(student, teacher, *parameters).sum(), student)[0]
    assert torch.allclose(ours, torch.autograd.grad(loose(student).sum(), student)[0], rtol=TIGHT, atol=TIGHT)


@each
def test_the_teacher_gets_no_gradient(loss, definition, parameters):
    student, teacher = pair()
    student.requires_grad_()
    teacher.requires_grad_()
    loss(student, teacher, *parameters).sum().backward()
    assert teacher.grad is None


# what every divergence does


@each
@few
@given(sides=logits())
def test_zero_with_a_zero_gradient_at_a_match(loss, definition, parameters, sides):
    (z, _) = sides
    assert loss(z, z, *parameters).abs().max() < TIGHT
    assert gradient(loss, z, z, *parameters).abs().max() < TIGHT


@each
@few
@given(sides=logits())
def test_never_negative(loss, definition, parameters, sides):
    student, teacher = sides
    value = loss(student, teacher, *parameters)
    assert value.shape == student.shape[:-1]
    assert value.min() >= -TIGHT
    assert ((value > 0) | ((student.softmax(-1) - teacher.softmax(-1)).abs().amax(-1) < 1e-3)).all()


@each
@few
@given(sides=logits(), shift=st.floats(-50, 50))
def test_a_constant_on_either_side_is_not_seen(loss, definition, parameters, sides, shift):
    student, teacher = sides
    value = loss(student, teacher, *parameters)
    for moved in ((student + shift, teacher), (student, teacher + shift), (student + shift, teacher - shift)):
        # logits of 50 are rounded to 1e-14, which moves a value by its slope times that
        assert torch.allclose(loss(*moved, *parameters), value, rtol=TIGHT, atol=TIGHT)


@each
@few
@given(sides=logits(), seed=st.integers(0, 99))
def test_the_order_of_the_vocabulary_does_not_matter(loss, definition, parameters, sides, seed):
    order = torch.randperm(sides[0].shape[-1], generator=torch.Generator().manual_seed(seed))
    moved = (z[..., order] for z in sides)
    assert torch.allclose(loss(*moved, *parameters), loss(*sides, *parameters), rtol=TIGHT, atol=TIGHT)


@each
def test_tokens_do_not_meet(loss, definition, parameters):
    student, teacher = pair((2, 3, 7))
    alone = torch.stack(
        [
            torch.stack([loss(s, t, *parameters) for s, t in zip(*two, strict=True)])
            for two in zip(student, teacher, strict=True)
        ]
    )
    assert torch.allclose(loss(student, teacher, *parameters), alone, atol=TIGHT)


@each
def test_no_tokens_and_one_class(loss, definition, parameters):
    assert loss(*pair((2, 0, 5)), *parameters).shape == (2, 0)
    assert gradient(loss, *pair((2, 0, 5)), *parameters).shape == (2, 0, 5)
    student, teacher = pair((2, 3, 1))
    assert torch.equal(loss(student, teacher, *parameters), torch.zeros(2, 3, dtype=torch.float64))
    assert torch.equal(gradient(loss, student, teacher, *parameters), torch.zeros_like(student))


@each
def test_nothing_depends_on_where_tensors_lie(loss, definition, parameters):
    student, teacher = pair((3, 2, 7))
    lying = [z.permute(2, 0, 1).contiguous().permute(1, 2, 0) for z in (student, teacher)]
    kept = student.clone(), teacher.clone()
    assert torch.allclose(loss(*lying, *parameters), loss(student, teacher, *parameters), atol=TIGHT)
    assert torch.equal(student, kept[0])
    assert torch.equal(teacher, kept[1])


# masked vocabularies


@each
def test_what_both_sides_mask_is_as_if_it_were_not_there(loss, definition, parameters):
    student, teacher = pair((2, 3, 9))
    there = torch.tensor([0, 1, 4, 5, 6, 8])
    masked = [torch.full_like(z, -INF).index_copy(-1, there, z[..., there]) for z in (student, teacher)]
    reduced = [z[..., there] for z in (student, teacher)]
    assert torch.allclose(loss(*masked, *parameters), loss(*reduced, *parameters), rtol=TIGHT, atol=TIGHT)
    slope = gradient(loss, *masked, *parameters)
    assert torch.allclose(slope[..., there], gradient(loss, *reduced, *parameters), rtol=TIGHT, atol=TIGHT)
    assert (slope[..., [2, 3, 7]] == 0).all()


@each
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
@pytest.mark.parametrize("side", ["student", "teacher", "both"])
def test_masks_that_differ_give_finite_values_and_gradients(loss, definition, parameters, side, dtype):
    student, teacher = pair((2, 3, 9), dtype=dtype)
    if side != "teacher":
        student[..., 2:4] = -INF
    if side != "student":
        teacher[..., 3:6] = -INF
    for sides in ((student, teacher), (student, student.roll(3, -1))):
        assert loss(*sides, *parameters).isfinite().all()
        assert loss(*sides, *parameters).min() > 0
        slope = gradient(loss, *sides, *parameters)
        assert slope.isfinite().all()
        assert (slope[sides[0] == -INF] == 0).all()
        assert slope.abs().amax(-1).min() > 0


@each
@pytest.mark.parametrize("gap", [95.0, 150.0, 1000.0])
def test_probabilities_too_small_for_float32_are_as_in_float64(loss, definition, parameters, gap):
    """exp(-95) is subnormal in float32, exp(-150) is 0; logarithms still tell them apart."""
    student, teacher = pair((2, 3, 6), dtype=torch.float32)
    student[..., 1], teacher[..., 2] = -gap, -gap
    student[..., 3], teacher[..., 3] = -gap, -gap - 20
    wide = student.double(), teacher.double()
    # logits of 1000 are exact to 6e-5, and so are differences of their log-probabilities
    close = {"rtol": 1e-4, "atol": 1e-5}
    assert torch.allclose(loss(student, teacher, *parameters).double(), loss(*wide, *parameters), **close)
    _, slopes, _ = parts(definition(*parameters), student, teacher)
    _, exact, _ = parts(definition(*parameters), *wide)
    assert torch.allclose(slopes.double(), exact, **close)


# what some divergences do


@law
@given(logits())
def test_pinsker(sides):
    """``KL >= 2 TV^2``, in both directions, so also for what lies between."""
    least = 2 * losses.total_variation(*sides).square()
    for loss in (losses.forward_kl, losses.reverse_kl, losses.adaptive_kl):
        assert (loss(*sides) - least).min() >= -TIGHT


@law
@given(logits(), st.floats(0.01, 0.99))
def test_bounds(sides, share):
    for loss in (losses.skew_kl, losses.skew_reverse_kl):
        assert loss(*sides, share).max() <= -math.log(share) + TIGHT
    assert losses.jensen_shannon(*sides).max() <= math.log(2) + TIGHT
    entropy = -share * math.log(share) - (1 - share) * math.log(1 - share)
    assert losses.jensen_shannon(*sides, share).max() <= entropy + TIGHT
    assert losses.total_variation(*sides).max() <= 1 + TIGHT


def test_bounds_are_reached_by_distributions_that_share_nothing():
    student = torch.tensor([[[0.0, 0.0, -INF, -INF]]], dtype=torch.float64)
    teacher = student.flip(-1)
    assert losses.skew_kl(student, teacher, 0.3).item() == pytest.approx(-math.log(0.3), rel=1e-14)
    assert losses.skew_reverse_kl(student, teacher, 0.3).item() == pytest.approx(-math.log(0.3), rel=1e-14)
    assert losses.jensen_shannon(student, teacher).item() == pytest.approx(math.log(2), rel=1e-14)
    assert losses.total_variation(student, teacher).item() == pytest.approx(1, rel=1e-14)


@law
@given(logits(), st.floats(0.01, 0.99))
def test_exchanged_sides(sides, share):
    student, teacher = sides
    for loss, mirrored in (
        (lambda s, t: losses.jensen_shannon(s, t, share), lambda s, t: losses.jensen_shannon(s, t, 1 - share)),
        (
            lambda s, t: losses.continuous_jensen_shannon(s, t, share),
            lambda s, t: losses.continuous_jensen_shannon(s, t, 1 - share),
        ),
        (losses.forward_kl, losses.reverse_kl),
        (lambda s, t: losses.skew_kl(s, t, share), lambda s, t: losses.skew_reverse_kl(s, t, share)),
        (losses.total_variation, losses.total_variation),
        (lambda s, t: losses.alpha_beta(s, t, 0.3, share), lambda s, t: losses.alpha_beta(s, t, share, 0.3)),
    ):
        # alpha beta >= 0.003 magnifies
        assert torch.allclose(loss(student, teacher), mirrored(teacher, student), rtol=TIGHT, atol=10 * TIGHT)


def test_jensen_shannon_vanishes_at_its_ends_and_only_its_slope_there_is_a_kl():
    sides = pair(scale=1.0)
    forward, backward = losses.forward_kl(*sides), losses.reverse_kl(*sides)
    for end, limit in ((lambda e: e, forward), (lambda e: 1 - e, backward)):
        values = [losses.jensen_shannon(*sides, end(e)) for e in (1e-2, 1e-3, 1e-4)]
        assert values[2].max() < 1e-3
        errors = [
            ((value / e - limit).abs() / limit).max().item()
            for value, e in zip(values, (1e-2, 1e-3, 1e-4), strict=True)
        ]
        # the first order of the expansion remains; rounding is 1e-16 / e, far below it
        assert errors[2] < 1e-3
        assert errors[1] / errors[0] == pytest.approx(0.1, rel=0.2)
        assert errors[2] / errors[1] == pytest.approx(0.1, rel=0.2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
def test_the_continuous_variant_is_a_kl_at_its_ends_to_the_bit_and_does_not_jump(dtype):
    sides = pair(scale=1.0, dtype=dtype)
    for end, limit in ((lambda e: e, losses.forward_kl), (lambda e: 1 - e, losses.reverse_kl)):
        assert torch.equal(losses.continuous_jensen_shannon(*sides, end(0.0)), limit(*sides))
        exact = gradient(limit, *sides)
        assert torch.equal(gradient(losses.continuous_jensen_shannon, *sides, end(0.0)), exact)
        near = [losses.continuous_jensen_shannon(*sides, end(e)) for e in (1e-2, 1e-3, 1e-4)]
        errors = [((value - limit(*sides)).abs() / limit(*sides)).max() for value in near]
        assert errors[2] < 5e-3
        assert errors[2] < errors[1] < errors[0]
        slopes = [gradient(losses.continuous_jensen_shannon, *sides, end(e)) for e in (1e-2, 1e-4)]
        assert (slopes[1] - exact).abs().max() < (slopes[0] - exact).abs().max() / 50


@pytest.mark.parametrize("sides", [pair(), pair((1, 1, 2)), pair(scale=30.0)], ids=["plain", "two", "far"])
def test_special_cases(sides):
    forward, backward = losses.forward_kl(*sides), losses.reverse_kl(*sides)
    assert torch.equal(losses.skew_kl(*sides, 0.0), forward)
    assert torch.equal(losses.skew_reverse_kl(*sides, 0.0), backward)
    close = {"rtol": TIGHT, "atol": TIGHT}
    assert torch.allclose(losses.alpha_beta(*sides, 1, 0), forward, **close)
    assert torch.allclose(losses.alpha_beta(*sides, 0, 1), backward, **close)
    assert torch.allclose(gradient(losses.alpha_beta, *sides, 1, 0), gradient(losses.forward_kl, *sides), **close)
    assert torch.allclose(gradient(losses.alpha_beta, *sides, 0, 1), gradient(losses.reverse_kl, *sides), **close)
    halves = losses.continuous_jensen_shannon(*sides, 0.5)
    assert torch.allclose(losses.jensen_shannon(*sides, 0.5), halves, **close)
    p, q = sides[1].softmax(-1), sides[0].softmax(-1)
    assert torch.allclose(losses.total_variation(*sides), 1 - torch.minimum(p, q).sum(-1), **close)


@law
@given(logits(), st.floats(0.5, 20))
def test_temperatures(sides, t):
    assert torch.allclose(losses.forward_kl(*sides), losses.kl_divergence(*sides), rtol=TIGHT, atol=TIGHT)
    student, teacher = sides
    softened = t**2 * losses.forward_kl(student / t, teacher / t)
    # the square of 20 magnifies
    assert torch.allclose(softened, losses.kl_divergence(student, teacher, t), rtol=TIGHT, atol=400 * TIGHT)


def test_both_definitions_of_the_forward_kl_agree():
    student, teacher = pair()
    teacher[..., 2] = -INF
    student[..., 3] = teacher[..., 3] = -INF
    logs = d.log_probabilities(student), d.log_probabilities(teacher)
    ours, _ = d.ForwardKl().parts(logs[0], logs[0].exp(), logs[1], logs[1].exp())
    theirs = elementwise_kl(student.log_softmax(-1), teacher.log_softmax(-1))
    assert torch.allclose(ours, theirs, rtol=1e-15, atol=0)


# data processing: why some divergences may be read over a few outcomes and a tail


def merged(z, group):
    """Logits of the distribution in which the classes of a group are one."""
    return torch.stack([z[..., group == one].logsumexp(-1) for one in group.unique()], -1)


@sparse
@few
@given(sides=logits(), seed=st.integers(0, 2**31), groups=st.integers(1, 6))
def test_merging_classes_never_increases_a_divergence(loss, definition, parameters, sides, seed, groups):
    group = torch.randint(groups, (sides[0].shape[-1],), generator=torch.Generator().manual_seed(seed))
    coarse = loss(*(merged(z, group) for z in sides), *parameters)
    assert (coarse <= loss(*sides, *parameters) + TIGHT).all()


@sparse
def test_a_top_and_a_tail_are_equal_to_all_where_the_tail_is_one_class(loss, definition, parameters):
    sides = pair((2, 3, 7))
    group = torch.arange(7)
    assert torch.allclose(loss(*(merged(z, group) for z in sides), *parameters), loss(*sides, *parameters), atol=TIGHT)


def test_merging_classes_may_increase_alpha_beta_so_it_reads_every_class():
    group = torch.tensor([0, 1, 1])
    teacher = torch.tensor([[[0.05, 0.45, 0.5]]], dtype=torch.float64).log()
    student = torch.tensor([[[0.9, 0.05, 0.05]]], dtype=torch.float64).log()
    coarse = losses.alpha_beta(merged(student, group), merged(teacher, group), 2.0, 0.5)
    assert coarse > losses.alpha_beta(student, teacher, 2.0, 0.5) + 0.2
    # where p / q is the same in all classes that are merged, nothing is lost, and an f-divergence stays what it is
    teacher = torch.tensor([[[0.2, 0.4, 0.4]]], dtype=torch.float64).log()
    student = torch.tensor([[[0.6, 0.2, 0.2]]], dtype=torch.float64).log()
    before, after = (student, teacher), (merged(student, group), merged(teacher, group))
    assert losses.alpha_beta(*after) < losses.alpha_beta(*before) - 5e-3
    assert torch.allclose(losses.forward_kl(*after), losses.forward_kl(*before), atol=TIGHT)
    assert d.AlphaBeta.reads == Offer.ROWS


def test_merging_classes_may_increase_adaptive_kl_so_it_reads_every_class():
    teacher = torch.tensor([[[0.2, 0.3, 0.5]]], dtype=torch.float64).log()
    student = torch.tensor([[[0.9, 0.05, 0.05]]], dtype=torch.float64).log()
    group = torch.tensor([0, 1, 1])
    coarse = losses.adaptive_kl(merged(student, group), merged(teacher, group))
    assert coarse > losses.adaptive_kl(student, teacher) + 0.02
    assert d.AdaptiveKl.reads == Offer.ROWS


# next tokens


def test_next_tokens_by_hand():
    ids = torch.tensor([[5, 6, 7, 8, 0], [1, 2, 3, 4, 9]])
    counts = torch.tensor([[False, False, True, True, False], [False, True, True, True, True]])
    assert next_tokens(ids, counts).tolist() == [[NO_LABEL, 7, 8, NO_LABEL, NO_LABEL], [2, 3, 4, 9, NO_LABEL]]


@law
@given(st.integers(1, 4), st.integers(0, 3), st.integers(0, 5), st.integers(1, 4))
def test_padding_on_either_side_asks_for_the_same_tokens(prompt, left, right, answer):
    """Of a text with a prompt: the places of its own tokens say the same, and padding says nothing."""
    ids = torch.arange(10, 10 + prompt + answer)
    counts = torch.arange(prompt + answer) >= prompt
    alone = next_tokens(ids[None], counts[None])
    ours = next_tokens(*(F.pad(one, (left, right))[None] for one in (ids, counts)))
    assert torch.equal(ours[:, left : left + len(ids)], alone)
    assert (ours[:, :left] == NO_LABEL).all()
    assert (ours[:, left + len(ids) :] == NO_LABEL).all()
    assert alone[0, prompt - 1 : -1].tolist() == ids[prompt:].tolist()


def test_a_model_that_knows_the_next_token_has_no_loss_and_one_that_repeats_has_some():
    ids = torch.tensor([[3, 1, 4, 2, 6]])
    counts = torch.tensor([[False, True, True, True, True]])
    knowing = 100 * F.one_hot(ids.roll(-1, 1), 10).double()
    repeating = 100 * F.one_hot(ids, 10).double()
    assert losses.cross_entropy(knowing, next_tokens(ids, counts)).max() < 1e-12
    assert losses.cross_entropy(repeating, next_tokens(ids, counts))[:, :-1].min() > 99


@pytest.mark.parametrize("shape", [(2, 0), (0, 3), (2, 1)], ids=str)
def test_next_tokens_where_there_are_none(shape):
    ours = next_tokens(torch.ones(shape, dtype=torch.int64), torch.ones(shape, dtype=torch.bool))
    assert torch.equal(ours, torch.full(shape, NO_LABEL))


# bad parameters


@pytest.mark.parametrize(
    ("loss", "bad", "says"),
    [
        (losses.jensen_shannon, (0.0,), "forward_kl, reverse_kl, or the continuous variant"),
        (losses.jensen_shannon, (1.0,), "vanishes"),
        (losses.jensen_shannon, (1.5,), "between 0 and 1"),
        (losses.continuous_jensen_shannon, (-0.1,), "beta is -0.1, and must be at least 0"),
        (losses.continuous_jensen_shannon, (1.1,), "at most 1"),
        (losses.skew_kl, (1.0,), "alpha is 1.0, and must be at least 0 .* and below 1"),
        (losses.skew_kl, (-0.1,), "alpha is -0.1"),
        (losses.skew_reverse_kl, (1.0,), "both sides of the divergence are the same"),
        (losses.skew_reverse_kl, (float("nan"),), "alpha is nan"),
        (losses.adaptive_kl, (0.0,), "mass is 0.0, and must be between 0 and 1"),
        (losses.adaptive_kl, (1.0,), "mass is 1.0"),
        (losses.alpha_beta, (0.0, 0.0), "one of them must be above 0"),
        (losses.alpha_beta, (1.0, -1.0), "alpha is 1.0 and beta is -1.0; neither may be negative"),
        (losses.alpha_beta, (2.0, -1.0), "neither may be negative"),
        (losses.alpha_beta, (float("nan"), 1.0), "alpha is nan"),
        (losses.alpha_beta, (float("inf"), 1.0), "alpha is inf"),
    ],
)
def test_bad_parameters_are_named(loss, bad, says):
    with pytest.raises(ValueError, match=says):
        loss(*pair(), *bad)

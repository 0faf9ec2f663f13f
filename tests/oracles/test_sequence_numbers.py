"""Every token divergence against NumPy in float64, written from the papers' formulas: p = softmax(z_t), q = softmax(z_s)."""

import numpy as np
import pytest
import torch
from tests.fakes.divergences import CASES
from torch.nn import functional as F

from limbeck import losses
from limbeck.losses import divergences as d
from limbeck.losses.sequences import NO_LABEL, next_tokens

# Both sides are float64 and add at most 700 numbers below 100; alpha beta >= 0.14 magnifies
CLOSE = {"rtol": 1e-10, "atol": 1e-12}


def softmax(z):
    e = np.exp(z - z.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def kl(a, b, power=1.0):
    """``sum a^power log(a / b)`` of one row: 0 log 0 = 0, and infinite where b alone is 0."""
    return sum((x**power * (np.log(x) - np.log(y)) if y > 0 else np.inf) for x, y in zip(a, b, strict=True) if x > 0)


def jensen_shannon(p, q, beta):
    m = beta * p + (1 - beta) * q
    return beta * kl(p, m) + (1 - beta) * kl(q, m)


def continuous(p, q, beta):
    m = beta * p + (1 - beta) * q
    return (0 if beta == 1 else (1 - beta) * kl(p, m)) + (0 if beta == 0 else beta * kl(q, m))


def share_of_the_head(p, q, mass):
    """Wu et al. 2025: tokens join the head, the likeliest first, until it has the mass."""
    head, reached = [], 0.0
    for token in sorted(range(len(p)), key=lambda token: -p[token]):
        head.append(token)
        reached += p[token]
        if reached >= mass:
            break
    gap = np.abs(p - q)
    return gap[head].sum() / gap.sum() if gap.sum() > 0 else 0.5


def adaptive(p, q, mass):
    share = share_of_the_head(p, q, mass)
    return share * kl(p, q) + (1 - share) * kl(q, p)


def alpha_beta(p, q, a, b):
    """Cichocki, Cruces & Amari 2011; where a or b is 0, its limit there."""
    if b == 0:
        return (a * kl(p, q, a) - (p**a).sum() + (q**a).sum()) / a**2
    if a == 0:
        return alpha_beta(q, p, b, 0)
    s = a + b
    return -sum(x**a * y**b - a / s * x**s - b / s * y**s for x, y in zip(p, q, strict=True)) / (a * b)


ORACLES = {
    d.ForwardKl: kl,
    d.ReverseKl: lambda p, q: kl(q, p),
    d.JensenShannon: jensen_shannon,
    d.ContinuousJensenShannon: continuous,
    d.SkewKl: lambda p, q, alpha: kl(p, alpha * p + (1 - alpha) * q),
    d.SkewReverseKl: lambda p, q, alpha: kl(q, (1 - alpha) * p + alpha * q),
    d.TotalVariation: lambda p, q: 1 - np.minimum(p, q).sum(),
    d.AdaptiveKl: adaptive,
    d.AlphaBeta: alpha_beta,
}


@pytest.fixture(params=CASES.values(), ids=CASES.keys())
def case(request):
    public, definition, parameters = request.param
    return public, lambda p, q: ORACLES[definition](p, q, *parameters), parameters


def expected(oracle, student, teacher):
    flat = [z.reshape(-1, z.shape[-1]) for z in (student, teacher)]
    rows = [oracle(p, q) for q, p in zip(*map(softmax, flat), strict=True)]
    return np.array(rows).reshape(student.shape[:-1])


def drawn(shape, seed=0, scale=3.0):
    draw = np.random.default_rng(seed)
    return scale * draw.normal(size=shape), scale * draw.normal(size=shape)


@pytest.mark.parametrize("shape", [(2, 3, 12), (1, 4, 2), (1, 1, 300)], ids=str)
@pytest.mark.parametrize("scale", [0.1, 3.0])
def test_values(case, shape, scale):
    public, oracle, parameters = case
    student, teacher = drawn(shape, scale=scale)
    ours = public(torch.from_numpy(student), torch.from_numpy(teacher), *parameters)
    np.testing.assert_allclose(ours.numpy(), expected(oracle, student, teacher), **CLOSE)


def test_one_outcome_has_no_divergence(case):
    public, _, parameters = case
    student, teacher = (torch.randn(2, 3, 1, generator=torch.Generator().manual_seed(i)) for i in (0, 1))
    assert torch.equal(public(student, teacher, *parameters), torch.zeros(2, 3))


@pytest.mark.parametrize("side", ["student", "teacher", "overlapping"])
def test_masked_vocabularies_where_the_limit_is_finite_and_large_numbers_where_it_is_not(case, side):
    public, oracle, parameters = case
    student, teacher = drawn((2, 3, 8), scale=1.0)
    student[..., 2:4] = -np.inf if side != "teacher" else student[..., 2:4]
    teacher[..., 3:5] = -np.inf if side != "student" else teacher[..., 3:5]
    wanted = expected(oracle, student, teacher)
    ours = public(torch.from_numpy(student), torch.from_numpy(teacher), *parameters).numpy()
    known = np.isfinite(wanted)
    assert known.all() or not known.any()
    np.testing.assert_allclose(ours[known], wanted[known], **CLOSE)
    # the floor of -1e4 stands for minus infinity, and classes of this size have a probability above 0.01
    assert np.isfinite(ours).all()
    assert (ours[~known] > 10).all()


def test_numbers_worked_by_hand():
    # p = (3/4, 1/4), q = (1/2, 1/2), m = (5/8, 3/8)
    student, teacher = (
        torch.zeros(1, 1, 2, dtype=torch.float64),
        torch.tensor([[[3.0, 1.0]]], dtype=torch.float64).log(),
    )
    log = np.log
    forward = 0.75 * log(1.5) + 0.25 * log(0.5)
    backward = 0.5 * log(2 / 3) + 0.5 * log(2)
    shannon = 0.5 * (0.75 * log(6 / 5) + 0.25 * log(2 / 3)) + 0.5 * (0.5 * log(4 / 5) + 0.5 * log(4 / 3))
    by_hand = {
        losses.forward_kl: forward,
        losses.reverse_kl: backward,
        losses.jensen_shannon: shannon,
        losses.continuous_jensen_shannon: shannon,
        losses.total_variation: 0.25,
        # the head is the first outcome, and holds half of the difference
        losses.adaptive_kl: (forward + backward) / 2,
    }
    for loss, value in by_hand.items():
        assert loss(student, teacher).item() == pytest.approx(value, rel=1e-13)


# Teachers whose likeliest 256 tokens hold the mass, and such as need more of them: 700 that are almost equally likely
@pytest.mark.parametrize("scales", [(5.0, 5.0), (0.01, 0.01), (5.0, 0.01)], ids=["peaked", "flat", "both"])
@pytest.mark.parametrize("mass", [0.2, 0.5, 0.95])
def test_the_head_of_adaptive_kl_is_the_smallest_that_has_the_mass(scales, mass):
    student, teacher = drawn((1, 2, 700), seed=1, scale=1.0)
    teacher = teacher * np.array(scales)[:, None]
    ours = losses.adaptive_kl(torch.from_numpy(student), torch.from_numpy(teacher), mass)
    np.testing.assert_allclose(ours.numpy(), expected(lambda p, q: adaptive(p, q, mass), student, teacher), **CLOSE)


def test_a_token_that_just_reaches_the_mass_closes_the_head():
    # p = (1/2, 1/4, 1/4) to the bit: the first token has the mass alone; |p - q| = (1/4, 1/4, 0)
    log_p = torch.tensor([0.5, 0.25, 0.25], dtype=torch.float64).log()
    log_q = torch.tensor([0.25, 0.5, 0.25], dtype=torch.float64).log()
    share = d.AdaptiveKl(0.5)._share(log_q.exp(), log_p.exp())
    assert share.item() == pytest.approx(0.5, abs=1e-15)
    assert d.AdaptiveKl(0.51)._share(log_q.exp(), log_p.exp()).item() == pytest.approx(1.0, abs=1e-15)
    assert d.AdaptiveKl(0.5)._share(log_p.exp(), log_p.exp()).item() == 0.5


def test_the_gradient_of_adaptive_kl_is_that_of_both_kls_with_constant_weights():
    student, teacher = drawn((2, 3, 12))
    ours = torch.from_numpy(student).requires_grad_()
    losses.adaptive_kl(ours, torch.from_numpy(teacher)).sum().backward()
    share = expected(lambda p, q: share_of_the_head(p, q, 0.5), student, teacher)[..., None]
    p, q = softmax(teacher), softmax(student)
    gap = np.log(q) - np.log(p)
    forward, backward = q - p, q * (gap - (q * gap).sum(-1, keepdims=True))
    np.testing.assert_allclose(ours.grad.numpy(), share * forward + (1 - share) * backward, **CLOSE)


@pytest.mark.parametrize("fixed", [0.4, 1.0])
def test_alpha_beta_is_continuous_where_alpha_or_beta_is_zero(fixed):
    student, teacher = map(torch.from_numpy, drawn((2, 3, 12), scale=1.0))
    for limit, near in (
        (losses.alpha_beta(student, teacher, fixed, 0.0), lambda e: losses.alpha_beta(student, teacher, fixed, e)),
        (losses.alpha_beta(student, teacher, 0.0, fixed), lambda e: losses.alpha_beta(student, teacher, e, fixed)),
    ):
        errors = [(near(e) - limit).abs().max().item() for e in (1e-2, 1e-3, 1e-4)]
        # the first order of the expansion remains; rounding is 1e-16 / e, far below it
        assert errors[2] < 1e-3 * limit.max()
        assert errors[1] / errors[0] == pytest.approx(0.1, rel=0.1)
        assert errors[2] / errors[1] == pytest.approx(0.1, rel=0.1)


# Inputs are the same to the bit, so what differs is the rounding of each of 20 terms, which is of their size, and that of the
# value; alpha-beta divides by 0.14. Float16 has eps = 1e-3, bfloat16 8e-3.
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=["float16", "bfloat16"])
def test_half_precision_is_finite_and_near_float32(case, dtype):
    public, _, parameters = case
    student, teacher = (torch.from_numpy(z).to(dtype) for z in drawn((4, 5, 20), scale=2.0))
    wanted = public(student.float(), teacher.float(), *parameters)
    student.requires_grad_()
    ours = public(student, teacher, *parameters)
    assert ours.dtype == dtype
    (slope,) = torch.autograd.grad(ours.sum(), student)
    assert slope.isfinite().all()
    eps = torch.finfo(dtype).eps
    assert ((ours.float() - wanted).abs() <= 5 * eps * (1 + wanted)).all()
    student.data[..., 3], teacher[..., 3:5] = -np.inf, -np.inf
    ours = public(student, teacher, *parameters)
    assert ours.isfinite().all()
    assert torch.autograd.grad(ours.sum(), student)[0].isfinite().all()


def slow_next(ids, counts):
    rows, length = len(ids), len(ids[0])
    answer = [[NO_LABEL] * length for _ in range(rows)]
    for row in range(rows):
        for place in range(1, length):
            if counts[row][place]:
                answer[row][place - 1] = ids[row][place]
    return answer


@pytest.mark.parametrize("length", [1, 2, 7])
def test_next_tokens_against_a_loop(length):
    draw = np.random.default_rng(length)
    ids, counts = draw.integers(0, 50, (5, length)), draw.random((5, length)) < 0.6
    ours = next_tokens(torch.from_numpy(ids), torch.from_numpy(counts))
    assert ours.dtype == torch.int64
    assert ours.tolist() == slow_next(ids.tolist(), counts.tolist())


def test_what_next_tokens_says_is_what_torch_calls_shifted_labels():
    """The convention of causal language models: logits but the last against labels but the first."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(0, 9, (3, 6), generator=generator)
    counts = torch.rand(3, 6, generator=generator) < 0.7
    logits = torch.randn(3, 6, 9, generator=generator, dtype=torch.float64)
    labels = ids.where(counts, NO_LABEL)
    theirs = F.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), reduction="sum")
    ours = losses.cross_entropy(logits, next_tokens(ids, counts)).sum()
    assert ours.item() == pytest.approx(theirs.item(), rel=1e-13)

"""Objectives over the student's own texts against NumPy in float64, and against all 27 texts of three tokens from three.

A small world: next-token logits for each of the 13 prefixes, and 2 ends a text. What it costs to sum over all texts is nothing,
so that expectations are exact.
"""

import itertools
import math

import numpy as np
import pytest
import torch

from limbeck.losses import onpolicy as o
from limbeck.losses.sequences import reverse_kl, skew_kl, skew_reverse_kl

END, TEXTS = 2, list(itertools.product(range(3), repeat=3))
PREFIXES = {
    prefix: row for row, prefix in enumerate(t for n in range(3) for t in itertools.product(range(3), repeat=n))
}
IDS = torch.tensor(TEXTS)
ROWS = torch.tensor([[PREFIXES[text[:t]] for t in range(3)] for text in TEXTS])
MASK = o.until_end(IDS, [END])
# float64 sums of some 100 numbers of order 1
CLOSE = {"rtol": 1e-10, "atol": 1e-12}


def logits(seed, scale=1.5):
    return scale * torch.randn(13, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def of_tokens(table):
    """Log-probabilities [27, 3] of the tokens of all texts."""
    return torch.log_softmax(table, -1)[ROWS, IDS]


def softmax(z):
    e = np.exp(z - z.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def exact_kl(student, teacher, reached=None):
    """KL of texts: the reverse KL at each prefix that has not ended, by how often the student comes there."""
    q, p = softmax(student), softmax(teacher)
    reached, total = softmax(student) if reached is None else reached, 0.0
    for prefix, row in PREFIXES.items():
        if END not in prefix:
            chance = math.prod(reached[PREFIXES[prefix[:t]], token] for t, token in enumerate(prefix))
            total += chance * (q[row] * (np.log(q[row]) - np.log(p[row]))).sum()
    return total


def slope(function, at, step=1e-6):
    """Central differences: off by some step^2 and 1e-16 / step, so 1e-9."""
    found = np.zeros_like(at)
    for place in np.ndindex(at.shape):
        up, down = at.copy(), at.copy()
        up[place] += step
        down[place] -= step
        found[place] = (function(up) - function(down)) / (2 * step)
    return found


def expected(loss, student, teacher, sampler=None):
    """The mean over texts of the summed ``loss(log q, log p)`` and of its gradient, if ``sampler`` [27] writes them."""
    table = student.clone().requires_grad_()
    ours = of_tokens(table)
    weight = of_tokens(student).sum(-1).exp() if sampler is None else sampler
    torch.testing.assert_close(weight.sum().item(), 1.0)
    value = (weight * loss(ours, of_tokens(teacher)).sum(-1)).sum()
    return value.item(), torch.autograd.grad(value, table)[0].numpy()


def test_expected_rewards_are_minus_the_reverse_kl_of_texts():
    student, teacher = logits(0), logits(1)
    exact = exact_kl(student.numpy(), teacher.numpy())
    assert exact > 0.3
    first, _ = expected(lambda q, p: o.sampled_reverse_kl(q, p, MASK), student, teacher)
    assert first == pytest.approx(exact, rel=1e-12)
    plain = o.minillm_returns(of_tokens(student), of_tokens(teacher), MASK, 1.0, length_normalised=False)[:, 0]
    assert (of_tokens(student).sum(-1).exp() * plain).sum().item() == pytest.approx(-exact, rel=1e-12)


def test_with_gamma_1_the_sampled_gradient_is_that_of_the_reverse_kl_of_texts():
    student, teacher = logits(2), logits(3)
    _, found = expected(lambda q, p: o.sampled_reverse_kl(q, p, MASK, gamma=1.0), student, teacher)
    exact = slope(lambda z: exact_kl(z, teacher.numpy()), student.numpy())
    np.testing.assert_allclose(found, exact, rtol=1e-6, atol=1e-8)


def test_with_gamma_0_it_is_that_of_each_position_and_not_of_texts():
    student, teacher = logits(2), logits(3)
    _, found = expected(lambda q, p: o.sampled_reverse_kl(q, p, MASK), student, teacher)
    fixed = softmax(student.numpy())
    exact = slope(lambda z: exact_kl(z, teacher.numpy(), fixed), student.numpy())
    np.testing.assert_allclose(found, exact, rtol=1e-6, atol=1e-8)
    table = student.clone().requires_grad_()
    positions = torch.where(MASK, reverse_kl(table, teacher)[ROWS], 0.0).sum(-1)
    (of_sequences,) = torch.autograd.grad((of_tokens(student).sum(-1).exp() * positions).sum(), table)
    np.testing.assert_allclose(found, of_sequences.numpy(), **CLOSE)
    assert np.abs(found - slope(lambda z: exact_kl(z, teacher.numpy()), student.numpy())).max() > 0.01


def test_the_single_step_and_what_comes_after_are_the_whole_gradient():
    student, teacher = logits(4), logits(5)

    def later(q, p):
        returns = o.minillm_returns(q, p, MASK, 1.0, length_normalised=False, single_step=True)
        return o.policy_gradient_loss(q, q.detach(), returns, MASK, clip=None)

    _, beyond = expected(later, student, teacher)
    table = student.clone().requires_grad_()
    step = torch.where(MASK, reverse_kl(table, teacher)[ROWS], 0.0).sum(-1)
    (single,) = torch.autograd.grad((of_tokens(student).sum(-1).exp() * step).sum(), table)
    exact = slope(lambda z: exact_kl(z, teacher.numpy()), student.numpy())
    np.testing.assert_allclose(single.numpy() + beyond, exact, rtol=1e-6, atol=1e-8)


def test_the_mixtures_weights_undo_its_sampling():
    """Advantages of the token alone, over texts that a mixture wrote at its first token and the student after it."""
    student, teacher = logits(6), logits(7)
    q, p = of_tokens(student), of_tokens(teacher)
    mixed = o.mixed_log_probs(q, p, 0.2)
    np.testing.assert_allclose(mixed.exp(), 0.2 * p.exp() + 0.8 * q.exp(), **CLOSE)
    sampler = torch.cat([mixed[:, :1], q[:, 1:]], 1)
    only = MASK & torch.tensor([True, False, False])

    def loss(ours, theirs):
        returns = o.minillm_returns(ours, theirs, MASK, 1.0, length_normalised=False)
        return o.policy_gradient_loss(ours, sampler, returns, only, clip=None)

    _, found = expected(loss, student, teacher, sampler.sum(-1).exp())
    _, plain = expected(
        lambda ours, theirs: o.policy_gradient_loss(
            ours, ours, o.minillm_returns(ours, theirs, MASK, 1.0, length_normalised=False), only, clip=None
        ),
        student,
        teacher,
    )
    np.testing.assert_allclose(found, plain, **CLOSE)


def test_drawn_texts_give_the_exact_value_and_gradient_in_the_mean():
    student, teacher = logits(8), logits(9)
    draws = 20_000
    chosen = torch.multinomial(
        of_tokens(student).sum(-1).exp(), draws, True, generator=torch.Generator().manual_seed(0)
    )
    table = student.clone().requires_grad_()
    ours, theirs = of_tokens(table)[chosen], of_tokens(teacher)[chosen]
    value = o.sampled_reverse_kl(ours, theirs, MASK[chosen], gamma=1.0).sum(-1)
    exact = exact_kl(student.numpy(), teacher.numpy())
    # five standard errors: a right estimator is outside once in a million
    assert abs(value.mean().item() - exact) < 5 * value.std().item() / draws**0.5
    assert value.std().item() / draws**0.5 < 0.02 * exact, "a wrong sign or scale would show"
    found = torch.autograd.grad(value.mean(), table)[0].numpy()
    true = slope(lambda z: exact_kl(z, teacher.numpy()), student.numpy())
    scale = np.abs(true).max()
    assert scale > 0.1
    # a gradient of one text is at most some 10 for logits like these: 10 / sqrt(20000) = 0.07, and mostly a tenth of it
    np.testing.assert_allclose(found, true, atol=0.1 * scale, rtol=0)


def slow_returns(log_q, log_p, mask, gamma, normalised, single, clip):
    """From the formula, text by text, over the tokens that count."""
    found = np.zeros(log_q.shape)
    for row, counts in enumerate(mask):
        at = np.flatnonzero(counts)
        reward = np.clip(log_p[row, at] - log_q[row, at], -clip, clip)
        for place, t in enumerate(at):
            summed = [gamma**k * reward[place + k] for k in range(int(single), len(at) - place)]
            found[row, t] = sum(summed) / (max(len(summed), 1) if normalised else 1)
    return found


@pytest.mark.parametrize("single", [False, True])
@pytest.mark.parametrize("normalised", [False, True])
@pytest.mark.parametrize("gamma", [0.0, 0.95, 1.0])
def test_returns_are_the_formula(gamma, normalised, single):
    draw = np.random.default_rng(0)
    log_q, log_p = -draw.gamma(2, 1, (2, 6, 9))
    lengths = np.array([9, 5, 1, 0, 7, 3])
    mask = np.arange(9) < lengths[:, None]
    mask[5], mask[4, [2, 3]] = mask[5][::-1].copy(), False  # padded on the left, and with a hole
    found = o.minillm_returns(
        *(torch.from_numpy(one) for one in (log_q, log_p, mask)),
        gamma,
        length_normalised=normalised,
        single_step=single,
        clip=2.0,
    )
    np.testing.assert_allclose(found, slow_returns(log_q, log_p, mask, gamma, normalised, single, 2.0), **CLOSE)


@pytest.mark.parametrize("clip", [None, 0.2])
def test_the_clipped_objective_is_ppos(clip):
    draw = np.random.default_rng(1)
    ours, old, gain = draw.normal(-2, 0.4, (3, 5, 8))[0], draw.normal(-2, 0.4, (5, 8)), draw.normal(0, 1, (5, 8))
    mask = draw.random((5, 8)) < 0.7
    table = torch.from_numpy(ours).requires_grad_()
    found = o.policy_gradient_loss(table, *(torch.from_numpy(one) for one in (old, gain, mask)), clip=clip)
    ratio, values, slopes = np.exp(ours - old), np.zeros((5, 8)), np.zeros((5, 8))
    for at in zip(*np.nonzero(mask), strict=True):
        value = -ratio[at] * gain[at]
        values[at], slopes[at] = value, value
        if clip is not None:
            bounded = -min(max(ratio[at], 1 - clip), 1 + clip) * gain[at]
            values[at] = max(value, bounded)
            slopes[at] = value if value >= bounded else 0.0
    np.testing.assert_allclose(found.detach(), values, **CLOSE)
    np.testing.assert_allclose(torch.autograd.grad(found.sum(), table)[0], slopes, **CLOSE)
    assert clip is None or (slopes[mask] == 0).any()


def test_the_gap_and_the_skew_are_distillm2s():
    draw = np.random.default_rng(2)
    ahead, behind = -draw.gamma(2, 0.3, (6, 7)), -draw.gamma(2, 0.6, (6, 7))
    mask = np.arange(7) < np.array([7, 3, 5, 1, 6, 2])[:, None]
    gap = np.array([np.exp(a[m].mean()) - np.exp(b[m].mean()) for a, b, m in zip(ahead, behind, mask, strict=True)])
    found = o.confidence_gap(*(torch.from_numpy(one) for one in (ahead, behind, mask)))
    np.testing.assert_allclose(found, gap, **CLOSE)
    first = 0.9 * float(gap[gap > 0].mean())
    alpha = np.clip(1 - 0.9 * first / (np.maximum(gap, 0) + 1e-5), 0.01, 0.1)
    np.testing.assert_allclose(o.distillm2_alpha(found, first), alpha, **CLOSE)
    middle = o.distillm2_alpha(torch.tensor([first * one for one in (0.9, 0.95, 1.0)], dtype=torch.float64), first)
    assert ((middle > 0.01) & (middle <= 0.1)).sum() == 2, "not only the ends"


def test_the_pair_is_skewed_on_both_sides_by_its_own_alphas():
    shape = (2, 4, 5)
    sides = [torch.randn(shape, generator=torch.Generator().manual_seed(one), dtype=torch.float64) for one in range(4)]
    pull, push = (0.02, 0.1), (0.05, 0.01)
    found = o.distillm2((sides[0], sides[1]), (sides[2], sides[3]), (torch.tensor(pull), torch.tensor(push)))
    p, q, p2, q2 = (softmax(sides[one].numpy()) for one in (1, 0, 3, 2))
    for row in range(2):
        a, b = pull[row], push[row]
        forward = (p[row] * np.log(p[row] / (a * p[row] + (1 - a) * q[row]))).sum(-1)
        back = (q2[row] * np.log(q2[row] / ((1 - b) * p2[row] + b * q2[row]))).sum(-1)
        # alphas are float32: 1e-8 of them
        np.testing.assert_allclose(found[0][row], forward, rtol=1e-6)
        np.testing.assert_allclose(found[1][row], back, rtol=1e-6)
    same = torch.full((2,), 0.1)
    both = o.distillm2((sides[0], sides[1]), (sides[2], sides[3]), (same, same))
    torch.testing.assert_close(both[0], skew_kl(sides[0], sides[1], float(same[0])))
    torch.testing.assert_close(both[1], skew_reverse_kl(sides[2], sides[3], float(same[0])))

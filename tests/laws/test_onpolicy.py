"""What holds of every objective over the student's own texts: nothing at a match, and nothing from what was not written."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from limbeck.losses import onpolicy as o

law = settings(max_examples=40, deadline=None, derandomize=True)
END, NAN = 0, float("nan")


@st.composite
def rollouts(draw):
    """Log-probabilities of both sides and ids, [B, T] and float64."""
    shape = draw(st.integers(1, 4)), draw(st.integers(1, 8))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    ours, theirs = (-3 * torch.rand(shape, generator=generator, dtype=torch.float64) for _ in range(2))
    return ours, theirs, torch.randint(0, 4, shape, generator=generator)


def losses(ours, theirs, mask):
    """By name, what each function makes of it, with the gradient of the two that have one."""
    student = ours.clone().requires_grad_()
    sampler = ours - 0.1
    returns = o.minillm_returns(student, theirs, mask)
    policy = o.policy_gradient_loss(student, sampler, returns, mask)
    sampled = o.sampled_reverse_kl(student, theirs, mask, 0.9)
    return {
        "returns": returns,
        "single": o.minillm_returns(student, theirs, mask, single_step=True),
        "policy": policy.detach(),
        "policy slope": torch.autograd.grad(policy.sum(), student)[0],
        "sampled": sampled.detach(),
        "sampled slope": torch.autograd.grad(sampled.sum(), student)[0],
    }


@law
@given(rollouts())
def test_nothing_is_rewarded_or_moved_at_a_match(sides):
    ours, _, ids = sides
    for name, value in losses(ours, ours, o.until_end(ids, [END])).items():
        assert (value == 0).all(), name


@law
@given(rollouts(), st.sampled_from([NAN, float("inf"), -float("inf"), 7.0]))
def test_nothing_comes_from_after_the_end(sides, rubbish):
    ours, theirs, ids = sides
    mask = o.until_end(ids, [END])
    spoilt = [torch.where(mask, one, rubbish) for one in (ours, theirs)]
    for (name, value), other in zip(losses(ours, theirs, mask).items(), losses(*spoilt, mask).values(), strict=True):
        assert torch.equal(value, other), name
        assert (value[~mask] == 0).all(), name
    assert torch.equal(o.confidence_gap(ours, theirs, mask), o.confidence_gap(*spoilt, mask))


@settings(law, max_examples=15)
@given(rollouts(), st.integers(1, 4))
def test_padding_on_either_side_changes_nothing(sides, width):
    ours, theirs, ids = sides
    mask = o.until_end(ids, [END])
    plain = losses(ours, theirs, mask)
    for place in ((width, 0), (0, width), (width, width)):
        padded = [torch.nn.functional.pad(one, place, value=NAN) for one in (ours, theirs)]
        inside = slice(place[0], place[0] + ids.shape[1])
        wide = torch.nn.functional.pad(mask, place)
        for name, value in losses(*padded, wide).items():
            torch.testing.assert_close(value[:, inside], plain[name], rtol=1e-14, atol=0, msg=name)
        torch.testing.assert_close(o.confidence_gap(*padded, wide), o.confidence_gap(ours, theirs, mask))


@law
@given(rollouts(), st.lists(st.integers(0, 3), max_size=3))
def test_a_text_is_masked_up_to_the_first_of_its_ends(sides, ends):
    *_, ids = sides
    for text, counts in zip(ids.tolist(), o.until_end(ids, ends).tolist(), strict=True):
        first = next((at for at, token in enumerate(text) if token in ends), len(text))
        assert counts == [at <= first for at in range(len(text))]


def test_what_stands_before_the_answer_does_not_end_it():
    """Padding with the end token on the left, a prompt with one inside, then the answer, padded on the right."""
    ids = torch.tensor([[0, 0, 5, 0, 6, 7, 0, 0], [4, 0, 5, 3, 6, 7, 8, 9]])
    written = torch.arange(8).expand(2, 8) >= 4
    expected = [[0, 0, 0, 0, 1, 1, 1, 0], [0, 0, 0, 0, 1, 1, 1, 1]]
    assert o.until_end(ids, [0, 3], written).int().tolist() == expected
    assert o.until_end(ids, [0], written & (ids != 6)).int()[0].tolist() == [0, 0, 0, 0, 0, 1, 1, 0]


@law
@given(rollouts())
def test_a_sampler_that_is_the_student_leaves_plain_policy_gradients(sides):
    ours, theirs, ids = sides
    mask, student = o.until_end(ids, [END]), ours.clone().requires_grad_()
    returns = o.minillm_returns(ours, theirs, mask)
    for clip in (None, 0.2):
        value = o.policy_gradient_loss(student, o.mixed_log_probs(ours, theirs, 0.0), returns, mask, clip)
        torch.testing.assert_close(value.detach(), -returns, rtol=1e-14, atol=0)
        torch.testing.assert_close(torch.autograd.grad(value.sum(), student)[0], -returns, rtol=1e-14, atol=0)


@law
@given(st.lists(st.floats(-1, 1), min_size=2, max_size=9), st.floats(1e-3, 1))
def test_the_skew_rises_with_the_gap_and_stays_between_its_ends(gaps, first):
    alpha = o.distillm2_alpha(torch.tensor(sorted(gaps), dtype=torch.float64), first)
    assert (alpha.diff() >= 0).all()
    assert alpha.min() >= 0.01
    assert alpha.max() <= 0.1
    assert o.distillm2_alpha(torch.tensor([-0.5, 0.0, 10.0]), first).tolist() == pytest.approx([0.01, 0.01, 0.1])
    assert o.distillm2_alpha(torch.tensor([-0.5, 0.5]), -first).tolist() == pytest.approx([0.1, 0.1])


def test_the_pair_is_zero_with_zero_gradient_at_a_match_and_its_sides_are_not_the_same():
    generator = torch.Generator().manual_seed(0)
    one, other = torch.randn(2, 3, 4, 5, generator=generator, dtype=torch.float64)
    alphas = torch.tensor([0.02, 0.1, 0.05]), torch.tensor([0.1, 0.01, 0.1])
    student = one.clone().requires_grad_()
    pull, push = o.distillm2((student, one), (student, one), alphas)
    for value in (pull, push):
        assert value.shape == (3, 4)
        assert value.abs().max() < 1e-14
        assert torch.autograd.grad(value.sum(), student, retain_graph=True)[0].abs().max() < 1e-14
    pull, push = o.distillm2((one, other), (one, other), alphas)
    assert min(pull.min(), push.min()) > 0
    assert not torch.allclose(pull, push)
    none = one[:0].requires_grad_(), other[:0]
    assert o.distillm2(none, (one, other), (alphas[0][:0], alphas[1]))[0].shape == (0, 4)


def test_numbers_stay_finite_where_a_model_gives_no_probability():
    never = torch.tensor([[-float("inf"), -1.0]])
    fine = torch.tensor([[-1.0, -float("inf")]])
    mask = torch.ones(1, 2, dtype=torch.bool)
    assert o.minillm_returns(never, fine, mask, 1.0, length_normalised=False).tolist() == [[0, -100]]
    for value in losses(fine, never, mask).values():
        assert value.isfinite().all()
    steep = o.policy_gradient_loss(fine, never, torch.tensor([[0.0, -1.0]]), mask)
    assert steep[0, 0] == 0
    assert steep.isfinite().all()


def test_what_carries_no_gradient_carries_none():
    ours, theirs = (torch.full((2, 3), -1.0 - one).requires_grad_() for one in range(2))
    mask = torch.ones(2, 3, dtype=torch.bool)
    for value in (
        o.minillm_returns(ours, theirs, mask),
        o.mixed_log_probs(ours, theirs),
        o.confidence_gap(ours, theirs, mask),
    ):
        assert not value.requires_grad
    o.sampled_reverse_kl(ours, theirs, mask).sum().backward()
    o.policy_gradient_loss(ours, theirs, theirs, mask).sum().backward()
    assert theirs.grad is None
    assert ours.grad is not None


def test_no_tokens_and_bad_shapes():
    none, mask = torch.zeros(2, 0), torch.zeros(2, 0, dtype=torch.bool)
    assert all(value.shape == (2, 0) for value in losses(none, none, mask).values())
    assert o.confidence_gap(none, none, mask).tolist() == [0, 0]
    with pytest.raises(ValueError, match=r"\[2, 3\], \[2, 4\] and \[2, 3\]"):
        o.minillm_returns(torch.zeros(2, 3), torch.zeros(2, 4), torch.ones(2, 3, dtype=torch.bool))
    with pytest.raises(ValueError, match="share is 1"):
        o.mixed_log_probs(none, none, 1.0)
    with pytest.raises(ValueError, match="least is"):
        o.distillm2_alpha(torch.zeros(1), 0.1, least=0.2)

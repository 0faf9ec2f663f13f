import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from limbeck.data.batch import Batch
from limbeck.losses import features, maps
from limbeck.objective import AttentionTransfer, ChannelWise, Objective

# float64 sums of at most some 500 numbers of size 10: exact to 1e-13 of them
TIGHT = 1e-11
INF = float("inf")
law = settings(max_examples=25, deadline=None, derandomize=True)


def overhaul(student, teacher):
    return maps.ofd(student, teacher, -torch.linspace(0, 1, student.shape[1], dtype=student.dtype))


def masked(student, teacher):
    """A generator that is not the identity, behind a mask that hides every second channel."""
    mask = torch.arange(student.shape[1])[:, None, None] % 2 == 0
    return maps.mgd(student, teacher, mask, lambda x: x.tanh() + 0.5 * x.flip(1))


DISTANCES = [maps.attention_map, overhaul, maps.review, maps.channel_wise]
EVERY = [*DISTANCES, masked]


def pair(seed=0, shape=(3, 4, 5, 6), scale=1.0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return tuple(scale * torch.randn(shape, generator=generator, dtype=dtype) for _ in range(2))


@st.composite
def pairs(draw):
    shape = tuple(draw(st.lists(st.integers(1, 6), min_size=4, max_size=4)))
    return pair(draw(st.integers(0, 2**31)), shape, draw(st.sampled_from([1e-3, 1.0, 10.0])))


def gradient(loss, student, *rest):
    student = student.clone().requires_grad_()
    return torch.autograd.grad(loss(student, *rest).sum(), student)[0]


@pytest.mark.parametrize("loss", DISTANCES)
@law
@given(pairs())
def test_distances_are_zero_with_zero_gradient_at_a_match_and_never_negative(loss, sides):
    student, teacher = sides
    assert torch.equal(loss(teacher, teacher), torch.zeros(len(teacher), dtype=torch.float64))
    # q - p of the softmax is rounded in log_softmax's backward; the others are exact
    assert gradient(loss, teacher, teacher).abs().max() < (1e-15 if loss is maps.channel_wise else 1e-300)
    value = loss(student, teacher)
    assert value.shape == student.shape[:1]
    assert value.min() >= (-1e-15 if loss is maps.channel_wise else 0)


@pytest.mark.parametrize("loss", EVERY)
def test_examples_stand_for_themselves_and_the_teacher_gets_no_gradient(loss):
    student, teacher = (side.requires_grad_() for side in pair())
    value, turn = loss(student, teacher), torch.tensor([2, 0, 1])
    assert torch.equal(loss(student[turn], teacher[turn]), value[turn])
    assert torch.allclose(loss(student[:1], teacher[:1]), value[:1], rtol=TIGHT)
    value.sum().backward()
    assert student.grad.abs().sum() > 0
    assert teacher.grad is None


@pytest.mark.parametrize("loss", EVERY)
def test_gradients_are_those_of_the_values(loss):
    student, teacher = pair(shape=(2, 3, 3, 2))
    assert torch.autograd.gradcheck(lambda x: loss(x, teacher), student.requires_grad_())


@pytest.mark.parametrize("loss", [maps.attention_map, maps.review])
def test_which_are_symmetric(loss):
    student, teacher = pair()
    assert torch.allclose(loss(student, teacher), loss(teacher, student), rtol=TIGHT)
    for other in (overhaul, maps.channel_wise):
        assert not torch.allclose(other(student, teacher), other(teacher, student), rtol=1e-3)


@pytest.mark.parametrize("loss", [maps.attention_map, maps.review, maps.channel_wise])
def test_a_common_order_of_channels_changes_nothing(loss):
    (student, teacher), order = pair(), torch.tensor([2, 0, 3, 1])
    assert torch.allclose(loss(student[:, order], teacher[:, order]), loss(student, teacher), rtol=TIGHT)


@pytest.mark.parametrize("loss", EVERY)
def test_constant_maps_and_one_element_are_finite(loss):
    for shape in ((1, 1, 1, 1), (2, 3, 4, 4)):
        for a in (0.0, 1.0, -1.0):
            for b in (0.0, 1.0, -1.0):
                student, teacher = (torch.full(shape, x, dtype=torch.float64) for x in (a, b))
                assert loss(student, teacher).isfinite().all()
                assert gradient(loss, student, teacher).isfinite().all()


class TestTokens:
    """Of a text only the tokens that count: the third has none."""

    LENGTHS = (5, 2, 0)

    def sides(self, extra=0, fill=9.0):
        mask = torch.arange(5 + extra) < torch.tensor(self.LENGTHS)[:, None]
        padded = (torch.nn.functional.pad(side, (0, 0, 0, extra)) for side in pair(3, (3, 5, 4)))
        return *(torch.where(mask[..., None], side, fill) for side in padded), mask

    @pytest.mark.parametrize("loss", [maps.attention_map, maps.channel_wise])
    def test_each_example_is_as_if_it_stood_alone_without_padding(self, loss):
        student, teacher, mask = self.sides()
        value = loss(student, teacher, mask=mask)
        alone = [
            loss(student[row : row + 1, :length], teacher[row : row + 1, :length])
            for row, length in enumerate(self.LENGTHS)
            if length
        ]
        assert torch.allclose(value, torch.cat([*alone, torch.zeros(1, dtype=torch.float64)]), rtol=TIGHT, atol=0)
        assert value[:2].min() > 0
        slope = gradient(lambda ours, theirs: loss(ours, theirs, mask=mask), student, teacher)
        assert slope.isfinite().all()
        assert not slope[~mask].any()
        with pytest.raises(ValueError, match=r"a mask is \[B, L\]"):
            loss(student, teacher, mask=mask[:, :3])

    @pytest.mark.parametrize("kind", [AttentionTransfer, ChannelWise])
    def test_longer_padding_changes_no_term(self, kind):
        losses = []
        for extra, fill in ((0, 0.0), (3, 9.0)):
            student, teacher, mask = self.sides(extra, fill)
            columns = {"input_ids": torch.zeros(mask.shape), "attention_mask": mask.long()}
            objective = Objective([kind(student="tokens", teacher="tokens")]).double()
            objective.build({"tokens": student}, {"tokens": teacher}, seed=1)
            losses.append(objective({"tokens": student}, {"tokens": teacher}, Batch.of(columns))[0])
        assert float(losses[0]) > 0
        assert torch.allclose(*losses, rtol=TIGHT)

    def test_tokens_of_an_image_are_its_map(self):
        student, teacher = pair()
        tokens = [side.flatten(2).mT for side in (student, teacher)]
        for loss in (maps.attention_map, maps.channel_wise):
            assert torch.allclose(loss(*tokens), loss(student, teacher), rtol=TIGHT)


class TestReview:
    @pytest.mark.parametrize("side", [1, 2, 4])
    def test_levels_that_are_not_below_the_height_are_skipped(self, side):
        student, teacher = pair(shape=(3, 4, side, side))
        left = tuple(level for level in (4, 2, 1) if level < side)
        assert torch.equal(maps.review(student, teacher), maps.review(student, teacher, left))
        if side == 1:
            assert torch.equal(maps.review(student, teacher), features.hint(student, teacher))

    def test_a_constant_gap_is_its_square_at_every_level(self):
        teacher, _ = pair(shape=(3, 4, 8, 8))
        assert torch.allclose(maps.review(teacher + 3, teacher), torch.full((3,), 9.0).double(), rtol=TIGHT)

    def test_a_gap_that_averages_out_is_seen_by_the_finest_level_alone(self):
        gap = (torch.arange(8)[:, None] + torch.arange(8)) % 2 * 2.0 - 1
        gap = gap.double().expand(1, 2, 8, 8)
        assert maps.review(gap, torch.zeros_like(gap)).item() == pytest.approx(1 / (1 + 1 / 2 + 1 / 4 + 1 / 8))


class TestMasked:
    def test_with_everything_shown_and_the_identity_it_is_the_summed_square(self):
        student, teacher = pair()
        value = maps.mgd(student, teacher, torch.ones(1), lambda x: x)
        assert torch.allclose(value, 4 * 5 * 6 * features.hint(student, teacher), rtol=TIGHT)

    def test_at_a_match_it_is_what_the_generator_does_not_restore(self):
        (teacher, _), hidden = pair(), torch.zeros(1, 4, 1, 1)
        assert torch.allclose(
            maps.mgd(teacher, teacher, hidden, lambda x: x), teacher.square().sum((1, 2, 3)), rtol=TIGHT
        )
        restored = maps.mgd(teacher, teacher, hidden, lambda x: x + teacher)
        assert torch.equal(restored, torch.zeros(3, dtype=torch.float64))

    @pytest.mark.parametrize("shape", [(3, 4, 1, 1), (3, 1, 5, 6), (4, 5, 6)], ids=str)
    def test_nothing_comes_from_what_is_hidden_even_beside_nan(self, shape):
        student, teacher = pair()
        mask = torch.arange(math.prod(shape)).reshape(shape) % 2
        whole = mask.bool().expand(3, 4, 5, 6)
        dirty = torch.where(whole, student, torch.nan)
        for kind in (mask, mask.bool(), mask.double()):
            value = maps.mgd(dirty, teacher, kind, torch.tanh)
            assert torch.equal(value, maps.mgd(student, teacher, mask, torch.tanh))
            slope = gradient(lambda x, kind=kind: maps.mgd(x, teacher, kind, torch.tanh), dirty)
            assert torch.equal(slope[~whole], torch.zeros_like(slope[~whole]))
            assert (slope[whole] != 0).all()

    def test_the_generator_learns(self):
        (student, teacher), block = pair(), torch.nn.Conv2d(4, 4, 3, padding=1, dtype=torch.float64)
        maps.mgd(student, teacher, torch.ones(4, 1, 1), block).sum().backward()
        assert block.weight.grad.abs().min() > 0


class TestChannels:
    @law
    @given(pairs(), st.floats(-50, 50), st.sampled_from([0.5, 1.0, 4.0]))
    def test_a_constant_a_channel_is_not_seen(self, sides, shift, t):
        student, teacher = sides
        constants = shift * torch.linspace(-1, 1, student.shape[1], dtype=torch.float64)[:, None, None]
        value = maps.channel_wise(student, teacher, t)
        # shifts of 50 round logits to 1e-14
        assert torch.allclose(maps.channel_wise(student + constants, teacher, t), value, atol=1e-10)
        assert torch.allclose(maps.channel_wise(student, teacher + constants, t), value, atol=1e-10)

    def test_it_is_a_mean_over_channels_and_a_sum_over_positions(self):
        student, teacher = pair()
        twice = [torch.cat([side, side], 1) for side in (student, teacher)]
        assert torch.allclose(maps.channel_wise(*twice), maps.channel_wise(student, teacher), rtol=TIGHT)
        wider = [torch.cat([side, torch.full((3, 4, 5, 2), -1e4).double()], 3) for side in (student, teacher)]
        assert torch.allclose(maps.channel_wise(*wider), maps.channel_wise(student, teacher), rtol=TIGHT)

    def test_minus_infinity(self):
        (student, teacher), absent = pair(), torch.full((3, 4, 5, 1), -INF, dtype=torch.float64)
        wider = [torch.cat([side, absent], 3) for side in (student, teacher)]
        assert torch.allclose(maps.channel_wise(*wider), maps.channel_wise(student, teacher), rtol=TIGHT)
        assert gradient(maps.channel_wise, *wider).isfinite().all()
        # a class that can be nowhere is the same everywhere
        nowhere, flat = [side.clone() for side in (student, teacher)], [side.clone() for side in (student, teacher)]
        for a, b in zip(nowhere, flat, strict=True):
            a[:, 1], b[:, 1] = -INF, 0.0
        for sides, same in ((nowhere, flat), ((nowhere[0], teacher), (flat[0], teacher))):
            assert torch.equal(maps.channel_wise(*sides), maps.channel_wise(*same))
            assert gradient(maps.channel_wise, *sides).isfinite().all()


@pytest.mark.parametrize("loss", [overhaul, maps.review, maps.channel_wise, masked])
def test_shapes_that_do_not_agree_are_refused_with_both_of_them(loss):
    for other in ((3, 4, 5, 5), (1, 4, 5, 6), (3, 1, 5, 6), (3, 4, 30)):
        with pytest.raises(ValueError, match="same shape") as caught:
            loss(torch.zeros(3, 4, 5, 6), torch.zeros(other))
        assert "[3, 4, 5, 6]" in str(caught.value)
        assert str(list(other)) in str(caught.value)


def test_other_things_that_cannot_be():
    x, tokens = torch.zeros(3, 4, 5, 6), torch.zeros(3, 4, 5)
    with pytest.raises(ValueError, match="at least 1"):
        maps.review(x, x, (2, 0))
    with pytest.raises(ValueError, match="a map is"):
        maps.review(tokens, tokens)
    with pytest.raises(ValueError, match=r"of a map .* or of tokens"):
        maps.channel_wise(x[:, :, 0, 0], x[:, :, 0, 0])
    for mask in ((3, 4), (2, 4, 1, 1), (1, 3, 4, 5, 6)):
        with pytest.raises(ValueError, match="must broadcast"):
            maps.mgd(x, x, torch.ones(mask), lambda y: y)
    with pytest.raises(ValueError, match="same shape"):
        maps.mgd(x, x, torch.ones(1), lambda y: y[:, :2])

import itertools
import re

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from limbeck.data.batch import Batch
from limbeck.errors import SignalError
from limbeck.objective import Hints, Objective
from limbeck.objective.projectors import Projector, normalised

law = settings(max_examples=40, deadline=None, derandomize=True)
# float64 means and products of at most some 300 numbers of size 1
TIGHT = 1e-12


def normal(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def both(ours, theirs, rows=3):
    return normal(rows, *ours, seed=1), normal(rows, *theirs, seed=2)


def joined(student, teacher, *masks, **options):
    return Projector(student, teacher, **options).double()(student, teacher, *masks)


def means(image, size):
    """Each cell of the smaller image is the mean of the rows and columns that it reaches into, written as loops."""
    height, width = image.shape[2:]
    out = np.empty((*image.shape[:2], *size))
    for i, j in np.ndindex(*size):
        rows = slice(i * height // size[0], -(-(i + 1) * height // size[0]))
        columns = slice(j * width // size[1], -(-(j + 1) * width // size[1]))
        out[:, :, i, j] = image[:, :, rows, columns].mean((2, 3))
    return out


def on_grid(tokens, height, width):
    """The last height * width tokens, row by row, as a map."""
    rows, length, features = tokens.shape
    first, out = length - height * width, np.empty((rows, features, height, width))
    for place in range(height * width):
        out[:, :, place // width, place % width] = tokens[:, first + place]
    return out


class TestShapes:
    @pytest.mark.parametrize(
        ("ours", "theirs", "shape"),
        [
            ((4,), (6,), (6,)),
            ((4, 8, 8), (6,), (6,)),
            ((9, 4), (6,), (6,)),
            ((4,), (17, 6), (6,)),
            ((4, 8, 8), (6, 4, 4), (6, 4, 4)),
            ((4, 6, 2), (6, 3, 5), (6, 3, 2)),
            ((4, 5, 5), (6, 3, 3), (6, 3, 3)),
            ((16, 4), (6, 4, 4), (6, 4, 4)),
            ((17, 4), (6, 4, 4), (6, 4, 4)),
            ((18, 4), (6, 8, 8), (6, 4, 4)),
            ((4, 4, 4), (17, 6), (6, 4, 4)),
            ((4, 2, 2), (17, 6), (6, 2, 2)),
            ((4, 16, 16), (198, 6), (6, 14, 14)),
            ((8, 4), (6, 4, 2), (6, 4, 2)),  # the map's own proportions
            ((8, 4), (6, 16, 8), (6, 4, 2)),
            ((9, 4), (6, 8, 4), (6, 4, 2)),
            ((16, 4), (6, 8, 2), (6, 8, 2)),
            ((16, 4), (6, 6, 5), (6, 4, 4)),  # no such proportions: a square
            ((1, 4), (6, 3, 3), (6, 1, 1)),
            ((7, 4), (7, 6), (7, 6)),
            ((17, 4), (17, 6), (17, 6)),  # as many: class tokens stay
            ((17, 4), (18, 6), (16, 6)),
            ((65, 4), (17, 6), (16, 6)),
            ((64, 4), (16, 6), (16, 6)),
            ((12, 4), (8, 6), (8, 6)),  # no grid: along the sequence
            ((12, 4), (16, 6), (12, 6)),
        ],
        ids=str,
    )
    def test_all_kinds_are_joined_in_the_teachers_width(self, ours, theirs, shape):
        student, teacher = both(ours, theirs)
        found = joined(student, teacher)
        assert found[0].shape == found[1].shape == (3, *shape)
        # without a linear map each side keeps its width, and both their positions
        bare = joined(student, teacher, linear=False)
        channel = 1 if len(shape) == 3 else -1
        assert bare[0].shape[channel] == (ours[0] if len(ours) == 3 else ours[-1])
        assert torch.equal(bare[1], found[1])
        assert bare[0].shape[2:] == bare[1].shape[2:] or channel == -1

    @pytest.mark.parametrize(
        ("ours", "theirs"), [((4,), (6,)), ((16, 4), (6, 4, 4)), ((9, 4), (5, 6)), ((4, 4, 4), (6, 2, 2))]
    )
    def test_a_linear_map_is_there_where_widths_differ_or_it_is_wanted(self, ours, theirs):
        student, teacher = both(ours, theirs)
        kind = nn.Conv2d if 4 in (student.ndim, teacher.ndim) else nn.Linear
        assert isinstance(Projector(student, teacher).linear, kind)
        assert sum(one.numel() for one in Projector(student, teacher).parameters()) == 4 * 6 + 6
        assert isinstance(Projector(student, student).linear, nn.Identity)
        assert isinstance(Projector(student, student, always=True).linear, kind if student.ndim != 3 else nn.Linear)
        for always in (False, True):
            assert not list(Projector(student, teacher, always, linear=False).parameters())

    @pytest.mark.parametrize(
        ("ours", "theirs"),
        [((2,), (4, 5, 5, 5)), ((), (4,)), ((3, 4), (4, 8, 8)), ((4, 4, 4), (14, 6)), ((2, 4), (6, 3, 3))],
        ids=str,
    )
    def test_what_cannot_be_joined_is_refused_with_both_shapes_and_what_to_do(self, ours, theirs):
        student, teacher = both(ours, theirs)
        with pytest.raises(SignalError) as caught:
            Projector(student, teacher)
        for side in (student, teacher):
            assert str(list(side.shape)) in str(caught.value)
        assert re.search("name modules|a feature is", str(caught.value))


class TestNumbers:
    @pytest.mark.parametrize("leading", [0, 1, 2])
    @pytest.mark.parametrize("size", [(4, 4), (2, 2), (3, 3), (8, 8)], ids=str)
    def test_tokens_are_read_row_by_row_behind_the_leading_ones(self, leading, size):
        student, teacher = both((4, *size), (leading + 16, 4))
        small = tuple(min(side, 4) for side in size)
        ours, theirs = joined(student, teacher)
        np.testing.assert_allclose(ours.numpy(), means(student.numpy(), small), atol=TIGHT)
        np.testing.assert_allclose(theirs.numpy(), means(on_grid(teacher.numpy(), 4, 4), small), atol=TIGHT)
        back = joined(teacher, student)
        assert torch.equal(back[0], theirs)
        assert torch.equal(back[1], ours)

    def test_a_grid_has_the_proportions_of_the_map(self):
        student, teacher = both((4, 4, 8), (9, 4))
        ours, theirs = joined(student, teacher)
        np.testing.assert_allclose(theirs.numpy(), on_grid(teacher.numpy(), 2, 4), atol=TIGHT)
        np.testing.assert_allclose(ours.numpy(), means(student.numpy(), (2, 4)), atol=TIGHT)

    def test_tokens_of_two_resolutions_meet_on_the_coarser_grid(self):
        student, teacher = both((65, 4), (18, 4))
        ours, theirs = joined(student, teacher)
        coarse = means(on_grid(student.numpy(), 8, 8), (4, 4)).reshape(3, 4, 16).transpose(0, 2, 1)
        np.testing.assert_allclose(ours.numpy(), coarse, atol=TIGHT)
        assert torch.equal(theirs, teacher[:, 2:])

    @pytest.mark.parametrize(("long", "short"), [(12, 6), (7, 3), (13, 12)])
    def test_other_sequences_are_averaged_in_order(self, long, short):
        student, teacher = both((long, 4), (short, 4))
        ours, theirs = joined(student, teacher)
        line = means(student.numpy().transpose(0, 2, 1)[:, :, None], (1, short))[:, :, 0].transpose(0, 2, 1)
        np.testing.assert_allclose(ours.numpy(), line, atol=TIGHT)
        assert torch.equal(theirs, teacher)

    @pytest.mark.parametrize("pair", [((16, 4), (6, 4, 4)), ((4, 8, 8), (17, 6)), ((10, 4), (7, 6)), ((4, 3, 3), (6,))])
    def test_the_linear_map_comes_after_the_pooling_at_every_position(self, pair):
        student, teacher = both(*pair)
        projector = Projector(student, teacher).double()
        nn.init.normal_(projector.linear.bias)
        ours, theirs = projector(student, teacher)
        before, same = joined(student, teacher, linear=False)
        weight = projector.linear.weight.detach().reshape(6, 4).numpy()
        letters = "oc,bchw->bohw" if before.ndim == 4 else "oc,b...c->b...o"
        shift = projector.linear.bias.detach().numpy().reshape(-1, *[1] * (2 if before.ndim == 4 else 0))
        expected = np.einsum(letters, weight, before.numpy()) + shift
        np.testing.assert_allclose(ours.detach().numpy(), expected, atol=TIGHT)
        assert torch.equal(theirs, same)


SHAPES = [(4,), (6, 4), (16, 4), (17, 4), (65, 4), (4, 4, 4), (4, 8, 8), (4, 3, 5)]


class TestLaws:
    @pytest.mark.parametrize("shape", SHAPES, ids=str)
    def test_equal_features_stay_as_they_are(self, shape):
        value = normal(3, *shape)
        ours, theirs = joined(value, value)
        assert torch.equal(ours, value)
        assert torch.equal(theirs, value)
        loss, _ = Objective([Hints(student="a", teacher="a")])({"a": value}, {"a": value}, Batch.of(torch.zeros(3, 1)))
        assert loss == 0

    @pytest.mark.parametrize("leading", [0, 1, 2])
    def test_a_map_and_its_own_tokens_are_a_match(self, leading):
        image = normal(3, 4, 6, 6)
        tokens = torch.cat([normal(3, leading, 4, seed=5), image.flatten(2).mT], 1)
        for sides in ((image, tokens), (tokens, image)):
            ours, theirs = joined(*sides)
            assert torch.equal(ours, image)
            assert torch.equal(theirs, image)

    @pytest.mark.parametrize(("ours", "theirs"), itertools.product(SHAPES, SHAPES), ids=str)
    def test_each_pair_joins_row_by_row_either_way_or_is_refused_either_way(self, ours, theirs):
        student, teacher = both(ours, theirs)
        try:
            left, right = joined(student, teacher)
        except SignalError:
            with pytest.raises(SignalError):
                joined(teacher, student)
            assert {ours, theirs} & {(6, 4)}  # six tokens on no grid, and a map
            return
        assert left.shape == right.shape
        turn, few = torch.tensor([2, 0, 1]), torch.tensor([1])
        again = [(joined(student[rows], teacher[rows]), rows) for rows in (turn, few)]
        for found, rows in [(joined(teacher, student)[::-1], torch.arange(3)), *again]:
            assert torch.allclose(found[0], left[rows], atol=TIGHT)
            assert torch.allclose(found[1], right[rows], atol=TIGHT)

    @law
    @given(st.integers(1, 40), st.integers(1, 40), st.floats(-5, 5))
    def test_a_constant_is_kept_whatever_the_lengths(self, long, short, value):
        student, teacher = torch.full((2, long, 3), value), normal(2, short, 3).float()
        ours, theirs = Projector(student, teacher)(student, teacher)
        assert ours.shape == theirs.shape
        assert ours.shape[1] <= min(long, short)
        assert torch.allclose(ours, torch.tensor(value), rtol=1e-6, atol=1e-30)  # float32 means

    @pytest.mark.parametrize(
        ("ours", "theirs"),
        [
            ((2,), (3,)),
            ((5, 2), (3,)),
            ((5, 2), (3, 2, 2)),
            ((2, 3, 3), (4, 3)),
            ((5, 2), (3, 3)),
            ((9, 2), (4, 3)),
            ((2, 3, 3), (3, 2, 2)),
        ],
        ids=str,
    )
    def test_gradients_are_right_by_numbers(self, ours, theirs):
        student, teacher = both(ours, theirs, rows=2)
        projector = Projector(student, teacher).double()
        assert torch.autograd.gradcheck(lambda x: projector(x, teacher)[0], student.requires_grad_())
        weights = list(projector.parameters())
        ours, _ = projector(student, teacher)
        assert all(slope.abs().max() > 0 for slope in torch.autograd.grad(ours.square().sum(), weights))

    def test_a_projector_fitted_to_one_length_takes_others(self):
        projector = Projector(*both((12, 4), (9, 6))).double()
        for ours, theirs, length in ((7, 7, 7), (20, 5, 5), (16, 64, 16)):
            assert projector(*both((ours, 4), (theirs, 6)))[0].shape == (3, length, 6)


class TestMasks:
    mask = torch.arange(5) < torch.tensor([[5], [2], [0]])

    def test_padding_is_zero_among_as_many_tokens(self):
        student, teacher = both((5, 4), (5, 4))
        student[~self.mask] = torch.nan
        other = self.mask.flip(0)
        ours, theirs = joined(student, teacher, self.mask, other)
        assert torch.equal(ours, torch.where(self.mask[..., None], student, 0.0))
        assert torch.equal(theirs, torch.where(other[..., None], teacher, 0.0))

    def test_vectors_are_means_of_the_tokens_that_count(self):
        student, teacher = both((5, 4), (4,))
        student[~self.mask] = torch.inf
        ours, theirs = joined(student, teacher, self.mask)
        expected = torch.stack([student[0].mean(0), student[1, :2].mean(0), torch.zeros(4, dtype=torch.float64)])
        assert torch.allclose(ours, expected, atol=TIGHT)
        assert torch.equal(theirs, teacher)
        back = joined(teacher, student, None, self.mask)
        assert torch.equal(back[1], ours)
        student = student.requires_grad_()
        (slope,) = torch.autograd.grad(joined(student, teacher, self.mask)[0].sum(), student)
        assert torch.equal(slope != 0, self.mask[..., None].expand(3, 5, 4))
        assert slope.isfinite().all()

    @pytest.mark.parametrize("shown", [None, torch.ones(3, 7, dtype=torch.bool)])
    def test_texts_of_two_tokenizers_are_refused_when_they_come(self, shown):
        student, teacher = both((5, 4), (7, 6))
        projector = Projector(student, teacher).double()  # of masks nothing is known yet
        with pytest.raises(SignalError, match=r"\[3, 5, 4\].*\[3, 7, 6\].*tokenizer"):
            projector(student, teacher, self.mask, shown)
        with pytest.raises(SignalError, match="tokenizer"):
            Projector(teacher, student).double()(teacher, student, shown, self.mask)
        batch = Batch.of({"input_ids": torch.ones(3, 5), "attention_mask": self.mask.long()})
        objective = Objective([Hints(student="a", teacher="b")])
        objective.build({"a": student}, {"b": teacher})
        with pytest.raises(SignalError, match="tokenizer"):
            objective.double()({"a": student}, {"b": teacher}, batch)

    def test_texts_have_no_grid(self):
        student, teacher = both((4, 5), (5, 2, 2))
        projector, mask = Projector(student, teacher), torch.ones(3, 4, dtype=torch.bool)
        with pytest.raises(SignalError, match=r"\[3, 4, 5\].*\[3, 5, 2, 2\]"):
            projector(student, teacher, mask)

    def test_normalised_tokens_have_no_scale_whatever_the_padding(self):
        value = normal(3, 5, 4)
        dirty = torch.where(self.mask[..., None], value, torch.nan)
        found = normalised(dirty, self.mask)
        # 1e-6 beside squares near 1 keeps a zero feature finite
        assert torch.allclose(normalised(50 * value, self.mask), found, rtol=1e-5)
        assert found[1, :2].square().mean().item() == pytest.approx(1, rel=1e-5)
        assert found[2].abs().max() == 0

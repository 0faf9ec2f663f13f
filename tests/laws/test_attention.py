import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from limbeck.losses.attention import attention_kl, attention_mse, minilm_relation

# float64, sums over at most 6 x 6 entries of size 10 and their softmax: some 1e-15 of 100
TIGHT = 1e-11
INF = float("inf")
law = settings(max_examples=40, deadline=None, derandomize=True)


def relation(student, teacher, mask=None):
    return minilm_relation(student, teacher, 2, mask)


def draw_scores(seed, b=3, heads=2, length=4, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return tuple(2 * torch.randn(b, heads, length, length, generator=generator, dtype=dtype) for _ in range(2))


def draw_probs(*args, **options):
    return tuple(scores.softmax(-1) for scores in draw_scores(*args, **options))


def draw_tokens(seed, b=3, _heads=2, length=4, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.randn(b, length, 6, generator=generator, dtype=dtype) for _ in range(2))


CASES = [(attention_mse, draw_scores), (attention_kl, draw_probs), (relation, draw_tokens)]
every = pytest.mark.parametrize(("loss", "draw"), CASES, ids=["mse", "kl", "relation"])
maps = pytest.mark.parametrize(("loss", "draw"), CASES[:2], ids=["mse", "kl"])
seeds, sizes = st.integers(0, 2**31), st.tuples(st.integers(1, 4), st.integers(1, 3), st.integers(1, 6))


def mask_of(b=3, length=4):
    return torch.arange(length) < torch.tensor([length, 2, 1, 0, 3])[:b, None]


def gradient(loss, student, *rest):
    student = student.clone().requires_grad_()
    return torch.autograd.grad(loss(student, *rest).sum(), student)[0]


@every
@law
@given(seeds, sizes)
def test_zero_with_zero_gradient_at_a_match_and_not_negative(loss, draw, seed, size):
    student, teacher = draw(seed, *size)
    assert loss(teacher, teacher).abs().max() < TIGHT
    # the gradient by a probability is a difference of two terms 1 / p, which here reaches 1e6 or so
    assert gradient(loss, teacher, teacher).abs().max() < 1e-8
    value = loss(student, teacher)
    assert value.shape == (size[0],)
    assert value.min() >= -TIGHT


@every
def test_not_zero_elsewhere(loss, draw):
    student, teacher = draw(0)
    assert loss(student, teacher).min() > 1e-2


@every
def test_examples_stand_for_themselves(loss, draw):
    student, teacher = draw(1, 4)
    mask, turn = mask_of(4), torch.tensor([2, 0, 3, 1])
    assert torch.allclose(loss(student[turn], teacher[turn], mask[turn]), loss(student, teacher, mask)[turn])
    alone = torch.cat([loss(student[i : i + 1], teacher[i : i + 1], mask[i : i + 1]) for i in range(4)])
    assert torch.allclose(alone, loss(student, teacher, mask))


@every
def test_the_order_of_tokens_does_not_matter(loss, draw):
    student, teacher = draw(1)
    turn, mask = torch.tensor([2, 0, 3, 1]), mask_of()
    sides = [x[:, turn] if loss is relation else x[:, :, turn][..., turn] for x in (student, teacher)]
    assert torch.allclose(loss(*sides, mask[:, turn]), loss(student, teacher, mask))


@every
def test_gradcheck(loss, draw):
    student, teacher = draw(2, 2, 2, 3)
    mask = torch.tensor([[True, True, False], [False, False, False]])
    student = student.requires_grad_()
    assert torch.autograd.gradcheck(lambda x: loss(x, teacher), student)
    assert torch.autograd.gradcheck(lambda x: loss(x, teacher, mask), student)


@every
def test_the_teacher_gets_no_gradient(loss, draw):
    student, teacher = (x.clone().requires_grad_() for x in draw(3))
    loss(student, teacher).sum().backward()
    assert student.grad.abs().sum() > 0
    assert teacher.grad is None


@every
def test_padding_counts_for_nothing_even_beside_nan(loss, draw):
    student, teacher = draw(4, 4)
    mask = mask_of(4)
    clean, slope = loss(student, teacher, mask), gradient(loss, student, teacher, mask)
    assert clean[3] == 0
    assert not slope[3].any()
    pairs = mask[:, :, None].expand(-1, -1, 6) if loss is relation else (mask[:, None, :, None] & mask[:, None, None])
    pairs = pairs.expand(student.shape)
    assert not slope[~pairs].any()
    for dirt in (torch.nan, -INF, 1e30):
        for side in (0, 1):
            sides = [student.clone(), teacher.clone()]
            sides[side][~pairs] = dirt
            assert torch.equal(loss(*sides, mask), clean)
            assert torch.equal(gradient(loss, *sides, mask), slope)


@every
def test_padding_is_the_same_as_shorter_examples(loss, draw):
    student, teacher = draw(5)
    short = [x[:, :2] if loss is relation else x[:, :, :2, :2] for x in (student, teacher)]
    mask = (torch.arange(4) < 2).expand(3, 4)
    assert torch.allclose(loss(student, teacher, mask), loss(*short))
    assert torch.allclose(loss(student, teacher, torch.ones(3, 4, dtype=torch.bool)), loss(student, teacher))


@every
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_dtype_stays_and_nothing_is_ever_nan(loss, draw, dtype):
    for size in ((1, 1, 1), (3, 2, 4)):
        drawn, other = draw(6, *size, dtype=dtype)
        zero = torch.zeros_like(drawn)
        for student in (drawn, zero, zero + 1, 1e4 * drawn, 1e-38 * drawn):
            for teacher in (other, zero, zero + 1, 1e-38 * other, student):
                for mask in (None, mask_of(*size[::2]), torch.zeros(size[0], size[2], dtype=torch.bool)):
                    value = loss(student, teacher, mask)
                    assert value.dtype == dtype
                    assert value.isfinite().all()
                    assert gradient(loss, student, teacher, mask).isfinite().all()


@maps
def test_different_numbers_of_heads_are_averaged(loss, draw):
    student, teacher = draw(7, heads=4)[0], draw(8, heads=2)[0]
    averages = student.mean(1, keepdim=True), teacher.mean(1, keepdim=True)
    assert torch.allclose(loss(student, teacher), loss(*averages))
    assert torch.allclose(loss(student, averages[1]), loss(*averages))
    # of equal numbers, each head has its own: a turn of the heads is seen, of both sides together it is not
    assert not torch.allclose(loss(student.roll(1, 1), student), torch.zeros(3, dtype=torch.float64))
    assert torch.allclose(loss(student.roll(1, 1), teacher.roll(1, 1)), loss(student, teacher))
    assert torch.allclose(loss(student.repeat(1, 2, 1, 1), student), torch.zeros(3, dtype=torch.float64), atol=1e-14)


@maps
@pytest.mark.parametrize(
    ("ours", "theirs"),
    [((2, 3, 4, 4), (3, 3, 4, 4)), ((2, 3, 4, 4), (2, 3, 5, 5)), ((2, 3, 4, 5), (2, 3, 4, 5)), ((2, 4, 4), (2, 4, 4))],
)
def test_shapes_that_do_not_fit_are_said(loss, draw, ours, theirs):
    with pytest.raises(ValueError) as caught:
        loss(torch.rand(ours), torch.rand(theirs))
    assert str(list(ours)) in str(caught.value)
    assert str(list(theirs)) in str(caught.value)


@every
def test_a_mask_of_another_shape_is_said(loss, draw):
    with pytest.raises(ValueError, match=r"\[3, 5\].*\[3, 4\]"):
        loss(*draw(0), torch.ones(3, 5, dtype=torch.bool))


class TestMse:
    def test_symmetric_and_sees_a_constant(self):
        student, teacher = draw_scores(0)
        assert torch.allclose(attention_mse(student, teacher), attention_mse(teacher, student))
        assert torch.allclose(attention_mse(teacher + 3, teacher), torch.full((3,), 9.0, dtype=torch.float64))

    @pytest.mark.parametrize("low", [-INF, torch.finfo(torch.float64).min])
    def test_entries_masked_on_either_side_are_left_out(self, low):
        student, teacher = draw_scores(1)
        upper = torch.ones(4, 4, dtype=torch.bool).triu(1)
        kept = (student - teacher)[..., ~upper].square().flatten(1).mean(1)
        one, other = student.masked_fill(upper, low), teacher.masked_fill(upper, low)
        for sides in ((one, other), (one, teacher), (student, other)):
            assert torch.allclose(attention_mse(*sides), kept)
            slope = gradient(attention_mse, *sides)
            assert slope.isfinite().all()
            assert not slope[..., upper].any()
        nothing = torch.full_like(student, low)
        assert not attention_mse(nothing, teacher).any()
        assert not gradient(attention_mse, nothing, teacher).any()

    def test_a_nan_between_real_tokens_is_not_hidden(self):
        student, teacher = draw_scores(1)
        student[0, 0, 1, 1] = torch.nan
        assert attention_mse(student, teacher).isnan().tolist() == [True, False, False]


class TestKl:
    @law
    @given(seeds, st.floats(0.01, 100))
    def test_rows_are_normalised_and_a_factor_is_not_seen(self, seed, factor):
        student, teacher = draw_probs(seed)
        value = attention_kl(student, teacher)
        assert torch.allclose(attention_kl(factor * student, teacher), value, atol=TIGHT)
        assert torch.allclose(attention_kl(student, factor * teacher), value, atol=TIGHT)

    @law
    @given(seeds)
    def test_pinsker_and_not_symmetric(self, seed):
        student, teacher = draw_probs(seed)
        total = (student - teacher).abs().sum(-1).square().mean((1, 2)) / 2
        assert (attention_kl(student, teacher) - total).min() > -TIGHT
        assert not torch.allclose(attention_kl(student, teacher), attention_kl(teacher, student), rtol=1e-6)

    def test_causal_rows_of_zeros_and_the_first_row_adds_nothing(self):
        student, teacher = (x.tril() / x.tril().sum(-1, keepdim=True) for x in draw_probs(2))
        value = attention_kl(student, teacher)
        rest = attention_kl(student[:, :, [0, 0, 0, 0]], teacher[:, :, [0, 0, 0, 0]])
        assert torch.allclose(rest, torch.zeros(3, dtype=torch.float64), atol=TIGHT)
        assert value.min() > 1e-2
        # the student's zeros of the teacher's zeros: the gradient is that of the entries alone
        assert gradient(attention_kl, student, teacher).isfinite().all()

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_a_student_that_excludes_pays_by_the_smallest_normal_number(self, dtype):
        teacher, student = (torch.tensor([[[row, row]]], dtype=dtype) for row in ([0.5, 0.5], [1.0, 0.0]))
        tiny = torch.finfo(dtype).tiny
        expected = 0.5 * torch.tensor([0.25 / tiny], dtype=dtype).log()
        assert torch.allclose(attention_kl(student, teacher), expected)
        assert gradient(attention_kl, student, teacher).isfinite().all()

    def test_a_query_without_a_key_on_the_teachers_side_is_left_out(self):
        student, teacher = draw_probs(3)
        blank = teacher.clone()
        blank[:, :, 0] = 0
        kept = attention_kl(student, teacher, None) * 4
        first = attention_kl(student[:, :, [0] * 4], teacher[:, :, [0] * 4])
        assert torch.allclose(attention_kl(student, blank), (kept - first) / 3)

    def test_a_student_of_zeros_counts_as_uniform(self):
        _, teacher = draw_probs(4)
        assert torch.allclose(attention_kl(0 * teacher, teacher), attention_kl(0 * teacher + 0.25, teacher))


class TestRelations:
    @law
    @given(seeds, st.sampled_from([(1, 6, 6), (2, 6, 4), (3, 6, 12), (2, 8, 6)]))
    def test_a_rotation_inside_each_relation_head_is_not_seen(self, seed, widths):
        heads, ours, theirs = widths
        generator = torch.Generator().manual_seed(seed)

        def normal(*shape):
            return torch.randn(*shape, generator=generator, dtype=torch.float64)

        student, teacher = normal(2, 5, ours), normal(2, 5, theirs)
        mask = mask_of(2, 5)

        def turned(x):
            turn = torch.linalg.qr(normal(heads, x.shape[-1] // heads, x.shape[-1] // heads))[0]
            return torch.einsum("blhd,hde->blhe", x.unflatten(-1, (heads, -1)), turn).flatten(2)

        value = minilm_relation(student, teacher, heads, mask)
        assert torch.allclose(minilm_relation(turned(student), teacher, heads, mask), value, atol=TIGHT)
        assert torch.allclose(minilm_relation(student, turned(teacher), heads, mask), value, atol=TIGHT)
        assert minilm_relation(turned(teacher), teacher, heads, mask).abs().max() < TIGHT

    def test_a_rotation_across_relation_heads_is_seen(self):
        student, _ = draw_tokens(0)
        turn = torch.linalg.qr(torch.randn(6, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64))[0]
        assert minilm_relation(student @ turn, student, 2).min() > 1e-2
        assert minilm_relation(student @ turn, student, 1).max() < TIGHT

    def test_the_scale_is_the_root_of_the_relation_heads_width(self):
        """A head that stands there twice has twice the products and the root of two times the scores."""
        student, teacher = draw_tokens(1)
        wide = torch.cat([student, student], -1) / 2**0.25
        assert torch.allclose(minilm_relation(wide, teacher, 1), minilm_relation(student, teacher, 1))

    @pytest.mark.parametrize(("heads", "width"), [(4, 6), (5, 6), (0, 6), (12, 6)])
    def test_heads_that_do_not_divide_a_width_are_said(self, heads, width):
        x = torch.rand(2, 3, width)
        fits = torch.rand(2, 3, 12)
        for sides in ((x, fits), (fits, x)) if heads in (4, 12) else ((x, x),):
            with pytest.raises(ValueError, match=f"width of {width} .* {heads} relation heads"):
                minilm_relation(*sides, heads)

    @pytest.mark.parametrize(("ours", "theirs"), [((2, 3, 4), (2, 4, 4)), ((2, 3, 4), (3, 3, 4)), ((2, 4), (2, 4))])
    def test_other_tokens_are_said(self, ours, theirs):
        with pytest.raises(ValueError) as caught:
            minilm_relation(torch.rand(ours), torch.rand(theirs), 2)
        assert str(list(ours)) in str(caught.value)
        assert str(list(theirs)) in str(caught.value)

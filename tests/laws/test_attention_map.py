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


@st.composite
def pairs(draw):
    shape = tuple(draw(st.lists(st.integers(1, 6), min_size=4, max_size=4)))
    return pair(draw(st.integers(0, 2**31)), shape, draw(st.sampled_from([1e-3, 1.0, 10.0])))


def gradient(loss, student, *rest):
    student = student.clone().requires_grad_()
    return torch.autograd.grad(loss(student, *rest).sum(), student)[0]


@pytest.mark.parametrize("power", [1.0, 1.5, 2.0, 4.0])
@law
@given(pairs(), st.floats(1e-6, 1e6))
def test_scale_signs_order_and_number_of_channels_are_not_seen(power, sides, scale):
    student, teacher = sides
    value = maps.attention_map(student, teacher, power)
    signs = torch.arange(student.numel()).reshape(student.shape) % 2 * 2.0 - 1
    # powers up to 4 magnify the rounding of a scale to some 1e-15; values go down to 0, so the bound is absolute
    for same in (scale * student, signs * student, student.flip(1), student.repeat(1, 3, 1, 1)):
        assert torch.allclose(maps.attention_map(same, teacher, power), value, rtol=1e-9, atol=1e-13)
    assert value.max() <= 2 / student[0, 0].numel() + TIGHT


def test_tokens_are_maps_of_one_row():
    student, teacher = pair(shape=(3, 4, 1, 6))
    tokens = [side[:, :, 0].transpose(1, 2) for side in (student, teacher)]
    assert torch.allclose(maps.attention_map(*tokens), maps.attention_map(student, teacher), rtol=TIGHT)
    assert torch.autograd.gradcheck(lambda x: maps.attention_map(x, tokens[1]), tokens[0].requires_grad_())


@pytest.mark.parametrize("power", [1.0, 2.0, 3.0])
def test_a_map_of_zeros(power):
    (something, _), zeros = pair(), torch.zeros(3, 4, 5, 6, dtype=torch.float64)
    assert torch.equal(maps.attention_map(zeros, zeros, power), torch.zeros(3, dtype=torch.float64))
    for sides in ((zeros, something), (something, zeros)):
        # |Q|^2 = 1 over 30 positions
        assert torch.allclose(maps.attention_map(*sides, power), torch.full((3,), 1 / 30).double(), rtol=TIGHT)
    for sides in ((zeros, something), (something, zeros), (zeros, zeros)):
        assert gradient(maps.attention_map, *sides, power).isfinite().all()
    part = something.clone()
    part[:, :, 0] = 0  # a root or a power at 0 inside a map that is not zero
    assert gradient(maps.attention_map, part, something, power).isfinite().all()


@pytest.mark.parametrize("size", [1e-45, 1e-36, 1e-30, 1e-12, 1e15, 1e37])
@pytest.mark.parametrize("power", [1.0, 2.0, 4.0])
def test_very_small_and_large_maps_stay_finite(size, power):
    student, teacher = pair(dtype=torch.float32)
    value = maps.attention_map(size * student, teacher, power)
    assert gradient(maps.attention_map, size * student, teacher, power).isfinite().all()
    if size >= 1e-30:  # smaller maps count as zero
        # float32 powers of up to 4, normalised: some tens of 6e-8 of Q, in the difference of two Q
        assert torch.allclose(value, maps.attention_map(student, teacher, power), rtol=1e-4)


def test_a_large_power_looks_at_the_strongest_channel_alone():
    """As p grows, Q tends to one at the place of the largest magnitude."""
    student, teacher = torch.ones(1, 3, 2, 2).double(), torch.ones(1, 3, 2, 2).double()
    student[0, 1, 0, 0] = 2.0
    teacher[0, 2, 1, 1] = -3.0
    # the rest is 3 (1/2)^40 of it
    assert maps.attention_map(student, teacher, 40.0).item() == pytest.approx(2 / 4, rel=1e-10)


def test_attention_needs_the_same_positions_and_kind():
    for one, other in (
        ((3, 4, 5, 6), (3, 4, 6, 5)),
        ((3, 4, 5, 6), (2, 4, 5, 6)),
        ((3, 4, 5), (3, 5, 5)),
        ((3, 6, 2, 3), (3, 6, 4)),
        ((3, 4), (3, 4)),
        ((3, 4, 1, 1, 2), (3, 4, 1, 1, 2)),
    ):
        with pytest.raises(ValueError, match="agree in all but the channels") as caught:
            maps.attention_map(torch.zeros(one), torch.zeros(other))
        assert str(list(one)) in str(caught.value)
        assert str(list(other)) in str(caught.value)
    with pytest.raises(ValueError, match="at least 1"):
        maps.attention_map(torch.zeros(3, 4, 5), torch.zeros(3, 4, 5), 0.5)

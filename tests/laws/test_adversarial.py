import copy
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from limbeck.losses.adversarial import discriminator_loss, generator_loss
from limbeck.objective.parts.discriminator import Discriminator, adversarial_values

law = settings(max_examples=30, deadline=None, derandomize=True)
# float64 sums of at most 64 terms of size 1, and a sigmoid: some 1e-14
TIGHT = 1e-12


def scores(rows=6, seed=0, scale=3.0):
    generator = torch.Generator().manual_seed(seed)
    return tuple(scale * torch.randn(rows, generator=generator, dtype=torch.float64) for _ in range(2))


def features(rows=6, shape=(4,), seed=0):
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.randn(rows, *shape, generator=generator, dtype=torch.float64) for _ in range(2))


def discriminator(size=4, width=16, seed=0):
    torch.manual_seed(seed)
    return Discriminator(size, width).double()


@law
@given(st.integers(0, 2**31), st.sampled_from([0.1, 3.0, 500.0]))
def test_both_losses_are_not_negative_and_finite_with_finite_gradients(seed, scale):
    ours, theirs = (z.requires_grad_() for z in scores(seed=seed, scale=scale))
    for value in (discriminator_loss(ours, theirs), generator_loss(ours)):
        assert value.shape == (6,)
        assert value.isfinite().all()
        assert value.min() >= 0
    (discriminator_loss(ours, theirs) + generator_loss(ours)).sum().backward()
    for side in (ours, theirs):
        assert side.grad.isfinite().all()
        assert side.grad.abs().max() <= 1 + TIGHT


def test_at_one_half_the_discriminator_loses_two_logs_of_two():
    zero = torch.zeros(3, dtype=torch.float64)
    assert torch.allclose(discriminator_loss(zero, zero), torch.full_like(zero, 2 * math.log(2)), atol=TIGHT)
    assert torch.allclose(generator_loss(zero), torch.full_like(zero, math.log(2)), atol=TIGHT)


def test_for_equal_scores_one_half_is_the_discriminators_best():
    z = torch.linspace(-4, 4, 81, dtype=torch.float64)
    value = discriminator_loss(z, z)
    assert value.argmin() == 40
    assert value[40] == pytest.approx(2 * math.log(2))


def test_the_teacher_is_one_and_the_student_zero():
    low, high = torch.tensor([-9.0]), torch.tensor([9.0])
    assert discriminator_loss(low, high) < 1e-3
    assert discriminator_loss(high, low) > 17
    assert generator_loss(high) < 1e-3
    assert generator_loss(low) > 8


def test_the_students_gradient_does_not_vanish_where_the_discriminator_wins():
    z = torch.tensor([-30.0], requires_grad=True)
    (slope,) = torch.autograd.grad(generator_loss(z), z)
    assert slope.item() == pytest.approx(-1, abs=1e-6)  # of log(1 - D) it would be 1e-13


def test_negated_scores_change_the_players():
    ours, theirs = scores()
    assert torch.allclose(discriminator_loss(ours, theirs), discriminator_loss(-theirs, -ours), atol=TIGHT)


def test_gradcheck():
    ours, theirs = (z.requires_grad_() for z in scores(3))
    assert torch.autograd.gradcheck(discriminator_loss, (ours, theirs))
    assert torch.autograd.gradcheck(generator_loss, (ours,))
    part = discriminator().eval()  # in training mode every call would have other weights
    student, teacher = features(3)
    student.requires_grad_()

    def generator(x):
        return generator_loss(part(x))

    assert torch.autograd.gradcheck(generator, (student,))
    assert torch.autograd.gradcheck(lambda *weights: part(teacher, pairs(weights)), flat(part.weights()))


def flat(weights):
    return tuple(value.detach().requires_grad_() for layer in weights for value in layer)


def pairs(values):
    return list(zip(values[::2], values[1::2], strict=True))


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("shape", [(4,), (2, 3, 3)], ids=str)
def test_one_backward_gives_each_player_its_own_gradient(shape, training):
    part = discriminator(math.prod(shape)).train(training)
    alone = copy.deepcopy(part)
    student, teacher = (z.requires_grad_() for z in features(shape=shape))
    value = adversarial_values(part, student, teacher)
    assert value.shape == (6,)
    value.sum().backward()
    assert teacher.grad is None

    weights = alone.weights()
    (expected,) = torch.autograd.grad(generator_loss(alone(student, weights)).sum(), student, retain_graph=True)
    assert expected.abs().max() > 1e-3
    assert torch.allclose(student.grad, expected, atol=TIGHT)

    loss = discriminator_loss(alone(student.detach(), weights), alone(teacher.detach(), weights))
    expected = torch.autograd.grad(loss.sum(), list(alone.parameters()))
    assert max(slope.abs().max() for slope in expected) > 1e-3
    for parameter, slope in zip(part.parameters(), expected, strict=True):
        assert torch.allclose(parameter.grad, slope, atol=TIGHT)


def test_equal_sides_that_cannot_be_told_apart_cost_three_logs_of_two():
    part = discriminator()
    for layer in part.layers:
        torch.nn.init.zeros_(layer.bias)
    zero = torch.zeros(2, 4, dtype=torch.float64)
    assert torch.allclose(adversarial_values(part, zero, zero), torch.full((2,), 3 * math.log(2)).double(), atol=TIGHT)


def test_a_call_moves_the_power_iteration_once_and_only_in_training():
    part, other = discriminator(), discriminator()
    before = {name: value.clone() for name, value in part.named_buffers()}
    adversarial_values(part.eval(), *features())
    assert all(torch.equal(value, before[name]) for name, value in part.named_buffers())
    adversarial_values(part.train(), *features())
    other.weights()
    moved = dict(other.named_buffers())
    assert all(torch.equal(value, moved[name]) for name, value in part.named_buffers())
    assert not all(torch.equal(value, before[name]) for name, value in part.named_buffers())


def test_scores_change_by_at_most_the_distance_of_the_features():
    part = discriminator()
    with torch.no_grad():
        for layer in part.layers:
            layer.parametrizations.weight.original.mul_(50)
    for _ in range(400):
        part.weights()
    ours, theirs = features(rows=200)
    gaps = (part(ours) - part(theirs)).abs() / (ours - theirs).norm(dim=1)
    assert gaps.max() <= 1 + 1e-9  # the power iteration's error, squared away after 400 steps
    assert gaps.max() > 0.01


def test_rows_stand_for_themselves():
    part = discriminator().eval()
    ours, theirs = features()
    value, turn = adversarial_values(part, ours, theirs), torch.tensor([3, 0, 5, 1, 4, 2])
    assert torch.allclose(adversarial_values(part, ours[turn], theirs[turn]), value[turn], atol=TIGHT)
    assert torch.allclose(adversarial_values(part, ours[:1], theirs[:1]), value[:1], atol=TIGHT)


def test_each_player_descends_and_equal_distributions_end_near_one_half():
    part = discriminator()
    generator = torch.Generator().manual_seed(0)
    shift = torch.full((4,), 2.0, dtype=torch.float64, requires_grad=True)
    players = [
        torch.optim.Adam([shift], lr=0.02, betas=(0.5, 0.999)),
        torch.optim.Adam(part.parameters(), lr=0.005, betas=(0.5, 0.999)),
    ]
    for _ in range(300):
        noise, teacher = (torch.randn(64, 4, generator=generator, dtype=torch.float64) for _ in range(2))
        for player in players:
            player.zero_grad()
        adversarial_values(part, noise + shift, teacher).mean().backward()
        for player in players:
            player.step()
    assert shift.norm().item() < 1.0  # from 4; both players still move about the point where sides are equal
    fresh = [torch.randn(500, 4, generator=generator, dtype=torch.float64) for _ in range(2)]
    with torch.no_grad():
        loss = discriminator_loss(part(fresh[0] + shift), part(fresh[1])).mean().item()
    assert loss == pytest.approx(2 * math.log(2), abs=0.15)


def test_its_state_survives_a_round_trip_and_a_copy():
    part = discriminator()
    adversarial_values(part, *features())
    other = discriminator(seed=1)
    other.load_state_dict(part.state_dict())
    copied = copy.deepcopy(part)
    values = [adversarial_values(each, *features(seed=2)) for each in (part, other, copied)]
    assert torch.equal(values[0], values[1])
    assert torch.equal(values[0], values[2])
    values[2].sum().backward()
    assert all(parameter.grad is None for parameter in part.parameters())
    assert all(parameter.grad is not None for parameter in copied.parameters())


def test_what_does_not_fit_is_refused_with_both_shapes():
    part = discriminator()
    ours, theirs = features()
    with pytest.raises(ValueError, match=r"\[6, 4\] with the teacher's \[6, 3\]"):
        adversarial_values(part, ours, theirs[:, :3])
    with pytest.raises(ValueError, match=r"4 numbers an example, not \[6, 3\]"):
        adversarial_values(part, ours[:, :3], theirs[:, :3])
    with pytest.raises(ValueError, match=r"\[6\] of the student's and \[5\] of the teacher's"):
        discriminator_loss(torch.zeros(6), torch.zeros(5))

import copy
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from limbeck.losses.contrastive import contrastive, crd, unit
from limbeck.objective.parts.memory import ContrastMemory

law = settings(max_examples=30, deadline=None, derandomize=True)
# float64: cosines are exact to 1e-15, which 1 / temperature <= 20 and sums of at most 20 terms magnify
TIGHT = 1e-11


def embeddings(rows=6, width=5, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.randn(rows, width, generator=generator, dtype=dtype) for _ in range(2))


def critics(rows=4, count=7, width=5, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    shapes = (rows, width), (rows, width), (rows, count, width)
    return tuple(unit(torch.randn(shape, generator=generator, dtype=dtype)) for shape in shapes)


def gradient(loss, student, *rest, **settings_):
    student = student.clone().requires_grad_()
    return torch.autograd.grad(loss(student, *rest, **settings_).sum(), student)[0]


sizes = st.tuples(st.integers(1, 8), st.integers(1, 6), st.integers(0, 2**31))


@law
@given(sizes, st.floats(0.05, 5), st.booleans())
def test_info_nce_is_not_negative_and_bounded_by_the_worst_case(size, t, symmetric):
    student, teacher = embeddings(*size)
    value = contrastive(student, teacher, t, symmetric=symmetric)
    assert value.shape == (size[0],)
    assert value.min() >= -TIGHT
    # all others at a cosine of 1, and the positive at -1
    assert value.max() <= math.log(1 + (size[0] - 1) * math.exp(2 / t)) + TIGHT


@law
@given(sizes, st.floats(0.05, 5))
def test_info_nce_sees_no_length_and_no_common_rotation(size, t):
    student, teacher = embeddings(*size)
    value = contrastive(student, teacher, t)
    lengths = torch.rand(size[0], 1, dtype=torch.float64) * 100 + 0.01
    assert torch.allclose(contrastive(student * lengths, teacher / lengths, t), value, atol=TIGHT)
    turn, _ = torch.linalg.qr(embeddings(size[1], size[1], 1)[0])
    assert torch.allclose(contrastive(student @ turn, teacher @ turn, t), value, atol=TIGHT)


@law
@given(sizes, st.booleans())
def test_the_order_of_the_batch_does_not_matter(size, symmetric):
    student, teacher = embeddings(*size)
    labels = torch.arange(size[0]) % 3 - 1
    turn = torch.randperm(size[0], generator=torch.Generator().manual_seed(size[2]))
    value = contrastive(student, teacher, 0.2, labels, symmetric)
    turned = contrastive(student[turn], teacher[turn], 0.2, labels[turn], symmetric)
    assert torch.allclose(turned, value[turn], atol=TIGHT)


@law
@given(sizes)
def test_the_symmetric_form_does_not_change_with_the_sides(size):
    student, teacher = embeddings(*size)
    first, second = (contrastive(*sides, 0.2, symmetric=True) for sides in ((student, teacher), (teacher, student)))
    assert torch.allclose(first, second, atol=TIGHT)
    each = [contrastive(*sides, 0.2) for sides in ((student, teacher), (teacher, student))]
    assert torch.allclose(first, (each[0] + each[1]) / 2, atol=TIGHT)


def test_a_match_is_not_zero_but_the_best_one_can_hope_for_once_others_are_far():
    student, _ = embeddings()
    assert contrastive(student, student, 0.5).min() > 0.01
    apart = torch.eye(6, dtype=torch.float64)
    assert contrastive(apart, apart, 0.02).max() < 1e-20
    assert gradient(contrastive, apart, apart, 0.02).abs().max() < 1e-18


def test_a_constant_embedding_costs_log_b_and_a_hot_temperature_tends_to_it():
    student, teacher = embeddings()
    flat = torch.full((6,), math.log(6), dtype=torch.float64)
    assert torch.allclose(contrastive(torch.ones_like(student), teacher * 0 + 2, 0.07), flat, atol=TIGHT)
    # the expansion's first term is at most 2 / t
    assert torch.allclose(contrastive(student, teacher, 1e6), flat, atol=2.1e-6)


def test_following_the_gradient_brings_each_row_to_its_own():
    student, teacher = embeddings()
    student = student.clone().requires_grad_()
    player = torch.optim.Adam([student], lr=0.1)
    for _ in range(60):
        player.zero_grad()
        contrastive(student, teacher, 0.2).mean().backward()
        player.step()
    assert torch.equal((unit(student) @ unit(teacher).T).argmax(1), torch.arange(6))


def test_rows_of_the_anchors_class_are_no_negatives():
    student, teacher = embeddings()
    labels = torch.tensor([0, 0, 1, -1, -1, 1])
    value = contrastive(student, teacher, 0.3, labels)
    assert torch.allclose(value[0], contrastive(student[[0, 2, 3, 4, 5]], teacher[[0, 2, 3, 4, 5]], 0.3)[0])
    plain = contrastive(student, teacher, 0.3)
    assert torch.allclose(value[3:5], plain[3:5], atol=TIGHT)  # of no class: all others are negatives
    assert (value[[0, 1, 2, 5]] < plain[[0, 1, 2, 5]]).all()
    alone = contrastive(student, teacher, 0.3, torch.zeros(6, dtype=torch.int64), symmetric=True)
    assert torch.equal(alone, torch.zeros(6, dtype=torch.float64))


@pytest.mark.parametrize("symmetric", [False, True])
def test_a_batch_of_one_and_a_class_of_all_are_zero_with_a_zero_gradient(symmetric):
    student, teacher = embeddings(1)
    assert contrastive(student, teacher, symmetric=symmetric).item() == 0
    assert gradient(contrastive, student, teacher, symmetric=symmetric).abs().max() == 0
    student, teacher = embeddings()
    slope = gradient(contrastive, student, teacher, labels=torch.ones(6, dtype=torch.int64), symmetric=symmetric)
    assert slope.abs().max() == 0


def test_the_teacher_gets_a_gradient_only_where_it_is_asked_for():
    student, teacher = (z.requires_grad_() for z in embeddings())
    contrastive(student, teacher, symmetric=True).sum().backward()
    assert teacher.grad is None
    contrastive(student, teacher, detach_teacher=False).sum().backward()
    assert teacher.grad.abs().max() > 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("size", [0.0, 1e-40, 1e-20, 1e20, 1e35])
def test_lengths_of_any_size_and_zeros_give_finite_values_and_gradients(dtype, size):
    student, teacher = embeddings(dtype=dtype)
    student, teacher = student.clone(), teacher * size
    student[0] = 0
    student[1] *= size
    for symmetric in (False, True):
        sides = student.clone().requires_grad_(), teacher.clone().requires_grad_()
        value = contrastive(*sides, 0.01, symmetric=symmetric, detach_teacher=False)
        value.sum().backward()
        assert value.dtype == dtype
        assert value.isfinite().all()
        assert all(side.grad.isfinite().all() for side in sides)


def test_unit_vectors():
    value, _ = embeddings()
    assert torch.allclose(unit(value).norm(dim=1), torch.ones(6, dtype=torch.float64), atol=1e-14)
    assert torch.equal(unit(value.repeat(1, 1) * 0), value * 0)
    assert torch.allclose(unit(value.float() * 1e-25), unit(value.float()), atol=1e-6)  # float32's last places
    assert torch.autograd.gradcheck(unit, (value.clone().requires_grad_(),))


def test_gradcheck():
    student, teacher = (z.requires_grad_() for z in embeddings(4, 3))
    labels = torch.tensor([0, 1, 0, -1])
    assert torch.autograd.gradcheck(
        lambda a, b: contrastive(a, b, 0.3, labels, symmetric=True, detach_teacher=False), (student, teacher)
    )
    anchor, positive, negatives = critics(3, 4, 3)
    assert torch.autograd.gradcheck(
        lambda a, b: crd(a, b, negatives, 3.0, 10, 0.3), (anchor.requires_grad_(), positive.requires_grad_())
    )


@pytest.mark.parametrize("count", [1, 7, 500])
def test_flat_scores_cost_what_the_formula_says(count):
    rows, t, (anchor, _, _) = 1000, 0.07, critics(3)
    negatives = anchor[:, None].expand(-1, count, -1)
    # every cosine is 1, and Z makes each score 1 / N
    constant = rows * math.exp(1 / t)
    expected = 2 * (math.log(count + 1) + count * math.log(1 + 1 / count))
    value = crd(anchor, anchor, negatives, constant, rows, t) + crd(anchor, anchor, negatives, constant, rows, t)
    # cosines of 1 to some 1e-15, times 1 / t, in K + 1 terms
    assert torch.allclose(value, torch.full_like(value, expected), rtol=1e-11)


@law
@given(st.integers(1, 5), st.integers(1, 9), st.integers(0, 2**31), st.sampled_from([0.05, 0.5, 5.0]))
def test_crd_is_not_negative_and_the_order_of_negatives_or_rows_does_not_matter(batch, count, seed, t):
    anchor, positive, negatives = critics(batch, count, seed=seed)
    value = crd(anchor, positive, negatives, 50.0, 100, t)
    assert value.shape == (batch,)
    assert value.min() > 0
    assert torch.allclose(crd(anchor, positive, negatives.flip(1), 50.0, 100, t), value, rtol=TIGHT)
    assert torch.allclose(crd(anchor.flip(0), positive.flip(0), negatives.flip(0), 50.0, 100, t), value.flip(0))


def test_crd_rewards_a_near_positive_and_far_negatives():
    anchor, positive, negatives = critics()
    value = crd(anchor, positive, negatives, 20.0, 100, 0.2)
    assert (crd(anchor, anchor, negatives, 20.0, 100, 0.2) < value).all()
    opposite = -anchor[:, None].expand_as(negatives)
    assert (crd(anchor, positive, opposite, 20.0, 100, 0.2) < value).all()


def test_a_match_is_not_zero_for_crd_either():
    anchor, _, negatives = critics()
    assert crd(anchor, anchor, negatives, 20.0, 100).min() > 0
    assert gradient(lambda a: crd(a, anchor, negatives, 20.0, 100), anchor).abs().max() > 1e-3


@pytest.mark.parametrize("t", [1e-3, 0.07])
@pytest.mark.parametrize("constant", [1e-30, 1.0, 1e30])
def test_crd_does_not_overflow(constant, t):
    anchor, _, negatives = critics(dtype=torch.float32)
    negatives[:, 0] = anchor
    for positive in (anchor, -anchor):
        value = crd(anchor, positive, negatives, constant, 1000, t)
        assert value.isfinite().all()
        slope = gradient(lambda a, b=positive: crd(a, b, negatives, torch.tensor(constant), 1000, t), anchor)
        assert slope.isfinite().all()


def test_without_negatives_nothing_is_to_be_told_apart():
    anchor, positive, negatives = critics()
    assert torch.equal(crd(anchor, positive, negatives[:, :0], 1.0, 10), torch.zeros(4, dtype=torch.float64))
    assert gradient(crd, anchor, positive, negatives[:, :0], 1.0, 10).abs().max() == 0


def test_negatives_and_the_constant_get_no_gradient():
    anchor, positive, negatives = (z.requires_grad_() for z in critics())
    constant = torch.tensor(3.0, dtype=torch.float64, requires_grad=True)
    crd(anchor, positive, negatives, constant, 10).sum().backward()
    assert negatives.grad is None
    assert constant.grad is None
    assert anchor.grad.abs().max() > 0
    assert positive.grad.abs().max() > 0


def test_shapes_that_do_not_fit_are_refused_with_both():
    student, teacher = embeddings()
    with pytest.raises(ValueError, match=r"\[6, 5\] with the teacher's \[6, 4\]"):
        contrastive(student, teacher[:, :4])
    with pytest.raises(ValueError, match=r"\[5\] .* \[6, 5\]"):
        contrastive(student, teacher, labels=torch.zeros(5, dtype=torch.int64))
    anchor, positive, negatives = critics()
    with pytest.raises(ValueError, match=r"\[4, 5\] and \[3, 5\]"):
        crd(anchor, positive[:3], negatives, 1.0, 10)
    with pytest.raises(ValueError, match=r"\[4, 7, 4\] for \[4, 5\]"):
        crd(anchor, positive, negatives[..., :4], 1.0, 10)


def memory(rows=30, seed=0, **given_):
    torch.manual_seed(seed)
    return ContrastMemory(5, 7, rows, **{"width": 8, "negatives": 10, **given_}).double()


def seen(ids, seed=0):
    generator = torch.Generator().manual_seed(seed)
    shapes = (len(ids), 5), (len(ids), 7)
    return (*(torch.randn(s, generator=generator, dtype=torch.float64) for s in shapes), torch.tensor(ids))


class TestMemory:
    def test_the_first_batch_costs_about_what_flat_scores_do(self):
        part = memory(400, width=64, negatives=300, temperature=5.0)
        value = part(*seen(list(range(16)))).mean().item()
        # cosines of 64 numbers deviate by 1 / 8, and scores by 1 / 40: second order of that, and the noise of 16 rows
        flat = 2 * (math.log(301) + 300 * math.log(1 + 1 / 300))
        assert value == pytest.approx(flat, abs=0.1)

    def test_memories_are_unit_vectors_before_and_after_and_only_the_rows_seen_move(self):
        part = memory()
        before = part.student_memory.clone(), part.teacher_memory.clone()
        part(*seen([3, 8, 29]))
        for kept, old in zip((part.student_memory, part.teacher_memory), before, strict=True):
            # made in float32
            assert torch.allclose(old.norm(dim=1), torch.ones(30, dtype=torch.float64), atol=1e-6)
            assert torch.allclose(kept.norm(dim=1), torch.ones(30, dtype=torch.float64), atol=1e-6)
            moved = (kept != old).any(1)
            assert moved.nonzero().flatten().tolist() == [3, 8, 29]

    def test_momentum_of_one_keeps_a_memory_and_of_zero_replaces_it(self):
        keeping, replacing = memory(momentum=1.0), memory(momentum=0.0)
        before = keeping.student_memory.clone()
        batch = seen([4, 5])
        keeping(*batch)
        assert torch.allclose(keeping.student_memory, before, atol=1e-6)
        replacing(*batch)
        expected = unit(replacing.teacher(batch[1]))
        assert torch.allclose(replacing.teacher_memory[[4, 5]], expected, atol=TIGHT)

    def test_constants_are_set_once(self):
        part = memory()
        assert torch.equal(part.constants, torch.zeros(2, dtype=torch.float64))
        part(*seen([1, 2]))
        first = part.constants.clone()
        assert (first > 0).all()
        part(*seen([3, 4], seed=1))
        assert torch.equal(part.constants, first)

    def test_evaluation_changes_nothing(self):
        part = memory().eval()
        before = copy.deepcopy(part.state_dict())
        value = part(*seen([1, 2, 3]), torch.tensor([0, 1, 0]))
        assert value.isfinite().all()
        assert (value > 0).all()
        assert all(torch.equal(value, before[name]) for name, value in part.state_dict().items())

    def test_both_maps_and_the_student_are_trained_and_the_teacher_and_the_memories_are_not(self):
        part = memory()
        student, teacher, ids = seen([1, 2, 3])
        student.requires_grad_()
        teacher.requires_grad_()
        part(student, teacher, ids).sum().backward()
        assert teacher.grad is None
        for slope in (student.grad, *(parameter.grad for parameter in part.parameters())):
            assert slope.abs().max() > 0
        names = {name for name, _ in part.named_parameters()}
        assert names == {"student.weight", "student.bias", "teacher.weight", "teacher.bias"}
        assert not any(buffer.requires_grad for buffer in part.buffers())

    def test_its_negatives_are_uniform_over_the_other_rows(self):
        part = memory(rows=5, negatives=4)
        torch.manual_seed(0)
        drawn = torch.cat([part._draw(torch.tensor([0, 2, 4]), None)[0] for _ in range(1000)], 1)
        assert drawn.shape == (3, 4000)
        for own, row in zip((0, 2, 4), drawn, strict=True):
            counts = torch.bincount(row, minlength=5)
            assert counts[own] == 0
            # 4000 draws at 1/4: a deviation of 27, and 5 of them
            assert (counts[[i for i in range(5) if i != own]] - 1000).abs().max() < 140

    def test_negatives_come_from_other_classes_and_rows_not_seen(self):
        part = memory(rows=8, negatives=7)
        torch.manual_seed(0)
        classes = torch.tensor([2, 0, 2, -1, 0, 1, -1, 2])
        anchors = torch.tensor([0, 1, 5, 3, 6])
        draws = [part._draw(anchors, classes) for _ in range(300)]
        assert all(found.all() for _, found in draws)
        drawn = torch.cat([rows for rows, _ in draws], 1)
        allowed = [{1, 3, 4, 5, 6}, {0, 2, 3, 5, 6, 7}, {0, 1, 2, 3, 4, 6, 7}, set(range(8)) - {3}, set(range(8)) - {6}]
        for row, rows in zip(drawn, allowed, strict=True):
            counts = torch.bincount(row, minlength=8)
            assert set(counts.nonzero().flatten().tolist()) == rows
            # 2100 draws at p >= 1/7: a deviation of at most 20 (p = 1/5: 18.3), and 5 of them
            assert (counts[list(rows)] - 2100 / len(rows)).abs().max() < 100

    def test_a_class_is_known_from_the_batch_that_first_shows_it(self):
        part = memory(rows=4, negatives=3, temperature=0.3)
        labels = torch.tensor([1, 1, 0])
        part(*seen([0, 1, 2]), labels)
        assert part.classes.tolist() == [1, 1, 0, -1]
        part(*seen([3]), torch.tensor([-100]))
        assert part.classes.tolist() == [1, 1, 0, -1]

    def test_an_anchor_whose_class_is_all_there_is_costs_nothing(self):
        part = memory(rows=3)
        student, teacher, ids = seen([0, 1, 2])
        student.requires_grad_()
        value = part(student, teacher, ids, torch.tensor([4, 4, 4]))
        assert torch.equal(value, torch.zeros(3, dtype=torch.float64))
        value.sum().backward()
        assert student.grad.abs().max() == 0
        assert all(parameter.grad.abs().max() == 0 for parameter in part.parameters())

    def test_the_first_of_several_rows_of_one_id_is_kept(self):
        twice, once = memory(), memory()
        batch = seen([6, 9, 6])
        value = twice(*batch)
        assert value.shape == (3,)
        once(*(side[:2] for side in batch))
        # the same two rows, in matrix products of other sizes
        assert torch.allclose(twice.student_memory, once.student_memory, atol=TIGHT)
        assert torch.allclose(twice.teacher_memory, once.teacher_memory, atol=TIGHT)

    def test_opposites_that_cancel_leave_the_memory(self):
        part = memory()
        with torch.no_grad():
            part.student_memory[2] = torch.eye(8, dtype=torch.float64)[0]
            part._move(torch.tensor([2]), -part.student_memory[2:3], part.teacher_memory[2:3])
        assert torch.equal(part.student_memory[2], torch.eye(8, dtype=torch.float64)[0])

    def test_a_restored_memory_goes_on_as_the_first_one(self):
        part, other = memory(), memory(seed=5)
        part(*seen([1, 2, 3]), torch.tensor([0, 1, 0]))
        other.load_state_dict(part.state_dict())
        copied, randomness = copy.deepcopy(part), torch.get_rng_state()
        values = []
        for each in (part, other, copied):
            torch.set_rng_state(randomness)
            values.append(each(*seen([3, 4], seed=1), torch.tensor([0, 1])))
        assert torch.equal(values[0], values[1])
        assert torch.equal(values[0], values[2])
        for name, value in part.state_dict().items():
            assert torch.equal(other.state_dict()[name], value)
            assert torch.equal(copied.state_dict()[name], value)

    def test_the_global_generator_decides(self):
        values = []
        for seed in (1, 1, 2):
            part = memory()
            torch.manual_seed(seed)
            values.append(part(*seen([1, 2])))
        assert torch.equal(values[0], values[1])
        assert not torch.equal(values[0], values[2])

    def test_training_brings_pairs_together(self):
        part = memory(rows=16, temperature=0.3)
        student, teacher, ids = seen(list(range(16)))
        player = torch.optim.Adam(part.parameters(), lr=0.02)
        cosines = []
        for _ in range(60):
            player.zero_grad()
            part(student, teacher, ids).mean().backward()
            player.step()
            with torch.no_grad():
                table = unit(part.student(student)) @ unit(part.teacher(teacher)).T
            cosines.append((table.diagonal().mean() - table.mean()).item())
        assert cosines[0] < 0.3
        assert cosines[-1] > 0.6

    @pytest.mark.parametrize("temperature", [1e-3, 0.07, 100.0])
    def test_zeros_a_batch_of_one_and_two_rows_stay_finite(self, temperature):
        part = memory(rows=2, temperature=temperature).float()
        assert part.negatives == 1
        torch.nn.init.zeros_(part.student.bias)
        for size in (0.0, 1.0, 1e30):
            student = torch.full((1, 5), size, requires_grad=True)
            value = part(student, torch.zeros(1, 7), torch.tensor([1]))
            value.sum().backward()
            assert value.isfinite().all()
            assert student.grad.isfinite().all()
        assert all(buffer.isfinite().all() for buffer in part.buffers())

    def test_an_empty_batch_has_no_values_and_sets_nothing(self):
        part = memory()
        value = part(torch.zeros(0, 5).double(), torch.zeros(0, 7).double(), torch.zeros(0, dtype=torch.int64))
        assert value.shape == (0,)
        value.sum().backward()
        assert not part.constants.any()

    def test_what_does_not_fit_is_refused(self):
        part = memory()
        student, teacher, ids = seen([1, 2])
        for wrong in (torch.tensor([1, 30]), torch.tensor([-1, 3])):
            with pytest.raises(IndexError, match="memories of 30 rows"):
                part(student, teacher, wrong)
        with pytest.raises(ValueError, match=r"\[2, 4\] and \[2, 7\]"):
            part(student[:, :4], teacher, ids)
        with pytest.raises(ValueError, match="3 ids"):
            part(student, teacher, torch.tensor([1, 2, 3]))
        with pytest.raises(ValueError, match=r"Labels \[1\]"):
            part(student, teacher, ids, torch.tensor([1]))
        with pytest.raises(ValueError, match="at least 2 rows"):
            ContrastMemory(5, 7, 1)
        assert not part.constants.any()

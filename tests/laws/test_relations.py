import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from limbeck.losses import grams, relations

# float64 with batches <= 7 and widths <= 6: a value is exact to some 1e-14 of terms of order 1; the room is for angles
# between close examples, whose error grows as 1 / distance
TIGHT = 1e-10
RKD = (relations.rkd_distance, relations.rkd_angle)
SP, CC, PKT = relations.similarity_preserving, relations.correlation_congruence, relations.pkt
RELATIONS = (*RKD, SP, CC, PKT)


def gram_kl(student, teacher):
    return grams.gram(student, teacher, "kl", 0.2)


def fsp(student, teacher):
    return grams.fsp(student[:, :2], student[:, 1:], teacher[:, :2], teacher[:, 1:])


OF_MAPS = (grams.gram, gram_kl, fsp, grams.nst)
law = settings(max_examples=25, deadline=None, derandomize=True)


def normal(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def turned(x, seed=0):
    """Under a random map with orthonormal rows, into a space that is wider by two."""
    rows, _ = torch.linalg.qr(normal(x.shape[1] + 2, x.shape[1], seed=seed))
    return x @ rows.T


def gradient(loss, student, *rest):
    student = student.clone().requires_grad_()
    return torch.autograd.grad(loss(student, *rest).sum(), student)[0]


@st.composite
def batches(draw, least=1, narrowest=1):
    size, ours, theirs = draw(st.integers(least, 7)), draw(st.integers(narrowest, 6)), draw(st.integers(narrowest, 6))
    seed = draw(st.integers(0, 2**31))
    return normal(size, ours, seed=seed), normal(size, theirs, seed=seed + 1)


@st.composite
def maps(draw):
    shape = draw(st.integers(1, 3)), 3, draw(st.integers(1, 4)), draw(st.integers(1, 4))
    seed = draw(st.integers(0, 2**31))
    return normal(*shape, seed=seed), normal(*shape, seed=seed + 1)


@law
@given(batches())
def test_relations_are_one_number_not_negative_and_zero_with_zero_gradient_at_a_match(sides):
    for loss in RELATIONS:
        value = loss(*sides)
        assert value.shape == ()
        assert value >= -TIGHT
        assert loss(sides[0], sides[0]).abs() < TIGHT
        assert gradient(loss, sides[0], sides[0].clone()).abs().max() < TIGHT


@law
@given(maps())
def test_second_orders_are_one_number_an_example_not_negative_and_zero_with_zero_gradient_at_a_match(sides):
    for loss in OF_MAPS:
        value = loss(*sides)
        assert value.shape == (len(sides[0]),)
        assert value.min() >= -TIGHT
        assert loss(sides[0], sides[0]).abs().max() < TIGHT
        assert gradient(loss, sides[0], sides[0].clone()).abs().max() < TIGHT


@pytest.mark.parametrize("loss", RELATIONS)
def test_relations_tell_two_spaces_apart_and_pull(loss):
    student, teacher = normal(6, 4), normal(6, 4, seed=1)
    before = loss(student, teacher)
    assert before > 1e-3
    assert loss(student - 0.1 * gradient(loss, student, teacher), teacher) < before


@pytest.mark.parametrize("loss", OF_MAPS)
def test_second_orders_tell_two_maps_apart_and_pull(loss):
    student, teacher = normal(2, 3, 3, 3), 2 * normal(2, 3, 3, 3, seed=1) + 1
    before = loss(student, teacher)
    assert before.min() > 1e-3
    assert (loss(student - 0.1 * gradient(loss, student, teacher), teacher) < before).all()


@law
@given(batches(least=2), st.floats(1e-3, 1e3), st.integers(0, 1000))
def test_rkd_does_not_see_a_rotation_a_shift_and_a_scale_of_either_side(sides, scale, seed):
    student, teacher = sides
    moved = scale * (turned(student, seed) + 5 * normal(student.shape[1] + 2, seed=seed))
    for loss in RKD:
        expected = loss(student, teacher)
        assert torch.allclose(loss(moved, teacher), expected, atol=1e-8)  # a shift of 5 costs digits of close pairs
        assert torch.allclose(loss(teacher, moved), loss(teacher, student), atol=1e-8)
        assert loss(moved, student) < 1e-8


@law
@given(batches(), st.floats(1e-3, 1e3), st.integers(0, 1000))
def test_similarity_preserving_does_not_see_an_orthogonal_map_and_a_scale(sides, scale, seed):
    student, teacher = sides
    for sign in (1, -1):
        assert torch.allclose(SP(sign * scale * turned(student, seed), teacher), SP(student, teacher), atol=TIGHT)
        assert torch.allclose(SP(teacher, sign * scale * turned(student, seed)), SP(teacher, student), atol=TIGHT)
    assert SP(student, teacher) <= 4 / len(student) + TIGHT


# not in one dimension, where angles of 180 degrees meet the floor under the kernel of `pkt`: K = 1e-16 / 2e-16
@law
@given(batches(narrowest=3), st.integers(0, 1000))
def test_cosine_kernels_do_not_see_an_orthogonal_map_and_the_scale_of_each_example(sides, seed):
    student, teacher = sides
    moved = normal(len(student), 1, seed=seed).exp() * turned(student, seed)
    for loss in (CC, PKT):
        assert torch.allclose(loss(moved, teacher), loss(student, teacher), atol=TIGHT)
        assert torch.allclose(loss(teacher, moved), loss(teacher, student), atol=TIGHT)


def test_what_each_relation_does_see():
    x, y = normal(6, 4), normal(6, 4, seed=1)
    shifted, scaled = x + 2, x * torch.linspace(0.5, 3, 6, dtype=x.dtype).unsqueeze(1)
    for loss in (SP, CC, PKT):
        assert loss(shifted, x) > 1e-3
    for loss in (*RKD, SP):
        assert loss(scaled, x) > 1e-3
    stretched = x * torch.tensor([1, 1, 1, 4], dtype=x.dtype)  # an axis of its own scale is no rotation
    for loss in RELATIONS:
        assert loss(stretched, x) > 1e-3
    for loss in (*RKD, SP, CC):
        assert loss(x, y) == pytest.approx(loss(y, x).item(), rel=1e-12)
    assert abs(PKT(x, y) - PKT(y, x)) > 1e-3


@pytest.mark.parametrize("loss", RELATIONS)
def test_the_order_of_the_batch_does_not_matter_but_the_pairing_does(loss):
    x, y = normal(7, 4), normal(7, 5, seed=1)
    order = torch.tensor([3, 6, 0, 5, 1, 4, 2])
    assert loss(x[order], y[order]) == pytest.approx(loss(x, y).item(), rel=1e-12)
    assert abs(loss(x[order], y) - loss(x, y)) > 1e-6
    assert torch.allclose(gradient(loss, x[order], y[order]), gradient(loss, x, y)[order], atol=TIGHT)


@pytest.mark.parametrize("loss", [*RELATIONS, *OF_MAPS])
def test_gradients_are_those_of_differences(loss):
    shapes = ((5, 3), (5, 4)) if loss in RELATIONS else ((2, 3, 2, 2),) * 2
    student, teacher = normal(*shapes[0]).requires_grad_(), normal(*shapes[1], seed=1)
    assert torch.autograd.gradcheck(lambda s: loss(s, teacher), student)


def test_gradients_of_the_other_way_to_compute_nst():
    """By pairs of channels, where positions are many; the case above is by positions."""
    student, teacher = normal(2, 2, 3, 3).requires_grad_(), normal(2, 1, 3, 3, seed=1)
    assert torch.autograd.gradcheck(lambda s: grams.nst(s, teacher), student)


@pytest.mark.parametrize("loss", [*RELATIONS, *OF_MAPS])
def test_the_teacher_gets_no_gradient(loss):
    shape = (4, 3) if loss in RELATIONS else (2, 3, 2, 2)
    student, teacher = normal(*shape).requires_grad_(), normal(*shape, seed=1).requires_grad_()
    loss(student, teacher).sum().backward()
    assert student.grad is not None
    assert teacher.grad is None


def degenerate():
    full = normal(5, 4, seed=9)
    double, hole = full.clone(), full.clone()
    double[3] = double[0]
    hole[2] = 0.0
    return {
        "equal rows": double,
        "a zero row": hole,
        "constant": full[:1].expand(5, 4).clone(),
        "all zero": torch.zeros_like(full),
        "opposite": torch.stack([full[0], -full[0], full[0], -full[0], 2 * full[0]]),
        "vanishing squares": 1e-200 * full,
        "overflowing squares": 1e200 * full,
        "one entry is large": full * torch.tensor([1e12, 1, 1, 1]),
    }


@pytest.mark.parametrize("case", list(degenerate()))
@pytest.mark.parametrize("loss", RELATIONS)
def test_degenerate_embeddings_are_finite_with_finite_gradients(loss, case):
    odd, fine = degenerate()[case], normal(5, 3)
    for student, teacher in ((odd, fine), (fine, odd), (odd, odd.clone()), (odd, odd.flip(0))):
        value = loss(student, teacher)
        assert value.isfinite()
        assert value >= -TIGHT
        assert gradient(loss, student, teacher).isfinite().all()
        narrow = student.clamp(-1e30, 1e30).float(), teacher.clamp(-1e30, 1e30).float()
        assert loss(*narrow).isfinite()
        assert gradient(loss, *narrow).isfinite().all()
    assert loss(odd, odd.clone()).abs() < TIGHT


@pytest.mark.parametrize("loss", RELATIONS)
def test_one_example_has_no_relation(loss):
    student, teacher = normal(1, 4), normal(1, 3, seed=1)
    assert loss(student, teacher).abs() < TIGHT
    assert gradient(loss, student, teacher).abs().max() < TIGHT
    for sides in ((0 * student, teacher), (student, 0 * teacher), (0 * student, 0 * teacher)):
        assert loss(*sides).isfinite()
        assert torch.equal(gradient(loss, *sides), 0 * student) or sides[0].any()


def test_two_examples_have_no_angle_and_one_neighbour_each():
    student, teacher = normal(2, 4), normal(2, 3, seed=1)
    for loss in (*RKD, PKT):
        assert loss(student, teacher).abs() < TIGHT
        assert gradient(loss, student, teacher).abs().max() < TIGHT
    assert relations.rkd_distance(torch.ones(2, 4).double(), teacher) == 0.5  # distance 0 against the mean


def test_a_zero_row_is_not_pulled_and_equal_rows_are_pulled_alike():
    student, teacher = normal(5, 4), normal(5, 4, seed=1)
    student[2] = 0
    for loss in (CC, PKT):  # no direction, so no gradient
        assert torch.equal(gradient(loss, student, teacher)[2], torch.zeros(4, dtype=student.dtype))
    student[2] = student[0]
    teacher[2] = teacher[0]
    for loss in RELATIONS:
        slope = gradient(loss, student, teacher)
        assert torch.allclose(slope[2], slope[0], atol=TIGHT)


@pytest.mark.parametrize("loss", [*RELATIONS, *OF_MAPS])
def test_what_is_not_a_number_is_not_hidden(loss):
    student = normal(4, 3, 2, 2)
    broken = student.clone()
    broken[1, 1, 0, 1] = torch.nan
    for sides in ((broken, student), (student, broken)):
        value = loss(*sides)
        assert (value if value.ndim == 0 else value[1]).isnan()
        assert value.ndim == 0 or value[[0, 2, 3]].isfinite().all()


@pytest.mark.parametrize("loss", RELATIONS)
@pytest.mark.parametrize("size", [1e-15, 1e-3, 1e15])
def test_single_precision_keeps_its_type_and_does_not_see_the_size(loss, size):
    student, teacher = normal(6, 8, dtype=torch.float32), normal(6, 5, seed=1, dtype=torch.float32)
    value = loss(size * student, teacher)
    assert value.dtype == torch.float32
    # some 1e2 operations of relative error 6e-8
    assert value.item() == pytest.approx(loss(student.double(), teacher.double()).item(), rel=1e-4, abs=1e-6)
    slope = gradient(loss, size * student, teacher)
    assert torch.allclose(size * slope, gradient(loss, student, teacher), rtol=1e-3, atol=1e-5)


def test_angles_in_pieces_are_the_same_angles(monkeypatch):
    student, teacher = normal(7, 4), normal(7, 6, seed=1)
    student[5] = student[2]
    whole, slope = relations.rkd_angle(student, teacher), gradient(relations.rkd_angle, student, teacher)
    for piece in (1, 2 * 7 * 7, 3 * 7 * 7, 6 * 7 * 7):  # 1, 2, 3 and 6 vertices at once; 7 is no multiple of the last
        monkeypatch.setattr(relations, "_PIECE", piece)
        assert torch.allclose(relations.rkd_angle(student, teacher), whole, rtol=1e-13)
        assert torch.allclose(gradient(relations.rkd_angle, student, teacher), slope, atol=1e-14)


def kept(loss, student, teacher):
    """The sizes of what the backward pass will need."""
    sizes = []

    def keep(x):
        sizes.append(x.numel())
        return x

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
        loss(student.requires_grad_(), teacher)
    return sizes


def test_angles_in_pieces_keep_no_triples_for_the_backward_pass(monkeypatch):
    student, teacher = normal(20, 4), normal(20, 4, seed=1)
    assert sum(kept(relations.rkd_angle, student, teacher)) >= 20**3
    monkeypatch.setattr(relations, "_PIECE", 1)
    assert sum(kept(relations.rkd_angle, student, teacher)) < 20**3 / 2


def test_correlation_congruence_tends_to_the_gaussian_kernel():
    student, teacher, gamma = normal(6, 4), normal(6, 3, seed=1), 0.7
    exact = [
        torch.exp(-gamma * torch.cdist(x / x.norm(dim=1, keepdim=True), x / x.norm(dim=1, keepdim=True)).square())
        for x in (student, teacher)
    ]
    limit = (exact[0] - exact[1]).square().mean()
    errors = [(CC(student, teacher, gamma, order) - limit).abs() for order in (1, 4, 8, 30)]
    assert errors == sorted(errors, reverse=True)
    assert errors[0] > 1e-3 * limit  # so the order matters
    assert errors[-1] < TIGHT
    assert CC(student, teacher, gamma, 0) == 0  # a constant kernel
    cosines = [x @ x.T for x in (relations.unit_rows(student), relations.unit_rows(teacher))]
    linear = ((2 * gamma * torch.exp(torch.tensor(-2.0 * gamma).double())) * (cosines[0] - cosines[1])).square().mean()
    assert torch.allclose(CC(student, teacher, gamma, 1), linear)


def test_pkt_is_not_negative_by_pinsker_and_leaves_the_example_out():
    student, teacher = normal(6, 4), normal(6, 4, seed=1)
    q, p = (relations._neighbour_log_probs(x).exp() for x in (student, teacher))
    assert q.shape == (6, 5)
    assert torch.allclose(q.sum(1), torch.ones(6).double())
    assert PKT(student, teacher) >= ((p - q).abs().sum(1).square() / 2).mean()
    # three at right angles are neighbours alike, whatever an example thinks of itself
    assert torch.allclose(relations._neighbour_log_probs(torch.eye(3).double()).exp(), torch.full((3, 2), 0.5).double())


class TestSecondOrders:
    def test_the_order_of_positions_and_a_common_sign_do_not_matter(self):
        student, teacher = normal(2, 3, 2, 4), normal(2, 3, 2, 4, seed=1)
        order = torch.tensor([5, 2, 7, 0, 3, 6, 1, 4])
        moved = -student.flatten(2)[:, :, order].reshape(student.shape)
        for loss in (grams.gram, gram_kl, fsp):
            assert loss(moved, student).max() < TIGHT
            assert torch.allclose(loss(moved, teacher), loss(student, teacher))
        assert grams.nst(moved, student).min() > 1e-3  # a neuron is selective for places

    def test_nst_sees_the_set_of_channels_alone(self):
        student, teacher = normal(2, 3, 2, 2), normal(2, 5, 2, 2, seed=1)
        scales = torch.tensor([0.1, -4.0, 1e3]).double().reshape(1, 3, 1, 1)
        for changed in (student[:, [2, 0, 1]], student.repeat(1, 4, 1, 1), scales * student):
            assert grams.nst(changed, student).max() < TIGHT
            assert torch.allclose(grams.nst(changed, teacher), grams.nst(student, teacher))
        assert torch.allclose(grams.nst(teacher, student), grams.nst(student, teacher))
        assert grams.nst(student[:, :2], student).min() > 1e-3

    def test_nst_is_the_same_either_way_and_at_most_two(self):
        """With channels of its own for each side, the discrepancy is the sum of the two mean kernels."""
        for height in (1, 2, 5):  # 2, 4 and 10 positions against two channels
            apart = torch.eye(2).double().reshape(1, 2, 1, 2).expand(1, 2, height, 2) / 3
            first, second = apart[:, :1], apart[:, 1:]
            assert torch.allclose(grams.nst(first, second), torch.full((1,), 2.0).double())
            assert torch.allclose(grams.nst(first.expand(1, 6, height, 2), second), torch.full((1,), 2.0).double())

    def test_nst_forms_no_matrix_of_positions_where_those_are_many_nor_of_channels_where_those_are(self):
        for shape in ((1, 2, 20, 20), (1, 400, 2, 1)):
            assert max(kept(grams.nst, normal(*shape), normal(*shape, seed=1))) < 400**2

    def test_nst_is_not_negative_by_rounding(self):
        """By pairs of channels, in single precision, where the sums cancel."""
        student = normal(200, 2, 3, 3, dtype=torch.float32)
        close = student + 1e-6 * normal(200, 2, 3, 3, seed=1, dtype=torch.float32)
        assert grams.nst(student, close).min() >= 0

    @pytest.mark.parametrize("shape", [(2, 3, 2, 2), (2, 2, 4, 4)])
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_degenerate_maps_are_finite_with_finite_gradients(self, shape, dtype):
        fine = normal(*shape, dtype=dtype)
        hole = fine.clone()
        hole[:, 1] = 0
        for odd in (hole, torch.zeros_like(fine), torch.ones_like(fine), -fine, 1e-15 * fine, 1e8 * fine):
            for loss in (grams.gram, gram_kl, fsp, grams.nst) if shape[1] == 3 else (grams.gram, gram_kl, grams.nst):
                for sides in ((odd, fine), (fine, odd), (odd, odd.clone())):
                    assert loss(*sides).isfinite().all()
                    assert loss(*sides).dtype == dtype
                    assert gradient(loss, *sides).isfinite().all()
        for sides in ((hole, fine), (hole, hole.clone())):
            assert torch.equal(gradient(grams.nst, *sides)[:, 1], torch.zeros_like(fine[:, 1]))

    def test_the_kl_of_gram_rows_tends_to_half_their_centred_squares_and_ignores_a_constant(self):
        student, teacher = normal(3, 4, 5), normal(3, 4, 5, seed=1)
        gap = grams._gram(student) - grams._gram(teacher)
        limit = (gap - gap.mean(2, keepdim=True)).square().mean((1, 2)) / 2
        assert torch.allclose(grams.gram(student, teacher, "kl", 1e3), limit, rtol=1e-2)  # the next term is 1 / T
        sharp = grams.gram(student, teacher, "kl", 0.05)
        assert ((sharp / limit - 1).abs() > 1e-2).all()

    def test_larger_layers_do_not_weigh_more(self):
        """Means, not sums: channels and positions that are repeated change nothing but the size by channels."""
        student, teacher = normal(2, 3, 2, 2), normal(2, 3, 2, 2, seed=1)
        wide = [x.repeat(1, 1, 3, 2) for x in (student, teacher)]
        for loss in OF_MAPS:
            assert torch.allclose(loss(*wide), loss(student, teacher))
        deep = [x.repeat(1, 2, 1, 1) for x in (student, teacher)]  # 1 / C in both Gram matrices
        assert torch.allclose(grams.gram(*deep), grams.gram(student, teacher) / 4)

    @pytest.mark.parametrize("loss", OF_MAPS)
    def test_examples_stand_for_themselves(self, loss):
        student, teacher = normal(4, 3, 2, 2), normal(4, 3, 2, 2, seed=1)
        rows = torch.cat([loss(student[i : i + 1], teacher[i : i + 1]) for i in range(4)])
        assert torch.allclose(loss(student, teacher), rows, rtol=1e-12)


@pytest.mark.parametrize(
    ("loss", "shapes"),
    [
        *((loss, shapes) for loss in RELATIONS for shapes in (((3, 5), (4, 5)), ((3,), (3,)), ((0, 5), (0, 5)))),
        *((grams.gram, shapes) for shapes in (((2, 3, 4, 4), (2, 5, 4, 4)), ((2, 3, 4), (2, 3, 5)))),
        *(
            (grams.gram, shapes)
            for shapes in (((2, 3, 4, 4), (3, 3, 4, 4)), ((2, 3), (2, 3)), ((2, 3, 4), (2, 3, 4, 3)))
        ),
        *((grams.nst, shapes) for shapes in (((2, 3, 4, 4), (2, 3, 4, 5)), ((2, 3, 4), (2, 3, 4)))),
        (grams.nst, ((2, 3, 4, 4), (1, 3, 4, 4))),
        (grams.fsp, ((2, 3, 4, 4), (2, 3, 4, 4), (2, 3, 4, 4), (2, 5, 4, 4))),
        (grams.fsp, ((2, 3, 4, 4), (2, 3, 4, 4), (1, 3, 4, 4), (1, 3, 4, 4))),
        (grams.fsp, ((2, 3, 4, 4), (1, 3, 4, 4), (2, 3, 4, 4), (2, 3, 4, 4))),
        (grams.fsp, ((2, 3, 4), (2, 3, 4), (2, 3, 4), (2, 3, 4))),
    ],
    ids=lambda value: getattr(value, "__name__", str(value)),
)
def test_impossible_shapes_are_named(loss, shapes):
    with pytest.raises(ValueError) as caught:
        loss(*(torch.ones(shape) for shape in shapes))
    named = [str(list(shape)) for shape in shapes]
    assert sum(name in str(caught.value) for name in named) >= 2


def test_an_unknown_form_is_refused():
    with pytest.raises(ValueError, match="cosine"):
        grams.gram(torch.ones(1, 2, 3), torch.ones(1, 2, 3), "cosine")

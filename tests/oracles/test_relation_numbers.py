"""Relation losses against NumPy in float64: loops over examples, pairs, triples and channels, from the papers' sums."""

from math import exp, factorial, log, sqrt

import numpy as np
import pytest
import torch

from limbeck.losses import grams, relations

# Both sides are float64 and differ in the order of sums over at most some 500 numbers of order 1: about 1e-14
CLOSE = {"rtol": 1e-11, "atol": 1e-13}


def tensors(*arrays):
    return tuple(torch.from_numpy(np.asarray(array, dtype=np.float64)) for array in arrays)


def huber(a, b):
    gap = abs(a - b)
    return gap**2 / 2 if gap <= 1 else gap - 1 / 2


def dot(a, b):
    return sum(float(p) * float(q) for p, q in zip(a, b, strict=True))


def length(a):
    return sqrt(dot(a, a))


def cosine(a, b):
    sizes = length(a) * length(b)
    return dot(a, b) / sizes if sizes else 0.0


def rkd_distance(student, teacher):
    """Park et al. 2019: psi_D = |x_i - x_j| / mu over the pairs of distinct examples."""
    pairs = [(i, j) for i in range(len(student)) for j in range(len(student)) if i != j]

    def potentials(x):
        distances = [length(x[i] - x[j]) for i, j in pairs]
        apart = [d for d in distances if d > 0]
        return [d / (sum(apart) / len(apart)) for d in distances]

    return sum(huber(a, b) for a, b in zip(potentials(student), potentials(teacher), strict=True)) / len(pairs)


def rkd_angle(student, teacher):
    """Park et al. 2019: psi_A = <e_ij, e_kj> over the triples of distinct examples."""
    triples = [
        (i, j, k)
        for i in range(len(student))
        for j in range(len(student))
        for k in range(len(student))
        if i != j and j != k and i != k
    ]
    sides = [[cosine(x[i] - x[j], x[k] - x[j]) for i, j, k in triples] for x in (student, teacher)]
    return sum(huber(a, b) for a, b in zip(*sides, strict=True)) / len(triples)


def similarity_preserving(student, teacher):
    """Tung & Mori 2019: G = Q Q^T, its rows by their lengths, squared Frobenius distance by b^2."""
    size, rows = len(student), []
    for x in (student, teacher):
        g = [[dot(a, b) for b in x] for a in x]
        rows.append([[value / length(row) for value in row] for row in g])
    return sum((rows[0][i][j] - rows[1][i][j]) ** 2 for i in range(size) for j in range(size)) / size**2


def correlation_congruence(student, teacher, gamma, order):
    """Peng et al. 2019: the Gaussian kernel's Taylor expansion on the unit sphere."""

    def kernel(a, b):
        scale = exp(-2 * gamma)
        return sum(scale * (2 * gamma) ** p / factorial(p) * cosine(a, b) ** p for p in range(order + 1))

    size, total = len(student), 0.0
    for i in range(size):
        for j in range(size):
            total += (kernel(student[i], student[j]) - kernel(teacher[i], teacher[j])) ** 2
    return total / size**2


def pkt(student, teacher):
    """Passalis & Tefas 2018: p_(j|i) = K(x_i, x_j) / sum_(k != i) K(x_i, x_k), KL summed over j != i."""
    size, total = len(student), 0.0
    for i in range(size):
        sides = []
        for x in (student, teacher):
            kernel = {j: (cosine(x[i], x[j]) + 1) / 2 for j in range(size) if j != i}
            sides.append({j: value / sum(kernel.values()) for j, value in kernel.items()})
        q, p = sides
        total += sum(p[j] * (log(p[j]) - log(q[j])) for j in p)
    return total / size


def gram_matrix(f):
    """Of one example, [C, ...]: G_ab = sum over positions of f_a f_b, by channels times positions."""
    rows = f.reshape(len(f), -1)
    return np.array([[dot(a, b) / rows.size for b in rows] for a in rows])


def gram_squared(student, teacher):
    return [np.mean((gram_matrix(s) - gram_matrix(t)) ** 2) for s, t in zip(student, teacher, strict=True)]


def gram_kl(student, teacher, t):
    values = []
    for pair in zip(student, teacher, strict=True):
        q, p = (np.exp(gram_matrix(f) / t) for f in pair)
        total = 0.0
        for a in range(len(p)):
            u, v = p[a] / sum(p[a]), q[a] / sum(q[a])
            total += sum(u[b] * (log(u[b]) - log(v[b])) for b in range(len(u)))
        values.append(t**2 * total / len(p))
    return values


def shrunk(f, height, width):
    """The mean over the parts that floor and ceiling cut out of [C, H, W], which is what adaptive pooling means."""
    out = np.empty((len(f), height, width))
    for c, i, j in np.ndindex(out.shape):
        top, bottom = i * f.shape[1] // height, -((-(i + 1) * f.shape[1]) // height)
        left, right = j * f.shape[2] // width, -((-(j + 1) * f.shape[2]) // width)
        out[c, i, j] = np.mean(f[c, top:bottom, left:right])
    return out


def flow(first, last):
    """Yim et al. 2017: G_ij = sum over h, w of F1_hwi F2_hwj / (h w)."""
    height, width = min(first.shape[1], last.shape[1]), min(first.shape[2], last.shape[2])
    a, b, g = shrunk(first, height, width), shrunk(last, height, width), np.zeros((len(first), len(last)))
    for i, j in np.ndindex(g.shape):
        g[i, j] = sum(a[i, h, w] * b[j, h, w] for h in range(height) for w in range(width)) / (height * width)
    return g


def nst(student, teacher):
    """Huang & Wang 2017: the mean kernel of pairs of normalised channels, (x.y)^2."""

    def mean(a, b):
        return np.mean([cosine(x, y) ** 2 for x in a for y in b])

    values = []
    for pair in zip(student, teacher, strict=True):
        s, t = (f.reshape(len(f), -1) for f in pair)
        values.append(mean(t, t) + mean(s, s) - 2 * mean(t, s))
    return values


@pytest.fixture(params=[(2, 5, 3), (4, 3, 3), (7, 2, 9)], ids=str)
def embeddings(request):
    size, ours, theirs = request.param
    draw = np.random.default_rng(request.param)
    return draw.normal(size=(size, ours)) + 0.3, 4 * draw.normal(size=(size, theirs))


def test_rkd_distance(embeddings):
    np.testing.assert_allclose(relations.rkd_distance(*tensors(*embeddings)), rkd_distance(*embeddings), **CLOSE)


def test_rkd_angle(embeddings):
    expected = rkd_angle(*embeddings) if len(embeddings[0]) > 2 else 0.0
    np.testing.assert_allclose(relations.rkd_angle(*tensors(*embeddings)), expected, **CLOSE)


def test_rkd_with_examples_that_are_equal():
    """Pairs at distance 0 do not enter mu, arms without a length have the cosine 0, and i = k is no triple."""
    student, teacher = (np.random.default_rng(seed).normal(size=(6, 3)) for seed in (1, 2))
    student[4] = student[1]
    teacher[5] = teacher[0] = teacher[2]
    for ours, oracle in ((relations.rkd_distance, rkd_distance), (relations.rkd_angle, rkd_angle)):
        np.testing.assert_allclose(ours(*tensors(student, teacher)), oracle(student, teacher), **CLOSE)


def test_a_far_outlier_is_on_the_linear_side_of_huber():
    student = np.array([[0.0], [1.0], [1.5], [90.0], [2.0]])
    teacher = np.array([[0.0], [1.0], [5.0], [7.0], [13.0]])
    np.testing.assert_allclose(relations.rkd_distance(*tensors(student, teacher)), rkd_distance(student, teacher))
    by_squares = np.mean([(a - b) ** 2 / 2 for a, b in zip(*[potentials(x) for x in (student, teacher)], strict=True)])
    assert rkd_distance(student, teacher) < 0.95 * by_squares  # so the case is on that side at all


def potentials(x):
    distances = np.array([abs(a - b) for i, a in enumerate(x[:, 0]) for j, b in enumerate(x[:, 0]) if i != j])
    return distances / distances.mean()


def test_similarity_preserving(embeddings):
    ours = relations.similarity_preserving(*tensors(*embeddings))
    np.testing.assert_allclose(ours, similarity_preserving(*embeddings), **CLOSE)


@pytest.mark.parametrize(("gamma", "order"), [(0.4, 2), (0.4, 1), (1.5, 5)])
def test_correlation_congruence(embeddings, gamma, order):
    ours = relations.correlation_congruence(*tensors(*embeddings), gamma, order)
    np.testing.assert_allclose(ours, correlation_congruence(*embeddings, gamma, order), **CLOSE)
    if (gamma, order) == (0.4, 2):
        assert ours == relations.correlation_congruence(*tensors(*embeddings))  # the defaults


def test_pkt(embeddings):
    # the floor of 2e-16 under the kernel moves a log by 2e-16 / K, K > 1e-3 in these draws
    np.testing.assert_allclose(relations.pkt(*tensors(*embeddings)), pkt(*embeddings), rtol=1e-10, atol=1e-12)


def test_embeddings_of_more_axes_are_flattened():
    student, teacher = (np.random.default_rng(seed).normal(size=(4, 2, 3, 2)) for seed in (3, 4))
    flat = student.reshape(4, -1), teacher.reshape(4, -1)
    for name in ("rkd_distance", "rkd_angle", "similarity_preserving", "pkt"):
        ours = getattr(relations, name)(*tensors(student, teacher))
        np.testing.assert_allclose(ours, globals()[name](*flat), rtol=1e-10)


MAPS = [((2, 3, 2, 2), (2, 3, 4, 3)), ((1, 2, 1, 5), (1, 2, 1, 5)), ((3, 6, 3, 1), (3, 6, 2, 2))]


@pytest.mark.parametrize("shapes", MAPS, ids=str)
def test_gram_of_maps(shapes):
    draw = np.random.default_rng(7)
    student, teacher = (3 * draw.normal(size=shape) for shape in shapes)
    np.testing.assert_allclose(grams.gram(*tensors(student, teacher)), gram_squared(student, teacher), **CLOSE)
    for t in (0.5, 1.0, 4.0):
        ours = grams.gram(*tensors(student, teacher), form="kl", temperature=t)
        np.testing.assert_allclose(ours, gram_kl(student, teacher, t), **CLOSE)


def test_gram_of_tokens_is_over_their_features():
    draw = np.random.default_rng(9)
    student, teacher = draw.normal(size=(2, 5, 3)), draw.normal(size=(2, 7, 3))
    as_maps = student.transpose(0, 2, 1), teacher.transpose(0, 2, 1)
    np.testing.assert_allclose(grams.gram(*tensors(student, teacher)), gram_squared(*as_maps), **CLOSE)
    ours = grams.gram(*tensors(student, teacher), form="kl", temperature=0.3)
    np.testing.assert_allclose(ours, gram_kl(*as_maps, 0.3), **CLOSE)


@pytest.mark.parametrize(
    "sizes",
    [((2, 2), (2, 2), (3, 1), (3, 1)), ((4, 4), (2, 2), (6, 4), (3, 2)), ((2, 5), (4, 3), (5, 2), (2, 3))],
    ids=["equal", "halved", "uneven"],
)
def test_fsp(sizes):
    draw = np.random.default_rng(5)
    maps = [draw.normal(size=(2, channels, *size)) for channels, size in zip((3, 4, 3, 4), sizes, strict=True)]
    expected = [np.mean((flow(a, b) - flow(c, d)) ** 2) for a, b, c, d in zip(*maps, strict=True)]
    np.testing.assert_allclose(grams.fsp(*tensors(*maps)), expected, **CLOSE)


# fewer positions than channels, as many, and more: the first two by positions, the last two by pairs of channels
@pytest.mark.parametrize(
    "shapes",
    [((2, 5, 2, 1), (2, 3, 2, 1)), ((2, 2, 2, 2), (2, 2, 2, 2)), ((3, 2, 5, 4), (3, 4, 5, 4)), ((1, 1, 3, 3),) * 2],
    ids=str,
)
def test_nst(shapes):
    draw = np.random.default_rng(6)
    student, teacher = (draw.normal(size=shape) + 0.5 for shape in shapes)
    np.testing.assert_allclose(grams.nst(*tensors(student, teacher)), nst(student, teacher), **CLOSE)
    student[0, 0] = 0.0  # a channel without any activity has the kernel 0 with all, and counts
    np.testing.assert_allclose(grams.nst(*tensors(student, teacher)), nst(student, teacher), **CLOSE)


class TestByHand:
    def test_rkd_of_a_line_against_an_equilateral_triangle(self):
        line, triangle = tensors([[0.0], [1.0], [3.0]], [[0, 0], [1, 0], [0.5, sqrt(3) / 2]])
        # distances 1, 2, 3 by their mean of 2, against 1, 1, 1: gaps of 1/2, 0, 1/2
        assert relations.rkd_distance(line, triangle).item() == pytest.approx((1 / 8 + 0 + 1 / 8) / 3)
        # cosines 1, -1, 1 at the three vertices, against 1/2: gaps of 1/2, 3/2, 1/2, the second one linear
        assert relations.rkd_angle(line, triangle).item() == pytest.approx((1 / 8 + 1 + 1 / 8) / 3)

    def test_two_orthogonal_examples_against_two_that_agree(self):
        orthogonal, equal = tensors([[1, 0], [0, 1]], [[2, 0], [2, 0]])
        # rows (1, 0) against (1, 1) / sqrt 2
        by_hand = ((1 - 1 / sqrt(2)) ** 2 + 1 / 2) * 2 / 4
        assert relations.similarity_preserving(orthogonal, equal).item() == pytest.approx(by_hand)
        # the kernels differ beside the diagonal, by exp(-0.8) (0.8 + 0.8^2 / 2)
        by_hand = 2 * (exp(-0.8) * 1.12) ** 2 / 4
        assert relations.correlation_congruence(orthogonal, equal).item() == pytest.approx(by_hand)

    def test_pkt_of_three(self):
        student, teacher = tensors(np.eye(3), [[1, 0], [3, 0], [0, 1]])
        # the student's neighbours are alike; the teacher's first two hold 1 : 1/2, that is 2/3 and 1/3
        by_hand = 2 * (2 / 3 * log(4 / 3) + 1 / 3 * log(2 / 3)) / 3
        assert relations.pkt(student, teacher).item() == pytest.approx(by_hand)
        other_way = 2 * (1 / 2 * log(3 / 4) + 1 / 2 * log(3 / 2)) / 3
        assert relations.pkt(teacher, student).item() == pytest.approx(other_way)

    def test_second_order_statistics(self):
        one, zero = tensors([[[[1, 0]], [[0, 1]]]], np.zeros((1, 2, 1, 2)))
        assert grams.gram(one, zero).item() == pytest.approx(2 * (1 / 4) ** 2 / 4)  # G is a quarter of the identity
        first, last = tensors([[[[1, 2]]]], [[[[3, 4]]]])
        assert grams.fsp(first, last, 0 * first, last).item() == pytest.approx(((3 + 8) / 2) ** 2)
        # one channel against two, the first of them the same: 1 + 2 / 4 - 2 * (1 + 0) / 2
        assert grams.nst(one[:, :1], one).item() == pytest.approx(1 / 2)

"""Large vocabularies: what is evaluated a part at a time is what is evaluated whole, and nothing whole is ever made."""

from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from limbeck.errors import SignalError
from limbeck.losses import divergences as d
from limbeck.losses.sparse import Even, Given, Sampled, TopK
from limbeck.losses.storages import Chunked, Dense, Head, judged, whole
from limbeck.objective import evaluate
from limbeck.objective.evaluate import Asked, aligned, streamed

ALL = [
    d.ForwardKl(),
    d.ReverseKl(),
    d.JensenShannon(0.3),
    d.ContinuousJensenShannon(0.3),
    d.SkewKl(),
    d.SkewReverseKl(),
    d.TotalVariation(),
    d.AdaptiveKl(),
    d.AlphaBeta(),
]
names = pytest.mark.parametrize("divergence", ALL, ids=lambda one: type(one).__name__)
ROWS, WIDTH, OTHER, CLASSES = 23, 6, 9, 101
HEADS = {"plain": (None, 1.0), "softcap": (3.0, 1.0), "scale": (None, 0.25), "both": (2.0, 0.5)}
# float64: the same sums in another order, some 1e-15 of the value
CLOSE = {"rtol": 1e-10, "atol": 1e-12}


@pytest.fixture(autouse=True)
def small_parts(monkeypatch):
    """Several chunks, several blocks in each, and a short last one."""
    monkeypatch.setattr(evaluate, "_CHUNK", 10 * CLASSES)
    monkeypatch.setattr(evaluate, "_ROWS", 1)
    monkeypatch.setattr(evaluate, "_BLOCK", 3 * CLASSES)


def sides(dtype=torch.float64, head="plain", bias=True, seed=0):
    g = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return torch.randn(*shape, generator=g, dtype=torch.float64).to(dtype)

    softcap, scale = HEADS[head]
    hidden, weight = draw(ROWS, WIDTH).requires_grad_(), draw(CLASSES, WIDTH).requires_grad_()
    own = draw(CLASSES).requires_grad_() if bias else None
    student = Chunked(hidden, Head(weight, own, softcap, scale))
    teacher = Chunked(draw(ROWS, OTHER), Head(draw(CLASSES, OTHER)))
    return student, teacher


def grads(value, student):
    leaves = [one for one in (student.hidden, student.head.weight, student.head.bias) if one is not None]
    return torch.autograd.grad(value, [one for one in leaves if one.requires_grad])


def agree(ours, theirs, **close):
    assert len(ours) == len(theirs)
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, **close)


@names
@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_chunked_is_dense(divergence, head, temperature):
    student, teacher = sides(head=head)
    counts = torch.rand(ROWS, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    labels = torch.arange(ROWS) % CLASSES
    labels[4] = -100
    known = (labels >= 0).double() / ROWS
    loss, means = streamed(
        student,
        [
            Asked(divergence, teacher, counts, 0.7, temperature),
            Asked(d.ForwardKl(), Given(labels, CLASSES), known, 0.3),
        ],
    )
    logits = whole(student)
    apart = (counts * d.dense(divergence, logits / temperature, whole(teacher) / temperature)).sum()
    hard = F.cross_entropy(logits, labels, reduction="sum") / ROWS
    torch.testing.assert_close(means, torch.stack([apart, hard]).detach(), **CLOSE)
    torch.testing.assert_close(loss, 0.7 * apart + 0.3 * hard, **CLOSE)
    agree(grads(loss, student), grads(0.7 * apart + 0.3 * hard, student), **CLOSE)


@names
@pytest.mark.parametrize("head", HEADS)
def test_one_temperature_alone_softens_both_sides(divergence, head):
    student, teacher = sides(head=head)
    counts = torch.rand(ROWS, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    loss, _ = streamed(student, [Asked(divergence, teacher, counts, 0.7, 2.5)])
    dense = 0.7 * (counts * d.dense(divergence, whole(student) / 2.5, whole(teacher) / 2.5)).sum()
    torch.testing.assert_close(loss, dense, **CLOSE)
    agree(grads(loss, student), grads(dense, student), **CLOSE)


def exact_of(side):
    """The same numbers in float64."""
    head = side.head
    weight, bias = (None if one is None else one.detach().double().requires_grad_() for one in (head.weight, head.bias))
    return Chunked(side.hidden.detach().double().requires_grad_(), replace(head, weight=weight, bias=bias))


# A row's gradient is its slopes less q times their sum, and errors are of their size. Of the steady ones the slopes have 0.7
# to 2.0 times the norm of what is left of them, of others 2.3 to 14: where a student is sure, nearly all of them goes.
STEADY = (d.ForwardKl, d.SkewKl, d.ContinuousJensenShannon)


@names
def test_chunked_is_dense_in_float32(divergence):
    """To 1e-6 of the value, and of the gradient's norm or a few of that; and as near as dense is to what is right."""
    counts, errors = torch.full((ROWS,), 1 / ROWS), {"chunked": [], "dense": []}
    near = 1e-6 if isinstance(divergence, STEADY) else 5e-6
    for seed in range(50):
        student, teacher = sides(torch.float32, seed=seed)
        loss, _ = streamed(student, [Asked(divergence, teacher, counts)])
        dense = (counts * d.dense(divergence, whole(student), whole(teacher))).sum()
        # means of 23 sums of a hundred numbers, each rounded to 6e-8: both sums are off by 3e-7 at most
        torch.testing.assert_close(loss, dense, rtol=5e-7, atol=0)
        ours, theirs = grads(loss, student), grads(dense, student)
        agree(ours, theirs, rtol=1e-6, atol=1e-6)
        wide, other = exact_of(student), exact_of(teacher)
        right = grads((counts.double() * d.dense(divergence, whole(wide), whole(other))).sum(), wide)
        for one, two, exact in zip(ours, theirs, right, strict=True):
            # the worst of 50 seeds: 4.5e-7 of the norm for the steady ones, 2.4e-6 for others
            assert float((one - two).norm() / exact.norm()) < near
            for name, found in (("chunked", one), ("dense", two)):
                errors[name].append(float((found - exact).norm() / exact.norm()))
                assert errors[name][-1] < near
    # either may be the nearer one, by a factor of two, in a single gradient; means of all 150 are within 5 % of each other
    assert sum(errors["chunked"]) < 1.1 * sum(errors["dense"])


@names
def test_a_student_that_gives_logits_is_the_same(divergence):
    student, teacher = sides()
    counts = torch.full((ROWS,), 0.1, dtype=torch.float64)
    logits = whole(student)
    dense, _ = streamed(Dense(logits), [Asked(divergence, teacher, counts, 1.3)])
    chunked, _ = streamed(student, [Asked(divergence, teacher, counts, 1.3)])
    torch.testing.assert_close(dense, chunked, **CLOSE)
    agree(grads(dense, student), grads(chunked, student), **CLOSE)


def top(teacher, k):
    log_p = whole(teacher).log_softmax(-1)
    found = log_p.topk(k, -1)
    return TopK(found.indices, found.values, CLASSES)


@pytest.mark.parametrize(
    "divergence", [one for one in ALL if one.reads <= d.Offer.OUTCOMES], ids=lambda one: type(one).__name__
)
def test_all_classes_stored_one_by_one_are_the_whole(divergence):
    student, teacher = sides()
    counts = torch.full((ROWS,), 0.1, dtype=torch.float64)
    # stored values are read in float32
    stored, _ = streamed(student, [Asked(divergence, top(teacher, CLASSES - 1), counts)])
    dense, _ = streamed(student, [Asked(divergence, teacher, counts)])
    # the last class is 1 less the others: where it is 1e-7, nine digits of it are left
    torch.testing.assert_close(stored, dense, rtol=1e-8, atol=1e-10)
    agree(grads(stored, student), grads(dense, student), rtol=1e-4, atol=1e-8)


@pytest.mark.parametrize(
    "divergence", [one for one in ALL if one.reads <= d.Offer.OUTCOMES], ids=lambda one: type(one).__name__
)
@pytest.mark.parametrize("k", [1, 7, 40])
def test_some_classes_and_a_tail_are_a_lower_bound_with_its_own_gradient(divergence, k):
    student, teacher = sides()
    stored, counts = top(teacher, k), torch.ones(ROWS, dtype=torch.float64)
    part, _ = streamed(student, [Asked(divergence, stored, counts)])
    dense, _ = streamed(student, [Asked(divergence, teacher, counts)])
    assert 0 <= float(part.detach()) <= float(dense.detach()) + 1e-5
    # by autograd over the k classes and the rest
    log_q = whole(student).log_softmax(-1).gather(1, stored.ids)
    rest = (1 - log_q.exp().sum(-1, keepdim=True)).log()
    log_q = torch.cat([log_q, rest], -1)
    p = stored.log_probabilities.exp()
    p = torch.cat([p, 1 - p.sum(-1, keepdim=True)], -1)
    value = divergence.parts(log_q, log_q.exp(), p.log(), p)[0].sum()
    torch.testing.assert_close(part, value, **CLOSE)
    agree(grads(part, student), grads(value, student), rtol=1e-8, atol=1e-10)


KNOWN = {"nothing": (), "entropy": ("entropy",), "log p": ("log_probabilities",)}
KNOWN["both"] = KNOWN["entropy"] + KNOWN["log p"]


def draws(teacher, count=16, seed=5, known=("entropy", "log_probabilities")):
    """``count`` classes of each row of the teacher's, with what is known of them."""
    log_p = whole(teacher).detach().log_softmax(-1)
    ids = torch.multinomial(log_p.exp(), count, replacement=True, generator=torch.Generator().manual_seed(seed))
    told = {"entropy": -(log_p.exp() * log_p).sum(-1), "log_probabilities": log_p.gather(1, ids)}
    return Sampled(ids, torch.ones_like(ids), CLASSES, **{name: told[name] for name in known})


@pytest.mark.parametrize("known", KNOWN.values(), ids=KNOWN)
def test_draws_give_the_gradient_of_the_whole_on_average(known):
    student, teacher = sides()
    counts = torch.full((ROWS,), 1 / ROWS, dtype=torch.float64)
    values, found = [], []
    for seed in range(400):
        loss, means = streamed(student, [Asked(d.ForwardKl(), draws(teacher, seed=seed, known=known), counts)])
        values.append(float(means[0]))
        found.append(grads(loss, student)[0])
    dense, means = streamed(student, [Asked(d.ForwardKl(), teacher, counts)])
    p = whole(teacher).softmax(-1)
    missing = 0.0 if known else float((p * p.log()).sum(-1).mean())  # the constant up to which it is known
    spread = torch.tensor(values).std() / 20  # of a mean of 400
    assert abs(sum(values) / 400 + missing - float(means[0])) < 4 * float(spread)
    drawn = torch.stack(found)
    error = (drawn.mean(0) - grads(dense, student)[0]) / (drawn.std(0) / 20)
    assert float(error.abs().max()) < 5  # of 138 normal numbers
    assert 0.7 < float(error.square().mean()) < 1.4


def test_what_is_known_of_draws_changes_no_gradient():
    student, teacher = sides()
    asked = [[Asked(d.ForwardKl(), draws(teacher, known=known), torch.ones(ROWS))] for known in KNOWN.values()]
    first, *others = [grads(streamed(student, one)[0], student) for one in asked]
    for other in others:
        assert all(torch.equal(ours, theirs) for ours, theirs in zip(first, other, strict=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_draws_of_the_student_itself_are_no_distance_away(dtype):
    """With the log-probability of each class, to the bit and for any draws; with the entropy on average only."""
    student, _ = sides(dtype)
    logits = whole(student).detach()
    for seed in range(20):
        stored, far = draws(Dense(logits), seed=seed), d.ForwardKl()
        _, means = streamed(Dense(logits), [Asked(far, stored, torch.ones(ROWS, dtype=dtype))])
        assert float(means[0]) == 0
        assert not evaluate.distances(far, Dense(logits), stored).any()
        assert evaluate.distances(far, Dense(logits), replace(stored, log_probabilities=None)).abs().min() > 1e-4


@pytest.mark.parametrize("noise", [0.01, 0.1, 0.5, 1.0])
def test_log_probabilities_tell_more_than_the_entropy_where_a_student_is_near(noise):
    """Each value's variance over draws is that of log p - log q, or that of log q, over their number."""
    _, teacher = sides()
    log_p = whole(teacher).log_softmax(-1)
    other = torch.randn(log_p.shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    student = Dense(log_p + noise * other)
    log_q, p = student.logits.log_softmax(-1), log_p.exp()
    many = [draws(teacher, seed=seed) for seed in range(300)]

    def variance(of):
        return (p * of.square()).sum(-1) - (p * of).sum(-1).square()

    found = {}
    for name, of in {"log_probabilities": log_p - log_q, "entropy": log_q}.items():
        values = [evaluate.distances(d.ForwardKl(), student, replace(one, **dropped(name))) for one in many]
        found[name] = torch.stack(values).double().var(0).mean()
        # of 23 rows by 300: a variance is right to about sqrt(2 / 6900) = 1.7 %, thrice that for heavier tails; float32 values
        assert float(found[name]) == pytest.approx(float(variance(of).mean()) / 16, rel=0.15)
    assert found["log_probabilities"] < found["entropy"]
    assert found["log_probabilities"] < 2 * noise**2 / 16  # falls with the square of what lies between them


def dropped(name):
    """All that is known of draws but this."""
    return {other: None for other in ("entropy", "log_probabilities") if other != name}


def test_what_is_known_of_draws_goes_where_they_go():
    _, teacher = sides()
    stored = draws(teacher)
    deep = replace(stored, **{name: getattr(stored, name).unflatten(0, (1, ROWS)) for name in ARRAYS})
    places = torch.tensor([7, 3, 3, 22])
    for one in (stored.at(places), deep.at(places), stored.chunk(0, ROWS).at(places), deep.at(places).chunk(0, 4)):
        assert all(torch.equal(getattr(one, name), getattr(stored, name)[places]) for name in ARRAYS)
    cut = stored.cut(50)
    assert torch.equal(cut.log_probabilities, stored.log_probabilities)
    here, every = (one.outcomes(2, 9) for one in (cut, stored))
    kept = stored.ids[2:9] < 50
    assert torch.equal(here.log_p[kept], every.log_p[kept])
    assert (here.log_p[~kept] == d.FLOOR).all()
    assert not here.p[~kept].any()
    padded = replace(stored, counts=stored.counts.clone())
    padded.counts[:, 4:], padded.log_probabilities[:, 4:] = 0, torch.nan
    few = replace(stored, **{name: getattr(stored, name)[:, :4] for name in ("ids", "counts", "log_probabilities")})
    student, _ = sides()
    ours, theirs = (evaluate.distances(d.ForwardKl(), student, one) for one in (padded, few))
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6)


ARRAYS = ("ids", "counts", "entropy", "log_probabilities")


def test_labels_are_smoothed_as_usual():
    student, _ = sides()
    labels = torch.arange(ROWS) % CLASSES
    counts = torch.full((ROWS,), 1 / ROWS, dtype=torch.float64)
    loss, _ = streamed(
        student,
        [
            Asked(d.ForwardKl(), Given(labels, CLASSES), counts, 0.9),
            Asked(d.ForwardKl(), Even(labels, CLASSES), counts, 0.1),
        ],
    )
    theirs = F.cross_entropy(whole(student), labels, label_smoothing=0.1)
    torch.testing.assert_close(loss, theirs, rtol=1e-6, atol=1e-7)  # 1 / V is a float32
    agree(grads(loss, student), grads(theirs, student), rtol=1e-5, atol=1e-7)


def test_a_frozen_head_has_no_gradient_and_a_frozen_body_none_either():
    student, teacher = sides(bias=False)
    counts = torch.ones(ROWS, dtype=torch.float64)
    student.head.weight.requires_grad_(False)
    loss, _ = streamed(student, [Asked(d.ReverseKl(), teacher, counts)])
    loss.backward()
    assert student.head.weight.grad is None
    assert student.hidden.grad is not None
    with torch.no_grad():
        value, _ = streamed(student, [Asked(d.ReverseKl(), teacher, counts)])
    torch.testing.assert_close(value, loss.detach(), **CLOSE)


def test_it_can_be_followed_twice_and_scaled():
    student, teacher = sides()
    asked = [Asked(d.ForwardKl(), teacher, torch.ones(ROWS, dtype=torch.float64))]
    loss, _ = streamed(student, asked, again=True)
    first = torch.autograd.grad(loss, student.hidden, retain_graph=True)[0]
    torch.testing.assert_close(torch.autograd.grad(3 * loss, student.hidden)[0], 3 * first, **CLOSE)
    once, _ = streamed(student, asked)
    torch.testing.assert_close(torch.autograd.grad(3 * once, student.hidden, retain_graph=True)[0], 3 * first, **CLOSE)
    with pytest.raises(RuntimeError, match="handed over"):
        torch.autograd.grad(once, student.hidden)


def test_the_gradient_of_a_head_is_not_copied():
    student, teacher = sides()
    loss, _ = streamed(student, [Asked(d.ForwardKl(), teacher, torch.ones(ROWS, dtype=torch.float64))])
    made = loss.grad_fn.made[1].data_ptr()
    loss.backward()
    assert student.head.weight.grad.data_ptr() == made


def test_no_rows_are_no_loss():
    student, teacher = sides()
    none = torch.empty(0, dtype=torch.int64)
    loss, _ = streamed(student.at(none), [Asked(d.ForwardKl(), teacher.at(none), torch.empty(0))])
    assert float(loss.detach()) == 0
    assert all((one == 0).all() for one in grads(loss, student))


class Largest(TorchDispatchMode):
    """The most elements that any tensor of a training step has."""

    def __init__(self):
        super().__init__()
        self.most = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for one in out if isinstance(out, tuple | list) else (out,):
            if isinstance(one, torch.Tensor):
                self.most = max(self.most, one.numel())
        return out


@names
def test_nothing_of_all_rows_and_classes_is_made(divergence):
    student, teacher = sides(torch.float32)
    with Largest() as seen:
        loss, _ = streamed(
            student,
            [
                Asked(divergence, teacher, torch.ones(ROWS)),
                Asked(d.ForwardKl(), Given(torch.zeros(ROWS, dtype=torch.int64), CLASSES), torch.ones(ROWS)),
            ],
        )
        loss.backward()
    assert seen.most <= 2 * 10 * CLASSES < ROWS * CLASSES  # a chunk of each side


def test_what_is_stored_at_one_temperature_is_not_softened():
    student, teacher = sides()
    with pytest.raises(SignalError, match="stored at temperature 1"):
        streamed(student, [Asked(d.ForwardKl(), top(teacher, 5), torch.ones(ROWS), 1.0, 2.0)])


def test_a_padded_vocabulary_is_cut():
    student, teacher = sides()
    wide = Chunked(teacher.hidden, Head(torch.cat([teacher.head.weight, torch.ones(7, OTHER, dtype=torch.float64)])))
    ours, theirs = aligned(student, wide)
    assert ours is student
    torch.testing.assert_close(whole(theirs), whole(teacher), **CLOSE)
    padded = TopK(torch.tensor([[3, CLASSES + 2]]), torch.tensor([[0.7, 0.2]]).log(), CLASSES + 7)
    _, cut = aligned(student, padded)
    known = cut.outcomes(0, 1)
    torch.testing.assert_close(known.p, torch.tensor([[0.7, 0.0, 0.3]]))


@names
def test_distances_are_those_of_each_row(divergence):
    student, teacher = sides(torch.float32)
    wide = Chunked(teacher.hidden, Head(torch.cat([teacher.head.weight, torch.ones(7, OTHER)])))
    far = evaluate.distances(divergence, student, wide)
    torch.testing.assert_close(far, d.dense(divergence, whole(student), whole(teacher)).detach(), rtol=1e-5, atol=1e-5)


def test_what_is_kept_of_answers():
    student, _ = sides()
    labels = whole(student).argmax(-1).clone()
    labels[::2] = (labels[::2] + 1) % CLASSES
    kept = judged(student, labels, block=5 * CLASSES)
    log_p = whole(student).log_softmax(-1).detach()
    torch.testing.assert_close(kept[:, 0], log_p.gather(1, labels[:, None])[:, 0].float())
    assert kept[:, 1].tolist() == [float(row % 2) for row in range(ROWS)]
    torch.testing.assert_close(kept[:, 2], log_p.exp().max(-1).values.float())
    assert torch.equal(kept[:, 3].long(), log_p.argmax(-1))

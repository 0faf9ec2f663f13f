"""Codecs of logits against slow ones in NumPy and plain integers, written from the formulas."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from tests.fakes.coded import WIDTHS, logits_of, rows_of

from limbeck.losses.divergences import ForwardKl, dense
from limbeck.objective.evaluate import Asked, streamed
from limbeck.signals.logits import Chunked, Dense, Head
from limbeck.teachers.store.bits import packed, size_of, unpacked, width_of
from limbeck.teachers.store.codecs import SampledCodec, TopKCodec
from limbeck.teachers.store.draws import _STEP, _mixed, uniforms
from limbeck.teachers.store.vocabulary import drawn, known_and_rest, likeliest

SHIFTS = (0.0, 500.0, -500.0)  # exponentials of such logits overflow or vanish unless they are shifted


def softmax(logits: torch.Tensor) -> np.ndarray:
    exact = logits.double().numpy()
    masses = np.exp(exact - exact.max(-1, keepdims=True))
    return masses / masses.sum(-1, keepdims=True)


@given(st.integers(1, 56), st.lists(st.integers(0, 2**56 - 1), max_size=40))
@settings(max_examples=150, deadline=None, derandomize=True)
def test_packed_numbers_are_one_long_integer(width, values):
    values = [value % 2**width for value in values]
    whole = sum(value << (width * place) for place, value in enumerate(values))
    assert packed(np.array(values, dtype=np.int64), width).tobytes() == whole.to_bytes(
        size_of(len(values), width), "little"
    )


@given(st.integers(1, 56), st.lists(st.lists(st.integers(0, 2**56 - 1), max_size=20), max_size=5))
@settings(max_examples=150, deadline=None, derandomize=True)
def test_parts_are_unpacked_one_after_another(width, parts):
    parts = [[value % 2**width for value in part] for part in parts]
    raw = [packed(np.array(part, dtype=np.int64), width) for part in parts]
    assert unpacked(raw, [len(part) for part in parts], width).tolist() == [value for part in parts for value in part]


def test_an_id_takes_as_many_bits_as_the_vocabulary_needs():
    assert [width_of(classes) for classes in (1, 2, 3, 255, 256, 257, 65536, 65537, 151936)] == [
        1,
        1,
        2,
        8,
        8,
        9,
        16,
        17,
        18,
    ]


def test_uniforms_are_splitmix64():
    """The states after 0, 1 and 2 steps from 1234567; the first numbers of the reference generator."""
    reference = [6457827717110365317, 3203168211198807973, 9817491932198370423]
    with np.errstate(over="ignore"):
        found = _mixed(np.uint64(1234567) + np.arange(3, dtype=np.uint64) * _STEP)
    assert found.tolist() == reference


@pytest.mark.parametrize("classes", WIDTHS)
@pytest.mark.parametrize("shift", SHIFTS)
@pytest.mark.parametrize(
    "most", [3, 20, 128]
)  # found among all classes, in one block after another, or in ever smaller ones
def test_the_likeliest_and_the_rest(classes, shift, most):
    logits, k = logits_of(3, classes, shift=shift), min(most, classes)
    logits[0, :: max(1, classes // 5)] = logits[0].max() + 1  # equal ones
    values, ids = likeliest(logits, k)
    assert torch.equal(values, logits.topk(k).values)
    assert torch.equal(values, logits.gather(1, ids))
    assert all(len(set(row)) == k for row in ids.tolist())
    known, rest = known_and_rest(logits, ids)
    p = softmax(logits)
    own = np.take_along_axis(p, ids.numpy(), 1)
    np.put_along_axis(p, ids.numpy(), 0, 1)
    # masses are exponentials in float32: right to a few parts in 10^7 each; at a shift of 500 the logits themselves are no better
    assert known.exp().numpy() == pytest.approx(own, rel=5e-5 if shift else 2e-6)
    assert rest.exp().numpy()[:, 0] == pytest.approx(p.sum(1), rel=1e-4 if shift else 1e-5)


@pytest.mark.parametrize("classes", WIDTHS)
@pytest.mark.parametrize("shift", SHIFTS)
def test_draws_invert_the_distribution(classes, shift):
    logits = logits_of(3, classes, seed=1, shift=shift)
    logits[:, classes // 2 + 1 :: 5] = -torch.inf
    chances = torch.from_numpy(uniforms(5, np.arange(3), np.arange(3), np.arange(3), 40))
    ids, log_total, entropy = drawn(logits, chances)
    p = softmax(logits)
    reach = p.cumsum(1)
    for row in range(3):
        own = ids[row].numpy()
        assert (p[row, own] > 0).all()
        # a class is right if the chance lies in its interval, to within the rounding of float32 masses
        assert (chances[row].numpy() <= reach[row, own] + 1e-5).all()
        assert (chances[row].numpy() >= reach[row, own] - p[row, own] - 1e-5).all()
    # float32 sums over V terms, and 500 times 1e-7 where the logits are so large
    assert entropy.numpy() == pytest.approx(stats.entropy(p, axis=1), abs=2e-3 if shift else 1e-4)
    exact = logits.double().logsumexp(-1).numpy()
    assert log_total.numpy() == pytest.approx(exact, abs=1e-4 if shift else 1e-5)


def test_extreme_chances_draw_classes_that_have_mass():
    logits = torch.full((1, 200), -torch.inf)
    logits[0, [3, 70, 190]] = torch.tensor([0.0, 1.0, 2.0])
    ids, *_ = drawn(logits, torch.tensor([[0.0, 5e-324, 1 - 2**-53]], dtype=torch.float64))
    assert ids.tolist() == [[3, 3, 190]]


@pytest.mark.parametrize("classes", [5, 100, 3000])
def test_draws_are_multinomial(classes):
    """Chi-square of 4000 x 20 draws; and the spread of one row's counts, which stratified draws would make too small."""
    count, draws = 4000, 20
    p = softmax(logits_of(1, classes, scale=1.5))[0]
    logits = logits_of(1, classes, scale=1.5).expand(count, 1, classes)
    sampled = SampledCodec(draws=draws).decode(SampledCodec(draws=draws).encode(Dense(logits), rows_of(count)))
    assert (sampled.counts.sum(-1) == draws).all()
    counts = np.zeros((count, classes))
    np.add.at(counts, (np.arange(count)[:, None], sampled.ids[:, 0].numpy()), sampled.counts[:, 0].numpy())
    expected = p * count * draws
    kept = expected >= 10
    seen = np.append(counts.sum(0)[kept], counts.sum(0)[~kept].sum())
    wanted = np.append(expected[kept], expected[~kept].sum())
    statistic = ((seen - wanted) ** 2 / np.maximum(wanted, 1e-9)).sum()
    assert 1e-3 < stats.chi2.sf(statistic, kept.sum() - 1 + (~kept).any()) < 1 - 1e-3
    top = int(p.argmax())
    # a variance over 4000 rows is right to about 1 / sqrt(2000) = 2.2 %; four times that
    assert counts[:, top].var() == pytest.approx(draws * p[top] * (1 - p[top]), rel=0.09)


@pytest.mark.parametrize("draws", [1, 12, 50])
def test_what_is_sampled_is_right_on_average(draws):
    """The mean over 3000 tokens of value and gradient of the forward KL, against dense, in standard errors."""
    count, classes = 3000, 40
    teacher, student = logits_of(1, classes, seed=3), logits_of(1, classes, seed=4)
    many = teacher.expand(count, classes)
    codec = SampledCodec(draws=draws)
    sampled = codec.decode(codec.encode(Dense(many[:, None]), rows_of(count)))
    weights = torch.zeros(count, classes).scatter_add_(1, sampled.ids[:, 0].long(), sampled.weights[:, 0])
    values = -(weights * student.log_softmax(-1)).sum(-1) - sampled.entropy[:, 0]
    exact = float(dense(ForwardKl(), student, teacher))
    half = float(sampled.entropy[0, 0]) * 2.0**-11  # the entropy is in half precision
    assert abs(float(values.mean()) - exact) < 4 * float(values.std()) / count**0.5 + half
    wanted = (student.softmax(-1) - teacher.softmax(-1))[0]
    gradients = student.softmax(-1) - weights
    errors = (gradients.mean(0) - wanted).abs() / (gradients.std(0) / count**0.5).clamp_min(1e-9)
    assert float(errors[wanted.abs() > 1e-3].max()) < 4.5  # of 40 normal deviates
    hidden = student.expand(count, classes).clone().requires_grad_(True)
    value, _ = streamed(
        Chunked(hidden, Head(torch.eye(classes))),
        [Asked(ForwardKl(), sampled.at(torch.arange(count)), torch.full((count,), 1 / count))],
    )
    value.backward()
    torch.testing.assert_close(hidden.grad.sum(0), gradients.mean(0), rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(value.detach(), values.mean(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_what_top_k_leaves_is_never_negative(dtype):
    """Tails from 1 in 10^9 to a half, where rounded probabilities add up to more than 1."""
    tails = np.repeat([1e-9, 1e-6, 1e-4, 1e-2, 0.5], 40)
    known = np.random.default_rng(0).dirichlet(np.ones(10), len(tails)) * (1 - tails[:, None])
    p = np.concatenate([known, np.full((len(tails), 90), 1) * tails[:, None] / 90], 1)
    codec = TopKCodec(k=10, dtype=dtype)
    top = codec.decode(codec.encode(Dense(torch.from_numpy(np.log(p)).float()), rows_of(len(tails))))
    left = 1 - top.log_probabilities.double().exp().sum(-1).numpy()
    exact = np.sort(p, 1)[:, :-10].sum(1)
    # float16 logs, here up to 16, are right to 2^-11 of their size; float32 ones that are rounded down leave 1e-7 more
    assert left == pytest.approx(np.maximum(exact, 2.0**-20), rel=1e-2 if dtype == "float16" else 1e-4, abs=3e-7)
    assert (left >= 2.0**-21).all()
    seen = top.outcomes(0, len(tails))
    assert float(seen.p[:, -1].min()) >= 0
    assert (np.diff(top.log_probabilities.numpy(), axis=1) <= 0).all()

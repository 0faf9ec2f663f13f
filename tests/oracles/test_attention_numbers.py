"""Losses of attention against NumPy in float64, by explicit loops over examples, heads, queries and keys."""

import numpy as np
import pytest
import torch

from limbeck.losses.attention import attention_kl, attention_mse, minilm_relation

# both sides are float64, and differ in the order of sums over at most some 200 numbers of size 10: 1e-13 of the value
CLOSE = {"rtol": 1e-11, "atol": 1e-13}
SHAPES = ((1, 1, 1, 1), (2, 3, 3, 4), (3, 4, 2, 5))  # B, heads of the student, heads of the teacher, L


def tensors(*arrays):
    return tuple(None if array is None else torch.from_numpy(array) for array in arrays)


def softmax(row):
    e = np.exp(row - row.max())
    return e / e.sum()


def real_tokens(mask, b, length):
    return [i for i in range(length) if mask is None or mask[b, i]]


def same_heads(student, teacher):
    if student.shape[1] == teacher.shape[1]:
        return student, teacher
    return (sum(x[:, a] / x.shape[1] for a in range(x.shape[1]))[:, None] for x in (student, teacher))


def scores_mse(student, teacher, mask):
    """TinyBERT: MSE of the scores, here over pairs of real tokens that neither side masks."""
    student, teacher = same_heads(student, teacher)
    values = []
    for b in range(len(student)):
        tokens, gaps = real_tokens(mask, b, student.shape[2]), []
        for a in range(student.shape[1]):
            for i in tokens:
                for j in tokens:
                    x, y = student[b, a, i, j], teacher[b, a, i, j]
                    if x > -1e300 and y > -1e300:
                        gaps.append((x - y) ** 2)
        values.append(sum(gaps) / len(gaps) if gaps else 0.0)
    return values


def rows_kl(student, teacher, mask):
    """MiniLM: 1 / (heads * |x|) times the sum over heads and queries of KL(teacher row || student row)."""
    student, teacher = same_heads(student, teacher)
    values = []
    for b in range(len(student)):
        tokens, kls = real_tokens(mask, b, student.shape[2]), []
        for a in range(student.shape[1]):
            for i in tokens:
                p = np.array([teacher[b, a, i, j] for j in tokens])
                q = np.array([student[b, a, i, j] for j in tokens])
                p, q = p / p.sum(), q / q.sum()
                kls.append(sum(p[j] * np.log(p[j] / q[j]) for j in range(len(tokens)) if p[j] > 0))
        values.append(sum(kls) / len(kls) if kls else 0.0)
    return values


def relations_kl(student, teacher, heads, mask):
    """MiniLMv2: relations softmax(A A^T / sqrt(d_r)) of each relation head, KL over rows of real tokens."""
    values = []
    for b in range(len(student)):
        tokens, kls = real_tokens(mask, b, student.shape[1]), []
        for a in range(heads):
            for i in tokens:
                rows = []
                for x in (teacher, student):
                    width = x.shape[2] // heads
                    part = x[b, :, a * width : (a + 1) * width]
                    rows.append(softmax(np.array([part[i] @ part[j] / np.sqrt(width) for j in tokens])))
                p, q = rows
                kls.append(sum(p[j] * np.log(p[j] / q[j]) for j in range(len(tokens))))
        values.append(sum(kls) / len(kls) if kls else 0.0)
    return values


def masks(draw, b, length):
    some = draw.random((b, length)) < 0.6
    some[-1] = False  # an example of padding alone
    return (None, np.ones((b, length), dtype=bool), some)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_attention_mse(shape):
    b, ours, theirs, length = shape
    draw = np.random.default_rng(shape)
    student, teacher = (3 * draw.normal(size=(b, h, length, length)) for h in (ours, theirs))
    causal = np.triu(np.ones((length, length), dtype=bool), 1)
    for mask in masks(draw, b, length):
        np.testing.assert_allclose(
            attention_mse(*tensors(student, teacher, mask)), scores_mse(student, teacher, mask), **CLOSE
        )
        for low in (-np.inf, np.finfo(np.float64).min):
            a, c = student.copy(), teacher.copy()
            a[..., causal] = low
            c[0, :, 0, 0] = -np.inf
            np.testing.assert_allclose(attention_mse(*tensors(a, c, mask)), scores_mse(a, c, mask), **CLOSE)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("causal", [False, True])
def test_attention_kl(shape, causal):
    b, ours, theirs, length = shape
    draw = np.random.default_rng(shape)
    student, teacher = (draw.random((b, h, length, length)) ** 3 + 1e-3 for h in (ours, theirs))
    if causal:
        student, teacher = np.tril(student), np.tril(teacher)
    student, teacher = (x / x.sum(-1, keepdims=True) for x in (student, teacher))
    for mask in masks(draw, b, length):
        np.testing.assert_allclose(
            attention_kl(*tensors(student, teacher, mask)), rows_kl(student, teacher, mask), **CLOSE
        )


@pytest.mark.parametrize(("heads", "ours", "theirs"), [(1, 3, 3), (2, 4, 10), (4, 12, 4), (3, 6, 9)])
def test_minilm_relations(heads, ours, theirs):
    draw = np.random.default_rng((heads, ours, theirs))
    student, teacher = (2 * draw.normal(size=(3, 5, width)) for width in (ours, theirs))
    for mask in masks(draw, 3, 5):
        np.testing.assert_allclose(
            minilm_relation(*tensors(student, teacher), heads, *tensors(mask)),
            relations_kl(student, teacher, heads, mask),
            **CLOSE,
        )


def test_numbers_worked_by_hand():
    # scores: two heads of one example, gaps 1, 2, 3, 4 and 0, 0, 0, 2: (1 + 4 + 9 + 16 + 4) / 8; by the average of the
    # heads against one head: gaps .5, 1, 1.5, 3: (.25 + 1 + 2.25 + 9) / 4
    gaps = torch.tensor([[[[1.0, 2], [3, 4]], [[0, 0], [0, 2]]]], dtype=torch.float64)
    assert attention_mse(gaps, torch.zeros_like(gaps)).item() == 34 / 8
    assert attention_mse(gaps, torch.zeros(1, 1, 2, 2, dtype=torch.float64)).item() == 12.5 / 4
    # probabilities: rows (3/4, 1/4) and (1, 0) against (1/2, 1/2) twice
    teacher = torch.tensor([[[[0.75, 0.25], [1, 0]]]], dtype=torch.float64)
    by_hand = (0.75 * np.log(1.5) + 0.25 * np.log(0.5) + np.log(2)) / 2
    assert attention_kl(torch.full_like(teacher, 0.5), teacher).item() == pytest.approx(by_hand, rel=1e-14)
    # relations: the teacher's two tokens are 2 and 0 in one head of width 1, so its rows are softmax(4, 0) and
    # (1/2, 1/2); a student of zeros has (1/2, 1/2) twice
    p = 1 / (1 + np.exp(-4))
    by_hand = (p * np.log(2 * p) + (1 - p) * np.log(2 * (1 - p))) / 2
    teacher = torch.tensor([[[2.0], [0.0]]], dtype=torch.float64)
    assert minilm_relation(torch.zeros_like(teacher), teacher, 1).item() == pytest.approx(by_hand, rel=1e-14)

"""Averages of clients, worked out again in float64 from the formulas."""

import numpy as np
import pytest
import torch
from torch import nn

from limbeck.federation.averaging import agreed, averaged


class Normed(nn.Module):
    """Parameters, BatchNorm's statistics at the top and inside, whole numbers and a truth."""

    def __init__(self, seed):
        super().__init__()
        draw = torch.Generator().manual_seed(seed)
        self.head = nn.Linear(3, 2)
        self.inner = nn.Sequential(nn.BatchNorm1d(3, momentum=None))
        self.register_buffer("running_mean", torch.randn(2, generator=draw))
        self.register_buffer("running_var", torch.rand(2, generator=draw))
        self.register_buffer("places", torch.arange(4, dtype=torch.int32))
        self.register_buffer("on", torch.tensor([True, False]))
        for value in self.parameters():
            value.data = torch.randn(value.shape, generator=draw)
        self.inner[0].running_mean.copy_(torch.randn(3, generator=draw))
        self.inner[0].running_var.copy_(torch.rand(3, generator=draw) + 0.1)
        self.inner[0].num_batches_tracked += seed


@pytest.mark.parametrize("rows", [[4], [1, 1], [10, 1, 300]])
def test_the_mean_of_states(rows):
    states = [Normed(seed).state_dict() for seed in range(len(rows))]
    found = averaged(states, rows)
    assert found.keys() == states[0].keys()
    share = np.array(rows, dtype=np.float64) / sum(rows)
    for name, value in found.items():
        each = np.stack([one[name].numpy() for one in states])
        assert value.dtype == states[0][name].dtype
        if name in ("places", "on") or name.endswith("tracked"):
            assert np.array_equal(value.numpy(), each.max(0))
        elif not name.endswith("running_var"):
            assert np.allclose(value.numpy(), np.einsum("k,k...->...", share, each.astype(np.float64)), atol=1e-6)


def test_the_variance_is_that_of_all_rows_together():
    """Of equal layers, what BatchNorm would have seen if the rows of all clients had been one batch."""
    draw = np.random.default_rng(0)
    parts = [draw.normal(2.0 * one, 0.5 + one, (rows, 3)) for one, rows in enumerate((50, 8, 200))]
    states = []
    for part in parts:
        layer = nn.BatchNorm1d(3)
        layer.running_mean.copy_(torch.from_numpy(part.mean(0)))
        layer.running_var.copy_(torch.from_numpy(part.var(0)))
        states.append(layer.state_dict())
    found, whole = averaged(states, [len(part) for part in parts]), np.concatenate(parts)
    assert np.allclose(found["running_mean"], whole.mean(0), rtol=1e-5)
    assert np.allclose(found["running_var"], whole.var(0), rtol=1e-5)
    assert not np.allclose(found["running_var"], np.average([p.var(0) for p in parts], 0, [50, 8, 200]), rtol=0.1)


@pytest.mark.parametrize("by", ["alike", "rows", "classes"])
def test_the_mean_of_logits(by):
    draw = np.random.default_rng(1)
    said, rows = draw.normal(0, 20, (4, 9, 5)).astype(np.float32), [3, 50, 1, 7]
    counts = draw.integers(0, 9, (4, 5))
    counts[:, 2] = 0
    weight = {
        "alike": np.ones((4, 5)),
        "rows": np.repeat(np.array(rows)[:, None], 5, 1),
        "classes": counts.astype(float),
    }[by]
    if by == "classes":
        weight[:, 2] = 1
    expected = np.zeros((9, 5))
    for row in range(9):
        for one in range(5):
            expected[row, one] = sum(weight[k, one] * said[k, row, one] for k in range(4)) / weight[:, one].sum()
    found = agreed(list(map(torch.from_numpy, said)), rows, [tuple(one) for one in counts.tolist()], by)
    assert found.dtype == torch.float32
    assert np.allclose(found.numpy(), expected, atol=1e-4)

"""What a federation is made of: whose rows are whose, what may cross, what is averaged, and who is heard."""

import json

import numpy as np
import pytest
import safetensors.torch
import torch
from tests.fakes.experiments import Net, plan

from limbeck.errors import LimbeckError, SignalError
from limbeck.federation.averaging import agreed, averaged
from limbeck.federation.consensus import Consensus
from limbeck.federation.letters import Letter, decoded, holds
from limbeck.federation.parts import divided, shares
from limbeck.regimes.public import public_of


def alone(**changes):
    return plan(**{"teacher": None, "labelled": 30, **changes})


def state(scale=1.0, seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        found = Net().state_dict()
    found["norm.running_mean"] += scale
    found["norm.num_batches_tracked"] += int(10 * scale)
    return found


# --- whose rows are whose


@pytest.mark.parametrize("alpha", [None, 0.05, 1.0, 100.0])
@pytest.mark.parametrize("clients", [1, 2, 7])
def test_every_row_is_one_clients_and_nobody_has_none(alpha, clients):
    rows, strata = torch.arange(40, 440), torch.arange(400) % 5
    parts = divided(rows, strata, clients, alpha, seed=3)
    assert len(parts) == clients
    assert all(len(part) for part in parts)
    assert torch.equal(torch.cat(parts).sort().values, rows)
    assert all(torch.equal(part, part.sort().values) for part in parts)
    assert all(torch.equal(a, b) for a, b in zip(parts, divided(rows, strata, clients, alpha, seed=3), strict=True))
    if clients > 1:
        assert any(not torch.equal(a, b) for a, b in zip(parts, divided(rows, strata, clients, alpha, 4), strict=False))


def test_without_alpha_all_have_the_same_mixture():
    strata = torch.arange(210) % 3
    for part in divided(torch.arange(210), strata, 7, None, seed=0):
        assert torch.bincount(strata[part]).tolist() == [10, 10, 10]


def test_the_smaller_alpha_the_further_apart_are_the_classes():
    strata = torch.arange(2000) % 10
    apart = []
    for alpha in (0.05, 0.5, 5.0, 500.0):
        parts = divided(torch.arange(2000), strata, 10, alpha, seed=1)
        apart.append(np.mean([float(torch.bincount(strata[part]).max()) / len(part) for part in parts]))
    assert apart == sorted(apart, reverse=True)
    assert apart[0] > 0.6
    assert apart[-1] < 0.15


@pytest.mark.parametrize("alpha", [0.001, 0.1, 1.0, 30.0])
def test_shares_have_the_mean_and_variance_of_a_dirichlet_distribution(alpha):
    clients, draws = 4, 20000
    found = shares(clients, draws, alpha, seed=0)
    assert found.shape == (clients, draws)
    assert np.allclose(found.sum(0), 1)
    mean = 1 / clients
    variance = mean * (1 - mean) / (clients * alpha + 1)
    error = 5 * np.sqrt(variance / draws)
    assert np.allclose(found.mean(1), mean, atol=error)
    assert np.allclose(found.var(1), variance, rtol=0.1)


def test_rows_that_do_not_suffice_are_refused():
    with pytest.raises(LimbeckError, match=r"regime.clients is 5, and 4 training rows have a label"):
        divided(torch.arange(4), torch.zeros(4, dtype=torch.int64), 5, None, 0)
    with pytest.raises(LimbeckError, match=r"With regime.alpha 0.001 some of the 40 clients had no row"):
        divided(torch.arange(50), torch.arange(50) % 2, 40, 0.001, 0)


# --- what may cross


def letter(**changes):
    return Letter(
        **{"kind": "weights", "turn": 2, "sender": 3, "tensors": state(), "rows": 7, "classes": (4, 3), **changes}
    )


def read_as(content, **changes):
    return decoded(content, **{"kind": "weights", "turn": 2, "sender": 3, "like": state(), "classes": 2, **changes})


def test_a_letter_comes_as_it_was_sent_and_is_the_same_bytes_again():
    content = letter().encoded()
    found = read_as(content)
    assert (found.kind, found.turn, found.sender, found.rows, found.classes) == ("weights", 2, 3, 7, (4, 3))
    assert found.tensors.keys() == state().keys()
    assert all(torch.equal(value, state()[name]) for name, value in found.tensors.items())
    assert content == letter().encoded()
    assert holds(content) == "weights"
    assert holds(b"else") is None
    shared = torch.ones(3)
    assert (
        len(
            decoded(
                letter(tensors={"a": shared, "b": shared}).encoded(), "weights", 2, 3, {"a": shared, "b": shared}, 2
            ).tensors
        )
        == 2
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tensors": {**state(), "rows": torch.ones(5, 12)}}, "holds 'rows', which is no part of the weights"),
        ({"tensors": {name: one for name, one in state().items() if name != "head.bias"}}, "lacks 'head.bias'"),
        ({"tensors": {**state(), "head.bias": torch.ones(4)}}, r"'head.bias' as torch.float32 \[4\]"),
        ({"tensors": {**state(), "head.bias": torch.ones(3).double()}}, r"'head.bias' as torch.float64"),
        (
            {"tensors": {**state(), "head.bias": torch.tensor([1.0, float("nan"), 0.0])}},
            "'head.bias' that are not finite",
        ),
        ({"kind": "logits"}, "holds logits of round 2 from 3"),
        ({"turn": 1}, "holds weights of round 1 from 3"),
        ({"sender": 2}, "from 2"),
        ({"classes": ()}, "counts of 2 classes"),
    ],
)
def test_a_letter_that_holds_anything_else_is_refused(changes, message):
    with pytest.raises(LimbeckError, match=message):
        read_as(letter(**changes).encoded())


def test_what_is_no_letter_is_refused():
    whole = letter().encoded()
    head = {"kind": "weights", "turn": 2, "sender": 3, "rows": 7, "classes": [4, 3]}
    bad = [
        b"",
        b"some text",
        whole[:-5],
        whole[:40],
        safetensors.torch.save(state()),
        safetensors.torch.save(state(), {"letter": json.dumps(head), "note": "row 7 is a cat"}),
        safetensors.torch.save(state(), {"letter": json.dumps({**head, "note": "row 7 is a cat"})}),
        safetensors.torch.save(state(), {"letter": json.dumps({**head, "rows": "a cat"})}),
        safetensors.torch.save(state(), {"letter": json.dumps({**head, "rows": -1})}),
        safetensors.torch.save(state(), {"letter": json.dumps({**head, "classes": [4, 3.5]})}),
        safetensors.torch.save(state(), {"letter": json.dumps([head])}),
    ]
    for content in bad:
        with pytest.raises(LimbeckError, match="cannot be read"):
            read_as(content)


# --- what is averaged


def test_one_client_and_equal_clients_are_their_own_mean():
    for states, rows in (([state()], [5]), ([state()] * 3, [1, 5, 9])):
        mean = averaged(states, rows)
        assert all(torch.equal(mean[name], value) for name, value in state().items())
        assert all(mean[name].dtype == value.dtype for name, value in state().items())


def test_nothing_is_no_mean():
    for states, rows in (([], []), ([state()], [0])):
        with pytest.raises(LimbeckError, match="no client answered"):
            averaged(states, rows)
    with pytest.raises(LimbeckError, match="no client answered"):
        agreed([], [], [])


def test_the_order_of_clients_is_nothing():
    states, rows = [state(1.0, 1), state(0.2, 2), state(0.4, 3)], [3, 2, 8]
    one, two = averaged(states, rows), averaged(states[::-1], rows[::-1])
    assert all(torch.allclose(one[name].double(), two[name].double(), atol=1e-7) for name in one)


def test_who_never_saw_a_class_is_not_heard_about_it():
    knows, sure = torch.tensor([[1.0, 2.0, 3.0]]), torch.tensor([[9.0, -9.0, 9.0]])
    counts = [(10, 10, 0), (30, 0, 0)]
    found = agreed([knows, sure], [20, 30], counts, "classes")
    assert torch.allclose(found, torch.tensor([[(10 * 1 + 30 * 9) / 40, 2.0, (3 + 9) / 2]])), "none saw the third"
    assert torch.allclose(agreed([knows, sure], [20, 30], counts, "alike"), (knows + sure) / 2)
    assert torch.allclose(agreed([knows, sure], [20, 30], counts, "rows"), 0.4 * knows + 0.6 * sure)


def test_a_consensus_knows_the_public_rows_as_they_are_and_nothing_else():
    public = public_of(alone())
    logits = torch.randn(len(public), 3, generator=torch.Generator().manual_seed(0))
    one = Consensus(public.rows, logits)
    ids = public.rows[[3, 0, 3]]
    batch = public.batch(ids, torch.zeros_like(ids))
    assert torch.equal(one.observe(batch, frozenset({"logits"}))["logits"], logits[[3, 0, 3]])
    assert one.fingerprint != Consensus(public.rows, logits + 1).fingerprint
    for row, view in ((int(public.rows[0]) - 1, 0), (int(public.rows[0]), 1), (99, 0)):
        asked = public.batch(torch.tensor([row]), torch.tensor([view]))
        with pytest.raises(SignalError, match=f"not asked about the row {row}"):
            one.observe(asked, frozenset({"logits"}))
    with pytest.raises(SignalError, match="logits alone"):
        one.observe(batch, frozenset({"body"}))

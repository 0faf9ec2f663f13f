"""Layers and attention of causal models to learn from: shared key heads, rotary positions, padding on either side."""

from dataclasses import replace

import pytest
import torch
from tests.fakes.causal import made

from limbeck.data.batch import CLASS, NO_LABEL, REAL, SUPERVISED, TOKENS, Batch
from limbeck.data.language import BYTES, NextToken
from limbeck.objective import AttentionMaps, Cosine, Hints, MiniLm, Objective
from limbeck.signals.capture import Capture, show
from limbeck.teachers.local import LocalTeacher

KINDS = ("llama", "qwen2", "gpt2")  # the first two share key heads and turn queries and keys by their position
TERMS = {
    "hints": Hints(student="hidden.2", teacher="hidden.4"),
    "cosine": Cosine(student="hidden.2", teacher="hidden.4"),
    "attention-maps": AttentionMaps(student="attention.2", teacher="attention.4"),
    "attention-scores": AttentionMaps(student="attention.2", teacher="attention.4", form="mse"),
    "minilm": MiniLm(student="attention.2", teacher="attention.4", heads=4),
}
every = pytest.mark.parametrize("kind", KINDS)
few = pytest.mark.parametrize("kind", KINDS[::2])
terms = pytest.mark.parametrize("name", TERMS)
LENGTHS = (9, 5, 7)
ROWS = [torch.randint(3, 60, (length,), generator=torch.Generator().manual_seed(length)) for length in LENGTHS]


def batch_of(rows=ROWS, side="right", length=9, fill=1):
    """Rows padded on a ``side`` to a ``length``; every token that is there counts."""
    ids, mask = torch.full((len(rows), length), fill), torch.zeros(len(rows), length, dtype=torch.int64)
    for row, own in enumerate(rows):
        place = slice(0, len(own)) if side == "right" else slice(length - len(own), length)
        ids[row, place], mask[row, place] = own, 1
    places = (mask.cumsum(1) - 1).clamp_min(0)  # as a model is told them where padding stands on the left
    labels = torch.full_like(ids, NO_LABEL)
    real = torch.ones(len(rows), dtype=torch.bool)
    return Batch(
        {"input_ids": ids, "attention_mask": mask, "position_ids": places},
        {CLASS: labels, BYTES: torch.zeros_like(ids)},
        {REAL: real, SUPERVISED: real, TOKENS: mask.bool()},
        torch.arange(len(rows)),
        torch.zeros(len(rows), dtype=torch.int64),
    )


def pair(kind):
    """A student of half the layers, and its teacher."""
    smaller = {"gpt2": {"n_layer": 2}}.get(kind, {"num_hidden_layers": 2, "max_window_layers": 1})
    smaller = {name: size for name, size in smaller.items() if name != "max_window_layers" or kind == "qwen2"}
    return made(kind, **smaller), made(kind)


def loss_of(term, student, teacher, batch):
    objective = Objective((term,), NextToken())
    needs = objective.needs()
    seen = LocalTeacher(teacher, "t").observe(batch, needs.teacher)
    objective.build(show(student, batch.columns("student"), needs.student), seen, 0, len(batch), batch)
    with Capture(student, needs.student) as capture:
        return objective(capture(batch.columns("student")), seen, batch)[0]


@few
@terms
def test_zero_at_a_match_and_a_gradient_elsewhere(kind, name):
    student, teacher = pair(kind)
    loss = loss_of(TERMS[name], student, teacher, batch_of())
    assert float(loss.detach()) > 1e-3
    found = torch.autograd.grad(loss, list(student.parameters()), allow_unused=True)
    assert all(one.isfinite().all() for one in found if one is not None)
    assert sum(float(one.abs().sum()) for one in found if one is not None) > 0
    if name != "hints":  # whose projector begins anywhere
        match = TERMS[name].model_copy(update={"student": TERMS[name].teacher})
        assert float(loss_of(match, teacher, teacher, batch_of()).detach()) == pytest.approx(0, abs=1e-6)


@every
@terms
def test_padding_changes_nothing_on_whichever_side(kind, name):
    """Where it stands, how much of it there is, and which token it is."""
    student, teacher = pair(kind)
    expected = float(loss_of(TERMS[name], student, teacher, batch_of()).detach())
    for given in (batch_of(length=13), batch_of(side="left", length=13), batch_of(side="left", fill=2)):
        # other shapes, other kernels: float32 through four layers
        assert float(loss_of(TERMS[name], student, teacher, given).detach()) == pytest.approx(expected, rel=1e-3)


@few
@terms
def test_examples_stand_for_themselves(kind, name):
    student, teacher = pair(kind)
    alone = [float(loss_of(TERMS[name], student, teacher, batch_of([row], length=len(row))).detach()) for row in ROWS]
    together = float(loss_of(TERMS[name], student, teacher, batch_of()).detach())
    assert together == pytest.approx(sum(alone) / len(alone), rel=1e-3)


def test_relations_of_shared_key_heads_are_those_of_heads_of_their_own():
    """A model whose key heads are written out once for each query head shows the same queries, keys and values."""
    import copy

    import transformers

    shared = made("llama", tie_word_embeddings=False)
    config = copy.deepcopy(shared.config)
    config.num_key_value_heads = config.num_attention_heads
    apart = transformers.LlamaForCausalLM(config).eval()
    state = shared.state_dict()
    for name, value in state.items():
        if "k_proj" in name or "v_proj" in name:
            heads = value.unflatten(0, (2, -1))  # two key heads for four of queries
            state[name] = heads.repeat_interleave(2, 0).flatten(0, 1)
    apart.load_state_dict(state)
    batch = batch_of()
    names = {f"attention.3.{kind}" for kind in ("query", "key", "value", "probs")}
    ours, theirs = (show(one, batch.columns("student"), names) for one in (apart, shared))
    for name in names:
        torch.testing.assert_close(ours[name], theirs[name], rtol=1e-4, atol=1e-5)
    for term in (TERMS["minilm"], TERMS["attention-maps"]):
        same = term.model_copy(update={"student": "attention.3", "teacher": "attention.3"})
        assert float(loss_of(same, apart, shared, batch).detach()) == pytest.approx(0, abs=1e-6)


def test_widths_and_heads_may_differ():
    student, teacher = made("llama", hidden_size=16, num_attention_heads=2, num_key_value_heads=1), made("qwen2")
    for name in ("hints", "attention-maps", "minilm"):
        assert loss_of(TERMS[name], student, teacher, batch_of()).isfinite()
    narrow = replace(batch_of(), ids=torch.arange(3))
    assert loss_of(MiniLm(student="attention.2", teacher="attention.4", heads=8), student, teacher, narrow).isfinite()

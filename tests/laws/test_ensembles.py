"""Several teachers as one: a mean of probabilities or logits, row by row, of tensors and of storages."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from tests.fakes.rows import LOGITS, examples, local
from torch import nn

from limbeck.data.batch import DOMAIN, Batch
from limbeck.data.examples import Domains
from limbeck.data.task import NEVER
from limbeck.data.tasks import CLASSES, MultiLabel, Numbers
from limbeck.data.token_tasks import Spans
from limbeck.losses.divergences import ForwardKl, ReverseKl
from limbeck.losses.mixed import Mixed
from limbeck.losses.sparse import TopK
from limbeck.losses.storages import Chunked, Dense, Head
from limbeck.objective.evaluate import Asked, streamed
from limbeck.teachers.cached import CachedTeacher
from limbeck.teachers.ensemble import EnsembleTeacher
from limbeck.teachers.local import LocalTeacher
from limbeck.teachers.teacher import Provides
from limbeck.teachers.weighing import ByDomain, Fixed

DATA = examples(40)
BATCH = DATA.batch(torch.arange(24), torch.zeros(24, dtype=torch.int64))


class Said:
    """A teacher of fixed answers by id; counts the rows that it was asked for."""

    module = None

    def __init__(self, logits, fingerprint="said", offers=None):
        self.logits, self.fingerprint, self.rows = logits, fingerprint, 0
        self.provides = Provides(LOGITS) if offers is None else Provides(LOGITS, offers)

    def observe(self, batch, needs):
        self.rows += len(batch)
        return {"logits": self.logits.at(batch.ids) if hasattr(self.logits, "at") else self.logits[batch.ids]}


def draws(*shape, seed=0, scale=3.0):
    return scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def shown(teacher, batch=BATCH):
    return teacher.observe(batch, LOGITS)["logits"]


def softmax(logits):
    shifted = np.exp(logits - logits.max(-1, keepdims=True))
    return shifted / shifted.sum(-1, keepdims=True)


@pytest.mark.parametrize("combine", ["probabilities", "logits"])
def test_of_one_it_is_that_one(combine):
    one = Said(draws(40, 10))
    found = shown(EnsembleTeacher([one], combine=combine))
    torch.testing.assert_close(found.softmax(-1), shown(one).softmax(-1), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("combine", ["probabilities", "logits"])
def test_the_mean_is_that_of_the_formula(combine):
    members, weights = [draws(40, 10, seed=seed) for seed in (1, 2, 3)], [1, 2, 5]
    found = shown(EnsembleTeacher([Said(one) for one in members], Fixed(weights), combine))
    shares = np.array(weights) / 8
    each = [one[:24].double().numpy() for one in members]
    mean = sum(
        share * (softmax(one) if combine == "probabilities" else one) for share, one in zip(shares, each, strict=True)
    )
    expected = mean if combine == "probabilities" else softmax(mean)
    np.testing.assert_allclose(found.double().softmax(-1).numpy(), expected, atol=1e-6)  # float32


def test_order_says_nothing_and_weights_are_shares():
    one, other = Said(draws(40, 10, seed=1)), Said(draws(40, 10, seed=2))
    a = shown(EnsembleTeacher([one, other], Fixed([3, 1])))
    for again in (EnsembleTeacher([other, one], Fixed([1, 3])), EnsembleTeacher([one, other], Fixed([0.75, 0.25]))):
        torch.testing.assert_close(shown(again), a, rtol=0, atol=1e-5)


def test_who_counts_nothing_is_not_asked():
    one, other = Said(draws(40, 10, seed=1)), Said(torch.full((40, 10), torch.nan))
    torch.testing.assert_close(
        shown(EnsembleTeacher([one, other], Fixed([1, 0]))).softmax(-1), one.logits[:24].softmax(-1)
    )
    assert other.rows == 0


def test_domains_route_rows_to_their_experts():
    domains = Domains.of(["law" if row % 3 else "news" for row in range(40)])
    data = replace(DATA, domains=domains)
    batch = data.batch(torch.arange(24, 0, -1), torch.zeros(24, dtype=torch.int64))
    assert domains.names == ("law", "news")
    assert batch.labels[DOMAIN].tolist() == [int(row % 3 == 0) for row in range(24, 0, -1)]
    law, news = Said(draws(40, 10, seed=1)), Said(draws(40, 10, seed=2))
    weighing = ByDomain({"news": [0, 1], "law": [1, 0]}, domains.names)
    found = shown(EnsembleTeacher([law, news], weighing), batch)
    own = torch.where(batch.labels[DOMAIN][:, None] == 0, law.logits[batch.ids], news.logits[batch.ids])
    torch.testing.assert_close(found.softmax(-1), own.softmax(-1), rtol=0, atol=1e-6)
    assert (law.rows, news.rows) == (16, 8)
    assert data.inputs_fingerprint != DATA.inputs_fingerprint
    assert data.fingerprint != DATA.fingerprint


def test_every_setting_is_another_teacher():
    one, other = Said(draws(40, 10), "one"), Said(draws(40, 10), "other")
    domains = ("law", "news")
    made = [
        EnsembleTeacher([one, other]),
        EnsembleTeacher([other, one]),
        EnsembleTeacher([one, one]),
        EnsembleTeacher([one, other], combine="logits"),
        EnsembleTeacher([one, other], Fixed([1, 2])),
        EnsembleTeacher([one, other], ByDomain({"law": [1, 1], "news": [1, 1]}, domains)),
        EnsembleTeacher([one, other], ByDomain({"law": [1, 0], "news": [0, 1]}, domains)),
        EnsembleTeacher([one, other], task=MultiLabel()),
    ]
    assert len({teacher.fingerprint for teacher in made}) == len(made)
    assert EnsembleTeacher([one, other], Fixed([2, 2])).fingerprint == made[0].fingerprint
    assert EnsembleTeacher([one, Said(draws(40, 10), None)]).fingerprint is None


def test_stored_is_live(tmp_path):
    teacher = EnsembleTeacher([local(), Said(draws(40, 10))], Fixed([2, 1]))
    live = shown(teacher)
    with CachedTeacher(teacher, tmp_path, DATA.inputs_fingerprint) as cached:
        assert torch.equal(shown(cached), live)
    with CachedTeacher(teacher, tmp_path, DATA.inputs_fingerprint) as again:
        assert torch.equal(shown(again), live)
        assert (again.hits, again.misses) == (24, 0)


def test_several_labels_numbers_and_spans_have_means_of_their_own():
    """Sigmoids, values, and the ends of spans over the text's tokens alone."""
    a, b = draws(40, 4, seed=1), draws(40, 4, seed=2)
    found = shown(EnsembleTeacher([Said(a), Said(b)], task=MultiLabel()))
    torch.testing.assert_close(found.sigmoid(), (a[:24].sigmoid() + b[:24].sigmoid()) / 2, rtol=0, atol=1e-6)
    found = shown(EnsembleTeacher([Said(a), Said(b)], task=Numbers()))
    torch.testing.assert_close(found, (a[:24] + b[:24]) / 2)
    ends, text = [draws(40, 6, 2, seed=seed) for seed in (1, 2)], torch.tensor([2, 5]).repeat(24, 1)
    batch = replace(BATCH, labels={"text": text})
    found = shown(EnsembleTeacher([Said(one) for one in ends], task=Spans()), batch)
    assert found.shape == (24, 6, 2)
    answers = Spans().answers(found, batch)
    mean = sum(Spans().answers(one[:24], batch).softmax(-1) for one in ends) / 2
    torch.testing.assert_close(answers.softmax(-1), mean, rtol=0, atol=1e-6)
    assert bool((answers[..., 1] <= NEVER).all())  # before the text; the first token says that there is no answer
    for task in (CLASSES, MultiLabel(), Spans()):
        logits = draws(24, 6, 2) if task == Spans() else a[:24]
        back = task.answers(task.logits(task.answers(logits, batch)), batch)
        torch.testing.assert_close(back.softmax(-1), task.answers(logits, batch).softmax(-1))


# Storages: a language model's logits are made a block of rows at a time.

V, D = 37, 8


def storages(seed=0, rows=(5, 7)):
    """Whole logits, and hidden states with a head."""
    head = Head(draws(V, D, seed=seed + 1, scale=1.0))
    return Dense(draws(*rows, V, seed=seed)), Chunked(draws(*rows, D, seed=seed + 2, scale=1.0), head)


def mean_of(parts, weights, combine):
    """Float64, whole, from the formula."""
    each = [(part.head(part.hidden) if hasattr(part, "head") else part.logits).double() for part in parts]
    shares = weights.double().unbind(-1)
    if combine == "logits":
        return sum(share[..., None] * one for share, one in zip(shares, each, strict=True)).log_softmax(-1)
    return sum(share[..., None] * one.softmax(-1) for share, one in zip(shares, each, strict=True)).log()


@pytest.mark.parametrize("combine", ["probabilities", "logits"])
def test_a_mixture_of_storages_is_the_mean_of_whole_ones(combine):
    parts = storages()
    weights = torch.rand(5, 7, 2, generator=torch.Generator().manual_seed(3))
    weights /= weights.sum(-1, keepdim=True)
    mixed, expected = Mixed(parts, weights, combine), mean_of(parts, weights, combine).flatten(0, 1)
    assert (mixed.shape, mixed.classes) == ((5, 7, V), V)
    places = torch.tensor([3, 3, 30, 0, 12])
    for room in (None, torch.empty(2, V)):
        own = mixed.at(places).chunk(2, 4, room)
        torch.testing.assert_close(
            own.logits.double(), expected[places[2:4]], rtol=0, atol=1e-5
        )  # float32 of values to 30
    for temperature in (1.0, 2.5):
        known = mixed.at(places).outcomes(1, 5, temperature)
        softened = (expected[places[1:]] / temperature).log_softmax(-1)
        torch.testing.assert_close(known.log_p.double(), softened, rtol=0, atol=1e-5)
        torch.testing.assert_close(known.p.sum(-1), torch.ones(4))


def test_a_mixture_is_evaluated_and_its_gradient_is_that_of_the_whole_mean():
    parts, weights = storages(), torch.tensor([0.3, 0.7]).expand(5, 7, 2)
    rows = torch.arange(35)
    student = [one.at(rows) for one in storages(9)][1]
    found = []
    for teacher in (Mixed(parts, weights).at(rows), Dense(mean_of(parts, weights, "probabilities").float()).at(rows)):
        hidden = student.hidden.clone().requires_grad_()
        asked = [
            Asked(divergence, teacher, torch.full((35,), 1 / 35), temperature=1.5)
            for divergence in (ForwardKl(), ReverseKl())
        ]
        loss, _ = streamed(replace(student, hidden=hidden), asked)
        loss.backward()
        found.append((loss.detach(), hidden.grad))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


def test_padded_vocabularies_are_cut_to_the_smallest():
    (dense, _), wider = storages(), Dense(torch.cat([draws(5, 7, V, seed=4), torch.full((5, 7, 3), 9.0)], -1))
    mixed = Mixed((dense, wider), torch.full((5, 7, 2), 0.5)).at(torch.arange(35))
    expected = (dense.logits.softmax(-1) + wider.logits[..., :V].softmax(-1)).flatten(0, 1) / 2
    assert mixed.classes == V
    torch.testing.assert_close(mixed.outcomes(0, 35).p, expected)
    assert mixed.cut(20).outcomes(0, 35).p.shape == (35, 20)


def test_of_the_likeliest_classes_the_rest_is_shared_evenly():
    logs = torch.tensor([[0.5, 0.3], [0.6, 0.1]]).log()
    known = TopK(torch.tensor([[2, 0], [4, -1]]), logs, 5)
    p = Mixed((known,), torch.ones(2, 1)).outcomes(0, 2).p
    expected = torch.tensor([[0.3, 0.2 / 3, 0.5, 0.2 / 3, 0.2 / 3], [0.1, 0.1, 0.1, 0.1, 0.6]])
    torch.testing.assert_close(p, expected)


def test_an_ensemble_of_language_models_makes_no_logits_of_all_rows():
    """Members are asked for their rows alone, and each finds its own again."""
    from limbeck.data.language import NextToken

    one, other = (storages(seed, (24, 7)) for seed in (0, 5))

    class Model(Said):
        def observe(self, batch, needs):
            self.rows += len(batch)
            return {"logits": replace(self.logits, hidden=self.logits.hidden[batch.ids])}

    members = [Model(one[1]), Model(other[1])]
    domain = (torch.arange(24) % 4 == 0).long()
    batch = Batch(BATCH.inputs, {DOMAIN: domain}, BATCH.masks, BATCH.ids, BATCH.views)
    weighing = ByDomain({"a": [1, 0], "b": [1, 1]}, ("a", "b"))
    found = shown(EnsembleTeacher(members, weighing, task=NextToken()), batch)
    assert (found.shape, [member.rows for member in members]) == ((24, 7, V), [24, 6])
    weights = torch.where(domain[:, None] == 0, torch.tensor([1.0, 0.0]), torch.tensor([0.5, 0.5]))
    expected = mean_of([one[1], other[1]], weights[:, None].expand(-1, 7, -1), "probabilities").flatten(0, 1)
    known = found.at(torch.arange(24 * 7)).outcomes(0, 24 * 7)
    torch.testing.assert_close(known.log_p.double(), expected, rtol=0, atol=1e-5)


def test_random_states_and_models_are_left_alone():
    net, other = nn.Linear(16, 10), local()
    before, state = net.weight.clone(), torch.get_rng_state()
    shown(EnsembleTeacher([LocalTeacher(net, "net"), other]))
    assert torch.equal(net.weight, before)
    assert torch.equal(torch.get_rng_state(), state)

"""Laws of two domains: what is hidden of the target, and of the terms that make a student see both alike."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from tests.fakes.experiments import LABELS, SOFT, plan
from torch.nn import functional as F

from limbeck import losses
from limbeck.data.across import Across
from limbeck.data.batch import CLASS, DOMAIN, NO_LABEL, Batch
from limbeck.data.examples import Domains
from limbeck.data.raw import Raw
from limbeck.data.sources import Data
from limbeck.data.tasks import MultiLabel
from limbeck.errors import DataError, SignalError
from limbeck.objective import Coral, DomainAdversarial, Objective
from limbeck.objective.schedules import Place
from limbeck.regimes.offline import Offline

PLACE = Place(0, 10)


def vectors(rows, width=4, seed=0):
    return torch.randn(rows, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def rows_of(domains):
    batch = Batch.of(torch.zeros(len(domains), 2), torch.zeros(len(domains), dtype=torch.int64))
    return replace(batch, labels={**batch.labels, DOMAIN: torch.tensor(domains)})


def test_coral_is_the_papers_number():
    a, b = vectors(7), vectors(5, seed=1)
    apart = np.cov(a.numpy(), rowvar=False) - np.cov(b.numpy(), rowvar=False)
    assert float(losses.coral(a, b)) == pytest.approx((apart**2).sum() / (4 * 4**2), rel=1e-12)


def test_laws_of_coral():
    a, b = vectors(7), vectors(5, seed=1)
    value = losses.coral(a, b)
    assert torch.allclose(losses.coral(b, a), value, rtol=1e-12)
    assert torch.allclose(losses.coral(a + 3, b - 100), value, rtol=1e-9), "blind to the means"
    assert torch.allclose(losses.coral(2 * a, 2 * b), 16 * value, rtol=1e-12)
    assert float(losses.coral(a, a[torch.randperm(7)] + 1)) < 1e-25
    turn = torch.linalg.qr(vectors(4, seed=2))[0]
    assert torch.allclose(losses.coral(a @ turn, b @ turn), value, rtol=1e-9), "a rotation of both changes nothing"
    assert torch.autograd.gradcheck(losses.coral, (a.requires_grad_(), b.requires_grad_()))


@pytest.mark.parametrize(
    ("a", "b", "message"),
    [
        (vectors(3), vectors(3, 5), "one width"),
        (vectors(1), vectors(3), "two rows"),
        (vectors(3)[0], vectors(3), "sets of vectors"),
    ],
)
def test_what_coral_cannot_compare(a, b, message):
    with pytest.raises(ValueError, match=message):
        losses.coral(a, b)


def test_the_term_compares_the_domains_of_a_batch():
    x, domains = vectors(6), [0, 1, 0, 1, 1, 0]
    term = Coral(student="layer")
    later = torch.tensor(domains).bool()
    assert torch.equal(term.values({"layer": x}, {}, rows_of(domains), PLACE, None), losses.coral(x[~later], x[later]))
    assert float(losses.domain_cross_entropy(torch.zeros(2), torch.tensor([True, False])).sum()) == pytest.approx(
        2 * np.log(2)
    )
    for alone in ([0] * 6, [1] * 6, [0] * 5 + [1]):
        value = term.values({"layer": (y := x.clone().requires_grad_())}, {}, rows_of(alone), PLACE, None)
        value.backward()
        assert value == 0, "one domain, or one row of the other, has no covariance"
        assert not y.grad.any()


@pytest.mark.parametrize("strength", [0.0, 0.3, 1.0])
def test_the_student_ascends_what_the_discriminator_descends(strength):
    x, domains = vectors(6).float(), [0, 1, 0, 1, 1, 0]
    term = DomainAdversarial(student="layer", strength=strength, width=8)
    torch.manual_seed(0)
    part = term.build({"layer": x}, {}, 6).eval()
    ours = x.clone().requires_grad_()
    values = term.values({"layer": ours}, {}, rows_of(domains), PLACE, part)
    mine = torch.autograd.grad(values.sum(), [ours, *part.parameters()])
    theirs = x.clone().requires_grad_()
    plain = F.binary_cross_entropy_with_logits(part(theirs), torch.tensor(domains).float(), reduction="none")
    own = torch.autograd.grad(plain.sum(), [theirs, *part.parameters()])
    assert torch.equal(values, plain)
    assert torch.allclose(mine[0], -strength * own[0], atol=1e-7)
    assert all(torch.equal(a, b) for a, b in zip(mine[1:], own[1:], strict=True)), "the discriminator's is its own"


@pytest.mark.parametrize("term", [Coral(student="layer"), DomainAdversarial(student="layer")], ids=lambda one: one.name)
def test_domains_that_are_not_two_are_refused(term):
    x = vectors(3)
    part = term.build({"layer": x}, {}, 3)
    with pytest.raises(SignalError, match="does not say what rows are from"):
        term.values({"layer": x}, {}, Batch.of(torch.zeros(3, 2), torch.zeros(3, dtype=torch.int64)), PLACE, part)
    with pytest.raises(SignalError, match="has more"):
        term.values({"layer": x}, {}, rows_of([0, 1, 2]), PLACE, part)


def test_the_control_has_both_domains_too_where_a_term_is_of_all_rows():
    one = plan(labelled=20, terms=(LABELS, SOFT, Coral(student="body", weight=30.0)))
    one = replace(one, splits=one.splits.of(Domains.of(["a", "b"] * 50)))
    control = next(Offline().control(one))
    assert [(term.name, term.weight.at(PLACE)) for term in control.terms] == [("labels", 1.0), ("coral", 30.0)]
    assert len(control.examples) == 50
    assert len(next(Offline().control(replace(one, terms=(LABELS, SOFT)))).examples) == 20
    batch = control.examples.batch(torch.arange(8), torch.zeros(8, dtype=torch.int64))
    module = control.start.module()
    shown = {"logits": module(batch.inputs["x"]), "body": module.body(batch.inputs["x"])}
    assert Objective(control.terms)(shown, None, batch)[1]["coral"] > 0


class Loads:
    """A source in memory."""

    def __init__(self, raw):
        self.raw = raw

    def load(self, task=None):
        return self.raw


def images(count, classes=("x", "y"), seed=0, side=4, **more):
    draw = torch.Generator().manual_seed(seed)
    items = torch.randint(0, 256, (count, 1, side, side), generator=draw, dtype=torch.uint8)
    return Raw("images", items, torch.arange(count) % len(classes), classes, name=f"set {seed}", **more)


def across(known, target, **more):
    made = Across.model_construct(labelled=Loads(known), target=Loads(target), test=0.25, seed=0, **more)
    return made.load()


def test_of_the_target_no_label_but_the_tests_is_read():
    known, target = images(10), images(20, classes=("y", "x"), seed=1)
    raw = across(known, target)
    assert raw.classes == ("x", "y")
    assert torch.equal(raw.labels[:10], known.labels)
    assert torch.equal(raw.items[10:], target.items)
    assert len(raw.test) == 5
    assert bool((raw.test >= 10).all())
    assert torch.equal(raw.labels[raw.test], 1 - target.labels[raw.test - 10]), "classes are matched by their names"
    rest = torch.ones(30, dtype=torch.bool)
    rest[:10] = rest[raw.test] = False
    assert bool((raw.labels[rest] == NO_LABEL).all())
    assert set(raw.domains[:10]) == {"labelled: set 0"}
    assert set(raw.domains[10:]) == {"target: set 1"}


def test_own_test_parts_stay_apart():
    known, target = images(10, test=torch.tensor([0, 3])), images(12, seed=1, test=torch.tensor([1, 2, 5]))
    raw = across(known, target)
    assert (raw.labels != NO_LABEL).sum() == 8 + 3
    assert (raw.test - 8).tolist() == [1, 2, 5]
    assert torch.equal(raw.items[:8], known.items[[1, 2, 4, 5, 6, 7, 8, 9]])


@pytest.mark.parametrize(
    ("known", "target", "message"),
    [
        (images(4), images(6, classes=("x", "z"), seed=1), "must have the same"),
        (images(4), images(6, seed=1, side=5), "one size"),
        (images(4), Raw("texts", ["a", "b"], torch.tensor([0, 1]), ("x", "y")), "one kind"),
    ],
)
def test_sources_that_do_not_go_together(known, target, message):
    with pytest.raises(DataError, match=message):
        across(known, target)


def test_digits_of_two_collections():
    data = Data(source={"name": "across", "labelled": "uci-digits", "target": "mnist-5k"}, validation=90)
    parts = data.load()
    domains = parts.train.domains
    of = {name: domains.names.index(name) for name in domains.names}
    assert sorted(of) == ["labelled: uci-digits", "target: mnist-5k"]
    assert set(domains.rows[parts.validation.rows].tolist()) == {of["labelled: uci-digits"]}
    assert set(domains.rows[parts.test.rows].tolist()) == {of["target: mnist-5k"]}
    assert len(parts.test) == 1000
    seen = parts.train.labelled()
    assert set(domains.rows[seen.rows].tolist()) == {of["labelled: uci-digits"]}
    assert len(parts.train) > len(seen) > 1600
    batch = parts.train.batch(parts.train.rows[-4:], torch.zeros(4, dtype=torch.int64))
    assert batch.labels[CLASS].tolist() == [NO_LABEL] * 4
    assert bool((batch.labels[DOMAIN] == of["target: mnist-5k"]).all())
    with pytest.raises(DataError, match="is for the task 'classes'"):
        data.source.load(MultiLabel())

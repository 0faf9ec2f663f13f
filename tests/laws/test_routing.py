"""Routing: what it is where there is nothing to choose, whom it hears where there is, and what it leaves alone."""

from dataclasses import replace

import pytest
import torch
from tests.contracts.test_regime_contract import Stopped, Stops, answered, known
from tests.fakes.experiments import LABELS, Knows, Net, plan, same, seeded_teacher, smooth, splits, stage

from limbeck.data.batch import Batch
from limbeck.data.tasks import MultiLabel
from limbeck.errors import LimbeckError, SettingError, SignalError
from limbeck.objective import Hints, Objective, Routing, SoftTargets
from limbeck.objective.parts.router import Routes
from limbeck.objective.schedules import Place
from limbeck.regimes.born_again import BornAgain
from limbeck.regimes.offline import Offline
from limbeck.regimes.walk import walk
from limbeck.run.several import _routed
from limbeck.teachers.cached import CachedTeacher
from limbeck.teachers.ensemble import EnsembleTeacher
from limbeck.teachers.labelling import label
from limbeck.training.loop import train
from limbeck.training.stage import Stage
from limbeck.training.workshop import Workshop

ROUTING = Routing(weight=0.7, teachers=("one", "two"), temperature=2.0)
START = Place(0, 1)


def draws(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def two(rows=6, classes=4):
    """Logits of two teachers."""
    return {f"{name}.logits": draws(rows, classes, seed=seed) for seed, name in ((1, "one"), (2, "two"))}


def labelled(rows=6):
    return Batch.of(torch.zeros(rows, 1), torch.arange(rows) % 4)


def both(first=(0, 1, 2), second=(1, 0, 2)):
    """Two who know the clouds; an order other than 0, 1, 2 confuses them."""
    members = [seeded_teacher(lambda order=order: Knows(100, order)) for order in (first, second)]
    return EnsembleTeacher(members, names=("one", "two"))


def routed(**changes):
    return stage(**{"terms": (LABELS, ROUTING), "teacher": both(), **changes})


# --- where there is nothing to choose


@pytest.mark.parametrize("temperature", [4.0, {"schedule": "linear", "start": 1, "end": 6}])
def test_with_one_teacher_it_is_soft_targets(temperature):
    student, logits, place = {"logits": draws(6, 4)}, draws(6, 4, seed=1), Place(3, 10)
    term = Routing(teachers=["only"], temperature=temperature)
    assert term.build(student, {"only.logits": logits}, 6) is None, "there is no gate"
    found = term.values(student, {"only.logits": logits}, labelled(), place, None)
    plain = SoftTargets(temperature=temperature).values(student, {"logits": logits}, labelled(), place, None)
    assert torch.equal(found, plain)


def test_a_training_with_one_teacher_is_that_of_soft_targets(tmp_path):
    alone = EnsembleTeacher([seeded_teacher(lambda: Knows(100))], names=("one",))
    ours = routed(terms=(LABELS, Routing(weight=0.7, teachers=("one",), temperature=2.0)), teacher=alone)
    theirs = routed(terms=(LABELS, SoftTargets(weight=0.7, temperature=2.0)), teacher=alone)
    one, other = train(ours, tmp_path / "a"), train(theirs, tmp_path / "b")
    assert all(torch.equal(one.weights[name], other.weights[name]) for name in one.weights)


def test_equal_teachers_make_the_gate_irrelevant():
    student, logits = {"logits": draws(6, 4)}, draws(6, 4, seed=1)
    teacher = {f"{name}.logits": logits for name in ("one", "two")}
    routes, found = ROUTING.build(student, teacher, 6).double(), []
    for seed in (3, 4):
        routes.router.linear.weight.data = 3 * draws(2, 4, seed=seed)
        found.append(ROUTING.values(student, teacher, labelled(), START, routes))
    torch.testing.assert_close(*found, rtol=1e-13, atol=0)


def test_it_begins_as_the_mean_of_all():
    student = {"logits": draws(6, 4)}
    router = ROUTING.build(student, two(), 6).double().router
    torch.testing.assert_close(router(student["logits"]).exp(), torch.full((6, 2), 0.5, dtype=torch.float64))


# --- where there is


def shares(outcome):
    parts = outcome.points[-1]["parts"]
    return parts["routing.one"], parts["routing.two"]


def test_it_hears_the_one_that_is_right(tmp_path):
    one, other = shares(train(routed(steps=60, evaluate_every=20), tmp_path / "a"))
    assert abs(one + other - 1) < 1e-5, "shares, in the curve"
    assert one > 0.6, "the other confuses two classes of three"
    turned = train(routed(steps=60, evaluate_every=20, teacher=both((1, 0, 2), (0, 1, 2))), tmp_path / "b")
    assert shares(turned)[1] > 0.6


def test_held_together_it_does_not_collapse(tmp_path):
    terms = (LABELS, ROUTING.model_copy(update={"balance": 50.0}))
    one, other = shares(train(routed(steps=60, evaluate_every=20, terms=terms), tmp_path / "a"))
    assert abs(one - other) < 0.1


def test_without_labels_nothing_is_said_of_who_is_right(tmp_path):
    unlabelled = replace(splits().train, supervised=torch.zeros(100, dtype=torch.bool))
    found = train(routed(steps=20, evaluate_every=20, terms=(ROUTING,), examples=unlabelled), tmp_path / "a")
    assert shares(found) == pytest.approx((0.5, 0.5), abs=1e-6)


def test_experts_of_different_examples_are_told_apart():
    """Each knows half of the classes; the gate sees from the student which half it is."""
    labels = torch.arange(400) % 4
    right = torch.eye(4, dtype=torch.float64)[labels]
    student = {"logits": 3 * right + 0.3 * draws(400, 4)}
    teacher = {"one.logits": 6 * right * (labels < 2)[:, None], "two.logits": 6 * right * (labels > 1)[:, None]}
    routes = ROUTING.build(student, teacher, 400).double()
    optimiser = torch.optim.Adam(routes.parameters(), 0.05)
    for _ in range(100):
        optimiser.zero_grad()
        ROUTING.values(student, teacher, labelled(400), START, routes).mean().backward()
        optimiser.step()
    found = routes.router(student["logits"]).exp()
    assert found[labels < 2, 0].mean() > 0.8
    assert found[labels > 1, 1].mean() > 0.8


# --- what it leaves alone


def test_the_gate_sends_the_student_no_gradient():
    student = {"logits": draws(6, 4).requires_grad_(), "map": draws(6, 3, 2, 2).requires_grad_()}
    teacher = {name: value.requires_grad_() for name, value in two().items()}
    term = ROUTING.model_copy(update={"by": "map"})
    router = term.build(student, teacher, 6).double()
    term.values(student, teacher, labelled(), START, router).sum().backward()
    assert student["map"].grad is None
    assert all(one.grad is None for one in teacher.values())
    assert bool((student["logits"].grad != 0).any())
    assert all(bool((one.grad != 0).any()) for one in router.parameters()), "and the gate has its own"


def test_a_teachers_paths_are_heard_as_far_as_it_is():
    """The same hint of each teacher, by the share that it has of each example; without a share its layer says nothing."""
    student = {"logits": draws(6, 4), "map": draws(6, 3, 4, 4, seed=5)}
    teacher = two() | {"one.deep": draws(6, 5, 2, 2, seed=6), "two.deep": draws(6, 7, 2, 2, seed=7)}
    given = {"paths": {"one": {"map": "deep"}, "two": {"map": "deep"}}, "path_weight": 0.3}
    term = Routing(teachers=("one", "two"), temperature=2.0, **given)
    assert term.needs().teacher == set(teacher)
    assert term.needs().student == set(student)
    routes = term.build(student, teacher, 6).double()
    routes.router.linear.weight.data = 3 * draws(2, 4, seed=8)
    shares, whole = routes.router(student["logits"]).exp(), term.values(student, teacher, labelled(), START, routes)
    plain = ROUTING.values(student, teacher, labelled(), START, Routes(routes.router, [[], []]))
    hints = torch.stack(
        [
            Hints(student="map", teacher=f"{name}.deep", normalise=True).values(
                student, teacher, labelled(), START, routes.joints[place][0]
            )
            for place, name in enumerate(("one", "two"))
        ],
        1,
    )
    torch.testing.assert_close(whole, plain + 0.3 * (shares * hints).sum(1), rtol=1e-12, atol=1e-12)
    whole.sum().backward()
    assert all(one.grad is not None for one in routes.parameters()), "what joins the layers learns too"
    alone = Routing(teachers=("one",), temperature=2.0, paths={"one": {"map": "deep"}}, path_weight=0.3)
    routes = alone.build(student, teacher, 6).double()
    assert routes.told() == {}
    soft = SoftTargets(temperature=2.0).values(student, {"logits": teacher["one.logits"]}, labelled(), START, None)
    own = alone.hints[0][0].values(student, teacher, labelled(), START, routes.joints[0][0])
    assert torch.equal(alone.values(student, teacher, labelled(), START, routes), soft + 0.3 * own)


def test_layers_of_members_are_routed_in_a_training(tmp_path):
    members = [seeded_teacher(Net, seed) for seed in (1, 2)]
    term = ROUTING.model_copy(update={"paths": {"two": {"body": "norm"}}})
    teacher = EnsembleTeacher(members, names=("one", "two"))
    with_paths, without = (
        train(routed(terms=(LABELS, one), teacher=teacher), tmp_path / str(place))
        for place, one in enumerate((term, ROUTING))
    )
    assert not torch.equal(with_paths.weights["body.weight"], without.weights["body.weight"])
    (own,), _ = answered(Offline().soft_targets(plan(terms=(term,), teacher=teacher)), known)
    assert own.terms == (SoftTargets(weight=0.7, temperature=2.0),)


def test_in_parts_it_is_what_it_is_at_once():
    """Value, gradients and shares, of micro-batches of unequal sizes."""
    logits, teacher, batch, found = draws(7, 4), two(7), labelled(7), []
    for parts in ([torch.arange(7)], [torch.arange(5), torch.arange(5, 7)]):
        objective, told = Objective([ROUTING]), dict[str, float]()
        objective.build({"logits": logits}, teacher)
        objective.double()
        counts = objective.total_counts([batch.select(one) for one in parts])
        for rows in parts:
            theirs = {name: one[rows] for name, one in teacher.items()}
            ours = {"logits": logits[rows].clone().requires_grad_()}
            loss, shown = objective(ours, theirs, batch.select(rows), counts)
            loss.backward()
            for name, value in shown.items():
                told[name] = told.get(name, 0.0) + float(value)
        found.append((told, objective.parts["routing"].router.linear.weight.grad))
    (whole, slope), (summed, other) = found
    assert set(whole) == {"routing", "routing.one", "routing.two"}
    assert whole == pytest.approx(summed, rel=1e-12)
    torch.testing.assert_close(slope, other, rtol=1e-12, atol=1e-14)


def test_stored_is_live(tmp_path):
    teacher, data = both(), splits().train
    with CachedTeacher(teacher, tmp_path / "stores", data.inputs_fingerprint) as cached:
        label(cached, data, (0,), 16, frozenset(ROUTING.signals))
        stored = train(routed(teacher=cached, views=0), tmp_path / "a")
    live = train(routed(teacher=teacher, views=0), tmp_path / "b")
    # distances of other batches differ in the last bits
    assert all(torch.allclose(stored.weights[name], live.weights[name], atol=1e-4) for name in live.weights)


@pytest.mark.parametrize("inside", [False, True], ids=["between", "inside"])
@pytest.mark.parametrize("arm", ["distilled", "soft_targets", "best_single"])
def test_cut_off_it_ends_as_if_it_had_not_been(arm, inside, tmp_path):
    def end(root, workshop):
        one = plan(terms=(LABELS, ROUTING), teacher=both(), store=root / "stores")
        return walk(Offline().arms(one)[arm](one), workshop, root / "journal.json")

    whole = end(tmp_path / "whole", Workshop(tmp_path / "whole"))
    with pytest.raises(Stopped):
        end(tmp_path / "cut", Stops(tmp_path / "cut", 0, inside))
    again = end(tmp_path / "cut", Workshop(tmp_path / "cut"))
    assert (again.key, again.fingerprint) == (whole.key, whole.fingerprint)


def test_beside_it_stand_the_best_alone_and_the_plain_mean(tmp_path):
    one = plan(terms=(LABELS, ROUTING), teacher=both(), store=tmp_path / "stores")
    arms = Offline().arms(one)
    assert list(arms) == ["control", "best_single", "soft_targets", "distilled"]
    plain = SoftTargets(weight=0.7, temperature=2.0)
    for name in ("best_single", "soft_targets"):
        (own,) = [step for step in answered(arms[name](one), known)[0] if isinstance(step, Stage)]
        assert own.terms == (LABELS, plain)
    assert LABELS.by_answers() is LABELS
    assert plain.by_answers() is plain
    assert Hints(student="body", teacher="body").by_answers() is None


def test_what_was_routed_is_told_for_the_report(tmp_path):
    trained = Workshop(tmp_path).train(routed())
    found = _routed(("one", "two", "three"), [trained, trained])
    assert set(found) == {"one", "two"}
    assert sum(found.values()) == pytest.approx(1, abs=1e-5)
    assert same(train(routed(), tmp_path / "a"), train(routed(), tmp_path / "b"))


# --- what cannot be


def test_what_it_cannot_do_is_refused_before_step_0():
    with pytest.raises(SignalError, match=r"needs \['three.logits'\].*it consists of one, two"):
        Objective([Routing(teachers=("one", "three"))]).check(both().provides)
    with pytest.raises(SignalError, match="does not show it"):
        Objective([ROUTING]).check(EnsembleTeacher([seeded_teacher(smooth)]).provides)
    with pytest.raises(SignalError, match="one teacher's answers, and in the task 'multi-label'"):
        Objective([ROUTING], MultiLabel()).check(both().provides)
    with pytest.raises(LimbeckError, match=r"'routing' reads 'one.logits' of the teacher"):
        BornAgain(generations=2).stages(plan(terms=(LABELS, ROUTING), teacher=both()))
    with pytest.raises(SignalError, match="4 classes and the teacher 5"):
        ROUTING.build({"logits": draws(3, 4)}, {"one.logits": draws(3, 4), "two.logits": draws(3, 5)}, 3)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"teachers": ()}, "at least 1"),
        ({"teachers": ("a", "a")}, "named twice"),
        ({"teachers": ("a.logits",)}, "a.logits"),
        ({"teachers": ("a",), "balance": -1}, "balance"),
        ({"teachers": ("a",), "paths": {"b": {"map": "map"}}}, "paths are of 'b'"),
        ({"teachers": ("a",), "temperature": {"schedule": "learned"}}, "belongs to one teacher"),
    ],
)
def test_settings_that_cannot_be(wrong, said):
    with pytest.raises(SettingError, match=said):
        Routing(**wrong)

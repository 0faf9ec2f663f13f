"""Tasks one after another: who sees what, what is kept, and what cannot be asked."""

from dataclasses import replace

import pytest
import torch
import yaml
from tests.contracts.test_regime_contract import answered, known
from tests.contracts.test_term_contract import batch_of, signals
from tests.fakes.experiments import LABELS, SOFT, Clouds, Knows, Layered, Net, plan, seeded_teacher, smooth, teacher
from torch import nn

from limbeck import distill
from limbeck.errors import LimbeckError, SettingError
from limbeck.objective import EarlierClasses, Objective
from limbeck.objective.schedules import Place
from limbeck.recipe.reading import bundled, parse, read
from limbeck.recipe.teacher import Member
from limbeck.regimes.continual import Continual, Distil, Replay, beside, sampled
from limbeck.regimes.elastic import Elastic, Ewc
from limbeck.regimes.projected import Projected, Projection
from limbeck.regimes.walk import walk
from limbeck.run.experiment import from_recipe
from limbeck.teachers.ensemble import EnsembleTeacher
from limbeck.teachers.local import LocalTeacher
from limbeck.training import sharding
from limbeck.training.stage import Stage
from limbeck.training.workshop import Workshop

REPLAY = Continual(tasks=3, replay=Replay(rows=6))
EVERY = Continual(tasks=3, replay=Replay(rows=6), distil=Distil(), ewc=Ewc(rows=4), projection=Projection(rows=5))


def alone(**changes):
    return plan(teacher=None, **{"terms": (LABELS,), **changes})


def trainings(regime, arm="distilled", **changes):
    one = alone(**changes)
    return [step for step in answered(regime.arms(one)[arm](one), known)[0] if isinstance(step, Stage)]


def labels_of(stage):
    return set(stage.examples.labels[stage.examples.rows].tolist())


@pytest.mark.parametrize(
    ("tasks", "expected"),
    [
        (1, [[0, 1, 2, 3, 4]]),
        (2, [[0, 1, 2], [3, 4]]),
        (5, [[0], [1], [2], [3], [4]]),
        ((("e", "a"), ("c",), ("b", "d")), [[4, 0], [2], [1, 3]]),
    ],
)
def test_classes_are_divided_in_their_order_or_as_they_are_named(tasks, expected):
    assert [list(group) for group in replace_tasks(tasks).groups(tuple("abcde"))] == expected


def replace_tasks(tasks):
    return Continual(tasks=tasks, replay=Replay())


@pytest.mark.parametrize(
    ("tasks", "message"),
    [
        (6, "tasks is 6, and the data has 5 classes"),
        ((("a", "b"), ("c", "d")), "does not with 'e'"),
        ((("a", "b"), ("c", "d", "e", "x")), "does not with 'x'"),
        ((("a", "b", "c"), ("c", "d", "e")), "does not with 'c'"),
        ((("a", "b", "c", "d", "e"), ()), "an empty task"),
    ],
)
def test_tasks_that_do_not_fit_the_classes_are_refused(tasks, message):
    with pytest.raises(LimbeckError, match=message):
        replace_tasks(tasks).groups(tuple("abcde"))


def test_the_control_sees_each_task_once_and_nothing_of_the_others():
    found = trainings(REPLAY, "control")
    assert [labels_of(stage) for stage in found] == [{0}, {1}, {2}]
    assert [set(stage.validation.labels[stage.validation.rows].tolist()) for stage in found] == [{0}, {0, 1}, {0, 1, 2}]
    assert all(stage.teacher is None and not stage.keeping for stage in found)
    assert found[1].start.stage is found[0], "each begins where the last one ended"


def test_the_student_sees_of_earlier_tasks_what_is_kept_of_them_and_hidden_labels_never():
    found = trainings(EVERY, labelled=31)
    for number, stage in enumerate(found):
        rows = stage.examples.rows
        assert labels_of(stage) == set(range(number + 1))
        assert rows.max() < 31, "those beyond have no label that may be seen"
        old = {row for row in rows.tolist() if stage.examples.labels[row] != number}
        assert len(old) == (6 if number else 0)
        share = sum(row in old for row in rows.tolist()) / len(rows)
        assert share == pytest.approx(0.5 if number else 0, abs=0.15)
        memory = [one.memory for one in stage.keeping if isinstance(one, Projected)]
        assert [len(one) for one in memory] == ([5] if number else [])


def test_every_part_is_where_it_is_asked_for_and_nowhere_else():
    _, two, three = trainings(EVERY)
    assert [term.name for term in two.terms] == ["labels"], "among one class there is nothing to compare"
    assert [term.name for term in three.terms] == ["labels", "earlier-classes"]
    assert three.terms[1].classes == (0, 1)
    assert [type(one) for one in three.keeping] == [Elastic, Projected]
    for regime, kinds in (
        (REPLAY, []),
        (Continual(tasks=3, ewc=Ewc(rows=3)), [Elastic]),
        (Continual(tasks=3, projection=Projection()), [Projected]),
    ):
        last = trainings(regime)[-1]
        assert [type(one) for one in last.keeping] == kinds
        assert last.teacher is None
        assert labels_of(last) == ({0, 1, 2} if regime.replay else {2})


def test_the_newest_student_teaches_and_its_weights_are_those_that_are_held(tmp_path):
    made, seen = [], []

    def noted(regime):
        said = None
        while True:
            try:
                step = regime.send(said)
            except StopIteration as end:
                return end.value
            seen.append(step)
            said = yield step
            made.append(said)

    walk(noted(EVERY.distilled(alone())), Workshop(tmp_path), tmp_path / "journal.json")
    names = ["task 1", "fisher of task 1", "task 2", "fisher of task 2", "task 3"]
    assert all(name in step.name for name, step in zip(names, seen, strict=True))
    first, _, second, _, _ = made
    last = seen[-1]
    assert first.fingerprint != second.fingerprint
    assert last.teacher.fingerprint == second.fingerprint
    assert last.start is second
    held = last.keeping[0]
    assert held.names == (first.fingerprint, second.fingerprint)
    assert all(torch.equal(held.anchor[name], one) for name, one in second.module().named_parameters())
    assert all(torch.equal(one, made[1][name] + made[3][name]) for name, one in held.importance.items())


def three(**changes):
    """A plan with three teachers that differ."""
    members = [seeded_teacher(Net, seed) for seed in (5, 6, 7)]
    return plan(teacher=EnsembleTeacher(members, names=["x", "y", "z"]), terms=(LABELS, SOFT), **changes), members


def test_each_teacher_is_asked_about_the_rows_of_its_task_whenever_they_are_learnt(tmp_path):
    one, members = three(store=tmp_path / "stores")
    steps, _ = answered(EVERY.distilled(one), known)
    for number, stage in enumerate(step for step in steps if isinstance(step, Stage)):
        ids = stage.examples.rows.unique()
        batch = stage.examples.batch(ids, torch.zeros_like(ids))
        said = stage.teacher.observe(batch, frozenset({"logits"}))["logits"].softmax(-1)
        assert set(batch.labels["class"].tolist()) == set(range(number + 1))
        for task, member in enumerate(members):
            own = batch.labels["class"] == task
            theirs = member.observe(batch, frozenset({"logits"}))["logits"].softmax(-1)
            # a mixture of one, in float32
            torch.testing.assert_close(said[own], theirs[own], rtol=0, atol=1e-6)


def test_rows_that_are_learnt_again_are_answered_from_the_store(tmp_path):
    one, members = three(store=tmp_path / "stores", views=0)
    steps, _ = answered(REPLAY.distilled(one), known)
    for member in members:
        member.observe = None  # it is gone
    last = [step for step in steps if isinstance(step, Stage)][-1]
    ids = last.examples.rows.unique()
    said = last.teacher.observe(last.examples.batch(ids, torch.zeros_like(ids)), frozenset({"logits"}))["logits"]
    assert said.isfinite().all()


def test_the_student_before_a_task_is_heard_beside_the_tasks_teacher():
    one, _ = three()
    _, two, last = [step for step in answered(EVERY.distilled(one), known)[0] if isinstance(step, Stage)]
    assert [term.name for term in two.terms] == ["labels", "soft-targets"]
    assert [term.name for term in last.terms] == ["labels", "soft-targets", "earlier-classes"]
    assert last.terms[-1].needs().teacher == {"before.logits"}
    batch = last.examples.batch(last.examples.rows[:4], torch.zeros(4, dtype=torch.int64))
    before = last.start.stage.start.module().eval()(batch.inputs["x"])
    seen = last.teacher.observe(batch, frozenset({"logits", "before.logits"}))
    assert torch.equal(seen["before.logits"], before)
    assert not torch.equal(seen["logits"], before)


def test_one_teacher_is_there_for_all_tasks_and_two_arms_say_what_keeps():
    alone = plan(teacher=teacher(), terms=(LABELS, SOFT))
    assert list(EVERY.arms(alone)) == ["control", "joint", "unkept", "distilled"]
    for arm, taught in (("control", False), ("unkept", True), ("distilled", True)):
        stages = [step for step in answered(EVERY.arms(alone)[arm](alone), known)[0] if isinstance(step, Stage)]
        assert all(("soft-targets" in {term.name for term in stage.terms}) is taught for stage in stages)
        assert all((stage.teacher is not None) is taught for stage in stages)
        if arm != "distilled":
            assert [labels_of(stage) for stage in stages] == [{0}, {1}, {2}]
            assert all(not stage.keeping for stage in stages)


def test_what_holds_a_student_is_in_the_name_of_what_it_becomes():
    first, second = (trainings(Continual(tasks=3, ewc=Ewc(rows=3, weight=weight)))[-1] for weight in (1.0, 2.0))
    keys = [stage.identity(stage.start.module()) for stage in (first, second)]
    assert {name for name in keys[0] if keys[0][name] != keys[1][name]} == {"keeping"}
    assert "keeping" not in trainings(REPLAY)[0].identity(nn.Linear(1, 1)), "what was trained before keeps its name"


def test_rows_are_kept_as_of_a_reservoir():
    of = alone().splits.train
    counts = torch.zeros(50)
    for seed in range(400):
        kept = sampled(of, 10, seed)
        assert len(kept) == 10
        counts[kept.rows] += 1
    # 400 draws of probability 1/5 each: 80, sd 8; the farthest of 50 is some 3 sd away
    assert counts.min() > 80 - 32
    assert counts.max() < 80 + 32
    few = of.of_classes([0])
    both = set(sampled(of, 10, 3).rows.tolist())
    assert both & set(few.rows.tolist()) <= set(sampled(few, 10, 3).rows.tolist()), (
        "what is kept of more was kept of fewer"
    )
    assert len(sampled(few, 1000, 0)) == len(few)


@pytest.mark.parametrize(("share", "times"), [(0.5, 4), (0.2, 1), (0.01, 1), (0.8, 16)])
def test_kept_rows_are_repeated_up_to_their_share(share, times):
    of = alone().splits.train
    new, kept = replace(of, rows=torch.arange(40)), replace(of, rows=torch.arange(40, 50))
    assert beside(new, kept, share).rows.tolist() == [*range(40), *(list(range(40, 50)) * times)]


def test_soft_targets_among_earlier_classes_do_not_read_the_others():
    student, before = signals({"logits"}, 0), signals({"logits"}, 1)
    objective = Objective([EarlierClasses(classes=(0, 3, 1), temperature=3.0)])
    ours = student["logits"].requires_grad_()
    loss, _ = objective({"logits": ours}, before, batch_of())
    loss.backward()
    assert ours.grad[:, [2, 4]].abs().max() == 0
    q, p = (side["logits"][:, [0, 3, 1]].detach() / 3 for side in (student, before))
    expected = 9 * (p.softmax(1) * (p.log_softmax(1) - q.log_softmax(1))).sum(1).mean()
    assert loss.item() == pytest.approx(float(expected), rel=1e-12)


def test_a_gradient_is_straightened_without_a_trace_in_the_model():
    stage = trainings(Continual(tasks=3, projection=Projection(rows=5, batch_size=4)))[-1]
    model = Net()
    model.train()
    part = stage.keeping[0].part(stage, model)
    batch = stage.examples.batch(stage.examples.rows[:8], torch.zeros(8, dtype=torch.int64))
    nn.functional.cross_entropy(model(batch.inputs["x"]), batch.labels["class"]).backward()
    statistics = {name: one.clone() for name, one in model.named_buffers()}
    before = {name: one.grad.clone() for name, one in model.named_parameters()}
    state = torch.random.get_rng_state()
    part.at(Place(3, 12))
    part.gradients(model)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert all(torch.equal(one, statistics[name]) for name, one in model.named_buffers())
    assert model.training
    assert any(not torch.equal(one.grad, before[name]) for name, one in model.named_parameters())
    memory = stage.keeping[0].memory
    ids, views = part.order.step(3)
    rows = memory.batch(ids, views)
    model.eval()
    loss = nn.functional.cross_entropy(model(rows.inputs["x"]), rows.labels["class"])
    against = torch.autograd.grad(loss, list(model.parameters()))
    dot = sum(float((one.grad * r).sum()) for one, r in zip(model.parameters(), against, strict=True))
    assert abs(dot) < 1e-5, "float32 sums of some hundred products"


def test_a_single_task_is_plain_training():
    only = Continual(tasks=1, replay=Replay(), distil=Distil(), ewc=Ewc(), projection=Projection())
    (distilled,), (control,) = trainings(only), trainings(only, "control")
    keys = [stage.identity(stage.start.module()) for stage in (distilled, control)]
    assert keys[0] == keys[1]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"teacher": teacher()}, "none of its terms needs one.*'teacher' out"),
        (
            {"teacher": EnsembleTeacher([teacher(), teacher()], names=["x", "y"]), "terms": (LABELS, SOFT)},
            r"there are 2 \(x, y\) and 3 tasks",
        ),
        ({"terms": (LABELS, SOFT)}, "'soft-targets' needs a teacher"),
        ({"labelled": 2}, "task 3 has no training row with a label"),
    ],
)
def test_what_cannot_be_is_said_before_anything_is_trained(changes, message):
    one = plan(**{"teacher": None, "terms": (LABELS,), **changes})
    with pytest.raises(LimbeckError, match=message):
        REPLAY.stages(one)


def test_it_must_keep_something_and_fsdp_cannot():
    with pytest.raises(SettingError, match="say what keeps the student from forgetting"):
        Continual(tasks=3)
    with pytest.raises(LimbeckError, match=r"With FSDP.*continual"):
        sharding.demand(Layered(), Objective([LABELS]), False, False, (object(),))


def test_a_run_tells_what_is_kept(tmp_path, monkeypatch):
    monkeypatch.setenv("LIMBECK_HOME", str(tmp_path / "home"))
    table = Clouds(300)
    rows = [(table.x[row], int(table.labels[row])) for row in range(300)]
    optimizer = {"name": "adamw", "learning-rate": 0.02}
    found = distill(
        None,
        smooth,
        rows,
        objective={"labels": 1},
        training={"steps": 25, "keep": "last", "optimizer": optimizer},
        regime=Continual(tasks=3, replay=Replay(rows=30), distil=Distil()),
        seeds=1,
        quiet=True,
        out=tmp_path / "run",
    )
    kept, arms = found.evidence.retention, found.evidence.arms
    assert set(kept.arms) == {"control", "distilled"}
    assert kept.tasks == ("0", "1", "2")
    for name in kept.arms:
        last = kept.arms[name].matrix[-1]
        assert sum(last) / 3 == pytest.approx(getattr(arms, name).mean.score, abs=0.03), "classes are of about one size"
    assert kept.arms["control"].forgetting > 0.3
    assert kept.arms["distilled"].forgetting < kept.arms["control"].forgetting / 3
    assert arms.joint.mean.score > arms.control.mean.score + 0.2
    assert arms.final_stage is None, "it would be the control again"
    assert arms.joint.steps == (75,)
    page = found.report_path.read_text()
    assert "What is kept of earlier tasks" in page
    assert "Backward transfer" in page


def test_the_recipe_names_what_the_page_says():
    recipe = read(bundled()["continual"])
    assert recipe.regime.replay
    assert recipe.regime.distil
    assert recipe.teacher is None


def test_teachers_in_turn_are_no_arm_and_the_verdict_is_about_the_teaching(tmp_path, monkeypatch):
    monkeypatch.setenv("LIMBECK_HOME", str(tmp_path / "home"))
    table = Clouds(300)
    rows = [(table.x[row], int(table.labels[row])) for row in range(300)]

    def found(teacher):
        return distill(
            teacher,
            smooth,
            rows,
            objective={"labels": 0.5, "soft-targets": 0.5},
            training={"steps": 15, "keep": "last"},
            regime=REPLAY,
            seeds=2,
            quiet=True,
            out=tmp_path / f"run-{type(teacher).__name__}",
        ).evidence

    knows = LocalTeacher(Knows(300).requires_grad_(False).eval(), "knows")
    one, several = found(knows), found(EnsembleTeacher([knows, knows, knows]))
    assert one.arms.teacher is not None
    assert several.arms.teacher is None
    assert several.teachers is None
    assert several.gap_closed is None
    for evidence in (one, several):
        assert evidence.arms.unkept is not None
        assert "the teaching" in evidence.sentence.lower()
        assert [step.step for step in evidence.attribution] == ["soft targets", "what keeps from forgetting"]


def specialists(**changes):
    """A recipe with a teacher of two classes, and one that may know all."""
    own = {"model": {"name": "mlp"}, "training": {"steps": 3}}
    told = {
        "limbeck": 1,
        "name": "specialists",
        "data": {"source": "uci-digits"},
        "teacher": {"ensemble": [{"name": "low", "classes": ["3", "1"], **own, **changes}, {"name": "all", **own}]},
        "student": {"name": "mlp", "hidden": 8},
        "objective": {"soft-targets": 1},
        "training": {"steps": 3},
    }
    return parse(yaml.safe_dump(told))


def test_a_specialist_learns_and_is_chosen_by_its_own_classes():
    low, every = from_recipe(specialists()).teacher_stages()
    for part in (low.examples, low.validation):
        assert set(part.labels[part.rows].tolist()) == {1, 3}
    assert set(every.examples.labels[every.examples.rows].tolist()) == set(range(10))
    assert low.seed == every.seed, "each is the first of its kind"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"classes": ["3", "eleven"]}, "There is no class 'eleven'"),
        ({"classes": []}, "classes"),
    ],
)
def test_classes_of_a_teacher_that_cannot_be(changes, message):
    with pytest.raises(LimbeckError, match=message):
        from_recipe(specialists(**changes)).teacher_stages()


def test_classes_are_for_who_is_trained_here():
    with pytest.raises(SettingError, match="classes are those that a teacher is trained on"):
        Member(classes=("1",), onnx="file.onnx")

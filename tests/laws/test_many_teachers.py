"""Several teachers of one student: trained in the recipe, each judged, and the best one alone beside them."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from tests.contracts.test_regime_contract import Stopped, Stops, answered, known
from tests.fakes.experiments import LABELS, Knows, plan, seeded_teacher, stage

from limbeck.config import digest
from limbeck.errors import LimbeckError, PreflightError
from limbeck.evidence.exam import Exam
from limbeck.evidence.report import render
from limbeck.evidence.teachers import teachers
from limbeck.recipe.reading import parse, quick
from limbeck.regimes.born_again import BornAgain
from limbeck.regimes.offline import Offline, best_of
from limbeck.regimes.walk import walk
from limbeck.run import deeds, folder, ready, run
from limbeck.run.experiment import from_recipe
from limbeck.run.preflight import preflight
from limbeck.teachers.ensemble import EnsembleTeacher
from limbeck.training.stage import Stage
from limbeck.training.workshop import Workshop

RECIPE = """
limbeck: 1
name: several
data: {source: mnist-5k, limit: 150, validation: 50, test: 50}
teacher:
  ensemble:
    - {model: {name: mlp, hidden: 16}, training: {steps: 40, batch-size: 20}}
    - {name: wide, model: {name: mlp, hidden: 24}, smoothing: 0.1, training: {steps: 30, batch-size: 20}}
    - {model: {name: mlp, hidden: 16}, training: {steps: 40, batch-size: 20}}
student: {name: mlp, hidden: 12}
training: {steps: 40, batch-size: 20}
seeds: 1
"""
LOGITS = frozenset({"logits"})


@pytest.fixture(autouse=True)
def _home(tmp_path, monkeypatch):
    monkeypatch.setenv("LIMBECK_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)


def teaching(seed, **changes):
    return stage(terms=(LABELS,), teacher=None, steps=6, seed=seed, **changes)


def schooled(tmp_path, **changes):
    """A plan whose two teachers are yet to be trained."""
    stages = (replace(teaching(1), name="teacher one"), replace(teaching(2), name="teacher two"))

    def join(trained):
        return EnsembleTeacher([one(None) for one in trained], names=("one", "two"))

    return plan(**{"teacher": None, "teacher_stages": stages, "join": join, "store": tmp_path / "stores", **changes})


def several(*orders):
    return EnsembleTeacher([seeded_teacher(lambda order=order: Knows(100, order)) for order in orders])


def test_each_is_trained_once_before_anything_else_and_by_itself(tmp_path):
    one, workshop = schooled(tmp_path), Workshop(tmp_path)
    steps, _ = answered(Offline().distilled(one), known)
    assert [step.name for step in steps] == ["teacher one", "teacher two", "label", "distilled, seed 0"]
    taught = walk(one.taught(), workshop, tmp_path / "journal.json")
    assert taught.teacher.names == ("one", "two")
    for number, name in ((1, "one"), (2, "two")):
        alone = workshop.train(teaching(number))
        assert alone.reused, "it is the arm that a teacher alone would be"
        batch = one.splits.test.batch(one.splits.test.rows[:9], torch.zeros(9, dtype=torch.int64))
        said = taught.teacher.observe(batch, frozenset({f"{name}.logits"}))[f"{name}.logits"]
        assert torch.equal(said, alone.as_teacher().observe(batch, LOGITS)["logits"])


def test_a_single_member_is_that_teacher_alone(tmp_path):
    mlp = "model: {name: mlp, hidden: 16}, training: {steps: 40, batch-size: 20}"
    rest = RECIPE[: RECIPE.index("teacher:")] + RECIPE[RECIPE.index("student:") :]
    single, alone = f"{rest}teacher: {{ensemble: [{{{mlp}}}]}}", f"{rest}teacher: {{{mlp}}}"
    found, other = from_recipe(parse(single)), from_recipe(parse(alone))
    ours, theirs = (
        walk(one.plan(tmp_path, 0).taught(), Workshop(tmp_path), tmp_path / f"{place}.json")
        for place, one in enumerate((found, other))
    )
    batch = found.sample(20)
    assert torch.equal(ours.teacher.observe(batch, LOGITS)["logits"], theirs.teacher.observe(batch, LOGITS)["logits"])
    assert list(Offline().arms(ours)) == list(Offline().arms(theirs)), "and there is nobody else to leave out"


def test_members_of_one_architecture_are_not_one_model():
    stages = from_recipe(parse(RECIPE)).teacher_stages()
    assert [one.name for one in stages] == ["teacher mlp", "teacher wide", "teacher mlp-2"]
    assert [one.seed for one in stages] == [0, 0, 1]
    assert len({digest(one.identity(one.start.module())) for one in stages}) == 3
    assert [one.terms[0].smoothing for one in stages] == [0.0, 0.1, 0.0]


@pytest.mark.parametrize("inside", [False, True], ids=["between", "inside"])
@pytest.mark.parametrize("arm", ["distilled", "best_single"])
def test_cut_off_at_any_training_it_ends_as_if_it_had_not_been(arm, inside, tmp_path):
    def end(root, workshop):
        return walk(getattr(Offline(), arm)(schooled(root)), workshop, root / "journal.json")

    whole = end(tmp_path / "whole", Workshop(tmp_path / "whole"))
    for number in range(3):
        root = tmp_path / f"{number}"
        with pytest.raises(Stopped):
            end(root, Stops(root, number, inside))
        again = end(root, Workshop(root))
        assert (again.key, again.fingerprint) == (whole.key, whole.fingerprint), number


def test_the_best_alone_teaches_the_same_student_as_long(tmp_path):
    teacher = several((1, 0, 2), (0, 1, 2), (2, 1, 0))
    one = plan(teacher=teacher, store=tmp_path / "stores", labelled=20)
    assert list(Offline().arms(one)) == ["control", "pseudo_labels", "best_single", "distilled"]
    assert best_of(teacher, one.splits.validation, "cpu") == "teacher-2", "the others confuse classes"
    assert best_of(several((0, 1, 2), (0, 1, 2)), one.splits.validation, "cpu") == "teacher-1", "of equals the first"
    (own,) = [step for step in answered(Offline().best_single(one), known)[0] if isinstance(step, Stage)]
    (all_,) = [step for step in answered(Offline().distilled(one), known)[0] if isinstance(step, Stage)]
    ours, theirs = (one.identity(one.start.module()) for one in (own, all_))
    assert {name for name in ours if ours[name] != theirs[name]} == {"teacher"}
    batch = one.splits.train.batch(one.splits.train.rows[:16], torch.ones(16, dtype=torch.int64))
    asked = own.teacher.misses
    seen = own.teacher.observe(batch, LOGITS)["logits"]
    # rows of another batch: float32 distances up to 20
    torch.testing.assert_close(seen, teacher.members[1].observe(batch, LOGITS)["logits"], rtol=1e-5, atol=1e-5)
    assert own.teacher.misses == asked, "its answers were stored"


def test_where_the_best_alone_has_no_place(tmp_path):
    both = several((0, 1, 2), (1, 0, 2))
    assert "best_single" not in Offline().arms(plan(teacher=several((0, 1, 2)))), "one is the best"
    assert "best_single" not in Offline().arms(plan(teacher=both, terms=(LABELS,))), "nobody is learnt from"
    assert list(BornAgain(generations=2).arms(plan(teacher=both))) == ["control", "best_single", "direct", "distilled"]


def test_a_run_tells_what_each_contributed(tmp_path, monkeypatch):
    monkeypatch.setattr(ready, "_check_members", lambda *_: None)  # so few steps may teach nothing
    monkeypatch.setattr(ready, "_check_teacher", lambda *_: None)
    result = run(parse(RECIPE), tmp_path / "out", quiet=True)
    evidence = result.evidence
    assert list(evidence.arms.present()) == ["teacher", "control", "best_single", "distilled"]
    told = evidence.teachers
    assert [one.name for one in told.members] == ["mlp", "wide", "mlp-2"]
    assert [round(one.weight, 6) for one in told.members] == [round(1 / 3, 6)] * 3
    assert sum(evidence.arms.teacher.training_seconds) > 0
    assert "3 fixed models, trained here" in " ".join(evidence.notes)
    page = result.report_path.read_text()
    assert "What each teacher contributed" in page
    assert "Best teacher alone" in page
    assert [step.step for step in evidence.attribution] == ["the best teacher alone", "the other teachers"]
    assert len(folder.kept(tmp_path / "out", folder.SHOWN)["curves"]["teacher"]) == 3, "a line each"
    journal = json.loads((tmp_path / "out" / "journal" / "teacher.json").read_text())
    assert [name for name, _ in journal] == ["teacher mlp", "teacher wide", "teacher mlp-2"]
    assert run(parse(RECIPE), tmp_path / "out", quiet=True).evidence.plain() == evidence.plain()


def test_one_that_learnt_nothing_is_named(tmp_path):
    text = RECIPE.replace("smoothing: 0.1, training: {steps: 30", "smoothing: 0.1, training: {steps: 1")
    lazy = text.replace(
        "steps: 1, batch-size: 20}", "steps: 1, batch-size: 20, optimizer: {name: sgd, learning-rate: 1e-12}}"
    )
    with pytest.raises(PreflightError, match=r"of the teacher wide is .*learnt nothing, which the others would hide"):
        run(parse(lazy), tmp_path / "out", quiet=True)


def test_budgets_of_all_are_counted_and_cut(tmp_path, monkeypatch):
    whole = parse(RECIPE)
    told = dict(preflight(from_recipe(whole), tmp_path).lines())
    assert "the teacher mlp 12,730 (40 steps), the teacher wide 19,090 (30 steps), the teacher mlp-2" in told["student"]
    longer = parse(
        RECIPE.replace("{steps: 40, batch-size: 20}}\n    - {name", "{steps: 40000, batch-size: 20}}\n    - {name")
    )
    real = preflight(from_recipe(longer), tmp_path)
    short = preflight(from_recipe(whole), tmp_path)
    assert real.seconds - real.fixed > 20 * (short.seconds - short.fixed), "forty thousand steps of one take their time"
    assert [one.training.steps for one in quick(whole).teacher.ensemble.members] == [20, 20, 20]
    monkeypatch.setattr(deeds, "preflight", lambda *_: replace(real, seconds=1000.0, fixed=20.0))
    less, notes = deeds._within(longer, tmp_path / "out", 3.0, False)
    assert less.teacher.ensemble.members[0].training.steps < 0.2 * 40_000
    assert "for the teacher mlp in place of 40,000" in notes[0]
    assert deeds._unbudgeted(less) == deeds._unbudgeted(longer)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("- {onnx: a.onnx, training: {steps: 3}}", "only a model is trained here"),
        ("- {model: mlp, smoothing: 0.1}", "smoothing is for the training of a teacher"),
        ("- {model: mlp, name: Big One}", "Big One"),
        ("- {model: mlp, temperature: 0}", "temperature"),
        ("- {model: mlp, name: a}\n    - {model: mlp, name: a}", "two teachers are called 'a'"),
    ],
)
def test_members_that_cannot_be(given, said):
    text = RECIPE[: RECIPE.index("    - {model")] + f"    {given}\n" + RECIPE[RECIPE.index("student:") :]
    with pytest.raises(LimbeckError, match=said):
        parse(text)


def test_names_that_nobody_gave_are_numbered():
    text = RECIPE.replace("{name: wide, model: {name: mlp, hidden: 24}, smoothing: 0.1", "{name: mlp, model: vit")
    assert parse(text).teacher.ensemble.names == ("mlp-2", "mlp", "mlp-3")


def test_numbers_of_several_teachers_are_those_of_a_count():
    """Each number from a loop over the rows."""
    draw = np.random.default_rng(0)
    labels = draw.integers(0, 3, 50)
    told = {name: draw.normal(size=(50, 3)) for name in ("a", "b", "c")}
    students = [draw.normal(size=(50, 3)) for _ in range(2)]
    found = teachers(Exam.of(labels, ("x", "y", "z")), told, students, {"a": 0.2}, {"b": 0.7})
    p = {name: np.exp(z) / np.exp(z).sum(1, keepdims=True) for name, z in told.items()}
    for one in found.members:
        answers = told[one.name].argmax(1)
        assert one.score == np.mean([answers[row] == labels[row] for row in range(50)])
        assert np.isclose(one.agreement, np.mean([answers == student.argmax(1) for student in students]))
    assert [(one.weight, one.routed) for one in found.members] == [(0.2, None), (None, 0.7), (None, None)]
    assert [(one.one, one.other) for one in found.pairs] == [("a", "b"), ("a", "c"), ("b", "c")]
    for pair in found.pairs:
        one, other = p[pair.one], p[pair.other]
        middle = (one + other) / 2
        js = ((one * np.log(one / middle)).sum(1) + (other * np.log(other / middle)).sum(1)) / 2
        assert np.isclose(pair.js, js.mean())
        assert np.isclose(pair.differing, np.mean(one.argmax(1) != other.argmax(1)))


def test_the_tables_say_what_the_numbers_say():
    from tests.laws.test_evidence_report import RECIPE as TEXT
    from tests.laws.test_evidence_report import realistic

    from limbeck.evidence.besides import Member, Pair, Teachers

    evidence, _, _ = realistic()
    assert "What each teacher contributed" not in render(evidence, {}, (), TEXT)
    members = (
        Member(name="<b>cat", score=0.9, weight=0.25, routed=0.125, agreement=0.8),
        Member(name="dog", score=0.7, weight=0.75, agreement=None),
    )
    pairs = (Pair(one="<b>cat", other="dog", differing=0.34, js=0.0421),)
    page = render(evidence.model_copy(update={"teachers": Teachers(members=members, pairs=pairs)}), {}, (), TEXT)
    assert "<b>cat" not in page
    for said in ("&lt;b&gt;cat", "12.5", "75.0", "34.0", "0.042 nats", "Routed to it"):
        assert said in page, said

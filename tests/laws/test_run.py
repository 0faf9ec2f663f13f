"""Laws of a whole run: what is trained once is not trained again, and what is delivered is what was measured."""

import json

import numpy as np
import pytest
import torch
from tests.fakes.experiments import Clouds, Knows, Net, smooth

from limbeck.cli.main import main
from limbeck.errors import DataError, LimbeckError
from limbeck.evidence.schema import Evidence
from limbeck.objective import Hints, Labels, SoftTargets
from limbeck.run import distill, folder, load, report

BRIEF = {"steps": 30, "batch-size": 16, "optimizer": {"name": "adamw", "learning-rate": 0.01}}
SEEDS = 3


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("LIMBECK_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def rows(labelled=150):
    table = Clouds(150)
    return [(table.x[row], int(table.labels[row]) if row < labelled else None) for row in range(150)]


def go(tmp_path, **changes):
    given = {"training": BRIEF, "seeds": SEEDS, "quiet": True, "out": tmp_path / "out"}
    return distill(changes.pop("teacher", Knows(150)), changes.pop("student", Net), rows(), **{**given, **changes})


def arms(home):
    return {path.parent.parent.name: path for path in home.glob("arms/*/*/finished/model.safetensors")}


def test_a_run_has_all_its_parts(tmp_path, home):
    result = go(tmp_path)
    out = tmp_path / "out"
    assert {path.name for path in out.iterdir()} >= {
        "recipe.json",
        "journal",
        "evidence.json",
        "report.html",
        "student",
    }
    assert len(arms(home)) == 2 * SEEDS, "control and distilled"
    assert result.report_path.read_text().startswith("<!")
    evidence = Evidence.read(out)
    assert evidence.plain() == result.evidence.plain()
    assert result.verdict in ("helped", "did not help", "cannot tell")
    assert evidence.provenance.seeds == (0, 1, 2)
    assert not list(home.rglob("checkpoints"))
    assert not list(home.rglob(".*.new-*"))


def test_the_same_run_again_trains_nothing_and_says_the_same(tmp_path, home):
    first = go(tmp_path)
    before = {key: path.stat().st_mtime_ns for key, path in arms(home).items()}
    second = go(tmp_path)
    assert {key: path.stat().st_mtime_ns for key, path in arms(home).items()} == before
    assert first.sentence == second.sentence
    assert same_weights(first, second)


def test_a_finished_run_is_not_measured_again(tmp_path, home, monkeypatch):
    first = go(tmp_path)
    file = tmp_path / "out" / "evidence.json"
    before = json.loads(file.read_text())
    before["provenance"]["date"] = "2026-01-02T03:04:05+00:00"
    file.write_text(json.dumps(before))
    again = go(tmp_path)
    assert json.loads(file.read_text()) == before, "latency and date are those of the measurement"
    assert "2 January 2026" in again.report_path.read_text()
    for path in arms(home).values():
        path.write_bytes(path.read_bytes()[:-3])
    trained_again = go(tmp_path)
    assert trained_again.evidence.provenance.date >= first.evidence.provenance.date
    file.write_text(json.dumps(before))
    monkeypatch.setattr(folder, "versions", lambda: {"limbeck": "another"})
    assert go(tmp_path).evidence.provenance.date != before["provenance"]["date"]


def same_weights(one, other):
    ours, theirs = one.student.module.state_dict(), other.student.module.state_dict()
    return all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_two_runs_from_nothing_are_one(tmp_path, monkeypatch):
    first = go(tmp_path)
    torch.manual_seed(99)
    monkeypatch.setenv("LIMBECK_HOME", str(tmp_path / "elsewhere"))
    second = go(tmp_path, out=tmp_path / "again", name="another name")
    assert first.sentence == second.sentence
    assert same_weights(first, second)
    assert first.evidence.provenance.recipe_hash == second.evidence.provenance.recipe_hash


def test_a_control_serves_every_objective(tmp_path, home):
    go(tmp_path)
    first = arms(home)
    go(tmp_path, out=tmp_path / "other", objective=(Labels(weight=0.1), SoftTargets(weight=0.9, temperature=2)))
    added = arms(home).keys() - first.keys()
    assert len(added) == SEEDS, "the distilled students alone"


def test_a_store_and_a_live_teacher_give_the_same_students(tmp_path):
    stored = go(tmp_path)
    live = go(tmp_path, store=False, out=tmp_path / "live")
    ours, theirs = stored.student.module.state_dict(), live.student.module.state_dict()
    # 256 rows at once and 16 round differently, 1e-7 of a logit; Adam keeps relative sizes over 30 steps
    assert max(float((ours[name].double() - theirs[name].double()).abs().max()) for name in ours) < 1e-4
    assert stored.evidence.arms.distilled.mean.accuracy == live.evidence.arms.distilled.mean.accuracy


def test_what_is_delivered_is_the_seed_that_was_best_on_validation_and_what_was_measured(tmp_path, home):
    result = go(tmp_path)
    found = []
    for seed in range(SEEDS):
        _, key = json.loads((tmp_path / "out" / "journal" / f"distilled-{seed}.json").read_text())[-1]
        metrics = json.loads((arms(home)[key].parent / "result.json").read_text())["metrics"]
        found.append((metrics["accuracy"], -metrics["nll"]))
    best = found.index(max(found))
    student = load(tmp_path / "out", module=Net())
    table = Clouds(150)
    logits = student.logits(list(table.x)).numpy()
    test = np.asarray([_row(path) for path in _test_rows(tmp_path)])
    assert len(test) == result.evidence.data.test == 30  # few enough that all are kept for the proofs of exports
    right = (logits[test].argmax(1) == table.labels.numpy()[test]).mean()
    assert right == pytest.approx(result.evidence.arms.distilled.per_seed[best].accuracy)


def _test_rows(tmp_path):
    return folder.kept(tmp_path / "out", folder.INPUTS)


def _row(raw):
    x = raw["x"] if isinstance(raw, dict) else raw
    return int((Clouds(150).x == x).all(1).nonzero()[0])


def test_what_was_given_is_as_it_was(tmp_path):
    teacher, student = Knows(150), smooth()
    before = [{name: value.clone() for name, value in module.state_dict().items()} for module in (teacher, student)]
    state = torch.random.get_rng_state()
    go(tmp_path, teacher=teacher, student=student)
    assert torch.equal(torch.random.get_rng_state(), state)
    for module, weights in zip((teacher, student), before, strict=True):
        assert all(torch.equal(value, weights[name]) for name, value in module.state_dict().items())


def test_a_teacher_is_trained_where_it_has_to_be(tmp_path, home):
    result = go(tmp_path, teacher=Net(32), teacher_training=BRIEF, seeds=1)
    assert len(arms(home)) == 3
    assert result.evidence.provenance.teacher_fingerprint
    assert result.evidence.arms.teacher is not None


def test_more_arms_where_rows_have_no_label_and_terms_read_features(tmp_path, home):
    objective = (Labels(weight=0.2), SoftTargets(weight=0.6), Hints(student="body", teacher="body", weight=0.2))
    result = go(tmp_path, teacher=Net(32), teacher_training=BRIEF, seeds=1, labelled=40, objective=objective)
    assert set(result.evidence.arms.present()) == {"teacher", "control", "pseudo_labels", "soft_targets", "distilled"}
    assert len(arms(home)) == 5
    names = set(result.student.module.state_dict())
    assert names == set(Net().state_dict()), "no projector is delivered"


@pytest.mark.parametrize("given", ["born-again", {"name": "born-again", "generations": 2}])
def test_several_trainings_are_told_as_one_arm(tmp_path, home, given):
    result = go(tmp_path, regime=given, seeds=2)
    arms = result.evidence.arms.present()
    assert list(arms) == ["teacher", "control", "final_stage", "direct", "distilled"]
    steps = {name: arms[name].steps for name in arms if name != "teacher"}
    assert steps == {"control": (60, 60), "final_stage": (30, 30), "direct": (60, 60), "distilled": (60, 60)}
    kept = folder.kept(tmp_path / "out", folder.SHOWN)["curves"]
    curve = [point["step"] for point in kept["distilled"][0]]
    assert curve == sorted(set(curve)), "one after another"
    assert curve[-1] == 60
    assert sum(step <= 30 for step in curve) == sum(step > 30 for step in curve)
    times = [
        json.loads(path.with_name("result.json").read_text())["seconds"]
        for path in home.glob("arms/*/*/finished/*.safetensors")
    ]
    told = sum(sum(arm.training_seconds) for name, arm in arms.items() if name != "teacher")
    assert told == pytest.approx(sum(times)), "every training once"
    assert [one.step for one in result.evidence.attribution] == ["soft targets", "the teachers in between"]


def test_a_regime_that_is_none_is_named(tmp_path):
    with pytest.raises(LimbeckError, match=r"'born-agan'.*did you mean 'born-again'"):
        go(tmp_path, regime="born-agan")
    with pytest.raises(LimbeckError, match="regime is a int, but a name such as"):
        go(tmp_path, regime=3)


def test_the_report_is_written_again_from_what_was_kept(tmp_path):
    result = go(tmp_path, seeds=1)
    before = result.report_path.read_text()
    result.report_path.unlink()
    assert report(tmp_path / "out").read_text() == before


def test_a_damaged_arm_is_trained_again_by_the_run(tmp_path, home):
    first = go(tmp_path, seeds=1)
    for path in arms(home).values():
        path.write_bytes(path.read_bytes()[:-3])
    second = go(tmp_path, seeds=1)
    assert same_weights(first, second)
    assert first.sentence == second.sentence


def test_a_result_and_a_student_show_themselves_in_few_words(tmp_path, capsys):
    result = go(tmp_path, seeds=1)
    assert capsys.readouterr() == ("", "")
    assert repr(result) == f"<Result: cannot tell, {tmp_path / 'out'}>"
    shown = str(result)
    for part in ("Teacher", "Control", "Distilled", "accuracy", result.sentence.split(":")[0], f"Report: {tmp_path}"):
        assert part in shown
    assert "tensor" not in shown
    assert len(shown) < 2000
    assert result._repr_html_().startswith("<pre>")
    assert repr(result.student) == "<Delivered: Net with 291 parameters, 3 classes (0, 1, 2)>"


def test_what_came_out_is_shown_at_the_end_unless_quiet(tmp_path, capsys):
    result = go(tmp_path, seeds=1, quiet=False)
    out, err = capsys.readouterr()
    assert out == ""
    assert str(result) in err


def test_a_student_from_memory_is_judged_and_exported_from_python(tmp_path):
    result = go(tmp_path, seeds=1)
    student = load(tmp_path / "out", module=Net())
    given = rows(labelled=100)
    right = [student.predict([x])[0] == str(label) for x, label in given if label is not None]
    found = result.evaluate(given, metrics=["f1-macro"])
    assert found.examples == 100
    assert found.accuracy == pytest.approx(sum(right) / 100)
    assert found.metrics["f1-macro"] is not None
    assert student.evaluate(given) == found.model_copy(update={"metrics": {}})
    made = result.export("safetensors", tmp_path / "plain")
    assert (made.compared, made.max_difference) == (30, 0.0), "on the run's own inputs"
    again = load(tmp_path / "plain", module=Net())
    assert torch.equal(again.logits([x for x, _ in given]), student.logits([x for x, _ in given]))
    with pytest.raises(LimbeckError, match=r"give some as samples"):
        again.export("safetensors", tmp_path / "other")
    assert again.export("safetensors", tmp_path / "other", [given[0][0]]).compared == 1


@pytest.mark.parametrize("command", [["export", "--to", "safetensors"], ["evaluate"]])
def test_the_command_line_says_what_python_does_with_a_run_from_memory(tmp_path, capsys, command):
    go(tmp_path, seeds=1)
    with pytest.raises(SystemExit):
        main([command[0], str(tmp_path / "out"), *command[1:]])
    said = " ".join(capsys.readouterr().err.split())
    for part in (f"limbeck.load('{tmp_path / 'out'}', module=...)", "student.export(", "student.evaluate("):
        assert part in said


class Named(list):
    """Rows whose labels are numbers of classes that have names."""

    classes: tuple[str, ...] = ("a", "b", "c")


def test_labels_are_found_by_name_whatever_the_order_of_the_other_data(tmp_path):
    result = distill(Knows(150), Net, Named(rows()), training=BRIEF, seeds=1, quiet=True, out=tmp_path / "out")
    assert result.student.classes == ("a", "b", "c")
    other = Named((x, 2 - label) for x, label in rows())
    other.classes = ("c", "b", "a")
    named = [(x, "abc"[label]) for x, label in rows()]
    assert result.evaluate(other) == result.evaluate(named) == result.evaluate(rows())
    with pytest.raises(DataError, match="the label 'd' of row 0 is none of the 3 classes"):
        result.evaluate([(named[0][0], "d")])
    with pytest.raises(DataError, match="no row has a label"):
        result.evaluate([(named[0][0], None)])

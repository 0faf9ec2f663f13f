"""`--max-minutes`: the estimate counts what a run consists of, and cut budgets are told."""

import json
from dataclasses import replace

import pytest

from limbeck.advice.preflight import dry_run
from limbeck.evidence.schema import Evidence
from limbeck.recipe.reading import parse
from limbeck.run import deeds, run
from limbeck.run.experiment import from_recipe

RECIPE = """
limbeck: 1
name: tiny
data: {source: mnist-5k, limit: 200, validation: 60, test: 60}
teacher: {model: {name: mlp, hidden: 24}, training: {steps: 400, batch-size: 24}}
student: {name: mlp, hidden: 16}
training: {epochs: 60, batch-size: 24}
seeds: 1
"""


@pytest.fixture(autouse=True)
def _home(tmp_path, monkeypatch):
    monkeypatch.setenv("LIMBECK_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)


def estimates(monkeypatch, seconds, fixed):
    """Lets the preflight of a budget estimate these seconds."""
    real = deeds.preflight
    monkeypatch.setattr(deeds, "preflight", lambda *given: replace(real(*given), seconds=seconds, fixed=fixed))


def test_cut_budgets_are_in_the_recipe_and_in_the_notes_and_going_on_keeps_them(tmp_path, monkeypatch):
    estimates(monkeypatch, seconds=1000.0, fixed=20.0)
    for _ in range(2):
        result = run(parse(RECIPE), tmp_path / "out", max_minutes=3, quiet=True)
        told = json.loads((tmp_path / "out" / "recipe.json").read_text())["recipe"]
        steps = told["training"]["steps"]
        assert 20 <= steps < 0.16 * 500  # (0.85 * 180 - 20) / 980 of 500 steps, less the time of the preflight
        note = Evidence.read(tmp_path / "out").notes[0]
        assert note.startswith("Budgets were cut to fit --max-minutes 3: ")
        assert f"{steps} steps for each student in place of 60 epochs" in note
        assert "for the teacher in place of 400" in note
    assert result.evidence.notes[0] == note
    assert "Budgets were cut" in result.report_path.read_text()
    whole, note = deeds._within(parse(RECIPE), tmp_path / "new", 60.0, False)
    assert (whole, note) == (parse(RECIPE), ())


def test_budgets_are_cut_to_the_fewest_steps_at_most(tmp_path, monkeypatch):
    estimates(monkeypatch, seconds=1000.0, fixed=900.0)
    less, _ = deeds._within(parse(RECIPE), tmp_path / "out", 1.0, False)
    assert (less.training.steps, less.teacher.training.steps) == (20, 20)


def test_the_estimate_counts_every_look_at_the_validation_part(monkeypatch):
    rare, often = (deeds.check(parse(RECIPE, overrides=[f"training.evaluate-every={every}"])) for every in (500, 1))
    assert often.fixed > 5 * (rare.fixed - 3.0)
    assert often.seconds >= often.fixed


def test_a_step_is_timed_with_reading_and_optimiser(monkeypatch):
    stage = from_recipe(parse(RECIPE)).teacher_stages()[0]
    read = []
    real = type(stage.examples).batch
    monkeypatch.setattr(
        type(stage.examples), "batch", lambda self, ids, views: read.append(ids) or real(self, ids, views)
    )
    found = dry_run(stage, "cpu")
    rows = {tuple(ids.tolist()) for ids in read if len(ids) == 24}
    assert len(rows) >= 3, "other rows at each step"
    assert 0 < found.row_seconds < found.seconds

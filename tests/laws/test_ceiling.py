"""The control that sees all labels, and the performance gap that a student recovers on the way to it."""

import numpy as np
import pytest
import torch
from tests.contracts.test_regime_contract import IMAGINED, REGIMES, answered, known, layered
from tests.fakes.experiments import Clouds, plan, smooth
from tests.laws.test_equal_compute import experiment, knowing
from torch import nn

from limbeck.errors import LimbeckError
from limbeck.evidence.comparison import gap_closed
from limbeck.regimes.budget import CEILING, at_ceiling
from limbeck.run import distill
from limbeck.run.arms import arms_of
from limbeck.training.stage import Stage

# the pictures of the others have all their labels, and rows with a label are divided anew among clients
HIDING = [one for one in REGIMES if one.name not in {*IMAGINED, "federated"}]


def labels_of(stage):
    return set(stage.examples.labels[stage.examples.rows].tolist())


def last(arm, one):
    return [step for step in answered(arm(one), known)[0] if isinstance(step, Stage)][-1]


@pytest.mark.parametrize("regime", HIDING, ids=lambda regime: regime.name)
def test_it_is_the_control_with_the_hidden_labels_and_nothing_else(regime, tmp_path):
    one = layered(tmp_path, regime)
    control = regime.arms(one)["control"]
    plain, told = last(control, one), last(at_ceiling(control), one)
    identities = [stage.identity(stage.start.module()) for stage in (plain, told)]
    assert {name for name in identities[0] if identities[0][name] != identities[1][name]} == {"examples"}
    train = one.splits.train
    assert told.examples.supervised[told.examples.rows].all()
    assert torch.equal(told.examples.labels, train.labels)
    assert told.name == plain.name.replace("control", "control with all labels")
    if regime.name == "continual":  # whose last training is of one class
        assert labels_of(plain) == labels_of(told) == {2}
        assert len(told.examples) == int((train.labels[train.rows] == 2).sum()) > len(plain.examples)
    else:
        assert torch.equal(told.examples.rows, train.rows)
        assert len(plain.examples) == 20


def test_rows_whose_label_nobody_knows_stay_as_they_are():
    train = plan(labelled=20).splits.train
    labels = train.labels.clone()
    labels[30:40] = -100
    told = type(train)(**{**vars(train), "labels": labels}).revealed().labelled()
    assert told.rows.tolist() == [row for row in train.rows.tolist() if not 30 <= row < 40]


def test_it_stands_beside_the_control_where_it_is_asked_for_and_something_is_hidden():
    one = plan(labelled=20)
    asked, silent = (experiment(one, False, equal_compute=False, ceiling=flag) for flag in (True, False))
    assert list(arms_of(asked, one, None)) == ["control", CEILING, "pseudo_labels", "distilled"]
    assert CEILING not in arms_of(silent, one, None)
    every = plan()
    with pytest.raises(LimbeckError, match=r"evidence\.ceiling.*none is: they see all 50 labels that the 50"):
        arms_of(experiment(every, False, equal_compute=False, ceiling=True), every, None)


def weak() -> nn.Linear:
    """Never says one of the classes."""
    found = knowing()
    with torch.no_grad():
        found.bias[1] -= 100
    return found


def test_a_run_says_what_share_is_recovered(tmp_path, monkeypatch):
    monkeypatch.setenv("LIMBECK_HOME", str(tmp_path / "home"))
    table = Clouds(600)
    rows = [(table.x[row], int(table.labels[row])) for row in range(600)]
    given = {
        "training": {"steps": 40, "optimizer": {"name": "adamw", "learning-rate": 0.02}},
        "seeds": 2,
        "quiet": True,
        "store": False,
        "labelled": 20,
    }
    given["objective"] = {"labels": 0.5, "confidence": {"alpha": 0.5}}
    both = distill(weak(), smooth, rows, out=tmp_path / "both", ceiling=True, **given)
    arms = both.evidence.arms
    teacher, ceiling, distilled = (arms.present()[name].mean.score for name in ("teacher", "ceiling", "distilled"))
    assert ceiling > teacher + 0.2
    assert both.evidence.gap_recovered.value == pytest.approx((distilled - teacher) / (ceiling - teacher), abs=1e-12)
    page = both.report_path.read_text()
    assert "Control, all labels" in page
    assert "Gap to all labels recovered" in page
    assert any("saw those that are hidden" in note for note in both.evidence.notes)


def runs(accuracy, seeds, seed, rows=1500):
    return np.random.default_rng(seed).random((seeds, rows)) < accuracy


def test_the_gap_is_undefined_where_noise_could_have_made_it():
    names = ("student with all labels", "teacher")
    low = runs(0.7, 1, 0)
    found = gap_closed(runs(0.9, 3, 1), low, runs(0.8, 3, 2), names=names)
    assert found.value == pytest.approx(0.5, abs=0.1)
    assert found.ci95[0] < found.value < found.ci95[1]
    near = gap_closed(runs(0.7, 3, 3), low, runs(0.8, 3, 2), names=names)
    assert (near.value, near.reason) == (None, "student with all labels and teacher are not measurably apart")
    worse = gap_closed(runs(0.5, 3, 4), low, runs(0.8, 3, 2), names=names)
    assert worse.reason == "the student with all labels is worse than the teacher"


def test_several_runs_at_the_upper_end_and_one_at_the_lower_are_drawn_by_seed():
    """A slow pigeonhole bootstrap: seeds and examples with replacement, the one run of the teacher every time."""
    high, low, student = runs(0.9, 4, 1, 400), runs(0.7, 1, 0, 400), runs(0.8, 4, 2, 400)
    draw, shares = np.random.default_rng(9), []
    for _ in range(2000):
        rows, seeds = draw.integers(400, size=400), draw.integers(4, size=4)
        top, bottom, own = high[seeds][:, rows].mean(), low[:, rows].mean(), student[seeds][:, rows].mean()
        shares.append((own - bottom) / (top - bottom))
    found = gap_closed(high, low, student)
    # 2,000 draws of each: a quantile at 2.5 % is known to some 7 % of the interval's width, which is about 0.4
    assert found.ci95 == pytest.approx(tuple(np.percentile(shares, [2.5, 97.5])), abs=0.05)

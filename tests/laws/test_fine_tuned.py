"""Laws of a last training on labels: every arm has the same, without strength it changes nothing, what limits it holds."""

import pytest
import torch
from tests.contracts.test_regime_contract import STAGED, answered, known, layered
from tests.fakes.experiments import (
    HINTS,
    LABELS,
    SGD,
    SOFT,
    TRAINING,
    Clouds,
    Net,
    Watching,
    plan,
    smooth,
    stage,
)
from torch import nn

import limbeck
from limbeck.config import digest
from limbeck.errors import SettingError
from limbeck.models.given import Given
from limbeck.objective import GradientPenalty, Labels
from limbeck.recipe import Recipe
from limbeck.recipe.reading import bundled, read
from limbeck.regimes.fine_tuned import FineTuned
from limbeck.regimes.mutual import Mutual
from limbeck.regimes.offline import Offline
from limbeck.regimes.walk import walk
from limbeck.training.loop import train
from limbeck.training.settings import AdamW, Training
from limbeck.training.workshop import Workshop

LAST = Training(steps=6, batch_size=8, evaluate_every=3, optimizer=AdamW(learning_rate=1e-3))


@pytest.mark.parametrize("of", [Offline(), STAGED, Mutual()], ids=lambda one: one.name)
def test_every_arm_ends_with_the_same_training_from_where_it_was(of, tmp_path):
    one = layered(tmp_path, of)
    regime = FineTuned(of=of, training=LAST, objective=(Labels(), GradientPenalty()), elastic=0.1)
    assert regime.taught == of.taught
    assert list(regime.arms(one)) == list(of.arms(one))
    last = []
    for name, arm in regime.arms(one).items():
        before, trained = answered(of.arms(one)[name](one), known)
        steps, _ = answered(arm(one), known)
        assert [step.name for step in steps[:-1]] == [step.name for step in before]
        assert (steps[-1].start.stage.name, steps[-1].start.path) == (trained.stage.name, trained.path)
        assert steps[-1].teacher is None
        assert steps[-1].examples.rows.tolist() == list(range(20)), "the rows that have a label"
        last.append(steps[-1])
    assert len({step.name for step in last}) == len(last)
    assert len({(step.terms, step.training, step.examples.fingerprint, step.keeping, step.seed) for step in last}) == 1


def weights(regime, root, arm="distilled", **changes):
    given = {"student": Given(smooth), "store": root / "stores", **changes}
    one, journal = plan(**given), root / f"{arm} {digest(regime)}.json"
    return walk(regime.arms(one)[arm](one), Workshop(root), journal).module().state_dict()


def apart(one, other):
    return sum(float((one[name] - other[name]).square().sum()) for name in one) ** 0.5


def test_without_strength_it_changes_nothing(tmp_path):
    still = LAST.model_copy(update={"optimizer": AdamW(learning_rate=1e-30, weight_decay=0.0)})
    for arm in ("control", "distilled"):
        before, after = (weights(one, tmp_path, arm) for one in (Offline(), FineTuned(training=still)))
        assert all(torch.equal(before[name], after[name]) for name in before), arm
    assert apart(weights(Offline(), tmp_path), weights(FineTuned(training=LAST), tmp_path)) > 0.01


def test_the_stronger_the_pull_the_nearer_it_stays(tmp_path):
    far = LAST.model_copy(update={"optimizer": SGD.model_copy(update={"momentum": 0.0}), "steps": 12})
    before = weights(Offline(), tmp_path)
    moved = [apart(before, weights(FineTuned(training=far, elastic=pull), tmp_path)) for pull in (None, 0.5, 5.0)]
    assert moved[0] > moved[1] > moved[2] > 0


@pytest.mark.parametrize("make", [Net, smooth])
def test_the_largest_norm_holds_after_every_step(make, tmp_path):
    found = []

    class Norms(Watching):
        def stepped(self, model, place):
            found.append(
                [float(one.detach().flatten(1).norm(dim=1).max()) for one in model.parameters() if one.ndim > 1]
            )

    train(stage(make, max_norm=0.5), tmp_path / "within", Norms())
    assert len(found) == 12
    assert max(map(max, found)) <= 0.5 * (1 + 1e-6)
    found.clear()
    train(stage(make), tmp_path / "free", Norms())
    assert min(map(max, found)) > 0.6, "it had to hold something"


def test_a_largest_norm_that_nothing_reaches_changes_no_bit(tmp_path):
    free, wide = train(stage(), tmp_path / "free"), train(stage(max_norm=1e6), tmp_path / "wide")
    assert all(torch.equal(free.weights[name], wide.weights[name]) for name in free.weights)
    assert "max-norm" not in TRAINING.identity(), "what was trained before keeps its name"
    assert TRAINING.model_copy(update={"max_norm": 1e6}).identity()["max-norm"] == 1e6


def test_frozen_weights_and_what_is_not_delivered_are_not_limited(tmp_path):
    held = stage(smooth, max_norm=0.1, frozen=("body.*",))
    outcome = train(held, tmp_path)
    assert torch.equal(outcome.weights["body.weight"], held.start.module().body.weight)
    assert outcome.weights["head.weight"].norm(dim=1).max() <= 0.1 * (1 + 1e-6)


@pytest.mark.parametrize(
    ("given", "match"),
    [
        ({"objective": (LABELS, SOFT)}, "'soft-targets' reads one"),
        ({"objective": (HINTS,)}, "'hints' reads one"),
        ({"objective": (GradientPenalty(),)}, "add labels"),
        ({"elastic": 0}, "greater than 0"),
        ({"of": {"name": "continual", "ewc": {}}}, "continual"),
        ({"of": {"name": "fine-tuned", "training": {"steps": 3}}}, "fine-tuned"),
    ],
)
def test_what_makes_no_sense_is_refused(given, match):
    with pytest.raises(SettingError, match=match):
        FineTuned(training=LAST, **given)


def test_a_recipe_names_the_regime_before():
    recipe = read(bundled()["fine-tuned"])
    assert Recipe.model_validate(recipe.plain()) == recipe
    assert recipe.regime.name == "fine-tuned"
    assert recipe.regime.taught


def nearest(table):
    """Answers by the nearest cloud's centre, as a linear map does."""
    centres = torch.stack([table.x[table.labels == one].mean(0) for one in range(3)])
    model = nn.Linear(centres.shape[1], 3)
    with torch.no_grad():
        model.weight.copy_(centres)
        model.bias.copy_(-centres.square().sum(1) / 2)
    return model


def test_a_run_compares_arms_that_all_end_so(tmp_path, monkeypatch):
    monkeypatch.setenv("LIMBECK_HOME", str(tmp_path / "home"))
    table = Clouds(150)
    rows = [(table.x[row], int(table.labels[row])) for row in range(150)]
    result = limbeck.distill(
        nearest(table),
        Net,
        rows,
        objective=(LABELS, SOFT),
        training={"steps": 20, "batch-size": 16},
        labelled=60,
        seeds=2,
        regime={
            "name": "fine-tuned",
            "of": {"name": "staged", "before": [{"name": "first", "objective": {"soft-targets": 1}}]},
            "training": {"steps": 5, "batch-size": 16},
            "elastic": 0.1,
        },
        ceiling=True,
        equal_compute=True,
        quiet=True,
        out=tmp_path / "out",
    )
    arms = result.evidence.arms.present()
    assert {"control", "final_stage", "equal_compute", "ceiling", "pseudo_labels", "distilled"} <= set(arms)
    journals = {path.stem: path.read_text() for path in (tmp_path / "out" / "journal").rglob("*.json")}
    assert all("fine-tuned, seed" in text for name, text in journals.items() if "teacher" not in name), journals.keys()

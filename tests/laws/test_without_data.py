"""Regimes without data: no training row is seen, rounds go on from each other."""

from dataclasses import dataclass, replace

import pytest
import safetensors.torch
import torch
from tests.contracts.test_regime_contract import answered, known
from tests.fakes.experiments import (
    HINTS,
    LABELS,
    SOFT,
    TRAINING,
    Crash,
    Watching,
    crash,
    same,
)
from tests.fakes.pictures import CLASSES, READER, SIDE, Convolutions, picture_plan

from limbeck.config import digest
from limbeck.data.images import ImageTable
from limbeck.objective.schedules import Place
from limbeck.regimes.generator import Generator
from limbeck.regimes.inversion import Inversion
from limbeck.regimes.regime import Make
from limbeck.regimes.walk import walk
from limbeck.synthesis.games import Adversarial, Dafl
from limbeck.synthesis.inversion import Pictures
from limbeck.training.loop import train
from limbeck.training.stage import Stage
from limbeck.training.workshop import Workshop

FEW = Pictures(count=18, batch_size=9, steps=3)
INVERSION, GENERATOR = Inversion(pictures=FEW, rounds=2), Generator(width=4, latent=8)
BOTH = [INVERSION, GENERATOR]


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("LIMBECK_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@dataclass
class Locked:
    """A table whose first 50 rows, those of the training part, nobody may read."""

    table: ImageTable

    def __getattr__(self, name):
        return getattr(self.table, name)

    def __len__(self):
        return len(self.table)

    def read(self, ids, views):
        if (ids < 50).any():
            raise AssertionError("a training row was read")
        return self.table.read(ids, views)

    def raw(self, row):
        assert row >= 50
        return self.table.raw(row)


def locked(tmp_path, **changes):
    one = picture_plan(tmp_path, **changes)
    parts = one.splits
    closed = Locked(parts.train.table)
    both = {name: replace(getattr(parts, name), table=closed) for name in ("train", "validation", "test")}
    return replace(one, splits=replace(parts, **both))


def end(regime, one, tmp_path, arm="distilled"):
    return walk(regime.arms(one)[arm](one), Workshop(tmp_path), tmp_path / f"{digest(regime)}-{arm}-{one.seed}.json")


def steps_of(regime, one):
    return answered(regime.distilled(one), known)[0]


@pytest.mark.parametrize("regime", BOTH, ids=lambda one: one.name)
def test_the_student_sees_no_training_row(regime, tmp_path):
    trained = end(regime, locked(tmp_path), tmp_path)
    assert trained.metrics["accuracy"] >= 0
    with pytest.raises(AssertionError, match="a training row was read"):
        end(regime, locked(tmp_path), tmp_path, "with_data")
    with pytest.raises(AssertionError, match="a training row was read"):
        end(regime, locked(tmp_path), tmp_path, "control")


@pytest.mark.parametrize("regime", BOTH, ids=lambda one: one.name)
def test_labels_and_rows_of_the_data_change_nothing(regime, tmp_path):
    one, two = picture_plan(tmp_path), picture_plan(tmp_path)
    train = two.splits.train
    other = replace(train, labels=(train.labels + 1) % CLASSES, rows=train.rows[:20])
    two = replace(two, splits=replace(two.splits, train=other))
    assert end(regime, one, tmp_path).key == end(regime, two, tmp_path).key


def test_the_arms_and_their_steps(tmp_path):
    for regime in BOTH:
        one = picture_plan(tmp_path)
        assert list(regime.arms(one)) == ["control", "with_data", "distilled"]
        (last,) = [step for step in answered(regime.arms(one)["with_data"](one), known)[0] if isinstance(step, Stage)]
        assert last.terms == one.terms
        assert last.examples.fingerprint == one.splits.train.fingerprint
        assert last.training.total == sum(stage.training.total for stage in regime.stages(one))


# --- inversion


def test_each_round_has_more_pictures_and_goes_on_from_the_last(tmp_path):
    steps = steps_of(INVERSION, picture_plan(tmp_path))
    assert [step.name.rpartition(",")[0] or step.name for step in steps] == [
        *("pictures of round 1", "labels", "label", "round 1"),
        *("pictures of round 2", "labels", "label", "distilled"),
    ]
    makes, (first, second) = (
        [step for step in steps if isinstance(step, Make) and "pictures" in step.name],
        [step for step in steps if isinstance(step, Stage)],
    )
    assert [len(one.examples) for one in (first, second)] == [18, 36]
    levels = [one.examples.table.pixels for one in (first, second)]
    assert torch.equal(levels[1][:18], levels[0])
    assert not torch.equal(levels[1][18:], levels[0])
    assert makes[0].arguments["student"] is None
    assert makes[1].arguments["student"] is not None, "from the second round on it competes"
    assert second.start != first.start
    assert second.start.stage is first


def test_pictures_are_labelled_by_the_teacher(tmp_path):
    one = picture_plan(tmp_path, terms=(LABELS, SOFT))
    stage = steps_of(INVERSION, one)[-1]
    examples = stage.examples
    assert examples.supervised.all()
    batch = examples.batch(examples.rows, torch.zeros_like(examples.rows))
    said = one.teacher.observe(batch, frozenset({"logits"}))["logits"]
    assert torch.equal(examples.labels, said.argmax(1))
    assert len(set(examples.labels.tolist())) > 1


def test_the_first_round_is_made_once_for_all_seeds(tmp_path, home):
    one = picture_plan(tmp_path)
    for seed in range(2):
        end(INVERSION, one.at(seed), tmp_path)
    made = list(home.glob("pictures/*/*/*.safetensors"))
    assert len(made) == 2 + 2 * 2, "two batches for both, and of the second round two for each"


def test_it_ends_when_the_student_is_good_enough(tmp_path):
    one = picture_plan(tmp_path)
    whole = end(INVERSION, one, tmp_path)
    assert whole.name.startswith("distilled")
    soon = INVERSION.model_copy(update={"enough": 0.01})
    early = end(soon, one, tmp_path / "soon")
    assert early.name.startswith("round 1")
    assert len(early.examples) == 18
    never = INVERSION.model_copy(update={"enough": 1.0})
    assert end(never, one, tmp_path / "never").key == whole.key


def test_other_budgets_reach_the_pictures(tmp_path):
    tenth = INVERSION.model_copy(update={"pictures": FEW.model_copy(update={"steps": 400})})
    assert tenth.budgeted(lambda own: own.scaled(0.1)).pictures.steps == 40
    assert tenth.budgeted(lambda own: own.model_copy(update={"steps": 7})).pictures.steps == 7
    assert GENERATOR.budgeted(lambda own: own.scaled(0.1)) == GENERATOR


def test_how_long_it_takes_to_make_them_is_estimated(tmp_path, monkeypatch):
    clock = iter(range(100))
    monkeypatch.setattr("limbeck.regimes.inversion.time.perf_counter", lambda: float(next(clock)))
    one = picture_plan(tmp_path)
    # 1 s a step: 3 steps, 2 batches, the first round for all seeds and the second for each of 3
    assert INVERSION.making_seconds(one, 3) == 1 * 3 * 2 * (1 + 3)
    assert GENERATOR.making_seconds(one, 2) == 0, "its pictures are a part of each step, which is timed"


def test_made_pictures_vary_as_the_data_would(tmp_path):
    from limbeck.data.augment import Augment

    one = picture_plan(tmp_path, views=None)
    table = ImageTable(one.splits.train.table.pixels, READER, Augment(shift=1))
    varied = replace(one, splits=replace(one.splits, train=replace(one.splits.train, table=table)))
    examples = steps_of(INVERSION, varied)[-1].examples
    rows = examples.rows
    zero, first = (examples.batch(rows, torch.full_like(rows, view)).inputs["pixel_values"] for view in (0, 1))
    assert not torch.equal(zero, first)


# --- generator


@pytest.mark.parametrize("game", [Dafl(), Adversarial(student_steps=1)], ids=lambda one: one.name)
def test_a_step_is_made_of_pictures_without_labels(game, tmp_path):
    stage = steps_of(Generator(game=game, width=4, latent=8), picture_plan(tmp_path))[-1]
    student = Convolutions()
    student.train()
    before = {name: value.clone() for name, value in student.state_dict().items()}
    pen = stage.writing.pen(stage, student)
    rows = stage.examples.rows
    micros = [stage.examples.batch(ids, torch.zeros_like(ids)) for ids in rows.split(8)]
    for step in range(2):
        batches = pen.written(student, micros, Place(step, 12))
        assert [len(one) for one in batches] == [8, 8]
        for one, given in zip(batches, micros, strict=True):
            assert one.inputs["pixel_values"].shape == given.inputs["pixel_values"].shape
            assert not torch.equal(one.inputs["pixel_values"], given.inputs["pixel_values"])
            assert not one.masks["supervised"].any()
            assert torch.equal(one.ids, given.ids)
    assert student.training
    assert all(torch.equal(value, before[name]) for name, value in student.state_dict().items())
    told = pen.told()
    named = {"dafl": {"one-hot", "balance", "activation"}, "adversarial": {"agreement"}}
    assert set(told) == {f"generator.{one}" for one in named[game.name]}
    assert pen.told() == {}


@pytest.mark.parametrize("game", [Dafl(), Adversarial(student_steps=4)], ids=lambda one: one.name)
def test_cut_off_after_a_checkpoint_generator_and_student_go_on_as_they_were(game, tmp_path):
    one = picture_plan(tmp_path, training=TRAINING.model_copy(update={"checkpoint_every": 3}))
    stage = steps_of(Generator(game=game, width=4, latent=8), one)[-1]
    whole = train(stage, tmp_path / "whole")
    with pytest.raises(Crash):
        train(stage, tmp_path / "cut", Watching(after=8, act=crash))
    resumed = Watching()
    again = train(stage, tmp_path / "cut", resumed)
    assert resumed.places[0] == ("at", 6), "it did go on from a checkpoint"
    assert same(whole, again)
    assert torch.equal(whole.kept["pictures"], again.kept["pictures"])


@pytest.mark.parametrize("game", [Dafl(), Adversarial(student_steps=4)], ids=lambda one: one.name)
def test_the_last_pictures_are_kept_beside_the_weights(game, tmp_path):
    regime = Generator(game=game, width=4, latent=8)
    one = picture_plan(tmp_path)
    trained, again = end(regime, one, tmp_path), end(regime, one, tmp_path)
    assert again.reused
    for found in (trained, again):
        pictures = safetensors.torch.load_file(found.kept)["pictures"]
        assert pictures.shape == (16, 1, SIDE, SIDE)
        assert pictures.dtype == torch.uint8
        assert pictures.float().std() > 1
    assert any(name.startswith("generator.") for point in trained.points for name in point["parts"])
    assert end(INVERSION, one, tmp_path / "other").kept is None


def test_games_and_seeds_give_other_students(tmp_path):
    one = picture_plan(tmp_path)
    keys = {end(Generator(game=game, width=4, latent=8), one, tmp_path).key for game in (Dafl(), Dafl(balance=1))}
    fingerprints = {end(GENERATOR, one.at(seed), tmp_path).fingerprint for seed in range(2)}
    assert len(keys) == len(fingerprints) == 2


def test_terms_between_layers_are_learnt_on_made_pictures_too(tmp_path):
    hints = HINTS.model_copy(update={"student": "conv2", "teacher": "conv2"})
    for regime in BOTH:
        assert end(regime, picture_plan(tmp_path, terms=(SOFT, hints)), tmp_path).metrics

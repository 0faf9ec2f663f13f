"""Laws of a search: every point once, nothing of the test part, resumed as uninterrupted, the best is never pruned."""

import json
from dataclasses import replace
from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.storages import InMemoryStorage
from tests.fakes.experiments import Clouds, Crash, splits

from limbeck.data.measure import ACCURACY
from limbeck.errors import LimbeckError
from limbeck.evidence.comparison import difference, item_bootstrap
from limbeck.recipe.reading import parse, read
from limbeck.run.experiment import Experiment
from limbeck.run.teachers import Learner
from limbeck.search import bench, search, seek, study, surface
from limbeck.search.bench import SEED, shortened
from limbeck.search.confirm import _judged, fresh
from limbeck.search.fields import Field, applied, fields, grid, own
from limbeck.search.study import Study, Trial, changed, score
from limbeck.training.settings import Training

RECIPE = """
limbeck: 1
name: clouds
data: {source: mnist-5k}
teacher: {model: {name: mlp, hidden: 32}, training: {steps: 40, batch-size: 16, evaluate-every: 20}}
student: {name: mlp, hidden: 8}
objective: {labels: 0.3, soft-targets: {weight: 0.7, temperature: 2}}
training: {steps: 40, batch-size: 16, evaluate-every: 10, optimizer: {name: adamw, learning-rate: 0.01}}
seeds: 2
"""
TEMPERATURE, WEIGHT = "objective.soft-targets.temperature", "objective.soft-targets.weight"
RATE = "training.optimizer.learning-rate"
SMALL = (f"{TEMPERATURE}=1,4", f"{WEIGHT}=.1,.9")
FIRST_TEST_ROW = 70  # of `splits`


class Guarded(Clouds):
    """Raises when a test row is asked for."""

    def read(self, ids, views):
        assert int(ids.max()) < FIRST_TEST_ROW, "the test part was read"
        return super().read(ids, views)

    def raw(self, row):
        raise AssertionError("nothing is delivered by a search")

    show = raw


def tiny(recipe, code=False):
    """The recipe's experiment on the clouds, whose test rows have no readable input and a label that is no class."""
    table, parts = Guarded(100), splits()
    labels = torch.where(torch.arange(100) < FIRST_TEST_ROW, table.labels, 99)
    parts = replace(
        parts,
        **{name: replace(getattr(parts, name), table=table, labels=labels) for name in ("train", "validation", "test")},
    )
    return Experiment(
        name=recipe.name,
        settings=recipe.plain(),
        splits=parts,
        student=recipe.student,
        terms=recipe.objective,
        training=recipe.training,
        learners=(Learner("teacher", recipe.teacher.model, recipe.teacher.training),),
    )


DRAW, BACKEND = surface.draw, study._backend


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("LIMBECK_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(bench, "from_recipe", tiny)
    # what takes most of the time: pictures, and waiting for the disk
    monkeypatch.setattr(surface, "draw", lambda path, *_: path.touch())
    databases = {}

    def backend(storage):
        return databases.setdefault(storage, InMemoryStorage()) if storage.startswith("sqlite") else BACKEND(storage)

    monkeypatch.setattr(study, "_backend", backend)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "home"


def go(out, over=SMALL, text=RECIPE, **changes):
    return search(parse(text), over, out=out, quiet=True, **{"budget": 0.5, **changes})


def told(out):
    return json.loads((out / "trials.json").read_text())


def arms(home):
    return {
        path.parent.parent.name: json.loads(path.read_text()) for path in home.glob("arms/*/*/finished/result.json")
    }


VALUES = st.lists(st.integers(0, 9) | st.sampled_from(["a", None, True]), min_size=1, max_size=4, unique_by=repr)


@given(st.lists(VALUES, min_size=1, max_size=3))
def test_a_grid_is_the_product_each_point_once(several):
    chosen = [Field(f"f{place}", tuple(values)) for place, values in enumerate(several)]
    found = [tuple(map(repr, point.values())) for point in grid(chosen)]
    assert sorted(found) == sorted(tuple(map(repr, values)) for values in product(*several))
    assert len(set(found)) == len(found)


def test_a_search_has_its_parts_and_tries_every_point_once(tmp_path, home, monkeypatch):
    monkeypatch.setattr(surface, "draw", DRAW)
    found = go(tmp_path / "out")
    shown = told(tmp_path / "out")
    points = [tuple(one["settings"].values()) for one in shown["trials"]]
    assert sorted(points) == [(1, 0.1), (1, 0.9), (4, 0.1), (4, 0.9)]
    assert {one["state"] for one in shown["trials"]} == {"complete"}
    assert {(one["steps"], one["seed"]) for one in shown["trials"]} == {(20, SEED)}
    best = max(shown["trials"], key=lambda one: (one["accuracy"], -one["nll"]))
    assert best["number"] == shown["winner"] == found.winner["number"]
    assert (tmp_path / "out" / "surface.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    assert "flattered" in shown["warning"]
    # one teacher, a student for each trial, and two arms at each seed of the confirmation
    assert len(arms(home)) == 1 + 4 + 2 * 2
    assert len(list((home / "stores").iterdir())) == 1
    assert shown["confirmation"]["seeds"] == [1, 2]
    means = [np.mean(shown["confirmation"]["accuracy"][who]) for who in ("winner", "own")]
    assert shown["confirmation"]["difference"]["mean"] == pytest.approx(means[0] - means[1], abs=1e-12)
    assert found.sentence == shown["sentence"]


def test_the_winning_recipe_differs_by_the_searched_fields_alone(tmp_path):
    found, recipe = go(tmp_path / "out"), parse(RECIPE)
    best = read(tmp_path / "out" / "best.yaml")
    assert best.hash == found.recipe.hash == told(tmp_path / "out")["best_recipe"] != recipe.hash
    assert best.name == "clouds best"
    assert {path: own(best, path) for path in (TEMPERATURE, WEIGHT)} == found.winner["settings"]
    back = applied(best, {TEMPERATURE: own(recipe, TEMPERATURE), WEIGHT: own(recipe, WEIGHT)})
    assert back.hash == recipe.hash


@pytest.mark.parametrize("method", ["grid", "bayes"])
def test_resumed_is_uninterrupted(tmp_path, monkeypatch, method):
    if method == "bayes":
        monkeypatch.setattr(study, "_backend", BACKEND)
    given = {
        "method": method,
        "prune": True,
        "over": SMALL if method == "grid" else ("temperature,weights",),
        "trials": None if method == "grid" else 4,
    }
    monkeypatch.setenv("LIMBECK_HOME", str(tmp_path / "whole"))
    go(tmp_path / "a", **given)
    monkeypatch.setenv("LIMBECK_HOME", str(tmp_path / "cut"))
    # killed at the first evaluation, and within a later trial
    for calls in (0, 6):
        with monkeypatch.context() as patch:
            heard, real = [], Trial.hopeless

            def hopeless(self, value, place, calls=calls, heard=heard, real=real):
                heard.append(place)
                if len(heard) > calls:
                    raise Crash
                return real(self, value, place)

            patch.setattr(Trial, "hopeless", hopeless)
            with pytest.raises(Crash):
                go(tmp_path / "b", **given)
    go(tmp_path / "b", **given)
    assert told(tmp_path / "b") == {**told(tmp_path / "a"), "warning": told(tmp_path / "b")["warning"]}
    assert "pruned" in {one["state"] for one in told(tmp_path / "a")["trials"]}, "or the test shows little"


def test_what_is_trained_is_not_trained_again_and_ends_alike(tmp_path, home):
    go(tmp_path / "a", prune=True)
    go(tmp_path / "b", prune=False)
    before = arms(home)
    # with every arm finished beforehand, the pruned ones are replayed to the same end
    go(tmp_path / "c", prune=True)
    assert told(tmp_path / "c")["trials"] == told(tmp_path / "a")["trials"]
    assert arms(home) == before


def test_a_pruned_training_is_never_kept_as_a_finished_arm(tmp_path, home):
    go(tmp_path / "out", prune=True)
    shown = told(tmp_path / "out")["trials"]
    pruned = [one for one in shown if one["state"] == "pruned"]
    assert pruned
    assert all(one["steps"] < 20 and "arm" not in one for one in pruned)
    assert all(found["points"][-1]["step"] in (20, 40) for found in arms(home).values())
    assert len(arms(home)) == 1 + (4 - len(pruned)) + 2 * 2


CURVES = st.permutations(list(range(9)))


@settings(max_examples=8)
@given(order=CURVES)
def test_successive_halving_keeps_the_best_of_a_known_sequence(tmp_path_factory, order):
    """Nine trials of ten evaluations that never cross: the best is never ended, in whatever order they come."""
    field = Field("quality", tuple(range(9)))
    out = tmp_path_factory.mktemp("known")
    points = [{"quality": quality} for quality in order]
    known = Study(None, out, "known", {}, [field], points, "grid")
    lasted = {}
    while trial := known.next(9):
        quality = trial.settings["quality"]
        for place in range(1, 11):
            lasted[quality] = place
            if trial.hopeless(quality + place / 100, place):
                trial.finish({"state": "pruned"}, None)
                break
        else:
            trial.finish({"state": "complete"}, float(quality))
    assert list(lasted) == list(order)
    assert lasted[8] == 10
    assert set(lasted.values()) <= {1, 3, 9, 10}, "the rungs"
    # the last to come is among the best third of all nine, or it is ended at the first rung
    assert (lasted[order[-1]] > 1) == (order[-1] >= 6)


@given(st.lists(st.tuples(st.integers(0, 50), st.floats(0, 1e6)), min_size=2, max_size=2, unique=True))
def test_the_score_orders_by_accuracy_and_then_by_nll(pair):
    (right, nll), (other, worse) = pair
    found = [score({"accuracy": one / 50, "nll": loss}, 50) for one, loss in pair]
    if right != other:
        assert (found[0] > found[1]) == (right > other)
        assert abs(found[0] - right / 50) <= 0.5 / 50 + 1e-12
    elif abs(nll - worse) > 1e-6 * (1 + nll) * (1 + worse):  # x / (1 + x) rounds closer ones together
        assert (found[0] > found[1]) == (nll < worse)


def test_ties_go_to_the_lower_nll_and_pruned_trials_do_not_win():
    def one(number, accuracy, nll, state="complete"):
        return {"number": number, "accuracy": accuracy, "nll": nll, "state": state}

    some = [one(0, 0.9, 0.5), one(1, 0.9, 0.4), one(2, 0.9, 0.4), one(3, 0.95, 0.1, "pruned"), one(4, 0.9, None)]
    assert seek.best(some)["number"] == 1
    assert seek.best(some[3:4]) is None


def test_settings_that_leave_the_numbers_are_given_up(tmp_path):
    go(tmp_path / "out", over=[f"{RATE}=0.02,1e30,1e38"])
    first, second, third = told(tmp_path / "out")["trials"]
    assert (first["state"], second["state"], third["state"]) == ("complete", "diverged", "diverged")
    assert "not finite" in second["reason"]
    assert "too large for a number" in third["reason"]


def test_other_failures_end_the_search_and_are_taken_up_again(tmp_path, monkeypatch):
    for error in (LimbeckError("No space is left."), RuntimeError("No space is left.")):

        def broken(*_, error=error, **__):
            raise error

        with monkeypatch.context() as patch:
            patch.setattr(bench, "walk", broken)
            with pytest.raises(type(error), match="No space"):
                go(tmp_path / "out")
    assert len(go(tmp_path / "out").trials) == 4


def test_several_folders_share_a_storage(tmp_path):
    storage = f"journal:{tmp_path / 'shared.journal'}"
    first = go(tmp_path / "a", storage=storage)
    second = go(tmp_path / "b", storage=storage)
    assert first.trials == second.trials
    with pytest.raises(LimbeckError, match=r"holds another search called 'clouds' \(what differs: budget\)"):
        go(tmp_path / "c", storage=storage, budget=0.6)
    # two that began at once wrote the same points down: the second of each is passed over
    shared = Study(storage, tmp_path / "d", "twins", {}, [Field("x", (1, 2))], [{"x": 1}, {"x": 2}], "grid")
    shared._study.enqueue_trial({"x": 1})
    tried = []
    while trial := shared.next(2):
        tried.append(trial.settings["x"])
        trial.finish({}, 0.5)
    assert tried == [1, 2]


def test_a_trial_of_another_machine_is_left_alone_until_it_is_stale(tmp_path, monkeypatch):
    storage = f"journal:{tmp_path / 'shared.journal'}"

    def open_in(folder):
        return Study(storage, tmp_path / folder, "two", {}, [Field("x", (1,))], [{"x": 1}], "grid")

    open_in("a").next(1)
    assert open_in("b").next(1) is None
    assert open_in("a").next(1).number == 0, "its own goes on"
    monkeypatch.setattr(study, "STALE", -1.0)
    assert open_in("b").next(1).number == 0


def test_a_folder_holds_one_search(tmp_path):
    go(tmp_path / "out")
    with pytest.raises(LimbeckError, match=r"holds another search \(what differs: over\)"):
        go(tmp_path / "out", over=["temperature"])
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").touch()
    with pytest.raises(LimbeckError, match=r"is not empty and holds no search \(it has 'thesis.txt'\)"):
        go(tmp_path / "mine")
    with pytest.raises(LimbeckError, match="neither an Optuna storage URL"):
        go(tmp_path / "other", storage="nowhere")
    assert len(go(tmp_path / "other", over=["temperature=1,2"]).trials) == 2, "nothing had begun there"


WRONG = {
    "temprature": "did you mean 'temperature'",
    "training.steps": "say which values",
    "training.stps=1,2": "--over training.stps=1: training.stps: unknown key; did you mean 'steps'?",
    "objective.soft-targts.weight=1,2": "did you mean 'soft-targets'?",
    "temperature=4..2": "the range is empty, as 4 is not below 2",
    "temperature=2..2": "the range is empty",
    "temperature=log:0..2": "a log range has only numbers above 0",
    "temperature=log:1,2": "a range is two numbers",
    "temperature=a..b": "a range is two numbers",
    "temperature=": "no values are given",
    "temperature=0,1": "must be a finite number above 0",
    "weights=-1..1": "must be a finite number, not negative",
    "training.steps=20.5..100": "found 20.5",
    "data.test=0.1,0.2": "it changes which rows are left for validation",
    "name=a,b": "nothing depends on it",
    f"{TEMPERATURE}=log:1..2": None,
}


@pytest.mark.parametrize("over", WRONG)
def test_what_cannot_be_searched_is_said(over):
    if WRONG[over] is None:
        assert fields(parse(RECIPE), [over], "grid")[0].points() == (1.0, 1.189, 1.414, 1.682, 2.0)
        return
    with pytest.raises(LimbeckError) as error:
        fields(parse(RECIPE), [over], "grid")
    assert WRONG[over] in str(error.value)
    assert "--set" not in str(error.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"trials": 3}, "This grid has 4 trials, more than --trials 3"),
        ({"budget": 0.0}, "share of the recipe's steps"),
        ({"over": [f"{TEMPERATURE}={','.join(map(str, range(1, 1003)))}"]}, "1,002 trials, more than 1,000"),
        ({"over": []}, "names nothing to search"),
        ({"over": ["training.accumulate=1,32"]}, "larger than batch-size"),
    ],
)
def test_what_cannot_be_done_is_said_before_anything_is(tmp_path, changes, message):
    with pytest.raises(LimbeckError, match=message):
        go(tmp_path / "out", **changes)
    assert not (tmp_path / "out").exists()


def test_optuna_is_named_if_it_is_not_there(tmp_path, monkeypatch):
    monkeypatch.setattr(study, "find_spec", lambda name: None if name == "optuna" else object())
    with pytest.raises(LimbeckError, match=r"needs optuna: pip install 'limbeck\[search\]'"):
        go(tmp_path / "out")


def test_short_names_stand_for_the_terms_that_have_plain_numbers():
    several = """{labels: 0.1, soft-targets: {temperature: 2}, hints: [{student: a, teacher: a}, {student: b, teacher: b}],
      rkd-distance: {weight: 25, student: a, teacher: a}, nkd: {temperature: {schedule: linear, start: 4, end: 1}}}"""
    recipe = parse(RECIPE.replace("{labels: 0.3, soft-targets: {weight: 0.7, temperature: 2}}", several))
    temperatures = fields(recipe, ["temperature"], "grid")
    assert [(one.path, one.points()) for one in temperatures] == [(TEMPERATURE, (1, 2, 4, 8))]
    weights = {one.path: one.points() for one in fields(recipe, ["weights"], "grid")}
    assert weights.keys() == {WEIGHT, "objective.nkd.weight", "objective.rkd-distance.weight"} | {
        f"objective.hints.{place}.weight" for place in (0, 1)
    }
    assert weights["objective.rkd-distance.weight"] == (2.5, 12.5, 22.5), "times the term's default"
    for path in weights:
        assert own(applied(recipe, {path: 0.25}), path) == 0.25
    ranges = fields(
        recipe, ["temperature", "student.hidden=8..32", "training.steps=20..1e3", "training.warmup=0..1"], "bayes"
    )
    assert [(one.low, one.high, one.log, one.whole) for one in ranges] == [
        (1, 16, True, False),
        (8, 32, False, True),
        (20, 1000, False, True),
        (0, 1, False, False),
    ]


def test_a_trial_is_given_its_share_of_the_steps():
    whole = Training(steps=1000, evaluate_every=50)
    less = shortened(whole, 0.2)
    assert (less.total, less.between_evaluations) == (200, 10), "as often as the whole"
    assert shortened(Training(steps=30), 0.2).total == 20, "20 at least"
    assert shortened(Training(steps=10), 0.2).total == 10


def test_the_confirmation_needs_both_intervals():
    draw = np.random.default_rng(0)
    base = draw.random((3, 400)) < 0.7

    def word(gain):
        better = base | (draw.random((3, 400)) < gain) if gain >= 0 else base & (draw.random((3, 400)) > -gain)
        gap = difference(better.mean(1).tolist(), base.mean(1).tolist(), resolution=1 / 400)
        return _judged(gap, item_bootstrap(better, base, 500), (base.mean(), better.mean()), 0.005)

    assert word(0.6)[0] == "yes"
    assert word(-0.3)[0] == "no"
    assert "worse" in word(-0.3)[1]
    assert word(0.0)[0] == "not settled"
    assert SEED not in fresh(5)


@pytest.mark.parametrize("count", [1, 2, 3, 4])
@pytest.mark.parametrize("states", [("complete", "pruned"), ("pruned",), ("diverged",)])
def test_every_surface_can_be_drawn(tmp_path, count, states):
    every = (
        Field("objective.soft-targets.temperature", low=1, high=16, log=True),
        Field("training.decay", ("cosine", "none")),
        Field("student.hidden", (8, 16)),
        Field("training.warmup", low=0, high=1),
    )[:count]
    trials = []
    for number in range(4):
        values = {one.path: one.points()[number % 2] for one in every}
        state = states[number % len(states)]
        metrics = {} if state == "diverged" else {"accuracy": 0.9 + 0.01 * number}
        trials.append({"number": number, "settings": values, "state": state, **metrics})
    winner = seek.best([{"nll": 0.1, **one} for one in trials if "accuracy" in one])
    DRAW(tmp_path / "x.png", every, trials, winner, dict.fromkeys((one.path for one in every), 1.0), ACCURACY, "title")
    assert (tmp_path / "x.png").stat().st_size > 5_000


def test_what_differs_is_named_by_its_path():
    assert changed({"a": {"b": 1, "c": 2}, "d": 3}, {"a": {"b": 1, "c": 4}, "e": 3}) == ["a.c", "d", "e"]

import json
from itertools import pairwise
from math import cos, inf, nan, pi

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter

from limbeck.errors import SettingError
from limbeck.objective import Hints, Labels, SoftTargets
from limbeck.objective.balance import Weight
from limbeck.objective.schedules import Cosine, Fixed, Linear, Place, Steps
from limbeck.objective.temperatures import Temperature

law = settings(max_examples=60, deadline=None, derandomize=True)
numbers = st.floats(0, 100, allow_subnormal=False)
CURVES = {"linear": Linear, "cosine": Cosine}


def curve(kind, start, end):
    return CURVES[kind](schedule=kind, start=start, end=end)


@pytest.mark.parametrize("kind", CURVES)
@law
@given(start=numbers, end=numbers, steps=st.integers(2, 200))
def test_curves_begin_and_end_exactly_and_never_turn(kind, start, end, steps):
    schedule = curve(kind, start, end)
    seen = [schedule.at(Place(step, steps)) for step in range(steps)]
    assert seen[0] == start
    assert seen[-1] == end
    up = 1 if end >= start else -1
    slack = 1e-13 * max(start, end)  # two products and a sum: a few units in the last place
    assert all(up * (after - before) >= -slack for before, after in pairwise(seen))
    assert all(min(schedule.turns) - slack <= value <= max(schedule.turns) + slack for value in seen)


@law
@given(start=numbers, end=numbers, step=st.integers(0, 99))
def test_curves_are_the_formulas(start, end, step):
    u = step / 99
    line, wave = (curve(kind, start, end).at(Place(step, 100)) for kind in CURVES)
    assert line == pytest.approx(start + (end - start) * u, abs=1e-11)
    assert wave == pytest.approx(end + (start - end) * (1 + cos(pi * u)) / 2, abs=1e-11)


def test_a_cosine_is_slow_fast_slow_and_half_way_in_the_middle():
    wave, line = curve("cosine", 0.0, 1.0), curve("linear", 0.0, 1.0)
    early, late = Place(10, 101), Place(90, 101)
    assert wave.at(early) < line.at(early)
    assert wave.at(late) > line.at(late)
    assert wave.at(Place(50, 101)) == pytest.approx(0.5)


@pytest.mark.parametrize("schedule", [curve("linear", 4.0, 1.0), curve("cosine", 4.0, 1.0), Fixed(value=4.0)])
def test_a_training_of_one_step_uses_the_start(schedule):
    assert schedule.at(Place(0, 1)) == 4.0
    assert schedule.at(Place(0, 0)) == 4.0


def test_beyond_the_last_step_nothing_changes():
    assert curve("linear", 4.0, 1.0).at(Place(500, 100)) == 1.0
    assert curve("cosine", 4.0, 1.0).at(Place(100, 100)) == 1.0


def test_fixed_is_fixed():
    assert {Fixed(value=0.3).at(Place(step, 7)) for step in range(7)} == {0.3}


def test_steps_hold_from_their_share_on():
    schedule = Steps(schedule="steps", values=((0, 4.0), (0.5, 2.0), (1, 1.0)))
    assert [schedule.at(Place(step, 5)) for step in range(5)] == [4.0, 4.0, 2.0, 2.0, 1.0]
    assert schedule.turns == (4.0, 2.0, 1.0)


@law
@given(st.lists(st.floats(0.001, 1), unique=True, max_size=5), st.integers(1, 50))
def test_steps_take_only_their_own_values_in_their_order(shares, steps):
    values = tuple((share, float(number)) for number, share in enumerate([0.0, *sorted(shares)]))
    schedule = Steps(schedule="steps", values=values)
    seen = [schedule.at(Place(step, steps)) for step in range(steps)]
    assert seen == sorted(seen)
    assert seen[0] == 0
    assert set(seen) <= set(schedule.turns)


@pytest.mark.parametrize(
    "values",
    [
        (),
        ((0.1, 1.0),),
        ((0, 1.0), (0.5, 2.0), (0.4, 3.0)),
        ((0, 1.0), (0, 2.0)),
        ((0, 1.0), (1.1, 2.0)),
        ((-0.1, 1.0),),
    ],
)
def test_steps_out_of_order_are_refused(values):
    with pytest.raises(SettingError):
        Steps(schedule="steps", values=values)


def negative_and_unreal(worst):
    yield worst
    yield {"schedule": "linear", "start": 1.0, "end": worst}
    yield {"schedule": "cosine", "start": worst, "end": 1.0}
    yield {"schedule": "steps", "values": [[0, 1.0], [0.5, worst]]}


@pytest.mark.parametrize("worst", [-0.1, -inf, inf, nan])
def test_weights_are_finite_and_not_negative(worst):
    for weight in negative_and_unreal(worst):
        for make in (Labels, SoftTargets, lambda weight: Hints(student="a", teacher="b", weight=weight)):
            with pytest.raises(SettingError, match="finite number, not negative"):
                make(weight=weight)


@pytest.mark.parametrize("worst", [0, -1.0, -inf, inf, nan])
def test_temperatures_are_finite_and_above_zero(worst):
    for temperature in negative_and_unreal(worst):
        with pytest.raises(SettingError, match="finite number above 0"):
            SoftTargets(temperature=temperature)


def test_a_weight_of_zero_is_allowed():
    assert Labels(weight=0).weight.at(Place(0, 1)) == 0


@pytest.mark.parametrize("wrong", [True, "1", None, {"schedule": "quadratic", "start": 0, "end": 1}, {"value": 1}, [1]])
def test_what_is_no_schedule_is_refused(wrong):
    with pytest.raises(SettingError):
        Labels(weight=wrong)


@pytest.mark.parametrize("kind", [Weight, Temperature])
@pytest.mark.parametrize(
    "given_",
    [
        3,
        0.5,
        {"schedule": "fixed", "value": 2},
        {"schedule": "linear", "start": 4, "end": 1},
        {"schedule": "cosine", "start": 1, "end": 4},
        {"schedule": "steps", "values": [[0, 4], [0.7, 1]]},
    ],
)
def test_schedules_survive_json(kind, given_):
    reader = TypeAdapter(kind)
    schedule = reader.validate_python(given_)
    again = reader.validate_python(json.loads(json.dumps(schedule.plain())))
    assert again == schedule
    assert [again.at(Place(step, 9)) for step in range(9)] == [schedule.at(Place(step, 9)) for step in range(9)]


def test_a_whole_number_is_the_same_schedule_as_its_float():
    assert json.dumps(Labels(weight=1).plain()) == json.dumps(Labels(weight=1.0).plain())


def test_a_temperature_that_would_go_unused_is_refused():
    with pytest.raises(SettingError, match="no temperature"):
        SoftTargets(loss="logit-mse", temperature=2.0)
    again = SoftTargets.model_validate(SoftTargets(loss="logit-mse").plain())
    assert again.loss == "logit-mse"

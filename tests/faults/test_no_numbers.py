"""NaN and infinities wherever they may arise, at every step: training stops before they are used, and nothing is marked good."""

from dataclasses import replace
from math import inf, isfinite, nan

import pytest
import torch
from tests.fakes.experiments import LABELS, SGD, Net, Watching, stage

from limbeck.errors import LimbeckError
from limbeck.objective import SoftTargets
from limbeck.training import checkpoint
from limbeck.training.workshop import Workshop

STEPS = 6
VALUES = (nan, inf, -inf)


class Poisoned(Watching):
    """Puts ``value`` into the training's step number ``step``, counted from 1; ``now``: the step that is under way."""

    now = 0

    def __init__(self, where, value, step):
        super().__init__()
        self.where, self.value, self.step = where, value, step

    def at(self, place):
        super().at(place)
        Poisoned.now = place.step + 1

    def gradients(self, model):
        if self.where == "gradient" and Poisoned.now == self.step:
            next(model.student.parameters()).grad.flatten()[0] = self.value

    def stepped(self, model, place):
        super().stepped(model, place)
        if self.where == "weights" and place.step == self.step:
            with torch.no_grad():
                model.head.weight[0, 0] = self.value


class Loss(SoftTargets):
    """One example's value is none."""

    def values(self, student, teacher, batch, place, part):
        found = super().values(student, teacher, batch, place, part)
        return torch.cat([found[:1] * 0 + BAD["value"], found[1:]]) if Poisoned.now == BAD["step"] else found


class Teacher:
    """Answers with one number that is none."""

    def __init__(self, inner):
        self.fingerprint, self.provides, self.module, self._inner = "bad", inner.provides, None, inner

    def observe(self, batch, needs):
        seen = self._inner.observe(batch, needs)
        if Poisoned.now == BAD["step"]:
            for value in seen.values():
                value[0, 0] = BAD["value"]
        return seen


BAD: dict = {}


def stops(folder, where, value, step):
    one = stage(Net, steps=STEPS, evaluate_every=3, checkpoint_every=1, optimizer=SGD, terms=(LABELS, SoftTargets()))
    BAD.update(value=value, step=step)
    Poisoned.now = 0
    if where == "loss":
        one = replace(one, terms=(LABELS, Loss()))
    if where == "teacher":
        one = replace(one, teacher=Teacher(one.teacher))
    watch = Poisoned(where, value, step)
    workshop = Workshop(folder, watch)
    with pytest.raises(LimbeckError, match="not finite"):
        workshop.train(one)
    assert Poisoned.now == step, "it went on for another step"
    assert ("stepped", step) not in watch.places or where == "weights"
    place = workshop.folder(one)
    assert not (place / "finished").exists()
    tree = checkpoint.latest(place / "checkpoints")
    if step == 1:
        assert tree is None
        return
    assert tree["step"] == step - 1
    assert all(item.isfinite().all() for item in tree["engine"].values())
    metrics = [part["metrics"] for part in tree["parts"] if part and "metrics" in part]
    assert all(isfinite(item) for one in metrics for item in one.values())


WHERE = {"loss": VALUES, "gradient": VALUES, "teacher": VALUES[:2], "weights": VALUES}  # a logit may be minus infinity


@pytest.mark.proof("Q11")
@pytest.mark.parametrize("where", WHERE)
def test_a_number_that_is_none_stops_the_training_at_once(tmp_path, where, tried):
    for value in WHERE[where]:
        stops(tmp_path / str(value), where, value, step=4)
    tried(numbers_that_are_none=len(WHERE[where]))


@pytest.mark.faults
@pytest.mark.proof("Q11")
@pytest.mark.parametrize("where", WHERE)
def test_a_number_that_is_none_stops_the_training_at_any_step(tmp_path, where, tried):
    for value in WHERE[where]:
        for step in range(1, STEPS + 1):
            stops(tmp_path / f"{value} {step}", where, value, step)
    tried(numbers_that_are_none=len(WHERE[where]) * STEPS)

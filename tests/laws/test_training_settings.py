"""Laws of the loop: the moments that observers are told, the settings that act, and numbers that are none."""

from dataclasses import replace
from itertools import pairwise
from math import inf, isfinite

import pytest
import torch
from accelerate import Accelerator
from tests.fakes.experiments import LABELS, SGD, Net, Watching, smooth, stage
from tests.fakes.not_finite import NoNumbers
from torch import nn

from limbeck.errors import LimbeckError
from limbeck.objective import Hints, SoftTargets
from limbeck.objective.schedules import Place
from limbeck.objective.term import Owned
from limbeck.training import checkpoint
from limbeck.training.loop import evaluate, train
from limbeck.training.moments import Best
from limbeck.training.optimizers import clip, groups, optimizer, rate
from limbeck.training.settings import AdamW, Training
from limbeck.training.workshop import Workshop

# --- moments


def test_the_moments_and_their_order(tmp_path):
    seen = Watching()
    train(stage(steps=5, evaluate_every=2, accumulate=4), tmp_path, seen)
    step = ["at", "gradients", "stepped"]
    assert seen.log == [*step, *step, "evaluated", *step, *step, "evaluated", *step, "evaluated"]
    assert [place for what, place in seen.places if what == "at"] == [0, 1, 2, 3, 4]
    assert [place for what, place in seen.places if what == "stepped"] == [1, 2, 3, 4, 5]
    assert [place for what, place in seen.places if what == "evaluated"] == [2, 4, 5]


def test_gradients_are_told_whole_and_before_clipping(tmp_path):
    norms = []

    class Norms(Watching):
        def gradients(self, model):
            found = [p.grad for p in model.student.parameters() if p.grad is not None]
            norms.append(float(torch.stack([grad.norm() for grad in found]).norm()))

    train(stage(smooth, clip=1e-4, steps=2), tmp_path / "1", Norms())
    train(stage(smooth, clip=1e-4, steps=2, accumulate=4), tmp_path / "4", Norms())
    assert min(norms) > 1e-3
    assert norms[0] == pytest.approx(norms[2], rel=1e-5)


def test_an_observer_may_stop(tmp_path):
    class Enough(Watching):
        def evaluated(self, metrics, place):
            super().evaluated(metrics, place)
            return True

    seen = Enough()
    outcome = train(stage(), tmp_path, seen)
    assert seen.places[-1] == ("evaluated", 4)
    assert len(outcome.points) == 1


# --- settings that act


def test_every_group_is_clipped_by_itself():
    student, objective = nn.Linear(3, 2), nn.Linear(3, 2)
    found = groups(student, [("hints", objective, Owned())], 0.1)
    for parameter in student.parameters():
        parameter.grad = torch.full_like(parameter, 100.0)
    for parameter in objective.parameters():
        parameter.grad = torch.full_like(parameter, 1e-3)
    norm = clip(found, 1.0)
    ours = torch.stack([p.grad.norm() for p in student.parameters()]).norm()
    assert float(ours) == pytest.approx(1.0, rel=1e-5)  # clip_grad_norm_ divides by norm + 1e-6
    assert all((p.grad == 1e-3).all() for p in objective.parameters()), "small ones are not made smaller by large ones"
    assert norm == pytest.approx((8 * 100.0**2 + 8 * 1e-6) ** 0.5, rel=1e-6)


def test_vectors_are_not_decayed_and_frozen_parameters_not_trained():
    student = Net()
    student.head.bias.requires_grad_(False)
    found = groups(student, [("hints", nn.Linear(2, 2), Owned())], 0.1)
    for group in found:
        assert {p.ndim > 1 for p in group["params"]} == {group["weight_decay"] > 0}
    assert student.head.bias not in {p for group in found for p in group["params"]}
    with pytest.raises(LimbeckError, match="requires_grad"):
        groups(Net().requires_grad_(False), [], 0.1)


def test_what_the_objective_trains_has_settings_of_its_own():
    part = nn.Linear(2, 2)
    found = groups(Net(), [("hints", part, Owned(rate=0.5, weight_decay=0.0, betas=(0.5, 0.999)))], 0.1)
    own = [group for group in found if group["clip"] == "hints"]
    assert {p for group in own for p in group["params"]} == set(part.parameters())
    assert all(group["factor"] == 0.5 and group["weight_decay"] == 0 for group in own)
    made = optimizer(AdamW(), found)
    assert [group["betas"] for group in made.param_groups] == [(0.9, 0.999)] * 2 + [(0.5, 0.999)] * 2


@pytest.mark.parametrize("decay", ["cosine", "linear", "none"])
@pytest.mark.parametrize("warmup", [0.0, 0.05, 0.3, 1.0])
def test_the_learning_rate_rises_to_its_peak_and_falls_to_zero(decay, warmup):
    training = Training(steps=40, warmup=warmup, decay=decay, optimizer=AdamW(learning_rate=0.5))
    rates = [rate(training, step) for step in range(41)]
    rising = round(40 * warmup)
    assert rates[max(0, rising - 1)] == 0.5
    assert max(rates) == 0.5
    assert min(rates[:40]) > 0, "no step is wasted"
    if rising:
        assert rates[0] == pytest.approx(0.5 / rising)
    if rising < 40:
        assert rates[40] == pytest.approx(0.5 if decay == "none" else 0, abs=1e-15)
    assert all(after >= before for before, after in pairwise(rates[:rising]))
    assert all(after <= before for before, after in pairwise(rates[rising:40]))


def test_patience_counts_evaluations_without_improvement(tmp_path):
    seen = Watching()
    idle = SGD.model_copy(update={"learning_rate": 1e-12})
    outcome = train(stage(smooth, evaluate_every=1, patience=3, optimizer=idle), tmp_path, seen)
    assert len(outcome.points) == 4
    assert outcome.metrics["step"] == 1


def test_the_best_is_the_most_accurate_then_the_likeliest_then_the_first():
    student = nn.Linear(1, 1)
    best = Best(student, "best", patience=None)
    found = [(0.5, 1.0), (0.6, 1.2), (0.6, 1.1), (0.6, 1.1), (0.55, 0.1)]
    for step, (accuracy, nll) in enumerate(found):
        with torch.no_grad():
            student.weight.fill_(step)
        best.evaluated({"accuracy": accuracy, "nll": nll}, Place(step, 5))
    assert float(best.weights["weight"]) == 2 == best.metrics["step"]
    assert best.waited == 2


@pytest.mark.parametrize("keep", ["best", "last"])
def test_what_is_delivered_is_what_was_measured(tmp_path, keep):
    one = stage(keep=keep, evaluate_every=1, steps=15, optimizer=AdamW(learning_rate=0.1))
    outcome = train(one, tmp_path)
    ranks = [(point["accuracy"], -point["nll"]) for point in outcome.points]
    wanted = ranks.index(max(ranks)) if keep == "best" else len(ranks) - 1
    assert outcome.metrics["step"] == wanted + 1
    if keep == "best":
        assert wanted < len(ranks) - 1, "or the two choices could not be told apart"
    module = one.start.module()
    module.load_state_dict(outcome.weights)
    again = evaluate(module, one.validation, Accelerator())
    assert again == {name: outcome.metrics[name] for name in again}


def test_projectors_are_trained_but_not_delivered(tmp_path):
    weights = []

    class Look(Watching):
        def gradients(self, model):
            weights.append([p.detach().clone() for p in model.objective.parameters()])

    outcome = train(stage(), tmp_path, Look())
    assert outcome.weights.keys() == Net().state_dict().keys()
    assert [tuple(p.shape) for p in weights[0]] == [(32, 16), (32,)]
    assert not torch.equal(weights[0][0], weights[-1][0])


SEEN = []


class Spy(SoftTargets):
    def values(self, student, teacher, batch, place, part):
        SEEN.append((student["logits"].dtype, torch.is_autocast_enabled("cpu")))
        return super().values(student, teacher, batch, place, part)


class SpyHints(Hints):
    def values(self, student, teacher, batch, place, part):
        found = super().values(student, teacher, batch, place, part)
        SEEN.append((found.dtype, torch.is_autocast_enabled("cpu")))
        return found


def test_bf16_trains_and_the_objective_is_computed_in_float32(tmp_path):
    SEEN.clear()
    dtypes = []

    class Net16(Net):
        def forward(self, x):
            out = super().forward(x)
            if self.training:
                dtypes.append(out.dtype)
            return out

    terms = (LABELS, Spy(), SpyHints(student="body", teacher="body"))
    half = train(stage(Net16, precision="bf16", terms=terms, clip=None, optimizer=SGD), tmp_path / "half")
    assert set(dtypes) == {torch.bfloat16}
    assert set(SEEN) == {(torch.float32, False)}
    assert {value.dtype for name, value in half.weights.items() if "num" not in name} == {torch.float32}
    full = train(stage(Net16, terms=terms, clip=None, optimizer=SGD), tmp_path / "full")  # the same process, after bf16
    assert dtypes[-1] == torch.float32
    assert 0 < abs(half.metrics["nll"] - full.metrics["nll"]) < 0.05  # 8 bits of mantissa


# --- numbers that are no numbers


def _in_gradient(model):
    next(model.student.parameters()).grad[0] = inf


@pytest.mark.parametrize("where", ["gradient", "teacher", "weights", "weights at the end"])
@pytest.mark.proof("Q11")
def test_what_is_not_finite_stops_before_the_update_and_nothing_is_marked_good(tmp_path, where, tried):
    one = stage(steps=8, evaluate_every=4, checkpoint_every=1)

    class Poison(Watching):
        def gradients(self, model):
            if where == "gradient" and self.places[-1] == ("at", 5):
                _in_gradient(model)

        def stepped(self, model, place):
            super().stepped(model, place)
            if place.step == {"weights": 5, "weights at the end": 8}.get(where):
                with torch.no_grad():
                    model.head.weight[0, 0] = inf

    if where == "teacher":
        one = replace(one, teacher=NoNumbers(one.teacher, 6))  # the projector is fitted to the first
    workshop = Workshop(tmp_path, Poison())
    with pytest.raises(LimbeckError, match="not finite"):
        workshop.train(one)
    folder = workshop.folder(one)
    assert not (folder / "finished").exists()
    tree = checkpoint.latest(folder / "checkpoints")
    assert tree["step"] == {"weights": 4, "weights at the end": 7}.get(where, 5)
    assert all(value.isfinite().all() for value in tree["engine"].values())
    assert all(isfinite(value) for value in tree["parts"][1]["metrics"].values())
    tried(numbers_that_are_none=1)

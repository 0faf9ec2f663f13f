"""Laws of the loop: what must not change a training does not, and what must be seen is seen."""

import random
from dataclasses import replace
from itertools import pairwise
from math import inf, isfinite
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from tests.fakes.experiments import (
    HINTS,
    LABELS,
    LANGUAGE,
    SGD,
    SHARED,
    SOFT,
    Convolutions,
    Crash,
    Net,
    Watching,
    apart,
    control_c,
    crash,
    examples,
    flipped,
    same,
    shared,
    smooth,
    splits,
    stage,
    teacher,
)
from tests.fakes.processes import in_two_processes
from tests.fakes.served import serving
from torch import nn

from limbeck.errors import Interrupted, LimbeckError, SignalError
from limbeck.models.nets import SmallCnn
from limbeck.objective import Adversarial, Crd, Hints, Labels, RkdDistance, SoftTargets
from limbeck.objective.schedules import Place
from limbeck.objective.term import Owned
from limbeck.teachers.cached import CachedTeacher
from limbeck.teachers.labelling import label
from limbeck.training import checkpoint
from limbeck.training.loop import evaluate, train
from limbeck.training.moments import Best
from limbeck.training.optimizers import clip, groups, optimizer, rate
from limbeck.training.order import derived
from limbeck.training.settings import AdamW, Training
from limbeck.training.workshop import Workshop


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Uninterrupted trainings by the kind of network, each done once."""
    done = {}

    def get(make):
        if make not in done:
            done[make] = train(stage(make), tmp_path_factory.mktemp("whole"))
        return done[make]

    return get


# --- resumed = uninterrupted


@pytest.mark.parametrize("after", range(1, 12))
def test_stopped_by_ctrl_c_after_any_step_and_resumed_is_uninterrupted(tmp_path, whole, after):
    with pytest.raises(Interrupted, match=f"after step {after} of 12"):
        train(stage(), tmp_path, Watching(after=after, act=control_c))
    seen = Watching()
    assert same(train(stage(), tmp_path, seen), whole(Net))
    assert seen.places[0] == ("at", after), "no step is done twice"


@pytest.mark.parametrize("make", [Net, Convolutions])
@pytest.mark.parametrize("workers", [0, 2])
def test_crashed_and_resumed_from_an_older_checkpoint_is_uninterrupted(tmp_path, whole, make, workers):
    one = stage(make, checkpoint_every=3, workers=workers)
    for after in (2, 5, 10):  # before the first checkpoint, between two, after the last but one
        with pytest.raises(Crash):
            train(one, tmp_path, Watching(after=after, act=crash))
    assert same(train(one, tmp_path), whole(make))


def test_interrupted_twice_in_a_row_and_between_other_trainings(tmp_path, whole):
    for after in (3, 7):
        with pytest.raises(Interrupted):
            train(stage(), tmp_path / "one", Watching(after=after, act=control_c))
        torch.rand(3)
        train(stage(seed=9, steps=2), tmp_path / f"other-{after}")
    assert same(train(stage(), tmp_path / "one"), whole(Net))


def test_another_seed_is_another_training(tmp_path, whole):
    assert not same(train(stage(seed=1), tmp_path), whole(Net))


def test_early_stopping_survives_an_interruption(tmp_path):
    one = stage(smooth, evaluate_every=1, patience=5, optimizer=SGD.model_copy(update={"learning_rate": 1e-12}))
    with pytest.raises(Interrupted):
        train(one, tmp_path, Watching(after=3, act=control_c))
    seen = Watching()
    train(one, tmp_path, seen)
    assert seen.places[-1] == ("evaluated", 6), "1 best, then 5 without improvement, counted across the stop"


class Tied(nn.Module):
    """One matrix under two names."""

    def __init__(self):
        super().__init__()
        self.body = nn.Linear(12, 12, bias=False)
        self.again = nn.Linear(12, 12, bias=False)
        self.again.weight = self.body.weight
        self.head = nn.Linear(12, 3)

    def forward(self, x):
        return self.head(torch.relu(self.again(torch.relu(self.body(x)))))


def test_tied_weights_survive_an_interruption(tmp_path):
    one = stage(Tied)
    once = train(one, tmp_path / "whole")
    with pytest.raises(Interrupted):
        train(one, tmp_path / "cut", Watching(after=5, act=control_c))
    assert same(train(one, tmp_path / "cut"), once)
    module = Workshop(tmp_path / "home").train(one).module()
    assert module.again.weight is module.body.weight


# --- accumulated = one batch, two processes = one


@pytest.mark.parametrize(("batch", "accumulate"), [(16, 4), (15, 4), (5, 4), (16, 16)])
def test_accumulated_is_one_batch(tmp_path, batch, accumulate):
    # one unit of the sums' rounding (1e-7) for each of 12 steps of size 0.1 stays far below 1e-6
    few = splits(labelled=20).train
    one = stage(smooth, optimizer=SGD, batch_size=batch, examples=few)
    many = stage(smooth, optimizer=SGD, batch_size=batch, examples=few, accumulate=accumulate)
    first, second = Watching(), Watching()
    assert apart(train(one, tmp_path / "1", first).weights, train(many, tmp_path / "4", second).weights) < 1e-6
    for a, b in zip(first.losses, second.losses, strict=True):
        assert a == pytest.approx(b, abs=1e-6)


def test_a_balanced_weight_and_a_gate_accumulate_too(tmp_path):
    terms = (
        LABELS,
        SoftTargets(weight={"schedule": "uncertainty"}, gate={"by": "teacher-certainty"}),
        SoftTargets(temperature={"schedule": "learned", "rise": 0.5}),
    )
    few = splits(labelled=20).train
    one, many = (
        train(stage(smooth, optimizer=SGD, examples=few, terms=terms, accumulate=parts), tmp_path / str(parts))
        for parts in (1, 4)
    )
    assert apart(one.weights, many.weights) < 1e-6
    for a, b in zip(one.points, many.points, strict=True):
        # T^2 = 243 magnifies the rounding of single precision
        assert a["parts"] == pytest.approx(b["parts"], abs=1e-4)
        assert a["kept"]["soft-targets"] == pytest.approx(b["kept"]["soft-targets"], abs=1e-6)


def test_relations_refuse_to_be_accumulated(tmp_path):
    terms = (LABELS, RkdDistance(student="body", teacher="body"))
    with pytest.raises(SignalError, match=r"'rkd-distance' compares the examples of a batch .* accumulate"):
        train(stage(smooth, terms=terms, accumulate=2), tmp_path)


@pytest.mark.parametrize("kind", ["crd", "adversarial", "learned"])
def test_what_a_term_trains_and_remembers_survives_a_stop(tmp_path, kind):
    term = {
        "crd": Crd(student="body", teacher="body", width=4, negatives=8),
        "adversarial": Adversarial(student="logits", teacher="logits", width=4),
        "learned": SoftTargets(weight={"schedule": "uncertainty"}, temperature={"schedule": "learned"}),
    }[kind]
    one = stage(terms=(LABELS, term))
    whole = train(one, tmp_path / "whole")
    with pytest.raises(Interrupted):
        train(one, tmp_path / "cut", Watching(after=7, act=control_c))
    assert same(train(one, tmp_path / "cut"), whole)
    assert not any("memory" in name or "layers" in name or "theta" in name for name in whole.weights), "not delivered"


def test_two_processes_are_one(tmp_path):
    in_two_processes("tests.fakes.experiments", tmp_path)
    ours, theirs = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2))
    for name in (*SHARED, *LANGUAGE):
        alone = train(shared(name), tmp_path / "alone" / name).weights
        assert apart(ours[name], alone) < 1e-6, name
        assert apart(ours[name], theirs[name]) == 0, name
    assert apart(ours["resumed"], ours["hints"]) == 0
    assert apart(ours["workshop"], ours["hints"]) == 0


# --- live = cached = served


def _curve(one, folder):
    seen = Watching()
    return train(one, folder, seen), seen.losses


@pytest.mark.parametrize("make", [Net, Convolutions])
def test_live_cached_and_served_teachers_teach_alike(tmp_path, make):
    terms = (LABELS, SOFT, HINTS) if make is Net else (LABELS, SOFT)
    live = stage(make, views=2, terms=terms)
    outcome, losses = _curve(live, tmp_path / "live")

    labelled = CachedTeacher(live.teacher, tmp_path / "labelled", live.examples.inputs_fingerprint)
    label(labelled, live.examples, (1, 2), 256, frozenset({"logits", "body"}))
    _, cached = _curve(replace(live, teacher=labelled), tmp_path / "cached")
    assert labelled.misses == 100, "only labelling asked the teacher"
    with serving(live.teacher) as client:
        client_outcome, served = _curve(replace(live, teacher=client), tmp_path / "served")
        assert client.asked == 12 * 16 + 8  # and the rows that the projector is fitted to

    # matrix products over 256 rows and over 16 round differently in the last bit, 1e-7 of a logit; Adam's quotient
    # keeps that relative size
    for a, b, c in zip(losses, cached, served, strict=True):
        assert a == pytest.approx(b, abs=1e-6)
        assert a == pytest.approx(c, abs=1e-6)
    assert same(outcome, client_outcome), "the same batches over the wire: every bit"


def test_a_store_replayed_over_the_same_batches_is_live_bit_for_bit(tmp_path):
    live = stage(views=2)
    writing = CachedTeacher(live.teacher, tmp_path / "store", live.examples.inputs_fingerprint)
    first, first_losses = _curve(live, tmp_path / "live")
    second, second_losses = _curve(replace(live, teacher=writing), tmp_path / "written")
    writing.close()

    class Silent:
        fingerprint, provides, module = live.teacher.fingerprint, live.teacher.provides, None

        def observe(self, batch, needs):
            raise AssertionError("all is stored")

    replay = CachedTeacher(Silent(), tmp_path / "store", live.examples.inputs_fingerprint)
    third, third_losses = _curve(replace(live, teacher=replay), tmp_path / "replayed")
    assert second_losses == third_losses
    assert same(second, third)
    # without a store the teacher is asked for the rows of a projector's fit again, in other batches: other last bits
    for a, b in zip(first_losses, third_losses, strict=True):
        assert a == pytest.approx(b, abs=1e-6)
    assert apart(first.weights, third.weights) < 1e-4


# --- what training leaves alone


@pytest.mark.parametrize("workers", [0, 2])
def test_the_callers_random_numbers_are_not_drawn(tmp_path, workers):
    torch.manual_seed(3), np.random.seed(3), random.seed(3)
    wanted = torch.rand(2), np.random.rand(2), random.random()
    torch.manual_seed(3), np.random.seed(3), random.seed(3)
    train(stage(workers=workers, steps=3), tmp_path)
    assert torch.equal(torch.rand(2), wanted[0])
    assert (np.random.rand(2) == wanted[1]).all()
    assert random.random() == wanted[2]


def test_the_callers_random_numbers_decide_nothing(tmp_path, whole):
    torch.manual_seed(77), np.random.seed(77), random.seed(77)
    assert same(train(stage(), tmp_path), whole(Net))


def test_the_teacher_is_as_it_was(tmp_path):
    one = stage()
    one.teacher.module.train()  # someone's careless parent
    before = {name: value.clone() for name, value in one.teacher.module.state_dict().items()}
    train(one, tmp_path)
    after = one.teacher.module.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert not any(part.training for part in one.teacher.module.modules())
    assert all(parameter.grad is None for parameter in one.teacher.module.parameters())


def test_a_student_given_in_memory_is_a_copy(tmp_path):
    module = Net()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    outcome = train(stage(module), tmp_path)
    assert all(torch.equal(value, module.state_dict()[name]) for name, value in before.items())
    assert apart(outcome.weights, before) > 0


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


class NoNumbers:
    def __init__(self, inner, after):
        self.fingerprint, self.provides, self.module = "nan", inner.provides, None
        self._inner, self._left = inner, after

    def observe(self, batch, needs):
        self._left -= 1
        seen = self._inner.observe(batch, needs)
        return seen if self._left >= 0 else {name: value * float("nan") for name, value in seen.items()}


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


# --- arms


def test_a_trained_arm_is_trained_once(tmp_path):
    first, again = Watching(), Watching()
    one = Workshop(tmp_path, first).train(stage())
    two = Workshop(tmp_path, again).train(replace(stage(), name="another name"))
    assert first.log
    assert not again.log
    assert (one.reused, two.reused) == (False, True)
    assert (one.key, one.fingerprint, one.metrics, one.points) == (two.key, two.fingerprint, two.metrics, two.points)
    assert two.name == "another name"
    assert not (Workshop(tmp_path).folder(stage()) / "checkpoints").exists()
    assert apart(one.module().state_dict(), train(stage(), tmp_path / "alone").weights) == 0
    assert not one.module().training


def _cut(path):
    path.write_bytes(path.read_bytes()[:-1])


@pytest.mark.parametrize("name", ["model.safetensors", "result.json"])
@pytest.mark.parametrize(
    "harm",
    [
        lambda path: path.unlink(),
        _cut,
        lambda path: path.write_bytes(b""),
        *(lambda path, share=share: flipped(path, int(share * path.stat().st_size), 3) for share in (0, 0.4, 0.99)),
    ],
)
def test_a_damaged_arm_is_trained_again(tmp_path, name, harm):
    one = stage(steps=2)
    first = Workshop(tmp_path).train(one)
    harm(first.weights.parent / name)
    second = Workshop(tmp_path).train(one)
    assert not second.reused
    assert second.fingerprint == first.fingerprint
    assert Workshop(tmp_path).train(one).reused


def _key(one):
    return Workshop(Path("nowhere")).folder(one).name


@pytest.mark.parametrize(
    "change",
    [
        {"terms": (LABELS, SOFT)},
        {"terms": (LABELS, HINTS, SOFT)},
        {"terms": (LABELS, SOFT.model_copy(update={"loss": "cross-entropy"}), HINTS)},
        {"seed": 1},
        {"examples": examples(100, 0, 49)},
        {"examples": splits(labelled=49).train},
        {"examples": replace(splits().train, mixup=0.1)},
        {"validation": examples(100, 50, 69)},
        {"teacher": teacher(seed=6)},
        {"teacher": None},
        {"views": 2},
        {"make": smooth},
        {"steps": 13},
        {"batch_size": 15},
        {"accumulate": 2},
        {"warmup": 0.1},
        {"decay": "none"},
        {"clip": None},
        {"precision": "bf16"},
        {"evaluate_every": 3},
        {"patience": 100},
        {"keep": "last"},
        {"optimizer": AdamW(learning_rate=0.01, eps=1e-7)},
        {"optimizer": SGD},
    ],
    ids=lambda change: " ".join(change),
)
def test_an_arms_key_names_all_that_determines_it(change):
    assert _key(stage(**change)) != _key(stage())


def test_an_arms_key_names_the_threads():
    before = _key(stage())
    torch.set_num_threads(2)
    try:
        assert _key(stage()) != before
    finally:
        torch.set_num_threads(1)
    assert _key(stage()) == before


def test_an_arms_key_names_nothing_else():
    first = _key(stage())
    assert _key(replace(stage(), name="x")) == first
    assert _key(stage(workers=2, checkpoint_every=3)) == first
    written = Training(
        **{"steps": 12, "batch-size": 16, "evaluate-every": 4, "warmup": 0.05, "clip": 1, "accumulate": 1},
        optimizer={"name": "adamw", "learning-rate": 0.01, "weight-decay": 0.01, "betas": [0.9, 0.999]},
    )
    assert _key(replace(stage(), training=written)) == first
    terms = (Labels(weight=0.3, smoothing=0), SoftTargets(weight=0.7, temperature=2, loss="kl"), HINTS)
    assert _key(replace(stage(), terms=terms)) == first


def test_initial_weights_and_data_order_have_seeds_of_their_own():
    names = [("data",), ("objective",), ("training", 0), ("training", 1), ("order", 0)]
    assert len({derived(seed, *name) for seed in range(20) for name in names}) == 100
    assert all(0 <= derived(seed, "data") < 2**63 for seed in range(100))


def test_a_convolution_of_the_house_resumes(tmp_path):
    class House(SmallCnn):
        def __init__(self):
            super().__init__(1, 4, 2, 3)

        def forward(self, x):
            return super().forward(x.view(-1, 1, 3, 4))

    one = stage(House, terms=(LABELS, SOFT))
    once = train(one, tmp_path / "whole")
    with pytest.raises(Interrupted):
        train(one, tmp_path / "cut", Watching(after=6, act=control_c))
    assert same(train(one, tmp_path / "cut"), once)

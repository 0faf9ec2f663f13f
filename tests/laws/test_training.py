"""Laws of the loop: what must not change a training does not, and what must be seen is seen."""

import random
from dataclasses import replace

import numpy as np
import pytest
import torch
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
    same,
    shared,
    smooth,
    splits,
    stage,
)
from tests.fakes.processes import in_two_processes
from tests.fakes.served import serving
from torch import nn

from limbeck.errors import Interrupted, SignalError
from limbeck.models.nets import SmallCnn
from limbeck.objective import Adversarial, Crd, RkdDistance, SoftTargets
from limbeck.teachers.cached import CachedTeacher
from limbeck.teachers.labelling import label
from limbeck.training.loop import train
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

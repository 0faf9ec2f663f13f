"""A term that says nothing for a whole epoch stops the training, and only such a term does."""

from types import SimpleNamespace

import pytest
import torch
from accelerate import Accelerator
from tests.fakes.experiments import LABELS, SOFT, Net, Watching, control_c, same, smooth, stage, start
from torch import nn

from limbeck.errors import Interrupted, LimbeckError
from limbeck.models.identity import of_module
from limbeck.objective import Hints, SoftTargets
from limbeck.teachers.local import LocalTeacher
from limbeck.training.loop import train
from limbeck.training.silence import Silence

EPOCH = 4  # 50 examples in batches of 16


class Constant(nn.Module):
    """Ones for every example, but for its first ``loud`` batches of a training."""

    def __init__(self, loud: int = 0):
        super().__init__()
        self.loud = loud
        self.register_buffer("seen", torch.zeros((), dtype=torch.int64))

    def forward(self, x):
        if not self.training:
            return torch.ones_like(x)
        self.seen += 1
        return torch.full_like(x, 2.0 if self.seen <= self.loud else 1.0)


class Flat(Net):
    """A module that gives the same for every input stands beside the layers that learn."""

    def __init__(self, loud: int = 0):
        super().__init__(norm=False, drop=0.0)
        self.flat = Constant(loud)

    def forward(self, x):
        self.flat(x)
        return super().forward(x)


FLAT = Hints(student="flat", teacher="flat")


def knowing(make, seed=5):
    module = start(make, seed).module().requires_grad_(False)
    return LocalTeacher(module, of_module(module))


def flat(*beside, make=Flat, **changes):
    return stage(make, **{"terms": (LABELS, *(beside or (FLAT,))), "teacher": knowing(Flat), **changes})


def silence(*names, num_processes=1, reduce=None):
    accelerator = Accelerator() if num_processes == 1 else SimpleNamespace(
        num_processes=num_processes, device=torch.device("cpu"), reduce=reduce
    )  # fmt: skip
    return Silence(stage(), names, accelerator)


# --- in a training


def test_constants_on_both_sides_stop_it_when_the_epoch_ends(tmp_path):
    seen = Watching()
    with pytest.raises(LimbeckError, match=r"'hints' of tiny was exactly zero for a whole epoch.*constant\?"):
        train(flat(), tmp_path, seen)
    assert seen.places[-1] == ("at", EPOCH - 1), "the last step of the first epoch, and none after it"


def test_it_names_the_silent_term_of_several(tmp_path):
    body = Hints(student="body", teacher="body")
    with pytest.raises(LimbeckError, match="'hints-2' of"):
        train(flat(SOFT, body, FLAT), tmp_path)


def test_a_module_that_both_sides_share_stops_it(tmp_path):
    theirs = knowing(smooth)

    def sharing():
        student = smooth()
        student.body = theirs.module.body
        return student

    terms = (LABELS, Hints(student="body", teacher="body"))
    with pytest.raises(LimbeckError, match=r"'hints' of tiny was exactly zero.*share the module"):
        train(stage(sharing, terms=terms, teacher=theirs), tmp_path)


def test_less_than_an_epoch_says_nothing_yet(tmp_path):
    train(flat(steps=EPOCH - 1), tmp_path / "less")
    with pytest.raises(LimbeckError, match="whole epoch"):
        train(flat(steps=EPOCH), tmp_path / "one")


@pytest.mark.parametrize(
    "term",
    [
        Hints(student="flat", teacher="flat", weight=0),
        Hints(student="flat", teacher="flat", gate={"by": "teacher-confidence", "above": 1}),
        SoftTargets(gate={"by": "teacher-confidence", "above": 1}),
    ],
    ids=["it weighs nothing", "its gate keeps none", "a gate of soft targets keeps none"],
)
def test_a_term_that_rests_or_keeps_no_example_may_be_silent(tmp_path, term):
    assert train(flat(term), tmp_path).points[-1]["step"] == 12


def test_a_gate_that_keeps_examples_excuses_nothing(tmp_path):
    gated = Hints(student="flat", teacher="flat", gate={"by": "teacher-confidence", "below": 1})
    with pytest.raises(LimbeckError, match="'hints'"):
        train(flat(gated), tmp_path)


def test_a_student_that_started_as_the_teacher_may_be_silent(tmp_path):
    assert train(flat(teacher=knowing(Flat, seed=0)), tmp_path).points[-1]["step"] == 12
    with pytest.raises(LimbeckError, match="'hints'"):  # the same but for one seed
        train(flat(seed=1, teacher=knowing(Flat, seed=0)), tmp_path / "other")


# --- resumed = uninterrupted


@pytest.mark.parametrize("after", [1, 2, 3])
def test_a_stop_in_the_middle_of_the_epoch_changes_nothing(tmp_path, after):
    with pytest.raises(Interrupted, match=f"after step {after} "):
        train(flat(), tmp_path, Watching(after=after, act=control_c))
    seen = Watching()
    with pytest.raises(LimbeckError, match="'hints' of tiny was exactly zero"):
        train(flat(), tmp_path, seen)
    assert seen.places[0] == ("at", after)
    assert seen.places[-1] == ("at", EPOCH - 1), "where it stops uninterrupted"


def test_what_was_heard_before_a_stop_still_counts(tmp_path):
    one = flat(make=lambda: Flat(loud=2), steps=EPOCH + 2)
    with pytest.raises(Interrupted):
        train(one, tmp_path / "cut", Watching(after=2, act=control_c))
    assert same(train(one, tmp_path / "cut"), train(one, tmp_path / "whole"))


# --- told the parts of each step


@pytest.mark.parametrize("value", [1e-30, -0.5])
@pytest.mark.parametrize("when", range(EPOCH))
def test_one_step_with_a_value_is_enough(when, value):
    watched = silence("vid")
    for step in range(EPOCH):
        watched.add({"vid": value if step == when else 0.0})


def test_every_epoch_is_looked_at():
    watched = silence("hints", "soft-targets")
    for _ in range(EPOCH):  # the other one says nothing, and rests
        watched.add({"soft-targets": 1.0})
    for _ in range(EPOCH - 1):
        watched.add({"soft-targets": 1.0, "hints": 0.0})
    with pytest.raises(LimbeckError, match="'hints'"):
        watched.add({"soft-targets": 1.0})


def test_what_an_epoch_said_does_not_excuse_the_next():
    watched = silence("hints")
    for _ in range(EPOCH):
        watched.add({"hints": 1.0})
    for _ in range(EPOCH - 1):
        watched.add({"hints": 0.0})
    with pytest.raises(LimbeckError, match="'hints'"):
        watched.add({"hints": 0.0})


def test_steps_without_an_example_do_not_speak_for_it():
    watched = silence("hints")
    for _ in range(EPOCH):
        watched.add({"hints": 0.0, "hints.kept": 0.0})
    for _ in range(EPOCH - 1):
        watched.add({"hints": 0.0, "hints.kept": 0.0})
    with pytest.raises(LimbeckError, match="'hints'"):
        watched.add({"hints": 0.0, "hints.kept": 0.1})


@pytest.mark.parametrize(("others", "stops"), [([0.0, 0.0], True), ([0.0, 1.0], True), ([0.3, 1.0], False)])
def test_several_processes_agree(others, stops):
    watched = silence("hints", num_processes=2, reduce=lambda rows, how: rows + torch.tensor([others]))
    for _ in range(EPOCH - 1):
        watched.add({"hints": 0.0})
    if stops:
        with pytest.raises(LimbeckError, match="'hints'"):
            watched.add({"hints": 0.0})
    else:
        watched.add({"hints": 0.0})


def test_a_process_that_heard_nothing_stops_with_the_others():
    watched = silence("hints", num_processes=2, reduce=lambda rows, how: rows + torch.tensor([[0.0, 1.0]]))
    for _ in range(EPOCH - 1):
        watched.add({})
    with pytest.raises(LimbeckError, match="'hints'"):
        watched.add({})


def test_a_term_that_rests_in_all_processes_may_be_silent():
    watched = silence("hints", num_processes=2, reduce=lambda rows, how: rows)
    for _ in range(EPOCH):
        watched.add({})

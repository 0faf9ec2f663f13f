"""On-policy training as a regime: its arms, their keys, and what cannot be."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from tests.fakes import experiments
from tests.fakes.writers import BOTH, DISTILLM2, LABELS, MINILLM, NEAR, OnPolicy, stage

from limbeck.data.batch import Batch
from limbeck.data.examples import Splits
from limbeck.errors import LimbeckError, SettingError, SignalError
from limbeck.objective import Diverging
from limbeck.objective.returns import Returns
from limbeck.regimes.plan import Plan
from limbeck.regimes.walk import walk
from limbeck.teachers.store.top_k import TopKCodec
from limbeck.teachers.teacher import Provides
from limbeck.training.loop import train
from limbeck.training.workshop import Workshop

# --- keys


def test_what_is_not_on_policy_keeps_its_key():
    assert not {"texts", "returns"} & Diverging().plain().keys()
    plain, writing = stage(None), stage(BOTH)
    module = plain.model()
    assert "writing" not in plain.identity(module)
    assert writing.identity(module) == plain.identity(module) | {"writing": BOTH.plain()}
    term = MINILLM[1]
    assert Diverging.model_validate(term.plain()) == term


# --- the regime


def plan(**changes):
    one = stage(None)
    given = {
        "splits": Splits(one.examples, one.validation, one.validation),
        "student": one.start.spec,
        "terms": (LABELS, NEAR),
        "training": one.training,
        "teacher": one.teacher,
        "teacher_stages": (),
        "views": 0,
        "seed": 0,
        "context": one.start.context,
    }
    return Plan(**{**given, **changes})


def stages(arm, one):
    """The steps that an arm yields, each answered by the stage itself."""
    regime, found = BOTH.arms(one)[arm](one), []
    try:
        while True:
            found.append(regime.send(found[-1] if found else None))
    except StopIteration:
        return found


def test_the_control_and_off_policy_training_stand_beside_it():
    one = plan()
    assert list(BOTH.arms(one)) == ["control", "off_policy", "distilled"]
    ((control,), (off,), (distilled,)) = (stages(arm, one) for arm in BOTH.arms(one))
    (told,) = BOTH.stages(one)
    assert distilled.identity(one.start.module()) == told.identity(one.start.module())
    keys = {name: each.identity(one.start.module()) for name, each in (("on", distilled), ("off", off))}
    assert keys["on"] == keys["off"] | {"writing": BOTH.plain()}, "they differ in the writing alone"
    assert control.writing is None
    assert control.teacher is None
    assert control.training == off.training == distilled.training == one.training


def test_without_writing_given_texts_are_all_and_terms_of_written_ones_are_left_out():
    ((off,), (distilled,)) = (stages(arm, plan(terms=DISTILLM2)) for arm in ("off_policy", "distilled"))
    assert off.terms == DISTILLM2[:1]
    assert distilled.terms == DISTILLM2
    assert list(BOTH.arms(plan(terms=MINILLM))) == ["control", "distilled"], "labels alone are the control"


def test_an_arm_is_trained_once(tmp_path):
    one = plan()

    def walked():
        return walk(BOTH.distilled(one), Workshop(tmp_path), tmp_path / "journal.json")

    first, again = walked(), walked()
    assert (first.reused, again.reused) == (False, True)
    assert first.fingerprint == again.fingerprint


# --- what cannot be


def without_generate():
    return torch.nn.Sequential(torch.nn.Embedding(24, 24))


def elsewhere(**provides):
    class Other:
        fingerprint, module = "other", None

        def __init__(self):
            self.provides = replace(Provides(), **provides)

        def observe(self, batch, needs):
            raise AssertionError("it is refused before it is asked")

    return Other()


@pytest.mark.parametrize(
    ("settings", "changes", "why"),
    [
        ({}, {"make": without_generate}, "Sequential, the student, has no generate"),
        ({"max_new_tokens": 60}, {}, "the student reads 64 at most: set 'max-new-tokens' to 5"),
        ({"opening": 60, "max_new_tokens": 6}, {}, "longest prompt has 60 tokens"),
        ({}, {"teacher": elsewhere(unseen=False)}, "stored outputs say nothing"),
        ({"mixed": 0.2}, {"teacher": elsewhere()}, "no model in memory"),
        ({"share": 0.5, "teacher_share": 0.5}, {"teacher": elsewhere()}, "no model in memory"),
    ],
)
def test_what_cannot_be_written_with_is_told_before_the_first_step(settings, changes, why):
    one = stage(OnPolicy(**{"max_new_tokens": 6, **settings}), **changes)
    student = changes["make"]() if "make" in changes else one.model()
    with pytest.raises(LimbeckError, match=why):
        one.writing.pen(one, student)


def test_other_tasks_and_two_tokenizers_are_refused():
    with pytest.raises(LimbeckError, match=r"the task here is 'classes'"):
        BOTH.pen(experiments.stage(), None)
    one = stage(BOTH)
    batch = one.examples.batch(one.examples.rows[:1], torch.zeros(1, dtype=torch.int64))
    two = Batch.of({**batch.inputs, "teacher.input_ids": batch.inputs["input_ids"]})
    one = replace(one, examples=SimpleNamespace(**vars(one.examples), batch=lambda ids, views: two))
    with pytest.raises(LimbeckError, match=r"'teacher.input_ids' beside.*same tokenizer"):
        BOTH.pen(one, one.model())


def test_a_store_is_refused_as_it_cannot_hold_what_is_not_written_yet():
    with pytest.raises(LimbeckError, match=r"leave teacher\.store out"):
        BOTH.stages(plan(codec=TopKCodec()))


def test_nobody_learns_from_written_texts_where_nobody_writes(tmp_path):
    with pytest.raises(SignalError, match=r"texts: written.*nobody writes.*on-policy"):
        train(stage(None, terms=MINILLM), tmp_path)


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (lambda: OnPolicy(share=0.7, teacher_share=0.4), "together they are at most 1"),
        (lambda: OnPolicy(share=1.5), "from 0 to 1"),
        (lambda: OnPolicy(share=-0.5), "not negative"),
        (lambda: OnPolicy(temperature=0.0), "greater than 0"),
        (lambda: OnPolicy(mixed=1.0), "less than 1"),
        (lambda: Diverging(kind="forward-kl", texts="written", returns=Returns()), "reverse-kl with texts: written"),
        (lambda: Diverging(kind="reverse-kl", returns=Returns()), "reverse-kl with texts: written"),
        (lambda: Diverging(kind="reverse-kl", texts="written", temperature=2.0, returns=Returns()), "temperature 1"),
    ],
)
def test_wrong_settings_are_named(make, why):
    with pytest.raises(SettingError, match=why):
        make()

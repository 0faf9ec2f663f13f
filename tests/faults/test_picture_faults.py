"""Without data: what no pictures can be made of is named before step 0."""

from dataclasses import replace

import pytest
from accelerate import PartialState
from tests.fakes.experiments import LABELS, SOFT, plan, seeded_teacher
from tests.fakes.pictures import Convolutions, experienced, picture_plan

from limbeck.errors import LimbeckError
from limbeck.regimes.generator import Generator
from limbeck.regimes.inversion import Inversion
from limbeck.synthesis.games import Dafl
from limbeck.synthesis.inversion import Pictures
from limbeck.teachers.ensemble import EnsembleTeacher

INVERSION, GENERATOR = Inversion(pictures=Pictures(count=18, batch_size=9, steps=3)), Generator(width=4, latent=8)
BOTH = [INVERSION, GENERATOR]


def refused(regime, one, match):
    with pytest.raises(LimbeckError, match=match):
        regime.stages(one)


@pytest.mark.parametrize("regime", BOTH, ids=lambda one: one.name)
def test_what_no_pictures_can_be_made_of_is_named(regime, tmp_path):
    one = picture_plan(tmp_path)
    refused(regime, plan(), "no images of classes .* fashion-mnist, idx or image-folder")
    pair = EnsembleTeacher([one.teacher, one.teacher])
    refused(regime, replace(one, teacher=pair), "it must be a model that is here: give teacher.model")
    refused(regime, replace(one, terms=(LABELS,)), "no term of this objective does: add soft-targets")
    mixed = replace(one.splits, train=replace(one.splits.train, mixup=0.2))
    refused(regime, replace(one, splits=mixed), r"leave data\.mixup out")


def test_a_teacher_that_remembers_nothing_is_named(tmp_path):
    forgetful = picture_plan(tmp_path, teacher=seeded_teacher(lambda: experienced(norm=False)))
    refused(INVERSION, forgetful, r"no such layer: choose a teacher with BatchNorm .* or 'regime: generator'")
    assert Inversion(pictures=Pictures(prior="entropy")).stages(forgetful)
    assert GENERATOR.stages(forgetful)
    held = GENERATOR.model_copy(update={"game": Dafl(statistics=1)})
    refused(held, forgetful, r"no such layer.*or leave game\.statistics out")


def test_labels_that_would_never_speak_are_named(tmp_path):
    one = picture_plan(tmp_path, terms=(LABELS, SOFT))
    refused(GENERATOR, one, "the term 'labels' would never speak: leave it out")
    assert INVERSION.stages(one)


def test_several_processes_are_named(tmp_path, monkeypatch):
    (stage,) = GENERATOR.stages(picture_plan(tmp_path))
    monkeypatch.setitem(PartialState()._shared_state, "num_processes", 2)
    with pytest.raises(LimbeckError, match="one process trains"):
        stage.writing.pen(stage, Convolutions())

"""Every teacher keeps one contract: local, served, an ONNX file, several as one, cached around them, and stored outputs alone."""

from contextlib import ExitStack
from dataclasses import replace
from typing import NamedTuple

import pytest
import torch
from tests.fakes.onnx import plain_file
from tests.fakes.rows import Plain, batch_of, examples, local, padded, seeded
from tests.fakes.served import serving

from limbeck.data.tasks import MultiTask
from limbeck.errors import SignalError
from limbeck.teachers.beside import Beside
from limbeck.teachers.by_task import ByTask, HeadOf
from limbeck.teachers.cached import CachedTeacher
from limbeck.teachers.calibrated import Calibrated
from limbeck.teachers.ensemble import EnsembleTeacher
from limbeck.teachers.labelling import label
from limbeck.teachers.local import LocalTeacher
from limbeck.teachers.member import OneOf
from limbeck.teachers.onnx.settings import Onnx
from limbeck.teachers.onnx.teacher import OnnxTeacher
from limbeck.teachers.stored import StoredTeacher
from limbeck.teachers.teacher import Provides, Teacher
from limbeck.teachers.weighing import ByClass, ByConfidence, Fixed

NEEDS = frozenset({"logits", "body", "head:in"})
DATA = examples(64)
LOGITS = frozenset({"logits"})
WHOLE = (
    "beside",
    "calibrated",
    "member",
    "local",
    "served",
    "cold",
    "warm",
    "half warm",
    "cached served",
    "stored",
    "cached cached",
)
TWO = MultiTask().asking([f"a: {one}" for one in range(4)] + [f"b: {one}" for one in range(6)])
BARE = (
    "heads",
    "onnx",
    "cached onnx",
    "ensemble",
    "cached ensemble",
    "ensemble of two kinds",
    "confident ensemble",
    "ensemble by class",
)
"""Those that show every signal, and those that show logits alone."""


class Case(NamedTuple):
    teacher: Teacher
    inner: LocalTeacher
    needs: frozenset


@pytest.fixture(params=(*WHOLE, *BARE))
def case(request, tmp_path):
    inner = local()
    with ExitStack() as stack:

        def cached(teacher, name="store"):
            return stack.enter_context(CachedTeacher(teacher, tmp_path / name, DATA.inputs_fingerprint, shard_rows=16))

        def labelled(data):
            with CachedTeacher(inner, tmp_path / "store", DATA.inputs_fingerprint) as teacher:
                label(teacher, data, (0, 1), 20, NEEDS)

        if request.param in ("warm", "stored"):
            labelled(DATA)
        if request.param == "half warm":
            labelled(replace(DATA, rows=DATA.rows[::2]))

        def onnx():
            return OnnxTeacher(Onnx(path=str(plain_file(tmp_path, inner.module)), outputs="logits"))

        make = {
            "local": lambda: inner,
            "served": lambda: stack.enter_context(serving(inner)),
            "cold": lambda: cached(inner),
            "warm": lambda: cached(inner),
            "half warm": lambda: cached(inner),
            "cached served": lambda: cached(stack.enter_context(serving(inner))),
            "stored": lambda: StoredTeacher(tmp_path / "store"),
            "cached cached": lambda: cached(cached(inner), "outer"),
            "onnx": onnx,
            "cached onnx": lambda: cached(onnx()),
            "ensemble": lambda: EnsembleTeacher([inner, inner], combine="logits"),
            "cached ensemble": lambda: cached(EnsembleTeacher([inner, inner], combine="logits")),
            "confident ensemble": lambda: EnsembleTeacher([inner, inner], ByConfidence(), combine="logits"),
            "ensemble by class": lambda: EnsembleTeacher(
                [inner, inner], ByClass([range(4), range(4, 10)], DATA), combine="logits"
            ),
            "beside": lambda: Beside(inner, "other", onnx()),
            "member": lambda: OneOf(EnsembleTeacher([onnx(), inner], names=["file", "net"]), "net"),
            "heads": lambda: ByTask(
                TWO, {"a": HeadOf(EnsembleTeacher([inner], combine="logits"), TWO, "a"), "b": HeadOf(inner, TWO, "b")}
            ),
            "calibrated": lambda: Calibrated(inner, 1.0),
            "ensemble of two kinds": lambda: EnsembleTeacher([inner, onnx()], Fixed([1, 3]), combine="logits"),
        }[request.param]
        yield Case(make(), inner, frozenset(NEEDS) if request.param in WHOLE else LOGITS)


def epoch():
    generator = torch.Generator().manual_seed(1)
    for view in (0, 1):
        for ids in torch.randperm(64, generator=generator).split(24):
            yield batch_of(DATA, ids, torch.full_like(ids, view))


def test_it_is_a_teacher(case):
    assert isinstance(case.teacher, Teacher)
    assert isinstance(case.teacher.provides, Provides)
    assert not case.teacher.provides.lacking(case.needs)


def test_it_shows_what_the_model_shows(case):
    for batch in [*epoch(), *epoch()]:
        shown, expected = case.teacher.observe(batch, case.needs), local().observe(batch, case.needs)
        assert shown.keys() == case.needs
        for name in case.needs:
            torch.testing.assert_close(shown[name], expected[name], rtol=0, atol=1e-6)
            assert shown[name].dtype == expected[name].dtype


def test_what_it_shows_is_detached_and_on_the_device_of_the_batch(case):
    for part in case.inner.module.parameters():
        part.requires_grad_(True)
    with torch.enable_grad():
        for batch in epoch():
            for value in case.teacher.observe(batch, case.needs).values():
                assert not value.requires_grad
                assert value.grad_fn is None
                assert value.device == batch.ids.device
                assert len(value) == len(batch)
                assert value.is_contiguous()
    assert all(part.grad is None for part in case.inner.module.parameters())
    assert torch.is_grad_enabled()


def test_the_model_is_the_same_after_an_epoch_and_so_is_the_fingerprint(case):
    before = {name: value.clone() for name, value in case.inner.module.state_dict().items()}
    fingerprint = case.teacher.fingerprint
    assert fingerprint
    for batch in epoch():
        case.inner.module.train()  # as a parent's train() would
        case.teacher.observe(batch, case.needs)
        assert case.teacher.fingerprint == fingerprint
    after = case.inner.module.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_a_student_keeps_its_mode(case):
    student = seeded(Plain, 1).train()
    student.drop.eval()
    for batch in epoch():
        case.teacher.observe(batch, case.needs)
    assert student.training
    assert student.norm.training
    assert not student.drop.training


def test_random_states_are_not_drawn_from(case):
    before = torch.get_rng_state()
    for batch in epoch():
        case.teacher.observe(batch, case.needs)
    assert torch.equal(before, torch.get_rng_state())


def test_a_signal_that_is_not_there_is_named(case):
    with pytest.raises(SignalError, match="nowhere"):
        case.teacher.observe(next(epoch()), frozenset({"logits", "nowhere"}))


def test_altering_what_it_showed_does_not_alter_what_it_shows(case):
    batch = next(epoch())
    first = case.teacher.observe(batch, case.needs)
    kept = {name: value.clone() for name, value in first.items()}
    for value in first.values():
        value.zero_()
    again = case.teacher.observe(batch, case.needs)
    assert all(torch.equal(again[name], kept[name]) for name in case.needs)


def test_padding_rows_have_finite_values(case):
    batch = padded(batch_of(DATA, [1, 2, 3, 3, 3]), 3)
    shown = case.teacher.observe(batch, case.needs)
    assert all(len(value) == 5 and value.isfinite().all() for value in shown.values())

"""How a teacher in memory is run, and in which order it is asked: its weights stay as they are, its answers nearly so."""

import copy
import importlib.util
import os
import shutil
from dataclasses import replace

import pytest
import torch
from accelerate import Accelerator
from tests.fakes import causal
from tests.fakes.rows import LOGITS, Plain, Texts, examples, local, seeded
from torch import nn

from limbeck.data.asked import asked
from limbeck.data.batch import Batch
from limbeck.errors import LimbeckError
from limbeck.losses.storages import whole
from limbeck.teachers.cached import CachedTeacher
from limbeck.teachers.labelling import label
from limbeck.teachers.local import LocalTeacher
from limbeck.teachers.precision import Asking
from limbeck.training.loop import evaluate

DATA = examples(64)
BATCH = DATA.batch(torch.arange(32), torch.zeros(32, dtype=torch.int64))
LINES = Batch.of(causal.COLUMNS)


def shown(module, asking=None, batch=BATCH, needs=LOGITS):
    return LocalTeacher(module, "teacher", asking).observe(batch, needs)


def test_half_precision_is_a_copy_that_says_nearly_the_same():
    module = seeded(Plain)
    before = {name: value.clone() for name, value in module.state_dict().items()}
    needs = frozenset({"logits", "body"})
    half, full = shown(module, Asking(precision="bf16"), needs=needs), shown(module, needs=needs)
    assert (half["body"].dtype, full["body"].dtype) == (torch.bfloat16, torch.float32)
    gap = (half["logits"] - full["logits"]).abs().max()
    assert 0 < gap < 0.05 * full["logits"].abs().max()  # 8 bits of mantissa, two layers
    assert all(
        torch.equal(value, before[name]) and value.dtype == before[name].dtype
        for name, value in module.state_dict().items()
    )


def test_what_is_not_saved_keeps_its_precision():
    """The frequencies of rotary positions: in half precision positions beyond a few hundred would fall together."""
    module = causal.made("llama")
    half = Asking(precision="bf16").module(module)
    assert {one.dtype for one in half.parameters()} == {torch.bfloat16}
    assert {one.dtype for one in half.buffers()} == {torch.float32}
    assert half.lm_head.weight is half.model.embed_tokens.weight  # still tied
    ours, theirs = (
        whole(shown(one, asking, LINES)["logits"])
        for one, asking in ((module, Asking(precision="bf16")), (module, None))
    )
    assert float((ours.float() - theirs).abs().max()) < 0.1 * float(theirs.abs().max())
    again = Asking(precision="fp32").module(half)
    assert {one.dtype for one in again.parameters()} == {torch.float32}
    assert Asking(precision="fp32").module(again) is again


def test_every_way_of_running_is_another_teacher():
    made = [
        Asking(),
        Asking(precision="bf16"),
        Asking(precision="int8"),
        Asking(precision="fp32"),
        Asking(compile=True),
    ]
    assert len({LocalTeacher(nn.Linear(2, 2), "one", one).fingerprint for one in made}) == len(made)
    assert local().fingerprint == LocalTeacher(seeded(Plain), "teacher", Asking()).fingerprint == "teacher"


def test_compiled_code_is_what_is_called(monkeypatch):
    called = []

    class Compiled(nn.Module):
        def __init__(self, module):
            super().__init__()
            self._orig_mod = module

        def forward(self, *given, **named):
            called.append(self)
            return self._orig_mod(*given, **named)

    monkeypatch.setattr(torch, "compile", Compiled)
    teacher = LocalTeacher(seeded(Plain), "teacher", Asking(compile=True))
    plain = shown(seeded(Plain), needs=frozenset({"logits", "body"}))
    for _ in range(2):
        found = teacher.observe(BATCH, frozenset({"logits", "body"}))
        assert all(torch.equal(found[name], plain[name]) for name in plain)
    assert len(called) == 2
    assert called[0] is called[1]


def off(one, exact):
    """The largest error, as a share of the largest number."""
    return float((one - exact).abs().max() / exact.abs().max())


@pytest.mark.skipif(
    not any(shutil.which(one) for one in ("g++", os.environ.get("CXX", "")) if one),
    reason="neither g++ nor the compiler that CXX names is here",
)
def test_code_that_torch_makes_says_the_same(tmp_path, monkeypatch):
    """The default backend; and a signal that is asked for only when the code is there already."""
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))  # what an earlier run made would prove nothing

    def teacher(dtype=torch.float32, **asking):
        return LocalTeacher(causal.made("llama", num_hidden_layers=2).to(dtype), "teacher", Asking(**asking))

    compiled, plain, exact = teacher(compile=True), teacher(), teacher(torch.float64)
    try:
        with torch._inductor.config.patch(compile_threads=1):  # no process stays behind
            for needs in (LOGITS | {"hidden.2"}, LOGITS | {"hidden.1"}):
                ours, theirs, wide = (one.observe(LINES, needs) for one in (compiled, plain, exact))
                assert ours.keys() == theirs.keys() == needs
                for name in needs:
                    made, run, right = (whole(one[name]).double() for one in (ours, theirs, wide))
                    # float32 rounds to 6e-8 of a number; of two layers either is off by 3e-7 to 8e-7, and both from each other by
                    # as much. Joined loops add in another order, and are no worse for it; another processor has others.
                    assert off(made, run) < 4e-6
                    assert off(made, right) < 3 * off(run, right)
    finally:
        torch._dynamo.reset()
    assert list(tmp_path.rglob("*.cpp")), "code was made"


@pytest.mark.skipif(importlib.util.find_spec("torchao") is None, reason="torchao is not installed (limbeck[int8])")
def test_linear_layers_in_8_bits_say_nearly_the_same():
    module = seeded(Plain)
    before = copy.deepcopy(module.state_dict())
    gap = (shown(module, Asking(precision="int8"))["logits"] - shown(module)["logits"]).abs().max()
    assert 0 < gap < 0.05 * shown(module)["logits"].abs().max()
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
    model = causal.made("llama")
    low = Asking(precision="int8").module(model)
    assert type(low.lm_head.weight) is nn.Parameter  # the head is read, a block of rows at a time
    ours, theirs = (whole(shown(model, asking, LINES)["logits"]) for asking in (Asking(precision="int8"), None))
    assert 0 < float((ours - theirs).abs().max()) < 0.1 * float(theirs.abs().max())
    with pytest.raises(LimbeckError, match="has none"):
        Asking(precision="int8").module(nn.Conv2d(1, 1, 1))


class Measured(Texts):
    """Texts whose lengths are known beforehand."""

    @property
    def texts(self):
        return self

    def lengths(self, side):
        return 1 + (torch.arange(len(self)) * 7) % 12


class Padded:
    """Each row's own tokens as logits, whatever it is padded to; counts what it was given."""

    module, fingerprint, provides = None, "padded", local().provides

    def __init__(self):
        self.tokens = 0

    def observe(self, batch, needs):
        ids = batch.inputs["input_ids"]
        self.tokens += ids.numel()
        return {"logits": torch.stack([ids.sum(1), batch.ids], 1).float()}


def test_texts_are_labelled_by_length_and_what_is_stored_is_the_same(tmp_path):
    found, spent = {}, {}
    for kind in (Texts, Measured):
        data, teacher = examples(600, kind), Padded()
        with CachedTeacher(teacher, tmp_path / kind.__name__, data.inputs_fingerprint) as cached:
            label(cached, data, (0, 1), 64, LOGITS)
            assert cached.misses == 1200
            ids = torch.arange(600).flip(0)
            batch = data.batch(ids, torch.ones_like(ids))
            found[kind], spent[kind] = cached.observe(batch, LOGITS)["logits"], teacher.tokens
            assert cached.misses == 1200
    assert torch.equal(found[Texts], found[Measured])
    assert torch.equal(found[Texts][:, 1], torch.arange(600).flip(0).float())
    lengths = int(2 * (1 + (torch.arange(600) * 7) % 12).sum())
    assert lengths <= spent[Measured] < 0.8 * spent[Texts]


def test_a_model_is_asked_by_length_and_answers_in_the_order_of_the_rows():
    """Rows in another order, one of them twice, and each answer is that of its own row."""
    found, spent = {}, {}
    for kind in (Texts, Measured):
        data, teacher = examples(600, kind), Padded()
        rows = torch.cat([torch.arange(600).flip(0), torch.tensor([7])])
        data = replace(data, rows=rows, supervised=torch.ones_like(data.supervised))
        answers = asked(lambda batch, one=teacher: one.observe(batch, LOGITS)["logits"], data, "cpu")
        found[kind], spent[kind] = answers, teacher.tokens
        assert torch.equal(answers.logits[:, 1], rows.float())
        assert torch.equal(answers.labels, data.labels[rows])
        assert answers.example.tolist() == list(range(601))
    assert torch.equal(found[Texts].logits, found[Measured].logits)
    assert spent[Measured] < 0.8 * spent[Texts]


def test_a_student_is_judged_by_length_and_the_verdict_is_the_same():
    class Sums(nn.Module):
        tokens = 0

        def forward(self, input_ids):
            self.tokens += input_ids.numel()
            return (input_ids.sum(1)[:, None] * torch.arange(10) % 13).float()

    found, spent = [], []
    for kind in (Texts, Measured):
        data, model = examples(600, kind), Sums()
        found.append(evaluate(model, data, Accelerator(cpu=True)))
        spent.append(model.tokens)
    assert found[0] == pytest.approx(found[1], rel=1e-6)  # float32 sums of 256 and 88 rows in another order
    assert spent[1] < 0.8 * spent[0]


def test_the_order_is_a_function_of_the_data_alone():
    data = examples(50, Measured)
    places = data.by_length("teacher")
    assert sorted(places.tolist()) == list(range(50))
    known = data.table.lengths("teacher")[data.rows[places]]
    assert bool((known.diff() >= 0).all())
    assert examples(50).by_length().tolist() == list(range(50))

import json

import numpy as np
import pytest
import torch
from torch import nn

from limbeck.code import allow_code
from limbeck.data.images import ImageReader
from limbeck.errors import LimbeckError
from limbeck.models.depth import take_layers
from limbeck.models.identity import of_module
from limbeck.models.saved import load_student, save_student
from limbeck.models.specs import (
    BuildContext,
    EfficientCnn,
    Given,
    Mlp,
    MlpMixer,
    MobileCnn,
    Python,
    Shrunk,
    ShuffleCnn,
    SmallCnn,
    SmallResnet,
    SmallTransformer,
    Vit,
    build,
)
from limbeck.signals.call import logits_of

READER = ImageReader(height=12, width=12, channels=1, mean=(0.2,), std=(0.5,))
RAW = [np.random.default_rng(seed).integers(0, 256, (12, 12)).astype(np.uint8) for seed in range(9)]
NAMES = ("zero", "one", "two")
IMAGES = BuildContext(3, READER.encode(RAW[:2]), NAMES)


class Numbers:
    """A reader in memory: rows of numbers, or of token ids."""

    def __init__(self, column, fingerprint="numbers"):
        self.column, self.fingerprint = column, fingerprint

    def encode(self, raw):
        return {self.column: torch.tensor(raw)}


SAVED = [Mlp(hidden=(8, 8)), SmallCnn(), SmallResnet(width=4), MlpMixer(hidden=8), Vit(hidden=16, layers=1)]
SAVED += [MobileCnn(width=4), ShuffleCnn(width=4), EfficientCnn(width=4)]


@pytest.mark.parametrize("spec", SAVED, ids=lambda spec: spec.name)
def test_a_saved_student_answers_bit_for_bit(tmp_path, spec):
    module = build(spec, IMAGES, 0)
    save_student(tmp_path / "student", module, spec, READER, NAMES, {"recipe": "abc"})
    student = load_student(tmp_path / "student")
    assert of_module(student.module) == of_module(module)
    assert student.reader == READER
    assert student.metadata == {"recipe": "abc"}
    with torch.inference_mode():
        expected = logits_of(module.eval()(READER.encode(RAW)["pixel_values"]))
    assert torch.equal(student.logits(RAW), expected)
    assert torch.allclose(student.logits(RAW, batch_size=2), expected, atol=1e-6)
    probabilities = student.probabilities(RAW)
    assert probabilities.shape == (9, 3)
    assert np.allclose(probabilities.sum(1), 1, atol=1e-6)
    assert student.predict(RAW) == [NAMES[index] for index in probabilities.argmax(1)]
    assert student.predict([]) == []
    assert not student.module.training


def test_saving_leaves_the_random_state_and_the_module_alone(tmp_path):
    module = build(SmallCnn(), IMAGES, 0)
    before = of_module(module)
    state = torch.get_rng_state()
    save_student(tmp_path / "student", module, SmallCnn(), READER, NAMES)
    load_student(tmp_path / "student")
    assert torch.equal(torch.get_rng_state(), state)
    assert of_module(module) == before
    assert module.training


def test_a_transformer_needs_neither_teacher_nor_starting_files(tmp_path):
    context = BuildContext(3, {"input_ids": torch.tensor([[2, 3, 4]])}, NAMES, vocabulary=20)
    donor = build(SmallTransformer(layers=3, hidden=16), context, 0)
    donor.save_pretrained(tmp_path / "some-teacher")
    donor.config._name_or_path = str(tmp_path / "some-teacher")
    module = take_layers(donor, (2, 0))
    reader = Numbers("input_ids")
    spec = Shrunk(layers=(2, 0))
    save_student(tmp_path / "student", module, spec, reader, NAMES)
    student = load_student(tmp_path / "student", reader=reader)
    assert of_module(student.module) == of_module(module)
    assert student.predict([[2, 3, 4]])[0] in NAMES
    written = b"".join(path.read_bytes() for path in (tmp_path / "student").iterdir())
    assert b"some-teacher" not in written
    with pytest.raises(LimbeckError, match="reader="):
        load_student(tmp_path / "student")
    with pytest.raises(LimbeckError, match="otherwise"):
        load_student(tmp_path / "student", reader=Numbers("input_ids", "others"))


def test_layers_taken_twice_from_a_bundled_net_are_built_again(tmp_path):
    donor = build(SmallResnet(width=4, depth=4, stages=1), IMAGES, 0)
    once = take_layers(donor, (0, 2, 3), "stages.0")
    module = take_layers(once, (2, 1), "stages.0")
    assert torch.equal(module.stages[0][0].conv1.weight, donor.stages[0][3].conv1.weight)
    save_student(tmp_path / "student", module, Shrunk(layers=(2, 1), at="stages.0"), READER, NAMES)
    assert of_module(load_student(tmp_path / "student").module) == of_module(module)


class Tied(nn.Module):
    def __init__(self, act=None):
        super().__init__()
        self.first = nn.Linear(4, 4, bias=False)
        self.second = nn.Linear(4, 4, bias=False)
        self.second.weight = self.first.weight
        self.act = act or nn.Tanh()
        self.head = nn.Linear(4, 3)
        block = torch.rand(2, 4)
        self.register_buffer("upper", block[0])
        self.register_buffer("lower", block[1])

    def forward(self, x):
        return self.head(self.act(self.second(self.first(x)))) + (self.upper - self.lower).sum()


def test_a_module_in_memory_is_saved_once_a_tensor_and_loaded_into_a_copy(tmp_path):
    module, like, reader = Tied(), Tied(), Numbers("x")
    save_student(tmp_path / "student", module, Given(module), reader, NAMES)
    kept = of_module(like)
    student = load_student(tmp_path / "student", module=like, reader=reader)
    assert of_module(student.module) == of_module(module)
    assert student.module.second.weight is student.module.first.weight
    assert of_module(like) == kept
    from safetensors import safe_open

    with safe_open(tmp_path / "student" / "model.safetensors", "pt") as stored:
        assert set(stored.keys()) == {"first.weight", "head.weight", "head.bias", "upper", "lower"}
    with pytest.raises(LimbeckError, match="module="):
        load_student(tmp_path / "student", reader=reader)
    with pytest.raises(LimbeckError, match="built otherwise"):
        load_student(tmp_path / "student", module=Tied(nn.ReLU()), reader=reader)


def test_a_python_student_is_built_by_its_own_code_if_allowed(tmp_path):
    spec = Python(target="torch.nn:Linear", arguments={"in_features": 4, "out_features": 3})
    reader = Numbers("x")
    with allow_code():
        module = build(spec, BuildContext(3, {"x": torch.rand(2, 4)}), 0)
    save_student(tmp_path / "student", module, spec, reader, NAMES)
    with pytest.raises(LimbeckError, match="not allowed"):
        load_student(tmp_path / "student", reader=reader)
    with allow_code():
        assert of_module(load_student(tmp_path / "student", reader=reader).module) == of_module(module)


def test_half_precision_stays_half(tmp_path):
    module = build(Mlp(hidden=4), IMAGES, 0).to(torch.bfloat16)
    save_student(tmp_path / "student", module, Mlp(hidden=4), READER, NAMES)
    assert of_module(load_student(tmp_path / "student").module) == of_module(module)


def test_what_is_written_is_readable_json(tmp_path):
    save_student(tmp_path / "student", build(SmallCnn(), IMAGES, 0), SmallCnn(), READER, NAMES, {"note": "é"})
    about = json.loads((tmp_path / "student" / "student.json").read_text())
    assert about["classes"] == list(NAMES)
    assert about["spec"] == SmallCnn().plain()
    assert set(about["files"]) == {"model.safetensors"}

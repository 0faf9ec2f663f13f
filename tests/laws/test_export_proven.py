import json
import sys

import numpy as np
import pytest
import torch
from torch import nn

from limbeck.data.images import ImageReader
from limbeck.errors import LimbeckError
from limbeck.export import FORMATS, export
from limbeck.models.depth import take_layers
from limbeck.models.identity import of_module
from limbeck.models.saved import load_student
from limbeck.models.specs import BuildContext, SmallCnn, SmallTransformer, build
from limbeck.models.student import Student

READER = ImageReader(height=12, width=12, channels=1, mean=(0.2,), std=(0.5,))
IMAGES = [np.random.default_rng(seed).integers(0, 256, (12, 12)).astype(np.uint8) for seed in range(9)]
TEXTS = ["a good film", "what a terribly bad waste of my time it was", "fine", "never again do I look at this"]
NAMES = ("bad", "fair", "good")


class Words:
    """A tokenizer in memory: a word is its length; padded to the longest text."""

    fingerprint = "words"

    def encode(self, raw):
        rows = [torch.tensor([3 + len(word) for word in text.split()]) for text in raw]
        ids = nn.utils.rnn.pad_sequence(rows, batch_first=True)
        return {"input_ids": ids, "attention_mask": (ids > 0).long()}


@pytest.fixture(scope="module")
def images():
    module = build(SmallCnn(), BuildContext(3, READER.encode(IMAGES[:2]), NAMES), 0)
    with torch.no_grad():
        for _ in range(5):
            module.train()(READER.encode(IMAGES)["pixel_values"])  # running statistics that are not 0 and 1
    return Student(module, READER, NAMES, {"teacher": "secret-teacher"})


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    folder = tmp_path_factory.mktemp("teachers") / "secret-teacher"
    context = BuildContext(3, Words().encode(TEXTS), NAMES, vocabulary=30)
    teacher = build(SmallTransformer(layers=3, hidden=16), context, 0)
    with torch.no_grad():
        for parameter in teacher.parameters():
            parameter.mul_(5)  # logits of a size that differences show in
    teacher.save_pretrained(folder)
    teacher.config._name_or_path = str(folder)
    teacher.secret_teacher_head = nn.Linear(2, 2)
    return Student(take_layers_without(teacher), Words(), NAMES, {"teacher": "secret-teacher"})


def take_layers_without(teacher):
    del teacher.secret_teacher_head
    student = take_layers(teacher, (0, 2))
    student.config._name_or_path = teacher.config._name_or_path
    return student


@pytest.fixture(scope="module")
def exported(images, texts, tmp_path_factory):
    root = tmp_path_factory.mktemp("exports")
    done = {("images", to): export(images, to, root / f"images-{to}", IMAGES, 0.05) for to in ("safetensors", "onnx")}
    done |= {("texts", to): export(texts, to, root / f"texts-{to}", TEXTS, 0.05) for to in FORMATS}
    return done


def test_every_export_is_equal_on_real_inputs(exported):
    for (_, to), one in exported.items():
        assert one.to == to
        assert one.max_difference <= one.tolerance
        assert one.tolerance == 0 or to == "onnx"
        assert one.bytes == sum(path.stat().st_size for path in one.path.iterdir())
        assert one.compared in (len(IMAGES), len(TEXTS))
        assert set(one.latency) == ({"torch", "onnxruntime"} if to == "onnx" else set())
        assert all(0 < latency.p50_ms <= latency.p95_ms for latency in one.latency.values())


def test_safetensors_loads_as_the_student(exported, images, texts):
    again = load_student(exported["images", "safetensors"].path)
    assert torch.equal(again.logits(IMAGES), images.logits(IMAGES))
    assert again.metadata == {}
    again = load_student(exported["texts", "safetensors"].path, reader=Words())
    assert of_module(again.module) == of_module(texts.module)


def test_hf_loads_by_the_auto_class_with_the_class_names(exported, texts):
    from transformers import AutoModelForSequenceClassification

    model = AutoModelForSequenceClassification.from_pretrained(exported["texts", "hf"].path).eval()
    assert model.config.id2label == dict(enumerate(NAMES))
    with torch.inference_mode():
        assert torch.equal(model(**Words().encode(TEXTS)).logits, texts.logits(TEXTS))


@pytest.mark.parametrize("kind", ["images", "texts"])
def test_onnx_takes_any_batch_and_any_length(exported, kind, request):
    import onnxruntime

    student, raw = request.getfixturevalue(kind), {"images": IMAGES, "texts": TEXTS}[kind]
    folder = exported[kind, "onnx"].path
    assert {path.name for path in folder.iterdir()} == {"model.onnx", "limbeck.json"}
    session = onnxruntime.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])
    for some in (raw[:1], raw[1:2], raw[2:3], raw[:3], (raw * 3)[:8], raw):
        columns = {name: value.numpy() for name, value in student.reader.encode(some).items()}
        (found,) = session.run(["logits"], columns)
        assert np.allclose(found, student.logits(some).numpy(), atol=1e-4)
    told = json.loads((folder / "limbeck.json").read_text())
    assert told["classes"] == list(NAMES)
    assert set(told["inputs"]) == {one.name for one in session.get_inputs()}
    shapes = [one["shape"] for one in told["inputs"].values()]
    assert shapes == ([["batch", 1, 12, 12]] if kind == "images" else [["batch", "length"]] * 2)
    assert kind == "texts" or told["reader"]["value"] == READER.plain()


def test_nothing_of_the_teacher_nor_of_this_machine_is_delivered(exported):
    import onnx

    for one in exported.values():
        for path in one.path.iterdir():
            content = path.read_bytes()
            for trace in (
                b"secret-teacher",
                b"secret_teacher",
                b"/src/",
                b"site-packages",
                str(one.path.parent).encode(),
            ):
                assert trace not in content, (path, trace)
    graph = onnx.load(exported["texts", "onnx"].path / "model.onnx").graph
    assert not any(node.metadata_props or node.doc_string for node in graph.node)
    assert not any("encoder.layer.2" in value.name for value in graph.initializer)


def test_the_student_is_not_altered(images, texts, tmp_path):
    images.module.train()
    before = of_module(images.module), texts.module.config._name_or_path
    export(images, "onnx", tmp_path / "a", IMAGES, 0)
    export(texts, "hf", tmp_path / "b", TEXTS, 0)
    assert (of_module(images.module), texts.module.config._name_or_path) == before
    assert images.module.training
    assert all(parameter.requires_grad for parameter in images.module.parameters())


def test_exporting_is_silent(images, tmp_path, capfd):
    export(images, "onnx", tmp_path / "a", IMAGES, 0)
    assert capfd.readouterr() == ("", "")


class Own(nn.Module):
    def __init__(self):
        super().__init__()
        self.head = nn.Linear(144, 3)

    def forward(self, image):
        return {"logits": self.head(image.flatten(1)), "extra": image.mean()}


class Untraceable(Own):
    def forward(self, image):
        return self.head(image.flatten(1)) * (1 if image.sum().item() > 0 else 2)


def test_a_users_own_module_goes_where_it_can(tmp_path):
    student = Student(Own(), READER, NAMES)
    assert export(student, "safetensors", tmp_path / "a", IMAGES).max_difference == 0
    assert export(student, "onnx", tmp_path / "b", IMAGES[:1], 0).max_difference < 1e-4
    with pytest.raises(LimbeckError, match="Own, which the transformers library does not know"):
        export(student, "hf", tmp_path / "c", IMAGES)
    with pytest.raises(LimbeckError, match="cannot be exported to ONNX"):
        export(Student(Untraceable(), READER, NAMES), "onnx", tmp_path / "c", IMAGES)
    assert not (tmp_path / "c").exists()


class Forgetful(Own):
    """What it adds is in no state dict, so no file can hold it."""

    def __deepcopy__(self, memo):
        other = Forgetful()
        other.load_state_dict(self.state_dict())
        other.bias = torch.rand(3)
        return other

    def forward(self, image):
        return self.head(image.flatten(1)) + getattr(self, "bias", 0)


def test_an_export_that_answers_otherwise_is_refused_and_leaves_nothing(tmp_path, monkeypatch, images):
    with pytest.raises(LimbeckError, match="answers otherwise"):
        export(Student(Forgetful(), READER, NAMES), "safetensors", tmp_path / "a", IMAGES)
    import limbeck.export.onnx as writer

    honest = writer._strip

    def crooked(model):
        honest(model)
        weight = next(one for one in model.graph.initializer if one.name.endswith("head.weight"))
        weight.raw_data = (np.frombuffer(weight.raw_data, np.float32) * 1.1).astype(np.float32).tobytes()

    monkeypatch.setattr(writer, "_strip", crooked)
    with pytest.raises(LimbeckError, match="answers otherwise"):
        export(images, "onnx", tmp_path / "b", IMAGES, 0)
    assert list(tmp_path.iterdir()) == []


def test_folders_of_others_are_never_replaced(images, tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(LimbeckError, match="no export wrote"):
        export(images, "safetensors", tmp_path, IMAGES)
    assert (tmp_path / "thesis.txt").exists()
    export(images, "safetensors", tmp_path / "new", IMAGES)
    export(images, "safetensors", tmp_path / "new", IMAGES)
    with pytest.raises(LimbeckError, match="at least one"):
        export(images, "safetensors", tmp_path / "new", [])


def test_a_missing_library_is_named_with_its_command(images, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(LimbeckError, match=r'pip install "limbeck\[onnx\]"'):
        export(images, "onnx", tmp_path / "a", IMAGES)

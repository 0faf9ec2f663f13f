import math

import numpy as np
import pytest
import torch
from torch import nn

from limbeck.data.batch import Batch
from limbeck.data.images import ImageReader
from limbeck.errors import LimbeckError
from limbeck.export import export
from limbeck.models.depth import take_layers
from limbeck.models.identity import of_module, parameters
from limbeck.models.saved import load_student
from limbeck.models.specs import BuildContext, MlpMixer, SmallCnn, Vit, build
from limbeck.models.student import Student
from limbeck.objective.hints import Hints
from limbeck.objective.objective import Objective
from limbeck.objective.outline import layers_of
from limbeck.recipe.reading import parse
from limbeck.signals.capture import Capture, show

NAMES = ("bag", "boot", "coat")
READER = ImageReader(height=8, width=12, channels=1, mean=(0.3,), std=(0.4,))
RAW = [np.random.default_rng(seed).integers(0, 256, (8, 12)).astype(np.uint8) for seed in range(5)]
CONTEXT = BuildContext(3, READER.encode(RAW), NAMES)
FASHION = BuildContext(10, {"pixel_values": torch.zeros(2, 1, 28, 28)})
SMALL = [MlpMixer(hidden=6, layers=2), Vit(hidden=8, layers=2, heads=2)]
small = pytest.mark.parametrize("spec", SMALL, ids=lambda spec: spec.name)


def loud(module):
    """The same module with weights of a size that every part shows in."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) / math.sqrt(parameter.shape[-1]))
    return module


def layer_norm(x, weight, bias):
    centred = x - x.mean()
    return centred / math.sqrt((centred**2).mean() + 1e-5) * weight + bias


def two_layers(x, first, first_bias, second, second_bias):
    inner = first @ x + first_bias
    inner = np.array([0.5 * one * (1 + math.erf(one / math.sqrt(2))) for one in inner])
    return second @ inner + second_bias


def mixer_by_hand(state, image, patch, layers):
    """One image [channels, height, width] to logits, with a loop for every column and row of equation 1 of the paper."""
    _, height, width = image.shape
    hidden = len(state["stem.bias"])
    x = []
    for top in range(0, height, patch):
        for left in range(0, width, patch):
            cut = image[:, top : top + patch, left : left + patch].reshape(-1)
            x.append(state["stem.weight"].reshape(hidden, -1) @ cut + state["stem.bias"])
    x = np.array(x)

    def part(at, name):
        return [state[f"layers.{at}.{name}.{key}"] for key in ("weight", "bias")]

    for at in range(layers):
        normed = np.array([layer_norm(row, *part(at, "norm1")) for row in x])
        for channel in range(hidden):
            x[:, channel] += two_layers(normed[:, channel], *part(at, "across.0"), *part(at, "across.2"))
        for row in range(len(x)):
            inner = layer_norm(x[row], *part(at, "norm2"))
            x[row] = x[row] + two_layers(inner, *part(at, "within.0"), *part(at, "within.2"))
    pooled = np.mean([layer_norm(row, state["norm.weight"], state["norm.bias"]) for row in x], axis=0)
    return state["head.weight"] @ pooled + state["head.bias"]


@pytest.mark.parametrize(("patch", "layers", "across"), [(4, 2, None), (2, 1, 5)])
def test_the_mixer_is_that_of_the_paper(patch, layers, across):
    spec = MlpMixer(patch=patch, layers=layers, hidden=6, across=across)
    module = loud(build(spec, CONTEXT, 0)).double().eval()
    images = CONTEXT.sample["pixel_values"].double()
    state = {name: value.numpy() for name, value in module.state_dict().items()}
    expected = np.array([mixer_by_hand(state, image.numpy(), patch, layers) for image in images])
    with torch.no_grad():
        assert np.allclose(module(images).numpy(), expected, rtol=0, atol=1e-10)  # float64, sums of some 30 terms


def test_sizes_by_default():
    tokens, hidden = 49, 32
    layer = tokens * 16 * 2 + 16 + tokens + hidden * 128 * 2 + 128 + hidden + 4 * hidden
    mixer = build(MlpMixer(), FASHION, 0)
    assert parameters(mixer) == 17 * hidden + 3 * layer + 2 * hidden + 11 * 10 * 3 == 31_277
    vit, hidden = build(Vit(), FASHION, 0), 64
    layer = 4 * (hidden * hidden + hidden) + 2 * 4 * hidden * hidden + 5 * hidden + 4 * hidden
    assert parameters(vit) == 17 * hidden + 51 * hidden + 2 * layer + 2 * hidden + 65 * 10
    assert vit.config.attention_probs_dropout_prob == 0
    assert (vit.config.hidden_dropout_prob, vit.config.id2label[9]) == (0.1, "9")


@small
def test_a_patch_is_seen_at_its_place_and_no_example_sees_another(spec):
    module = loud(build(spec, CONTEXT, 0)).eval()
    images = CONTEXT.sample["pixel_values"]
    logits = show(module, {"pixel_values": images})["logits"]
    swapped = torch.cat([images[..., 4:8], images[..., :4], images[..., 8:]], -1)
    assert not torch.allclose(show(module, {"pixel_values": swapped})["logits"], logits, atol=1e-3)
    order = torch.tensor([3, 0, 4, 2, 1])
    # float32 matrix products of another batch: some rounding units of numbers around 1
    assert torch.allclose(show(module, {"pixel_values": images[order]})["logits"], logits[order], atol=1e-5)
    assert torch.allclose(show(module, {"pixel_values": images[:1]})["logits"], logits[:1], atol=1e-5)


@small
def test_freezing_changes_no_bit(spec):
    """Exports are compared with a frozen student: torch may choose another kernel where weights are to be trained."""
    module = loud(build(spec, CONTEXT, 0))
    before = show(module, CONTEXT.sample)["logits"]
    assert torch.equal(show(module.requires_grad_(False), CONTEXT.sample)["logits"], before)


@small
def test_a_blank_image_has_finite_gradients(spec):
    module = build(spec, CONTEXT, 0)
    with Capture(module, {"logits"}) as capture:
        capture({"pixel_values": torch.zeros(1, 1, 8, 12)})["logits"].square().sum().backward()
    assert all(one.grad is not None and one.grad.isfinite().all() for one in module.parameters())


@pytest.mark.parametrize("spec", [MlpMixer(hidden=6), Vit(hidden=8, heads=2)], ids=lambda spec: spec.name)
@pytest.mark.parametrize(("height", "width", "channels"), [(8, 8, 3), (4, 20, 1)])
def test_any_size_that_patches_cover(spec, height, width, channels):
    context = BuildContext(4, {"pixel_values": torch.rand(2, channels, height, width)})
    assert show(build(spec, context, 0), context.sample)["logits"].shape == (2, 4)
    with pytest.raises(LimbeckError, match=rf"4 x 4 pixels, which do not cover {height} x {width + 2}"):
        build(spec, BuildContext(4, {"pixel_values": torch.rand(2, channels, height, width + 2)}), 0)


def test_layers_are_found_and_can_be_taken():
    mixer, vit = (build(spec, CONTEXT, 0) for spec in SMALL)
    assert layers_of(mixer, CONTEXT.sample) == ["layers.0", "layers.1"]
    assert layers_of(vit, CONTEXT.sample) == ["hidden.1", "hidden.2"]
    assert torch.equal(take_layers(mixer, (1,)).layers[0].norm1.weight, mixer.layers[1].norm1.weight)
    assert len(take_layers(vit, (1,)).vit.layers) == 1


def test_the_transformer_shows_its_attention():
    module = loud(build(SMALL[1], CONTEXT, 0))
    names = ("hidden.0", "hidden.2", "attention.1.probs", "attention.2.key", "gradient", "vit.layers.0")
    shown = show(module, CONTEXT.sample, names)
    assert shown["hidden.0"].shape == shown["attention.2.key"].shape == (5, 7, 8)  # six patches, and one for the class
    assert shown["attention.1.probs"].shape == (5, 2, 7, 7)
    assert shown["gradient"].shape == (5, 1, 8, 12)
    module.set_attn_implementation("eager")
    with torch.no_grad():
        own = module.eval()(CONTEXT.sample["pixel_values"], output_attentions=True).attentions[0]
    assert torch.allclose(shown["attention.1.probs"], own, atol=1e-6)  # float32 shares of one


@small
def test_it_learns_the_features_of_a_cnn(spec):
    """A step against the gradient of hints between convolutions and patches makes the loss less."""
    teacher, student = build(SmallCnn(width=4), CONTEXT, 0), build(spec, CONTEXT, 1).eval()
    theirs = show(teacher, CONTEXT.sample, ("blocks.1",))
    name = "layers.1" if isinstance(spec, MlpMixer) else "hidden.2"
    objective = Objective([Hints(student=name, teacher="blocks.1")])
    batch = Batch.of(CONTEXT.sample)
    with Capture(student, {name}) as capture:
        objective.build(capture(CONTEXT.sample), theirs)
        before, _ = objective(capture(CONTEXT.sample), theirs, batch)
        before.backward()
        with torch.no_grad():
            for parameter in student.parameters():
                if parameter.grad is not None:
                    parameter -= 1e-3 * parameter.grad / parameter.grad.norm().clamp_min(1e-12)
        after, _ = objective(capture(CONTEXT.sample), theirs, batch)
    assert after < before


@pytest.mark.parametrize("to", ["safetensors", "onnx", "hf"])
@small
def test_every_export_answers_as_the_student_does(tmp_path, spec, to):
    one = spec.model_copy(update={"layers": 1 if to == "onnx" else 2})  # tracing takes long
    student = Student(loud(build(one, CONTEXT, 0)).eval(), READER, NAMES)
    if to == "hf" and isinstance(spec, MlpMixer):
        with pytest.raises(LimbeckError, match="MlpMixer, which the transformers library does not know"):
            export(student, to, tmp_path / "a", RAW, 0)
        return
    done = export(student, to, tmp_path / "a", RAW, 0)
    assert done.max_difference <= done.tolerance
    logits = student.logits(RAW)
    apart = (logits[:, None] - logits).abs().amax(-1)[~torch.eye(len(RAW), dtype=torch.bool)]
    assert apart.min() > 50 * done.tolerance  # so an answer to another input would show
    if to == "safetensors":
        assert of_module(load_student(tmp_path / "a").module) == of_module(student.module)


@pytest.mark.parametrize("name", ["mlp-mixer", "vit"])
def test_a_recipe_names_it(name):
    recipe = parse(
        f"limbeck: 1\nname: mixed\ndata: {{source: mnist-5k}}\nteacher: {{model: small-cnn, training: {{steps: 5}}}}\n"
        f"student: {{name: {name}, patch: 7}}\nobjective: {{soft-targets: 1}}\ntraining: {{steps: 5}}\n"
    )
    assert recipe.student == {"mlp-mixer": MlpMixer, "vit": Vit}[name](patch=7)
    assert isinstance(build(recipe.student, FASHION, 0), nn.Module)

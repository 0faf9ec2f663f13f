"""The three complementary networks: an oracle from their formulas, the shuffle, exports, and what a recipe may say of them."""

import pytest
import torch
from tests.laws.test_models_saved import IMAGES, NAMES, RAW, READER
from torch import nn
from torch.nn import functional as F

from limbeck.errors import LimbeckError
from limbeck.export import export
from limbeck.models.identity import of_module, parameters
from limbeck.models.light import InvertedResidual, ShuffleUnit, Squeeze
from limbeck.models.saved import load_student
from limbeck.models.specs import BuildContext, EfficientCnn, MobileCnn, ShuffleCnn, build
from limbeck.models.student import Student
from limbeck.recipe.reading import parse

FASHION = BuildContext(10, {"pixel_values": torch.zeros(2, 1, 28, 28)})
SMALL = [
    MobileCnn(width=4, depth=2, stages=2, expansion=2),
    ShuffleCnn(width=4, depth=2, stages=2),
    EfficientCnn(width=4, depth=2, stages=2, expansion=2),
]
each = pytest.mark.parametrize("spec", SMALL, ids=lambda spec: spec.name)


def loud(module, seed=3):
    """With statistics and weights of a network that has learnt something, so that answers differ."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        for parameter in module.parameters():
            parameter.data += torch.randn_like(parameter)
        for name, buffer in module.named_buffers():
            if "running_mean" in name:
                buffer += 0.2 * torch.rand_like(buffer)
    return module


def normed(layer, x):
    """A convolution and BatchNorm in evaluation, from the formulas; [B, C, H, W] in float64."""
    conv, norm = layer[0], layer[1]
    x = F.conv2d(x, conv.weight, None, conv.stride, conv.padding, groups=conv.groups)
    shape = (1, -1, 1, 1)
    x = (x - norm.running_mean.view(shape)) / (norm.running_var.view(shape) + norm.eps).sqrt()
    return x * norm.weight.view(shape) + norm.bias.view(shape)


def inverted(net, x, act, squeezed):
    x = act(normed(net.stem[:2], x))
    for stage in net.stages:
        for block in stage:
            inner = act(normed(block.each[:2], act(normed(block.wider[:2], x))))
            if squeezed:
                down, up = block.squeeze.down, block.squeeze.up
                mean = inner.mean((2, 3))
                said = F.silu(mean @ down.weight[..., 0, 0].T + down.bias) @ up.weight[..., 0, 0].T + up.bias
                inner = inner * torch.sigmoid(said)[:, :, None, None]
            inner = normed(block.narrower, inner)
            x = x + inner if inner.shape == x.shape else inner
    return act(normed(net.last[:2], x)).mean((2, 3)) @ net.head.weight.T + net.head.bias


def shuffled(net, x, groups):
    x = torch.relu(normed(net.stem[:2], x))
    for stage in net.stages:
        for unit in stage:
            inner = torch.relu(normed(unit.first[:2], x))
            own = inner.shape[1] // groups
            order = [group * own + place for place in range(own) for group in range(groups)]
            inner = normed(unit.second, normed(unit.each, inner[:, order]))
            kept = F.avg_pool2d(x, 3, 2, 1) if inner.shape != x.shape else None
            x = torch.relu(x + inner if kept is None else torch.cat([kept, inner], 1))
    return x.mean((2, 3)) @ net.head.weight.T + net.head.bias


@each
def test_the_network_is_that_of_the_formulas(spec):
    net = loud(build(spec, IMAGES, 0)).double().eval()
    x = torch.rand(3, 1, 12, 12, generator=torch.Generator().manual_seed(0)).double()
    expected = {
        "mobile-cnn": lambda: inverted(net, x, F.relu6, False),
        "efficient-cnn": lambda: inverted(net, x, F.silu, True),
        "shuffle-cnn": lambda: shuffled(net, x, 2),
    }[spec.name]()
    torch.testing.assert_close(net(x), expected, rtol=1e-10, atol=1e-10)  # float64 sums of some hundred numbers


def test_each_group_hears_of_the_other_after_one_shuffle():
    """Without it the second half of the channels would never see the first."""
    unit = ShuffleUnit(4, 4, 1, 2).double().eval()
    for parameter in unit.parameters():
        parameter.data.abs_()  # so that no ReLU hides a path
    x = torch.rand(1, 4, 3, 3, generator=torch.Generator().manual_seed(1)).double().requires_grad_()
    (unit(x) - F.relu(x))[0, 2:].sum().backward()
    assert bool((x.grad[0, :2].abs().sum((1, 2)) > 0).any())


def test_a_block_with_a_stride_has_no_shortcut_even_between_equal_channels():
    assert InvertedResidual(4, 4, 2, 2, nn.ReLU6, False)(torch.rand(2, 4, 7, 7)).shape == (2, 4, 4, 4)


def test_a_squeeze_weighs_whole_channels():
    squeeze = Squeeze(6, 2)
    x = torch.rand(2, 6, 3, 3) + 0.5
    found = squeeze(x) / x
    assert torch.allclose(found, found[..., :1, :1].expand_as(found))
    assert bool(((found > 0) & (found < 1)).all())


@pytest.mark.parametrize(("spec", "count"), [(MobileCnn(), 47_086), (ShuffleCnn(), 20_746), (EfficientCnn(), 55_423)])
def test_they_are_small_and_their_results_lie_with_the_channels_last(spec, count):
    net = build(spec, FASHION, 0)
    assert parameters(net) == count
    found = net.stages[0](net.stem(torch.rand(2, 1, 28, 28)))
    assert found.shape[2:] == (14, 14)
    assert (
        net.stages[0][-1]
        .get_submodule("wider" if hasattr(net, "last") else "first")(found)
        .is_contiguous(memory_format=torch.channels_last)
    )


@pytest.mark.parametrize("to", ["safetensors", "onnx"])
@each
def test_every_export_answers_as_the_student_does(tmp_path, spec, to):
    one = spec.model_copy(update={"depth": 1 if to == "onnx" else 2})  # tracing takes long
    student = Student(loud(build(one, IMAGES, 0)).eval(), READER, NAMES)
    done = export(student, to, tmp_path / "a", RAW, 0)
    assert done.max_difference <= done.tolerance
    logits = student.logits(RAW)
    apart = (logits[:, None] - logits).abs().amax(-1)[~torch.eye(len(RAW), dtype=torch.bool)]
    assert apart.min() > 5 * done.tolerance  # so an answer to another input would show
    if to == "safetensors":
        assert of_module(load_student(tmp_path / "a").module) == of_module(student.module)


@each
def test_no_parameter_is_idle_and_a_blank_image_has_finite_gradients(spec):
    net = build(spec, IMAGES, 0)
    net(torch.rand(4, 1, 12, 12)).square().sum().backward()
    assert all(one.grad is not None and bool((one.grad != 0).any()) for one in net.parameters())
    net.zero_grad()
    net(torch.zeros(2, 1, 12, 12)).square().sum().backward()
    assert all(one.grad.isfinite().all() for one in net.parameters())


def test_channels_that_groups_do_not_divide_are_refused_before_anything_runs():
    with pytest.raises(LimbeckError, match=r"width \(5\) is not a multiple of groups \(2\)"):
        build(ShuffleCnn(width=5), IMAGES, 0)
    with pytest.raises(LimbeckError, match="'mobile-cnn' reads images"):
        build(MobileCnn(), BuildContext(3, {"x": torch.rand(2, 5)}), 0)


@pytest.mark.parametrize("name", ["mobile-cnn", "shuffle-cnn", "efficient-cnn"])
def test_a_recipe_names_it(name):
    recipe = parse(
        f"limbeck: 1\nname: mixed\ndata: {{source: mnist-5k}}\nteacher: {{model: {name}, training: {{steps: 5}}}}\n"
        f"student: {{name: {name}, width: 4, depth: 1}}\nobjective: {{labels: 1, soft-targets: 1}}\n"
        "training: {steps: 5}\n"
    )
    assert (recipe.student.name, recipe.student.width, recipe.teacher.model.name) == (name, 4, name)

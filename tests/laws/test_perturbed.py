"""The signal ``perturbed.E`` is the same model a step away, where its own answer is less likely."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.fakes.perturbed import CLOSE, TEXT, Words, X, bert, images, linear, net, own_cross_entropy
from torch import nn

from limbeck.signals.capture import Capture, show
from limbeck.signals.perturbed import against, perturbed, unit


def steps(model, place, columns, name):
    """What went through ``place`` in the second pass, less that of the first one."""
    seen = []
    hook = model.get_submodule(place).register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].detach()))
    show(model, columns, {name})
    hook.remove()
    assert len(seen) == 2
    return seen[1] - seen[0]


def test_of_a_linear_model_it_is_worked_out_by_hand():
    model = linear()
    weight, bias = (one.detach().numpy() for one in (model.weight, model.bias))
    logits = X.numpy() @ weight.T + bias
    odds = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    slope = (odds - np.eye(4)[logits.argmax(1)]) @ weight
    moved = X.numpy() + 0.7 * slope / np.linalg.norm(slope, axis=1, keepdims=True)
    shown = show(model, {"x": X}, {"perturbed.0.7"})["perturbed.0.7"]
    np.testing.assert_allclose(shown.numpy(), moved @ weight.T + bias, rtol=0, atol=1e-12)


@pytest.mark.parametrize("epsilon", [1e-3, 0.5, 30.0])
def test_the_whole_example_is_moved_by_epsilon(epsilon):
    name = perturbed(epsilon)
    model, columns = images()
    pixels = steps(model, "0", columns, name)
    words = steps(bert(), "bert.embeddings.LayerNorm", TEXT, name)
    for step in (pixels, words):
        length = step.flatten(1).norm(dim=1)
        # differences of float64 numbers of size up to 30
        torch.testing.assert_close(length, torch.full_like(length, epsilon), rtol=1e-10, atol=0)
    assert not words[1, 3:].any()  # padding
    assert words[1, :3].any(-1).all()


@pytest.mark.parametrize("tags", [False, True])
def test_of_a_text_it_is_for_the_embeddings(tags):
    """Against the plain way: embeddings given, cross-entropy of every answer that is no padding, autograd's slope."""
    model, mask = bert(tags), TEXT["attention_mask"]
    words = model.bert.embeddings.word_embeddings(TEXT["input_ids"]).detach().requires_grad_()
    logits = model(inputs_embeds=words, attention_mask=mask).logits
    loss = own_cross_entropy(logits, logits.argmax(-1))
    loss = (loss * mask.flatten() if tags else loss).sum()
    slope = torch.autograd.grad(loss, words)[0] * mask.unsqueeze(-1)
    step = 0.3 * slope / slope.flatten(1).norm(dim=1).view(-1, 1, 1)
    expected = model(inputs_embeds=words + step, attention_mask=mask).logits.detach()
    shown = show(model, TEXT, {"perturbed.0.3", "logits"})
    torch.testing.assert_close(shown["perturbed.0.3"], expected, **CLOSE)
    assert shown["perturbed.0.3"].shape == shown["logits"].shape == logits.shape
    assert not torch.allclose(shown["perturbed.0.3"], shown["logits"], atol=1e-2)
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize(
    "make", [lambda: (net(), {"x": X}), images, lambda: (bert(), TEXT), lambda: (bert(True), TEXT)]
)
def test_the_own_answer_becomes_less_likely(make):
    model, columns = make()
    model.eval()
    shown = show(model, columns, {"logits", "perturbed.0.0001"})
    own = shown["logits"].argmax(-1)
    before, after = (own_cross_entropy(shown[name], own).view(own.shape) for name in ("logits", "perturbed.0.0001"))
    if own.ndim == 2:  # of all answers of a text together
        mask = TEXT["attention_mask"]
        before, after = (before * mask).sum(1), (after * mask).sum(1)
    assert (after > before).all()


def test_a_step_of_no_length_leads_nowhere():
    for model, columns in ((net().eval(), {"x": X}), (bert(), TEXT)):
        shown = show(model, columns, {"logits", "perturbed.0.0"})
        assert torch.equal(shown["perturbed.0.0"], shown["logits"])


def test_an_example_does_not_see_the_others():
    for model, columns in (images(), (bert(), TEXT), (Words(each=True), TEXT)):
        whole = show(model, columns, {"perturbed.1.0"})["perturbed.1.0"]
        for row in range(len(whole)):
            one = {name: value[row : row + 1] for name, value in columns.items()}
            torch.testing.assert_close(show(model, one, {"perturbed.1.0"})["perturbed.1.0"][0], whole[row], **CLOSE)


def test_logits_that_are_put_together_lead_back_to_the_input():
    class Ends(Words):
        def forward(self, input_ids, attention_mask):
            both = super().forward(input_ids, attention_mask)
            return {"start_logits": both[..., 0], "end_logits": both[..., 1]}

    shown = show(Ends(each=True), TEXT, {"logits", "perturbed.1.0"})
    assert shown["perturbed.1.0"].shape == shown["logits"].shape == (2, 5, 2)
    assert not torch.allclose(shown["perturbed.1.0"], shown["logits"], atol=1e-2)


def test_samples_of_sound_that_are_padding_stay():
    class Sound(nn.Sequential):
        def forward(self, input_values, attention_mask):
            return super().forward(input_values)

    mask = torch.tensor([[1, 1, 1], [1, 1, 0]])
    step = steps(Sound(linear()), "0", {"input_values": X[:2], "attention_mask": mask}, "perturbed.1.0")
    assert torch.equal(step != 0, mask.bool())
    torch.testing.assert_close(step.norm(dim=1), torch.ones(2, dtype=torch.float64), **CLOSE)


@pytest.mark.parametrize("each", [False, True])
def test_padding_changes_nothing(each):
    model = Words(each=each)
    short = {name: value[1:, :3] for name, value in TEXT.items()}
    padded = {"input_ids": torch.tensor([[5, 6, 7, 19, 18]]), "attention_mask": TEXT["attention_mask"][1:]}
    alone, beside = (show(model, one, {"perturbed.1.0"})["perturbed.1.0"] for one in (short, padded))
    torch.testing.assert_close(beside[:, :3], alone[:, :3], **CLOSE)


def test_a_mask_as_long_as_there_are_classes_hides_no_class():
    model, mask = Words(), torch.tensor([[1, 1, 1, 0]])
    padded = {"input_ids": torch.tensor([[5, 6, 7, 19]]), "attention_mask": mask}  # four tokens, four classes
    alone, beside = (
        show(model, {name: value[:, :end] for name, value in padded.items()}, {"perturbed.1.0"})["perturbed.1.0"]
        for end in (3, 4)
    )
    torch.testing.assert_close(beside, alone, **CLOSE)


def test_a_constant_model_is_not_moved():
    for model, columns in ((net(), {"x": X}), (Words(), TEXT), (Words(each=True), TEXT)):
        head = model[-1] if isinstance(model, nn.Sequential) else model.head
        nn.init.zeros_(head.weight)
        with Capture(model, {"logits", "perturbed.1.0"}) as capture:
            shown = capture(columns)
        assert torch.equal(shown["perturbed.1.0"], shown["logits"])
        shown["perturbed.1.0"].square().sum().backward()
        assert all(parameter.grad.isfinite().all() for parameter in model.parameters() if parameter.grad is not None)


@pytest.mark.parametrize("size", [1e3, 1e20, 1e-20])
def test_an_answer_that_is_certain_and_slopes_of_any_size_have_a_direction(size):
    """p is 1 to the last digit of float32 at the first two sizes; the direction is that of the weights whatever their size."""
    weight, x = torch.tensor([[2.0, 1.0], [-1.0, 1.0]]), torch.tensor([[3.0, 5.0], [-4.0, 1.0]])
    model = nn.Linear(2, 2, bias=False)
    with torch.no_grad():
        model.weight.copy_(size * weight)
    # two classes: from the own one to the other, whatever the probabilities
    way = torch.tensor([[-1.0, 0.0], [1.0, 0.0]])
    shown = show(model, {"x": x}, {"perturbed.1.0"})["perturbed.1.0"]
    torch.testing.assert_close(shown / size, (x + way) @ weight.T, rtol=1e-6, atol=0)


@settings(derandomize=True, deadline=None, max_examples=60)
@given(st.integers(0, 10**6), st.integers(2, 6), st.floats(0.1, 8))
def test_the_slope_points_where_autograds_does(seed, classes, size):
    draw = torch.Generator().manual_seed(seed)
    logits = size * torch.randn(3, 4, classes, generator=draw, dtype=torch.float64)
    mask = torch.rand(3, 4, generator=draw) < 0.6
    logits.requires_grad_()
    own = own_cross_entropy(logits, logits.argmax(-1)).view(3, 4)
    (slope,) = torch.autograd.grad((own * mask).sum(), logits)
    found = against(logits.detach(), mask)
    assert not found[~mask].any()
    # p is rounded where it is near 1, up to 1e-16 / (1 - p), and 1 - p is above 1e-10 at logits of this size
    torch.testing.assert_close(unit(found), unit(slope), rtol=0, atol=1e-5)


def test_of_a_certain_answer_beside_a_doubtful_one_the_doubtful_one_counts():
    slope = against(torch.tensor([[[900.0, 0.0, 0.0], [1.0, 0.0, 0.0]]]))
    assert not slope[0, 0].any()
    torch.testing.assert_close(slope[0, 1], torch.tensor([-1.0, 0.5, 0.5]))


def test_an_only_class_has_no_slope():
    assert not against(torch.randn(3, 1)).any()
    assert not against(torch.tensor([[0.0, -torch.inf]])).any()


def test_half_precision_is_moved_in_its_own():
    model = net().bfloat16()
    shown = show(model, {"x": X.bfloat16()}, {"logits", "perturbed.1.0"})
    wide = show(model.double(), {"x": X.bfloat16().double()}, {"perturbed.1.0"})["perturbed.1.0"]
    assert shown["perturbed.1.0"].dtype == torch.bfloat16
    # eight bits in each of some ten operations on numbers below 1
    torch.testing.assert_close(shown["perturbed.1.0"].double(), wide, rtol=0, atol=0.02)
    assert (shown["perturbed.1.0"] - shown["logits"]).abs().max() > 0.2

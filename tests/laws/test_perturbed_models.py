"""What the signal ``perturbed.E`` leaves alone, and which models have it."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.fakes.perturbed import CLOSE, TEXT, Words, X, bert, linear, net, own_cross_entropy
from torch import nn

from limbeck.data.batch import Batch
from limbeck.errors import SignalError
from limbeck.models.identity import of_module
from limbeck.signals.capture import Capture, show
from limbeck.signals.perturbed import is_logits, perturbed, step_of
from limbeck.teachers.local import LocalTeacher

# --- what it leaves alone


IN_BERT = {"logits", "hidden.0", "hidden.2", "bert.encoder.layer.0", "classifier:in", "attention.1.probs"}
IN_BERT |= {"bert.embeddings.word_embeddings", "gradient"}


@pytest.mark.parametrize(
    ("make", "names", "columns"),
    [
        (lambda: net(drop=0.5), {"logits", "0", "1:in"}, {"x": X}),
        (lambda: net(drop=0.5), {"logits", "gradient"}, {"x": X}),
        (lambda: bert(hidden_dropout_prob=0.3), IN_BERT - {"gradient"}, TEXT),
        (lambda: bert(hidden_dropout_prob=0.3), IN_BERT, TEXT),
    ],
)
@pytest.mark.parametrize("train", [False, True])
@pytest.mark.parametrize("frozen", [False, True])
def test_other_signals_are_what_they_are_without_it(make, names, columns, train, frozen):
    shown = []
    for also in (set(), {"perturbed.1.0", "perturbed.0.1"}):
        model = make().train(train).requires_grad_(not frozen)
        with Capture(model, names | also) as capture:
            torch.manual_seed(5)
            shown.append(capture(columns, keys=torch.arange(len(next(iter(columns.values()))))))
    assert shown[1].keys() == names | {"perturbed.1.0", "perturbed.0.1"}
    for name in names:
        assert torch.equal(shown[0][name], shown[1][name]), name
    far, near = ((shown[1][name] - shown[1]["logits"]).abs().max() for name in ("perturbed.1.0", "perturbed.0.1"))
    assert far > 1e-2
    assert near > 1e-4


def moved_by_hand(model, columns):
    """The logits as they are and a step of 0.5 away, the plain way: the step is a number."""
    if isinstance(model, Words):
        words = model.words(columns["input_ids"])
        mask = columns["attention_mask"]

        def run(given):
            whole = (mask.unsqueeze(-1) * given).sum(1, keepdim=True) / mask.sum(1).view(-1, 1, 1)
            return model.head((mask.unsqueeze(-1) * model.mix(given + 2 * whole).tanh()).sum(1))
    else:
        words, run = columns["x"], model
    leaf = words.detach().requires_grad_()
    logits = run(leaf)
    (slope,) = torch.autograd.grad(own_cross_entropy(logits, logits.argmax(-1)).sum(), leaf)
    step = 0.5 * slope / slope.flatten(1).norm(dim=1).view(-1, *[1] * (slope.ndim - 1))
    return run(words), run(words + step)


@pytest.mark.parametrize("also", [False, True])
@pytest.mark.parametrize(("make", "columns"), [(net, {"x": X}), (Words, TEXT)])
def test_only_the_second_pass_trains_unless_the_first_is_learnt_from_too(make, columns, also):
    model = make()
    logits, moved = moved_by_hand(model, columns)
    aims = torch.randn(2, *logits.shape, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
    wanted = (aims[0] * moved).sum() + (aims[1] * logits).sum() * also
    expected = torch.autograd.grad(wanted, list(model.parameters()))
    with Capture(model, {"perturbed.0.5", "logits"}) as capture:
        shown = capture(columns)
    assert all(parameter.grad is None for parameter in model.parameters())
    value = (aims[0] * shown["perturbed.0.5"]).sum()
    (value + (aims[1] * shown["logits"]).sum() if also else value).backward()
    for parameter, one in zip(model.parameters(), expected, strict=True):
        assert one.any()
        torch.testing.assert_close(parameter.grad, one, **CLOSE)
    assert not X.requires_grad


@pytest.mark.parametrize(("make", "columns"), [(net, {"x": X}), (Words, TEXT)])
def test_the_teachers_side_has_no_graph_and_leaves_no_trace(make, columns):
    model, batch = make(), Batch.of(columns)
    before = of_module(model)
    shown = LocalTeacher(model, "fingerprint").observe(batch, frozenset({"perturbed.1.0", "logits"}))
    assert not torch.allclose(*shown.values(), atol=1e-2)
    assert not any(one.requires_grad for one in shown.values())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert of_module(model) == before


@pytest.mark.parametrize("fails", [0, 1])
def test_no_hook_is_left_behind(fails):
    model, passes = Words(), []

    def stumble(*_):
        passes.append(None)
        if len(passes) == fails + 1:
            raise ZeroDivisionError

    model.head.register_forward_pre_hook(stumble)
    with Capture(model, {"perturbed.1.0"}) as capture, pytest.raises(ZeroDivisionError):
        capture(TEXT)
    assert not model.words._forward_hooks
    show(model, TEXT, {"perturbed.1.0"})
    assert not model.words._forward_hooks


# --- which models have it


class Halves(nn.DataParallel):
    """What `nn.DataParallel` does on two devices: a copy that shares the hooks of the model runs each half."""

    def __init__(self, module):
        super().__init__(module)
        self.device_ids = [0, 1]

    def forward(self, *given, **columns):
        halves = zip(*(value.chunk(2) for value in (*given, *columns.values())), strict=True)
        return torch.cat([self.module(*half) for half in halves])


@pytest.mark.parametrize("wrapper", [nn.DataParallel, lambda model: torch.compile(model, backend="eager")])
def test_a_wrapped_model_shows_what_the_model_inside_shows(wrapper):
    longer = {name: torch.cat([value, value.flip(0)]) for name, value in TEXT.items()}
    for make, batches in ((net, ({"x": X}, {"x": -X[:2]})), (Words, (TEXT, longer, TEXT))):
        plain = make()
        with Capture(wrapper(make()), {"perturbed.1.0", "logits"}) as capture:
            for columns in batches:
                shown, expected = capture(columns), show(plain, columns, {"perturbed.1.0", "logits"})
                for name in shown:
                    torch.testing.assert_close(shown[name].detach(), expected[name], **CLOSE)
                    assert shown[name].requires_grad
    torch._dynamo.reset()


def test_on_several_devices_only_columns_are_moved():
    name = {"perturbed.1.0"}
    shown, expected = show(Halves(net().eval()), {"x": X}, name), show(net().eval(), {"x": X}, name)
    torch.testing.assert_close(shown, expected, **CLOSE)
    with pytest.raises(SignalError, match=r"nn\.DataParallel runs a copy"):
        show(Halves(Words()), TEXT, name)


def test_a_compiled_model_that_ran_before_says_so():
    compiled = torch.compile(Words(), backend="eager")
    compiled(**TEXT)
    with pytest.raises(SignalError, match=r"'perturbed': no graph leads .* an earlier compilation"):
        show(compiled, TEXT, {"perturbed.1.0"})
    torch._dynamo.reset()


@pytest.mark.parametrize("forward", [lambda x: x.detach() * 2, lambda x: torch.ones(4, 2, requires_grad=True) * 2])
def test_no_way_back_to_the_input_is_said(forward):
    model = net()
    model.forward = forward
    with pytest.raises(SignalError, match="'perturbed': no graph leads"):
        show(model, {"x": X}, {"perturbed.1.0"})


def test_nothing_to_move_is_said():
    with pytest.raises(SignalError, match="Linear has neither one floating input column nor get_input_embeddings"):
        show(linear(), {"x": X, "y": X}, {"perturbed.1.0"})


@pytest.mark.parametrize(
    ("times", "said"), [(2, "run 2 times in one pass"), (0, "ran 0 times for the input that is moved")]
)
def test_embeddings_that_run_otherwise_are_said(times, said):
    model = Words()
    forward, passes = model.forward, []

    def several(input_ids, attention_mask):
        passes.append(None)
        if times == 2:
            model.words(input_ids)
        elif len(passes) == 2:
            return torch.zeros(2, 4)
        return forward(input_ids, attention_mask)

    model.forward = several
    with pytest.raises(SignalError, match=said):
        show(model, TEXT, {"perturbed.1.0"})


@settings(derandomize=True, deadline=None, max_examples=200)
@given(st.floats(1e-300, 1e300))
def test_a_name_says_its_step(epsilon):
    assert step_of(perturbed(epsilon)) == epsilon
    assert is_logits(perturbed(epsilon))


def test_other_names_are_other_signals():
    assert step_of("perturbed.1") == 1
    for name in (
        "perturbed",
        "perturbed.",
        "perturbed.x",
        "perturbed.-1.0",
        "perturbed.inf",
        "perturbed.1.0:in",
        "hidden.1",
    ):
        assert step_of(name) is None
        assert not is_logits(name)
    assert is_logits("logits")
    with pytest.raises(SignalError, match=r"Linear has no module 'perturbed\.x'"):
        Capture(linear(), {"perturbed.x"})


def test_a_module_of_that_name_goes_first():
    model = nn.Sequential()
    model.add_module("perturbed", nn.Sequential(nn.Identity(), linear()))
    shown = show(model, {"x": X}, {"perturbed.0", "perturbed.1", "perturbed.1.0"})
    assert torch.equal(shown["perturbed.0"], X)
    assert torch.equal(shown["perturbed.1"], linear()(X))
    assert not torch.allclose(shown["perturbed.1.0"], shown["perturbed.1"], atol=1e-2)

"""The signal ``perturbed.E`` is the same model a step away, where its own answer is less likely; and the term that reads it."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter
from torch import nn
from torch.nn import functional as F

from limbeck.data.batch import CLASS, NO_LABEL, Batch
from limbeck.data.task import ASKED
from limbeck.data.tasks import MultiLabel, Numbers, Spans, Tags
from limbeck.errors import SettingError, SignalError
from limbeck.losses import kl_divergence
from limbeck.models.identity import of_module
from limbeck.objective import Labels, Objective, Perturbed, SoftTargets, Terms
from limbeck.objective.gates import Gate
from limbeck.signals.capture import Capture, show
from limbeck.signals.perturbed import against, is_logits, perturbed, step_of, unit
from limbeck.teachers.local import LocalTeacher

X = torch.randn(4, 3, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
TEXT = {
    "input_ids": torch.arange(10).reshape(2, 5),
    "attention_mask": torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]]),
}
CLOSE = {"rtol": 0, "atol": 1e-11}  # float64, sums of some ten terms of size 1


def linear():
    torch.manual_seed(0)
    return nn.Linear(3, 4).double()


def net(*, drop=0.0):
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(3, 6), nn.Tanh(), nn.Dropout(drop), nn.Linear(6, 4)).double()


def images():
    torch.manual_seed(0)
    body = [nn.Conv2d(1, 3, 3, padding=1), nn.GELU(), nn.Flatten(), nn.Linear(48, 5)]
    return nn.Sequential(*body).double().eval(), {"pixel_values": torch.randn(3, 1, 4, 4, dtype=torch.float64)}


class Words(nn.Module):
    """Token ids to logits [B, C], or [B, L, C] where ``each``; a text is the mean of the tokens that count."""

    def __init__(self, *, each=False):
        super().__init__()
        torch.manual_seed(3)
        self.words, self.mix, self.head = nn.Embedding(20, 6), nn.Linear(6, 6), nn.Linear(6, 4)
        self.each = each
        self.double()

    def get_input_embeddings(self):
        return self.words

    def forward(self, input_ids, attention_mask):
        seen = attention_mask.unsqueeze(-1).double()
        words = self.words(input_ids)
        whole = (seen * words).sum(1, keepdim=True) / seen.sum(1, keepdim=True)
        states = self.mix(words + 2 * whole).tanh()
        return self.head(states if self.each else (seen * states).sum(1))


def bert(tags=False, **more):
    from transformers import BertConfig, BertForSequenceClassification, BertForTokenClassification

    torch.manual_seed(0)
    sizes = {"vocab_size": 20, "hidden_size": 8, "num_attention_heads": 2, "intermediate_size": 8, "num_labels": 3}
    kind = BertForTokenClassification if tags else BertForSequenceClassification
    model = kind(BertConfig(num_hidden_layers=2, **sizes, **more)).double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(8)  # answers that are sure, gradients that are not small
    return model


def steps(model, place, columns, name):
    """What went through ``place`` in the second pass, less that of the first one."""
    seen = []
    hook = model.get_submodule(place).register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].detach()))
    show(model, columns, {name})
    hook.remove()
    assert len(seen) == 2
    return seen[1] - seen[0]


def own_cross_entropy(logits, own):
    return F.cross_entropy(logits.flatten(0, -2), own.flatten(), reduction="none")


# --- what the signal is


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


# --- the term


def batch_and_teacher(seed=4):
    teacher = torch.randn(4, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return Batch.of({"x": X}, torch.arange(4)), {"logits": teacher}


def test_a_short_step_is_soft_targets():
    batch, teacher = batch_and_teacher()
    found = []
    for term in (SoftTargets(temperature=3.0), Perturbed(epsilon=1e-9, temperature=3.0)):
        model, objective = net(), Objective([term])
        with Capture(model, objective.needs().student) as capture:
            loss, _ = objective(capture({"x": X}), teacher, batch)
        found.append((loss, *torch.autograd.grad(loss, list(model.parameters()))))
    for plain, moved in zip(*found, strict=True):
        torch.testing.assert_close(moved, plain, rtol=0, atol=1e-7)  # the step, times slopes below 100


def test_it_is_the_divergence_at_the_moved_input_with_the_teacher_at_the_input_itself():
    batch, teacher = batch_and_teacher()
    model, objective = net(), Objective([Labels(), Perturbed(epsilon=0.5, temperature=2.0)])
    shown = show(model, {"x": X}, objective.needs().student)
    _, parts = objective(shown, teacher, batch)
    log_q, p = (shown["perturbed.0.5"] / 2).log_softmax(-1), (teacher["logits"] / 2).softmax(-1)
    expected = 4 * F.kl_div(log_q, p, reduction="batchmean")
    torch.testing.assert_close(parts["perturbed"], expected, rtol=1e-12, atol=0)
    assert parts["perturbed"] > 0


def test_training_by_it_brings_the_answer_around_an_example_to_the_teachers():
    batch, teacher = batch_and_teacher()
    held = {}
    for name, term in {"soft": SoftTargets(temperature=1.0), "moved": Perturbed(temperature=1.0)}.items():
        model, objective = net(), Objective([term])
        optimiser = torch.optim.Adam(model.parameters(), 0.02)
        with Capture(model, objective.needs().student) as capture:
            for _ in range(60):
                optimiser.zero_grad()
                objective(capture({"x": X}), teacher, batch)[0].backward()
                optimiser.step()
        around = show(model, {"x": X}, {"perturbed.1.0"})["perturbed.1.0"]
        held[name] = float(kl_divergence(around, teacher["logits"]).mean())
    assert held["moved"] < held["soft"] / 2  # 0.02 and 1.8 when this was written


def test_as_a_recipe_writes_it():
    found = TypeAdapter(Terms).validate_python(
        {"labels": 0.1, "perturbed": {"weight": 0.5, "epsilon": 2, "temperature": 2}}
    )
    assert found[1] == Perturbed(epsilon=2.0, temperature=2.0, weight=0.5)
    assert found[1].needs().student == {"perturbed.2.0"}
    for wrong in (0.0, -1.0, float("inf"), float("nan")):
        with pytest.raises(SettingError, match="epsilon"):
            Perturbed(epsilon=wrong)


def test_other_classes_are_said():
    batch, _ = batch_and_teacher()
    with pytest.raises(SignalError, match="4 classes and the teacher 3"):
        Objective([Perturbed()]).build({"perturbed.1.0": torch.zeros(4, 4)}, {"logits": torch.zeros(4, 3)}, batch=batch)


# --- tasks with several answers an example


def tagged(count=5):
    labels = torch.full((2, count), NO_LABEL)
    labels[0, 1], labels[0, 3], labels[1, 2] = 2, ASKED, 0
    return Batch.of(TEXT, labels)


@pytest.mark.parametrize("gate", [None, Gate(by="teacher-confidence", above=0.4)])
def test_tags_are_compared_answer_by_answer(gate):
    """Three of ten places have an answer; the loss is that of three examples of their own."""
    model, teacher, batch = Words(each=True), Words(each=True), tagged()
    with torch.no_grad():
        for parameter in teacher.parameters():
            parameter.add_(0.3)
    terms = [Labels(), Perturbed(gate=gate, temperature=2.0), SoftTargets(gate=gate)]
    objective = Objective(terms, Tags())
    ours, theirs = show(model, TEXT, objective.needs().student), show(teacher, TEXT)
    objective.build(ours, theirs, batch=batch)
    _, parts = objective(ours, theirs, batch)
    places = torch.tensor([0, 0, 1]), torch.tensor([1, 3, 2])
    few = Batch.of(torch.zeros(3, 1), torch.tensor([2, NO_LABEL, 0]))
    alone = Objective(terms)
    sides = [{name: value[places] for name, value in side.items()} for side in (ours, theirs)]
    alone.build(*sides)
    _, expected = alone(*sides, few)
    assert parts.keys() == expected.keys()
    for name in parts:
        torch.testing.assert_close(parts[name], expected[name], rtol=1e-12, atol=0)
    assert parts["perturbed"] > 0
    assert objective.counts(batch)["real answers"] == 3


def test_tags_of_two_tokenizers_do_not_line_up():
    ours, theirs = {"perturbed.1.0": torch.zeros(2, 5, 4)}, {"logits": torch.zeros(2, 6, 4)}
    with pytest.raises(SignalError, match="other places"):
        Objective([Perturbed()], Tags())(ours, theirs, tagged())


@pytest.mark.parametrize(("task", "shape"), [(MultiLabel(), (2, 5)), (Spans(), (2, 5, 2))])
def test_tasks_whose_rows_of_logits_are_no_choice_say_so(task, shape):
    batch = Batch.of(TEXT, torch.zeros(2, shape[-1], dtype=torch.int64))
    if task == Spans():
        labels = {CLASS: batch.labels[CLASS], "text": torch.tensor([[2, 5], [1, 3]])}
        batch = Batch(batch.inputs, labels, batch.masks, batch.ids, batch.views)
    objective = Objective([Perturbed()], task)
    with pytest.raises(SignalError, match=rf"'perturbed\.1\.0' takes each row .* {task.name!r}"):
        objective.build({"perturbed.1.0": torch.zeros(shape)}, {"logits": torch.zeros(shape)}, batch=batch)


def test_numbers_have_no_answer_to_go_against():
    with pytest.raises(SignalError, match="'perturbed' compares probabilities"):
        Objective([Perturbed()], Numbers()).check(LocalTeacher(linear(), "f").provides)

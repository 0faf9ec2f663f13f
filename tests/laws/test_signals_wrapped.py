"""Signals of wrapped models are those of the model inside; and the signal ``gradient``, whose definition is tested here."""

import copy
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.autograd import gradcheck, gradgradcheck
from torch.autograd.functional import jacobian

from limbeck.data.batch import Batch
from limbeck.errors import SignalError
from limbeck.models.identity import of_module
from limbeck.objective.features import Jacobian
from limbeck.objective.hints import Hints
from limbeck.objective.objective import Objective
from limbeck.objective.outline import layers_of
from limbeck.signals.capture import Capture, bare, show
from limbeck.signals.gradient import signs
from limbeck.teachers.cached import CachedTeacher
from limbeck.teachers.local import LocalTeacher
from limbeck.teachers.stored import StoredTeacher

TEXT = {
    "input_ids": torch.arange(10).reshape(2, 5),
    "attention_mask": torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]]),
}
OTHER = {"input_ids": torch.arange(10, 20).reshape(2, 5), "attention_mask": torch.ones(2, 5, dtype=torch.int64)}
ROWS = {"x": torch.randn(4, 3, generator=torch.Generator().manual_seed(2))}
KEYS = torch.tensor([3, 8])
# The same float32 operations on the same numbers, of size 1; adapters that add 0 may change the order of a sum.
CLOSE = {"rtol": 0, "atol": 1e-6}


def bert(layers=2):
    from transformers import BertConfig, BertForSequenceClassification

    torch.manual_seed(0)
    sizes = {"vocab_size": 20, "hidden_size": 8, "num_attention_heads": 2, "intermediate_size": 8, "num_labels": 3}
    model = BertForSequenceClassification(BertConfig(num_hidden_layers=layers, **sizes)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(10)  # maps that are not flat, gradients that are not small
    return model


def llama():
    from transformers import LlamaConfig, LlamaForSequenceClassification

    torch.manual_seed(0)
    sizes = {"vocab_size": 20, "hidden_size": 8, "num_attention_heads": 2, "intermediate_size": 8, "num_labels": 3}
    return LlamaForSequenceClassification(LlamaConfig(num_hidden_layers=2, pad_token_id=0, **sizes)).eval()


class Own(nn.Module):
    """A user's model with a part of its own that is called ``module``."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.module = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 4))
        self.head = nn.Linear(4, 2)

    def forward(self, x):
        return self.head(self.module(x).tanh())


# attention of one layer alone: those that torch.compile runs by the same code are not to be taken for each other
IN_BERT = ("hidden.0", "hidden.2", "bert.encoder.layer.0", "bert.encoder.layer.1:in", "classifier:in")
IN_BERT += ("bert.encoder.layer.0.attention.self.query", "attention.2.probs", "attention.2.key", "logits", "gradient")
IN_LLAMA = ("hidden.1", "model.layers.0", "model.layers.1.self_attn.q_proj", "model.layers.1.mlp:in")
IN_LLAMA += ("attention.1.probs", "attention.2.query", "logits", "gradient")
IN_OWN = ("module", "module.0", "module.2:in", "head", "logits", "gradient")
MODELS = {
    "bert": (bert, IN_BERT, (TEXT, OTHER), ["query", "value", "word_embeddings"]),
    "llama": (llama, IN_LLAMA, (OTHER, OTHER), ["q_proj", "down_proj"]),
    "own": (Own, IN_OWN, (ROWS, {"x": ROWS["x"].flip(0)}), ["module.0", "head"]),
}


def lora(model, targets, saved=None):
    from peft import LoraConfig, get_peft_model

    classifies = "head" not in targets
    return get_peft_model(
        model,
        LoraConfig(
            r=2,
            lora_alpha=4,
            lora_dropout=0.0,
            target_modules=targets,
            modules_to_save=saved,
            task_type="SEQ_CLS" if classifies else None,
        ),
    ).eval()


WRAPPERS = {
    "data-parallel": lambda model, targets: nn.DataParallel(model),
    "compiled": lambda model, targets: torch.compile(model, backend="eager"),
    "compiled data-parallel": lambda model, targets: torch.compile(nn.DataParallel(model), backend="eager"),
    "lora": lora,
    "lora in data-parallel": lambda model, targets: nn.DataParallel(lora(model, targets)),
    "compiled lora": lambda model, targets: torch.compile(lora(model, targets), backend="eager"),
}


@pytest.fixture(autouse=True)
def _nothing_compiled_before():
    yield
    torch._dynamo.reset()


def hooks(module):
    """Those that `module` has; transformers leaves its own after the first call that shows hidden states."""
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks")
    return [(name, [list(getattr(part, kind)) for kind in kinds]) for name, part in module.named_modules()]


ON = {  # compiling a transformer takes seconds
    "own": list(WRAPPERS),
    "bert": ["data-parallel", "compiled", "lora", "lora in data-parallel"],
    "llama": ["lora"],
}


@pytest.mark.parametrize(("model", "wrapper"), [(model, wrapper) for model in ON for wrapper in ON[model]])
def test_a_wrapped_model_shows_what_the_model_inside_shows(model, wrapper):
    make, names, inputs, targets = MODELS[model]
    plain, wrapped = make(), WRAPPERS[wrapper](make(), targets)
    keys = torch.arange(3, 3 + len(next(iter(inputs[0].values()))))
    with Capture(wrapped, names) as capture:
        for columns in inputs:
            shown, expected = capture(columns, keys=keys), show(plain, columns, names, keys)
            assert set(shown) == set(names)
            for name in names:
                torch.testing.assert_close(
                    shown[name].detach(), expected[name], **CLOSE, msg=lambda m, n=name: f"{n}: {m}"
                )
                assert shown[name].requires_grad
                assert expected[name].abs().sum() > 0


class Blocks(nn.Module):
    """Blocks that torch.compile cannot make one piece of: the code for the first is tried on those behind it."""

    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.Linear(3, 3)

        def forward(self, x):
            torch._dynamo.graph_break()
            return x + self.inner(x).tanh()

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.blocks = nn.ModuleList(self.Block() for _ in range(3))

    def forward(self, x):
        for block in self.blocks:
            x = block(x)
        return x


@pytest.mark.parametrize("names", [{"blocks.2.inner"}, {"blocks.2.inner:in", "blocks.0.inner"}])
def test_a_hook_on_one_of_the_blocks_that_share_compiled_code_sees_that_one(names):
    plain = Blocks()
    with Capture(torch.compile(Blocks(), backend="eager"), names) as capture:
        for columns in (ROWS, {"x": ROWS["x"].flip(0)}):
            shown, expected = capture(columns), show(plain, columns, names)
            for name in names:
                torch.testing.assert_close(shown[name].detach(), expected[name], **CLOSE)


class Halves(nn.DataParallel):
    """What `nn.DataParallel` does on two devices: a copy that shares the hooks of the model runs each half."""

    def __init__(self, module):
        super().__init__(module)
        self.device_ids = [0, 1]

    def forward(self, **columns):
        halves = zip(*(value.chunk(2) for value in columns.values()), strict=True)
        given = [self.module(**dict(zip(columns, half, strict=True))) for half in halves]
        return torch.cat([getattr(one, "logits", one) for one in given])


@pytest.mark.parametrize("wrapper", [Halves, lambda model: torch.compile(Halves(model), backend="eager")])
def test_on_several_devices_only_what_is_put_together_is_shown(wrapper):
    model, keys = wrapper(Own()), torch.arange(4)
    names = {"logits", "gradient"}
    shown, expected = show(model, ROWS, names, keys), show(Own(), ROWS, names, keys)
    for name in names:
        torch.testing.assert_close(shown[name], expected[name], **CLOSE)
    for name in ("module.0", "head:in"):
        with pytest.raises(SignalError, match=r"nn\.DataParallel runs a copy .* use one device"):
            show(model, ROWS, {"logits", name})
        with Capture(Own(), {name}) as capture, pytest.raises(SignalError, match="DataParallel runs a copy"):
            capture(ROWS, model)
    for name in ("attention.1.probs", "gradient"):
        with pytest.raises(SignalError, match="DataParallel runs a copy"):
            show(wrapper(bert(1)), TEXT, {name}, KEYS)


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_a_closed_capture_leaves_no_hook(wrapper):
    from transformers import AttentionInterface

    kind = "own" if "compiled" in wrapper else "bert"
    make, names, (columns, _), targets = MODELS[kind]
    model = make()
    if kind == "bert":
        model(**columns, output_hidden_states=True)
    wrapped = WRAPPERS[wrapper](model, targets)
    before, interface = hooks(wrapped), AttentionInterface.get_interface
    with Capture(wrapped, names) as capture:
        assert hooks(wrapped) != before
        capture(columns, keys=torch.arange(len(next(iter(columns.values())))))
    assert hooks(wrapped) == before
    assert AttentionInterface.get_interface is interface


def test_a_forward_that_fails_leaves_no_hook():
    from transformers import AttentionInterface

    model = bert()
    model(**TEXT, output_hidden_states=True)
    before, interface = hooks(model), AttentionInterface.get_interface
    for names in (IN_BERT, ("gradient",), ("bert.encoder.layer.7", "bert.encoder.layer.0")):
        model.classifier.forward = lambda _: 1 / 0
        with pytest.raises((ZeroDivisionError, SignalError)), Capture(model, names) as capture:
            capture(TEXT, keys=KEYS)
        assert hooks(model) == before
        assert AttentionInterface.get_interface is interface


def test_the_names_of_an_adapted_model_are_those_of_its_base():
    base, adapted = bert(), lora(bert(), ["query"])
    assert layers_of(adapted, TEXT) == layers_of(base, TEXT) == ["hidden.1", "hidden.2"]
    with pytest.raises(SignalError, match="has no module 'base_model"):
        Capture(adapted, {"base_model.model.bert.encoder.layer.0"})
    for targets, saved in (
        (["module.0", "head"], None),
        (["module.0", "module.2", "head"], None),
        (["head"], ["module.2"]),
    ):
        assert layers_of(lora(Own(), targets, saved), ROWS) == layers_of(Own(), ROWS) == ["module.1", "module.2"]


HINTS = [
    (bert, TEXT, "lora", ["query", "value"], "bert.encoder.layer.0"),
    (bert, TEXT, "lora in data-parallel", ["query", "value"], "bert.encoder.layer.0"),
    (Own, ROWS, "compiled lora", ["module.0", "module.2", "head"], "module.1"),
]


@pytest.mark.parametrize(("make", "columns", "wrapper", "targets", "name"), HINTS)
def test_hints_train_the_adapters_up_to_the_layer_alone(make, columns, wrapper, targets, name):
    teacher, student = make(), WRAPPERS[wrapper](make(), targets)
    with torch.no_grad():
        for parameter in teacher.parameters():
            parameter.add_(0.05)
    objective, theirs = Objective([Hints(student=name, teacher=name)]), show(teacher, columns, {name})
    with Capture(student, {name}) as capture:
        for _ in range(2):
            loss, _ = objective(capture(columns), theirs, Batch.of(columns))
            loss.backward()
            inner = bare(student)
            seen = {path: one.grad for path, one in inner.named_parameters() if one.grad is not None and one.grad.any()}
            assert seen
            assert all("lora_" in path and (".layer.0." in path or ".module.0." in path) for path in seen)
            with torch.no_grad():  # B is 0 at first, so A has a gradient from the second step on
                for path, one in inner.named_parameters():
                    if "lora_B" in path:
                        one.add_(0.1)
                    one.grad = None
    expected = {
        f"{place}.{side}" for place in set(targets) & {"query", "value"} or {"0"} for side in ("lora_A", "lora_B")
    }
    assert {".".join(path.split(".")[-4:-2]) for path in seen} == expected


def test_a_trained_adapter_is_seen():
    plain, adapted = bert(), lora(bert(), ["query"])
    with torch.no_grad():
        for path, one in adapted.named_parameters():
            if "lora_B" in path:
                one.fill_(0.5)
    ours, theirs = (show(model, TEXT, IN_BERT, KEYS) for model in (adapted, plain))
    assert torch.equal(ours["hidden.0"], theirs["hidden.0"])
    for name in IN_BERT[1:]:
        assert not torch.allclose(ours[name], theirs[name], atol=1e-4), name


class Net(nn.Module):
    """[B, 3] to [B, 4]; its weights are plain tensors, so that they can be set to what a check varies."""

    def __init__(self):
        super().__init__()
        generator = torch.Generator().manual_seed(1)
        self.first = torch.randn(3, 5, generator=generator, dtype=torch.float64)
        self.second = torch.randn(5, 4, generator=generator, dtype=torch.float64)

    def forward(self, x):
        return (x @ self.first).tanh() @ self.second


class TestGradient:
    X = torch.randn(3, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    KEYS = torch.tensor([4, 5, 1_000_007])

    def combined(self, whole, keys):
        """``sum_c s_c d logits_c / d input`` of each example, from the whole Jacobian [B, C, B, ...]."""
        chosen = signs(keys, whole.shape[1])
        return torch.stack(
            [sum(chosen[row, c] * whole[row, c, row] for c in range(whole.shape[1])) for row in range(len(whole))]
        )

    def test_it_is_the_signed_sum_of_the_jacobian(self):
        net = Net()
        shown = show(net, {"x": self.X}, {"gradient"}, self.KEYS)["gradient"]
        # float64 on both sides, sums of 20 terms
        torch.testing.assert_close(shown, self.combined(jacobian(net, self.X), self.KEYS), rtol=0, atol=1e-12)

    @pytest.mark.parametrize("frozen", [False, True])
    def test_of_a_text_it_is_for_the_embeddings(self, frozen):
        model = bert(1).double().requires_grad_(not frozen)
        shown = show(model, TEXT, {"gradient"}, KEYS)["gradient"]
        words = model.bert.embeddings.word_embeddings(TEXT["input_ids"]).detach()
        mask = TEXT["attention_mask"]
        whole = jacobian(lambda given: model(inputs_embeds=given, attention_mask=mask).logits, words)
        torch.testing.assert_close(shown, self.combined(whole, KEYS), rtol=0, atol=1e-10)
        assert shown.shape == (2, 5, 8)
        assert not shown[1, 3:].any()  # padding
        assert all(parameter.grad is None for parameter in model.parameters())

    def test_of_a_linear_model_it_is_worked_out_by_hand(self):
        net = nn.Linear(2, 2)
        with torch.no_grad():
            net.weight.copy_(torch.tensor([[1.0, 2.0], [30.0, 40.0]]))
        keys = torch.arange(64)
        shown = show(net, {"x": torch.randn(64, 2)}, {"gradient"}, keys)["gradient"]
        found = {tuple(row) for row in shown.tolist()}
        assert found == {(31.0, 42.0), (-29.0, -38.0), (29.0, 38.0), (-31.0, -42.0)}

    def test_the_students_has_a_graph_of_the_right_slope(self):
        net, columns = Net(), {"x": self.X}

        def of(first, second):
            net.first, net.second = first, second
            with Capture(net, {"gradient"}) as capture:
                return capture(columns, keys=self.KEYS)["gradient"]

        weights = tuple(one.clone().requires_grad_() for one in (net.first, net.second))
        assert gradcheck(of, weights)
        assert gradgradcheck(of, weights)

    def test_attention_is_differentiated_twice(self):
        """A slope by central differences in float64, 1e-5 to each side: exact to about 1e-9 of its size."""
        model = bert(1).double()
        weight = model.bert.encoder.layer[0].attention.self.query.weight
        aim = torch.randn(2, 5, 8, generator=torch.Generator().manual_seed(3), dtype=torch.float64)

        def value():
            with Capture(model, {"gradient"}) as capture:
                return (capture(TEXT, keys=KEYS)["gradient"] * aim).sum()

        (slope,) = torch.autograd.grad(value(), weight)
        way = torch.randn(weight.shape, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
        around = []
        for step in (1e-5, -1e-5):
            with torch.no_grad():
                weight.add_(step * way)
            around.append(float(value()))
            with torch.no_grad():
                weight.sub_(step * way)
        measured = (around[0] - around[1]) / 2e-5
        assert abs(measured) > 1e-3
        assert float((slope * way).sum()) == pytest.approx(measured, rel=1e-6)

    @pytest.mark.parametrize(("make", "columns", "other"), [(bert, TEXT, "hidden.1"), (Own, ROWS, "module.0")])
    def test_the_teachers_side_has_no_graph_and_leaves_no_trace(self, make, columns, other):
        model, batch = make(), Batch.of(columns)
        before = of_module(model)
        shown = LocalTeacher(model, "fingerprint").observe(batch, frozenset({"gradient", other, "logits"}))
        assert shown["gradient"].any()
        assert not any(one.requires_grad for one in shown.values())
        assert all(parameter.grad is None for parameter in model.parameters())
        assert not any(one.requires_grad for one in columns.values())
        assert of_module(model) == before

    def test_both_sides_take_the_same_signs_so_that_equal_models_match(self):
        student, batch = Own(), Batch.of(ROWS)
        teacher = LocalTeacher(copy.deepcopy(student), "fingerprint")
        objective = Objective([Jacobian()])
        with Capture(student, {"gradient"}) as capture:
            shown = capture(ROWS, keys=batch.keys)
            loss, _ = objective(shown, teacher.observe(batch, frozenset({"gradient"})), batch)
            loss.backward()
            assert float(loss) < 1e-12  # directions in float32, squared
            assert student.module[0].weight.grad is not None
            with torch.no_grad():
                student.head.weight.mul_(torch.tensor([[1.0], [-2.0]]))
            loss, _ = objective(capture(ROWS, keys=batch.keys), teacher.observe(batch, frozenset({"gradient"})), batch)
        assert float(loss) > 1e-3

    def test_answers_at_tokens_have_none(self):
        class AtTokens(nn.Module):
            def forward(self, x):
                return torch.stack([x, 2 * x], 1)

        with pytest.raises(SignalError, match=r"'gradient' is of the logits of one answer.*\[3, 2, 3\].*'hints'"):
            show(AtTokens(), {"x": self.X}, {"gradient"}, self.KEYS)

    def test_the_signs_belong_to_id_and_view(self):
        ids, views = torch.arange(200) % 20, torch.arange(200) // 20
        batch = replace(Batch.of(torch.zeros(200, 3), ids=ids), views=views)
        drawn = signs(batch.keys, 64)
        order = torch.randperm(200, generator=torch.Generator().manual_seed(0))
        assert torch.equal(signs(batch.select(order).keys, 64), drawn[order])
        assert len({tuple(row) for row in drawn.tolist()}) == 200
        assert set(drawn.unique().tolist()) == {-1.0, 1.0}
        # fair and independent: means of 12,800 and of 200 draws lie within 5 of their standard deviations of 0
        assert abs(float(drawn.mean())) < 5 / 12_800**0.5
        together = (drawn.T @ drawn / 200).fill_diagonal_(0).abs().max()
        assert float(together) < 5 / 200**0.5

    def test_an_example_does_not_depend_on_its_batch(self):
        order = torch.tensor([2, 0])
        whole = show(Net(), {"x": self.X}, {"gradient"}, self.KEYS)["gradient"]
        some = show(Net(), {"x": self.X[order]}, {"gradient"}, self.KEYS[order])["gradient"]
        torch.testing.assert_close(some, whole[order], rtol=0, atol=1e-12)

    @pytest.mark.parametrize(("make", "columns"), [(bert, TEXT), (Own, ROWS)])
    def test_what_is_stored_is_what_was_live(self, tmp_path, make, columns):
        needs, batch = frozenset({"gradient", "logits"}), Batch.of(columns)
        view = replace(batch, views=batch.views + 1)
        live = [LocalTeacher(make(), "fingerprint").observe(one, needs)["gradient"] for one in (batch, view)]
        assert not torch.equal(*live)  # the same input under another view takes other signs
        with CachedTeacher(LocalTeacher(make(), "fingerprint"), tmp_path, "inputs") as teacher:
            for one, expected in zip((batch, view), live, strict=True):
                assert torch.equal(teacher.observe(one, needs)["gradient"], expected)
                assert torch.equal(teacher.observe(one, needs)["gradient"], expected)
            assert teacher.misses == teacher.hits == 2 * len(batch)
        stored, back = StoredTeacher(tmp_path), torch.arange(len(batch)).flip(0)
        assert torch.equal(stored.observe(view.select(back), needs)["gradient"], live[1].flip(0))

    def test_a_compiled_model_that_ran_before_says_so(self):
        compiled = torch.compile(bert(1), backend="eager")
        compiled(**TEXT)
        with pytest.raises(SignalError, match="an earlier compilation"):
            show(compiled, TEXT, {"gradient"}, KEYS)

    @pytest.mark.parametrize("forward", [lambda x: x.detach() * 2, lambda x: torch.ones(4, 2, requires_grad=True) * 2])
    def test_no_way_back_to_the_input_is_said(self, forward):
        net = Own()
        net.forward = forward
        with pytest.raises(SignalError, match="no graph leads"):
            show(net, ROWS, {"gradient"})

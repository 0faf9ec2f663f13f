from typing import NamedTuple

import pytest
import torch
from torch import nn

from limbeck.errors import SignalError
from limbeck.signals.call import call, logits_of
from limbeck.signals.capture import Capture, bare, show

X = {"x": torch.arange(12.0).reshape(4, 3) / 7}


class Net(nn.Module):
    """Its output comes in any of the shapes that models have."""

    def __init__(self, kind="tensor", inplace=False):
        super().__init__()
        torch.manual_seed(0)
        self.kind = kind
        self.body = nn.Sequential(nn.Linear(3, 5), nn.ReLU(inplace), nn.Linear(5, 5))
        self.norm = nn.BatchNorm1d(5)
        self.unused = nn.Linear(3, 3)
        self.head = nn.Linear(5, 2)

    def forward(self, x):
        logits = self.head(self.norm(self.body(x)))
        return {
            "tensor": lambda: logits,
            "tuple": lambda: (torch.tensor(0.5), logits, torch.zeros(4, 9)),
            "list": lambda: [logits],
            "dict": lambda: {"features": torch.zeros(4, 9), "logits": logits},
            "nameless dict": lambda: {"loss": torch.tensor(1.0), "scores": logits},
            "named tuple": lambda: Named(torch.zeros(4, 9), logits),
            "object": lambda: type("Output", (), {"logits": logits})(),
        }[self.kind]()


class Named(NamedTuple):
    features: torch.Tensor
    logits: torch.Tensor


KINDS = ("tensor", "tuple", "list", "dict", "nameless dict", "named tuple", "object")


def bert():
    from transformers import BertConfig, BertForSequenceClassification

    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=20, hidden_size=8, num_hidden_layers=2, num_attention_heads=2, intermediate_size=8, num_labels=3
    )
    return BertForSequenceClassification(config)


@pytest.fixture(scope="module")
def tiny():
    ids = torch.arange(10).reshape(2, 5)
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0]])
    return bert().eval(), {"input_ids": ids, "attention_mask": mask}


class TestOutputs:
    @pytest.mark.parametrize("kind", KINDS)
    def test_logits_are_found(self, kind):
        expected = Net().eval()(**X)
        assert torch.equal(show(Net(kind), X)["logits"], expected)

    def test_a_model_outputs_logits_are_found(self, tiny):
        model, columns = tiny
        assert torch.equal(show(model, columns)["logits"], model(**columns).logits)
        as_tuple = model(**columns, return_dict=False)
        assert torch.equal(logits_of(as_tuple), show(model, columns)["logits"])

    @pytest.mark.parametrize(
        "output", [None, 3.0, {}, (torch.tensor(1.0), torch.arange(3)), {"ids": torch.zeros(2, 2).int()}]
    )
    def test_no_logits_is_said(self, output):
        with pytest.raises(SignalError, match="No logits"):
            logits_of(output)


class TestColumns:
    def test_one_column_of_any_name_goes_to_the_one_argument(self):
        assert torch.equal(call(Net().eval(), {"pixels": X["x"]}), Net().eval()(X["x"]))

    def test_a_sequential_takes_one_column(self):
        net = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
        shown = show(net, X, ("logits", "0", "2:in"))
        assert torch.equal(shown["logits"], net(X["x"]))
        assert torch.equal(shown["0"], net[0](X["x"]))
        assert torch.equal(shown["2:in"], net[0](X["x"]).relu())

    def test_named_columns_go_by_name_in_any_order(self):
        class Two(nn.Module):
            def forward(self, left, right, scale=1.0):
                return left - scale * right

        a, b = torch.ones(2, 2), torch.zeros(2, 2)
        for columns in ({"left": a, "right": b}, {"right": b, "left": a}, {"right": b, "left": a, "other": b}):
            assert torch.equal(call(Two(), columns), a)

    def test_any_keyword(self):
        class Keywords(nn.Module):
            def forward(self, **columns):
                return sum(columns.values())

        a = torch.ones(2, 2)
        assert torch.equal(call(Keywords(), {"a": a, "b": a}), 2 * a)
        assert torch.equal(call(Keywords(), {"a": a}), a)

    def test_positional_only_and_star(self):
        class Positional(nn.Module):
            def forward(self, x, /):
                return x

        class Star(nn.Module):
            def forward(self, *args, **kwargs):
                return args[0]

        for net in (Positional(), Star()):
            assert torch.equal(call(net, X), X["x"])

    def test_columns_that_nobody_can_place_are_named(self):
        with pytest.raises(SignalError, match=r"Net\.forward takes \['x'\].*\['left', 'right'\]"):
            call(Net(), {"left": X["x"], "right": X["x"]})

    def test_options_travel(self, tiny):
        model, columns = tiny
        assert call(model, columns, output_hidden_states=True).hidden_states is not None


class TestCapture:
    def test_outputs_and_inputs_by_path(self):
        net = Net().eval()
        names = ("logits", "body", "body.0", "body.2:in", "head:in", "head")
        shown = show(net, X, names)
        assert set(shown) == set(names)
        first = net.body[0](X["x"])
        assert torch.equal(shown["body.0"], first)
        assert torch.equal(shown["body.2:in"], first.relu())
        assert torch.equal(shown["body"], net.body(X["x"]))
        assert torch.equal(shown["head:in"], net.norm(net.body(X["x"])))
        assert torch.equal(shown["head"], shown["logits"])

    def test_what_is_captured_carries_the_graph(self):
        net = Net().eval()
        with Capture(net, {"body.0"}) as capture:
            capture(X)["body.0"].sum().backward()
        assert net.body[0].weight.grad is not None
        assert net.head.weight.grad is None

    def test_only_what_was_named_is_shown(self):
        with Capture(Net().eval(), {"body"}) as capture:
            assert set(capture(X)) == {"body"}

    def test_each_call_shows_its_own_batch(self):
        net = Net().eval()
        with Capture(net, {"body.0"}) as capture:
            first, second = capture(X)["body.0"], capture({"x": 2 * X["x"]})["body.0"]
        assert torch.equal(first, net.body[0](X["x"]))
        assert torch.equal(second, net.body[0](2 * X["x"]))

    def test_hidden_states_count_from_the_embeddings(self, tiny):
        model, columns = tiny
        shown = show(model, columns, ("hidden.0", "hidden.1", "hidden.2", "bert.embeddings", "bert.encoder.layer.1"))
        assert torch.equal(shown["hidden.0"], shown["bert.embeddings"])
        assert torch.equal(shown["hidden.2"], shown["bert.encoder.layer.1"])
        assert not torch.equal(shown["hidden.1"], shown["hidden.2"])
        states = model(**columns, output_hidden_states=True).hidden_states
        assert all(torch.equal(shown[f"hidden.{n}"], states[n]) for n in range(3))

    def test_too_deep_a_hidden_state_says_how_many_there_are(self, tiny):
        with pytest.raises(SignalError, match=r"hidden\.0 to hidden\.2"):
            show(*tiny, ("hidden.3",))

    def test_a_model_without_hidden_states_names_modules_instead(self):
        with pytest.raises(SignalError, match=r"output_hidden_states.*such as body"):
            Capture(Net(), {"hidden.1"})

    def test_a_models_own_list_called_hidden_is_a_module(self):
        class Deep(nn.Module):
            def __init__(self):
                super().__init__()
                self.hidden = nn.ModuleList([nn.Linear(3, 3), nn.Linear(3, 3)])

            def forward(self, x):
                return self.hidden[1](self.hidden[0](x))

        net = Deep()
        shown = show(net, X, ("hidden.0", "hidden.1", "logits"))
        assert torch.equal(shown["hidden.0"], net.hidden[0](X["x"]))
        assert torch.equal(shown["hidden.1"], shown["logits"])

    def test_an_argument_of_forward_is_enough_to_show_hidden_states(self):
        class Own(nn.Module):
            def forward(self, x, output_hidden_states=False):
                states = (x, 2 * x) if output_hidden_states else None
                return type("Output", (), {"logits": x, "hidden_states": states})()

        assert torch.equal(show(Own(), X, ("hidden.1",))["hidden.1"], 2 * X["x"])

    def test_asked_for_hidden_states_and_given_none_is_an_error(self):
        class Deaf(nn.Module):
            def forward(self, x, output_hidden_states=False):
                return x

        with pytest.raises(SignalError, match="gave none"):
            show(Deaf(), X, ("hidden.0",))

    @pytest.mark.parametrize(
        ("name", "suggestion"),
        [
            ("boddy", "body"),
            ("body.4", r"body\.\d"),
            ("heads", "head"),
            ("norn:in", "norm"),
            ("body:out", "body"),
            ("", "body"),
        ],
    )
    def test_an_unknown_name_suggests(self, name, suggestion):
        with pytest.raises(SignalError, match=f"Net has no module.*{suggestion}"):
            Capture(Net(), {name})

    def test_a_module_that_never_runs_names_the_nearest(self):
        with (
            pytest.raises(SignalError, match=r"'unused' of Net never ran"),
            Capture(Net().eval(), {"unused"}) as capture,
        ):
            capture(X)

        class Twins(nn.Module):
            def __init__(self):
                super().__init__()
                self.layer_1, self.layer_2 = nn.Linear(3, 2), nn.Linear(3, 2)

            def forward(self, x):
                return self.layer_2(x)

        with pytest.raises(SignalError, match=r"'layer_1' of Twins never ran.*layer_2"):
            show(Twins(), X, ("layer_1",))

    def test_a_module_that_runs_only_sometimes_is_noticed_when_it_does_not(self):
        class Sometimes(nn.Module):
            def __init__(self):
                super().__init__()
                self.extra, self.on = nn.Linear(3, 2), True

            def forward(self, x):
                return self.extra(x) if self.on else x

        net = Sometimes()
        with Capture(net, {"extra"}) as capture:
            capture(X)
            net.on = False
            with pytest.raises(SignalError, match="never ran"):  # and not the last batch's value
                capture(X)

    def test_nothing_of_a_batch_that_failed_is_shown_later(self):
        class Failing(nn.Module):
            def __init__(self):
                super().__init__()
                self.extra, self.fails = nn.Linear(3, 2), True

            def forward(self, x):
                if self.fails:
                    self.extra(x)
                    raise RuntimeError("out of memory")
                return x

        net = Failing()
        with Capture(net, {"extra"}) as capture:
            with pytest.raises(RuntimeError, match="out of memory"):
                capture(X)
            net.fails = False
            with pytest.raises(SignalError, match="never ran"):
                capture(X)


class TestInPlace:
    @pytest.mark.parametrize("graph", [True, False])
    def test_a_captured_output_that_is_rewritten_is_an_error(self, graph):
        net = nn.Sequential(nn.Conv2d(1, 2, 1), nn.ReLU(inplace=True), nn.Flatten())
        images = {"x": torch.ones(2, 1, 3, 3)}
        with (
            Capture(net, {"0"}) as capture,
            torch.set_grad_enabled(graph),
            pytest.raises(SignalError, match="altered in place"),
        ):
            capture(images)

    def test_a_captured_input_that_is_rewritten_is_an_error(self):
        with pytest.raises(SignalError, match="altered in place"):
            show(Net(inplace=True), X, ("body.1:in",))

    def test_through_a_view(self):
        class View(nn.Module):
            def __init__(self):
                super().__init__()
                self.first = nn.Linear(3, 4)

            def forward(self, x):
                y = self.first(x)
                y.view(-1)[0] = 100.0
                return y

        with pytest.raises(SignalError, match="altered in place"):
            show(View(), X, ("first",))

    def test_the_module_that_rewrites_may_be_captured_itself(self):
        plain, inplace = Net(), Net(inplace=True)
        names = ("body.1", "body", "logits")
        for name, value in show(inplace, X, names).items():
            assert torch.equal(value, show(plain, X, names)[name])


class Wrapped(nn.Module):
    """A user's model with a part of its own that is called ``module``."""

    def __init__(self):
        super().__init__()
        self.module = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))

    def forward(self, x):
        return self.module(x)


class TestWrappers:
    def test_a_submodule_called_module_is_no_wrapper(self):
        net = Wrapped()
        assert bare(net) is net
        shown = show(net, X, ("module", "module.0", "logits"))
        assert torch.equal(shown["module"], shown["logits"])
        assert torch.equal(shown["module.0"], net.module[0](X["x"]))
        with pytest.raises(SignalError, match="no module '0'"):
            Capture(net, {"0"})

    @pytest.mark.parametrize("kind", [Net, Wrapped])
    @pytest.mark.parametrize("compiled", [False, True])
    def test_data_parallel_keeps_the_bare_names(self, kind, compiled):
        net = kind().eval()
        name = "body.0" if kind is Net else "module.0"
        wrapped = nn.DataParallel(net)
        if compiled:
            wrapped = torch.compile(wrapped, backend="eager", disable=True)
        assert bare(wrapped) is net
        expected = show(net, X, (name, "logits"))
        shown = show(wrapped, X, (name, "logits"))
        assert all(torch.equal(shown[n], expected[n]) for n in expected)

    @pytest.mark.parametrize("kind", [Net, Wrapped])
    def test_a_compiled_model_is_captured_by_its_bare_names(self, kind):
        net = kind().eval()
        name = "body.0" if kind is Net else "module.0"
        expected = show(net, X, (name, "logits"))
        compiled = torch.compile(net, backend="eager")
        assert bare(compiled) is net
        with Capture(compiled, {name, "logits"}) as capture:
            for _ in range(2):
                shown = capture(X)
                assert all(torch.equal(shown[n], expected[n]) for n in expected)

    def test_the_bare_module_says_which_columns_a_wrapper_takes(self, tiny):
        model, columns = tiny
        shown = show(nn.DataParallel(model), columns, ("logits", "hidden.1"))
        assert torch.equal(shown["logits"], model(**columns).logits)
        assert shown["hidden.1"].shape == (2, 5, 8)

    def test_another_module_may_run_while_the_hooks_stay(self):
        net = Net().eval()
        with Capture(net, {"body.0", "logits"}) as capture:
            shown = capture(X, nn.DataParallel(net))
        assert torch.equal(shown["body.0"], net.body[0](X["x"]))


class TestShow:
    def test_it_shows_evaluation_mode_without_a_graph_and_puts_each_mode_back(self):
        net = Net()
        net.train()
        net.norm.eval()  # frozen on purpose
        net.body[1].eval()
        before = {name: part.training for name, part in net.named_modules()}
        running = net.norm.running_mean.clone()
        shown = show(net, X)
        assert {name: part.training for name, part in net.named_modules()} == before
        assert torch.equal(net.norm.running_mean, running)
        assert not shown["logits"].requires_grad
        net.train()
        again = show(net, X)
        assert torch.equal(again["logits"], shown["logits"])
        assert torch.equal(net.norm.running_mean, running)

    def test_modes_and_hooks_are_put_back_after_an_error(self):
        net = Net().train()
        for names in (("nothing",), ("unused",)):
            with pytest.raises(SignalError):
                show(net, X, names)
        assert all(part.training for part in net.modules())
        assert hooks(net) == 0


def hooks(net):
    return sum(len(part._forward_hooks) + len(part._forward_pre_hooks) for part in net.modules())


class TestHooks:
    def test_they_go_with_the_block_with_close_and_with_show(self):
        net = Net().eval()
        with Capture(net, {"body", "head:in", "logits"}):
            assert hooks(net) == 2
        assert hooks(net) == 0
        capture = Capture(net, {"body"})
        capture.close()
        capture.close()
        assert hooks(net) == 0
        show(net, X, ("body", "body.0:in"))
        assert hooks(net) == 0

    def test_logits_alone_place_none(self):
        net = Net()
        with Capture(net, {"logits"}):
            assert hooks(net) == 0

    def test_a_refused_capture_leaves_none(self):
        net = Net()
        with pytest.raises(SignalError):
            Capture(net, {"body", "nothing"})
        assert hooks(net) == 0

    def test_a_users_own_hook_stays(self):
        net, calls = Net().eval(), []
        net.body.register_forward_hook(lambda *_: calls.append(1))
        show(net, X, ("body",))
        net(**X)
        assert len(calls) == 2

    def test_two_captures_of_one_model_do_not_disturb_each_other(self):
        net = Net().eval()
        with Capture(net, {"body"}) as one, Capture(net, {"body", "head:in"}) as two:
            assert torch.equal(one(X)["body"], two(X)["body"])

    def test_nothing_of_a_batch_is_kept_after_a_call(self):
        with Capture(Net().eval(), {"body"}) as capture:
            capture(X)
            assert not capture._seen

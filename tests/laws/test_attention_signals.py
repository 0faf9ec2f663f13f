"""What the recorder shows of tiny models from configs, against the models' own outputs and hooks."""

import warnings

import pytest
import torch
from tests.fakes.attending import EVERY, IDS, SMALL, TEXT, build, columns, eager, seen

from limbeck.signals.attention import KINDS, AttentionRecorder

models = pytest.mark.parametrize("kind", ["bert", "llama", "gpt2", "vit"])
implementations = pytest.mark.parametrize("implementation", ["sdpa", "eager"])


@models
@implementations
def test_probabilities_are_the_models_own_and_the_softmax_of_the_scores(kind, implementation):
    model, given = build(kind, implementation), columns(kind)
    shown = seen(model, EVERY, given)
    own = eager(model)(**given, output_attentions=True).attentions
    for n, expected in enumerate(own, 1):
        probs, scores = shown[f"attention.{n}.probs"], shown[f"attention.{n}.scores"]
        assert probs.shape == scores.shape == expected.shape
        # float32: hidden states of sdpa and eager part by some 1e-7, which the weights here magnify
        assert torch.allclose(probs, expected, rtol=0, atol=1e-6)
        assert torch.allclose(scores.softmax(-1), probs, rtol=0, atol=1e-6)
        assert torch.equal(scores == -torch.inf, expected == 0)
        assert expected.std() > 5e-3  # far from uniform, beside the 1e-6
    if kind in ("llama", "gpt2"):
        assert (shown["attention.1.scores"].triu(1)[..., 0, 1:] == -torch.inf).all()
    if kind == "bert":
        assert (shown["attention.2.probs"][1, :, :, 3:] == 0).all()


@models
def test_without_padding_sdpa_masks_by_its_flag_alone(kind):
    model, given = build(kind), dict(columns(kind))
    given.pop("attention_mask", None)
    shown = seen(model, EVERY, given)
    for n, expected in enumerate(eager(model)(**given, output_attentions=True).attentions, 1):
        assert torch.allclose(shown[f"attention.{n}.probs"], expected, rtol=0, atol=1e-6)


@models
def test_attention_n_goes_into_hidden_n(kind):
    """The value that layer N shows is the projection of what hidden.(N - 1) gives."""
    model, given = build(kind), columns(kind)
    shown = seen(model, EVERY, given)
    states = model(**given, output_hidden_states=True).hidden_states
    for n in (1, 2, 3):
        value = {
            "bert": lambda n: model.encoder.layer[n - 1].attention.self.value(states[n - 1]),
            "llama": lambda n: grouped(
                model.layers[n - 1].self_attn.v_proj(model.layers[n - 1].input_layernorm(states[n - 1]))
            ),
            "gpt2": lambda n: model.h[n - 1].attn.c_attn(model.h[n - 1].ln_1(states[n - 1]))[..., 32:],
            "vit": lambda n: model.layers[n - 1].attention.v_proj(model.layers[n - 1].layernorm_before(states[n - 1])),
        }[kind](n)
        assert torch.allclose(shown[f"attention.{n}.value"], value, rtol=0, atol=1e-5)


def grouped(x):
    """Two key and value heads of width 4, each repeated for two query heads."""
    return torch.cat([x[..., :4], x[..., :4], x[..., 4:], x[..., 4:]], -1)


def projections(model, kind):
    """What hooks on the projections of the second layer show, by kind of signal."""
    found, hooks = {}, []
    layer = {
        "bert": lambda: model.encoder.layer[1].attention.self,
        "llama": lambda: model.layers[1].self_attn,
        "gpt2": lambda: model.h[1].attn,
        "vit": lambda: model.layers[1].attention,
    }[kind]()
    names = {
        "bert": {"query": "query", "key": "key", "value": "value"},
        "gpt2": {"c_attn": "c_attn"},
    }.get(kind, {"q_proj": "query", "k_proj": "key", "v_proj": "value"})
    for path, name in names.items():
        hooks.append(
            layer.get_submodule(path).register_forward_hook(
                lambda _m, _i, output, name=name: found.update({name: output})
            )
        )
    return found, hooks


@models
@implementations
def test_queries_keys_and_values_are_those_of_the_projections(kind, implementation):
    model = build(kind, implementation)
    found, hooks = projections(model, kind)
    shown = seen(model, ["attention.2.query", "attention.2.key", "attention.2.value"], columns(kind))
    for hook in hooks:
        hook.remove()
    if kind == "gpt2":
        found = dict(zip(("query", "key", "value"), found["c_attn"].split(16, -1), strict=True))
    if kind == "llama":
        from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

        cos, sin = model.rotary_emb(found["query"], torch.arange(5)[None])
        apart = [found[name].unflatten(-1, (-1, 4)).transpose(1, 2) for name in ("query", "key")]
        turned = [one.transpose(1, 2).flatten(2) for one in apply_rotary_pos_emb(*apart, cos, sin)]
        assert not torch.allclose(turned[0], found["query"], atol=1e-2)
        found = {"query": turned[0], "key": grouped(turned[1]), "value": grouped(found["value"])}
    for name in ("query", "key", "value"):
        assert torch.equal(shown[f"attention.2.{name}"], found[name])


@models
@implementations
@pytest.mark.parametrize("training", [False, True])
def test_outputs_and_gradients_are_the_same_to_the_bit(kind, implementation, training):
    model, given = build(kind, implementation).train(training), columns(kind)

    def run():
        torch.manual_seed(1)  # of dropout
        model.zero_grad()
        output = model(**given).last_hidden_state
        output.square().sum().backward()
        return output.detach(), [p.grad.clone() for p in model.parameters() if p.grad is not None]

    plain, slopes = run()
    with AttentionRecorder(model, EVERY):
        recorded, again = run()
    assert torch.equal(plain, recorded)
    assert len(slopes) == len(again) > 0
    assert all(torch.equal(a, b) for a, b in zip(slopes, again, strict=True))


@implementations
def test_probabilities_are_before_dropout(implementation):
    model = build("bert", implementation)
    still = seen(model, ["attention.1.probs"], TEXT)["attention.1.probs"]
    model.embeddings.dropout.p = 0.0
    busy = seen(model.train(), ["attention.1.probs"], TEXT)["attention.1.probs"]
    assert torch.equal(still, busy)


@models
@pytest.mark.parametrize("what", KINDS)
def test_gradients_flow_into_the_projections(kind, what):
    model = build(kind)
    shown = seen(model, [f"attention.2.{what}"], columns(kind))[f"attention.2.{what}"]
    weight = torch.linspace(-1, 1, shown.numel()).reshape(shown.shape)
    (torch.where(shown > -torch.inf, shown, 0.0) * weight).sum().backward()
    reached = {name for name, p in model.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)
    second = {"bert": "encoder.layer.1.", "llama": "layers.1.", "gpt2": "h.1.", "vit": "layers.1."}[kind]
    assert any(name.startswith(second) for name in reached)
    assert any(name.startswith(second.replace("1", "0")) for name in reached)
    assert not any(name.startswith(second.replace("1", "2")) for name in reached)


def test_a_row_that_sees_no_key_is_zero_with_a_finite_gradient():
    """Left padding under a causal mask: the first query sees padding alone."""
    model = build("llama")
    mask = torch.tensor([[1, 1, 1, 1, 1], [0, 0, 1, 1, 1]])
    for twin in (model, eager(model)):
        shown = seen(twin, ["attention.1.probs", "attention.1.scores"], {"input_ids": IDS, "attention_mask": mask})
        probs = shown["attention.1.probs"]
        assert not probs[1, :, :2].any()
        assert (shown["attention.1.scores"][1, :, :2] == -torch.inf).all()
        assert torch.allclose(probs[1, :, 2:].sum(-1), torch.ones(4, 3))
        with warnings.catch_warnings(), torch.autograd.set_detect_anomaly(True):  # no nan on the way either
            warnings.simplefilter("ignore")
            probs.square().sum().backward()
        assert all(p.grad.isfinite().all() for p in twin.parameters() if p.grad is not None)


@implementations
def test_biases_in_the_mask_are_in_the_scores(implementation):
    """A mask of the caller's own, that adds to some scores and closes others."""
    model = build("bert", implementation)
    bias = torch.linspace(-2, 2, 50).reshape(2, 1, 5, 5)
    bias[:, :, :, 4] = torch.finfo(torch.float32).min
    given = {"input_ids": IDS, "attention_mask": bias}
    shown, plain = seen(model, EVERY, given), seen(model, EVERY[:2], {"input_ids": IDS})
    own = eager(model)(**given, output_attentions=True).attentions
    assert all(torch.allclose(shown[f"attention.{n}.probs"], a, rtol=0, atol=1e-6) for n, a in enumerate(own, 1))
    added = (shown["attention.1.scores"] - plain["attention.1.scores"])[..., :4]
    assert torch.allclose(added, bias[..., :4].expand_as(added), rtol=0, atol=1e-5)  # float32 scores of some 10
    assert (shown["attention.1.scores"][..., 4] == -torch.inf).all()


def test_self_attention_is_shown_where_a_layer_has_cross_attention_too():
    import transformers as tf

    torch.manual_seed(0)
    config = tf.BertConfig(**SMALL, vocab_size=20, is_decoder=True, add_cross_attention=True)
    model = tf.BertModel(config).eval()
    given = {"input_ids": IDS, "encoder_hidden_states": torch.randn(2, 7, 16)}
    shown = seen(model, EVERY, given)
    own = eager(model)(**given, output_attentions=True).attentions
    assert all(torch.allclose(shown[f"attention.{n}.probs"], a, rtol=0, atol=1e-6) for n, a in enumerate(own, 1))


@implementations
@pytest.mark.parametrize("wait", [True, False])
def test_with_gradient_checkpointing(implementation, wait):
    """Backward runs the layers again, with the recorder open or closed."""
    model = build("llama", implementation).train()

    def slopes():
        model.zero_grad()
        with AttentionRecorder(model, EVERY) as recorder:
            output = model(**TEXT).last_hidden_state
            names = [f"attention.{n}.{kind}" for n in (1, 3) for kind in ("probs", "key")]
            value = output.square().sum() + sum(recorder.read(name).square().sum() for name in names)
            if wait:
                value.backward()
        if not wait:
            value.backward()
        return [p.grad.clone() for p in model.parameters() if p.grad is not None]

    plain = slopes()
    model.gradient_checkpointing_enable({"use_reentrant": False})
    again = slopes()
    assert len(plain) == len(again) > 0
    assert all(torch.allclose(a, b, rtol=1e-5, atol=1e-6) for a, b in zip(plain, again, strict=True))


@pytest.mark.parametrize(("dtype", "wide"), [(torch.bfloat16, 0.02), (torch.float64, 1e-12)])
def test_other_dtypes(dtype, wide):
    model = build("llama").to(dtype)
    shown = seen(model, EVERY, TEXT)
    assert shown["attention.1.query"].dtype == shown["attention.1.scores"].dtype == dtype
    probs = shown["attention.1.probs"]
    # float32 of a half precision model, for logs; rows add up to it
    assert probs.dtype == (torch.float32 if dtype == torch.bfloat16 else dtype)
    assert torch.allclose(probs.sum(-1), torch.ones((), dtype=probs.dtype), atol=1e-6)
    # the first layer: both attend to the same inputs, with one rounding of bfloat16 (0.4%) on the scores
    own = eager(model)(**TEXT, output_attentions=True).attentions[0].to(probs.dtype)
    assert torch.allclose(probs, own, atol=max(wide, 1e-6) if dtype == torch.bfloat16 else 1e-6)

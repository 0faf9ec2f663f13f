"""Causal language models as teachers and students: loaded as they are, made smaller by their structure, read from GGUF files."""

import copy
from dataclasses import replace

import pytest
import torch
from tests.fakes.causal import COLUMNS, IDS, KINDS, MASK, TEXT, logits, made, written
from torch.nn import functional as F

from limbeck.data import gguf as files
from limbeck.data.tokenizers import quiet, tokenizer_of
from limbeck.models.architecture import describe, rebuild
from limbeck.models.depth import important, take_layers
from limbeck.models.identity import of_module, parameters
from limbeck.models.influence import influence
from limbeck.models.narrow import narrow
from limbeck.models.specs import FromConfig, HuggingFace, Shrunk, build
from limbeck.models.weights import fill

transformers = pytest.importorskip("transformers")
every = pytest.mark.parametrize("kind", KINDS)
SMALL = {"hidden": 12, "heads": 2, "intermediate": 20}


@every
@pytest.mark.parametrize("spec", [Shrunk(), Shrunk(hidden=24, heads=4, intermediate=40, layers=4)])
def test_a_full_size_copy_answers_as_the_teacher_bit_for_bit(kind, spec):
    donor = made(kind)
    if spec.intermediate and kind == "gpt2":  # four times the hidden size, as its config leaves it open
        spec = spec.model_copy(update={"intermediate": 96})
    before = of_module(donor)
    student = build(spec, replace(TEXT, donor=donor), 5)
    assert torch.equal(logits(student), logits(donor))
    assert of_module(student) == of_module(donor) == before


@every
def test_a_small_student_is_read_from_its_config_and_writes_with_its_cache(kind, tmp_path):
    donor = made(kind)
    student = build(Shrunk(**SMALL, layers=3), replace(TEXT, donor=donor), 0).eval()
    config = student.config
    assert (config.hidden_size, config.num_attention_heads, config.num_hidden_layers) == (12, 2, 3)
    assert parameters(student) < parameters(donor) / 2
    assert logits(student).isfinite().all()
    with quiet():
        student.save_pretrained(tmp_path)
        again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    assert torch.equal(logits(again), logits(student))
    told = describe(student, None, tmp_path / "described")
    described = rebuild(told, tmp_path / "described", None).eval()
    fill(described, student.state_dict(), "")
    assert torch.equal(logits(described), logits(student))
    with quiet():
        wrote, without = (
            student.generate(
                IDS[:1], attention_mask=MASK[:1], max_new_tokens=8, min_new_tokens=8, do_sample=False, use_cache=use
            )
            for use in (True, False)
        )
    assert wrote.shape == (1, 17)
    assert torch.equal(wrote, without)


def test_kinds_of_layers_go_with_the_layers():
    donor = made("gemma2")
    assert donor.config.layer_types == ["sliding_attention", "full_attention"] * 2
    student = take_layers(donor, (0, 2, 3)).eval()
    assert student.config.layer_types == ["sliding_attention", "sliding_attention", "full_attention"]
    assert [layer.self_attn.sliding_window for layer in student.model.layers] == [4, 4, None]
    with torch.no_grad():
        expected = copy.deepcopy(donor)
        for name in ("o_proj", "down_proj"):  # a layer that adds nothing
            for part, module in expected.model.layers[1].named_modules():
                if part.endswith(name):
                    module.weight.zero_()
    # 1e-6: the same sums; a layer that adds zero leaves every bit
    assert torch.allclose(logits(student), logits(expected), atol=1e-6)


def test_one_list_of_layers_of_two():
    config = transformers.BartConfig(
        vocab_size=60, d_model=16, encoder_layers=3, decoder_layers=3, encoder_attention_heads=2, decoder_attention_heads=2,
        encoder_ffn_dim=20, decoder_ffn_dim=20, max_position_embeddings=32, pad_token_id=1,
    )  # fmt: skip
    torch.manual_seed(0)
    donor = transformers.BartForConditionalGeneration(config).eval()
    student = take_layers(donor, (0, 2), "model.decoder.layers").eval()
    assert (student.config.encoder_layers, student.config.decoder_layers) == (3, 2)
    assert torch.equal(student.model.decoder.layers[1].fc1.weight, donor.model.decoder.layers[2].fc1.weight), (
        "the last is the teacher's last"
    )
    assert logits(student).isfinite().all()


def kept_by_hand(donor):
    """The residual channels, key heads and neurons that a Llama's weight subcloning keeps, worked out by its names."""
    inputs, real = {}, MASK.bool()
    hooks = [
        part.register_forward_hook(
            lambda _, given, __, path=path: inputs.__setitem__(path, given[0][real].abs().double())
        )
        for path, part in donor.named_modules()
        if isinstance(part, torch.nn.Linear)
    ]
    logits(donor)
    for hook in hooks:
        hook.remove()
    mean = {path: value.mean(0) for path, value in inputs.items()}
    reads = ("q_proj", "k_proj", "v_proj", "gate_proj", "up_proj", "lm_head")
    channels = torch.stack([value for path, value in mean.items() if path.endswith(reads)]).mean(0)
    heads, neurons = [], []
    for number in range(4):
        out = mean[f"model.layers.{number}.self_attn.o_proj"].view(2, 2 * 6).mean(1)  # two query heads to a key head
        heads.append(out.topk(1).indices)
        neurons.append(mean[f"model.layers.{number}.mlp.down_proj"].topk(20).indices.sort().values)
    return channels.topk(12).indices.sort().values, heads, neurons


def test_what_is_kept_of_a_llama_is_the_teachers():
    donor = made("llama")
    channels, heads, neurons = kept_by_hand(donor)
    student, own = narrow(donor, COLUMNS, **SMALL), dict(donor.state_dict())
    assert (student.config.num_key_value_heads, student.config.head_dim) == (1, 6)
    table = own["model.embed_tokens.weight"][:, channels]
    assert torch.equal(student.model.embed_tokens.weight, table), "tied to the output, so not rescaled"
    assert student.lm_head.weight is student.model.embed_tokens.weight
    assert torch.equal(student.model.norm.weight, own["model.norm.weight"][channels])
    half = 2**0.5  # every map reads half of what it read
    for number, layer in enumerate(student.model.layers):
        names = {
            name: own[f"model.layers.{number}.{name}.weight"] for name, _ in layer.named_modules() if "_proj" in name
        }
        queries = torch.arange(12) + 12 * heads[number]
        keys = torch.arange(6) + 6 * heads[number]
        rows = {
            "self_attn.q_proj": (queries, channels),
            "self_attn.k_proj": (keys, channels),
            "self_attn.v_proj": (keys, channels),
            "self_attn.o_proj": (channels, queries),
            "mlp.gate_proj": (neurons[number], channels),
            "mlp.up_proj": (neurons[number], channels),
            "mlp.down_proj": (channels, neurons[number]),
        }
        for name, (out, into) in rows.items():
            assert torch.equal(layer.get_submodule(name).weight, names[name][out][:, into] * half), name


@pytest.mark.parametrize(
    ("kind", "merged", "out", "order"),
    [
        ("gpt2", "transformer.h.1.attn.c_attn", "transformer.h.1.attn.c_proj", (3, 4, 6)),
        ("gpt-neox", "gpt_neox.layers.1.attention.query_key_value", "gpt_neox.layers.1.attention.dense", (4, 3, 6)),
    ],
)
def test_one_map_of_queries_keys_and_values_is_cut_by_heads(kind, merged, out, order):
    donor = made(kind)
    turned = (lambda weight: weight.T) if kind == "gpt2" else (lambda weight: weight)  # [out, in]

    def heads(value, which):
        return value.unflatten(0, order).index_select(order.index(4), torch.tensor(which)).flatten(0, 2)

    whole, reads = donor.get_submodule(merged), donor.get_submodule(out)
    with torch.no_grad():  # the heads 0 and 3 say nothing
        for head in (0, 3):
            place = (2, head) if kind == "gpt2" else (head, 2)
            whole.bias.view(order)[place] = 0
            turned(whole.weight).unflatten(0, order)[place] = 0
    student = narrow(donor, COLUMNS, hidden=12, heads=2)
    tables = (module.get_input_embeddings().weight for module in (student, donor))
    channels = (next(tables)[:, :, None] == next(tables)[:, None]).all(0).int().argmax(1)
    kept, own = student.get_submodule(merged), student.get_submodule(out)
    assert torch.equal(kept.bias, heads(whole.bias, [1, 2]))
    assert torch.equal(turned(kept.weight), heads(turned(whole.weight), [1, 2])[:, channels] * 2**0.5)
    assert torch.equal(turned(own.weight), turned(reads.weight)[channels][:, 6:18] * 2**0.5)


def test_heads_alone_can_go_where_the_config_says_their_size():
    donor = made("qwen2")
    student = narrow(donor, COLUMNS, heads=2)
    assert (student.config.hidden_size, student.config.head_dim, student.config.num_key_value_heads) == (24, 6, 1)
    assert student.model.layers[0].self_attn.q_proj.weight.shape == (12, 24)
    assert torch.equal(student.model.embed_tokens.weight, donor.model.embed_tokens.weight)


@every
def test_influence_is_one_less_the_cosine_of_what_enters_and_what_leaves(kind):
    donor = made(kind)
    plain = copy.deepcopy(donor)
    for name, part in list(plain.base_model.named_children()):
        if name in ("norm", "ln_f", "final_layer_norm"):  # else the last hidden states have gone through it
            setattr(plain.base_model, name, torch.nn.Identity())
            assert part is not None
    with torch.no_grad():
        states = plain(**COLUMNS, output_hidden_states=True).hidden_states
    numbers = [state[MASK.bool()].double().numpy() for state in states]
    for index, found in enumerate(influence(donor, COLUMNS).tolist()):
        before, after = numbers[index], numbers[index + 1]
        alike = (before * after).sum(1) / ((before**2).sum(1) * (after**2).sum(1)) ** 0.5
        # 1e-5: float32 states, of 8 rows and 2 in place of 10 at once
        assert found == pytest.approx(1 - alike.mean(), abs=1e-5)


def test_the_layer_that_changes_nothing_goes_first_and_is_not_missed():
    donor = made("llama")
    with torch.no_grad():
        for part in (donor.model.layers[1].self_attn.o_proj, donor.model.layers[1].mlp.down_proj):
            part.weight.zero_()
    student = build(Shrunk(layers=3, choose="important"), replace(TEXT, donor=donor), 0)
    assert torch.equal(logits(student), logits(donor))
    assert student.config.num_hidden_layers == 3
    assert important(2, torch.tensor([0.2, 0.5, 0.5, 0.5])) == (1, 2)
    assert important(3, torch.tensor([0.9, 0.1, 0.5, 0.2])) == (0, 2, 3)


def test_influence_is_that_of_the_teacher_and_not_of_the_narrowed_model():
    donor = made("llama")
    expected = important(3, influence(donor, COLUMNS))
    assert important(3, influence(narrow(donor, COLUMNS, intermediate=4).eval(), COLUMNS)) != expected
    student = build(Shrunk(layers=3, choose="important", intermediate=4), replace(TEXT, donor=donor), 0)
    for new, old in enumerate(expected):
        one, other = student.model.layers[new].input_layernorm, donor.model.layers[old].input_layernorm
        assert torch.equal(one.weight, other.weight)


@every
def test_with_fewer_tokens_the_others_have_the_same_logits(kind):
    donor = made(kind, eos_token_id=[2, 40] if kind == "llama" else 2)
    donor.generation_config.eos_token_id = [2, 40, 59]
    ids = torch.tensor([0, 1, 2, *range(3, 58, 3), 40]).unique()
    place = torch.full((60,), -1)
    place[ids] = torch.arange(len(ids))
    theirs = torch.where(MASK.bool(), 3 + 3 * (IDS % 18), 1)
    mine = {"input_ids": place[theirs], "attention_mask": MASK}
    context = replace(TEXT, donor=donor, sample=mine, vocabulary=len(ids), donor_tokens=ids)
    student = build(Shrunk(vocabulary="task"), context, 0)
    expected = logits(donor, {**mine, "input_ids": theirs})[..., ids]
    # 1e-5: the same sums, but perhaps by another kernel for a smaller head; logits of size 10
    assert torch.allclose(logits(student, mine), expected, atol=1e-5)
    assert student.generation_config.eos_token_id == [2, int(place[40])], "59 is no token of it"
    if kind == "llama":
        assert student.config.eos_token_id == [2, int(place[40])]


def test_when_to_stop_stays_with_a_smaller_student():
    donor = made("llama")
    donor.generation_config.eos_token_id = [2, 7]
    student = build(Shrunk(layers=2), replace(TEXT, donor=donor), 0)
    assert student.generation_config.eos_token_id == [2, 7]
    assert student.generation_config is not donor.generation_config


def test_a_language_model_is_loaded_as_it_is(tmp_path):
    donor = made("qwen2")
    with quiet():
        donor.save_pretrained(tmp_path)
    spec = HuggingFace(path=str(tmp_path))
    assert spec.finished(TEXT.task) is spec
    module = build(spec, TEXT, 0)
    assert torch.equal(logits(module), logits(donor))
    assert len(module.config.id2label) == 2, "transformers' own; tokens are no classes"
    assert of_module(module) == of_module(build(spec, TEXT, 1)), "nothing in it is drawn"


def test_an_architecture_from_its_config_is_a_language_model():
    sizes = {"hidden_size": 16, "num_attention_heads": 2, "num_hidden_layers": 1, "intermediate_size": 32}
    module = build(FromConfig(model_type="llama", settings={**sizes, "num_key_value_heads": 1}), TEXT, 0)
    assert logits(module).shape == (10, 9, 60)
    assert type(module).__name__ == "LlamaForCausalLM"


@pytest.fixture
def home(monkeypatch, tmp_path):
    monkeypatch.setenv("LIMBECK_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def test_a_gguf_file_is_a_plain_model_with_its_tokenizer(home, tmp_path, monkeypatch):
    pytest.importorskip("gguf")
    donor = made("llama")
    written(tmp_path, "one.gguf", donor)
    spec = HuggingFace(path=str(tmp_path), gguf="one.gguf")
    state = torch.random.get_rng_state()
    tokenizer = tokenizer_of(spec.tokenizer)
    assert torch.equal(torch.random.get_rng_state(), state), "nothing is drawn from what others draw from"
    assert tokenizer("aab").input_ids == [29, 4]
    monkeypatch.setattr(files, "_convert", None)  # it is there now
    module = build(spec, TEXT, 0)
    assert torch.equal(logits(module), logits(donor))
    assert "quantization_config" not in module.config.to_dict()
    assert not getattr(module, "is_quantized", False)
    logits_of = module(**COLUMNS).logits
    F.cross_entropy(logits_of[:, :-1].flatten(0, 1), IDS[:, 1:].flatten()).backward()
    assert all(value.grad is not None for value in module.parameters())
    assert of_module(module) == of_module(build(spec, TEXT, 3))
    module.save_pretrained(tmp_path / "again")


def test_what_was_quantised_is_dequantised(home, tmp_path):
    gguf = pytest.importorskip("gguf")
    donor = made("llama", hidden_size=32, intermediate_size=64, num_hidden_layers=1, tie_word_embeddings=False)
    written(tmp_path, "one.gguf", donor, "Q8_0")
    module = build(HuggingFace(path=str(tmp_path), gguf="one.gguf"), TEXT, 0)
    whole = donor.lm_head.weight.detach().numpy()
    kind = gguf.GGMLQuantizationType.Q8_0
    expected = torch.tensor(gguf.dequantize(gguf.quantize(whole, kind), kind))
    assert torch.equal(module.lm_head.weight.detach(), expected)
    # Q8_0 has 127 steps from 0 to the largest of 32 weights
    error = (module.lm_head.weight - donor.lm_head.weight).abs().max()
    assert 0 < error <= donor.lm_head.weight.abs().max() / 127
    assert module.dtype == torch.float32


def test_another_file_of_the_same_name_is_another_model(home, tmp_path):
    pytest.importorskip("gguf")
    written(tmp_path, "one.gguf", made("llama"))
    first = files.converted(tmp_path / "one.gguf")
    written(tmp_path, "one.gguf", made("llama", num_hidden_layers=2))
    assert files.converted(tmp_path / "one.gguf") != first

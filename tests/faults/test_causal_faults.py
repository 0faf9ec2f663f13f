"""Language models that are not what they are taken for, or cannot be had as asked: said in one paragraph, nothing half done."""

from dataclasses import replace

import pytest
import torch
from tests.fakes import causal
from tests.fakes.causal import TEXT, made, written
from torch import nn

from limbeck.data import gguf as files
from limbeck.data.text import Reach
from limbeck.data.tokenizers import quiet, tokenizer_of
from limbeck.errors import DataError, LimbeckError, SettingError
from limbeck.models.depth import take_layers
from limbeck.models.reach import demand_reach
from limbeck.models.specs import BuildContext, FromConfig, HuggingFace, Shrunk, build

transformers = pytest.importorskip("transformers")


@pytest.fixture(autouse=True)
def home(monkeypatch, tmp_path):
    monkeypatch.setenv("LIMBECK_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def saved(folder, module):
    with quiet():
        module.save_pretrained(folder)
    return HuggingFace(path=str(folder))


def test_an_encoder_is_no_language_model():
    tiny = {"hidden_size": 16, "num_attention_heads": 2, "num_hidden_layers": 1, "intermediate_size": 32}
    with pytest.raises(LimbeckError, match=r"BertLMHeadModel.*reads a text both ways"):
        build(FromConfig(model_type="bert", settings=tiny), TEXT, 0)
    wide = {**tiny, "head_dim": 8, "num_key_value_heads": 1, "use_bidirectional_attention": True}
    with pytest.raises(LimbeckError, match=r"Gemma3ForCausalLM.*reads a text both ways"):
        build(FromConfig(model_type="gemma3_text", settings=wide), TEXT, 0)
    assert build(FromConfig(model_type="gemma3_text", settings={**wide, "use_bidirectional_attention": False}), TEXT, 0)
    same = replace(TEXT, sample={"input_ids": torch.full((2, 4), 5)})
    assert build(FromConfig(model_type="gemma3_text", settings=wide), same, 0), "one token everywhere shows nothing"


def test_a_checkpoint_without_the_output_is_refused(tmp_path):
    body = made("qwen2").model
    with pytest.raises(LimbeckError, match=r"1 are missing.*lm_head\.weight.*would be random"):
        build(saved(tmp_path / "untied", body), TEXT, 0)
    tied = made("llama")
    module = build(saved(tmp_path / "tied", tied.model), TEXT, 0)
    assert torch.equal(module.lm_head.weight, tied.lm_head.weight), "a tied output is in the table of tokens"


@pytest.mark.parametrize(("setting", "name"), [({"trained_head": True}, "trained-head"), ({"pool": "mean"}, "pool")])
def test_settings_of_other_tasks_say_nothing_here(tmp_path, setting, name):
    spec = saved(tmp_path, made("llama")).model_copy(update=setting)
    with pytest.raises(LimbeckError, match=f"'{name}' says nothing in the task 'next-token'"):
        build(spec, TEXT, 0)


def test_a_gguf_file_has_its_name_and_no_revision():
    with pytest.raises(SettingError, match=r"does not end in .gguf"):
        HuggingFace(path="x", gguf="model.safetensors")
    with pytest.raises(SettingError, match="'revision' is for the hub"):
        HuggingFace(path="x", gguf="a.gguf", revision="main")


def test_a_gguf_file_that_is_not_there(tmp_path):
    (tmp_path / "other.gguf").write_bytes(b"")
    with pytest.raises(DataError, match=r"no GGUF file '.*one.gguf': there is other.gguf"):
        build(HuggingFace(path=str(tmp_path), gguf="one.gguf"), TEXT, 0)
    with pytest.raises(DataError, match=r"no GGUF file '.*data/one.gguf'\."):
        tokenizer_of("package:limbeck/data/one.gguf")
    with pytest.raises(DataError, match="the package 'no_such' is not installed"):
        tokenizer_of("package:no_such/one.gguf")


@pytest.mark.parametrize("content", [b"", b"GGUF", b"no such thing" * 40], ids=("empty", "cut", "other"))
def test_a_damaged_gguf_file_leaves_nothing(tmp_path, home, content):
    pytest.importorskip("gguf")
    (tmp_path / "one.gguf").write_bytes(content)
    with pytest.raises(DataError, match=r"The GGUF file .* could not be read: .* Is it whole"):
        tokenizer_of(f"{tmp_path}/one.gguf")
    assert [item.name for item in (home / "models").iterdir()] == [".lock"]


def test_a_gguf_file_without_a_tensor(tmp_path, home):
    pytest.importorskip("gguf")
    donor = made("llama", num_hidden_layers=2)
    donor.config.num_hidden_layers = 1
    whole = written(tmp_path, "one.gguf", donor)
    content = whole.read_bytes().replace(b"blk.0.attn_v.weight", b"blk.7.attn_v.weight")
    whole.write_bytes(content)
    with pytest.raises(DataError, match=r"it lacks 1 of the tensors of a LlamaForCausalLM .*v_proj"):
        files.converted(whole)


def test_without_the_library_the_extra_is_named(tmp_path, monkeypatch):
    pytest.importorskip("gguf")
    whole = written(tmp_path, "one.gguf", made("llama", num_hidden_layers=1))
    monkeypatch.setattr(files, "find_spec", lambda _: None)
    with pytest.raises(DataError, match=r'pip install "limbeck\[gguf\]"'):
        files.converted(whole)


@pytest.mark.parametrize(
    ("kind", "spec", "message"),
    [
        ("llama", Shrunk(heads=3), "'heads: 3' would part query heads .* 2 of them for each, so set 'heads: 2'"),
        ("llama", Shrunk(heads=1), "so set 'heads: 2'"),
        (
            "llama",
            Shrunk(hidden=23),
            "cannot have these sizes: .*23.* is not a multiple of the number of attention heads",
        ),
        ("llama", Shrunk(heads=6), "'heads: 6' is more .* it has 4"),
        ("gpt2", Shrunk(heads=2), "hidden .24. is not heads .2. times 6"),
        ("gpt2", Shrunk(intermediate=97), "'intermediate: 97' is more .* it has 96"),
        ("llama", Shrunk(layers=5, choose="important"), "'layers: 5' is more .* it has 4"),
        ("llama", Shrunk(embedding_rank=4), "are one table"),
    ],
)
def test_what_cannot_be_is_said(kind, spec, message):
    with pytest.raises(LimbeckError, match=message):
        build(spec, replace(TEXT, donor=made(kind)), 0)


class Resting(nn.Module):
    def __init__(self, width=4):
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(4, 4), nn.Linear(4, width), nn.Linear(4, 4)])
        self.end = nn.Linear(width, 2)

    def forward(self, x):
        return self.end(self.layers[1](self.layers[0](x)))


def test_layers_that_cannot_be_compared():
    rows = BuildContext(2, {"x": torch.rand(3, 4)}, donor=Resting(6))
    with pytest.raises(LimbeckError, match=r"layer 1 \(Linear\) gives another shape"):
        build(Shrunk(layers=2, choose="important"), rows, 0)
    with pytest.raises(LimbeckError, match=r"the layers \[2\] of Resting do not run"):
        build(Shrunk(layers=2, choose="important"), replace(rows, donor=Resting()), 0)


def test_a_list_of_layers_that_the_config_does_not_count():
    donor = made("llama")
    donor.more = nn.ModuleList([nn.Linear(2, 2) for _ in range(3)])
    with pytest.raises(LimbeckError, match="no setting for the number of its layers at 'more'"):
        take_layers(donor, (0, 1), "more")


@pytest.mark.parametrize(
    ("kind", "room", "more", "fits"),
    [
        ("llama", 8, {}, False),
        ("llama", 16, {}, True),
        ("llama", 8, {"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 10000.0}}, True),
    ],
)
def test_rotary_positions_beyond_those_that_a_model_was_made_for_are_refused(kind, room, more, fits):
    module = causal.made(kind, max_position_embeddings=room, **more)
    columns = {"input_ids": causal.IDS, "attention_mask": causal.MASK}
    reach = Reach(largest=int(causal.IDS.max()), longest=16, limit=64)
    causal.logits(
        module, {key: value.repeat(1, 4)[:, :16] for key, value in columns.items()}
    )  # itself it does not fail
    if fits:
        demand_reach(module, reach, columns, "it")
        return
    with pytest.raises(LimbeckError, match=r"made for 8 tokens, and a text has 16.* data.max-length to 8 or less"):
        demand_reach(module, reach, columns, "it")

"""Low-rank adapters: what trains, what stays, and that the delivered model answers as the adapted one."""

import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from tests.fakes import experiments
from tests.fakes.causal import COLUMNS, IDS, TEXT, made
from torch import nn

from limbeck.data.language import NextToken
from limbeck.data.tokenizers import quiet
from limbeck.errors import Interrupted, LimbeckError, SettingError
from limbeck.losses.storages import whole
from limbeck.models.adapters import merged, write_adapters
from limbeck.models.identity import of_module
from limbeck.models.saved import load_student, save_student
from limbeck.models.specs import BuildContext, FromConfig, HuggingFace, Lora, Mlp, Shrunk, build
from limbeck.models.specs import Given as InMemory
from limbeck.signals.capture import show
from limbeck.training.loop import train
from limbeck.training.optimizers import groups
from limbeck.training.workshop import Workshop

transformers = pytest.importorskip("transformers")
peft = pytest.importorskip("peft")
SOME = ("llama", "gpt2", "phi3")  # maps apart, maps that are transposed, and maps of several things
SIZES = {"hidden_size": 16, "num_attention_heads": 2, "num_hidden_layers": 2, "intermediate_size": 32, "vocab_size": 60}
BERT = FromConfig(model_type="bert", settings={**SIZES, "max_position_embeddings": 64})
CLASSES = BuildContext(3, COLUMNS, ("a", "b", "c"), vocabulary=60)


class Numbers:
    """A reader in memory: rows of token ids."""

    fingerprint = "numbers"

    def encode(self, raw):
        return {"input_ids": torch.tensor(raw), "attention_mask": torch.ones(len(raw), len(raw[0]), dtype=torch.int64)}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A checkpoint of each architecture."""
    found = {}
    for kind in (*SOME, "qwen2"):
        found[kind] = tmp_path_factory.mktemp(kind)
        with quiet():
            made(kind).save_pretrained(found[kind])
    return found


def lora(folder, **given):
    return Lora(of=HuggingFace(path=str(folder)), **{"rank": 2, **given})


def logits(module, columns=COLUMNS):
    return whole(show(module, columns)["logits"])


def moved(module, scale=0.3):
    """As if it had been trained: everything that may move did."""
    draw = torch.Generator().manual_seed(1)
    for value in module.parameters():
        if value.requires_grad:
            value.data += scale * torch.randn(value.shape, generator=draw)
    return module.eval()


def adapters(module):
    return {name for name, value in module.named_parameters() if value.requires_grad}


@pytest.mark.parametrize("kind", SOME)
def test_the_student_begins_as_its_model_and_goes_back_to_it_without_adapters(kind, folders):
    base, student = made(kind), build(lora(folders[kind]), TEXT, 0)
    assert torch.equal(logits(student), logits(base)), "B is zero at first"
    moved(student)
    assert not torch.allclose(logits(student), logits(base), atol=1e-2)
    with student.disable_adapter():
        assert torch.equal(logits(student), logits(base))


@pytest.mark.parametrize("kind", SOME)
def test_merged_it_answers_alike_as_a_plain_model(kind, folders):
    student = moved(build(lora(folders[kind], alpha=3.0), TEXT, 0))
    before = of_module(student)
    plain = merged(student, COLUMNS)
    assert type(plain) is type(made(kind))
    assert not any("lora" in name for name in plain.state_dict())
    # float32 sums of some tens of numbers, in another order, through four layers
    torch.testing.assert_close(logits(plain), logits(student), rtol=1e-4, atol=1e-4)
    assert of_module(student) == before, "the student is not altered"
    assert merged(plain) is plain
    with quiet():
        assert student.generate(input_ids=IDS[:1], max_new_tokens=3, do_sample=False).tolist() == (
            plain.generate(input_ids=IDS[:1], max_new_tokens=3, do_sample=False).tolist()
        )


def test_a_merged_weight_is_the_sum_of_the_formula(folders):
    student = moved(build(lora(folders["llama"], alpha=3.0), TEXT, 0))
    path = "layers.1.mlp.down_proj"
    adapter = student.get_base_model().model.get_submodule(path)
    w, a, b = (
        value.detach().numpy().astype(np.float64)
        for value in (adapter.base_layer.weight, adapter.lora_A["default"].weight, adapter.lora_B["default"].weight)
    )
    found = merged(student).model.get_submodule(path).weight.detach().numpy()
    assert a.shape[0] == 2
    np.testing.assert_allclose(found, w + (3.0 / 2) * b @ a, rtol=1e-5, atol=1e-6)  # float32


def test_a_merge_that_answers_otherwise_is_refused(folders, monkeypatch):
    student = moved(build(lora(folders["llama"]), TEXT, 0))
    monkeypatch.setattr(peft.tuners.lora.Linear, "merge", lambda *_, **__: None)  # loses the products
    with pytest.raises(LimbeckError, match=r"With its adapters merged the student answers otherwise: .* differ by"):
        merged(student, COLUMNS)


def test_only_adapters_are_optimised_and_the_model_beneath_stays(folders):
    student = build(lora(folders["llama"]), TEXT, 0)
    assert adapters(student)
    assert all("lora_" in name for name in adapters(student))
    before = {name: value.clone() for name, value in student.state_dict().items()}
    chosen = groups(student, (), 0.1)
    assert sum(len(group["params"]) for group in chosen) == len(adapters(student)) == 2 * 7 * 4
    optimiser = torch.optim.AdamW(chosen, lr=0.1)
    for _ in range(2):  # A has a gradient once B is not zero
        whole(student.train()(**COLUMNS).logits).square().mean().backward()
        optimiser.step()
    changed = {name for name, value in student.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == adapters(student)


def test_the_loop_trains_resumes_and_keeps_them(folders, tmp_path):
    whole_stage = experiments.language(steps=4, evaluate_every=2)
    start = replace(whole_stage.start, spec=lora(folders["qwen2"]))
    stage = replace(whole_stage, start=start)
    workshop = Workshop(tmp_path / "home")
    trained, again = workshop.train(stage), workshop.train(stage)
    assert (trained.reused, again.reused) == (False, True)
    before, after = start.module().state_dict(), again.module().state_dict()
    changed = {name for name, value in after.items() if not torch.equal(value, before[name])}
    assert changed == adapters(start.module())
    with pytest.raises(Interrupted):
        train(stage, tmp_path / "cut", experiments.Watching(after=3, act=experiments.control_c))
    resumed = train(stage, tmp_path / "cut")
    assert all(torch.equal(value, after[name]) for name, value in resumed.weights.items())


def test_their_draw_is_by_the_seed_alone(folders):
    spec = lora(folders["llama"])
    state = torch.random.get_rng_state()
    one, again, other = (of_module(build(spec, TEXT, seed)) for seed in (0, 0, 1))
    assert torch.equal(torch.random.get_rng_state(), state)
    assert one == again != other
    stronger = of_module(build(spec.model_copy(update={"alpha": 3.0}), TEXT, 0))
    assert stronger != one, "what a product is multiplied with is in no weight"


def test_targets_are_chosen_by_how_paths_end(folders):
    every = adapters(build(lora(folders["gpt2"]), TEXT, 0))
    assert {name.split(".")[5] for name in every} == {"attn", "mlp"}, "and not the output"
    few = adapters(build(lora(folders["llama"], targets=("q_proj", "model.layers.1.mlp.up_proj")), TEXT, 0))
    assert len(few) == 2 * (4 + 1)
    out = build(lora(folders["qwen2"], targets=("lm_head",)), TEXT, 0)
    ours = logits(moved(out))  # the head is read as its weight and the product
    torch.testing.assert_close(ours, out(**COLUMNS).logits, rtol=1e-4, atol=1e-4)


def test_a_new_head_trains_with_them(tmp_path):
    student = build(Lora(of=BERT, rank=2), CLASSES, 0)
    others = {name for name in adapters(student) if "lora_" not in name}
    assert {name.split(".modules_to_save")[0].split("base_model.model.")[1] for name in others} == {
        "classifier",
        "bert.pooler",
    }
    moved(student)
    torch.testing.assert_close(logits(merged(student, COLUMNS)), logits(student), rtol=1e-4, atol=1e-4)
    save_student(tmp_path / "student", student, None, Numbers(), ("a", "b", "c"))
    again = load_student(tmp_path / "student", reader=Numbers())
    assert type(again.module).__name__ == "BertForSequenceClassification"
    rows = IDS[:3].tolist()
    torch.testing.assert_close(again.logits(rows), logits(student, Numbers().encode(rows)), rtol=1e-4, atol=1e-4)
    passed = load_student(tmp_path / "student", module=student, reader=Numbers())
    assert of_module(passed.module) == of_module(again.module)


def test_it_is_saved_as_the_plain_model_with_how_it_writes(tmp_path, folders):
    base = made("llama")
    base.generation_config.eos_token_id = [2, 7]
    base.generation_config.repetition_penalty = 1.3
    with quiet():
        base.save_pretrained(tmp_path / "base")
    student = moved(build(lora(tmp_path / "base"), TEXT, 0))
    save_student(tmp_path / "student", student, None, Numbers(), (), task=NextToken())
    again = load_student(tmp_path / "student", reader=Numbers()).module
    assert type(again) is type(base)
    assert again.generation_config.to_dict() == base.generation_config.to_dict()
    torch.testing.assert_close(logits(again), logits(student), rtol=1e-4, atol=1e-4)
    write_adapters(student, tmp_path / "adapters")
    beside = peft.PeftModel.from_pretrained(made("llama"), tmp_path / "adapters").eval()
    assert torch.equal(logits(beside), logits(student))
    assert str(tmp_path) not in (tmp_path / "adapters" / "adapter_config.json").read_text()


def test_they_stand_on_a_shrunk_teacher_and_a_teacher_may_have_them(folders):
    teacher = moved(build(lora(folders["llama"]), TEXT, 0))
    context = replace(TEXT, donor=teacher)
    copied = build(Shrunk(), context, 0)
    torch.testing.assert_close(logits(copied), logits(teacher), rtol=1e-4, atol=1e-4)
    student = build(Lora(of=Shrunk(layers=2), rank=2), context, 0)
    assert len(adapters(student)) == 2 * 7 * 2
    assert len(merged(student).model.layers) == 2


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ({"rank": 0}, r"Lora.rank: found 0"),
        ({"alpha": 0.0}, r"Lora.alpha"),
        ({"targets": ()}, r"Lora.targets"),
        ({"dropout": 1.0}, r"Lora.dropout"),
        ({"of": Mlp()}, r"Lora.of"),
    ],
    ids=("rank", "alpha", "targets", "dropout", "of"),
)
def test_what_says_nothing_is_refused(given, why):
    with pytest.raises(SettingError, match=why):
        Lora(**{"of": HuggingFace(path="x/y"), **given})


def test_targets_that_fit_nothing_are_named(folders):
    with pytest.raises(LimbeckError, match=r"'targets: q_porj' fits no linear map of LlamaForCausalLM: .*q_proj"):
        build(lora(folders["llama"], targets=("q_porj",)), TEXT, 0)
    with pytest.raises(LimbeckError, match="'targets: embed_tokens' fits no linear map"):
        build(lora(folders["llama"], targets=("q_proj", "embed_tokens")), TEXT, 0)


def test_without_peft_it_is_said_what_to_install(folders, monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(LimbeckError, match=r"Adapters need peft .*limbeck\[lora\]"):
        build(lora(folders["llama"]), TEXT, 0)
    assert isinstance(build(InMemory(lambda: made("llama")), TEXT, 0), nn.Module), "nobody else needs it"

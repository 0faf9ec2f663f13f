"""A language model, from a recipe to a student: its teacher here, stored, or behind a server."""

import json

import pytest
import torch
import yaml
from tests.fakes import openai_server
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

import limbeck
from limbeck.cli.main import main

WORDS = (
    *(
        "the",
        "a",
        "cat",
        "dog",
        "bird",
        "sat",
        "ran",
        "sang",
        "on",
        "under",
        "mat",
        "tree",
        "roof",
        "and",
        "then",
        "it",
    ),
    *("slept", "猫", "坐"),
)
SIZES = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Texts in a file, and a folder with a tiny model and its tokenizer."""
    folder = tmp_path_factory.mktemp("language")
    draw = torch.Generator().manual_seed(0)
    lines = [
        " ".join(
            WORDS[index]
            for index in torch.randint(len(WORDS), (int(torch.randint(4, 12, (1,), generator=draw)),), generator=draw)
        )
        for _ in range(150)
    ]
    (folder / "texts.txt").write_text("\n\n".join(lines))
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer, bpe.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    bpe.train_from_iterator(
        lines, trainers.BpeTrainer(vocab_size=300, special_tokens=["<end>"], initial_alphabet=alphabet)
    )
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token="<end>", pad_token="<end>")
    tokenizer.save_pretrained(folder / "model")
    torch.manual_seed(0)
    config = AutoConfig.for_model(
        "llama", vocab_size=len(tokenizer), eos_token_id=0, bos_token_id=0, pad_token_id=0, **SIZES
    )
    AutoModelForCausalLM.from_config(config).save_pretrained(folder / "model")
    return folder


def recipe(folder, **teacher):
    sgd = {"name": "sgd", "learning-rate": 0.5}  # which carries a difference on and does not blow it up
    student = {"name": "from-config", "model-type": "llama", "settings": {**SIZES, "num_hidden_layers": 1}}
    model = {"model": {"name": "huggingface", "path": str(folder / "model")}}
    return {
        "limbeck": 1,
        "name": "language",
        "data": {
            "source": {"name": "running-text", "path": str(folder / "texts.txt"), "shortest": 4},
            "task": "next-token",
            "tokenizer": str(folder / "model"),
            "max-length": 32,
            "validation": 10,
            "test": 20,
        },
        "teacher": {**({} if "served" in teacher else model), **teacher},
        "student": student,
        "objective": {"labels": 0.5, "divergence": {"weight": 0.5}},
        "training": {"steps": 12, "batch-size": 16, "optimizer": sgd},
        "seeds": 1,
        "evidence": {"metrics": ["bits-per-byte", "perplexity"], "samples": 3, "new-tokens": 4},
    }


def run(told, home, monkeypatch, out="run"):
    monkeypatch.setenv("LIMBECK_HOME", str(home))
    home.mkdir(exist_ok=True)
    (home / "recipe.yaml").write_text(yaml.safe_dump(told))
    with pytest.raises(SystemExit) as end:
        main(["run", str(home / "recipe.yaml"), "--out", str(home / out)])
    return end.value.code, home / out


def trained(folder, tmp_path, monkeypatch, capsys, **teacher):
    code, out = run(recipe(folder, **teacher), tmp_path, monkeypatch)
    assert not code, capsys.readouterr().err
    return limbeck.load(out).module.state_dict(), json.loads((out / "evidence.json").read_text())


@pytest.fixture(scope="module")
def untrained_is_enough():
    """The teacher knows nothing; what it says is learnt all the same."""
    patch = pytest.MonkeyPatch()
    patch.setattr("limbeck.run.ready._check_teacher", lambda *_: None)
    yield
    patch.undo()


@pytest.mark.usefixtures("untrained_is_enough")
def test_a_served_teacher_gives_the_student_that_a_local_one_gives(made, tmp_path, monkeypatch, capsys):
    top = {"name": "top-k", "k": 40, "dtype": "float32"}
    local, evidence = trained(made, tmp_path / "a", monkeypatch, capsys, store=top)
    module = AutoModelForCausalLM.from_pretrained(made / "model").eval()
    plain = openai_server.Tiny()
    plain.forward = lambda input_ids, attention_mask=None: module(input_ids=input_ids).logits
    with openai_server.running(openai_server.Fake(plain)) as server:
        served = {"url": server.url, "model": "tiny", "top": 40}
        other, told = trained(made, tmp_path / "b", monkeypatch, capsys, served=served)
        asked = len(server.asked)
        again, _ = trained(made, tmp_path / "b", monkeypatch, capsys, served=served)
        assert len(server.asked) == asked  # every text was paid for once
    for name, value in local.items():
        torch.testing.assert_close(other[name], value, rtol=1e-4, atol=1e-5)
        assert torch.equal(again[name], other[name])
    bits = [one["arms"]["control"]["mean"]["metrics"]["bits-per-byte"] for one in (evidence, told)]
    assert bits[0] == pytest.approx(bits[1], rel=1e-6)
    near = evidence["fidelity"]["distilled"]["kl"], told["fidelity"]["distilled"]["kl"]
    assert 0 < near[1] < near[0]  # over 40 tokens and the rest it is less than over all
    score = evidence["arms"]["control"]["mean"]["score"]
    assert score == pytest.approx(1 - bits[0] / 8, rel=1e-5)


@pytest.mark.usefixtures("untrained_is_enough")
def test_hidden_states_are_stored_for_any_divergence(made, tmp_path, monkeypatch, capsys):
    live, _ = trained(made, tmp_path / "a", monkeypatch, capsys)
    stored, _ = trained(made, tmp_path / "b", monkeypatch, capsys, store="hidden")
    for name, value in live.items():
        torch.testing.assert_close(stored[name], value, rtol=1e-4, atol=1e-5)  # another batch, other roundings


@pytest.mark.usefixtures("untrained_is_enough")
def test_a_student_writes_and_is_delivered(made, tmp_path, monkeypatch, capsys):
    told = recipe(made) | {"student": {"name": "shrunk", "layers": 1}}
    code, out = run(told, tmp_path, monkeypatch)
    assert not code, capsys.readouterr().err
    student = limbeck.load(out)
    before = torch.random.get_rng_state()
    texts = student.generate(["the cat", "a dog sat on the mat"], most=6)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert texts == [
        student.generate([one], most=6)[0] for one in ("the cat", "a dog sat on the mat")
    ]  # padding is nothing
    drawn = [student.generate(["the"], most=12, temperature=1.0, seed=seed)[0] for seed in (1, 1, 2)]
    assert drawn[0] == drawn[1] != drawn[2]
    with pytest.raises(limbeck.LimbeckError, match="generate"):
        student.predict(["the cat"])
    student.export("hf", tmp_path / "delivered")
    other = AutoModelForCausalLM.from_pretrained(tmp_path / "delivered").eval()
    ids = torch.tensor([[5, 9, 11, 40]])
    with torch.no_grad():
        assert torch.equal(other(input_ids=ids).logits, student.module.eval()(input_ids=ids).logits)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"objective": {"divergence": {"kind": "reverse-kl"}}, "store": "sampled"}, "teacher.store: top-k"),
        (
            {"objective": {"divergence": {"temperature": 2}}, "store": "top-k"},
            "the likeliest tokens and what the rest have together",
        ),
        ({"objective": {"decoupled": 1.0}}, "decoupled"),
        ({"objective": {"soft-targets": {"gate": {"name": "teacher-confidence", "at-least": 0.5}}}}, "gate"),
    ],
)
def test_what_does_not_fit_is_told_before_anything_is_trained(change, why, made, tmp_path, monkeypatch, capsys):
    told = recipe(made, **({"store": change["store"]} if "store" in change else {}))
    told["objective"] = change["objective"]
    code, out = run(told, tmp_path, monkeypatch)
    said = capsys.readouterr().err
    assert code, said
    assert why in " ".join(said.split()), said
    assert "done in" not in said
    assert not (out / "evidence.json").exists()

"""Students of language models from a recipe to what is delivered: shrunk decoders, and low-rank adapters."""

import csv
import json

import pytest
import torch
import yaml
from tests.fakes.causal import made
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM

import limbeck
from limbeck.cli.main import main
from limbeck.data.tokenizers import fitted, loaded, quiet

WORDS = ("the", "a", "cat", "dog", "bird", "sat", "ran", "sang", "on", "under", "mat", "tree", "roof", "and")
SIDES = {"attention_heads": 2, "ffn_dim": 32, "layers": 2}
BART = {f"{side}_{name}": size for side in ("encoder", "decoder") for name, size in SIDES.items()}
ADAM = {"name": "adamw", "learning-rate": 0.01}


@pytest.fixture
def pairs(tmp_path, monkeypatch):
    """Texts, and the same backwards."""
    monkeypatch.setenv("LIMBECK_HOME", str(tmp_path / "home"))
    draw = torch.Generator().manual_seed(0)
    path = tmp_path / "pairs.csv"
    with path.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["text", "pair"])
        for _ in range(120):
            some = [WORDS[at] for at in torch.randint(len(WORDS), (4,), generator=draw)]
            writer.writerow([" ".join(some), " ".join(reversed(some))])
    return path


def run(told, folder):
    (folder / "recipe.yaml").write_text(yaml.safe_dump(told))
    with pytest.raises(SystemExit) as end:
        main(["run", str(folder / "recipe.yaml"), "--out", str(folder / "run")])
    return end.value.code, folder / "run"


def told(path, task, **parts):
    return {
        "limbeck": 1,
        "name": "students",
        "data": {
            "source": {"name": "table", "path": str(path), "pair": "pair"},
            "task": task,
            "max-length": 16,
            "validation": 10,
            "test": 20,
        },
        "objective": {"labels": 0.5, "divergence": 0.5},
        "training": {"steps": 12, "batch-size": 16, "optimizer": ADAM},
        "seeds": 1,
        "evidence": {"metrics": ["bits-per-byte", "perplexity"], "samples": 0},
        **parts,
    }


def test_a_decoder_is_shrunk_taught_and_delivered(pairs, tmp_path, capsys):
    model = {"name": "from-config", "model-type": "bart", "settings": {"d_model": 16, **BART}}
    teacher = {"model": model, "training": {"steps": 30, "batch-size": 16, "optimizer": ADAM}}
    student = {"name": "shrunk", "layers": {"decoder": 1}}
    asked = told(pairs, "text-to-text", teacher=teacher, student=student)
    asked["evidence"] |= {"samples": 4, "new-tokens": 8, "exact-match": "squad"}
    code, out = run(asked, tmp_path)
    assert not code, capsys.readouterr().err
    evidence = json.loads((out / "evidence.json").read_text())
    arm = evidence["arms"]["distilled"]["mean"]
    assert arm["score"] == pytest.approx(1 - arm["metrics"]["bits-per-byte"] / 8, rel=1e-5)
    assert evidence["fidelity"]["distilled"]["kl"] > 0
    assert evidence["samples"]["compared"] == "squad"
    assert 0 <= evidence["samples"]["arms"]["distilled"]["likeliest"]["exact_match"] <= 1
    assert "English articles and white space (SQuAD)" in (out / "report.html").read_text()
    delivered = limbeck.load(out)
    assert (len(delivered.module.model.encoder.layers), len(delivered.module.model.decoder.layers)) == (2, 1)
    texts = delivered.generate(["the cat sat on", "a dog"], most=6)
    assert texts == [delivered.generate([one], most=6)[0] for one in ("the cat sat on", "a dog")]
    delivered.export("hf", tmp_path / "delivered")
    card = (tmp_path / "delivered" / "README.md").read_text()
    assert "It turns a text into another." in card
    assert "`AutoModelForSeq2SeqLM` and `AutoTokenizer` read this folder" in card
    other = AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "delivered").eval()
    columns = delivered.reader.encode([("the cat sat on", "on sat cat the")])
    with torch.no_grad():
        assert torch.equal(other(**columns).logits, delivered.logits([("the cat sat on", "on sat cat the")]))
    known = loaded(str(tmp_path / "delivered"))
    ids = torch.tensor([list(known.tokenizer("the cat sat on")["input_ids"])])
    with quiet():
        wrote = other.generate(input_ids=ids, max_new_tokens=6, do_sample=False)
    assert known.tokenizer.decode(wrote[0], skip_special_tokens=True) == texts[0], "it begins and ends as it was taught"


def test_adapters_are_trained_and_merged(pairs, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(
        "limbeck.run.ready._check_teacher", lambda *_: None
    )  # it knows nothing, which is learnt all the same
    with quiet():
        made("llama", tie_word_embeddings=False).save_pretrained(tmp_path / "model")
        loaded(fitted([" ".join(WORDS)] * 2)).tokenizer.save_pretrained(tmp_path / "model")
    model = {"name": "huggingface", "path": str(tmp_path / "model")}
    student = {"name": "lora", "of": {"name": "shrunk", "layers": 2}, "rank": 2, "keep-adapters": True}
    code, out = run(told(pairs, "next-token", teacher={"model": model}, student=student), tmp_path)
    assert not code, capsys.readouterr().err
    module = limbeck.load(out).module
    assert type(module).__name__ == "LlamaForCausalLM"
    base = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    assert torch.equal(module.model.embed_tokens.weight, base.model.embed_tokens.weight)
    assert torch.equal(module.lm_head.weight, base.lm_head.weight)
    ours, theirs = (one.model.layers[0].mlp.up_proj.weight for one in (module, base))
    assert not torch.equal(ours, theirs)
    assert int(torch.linalg.matrix_rank((ours - theirs).double(), rtol=1e-4)) == 2
    assert (out / "adapters" / "adapter_model.safetensors").is_file()
    evidence = json.loads((out / "evidence.json").read_text())
    assert evidence["arms"]["distilled"]["efficiency"]["parameters"] == sum(one.numel() for one in module.parameters())

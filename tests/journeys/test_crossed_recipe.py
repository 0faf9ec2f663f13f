"""A student with a tokenizer of its own, from a recipe to a delivered model."""

import math

import pytest
import torch
from tests.journeys.test_language_recipe import made, recipe, run, untrained_is_enough
from transformers import AutoModelForCausalLM, AutoTokenizer

import limbeck
from limbeck.evidence.schema import Evidence

assert made
assert untrained_is_enough


def crossed(folder, objective, **teacher):
    told = recipe(folder, **teacher)
    told["data"] |= {"tokenizer": "bpe", "max-length": 48}
    return told | {"objective": objective, "evidence": {"metrics": ["bits-per-byte", "perplexity"], "samples": 0}}


@pytest.mark.usefixtures("untrained_is_enough")
def test_a_student_of_other_tokens_learns_is_judged_and_delivered(made, tmp_path, monkeypatch, capsys):
    objective = {"labels": 0.5, "uld": 0.2, "shared-vocabulary": {"kind": "skew-kl", "weight": 0.5}, "alm": 0.2}
    code, out = run(crossed(made, objective, store="hidden"), tmp_path, monkeypatch)
    assert not code, capsys.readouterr().err
    evidence, student = Evidence.read(out), limbeck.load(out)
    assert evidence.arms.teacher is not None
    assert "distilled" not in evidence.fidelity  # tokens of two kinds are not set against each other
    assert any("two tokenizers" in note for note in evidence.notes)
    known, model = AutoTokenizer.from_pretrained(made / "model"), AutoModelForCausalLM.from_pretrained(made / "model")
    nats, size = 0.0, 0
    for text in student_texts(out):
        ids = torch.tensor([[*known(text)["input_ids"], known.eos_token_id]])
        with torch.no_grad():
            nats += float(model.eval()(input_ids=ids, labels=ids).loss) * (ids.shape[1] - 1)
        size += len(text.encode()) - len(known.decode(ids[0, :1]).encode())
    said = evidence.arms.teacher.mean.metrics["bits-per-byte"]
    assert said == pytest.approx(nats / math.log(2) / size, rel=1e-4)  # by its own tokens, not by the student's
    assert len(student.generate(["the cat"], most=4)) == 1
    student.export("hf", tmp_path / "delivered")
    own = AutoTokenizer.from_pretrained(tmp_path / "delivered")
    assert len(own) != len(known)
    assert own.decode(own("a 猫 sat 🙂")["input_ids"]) == "a 猫 sat 🙂"


def student_texts(out):
    """The test part: it is smaller than what is kept of it for exports."""
    from limbeck.run import folder

    return folder.kept(out, folder.INPUTS)


@pytest.mark.usefixtures("untrained_is_enough")
def test_what_two_tokenizers_cannot_do_is_told_before_anything_is_trained(made, tmp_path, monkeypatch, capsys):
    code, out = run(crossed(made, {"labels": 0.5, "divergence": 0.5}), tmp_path, monkeypatch)
    said = " ".join(capsys.readouterr().err.split())
    assert code
    assert "use uld, shared-vocabulary or alm" in said
    assert "done in" not in said
    assert not (out / "evidence.json").exists()
    code, _ = run(crossed(made, {"alm": 1.0}, store="sampled"), tmp_path, monkeypatch, "other")
    assert code
    assert "'alm' reads the probability of given tokens" in capsys.readouterr().err


@pytest.mark.usefixtures("untrained_is_enough")
def test_what_the_teacher_writes_is_learnt_in_other_tokens(made, tmp_path, monkeypatch, capsys):
    """An untrained teacher: most of its texts have no end, and are left out."""
    lines = (made / "texts.txt").read_text().split("\n\n")[:90]
    table = "".join(f'"{one.partition(" ")[0]}","{one.partition(" ")[2]}"\n' for one in lines)
    (tmp_path / "prompts.csv").write_text("ask,say\n" + table)
    told = crossed(made, {"labels": 1.0})
    told["data"]["source"] = {"name": "table", "path": str(tmp_path / "prompts.csv"), "text": "ask", "pair": "say"}
    told["data"]["max-length"] = 160
    told |= {"regime": {"name": "sequence-level", "temperature": 1.0, "max-new-tokens": 96}}
    told["training"] |= {"steps": 4, "batch-size": 8}
    code, out = run(told, tmp_path / "home", monkeypatch)
    assert not code, capsys.readouterr().err
    control, distilled = (getattr(Evidence.read(out).arms, name).mean.metrics for name in ("control", "distilled"))
    assert control["bits-per-byte"] != distilled["bits-per-byte"]
    kept = list((tmp_path / "home" / "written").rglob("*.json"))
    assert kept

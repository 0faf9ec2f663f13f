"""A recipe of vectors for pairs of texts, from its file to a delivered encoder that other tools read."""

import json
import shutil

import numpy as np
import yaml
from tests.fakes import asked
from tests.fakes.commands import call

import limbeck


def recipe(folder):
    """Tiny models of two widths; of some rows it is not known whether they are pairs."""
    bert = {"name": "small-transformer", "hidden": 16, "layers": 1, "heads": 1}
    training = {"batch-size": 16, "optimizer": {"name": "adamw", "learning-rate": 0.01}}
    return {
        "limbeck": 1,
        "name": "asked",
        "data": {**asked.written(folder, "vectors", 80), "labelled": 40},
        "teacher": {"model": {**bert, "hidden": 24}, "training": {**training, "steps": 30}},
        "student": bert,
        "objective": {"partners": 1, "margin-mse": 10, "cosine": {"student": "logits", "teacher": "logits"}},
        "training": {**training, "steps": 8},
        "seeds": 1,
        "evidence": {"metrics": ["recall-1", "recall-10"]},
    }


def test_a_recipe_leads_to_vectors(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("LIMBECK_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe(tmp_path)))
    code = call("run", "recipe.yaml")
    assert not code, capsys.readouterr().err
    found = json.loads((tmp_path / "runs/asked/evidence.json").read_text())
    # nothing stands in for the truth where it is unknown, so there is no arm of pseudo-labels
    assert {name for name, arm in found["arms"].items() if arm} == {"teacher", "control", "distilled"}
    mean = found["arms"]["distilled"]["mean"]
    assert mean["measure"] == {"name": "MRR", "percent": False}
    assert mean["metrics"].keys() == {"recall-1", "recall-10"}
    assert mean["metrics"]["recall-1"] <= mean["score"] <= 1
    assert found["fidelity"]["distilled"]["correlation"] is not None
    notes = " ".join(found["notes"])
    assert "pseudo-labels" not in notes
    report = (tmp_path / "runs/asked/report.html").read_text()
    assert "1 / rank" in report
    assert "NLL" not in report
    assert not call("evaluate", "runs/asked")
    assert f"{mean['score']:.3f}" in capsys.readouterr().out
    assert not call("export", "runs/asked", "--to", "hf")
    again = recipe(tmp_path)  # what was exported teaches as it is
    again["data"].pop("tokenizer")
    again |= {"teacher": {"model": {"name": "huggingface", "path": "runs/asked/export-hf"}}, "student": "shrunk"}
    again["objective"] = {"partners": 1}
    (tmp_path / "again.yaml").write_text(yaml.safe_dump(again))
    assert not call("check", "again.yaml"), capsys.readouterr().err
    shutil.move(tmp_path / "runs/asked/student", tmp_path / "alone")  # a delivered folder needs nothing else
    shutil.rmtree(tmp_path / "home")
    student = limbeck.load("alone")
    pair = ("anna eats tea in rome", "tea for anna in rome")
    first, second = student.predict(list(pair))
    assert len(first) == len(second) == 16
    assert np.allclose(student.predict([pair])[0], [first, second], atol=1e-5)  # other padding: sums in another order
    card = (tmp_path / "runs/asked/export-hf/README.md").read_text()
    assert "sentence-similarity" in card
    assert "a vector for each text" in card
    assert "classes" not in card.partition("## Evidence")[0]


def test_terms_between_probabilities_are_refused_before_anything_is_trained(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("LIMBECK_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    plain = recipe(tmp_path)
    del plain["objective"]
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(plain))
    assert call("check", "recipe.yaml")
    said = " ".join(capsys.readouterr().err.split())
    assert "'labels' compares probabilities, and the task 'vectors' has none: use partners" in said

"""A student that writes its own lessons, from a recipe to the report."""

import json

import pytest
import yaml
from tests.fakes.writers import pairs

import limbeck
from limbeck.cli.main import main

SIZES = {"hidden_size": 16, "intermediate_size": 24, "num_attention_heads": 2, "num_key_value_heads": 2}


def model(layers):
    return {"name": "from-config", "model-type": "llama", "settings": {**SIZES, "num_hidden_layers": layers}}


def recipe(folder, **changes):
    rows = [{"prompt": prompt, "answer": answer} for prompt, answer in pairs(160)]
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    rate = {"name": "adamw", "learning-rate": 0.02}
    source = {"name": "table", "path": str(folder / "rows.jsonl"), "text": "prompt", "pair": "answer"}
    return {
        "limbeck": 1,
        "name": "on-policy",
        "data": {"source": source, "task": "next-token", "tokenizer": "words", "validation": 10, "test": 20},
        "teacher": {"model": model(2), "training": {"steps": 20, "batch-size": 32, "optimizer": rate}},
        "student": model(1),
        "objective": {
            "labels": 0.5,
            "divergence": [
                {"kind": "skew-kl", "texts": "given"},
                {"kind": "reverse-kl", "texts": "written", "returns": {"gamma": 0.9}},
            ],
        },
        "regime": {"name": "on-policy", "each": "text", "max-new-tokens": 3},
        "training": {"steps": 4, "batch-size": 16, "optimizer": rate},
        "seeds": 1,
        "evidence": {"samples": 2, "new-tokens": 3},
    } | changes


def run(told, folder, monkeypatch):
    monkeypatch.setenv("LIMBECK_HOME", str(folder / "home"))
    (folder / "recipe.yaml").write_text(yaml.safe_dump(told))
    with pytest.raises(SystemExit) as end:
        main(["run", str(folder / "recipe.yaml"), "--out", str(folder / "out")])
    return end.value.code


def test_the_report_sets_own_texts_beside_given_ones(tmp_path, monkeypatch, capsys):
    for place in ("conduct", "preflight"):  # counting operations takes longer than all the rest, and has its own tests
        monkeypatch.setattr(f"limbeck.run.{place}.compute_of", lambda *_: None)
    code = run(recipe(tmp_path), tmp_path, monkeypatch)
    said = capsys.readouterr().err
    assert not code, said
    evidence = json.loads((tmp_path / "out" / "evidence.json").read_text())
    assert {name for name, arm in evidence["arms"].items() if arm} == {"teacher", "control", "off_policy", "distilled"}
    assert [(step["source"], step["target"]) for step in evidence["attribution"]] == [
        ("control", "off_policy"),
        ("off_policy", "distilled"),
    ]
    assert len({arm["mean"]["score"] for arm in evidence["arms"].values() if arm}) == 4
    assert "Off-policy" in (tmp_path / "out" / "report.html").read_text()
    assert limbeck.load(tmp_path / "out").generate(["cat sat"], most=3)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"regime": "offline"}, "nobody writes any"),
        ({"regime": {"name": "on-policy", "share": 0.8, "teacher-share": 0.3}}, "together they are at most 1"),
        ({"teacher": {"model": model(2), "training": {"steps": 2}, "store": "top-k"}}, "leave teacher.store out"),
    ],
)
def test_what_cannot_be_is_told_before_anything_is_trained(change, why, tmp_path, monkeypatch, capsys):
    assert run(recipe(tmp_path, **change), tmp_path, monkeypatch)
    said = capsys.readouterr().err
    assert why in " ".join(said.split()), said
    assert "done in" not in said
    assert "Traceback" not in said

"""From a table of texts to a student that answers, with neither a hub nor a package of models."""

import random

import pytest

import limbeck
from limbeck.cli.main import main

KINDS = {
    "billing": "refund invoice card charge",
    "delivery": "parcel courier late box",
    "quality": "broke cheap thin loose",
}


def test_init_and_run_lead_to_a_student(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("LIMBECK_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("limbeck.recipe.starting.find_spec", lambda name: None)
    monkeypatch.chdir(tmp_path)
    draw, rows = random.Random(0), ["text,label"]
    for place in range(120):
        kind = draw.choice(list(KINDS))
        rows.append(
            f'"my {draw.choice(KINDS[kind].split())} was {draw.choice(KINDS[kind].split())},\nno {place}",{kind}'
        )
    (tmp_path / "feedback.csv").write_text("\n".join(rows) + "\n")
    smaller = [
        f"--set={one}"
        for one in (
            "training.steps=20",
            "seeds=1",
            "teacher.training.steps=150",
            "teacher.training.optimizer.learning-rate=3e-3",
            "teacher.model.layers=1",
            "teacher.model.hidden=32",
        )
    ]
    for typed in (["init", "--data", "feedback.csv"], ["check", "recipe.yaml"], ["run", "recipe.yaml", *smaller]):
        with pytest.raises(SystemExit) as end:
            main(typed)
        said = capsys.readouterr()
        assert not end.value.code, said.err
    student = limbeck.load("runs/feedback")
    assert set(student.predict(["the courier was late", "a refund to my card"])) <= set(KINDS)
    assert (tmp_path / "runs/feedback/student/tokenizer.json").exists()

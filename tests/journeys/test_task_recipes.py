"""A recipe of each task, from its file to a student that answers, with neither a hub nor a package of models."""

import json
import shutil

import pytest
import yaml
from tests.fakes import asked

import limbeck
from limbeck.cli.main import main


def recipe(folder, task):
    """Tiny models; a fifth of the texts has no label in the file."""
    data = asked.written(folder, task, 100)
    path = folder / f"{task}.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    labels = {"tags": ["tags"], "spans": ["answer"], "multi-task": ["meal", "town"]}.get(task, ["label"])
    hidden = dict.fromkeys(labels)
    path.write_text("\n".join(json.dumps(row | hidden if place % 5 == 0 else row) for place, row in enumerate(rows)))
    bert = {"name": "small-transformer", "hidden": 16, "layers": 1, "heads": 1}
    training = {"batch-size": 16, "optimizer": {"name": "adamw", "learning-rate": 0.01}}
    teacher = {"model": {**bert, "layers": 2}, "training": {**training, "steps": 80}}
    if task == "multi-task":
        teacher = {"ensemble": [{**teacher, "name": f"of-{one}", "task": one} for one in labels]}
    return {
        "limbeck": 1,
        "name": "asked",
        "data": data,
        "teacher": teacher,
        "student": bert,
        "objective": {"labels": 0.5, "soft-targets": {"weight": 0.5, "loss": "logit-mse"}},
        "training": {**training, "steps": 8},
        "seeds": 1,
    }


@pytest.mark.parametrize("task", asked.NAMES[1:])  # classes: test_texts_offline.py
def test_a_recipe_leads_to_a_student(task, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("LIMBECK_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe(tmp_path, task)))
    with pytest.raises(SystemExit) as end:
        main(["run", "recipe.yaml"])
    said = capsys.readouterr()
    assert not end.value.code, said.err
    assert set(json.loads((tmp_path / "runs/asked/evidence.json").read_text())["arms"]) >= {
        "teacher",
        "control",
        "pseudo_labels",
        "distilled",
    }
    shutil.move(tmp_path / "runs/asked/student", tmp_path / "alone")  # a delivered folder needs nothing else
    shutil.rmtree(tmp_path / "runs")
    shutil.rmtree(tmp_path / "home")
    (tmp_path / f"{task}.jsonl").unlink()
    student = limbeck.load("alone")
    assert student.task.name == task
    text = "anna eats tea in rome"
    (answer,) = student.predict([{"tags": text.split(), "spans": ("who eats ?", text)}.get(task, text)])
    if task == "tags":
        assert [word for word, _ in answer] == text.split()
    elif task == "spans":
        assert answer == "" or answer in text
    elif task == "multi-task":
        assert {f"{name}: {one}" for name, one in answer.items()} <= set(student.classes)
        assert set(answer) == {"meal", "town"}
    elif task == "numbers":
        assert isinstance(answer, float)
    else:
        assert set(answer) <= set(student.classes)

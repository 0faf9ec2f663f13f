"""From a recipe: a finished teacher that has other classes first, and files of a run's own parts beside other data."""

import json
from pathlib import Path

import pytest
import torch
import yaml
from tests.fakes import asked
from tests.fakes.commands import call

from limbeck.cli.evaluate import _data
from limbeck.data.sources import Data
from limbeck.export import export
from limbeck.models.spec import BuildContext
from limbeck.models.specs import SmallTransformer, build
from limbeck.models.student import Student

BERT = {"name": "small-transformer", "hidden": 16, "layers": 1, "heads": 1}
TRAINING = {"batch-size": 16, "steps": 8}


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    monkeypatch.setenv("LIMBECK_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)


def write(data, **parts):
    recipe = {"limbeck": 1, "name": "asked", "data": data, "student": BERT, "training": TRAINING, "seeds": 1}
    recipe |= {"objective": {"labels": 0.5, "soft-targets": 0.5}} | parts
    Path("recipe.yaml").write_text(yaml.safe_dump(recipe))


@pytest.mark.parametrize("task", ["classes", "tags"])
def test_a_finished_teacher_with_its_classes_in_another_order_is_refused(task, tmp_path, capsys):
    data = asked.written(tmp_path, task, 60)
    splits = Data.model_validate(data).load()
    sample = splits.train.batch(splits.train.rows[:4], torch.zeros(4, dtype=torch.int64)).columns("student")
    names = splits.classes
    for order, refused in ((names, False), (names[::-1], True)):
        context = BuildContext(len(names), sample, order, vocabulary=splits.reader.vocabulary, task=splits.task)
        module = build(SmallTransformer(hidden=16, layers=1, heads=1, positions=32), context, 0).eval()
        rows = [splits.train.table.raw(row) for row in range(4)]
        export(Student(module, splits.reader, order, {}, splits.task), "hf", tmp_path / f"teacher-{refused}", rows)
        data.pop("tokenizer", None)
        write(data, teacher={"model": {"name": "huggingface", "path": f"teacher-{refused}"}})
        assert bool(call("check", "recipe.yaml")) == refused, capsys.readouterr().err
    said = " ".join(capsys.readouterr().err.split())
    assert f"has its classes in the order {list(names[::-1])}, the data in the order {list(names)}" in said
    assert "Traceback" not in said
    assert said.count("error:") == 1


def test_other_data_is_measured_without_the_runs_own_parts(tmp_path, monkeypatch):
    """What is measured is every row of the file, and the run's own files need not be there any more."""
    data = asked.written(tmp_path, "tags", 30)
    data["source"] |= {"validation": "gone.jsonl", "test": "gone.jsonl"}
    monkeypatch.setattr("limbeck.run.folder.read", lambda run: {"recipe": {"data": Data.model_validate(data).plain()}})
    rows = asked.rows_of("tags", 13, seed=1)
    (tmp_path / "other.jsonl").write_text("\n".join(map(json.dumps, rows)))
    other = _data(Path("run"), Path("other.jsonl"), None, None)
    raw = other.source.load(other.task)
    assert (len(raw), raw.validation, raw.test, raw.task.name) == (13, None, None, "tags")

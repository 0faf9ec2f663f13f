"""Exports of students whose answers stand at tokens, or are labels or numbers: equal on real inputs, and read by name."""

import ast
import json
import re

import pytest
import torch
from tests.fakes import asked
from transformers import AutoConfig

from limbeck.data.sources import Data
from limbeck.export import export
from limbeck.models.saved import load_student
from limbeck.models.spec import BuildContext
from limbeck.models.specs import SmallTransformer, build
from limbeck.models.student import Student


@pytest.fixture(scope="module")
def students(tmp_path_factory):
    """An untrained student of each task, and inputs."""
    found = {}
    for name in asked.NAMES[1:]:
        splits = Data.model_validate(asked.written(tmp_path_factory.mktemp(name), name, 40)).load()
        sample = splits.train.batch(splits.train.rows[:4], torch.zeros(4, dtype=torch.int64)).columns("student")
        vocabulary, names = splits.reader.vocabulary, splits.classes
        context = BuildContext(len(names), sample, names, vocabulary=vocabulary, task=splits.task)
        module = build(SmallTransformer(hidden=16, layers=1, positions=32), context, 0).eval()
        items = [splits.train.table.raw(row) for row in range(9)]
        found[name] = Student(module, splits.reader, names, {}, splits.task), items
    return found


@pytest.mark.parametrize("name", asked.NAMES[1:])
def test_folders_are_equal_and_say_what_is_asked(students, name, tmp_path):
    student, items = students[name]
    assert export(student, "hf", tmp_path / "hf", items).max_difference == 0
    assert export(student, "safetensors", tmp_path / "plain", items).max_difference == 0
    again = load_student(tmp_path / "plain")
    assert again.task == student.task
    assert again.predict(items) == student.predict(items)
    config = AutoConfig.from_pretrained(tmp_path / "hf")
    assert tuple(config.id2label.values()) == student.classes
    assert config.problem_type == student.task.head().get("problem_type")
    assert config.architectures == [type(student.module).__name__]
    assert json.loads((tmp_path / "hf" / "limbeck.json").read_text())["task"] == name


@pytest.mark.parametrize("name", ["multi-label", "numbers"])
def test_the_cards_own_lines_answer_what_is_asked(students, name, tmp_path, monkeypatch, capsys):
    student, items = students[name]
    folder = export(student, "hf", tmp_path / "hf", items).path
    card = (folder / "README.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", card, re.S)
    monkeypatch.chdir(folder)
    capsys.readouterr()
    exec(code.replace('["one text", "another"]', repr(list(items))), {})
    said = [ast.literal_eval(line) for line in capsys.readouterr().out.splitlines()]
    if name == "multi-label":
        assert "whether it holds" in card
        assert list(map(sorted, said)) == list(map(sorted, student.predict(items)))
    else:
        assert "It gives numbers" in card
        numbers = student.logits(items).tolist()
        assert [list(one.values()) for one in said[0]] == [pytest.approx(row, rel=1e-5) for row in numbers]


def test_spans_are_one_output_of_onnx(students, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    student, items = students["spans"]
    done = export(student, "onnx", tmp_path / "onnx", items, seconds=0)
    assert done.max_difference <= done.tolerance
    session = onnxruntime.InferenceSession(tmp_path / "onnx" / "model.onnx", providers=["CPUExecutionProvider"])
    columns = student.reader.encode(items[:3])
    (logits,) = session.run(["logits"], {one.name: columns[one.name].numpy() for one in session.get_inputs()})
    assert logits.shape == (*columns["input_ids"].shape, 2)

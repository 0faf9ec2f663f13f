"""Teachers that are no PyTorch model of one's own, from a recipe: ONNX files, several as one, and a student's own base."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
import yaml
from sklearn.linear_model import LogisticRegression
from tests.fakes.commands import call
from tests.fakes.onnx import linear
from tests.journeys.test_language_recipe import made, recipe, run  # noqa: F401 - a fixture

import limbeck
from limbeck.data.sources import Data
from limbeck.models.specs import SmallTransformer, build
from limbeck.recipe import Recipe
from limbeck.run.experiment import from_recipe

DIGITS = {"source": "mnist-5k", "labelled": 150, "limit": 400, "validation": 60, "test": 200}
BERT = {"name": "small-transformer", "hidden": 16, "layers": 1, "heads": 1}


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    monkeypatch.setenv("LIMBECK_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)


def write(teacher, data=None, **parts):
    told = {"limbeck": 1, "name": "others", "data": data or DIGITS, "teacher": teacher, "student": "mlp", "seeds": 1}
    told |= {"training": {"batch-size": 32, "steps": 10}} | parts
    Path("recipe.yaml").write_text(yaml.safe_dump(told))
    return told


def evidence():
    return json.loads(Path("run/evidence.json").read_text())


def test_scikit_learns_model_teaches_and_is_as_good_as_it_was(capsys):
    """Its accuracy in the report is the one that scikit-learn gives it, on the images as it was trained on them."""
    data = Data.model_validate(DIGITS)
    splits, raw = data.load(), data.source.load()

    def rows(part):
        return raw.items[part.rows].flatten(1).numpy() / 255, raw.labels[part.rows].numpy()

    models = [LogisticRegression(C=c, max_iter=300).fit(*rows(splits.train.labelled())) for c in (0.02, 1.0)]
    for number, model in enumerate(models):
        linear(f"{number}.onnx", model.coef_, model.intercept_, range(10), zipped=bool(number))
    write({"onnx": {"path": "0.onnx", "pixels": "0-1", "outputs": "probabilities"}})
    assert not call("check", "recipe.yaml"), capsys.readouterr().err
    assert not call("label", "recipe.yaml"), capsys.readouterr().err
    assert not call("run", "recipe.yaml", "--out", "run"), capsys.readouterr().err
    taught = evidence()["arms"]["teacher"]
    assert taught["efficiency"] is None
    assert np.isclose(taught["per_seed"][0]["accuracy"], models[0].score(*rows(splits.test)))
    several = [{"onnx": {"path": f"{number}.onnx", "pixels": "0-1", "outputs": "probabilities"}} for number in (0, 1)]
    write({"ensemble": {"members": several, "weights": [3, 1]}})
    assert not call("run", "recipe.yaml", "--out", "several"), capsys.readouterr().err
    told = json.loads(Path("several/evidence.json").read_text())
    x, y = rows(splits.test)
    mean = sum(share * np.maximum(model.predict_proba(x), 1e-6) for share, model in zip((3, 1), models, strict=True))
    assert np.isclose(
        told["arms"]["teacher"]["per_seed"][0]["accuracy"], (mean.argmax(1) == y).mean(), atol=0.006
    )  # ties
    assert told["provenance"]["teacher_fingerprint"] != evidence()["provenance"]["teacher_fingerprint"]


def test_teachers_see_images_otherwise_than_the_student(capsys):
    few = {"steps": 80, "batch-size": 32, "optimizer": {"name": "adamw", "learning-rate": 3e-3}}
    small = {"model": {"name": "small-cnn", "width": 4}, "training": few, "sees": {"size": 20}}
    colour = {"name": "colour", "model": {"name": "small-resnet", "width": 4}, "training": few}
    colour["sees"] = {"size": 32, "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}
    hints = {"student": "blocks.1", "teacher": "colour.stages.1", "weight": 0.1}
    parts = {"student": {"name": "small-cnn", "width": 4}}
    parts["objective"] = {"labels": 0.5, "soft-targets": 0.5, "hints": hints}
    write({"ensemble": [small, colour]}, **parts)
    assert not call("check", "recipe.yaml"), capsys.readouterr().err
    assert not call("run", "recipe.yaml", "--out", "run"), capsys.readouterr().err
    assert {one["name"] for one in evidence()["teachers"]["members"]} == {"small-cnn", "colour"}
    write({"ensemble": [{**small, "sees": {"size": 24}}, colour]}, **parts)
    assert not call("run", "recipe.yaml", "--out", "other"), capsys.readouterr().err
    other = json.loads(Path("other/evidence.json").read_text())["provenance"]["teacher_fingerprint"]
    assert other != evidence()["provenance"]["teacher_fingerprint"]
    Path("rows.csv").write_text("\n".join(["text,label", *(f"{row} is it,{row % 2}" for row in range(60))]))
    data = {"source": {"name": "table", "path": "rows.csv"}, "tokenizer": "words", "max-length": 8, "validation": 10}
    write({"model": BERT, "training": {"steps": 3, "batch-size": 8}, "sees": {"size": 20}}, data, student=BERT)
    assert call("check", "recipe.yaml")
    assert "'size: 20' is for images" in " ".join(capsys.readouterr().err.split())


def test_experts_of_domains_teach_their_own_rows(tmp_path, capsys):
    """A column of the user's table says whose expert is asked."""
    lines = [
        f"{'good' if row % 2 else 'bad'} number {row},{'yes' if row % 2 else 'no'},{'law' if row % 3 else 'news'}"
        for row in range(90)
    ]
    Path("rows.csv").write_text("\n".join(["text,label,about", *lines]))
    data = {"source": {"name": "table", "path": "rows.csv", "domain": "about"}, "tokenizer": "words", "max-length": 8}
    data |= {"validation": 15, "test": 20}
    expert = {"model": {**BERT, "weights": "expert.safetensors"}}
    several = {"ensemble": {"members": [expert, expert], "weights": {"law": [1, 0], "news": [0.5, 0.5]}}}
    recipe = write(several, data, student=BERT, objective={"labels": 0.5, "soft-targets": 0.5})
    plain = {**recipe, "teacher": {"model": {**BERT}, "training": {"steps": 3}}}
    context = from_recipe(Recipe.model_validate(plain)).context("teacher")
    module = build(SmallTransformer(**{name: size for name, size in BERT.items() if name != "name"}), context, 3)
    safetensors.torch.save_file(module.state_dict(), "expert.safetensors")
    found = from_recipe(Recipe.model_validate(recipe))
    batch = found.splits.train.batch(found.splits.train.rows[:8], torch.zeros(8, dtype=torch.int64))
    assert found.splits.train.domains.names == ("law", "news")
    shown = found.teacher.observe(batch, frozenset({"logits"}))["logits"]
    module.eval()
    own = module(**batch.columns("teacher")).logits
    torch.testing.assert_close(shown.softmax(-1), own.softmax(-1), rtol=0, atol=1e-6)  # both are the same expert
    assert not call("check", "recipe.yaml"), capsys.readouterr().err
    untrained = {"ensemble": [{"model": BERT}, expert]}
    write(untrained, data, student=BERT)
    assert call("check", "recipe.yaml")
    assert "was never trained" in " ".join(capsys.readouterr().err.split())
    write({"ensemble": {"members": [expert], "weights": {"sport": [1]}}}, data, student=BERT)
    assert call("check", "recipe.yaml")
    assert "does not: it has law, news" in " ".join(capsys.readouterr().err.split())


@pytest.fixture
def _untrained_is_enough(monkeypatch):
    monkeypatch.setattr("limbeck.run.ready._check_teacher", lambda *_: None)


@pytest.mark.usefixtures("_untrained_is_enough")
def test_language_models_teach_together(made, tmp_path, monkeypatch, capsys):  # noqa: F811 - the fixture
    """Two members that are one model say what it says; the mean is stored as any language model's answers are."""
    told = recipe(made, store={"name": "top-k", "k": 8})
    told["training"]["steps"] = 4
    alone = limbeck.Recipe.model_validate(told)
    model = told["teacher"].pop("model")
    told["teacher"] |= {"ensemble": [{"model": model}, {"model": model, "precision": "bf16"}]}
    found, one = from_recipe(limbeck.Recipe.model_validate(told)), from_recipe(alone)
    batch = found.splits.train.batch(found.splits.train.rows[:3], torch.zeros(3, dtype=torch.int64))
    both = [parts.teacher.observe(batch, frozenset({"logits"}))["logits"] for parts in (found, one)]
    ours, theirs = (logits.at(torch.arange(20)).outcomes(0, 20) for logits in both)
    torch.testing.assert_close(ours.p, theirs.p, rtol=0.05, atol=1e-3)  # half of it in half precision
    assert not torch.equal(ours.p, theirs.p)
    code, out = run(told, tmp_path, monkeypatch)
    assert not code, capsys.readouterr().err
    assert json.loads((out / "evidence.json").read_text())["arms"]["teacher"]


@pytest.mark.usefixtures("_untrained_is_enough")
def test_a_student_of_adapters_stands_on_its_teachers_own_weights(made, tmp_path, monkeypatch, capsys):  # noqa: F811
    told = recipe(made, store=False)
    told |= {"student": {"name": "lora", "of": "teacher", "rank": 2}}
    told["training"]["steps"] = 4
    parts = from_recipe(limbeck.Recipe.model_validate(told))
    before = {name: value.clone() for name, value in parts.teacher.module.state_dict().items()}
    student = build(parts.student, parts.context("student"), 0)
    held = {id(value) for value in parts.teacher.module.parameters()}
    shared = [value for name, value in student.named_parameters() if "lora" not in name]
    assert shared
    assert all(id(value) in held and not value.requires_grad for value in shared)
    batch = parts.splits.train.batch(parts.splits.train.rows[:3], torch.zeros(3, dtype=torch.int64))
    with torch.no_grad():
        for name, value in student.named_parameters():
            if "lora_B" in name:
                value += 0.3
        apart, own = student(**batch.columns("student")).logits, parts.teacher.module(**batch.columns("student")).logits
        with student.disable_adapter():
            off = student(**batch.columns("student")).logits
    assert torch.equal(off, own)
    assert not torch.allclose(apart, own)
    code, out = run(told, tmp_path, monkeypatch)
    assert not code, capsys.readouterr().err
    assert all(torch.equal(value, before[name]) for name, value in parts.teacher.module.state_dict().items())
    delivered = limbeck.load(out).module.state_dict()
    assert any(not torch.equal(value, delivered[name]) for name, value in before.items())
    with pytest.raises(limbeck.LimbeckError, match="there is none"):
        build(parts.student, replace(parts.context("student"), donor=None), 0)

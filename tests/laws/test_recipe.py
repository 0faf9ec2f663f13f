"""Laws of recipes: what is written out reads back equal, and no spelling changes what is meant."""

import csv
import json
import random

import jsonschema
import numpy as np
import pytest
import yaml
from PIL import Image

from limbeck.errors import DataError
from limbeck.recipe.looking import look
from limbeck.recipe.reading import bundled, description, dump, parse, quick, read, schema
from limbeck.recipe.starting import advice, starting

BASE = """
limbeck: 1
name: base
data: {source: mnist-5k}
teacher: {model: small-resnet, training: {steps: 400}}
student: mlp
training: {steps: 1000, batch-size: 64}
"""
SETTINGS = [
    "student=small-cnn",
    "student={name: mlp, hidden: [64, 32], dropout: 0.1}",
    "objective.labels=0.25",
    "objective.labels.smoothing=0.1",
    "objective.soft-targets.temperature={schedule: cosine, start: 8, end: 1}",
    "objective.soft-targets.weight={schedule: steps, values: [[0, 1], [0.5, 0.3]]}",
    "objective.hints={student: stages.1, teacher: 'stages.2:in', normalise: true}",
    "objective.hints=[{student: a, teacher: b}, {student: c, teacher: d, weight: 3}]",
    "training.precision=no",
    "training.optimizer={name: sgd, nesterov: true}",
    "training.optimizer.learning-rate=1e-4",
    "training.epochs=2.5",
    "training.clip=null",
    "data.augment={shift: 2, noise: 1e-3}",
    "data.labelled=500",
    "teacher.training.evaluate-every=7",
    "evidence.metrics=[f1-macro]",
    "seeds=5",
    "name=no",
    "name='1e3'",
    "name='2024-01-01'",
    "trackers=[tensorboard]",
]


def same(text, other, *overrides):
    return (
        parse(text, overrides=overrides) == parse(other) and parse(text, overrides=overrides).hash == parse(other).hash
    )


@pytest.mark.parametrize("name", list(bundled()))
def test_bundled_recipes_read_dump_and_satisfy_the_schema(name):
    recipe = read(name)
    again = parse(dump(recipe))
    assert again == recipe
    assert again.hash == recipe.hash
    assert dump(again) == dump(recipe)
    assert description(bundled()[name])
    # what other YAML readers make of a dump is the same
    checker = jsonschema.Draft202012Validator(schema())
    checker.validate(yaml.safe_load(dump(recipe)))
    assert quick(recipe).seeds <= 2
    parse(dump(quick(recipe)))


def test_a_quick_run_is_quick_in_every_training():
    whole, less = read("tinybert"), quick(read("tinybert"))
    for part, short in zip(whole.regime.before, less.regime.before, strict=True):
        assert short.training.steps == part.training.steps // 10
    assert quick(read("theseus")).regime.replacing.steps == read("theseus").regime.replacing.steps // 10


def test_dumps_read_back_equal_whatever_is_set():
    draw = random.Random(0)
    checker = jsonschema.Draft202012Validator(schema())
    for _ in range(150):
        recipe = parse(BASE, overrides=draw.sample(SETTINGS, draw.randint(0, 6)))
        assert parse(dump(recipe)) == recipe
        assert parse(dump(recipe)).hash == recipe.hash
        checker.validate(yaml.safe_load(dump(recipe)))


def test_the_order_of_terms_is_kept():
    terms = "[{name: hints, student: a, teacher: b}, {name: labels}, {name: hints, student: c, teacher: d}]"
    recipe = parse(BASE, overrides=[f"objective={terms}"])
    assert [term.name for term in recipe.objective] == ["hints", "labels", "hints"]
    assert parse(dump(recipe)) == recipe


def test_spellings_mean_the_same():
    assert same(BASE, BASE.replace("batch-size", "batch_size"))
    assert same(BASE, BASE.replace("student: mlp", "student: {name: mlp}"))
    assert same(BASE, BASE + "seeds: 3\nobjective: {labels: 0.1, soft-targets: 0.9}\n")
    assert same(BASE, BASE + "objective: [{name: labels, weight: 0.1}, {name: soft-targets, weight: 0.9}]\n")
    assert same(BASE, BASE + "objective: {labels: {weight: {schedule: fixed, value: 1e-1}}, soft-targets: 0.9}\n")
    assert parse(BASE).hash == parse(BASE.replace("name: base", "name: other")).hash
    assert parse(BASE).hash != parse(BASE.replace("1000", "1001")).hash


def test_settings_write_short_forms_out():
    assert same(BASE, BASE.replace("student: mlp", "student: {name: mlp, hidden: 32}"), "student.hidden=32")
    terms = "objective: {labels: {weight: 0.1, smoothing: 0.2}, soft-targets: 0.9}\n"
    assert same(BASE, BASE + terms, "objective.labels.smoothing=0.2")
    assert same(BASE + "objective: {labels: 0.1}\n", BASE + "objective: {labels: {weight: 0.1, smoothing: 0.2}}\n",
                "objective.labels.smoothing=0.2")  # fmt: skip
    listed = "objective: [{name: labels, weight: 0.1}, soft-targets]\n"
    assert same(BASE + listed, BASE + "objective: {labels: 0.3, soft-targets: 1}\n", "objective.labels=0.3")
    assert same(BASE + listed, BASE + "objective: {labels: 0.3, soft-targets: 1}\n", "objective.0.weight=0.3")
    assert same(BASE, BASE + "evidence: {margin: 0.1}\n", "evidence.margin=0.1")
    slow = BASE.replace("batch-size: 64", "batch-size: 64, optimizer: {name: adamw, learning-rate: 1e-4}")
    assert same(BASE, slow, "training.optimizer.learning_rate=0.0001")
    grown = BASE + "evidence: {metrics: [a, b]}\n"
    assert same(BASE, grown, "evidence.metrics.0=a", "evidence.metrics.1=b")


def test_settings_win_and_the_last_wins():
    assert parse(BASE, overrides=["training.steps=7", "training.steps=8"]).training.steps == 8
    # one of two keys of which a recipe gives one takes the place of the other
    recipe = parse(BASE, overrides=["training.epochs=3"])
    assert (recipe.training.steps, recipe.training.epochs) == (None, 3.0)
    stored = parse(BASE, overrides=["teacher.stored=outputs", "teacher.training=null"])
    assert (stored.teacher.stored, stored.teacher.model) == ("outputs", None)


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("no", "no"),
        ("on", "on"),
        ("2024-01-01", "2024-01-01"),
        ("1_000", "1_000"),
        ("12:30", "12:30"),
        ("'1e3'", "1e3"),
    ],
)
def test_words_that_yaml_1_1_would_alter_stay_words(written, meant):
    text = BASE.replace("student: mlp", f"student: {{name: python, target: 'a:b', arguments: {{x: {written}}}}}")
    assert parse(text).student.arguments == {"x": meant}
    assert parse(dump(parse(text))) == parse(text)


@pytest.mark.parametrize(
    ("written", "meant"), [("1e-3", 1e-3), ("1E5", 1e5), ("0x1F", 31), ("0o17", 15), ("+.5", 0.5), ("~", None)]
)
def test_numbers_are_those_of_yaml_1_2(written, meant):
    text = BASE.replace("student: mlp", f"student: {{name: python, target: 'a:b', arguments: {{x: {written}}}}}")
    assert parse(text).student.arguments == {"x": meant}


def test_quick_takes_a_tenth():
    fast = quick(parse(BASE))
    assert (fast.training.steps, fast.teacher.training.steps, fast.seeds) == (100, 40, 2)
    assert quick(parse(BASE, overrides=["training.steps=90"])).training.steps == 20
    assert quick(parse(BASE, overrides=["training.steps=9"])).training.steps == 9
    assert quick(parse(BASE, overrides=["training.epochs=30"])).training.epochs == 3
    assert quick(parse(BASE, overrides=["seeds=1"])).seeds == 1
    assert fast.name == "base quick"


@pytest.fixture
def own(tmp_path):
    """Data as users have it."""
    for kind in ("cat", "dog", "hen"):
        (tmp_path / "pets" / kind).mkdir(parents=True)
        for place in range(4):
            Image.fromarray(np.zeros((120, 90, 3), np.uint8)).save(tmp_path / "pets" / kind / f"{place}.png")
    rows = [{"id": row, "what they wrote": f"a text; of some words {row}", "stars": row % 5} for row in range(60)]
    with (tmp_path / "reviews.csv").open("w") as stream:
        writer = csv.DictWriter(stream, list(rows[0]), delimiter=";")
        writer.writeheader()
        writer.writerows(rows)
    (tmp_path / "latin.tsv").write_bytes(b"text\tlabel\n" + b"caf\xe9 noir\ta\ncaf\xe9 cr\xe8me\tb\n" * 20)
    (tmp_path / "set").mkdir()
    lines = "".join(json.dumps({"q": f"hello {row}", "intent": "abc"[row % 3]}) + "\n" for row in range(40))
    (tmp_path / "set" / "train.jsonl").write_text(lines)
    (tmp_path / "set" / "test.jsonl").write_text(lines)
    (tmp_path / "numbers.csv").write_text("x,y\n1.5,2.5\n3.5,4.5\n")
    return tmp_path


def test_a_starting_recipe_knows_the_data(own):
    pets = parse(starting(own / "pets"))
    assert (pets.data.source.name, pets.data.source.size, pets.student.name, pets.name) == (
        "image-folder",
        64,
        "small-cnn",
        "pets",
    )
    assert pets.training.batch_size <= 7  # no more than are left to train on
    reviews = parse(starting(own / "reviews.csv")).data.source
    assert (reviews.text, reviews.label, reviews.delimiter) == ("what they wrote", "stars", ";")
    latin = parse(starting(own / "latin.tsv")).data.source
    assert (latin.text, latin.label, latin.encoding) == ("text", "label", "cp1252")
    for place in (own / "set", own / "set" / "train.jsonl"):
        jsonl = parse(starting(place))
        assert (jsonl.data.source.text, jsonl.data.source.label, jsonl.name) == ("q", "intent", "set")
        assert jsonl.data.source.test.endswith("test.jsonl")


@pytest.mark.parametrize("name", ["small-cnn", "mlp", "shrunk", "my.models:tiny", "google/vit-base-patch16-224"])
def test_a_starting_recipe_takes_any_model(own, name):
    for place in (None, own / "pets", own / "reviews.csv"):
        recipe = parse(starting(place, name, name))
        assert (recipe.student.name == name) or recipe.student.name in ("python", "huggingface")


def test_a_starting_recipe_counts_rows_and_what_is_left_to_train_on(own):
    texts = [(f'"line {row}\nand another, of {row}"', row % 2) for row in range(100)]
    (own / "quoted.csv").write_text("text,label\n" + "".join(f"{text},{label}\n" for text, label in texts))
    told = starting(own / "quoted.csv")
    assert "# quoted: 100 texts of 2 classes" in told
    assert "times through 70 training rows" in told
    images = starting(own / "pets")
    assert f"of classes, {look(own / 'pets').side} pixels on the longer side" in images.replace("all ", "")


def test_a_starting_recipe_for_texts_needs_neither_network_nor_package(own, monkeypatch):
    monkeypatch.setattr("limbeck.recipe.starting.find_spec", lambda name: None)
    told = starting(own / "reviews.csv")
    recipe = parse(told)
    assert (recipe.data.tokenizer, recipe.teacher.model.name, recipe.student.name) == (
        "words",
        "small-transformer",
        "small-transformer",
    )
    assert "limbeck[reviews]" in told
    assert "limbeck[reviews]" in advice(recipe)
    chosen = parse(starting(own / "reviews.csv", "small-transformer"))
    assert (chosen.data.tokenizer, advice(chosen)) == ("words", None)
    monkeypatch.undo()
    installed = parse(starting(own / "reviews.csv"))
    assert installed.teacher.model.path.startswith("package:")
    assert installed.data.tokenizer is None


@pytest.mark.parametrize("name", ["nosuch", "huggingface", "package:no_such_package/model", "./absent"])
def test_a_starting_recipe_refuses_what_is_no_model(own, name):
    with pytest.raises(DataError, match=r"no model|not installed|no folder"):
        starting(own / "reviews.csv", name)
    with pytest.raises(DataError, match="did you mean 'small-cnn'"):
        starting(own / "pets", None, "smal-cnn")


def test_a_starting_recipe_refuses_what_is_no_data(own):
    with pytest.raises(DataError, match=r"numbers\.csv has no two columns"):
        starting(own / "numbers.csv")
    with pytest.raises(DataError, match="There is no file or folder"):
        starting(own / "absent")
    (own / "empty").mkdir()
    with pytest.raises(DataError, match="one folder of images a class"):
        starting(own / "empty")

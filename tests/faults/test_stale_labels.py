"""Whatever a teacher's outputs depend on is changed, one thing at a time: nothing that was stored before is shown again."""

import csv
import json
import shutil

import pytest
import torch
from tests.fakes.openai_server import Fake, Tiny, V, running
from tests.fakes.served_writers import writing
from tests.faults.test_language_preflight import swapped
from tests.journeys.test_language_recipe import SIZES, made  # noqa: F401
from transformers import AutoConfig, AutoModelForCausalLM

from limbeck.data.batch import Batch
from limbeck.errors import LimbeckError
from limbeck.recipe import Recipe
from limbeck.run.labelling import Labelling
from limbeck.teachers.served.settings import Served
from limbeck.teachers.served.teacher import ServedTeacher
from limbeck.teachers.served.writer import Sampling
from limbeck.training.progress import Watcher

LOGITS = frozenset({"logits"})
TOP = {"name": "top-k", "k": 40}
CHAT = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% if m.role == 'user' %} SIGN {% endif %}{% endfor %}"


@pytest.fixture(autouse=True)
def _untrained_is_enough(monkeypatch):
    """The teacher knows nothing, and says something all the same."""
    monkeypatch.setattr("limbeck.run.ready._check_teacher", lambda *_: None)


@pytest.fixture
def place(made, tmp_path, monkeypatch):  # noqa: F811
    """A home, and a folder with a model, its tokenizer with a chat template, and questions with answers."""
    monkeypatch.setenv("LIMBECK_HOME", str(tmp_path / "home"))
    shutil.copytree(made / "model", tmp_path / "first" / "model")
    lines = (made / "texts.txt").read_text().split("\n\n")
    with (tmp_path / "first" / "rows.csv").open("w", newline="") as stream:
        csv.writer(stream).writerows([["asked", "told"], *zip(lines[::2], lines[1::2], strict=True)])
    settings(tmp_path / "first", chat_template=CHAT)
    path = tmp_path / "first" / "model" / "tokenizer.json"
    told = json.loads(path.read_text())
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    told["added_tokens"].append({"id": 7, "content": end_named(tmp_path / "first"), "special": True} | flags)
    path.write_text(json.dumps(told))  # so that another end of a text is said by the settings alone
    return tmp_path


def end_named(folder):
    names = json.loads((folder / "model" / "tokenizer.json").read_text())["model"]["vocab"]
    return next(name for name, number in names.items() if number == 7)


def settings(folder, **changes):
    path = folder / "model" / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    (folder / "model" / "chat_template.jinja").unlink(missing_ok=True)


def recipe(folder, **changes):
    model = str(folder / "model")
    data = {
        "source": {"name": "table", "path": str(folder / "rows.csv"), "text": "asked", "pair": "told"},
        "task": "next-token",
        "tokenizer": model,
        "max-length": 64,
        "validation": 10,
        "test": 10,
    }
    told = {
        "limbeck": 1,
        "name": "language",
        "data": data | changes.get("data", {}),
        "teacher": {"model": {"name": "huggingface", "path": model}, "store": TOP} | changes.get("teacher", {}),
        "student": {"name": "from-config", "model-type": "llama", "settings": {**SIZES, "num_hidden_layers": 1}},
        "objective": {"labels": 0.5, "divergence": {"weight": 0.5}},
        "training": {"steps": 2, "batch-size": 16},
        "seeds": 1,
    }
    return Recipe.model_validate(told)


def labelling(folder, **changes):
    return Labelling(recipe(folder, **changes), Watcher(quiet=True))


def weights(folder):
    torch.manual_seed(1)
    config = AutoConfig.from_pretrained(folder / "model")
    AutoModelForCausalLM.from_config(config).save_pretrained(folder / "model")


def config(folder):
    path = folder / "model" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"rms_norm_eps": 0.01}))


def tokenizer(folder):
    path = folder / "model" / "tokenizer.json"
    told = json.loads(path.read_text())
    swapped(told)
    path.write_text(json.dumps(told))


def end_of_text(folder):
    settings(folder, eos_token=end_named(folder))


def cell(column):
    def change(folder):
        with (folder / "rows.csv").open(newline="") as stream:
            rows = list(csv.reader(stream))
        rows[5][column] = rows[5][column][:-1] + "?"
        with (folder / "rows.csv").open("w", newline="") as stream:
            csv.writer(stream).writerows(rows)

    return change


def nothing(folder):
    pass


CHANGES = {
    "the teacher's weights": (weights, {}),
    "the teacher's settings": (config, {}),
    "the tokenizer": (tokenizer, {}),
    "the chat template": (lambda folder: settings(folder, chat_template=CHAT.replace("SIGN", "!")), {}),
    "no chat template": (lambda folder: settings(folder, chat_template=None), {}),
    "the end of a text": (end_of_text, {}),
    "one byte of an answer": (cell(1), {}),
    "one byte of a prompt": (cell(0), {}),
    "the longest text": (nothing, {"data": {"max-length": 56}}),
    "the precision": (nothing, {"teacher": {"precision": "bf16"}}),
    "top-k": (nothing, {"teacher": {"store": {"name": "top-k", "k": 4}}}),
    "another top-k": (nothing, {"teacher": {"store": {"name": "top-k", "k": 5}}}),
    "the draws": (nothing, {"teacher": {"store": {"name": "sampled", "draws": 9}}}),
    "the seed of the draws": (nothing, {"teacher": {"store": {"name": "sampled", "draws": 9, "seed": 1}}}),
}


@pytest.mark.proof("Q6")
def test_a_change_of_what_labels_depend_on_is_a_miss(place, tried):
    """Each changed folder is labelled too, so none may be taken for any of those before it either."""
    with labelling(place / "first") as base:
        assert base.do() == 0
        every = base.rows()
    moved = shutil.copytree(place / "first", place / "moved")
    with labelling(moved) as same:
        assert same.left() == 0, "else a miss would say nothing"
    for number, (name, (change, settings_)) in enumerate(CHANGES.items()):
        folder = shutil.copytree(place / "first", place / f"changed-{number}")
        change(folder)
        with labelling(folder, **settings_) as other:
            assert other.left() == other.rows() == every, name
            assert other.do() == 0
    tried(changes_of_what_labels_depend_on=len(CHANGES))


@pytest.mark.proof("Q6")
def test_a_replayed_store_of_other_data_is_named(place, tried):
    with labelling(place / "first") as base:
        base.do()
        store = base.info().folder
    for change in (tokenizer, cell(0), cell(1)):
        folder = shutil.copytree(place / "first", place / f"changed-{change.__name__}-{id(change)}")
        change(folder)
        with pytest.raises(LimbeckError):
            from_stored(folder, store)
    tried(changes_of_what_labels_depend_on=3)


def from_stored(folder, store):
    from limbeck.run.deeds import check

    told = recipe(folder).plain()
    told["teacher"] = {"stored": str(store)}
    check(Recipe.model_validate(told))


# --- served

TEXTS = Batch.of({"input_ids": torch.arange(24).reshape(4, 6) % V})
WRITTEN = Sampling(max_tokens=9, temperature=0.5, system="be brief")
ENDPOINTS = {
    "the revision": ({"revision": "b"}, {}),
    "the model's name": ({"model": "other"}, {"name": "other"}),
    "the weights behind the name": ({}, {"root": "/models/other"}),
    "what an adapter is of": ({}, {"parent": "/models/base"}),
}


class Behind(Fake):
    """``parent``: the model that this one is an adapter of."""

    def __init__(self, parent=None, **names):
        super().__init__(Tiny(), **names)
        self.models = lambda answer: {"data": [answer["data"][0] | {"parent": parent}]}


def served(server, **more):
    return Served(**{"url": server.url, "model": "tiny", "top": 5} | more)


@pytest.mark.proof("Q6")
@pytest.mark.parametrize("name", [*ENDPOINTS, "top-k", "a token of a text"])
def test_another_model_behind_the_address_is_asked_again(tmp_path, name, tried):
    more, names = ENDPOINTS.get(name, ({}, {}))
    texts = TEXTS
    if name == "top-k":
        more = {"top": 6}
    if name == "a token of a text":
        texts = Batch.of({"input_ids": TEXTS.inputs["input_ids"] + (torch.arange(6) == 4)})
    with running(Behind()) as server, ServedTeacher(served(server), V, tmp_path) as teacher:
        teacher.observe(TEXTS, LOGITS)
        teacher.observe(TEXTS, LOGITS)
        assert len(server.asked) == 4
    with running(Behind(**names)) as server, ServedTeacher(served(server, **more), V, tmp_path) as teacher:
        teacher.observe(texts, LOGITS)
        assert len(server.asked) == 4, name
    tried(changes_of_what_labels_depend_on=1)


SAMPLING = {
    "the temperature": {"temperature": 0.6},
    "the share of the likeliest": {"top_p": 0.9},
    "the seed": {"seed": 1},
    "what a chat begins with": {"system": "be long"},
    "nothing to begin with": {"system": None},
    "the length": {"max_tokens": 8},
    "how many": {"samples": 2},
    "no template": {"by": "completions", "system": None},
}


@pytest.mark.proof("Q6")
@pytest.mark.parametrize("name", [*ENDPOINTS, *SAMPLING, "the prompt"])
def test_texts_that_were_written_otherwise_are_asked_again(tmp_path, name, tried):
    more, names = ENDPOINTS.get(name, ({}, {}))
    sampling = WRITTEN.model_copy(update=SAMPLING.get(name, {}))
    with running(Behind()) as server, writing(served(server), WRITTEN, tmp_path) as writer:
        writer.write(["a b", "c"])
        writer.write(["a b", "c"])
        assert len(server.asked) == 2
    with running(Behind(**names)) as server, writing(served(server, **more), sampling, tmp_path) as writer:
        writer.write(["a b.", "c."] if name == "the prompt" else ["a b", "c"])
        assert len(server.asked) == 2, name
    tried(changes_of_what_labels_depend_on=1)

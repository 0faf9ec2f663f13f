"""What a preflight of language models warns of or refuses before anything is trained or paid for."""

import json
import shutil
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from tests.fakes import causal, two
from tests.journeys.test_language_recipe import made, recipe  # noqa: F401
from torch import nn
from transformers import AutoTokenizer

from limbeck.advice.memory import kept_bytes
from limbeck.data.examples import Examples
from limbeck.data.language import NextToken
from limbeck.data.text import TextTable
from limbeck.data.text_reader import TextReader
from limbeck.data.tokenizers import loaded
from limbeck.data.vocabularies import compared
from limbeck.errors import LimbeckError, PreflightError
from limbeck.recipe import Recipe
from limbeck.run.deeds import check
from limbeck.run.experiment import from_recipe
from limbeck.run.language import exact_bytes, expense, tokens
from limbeck.run.ready import _check_teacher
from limbeck.run.tokenizers import differences, endless, joined
from limbeck.teachers.served.ledger import Ledger
from limbeck.teachers.served.settings import Limit, Prices
from limbeck.teachers.served.teacher import ServedTeacher

CHAT = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"


def other(folder, name, change):
    """A tokenizer like the model's, in a folder of its own, whose file ``change`` alters."""
    place = folder / name
    AutoTokenizer.from_pretrained(folder / "model").save_pretrained(place)
    file = place / "tokenizer.json"
    told = json.loads(file.read_text())
    change(told)
    file.write_text(json.dumps(told))
    return place


def swapped(told):
    """Two letters have changed their ids: the same names, the same size."""
    vocab = told["model"]["vocab"]
    vocab["a"], vocab["b"] = vocab["b"], vocab["a"]


def padded(told):
    """Tokens that no text has."""
    first = len(told["model"]["vocab"])
    for number in range(first, first + 5):
        told["added_tokens"].append(
            {"id": number, "content": f"<unused{number}>", "special": True, "normalized": False}
            | dict.fromkeys(("single_word", "lstrip", "rstrip"), False)
        )


def tokenizers(folder, name, change):
    return [AutoTokenizer.from_pretrained(one) for one in (folder / "model", other(folder, name, change))]


def test_equal_sizes_and_names_prove_nothing(made):  # noqa: F811
    ours, theirs = tokenizers(made, "swapped", swapped)
    assert len(ours) == len(theirs)
    assert set(ours.get_vocab()) == set(theirs.get_vocab())
    found = compared(ours, theirs)
    assert not found.alike
    assert found.renamed == 2
    text, mine, other_ids = found.apart
    assert ours(text)["input_ids"] == mine != other_ids


def test_a_padded_vocabulary_is_the_same_one(made):  # noqa: F811
    ours, theirs = tokenizers(made, "padded", padded)
    found = compared(ours, theirs)
    assert found.alike
    assert (found.sizes, found.renamed) == ((300, 305), 0)
    assert not compared(ours, theirs, ["a <unused302> b"]).alike, "but not for a text that has one of them"


def test_files_may_differ_where_ids_do_not(made):  # noqa: F811
    def slower(told):
        told["decoder"]["trim_offsets"] = not told["decoder"]["trim_offsets"]

    place = other(made, "slower", slower)
    names = [str(made / "model"), str(place)]
    assert loaded(names[0]).content != loaded(names[1]).content
    readers = [TextReader(tokenizer=name, max_length=16, reads="sequences") for name in names]
    assert TextTable(["the cat", "a dog"], *readers).teacher is None, "they are one tokenizer to a language model"
    apart = readers[0].model_copy(update={"tokenizer": str(other(made, "swapped", swapped))})
    assert TextTable(["the cat", "a dog"], readers[0], apart).teacher is not None


def planned(folder, monkeypatch, tmp_path, change=None, **teacher):
    monkeypatch.setenv("LIMBECK_HOME", str(tmp_path / "home"))
    told = recipe(folder, **teacher)
    if change:
        change(told)
    experiment = from_recipe(Recipe.model_validate_json(json.dumps(told)))
    return experiment, experiment.plan(tmp_path, 0)


def test_a_teacher_no_better_than_the_student_is_named_with_both_numbers(made, tmp_path, monkeypatch):  # noqa: F811
    experiment, plan = planned(made, monkeypatch, tmp_path)
    with torch.no_grad():
        plan.teacher.module.lm_head.weight.mul_(40)  # sure of what it does not know
    told = tokens(experiment, plan, False)
    (finding,) = [value for name, value in told.found if name == "bits per byte"]
    theirs, ours = (float(word) for word in finding.split() if word[0].isdigit() and "." in word)
    assert theirs > ours
    (warning,) = told.warnings
    assert f"{theirs:.3f} bits and the untrained student {ours:.3f}" in warning
    assert not tokens(experiment, plan, True).warnings, "a teacher that is trained here knows nothing yet"
    same = replace(plan, teacher=replace_module(plan, plan.start.module()))
    assert not tokens(experiment, same, False).warnings, "a student that starts as the teacher"


def test_a_teacher_that_gives_no_numbers_is_named(made, tmp_path, monkeypatch):  # noqa: F811
    experiment, plan = planned(made, monkeypatch, tmp_path)
    with torch.no_grad():
        plan.teacher.module.lm_head.weight.fill_(float("nan"))
    with pytest.raises(PreflightError, match="The teacher gives NaN"):
        tokens(experiment, plan, False)
    with pytest.raises(LimbeckError, match="the teacher gives NaN"):
        _check_teacher(experiment, plan)


@pytest.mark.parametrize("who", ["teacher", "student"])
def test_texts_longer_than_a_rotary_model_was_made_for_are_refused(who, made, tmp_path, monkeypatch):  # noqa: F811
    place = tmp_path / "short"
    shutil.copytree(made / "model", place)
    told = json.loads((place / "config.json").read_text())
    (place / "config.json").write_text(json.dumps(told | {"max_position_embeddings": 4}))
    monkeypatch.setenv("LIMBECK_HOME", str(tmp_path / "home"))
    given = recipe(made)
    (given["teacher"] if who == "teacher" else given)["model" if who == "teacher" else "student"] = {
        "name": "huggingface",
        "path": str(place),
    }
    with pytest.raises(LimbeckError, match="made for 4 tokens, and a text has"):
        check(Recipe.model_validate_json(json.dumps(given)))


def test_a_prompt_that_runs_into_its_continuation_is_told(tmp_path):
    plain = two.byte_level(300)
    reader = TextReader(tokenizer=two.saved(tmp_path, plain), max_length=32, reads="sequences")
    for items, told in (
        ([("who sat", "a cat"), ("who ran", "a dog")], True),
        ([("who sat ", "a cat"), ("who ran?", "a dog"), ("who", "\nran")], False),
        ([("who sat", "a cat"), ("who ran? ", "a dog")], False),
        (["a cat sat"], False),
    ):
        table = TextTable(items, reader)
        ids, task = torch.arange(len(items)), NextToken()
        seen = torch.ones(len(items), dtype=torch.bool)
        found = joined(Examples(table, ids, table.placed(0 * ids, task), seen, (), task=task), plain)
        assert bool(found) is told, items


def replace_module(plan, module):
    return type(plan.teacher)(module, "another")


def test_templates_that_differ_are_told(made, tmp_path, monkeypatch):  # noqa: F811
    place = other(made, "chat", lambda told: None)
    chatty = AutoTokenizer.from_pretrained(place)
    chatty.chat_template = CHAT
    chatty.save_pretrained(place)
    experiment, plan = planned(made, monkeypatch, tmp_path)
    spec = SimpleNamespace(tokenizer=str(place))
    told = tokens(replace(experiment, teacher_spec=spec), replace(plan, teacher=None), False)
    (warning,) = told.warnings
    assert "student's tokenizer has no chat template" in warning


@pytest.mark.parametrize(
    ("after", "warned"),
    [("<end>", False), ("<end>\n", False), ("<stop>\n", True), ("", True)],
)
def test_a_template_that_ends_answers_otherwise_than_texts_end_is_told(tmp_path, after, warned):
    special = ("<end>", "<stop>", "<user>", "<assistant>")
    asks = two.byte_level(300, special=special, chat=CHAT.replace("{% endfor %}", after + "{% endfor %}"))
    reader = TextReader(tokenizer=two.saved(tmp_path, asks), max_length=32, reads="sequences")
    for items, told in (
        ([("who sat", "a cat"), ("who ran", "a dog")], warned),
        (["a cat sat", "a dog ran"], False),  # no chat: closed by the reader
        ([("who sat", "a cat sat on the mat " * 20)], False),  # cut before its end, which is no fault of the template
    ):
        table = TextTable(items, reader)
        ids, task = torch.arange(len(items)), NextToken()
        seen = torch.ones(len(items), dtype=torch.bool)
        found = endless(Examples(table, ids, table.placed(0 * ids, task), seen, (), task=task), asks)
        assert bool(found) is told, items
        if told:
            assert f"writes {after!r} after an answer, and a text ends with 0 '<end>'" in found[0]


def test_ends_that_differ_are_told(made):  # noqa: F811
    plain, ending = (AutoTokenizer.from_pretrained(made / "model") for _ in range(2))
    for one in (plain, ending):
        one.add_special_tokens({"additional_special_tokens": ["<stop>"]})
    ending.eos_token = "<stop>"
    found = compared(plain, ending)
    assert found.alike
    assert found.ends == (0, 300)
    (warning,) = differences(found)
    assert "a text ends with token 0, to the teacher's ends with 300" in warning


def test_what_a_store_would_take_is_told(made, tmp_path, monkeypatch):  # noqa: F811
    experiment, plan = planned(made, monkeypatch, tmp_path)
    train = experiment.splits.train
    count = int((train.labels[train.rows][..., 0] != -100).sum())
    assert exact_bytes(experiment, plan) == count * plan.teacher.module.config.vocab_size * 4
    found = check(Recipe.model_validate_json(json.dumps(recipe(made, store={"name": "top-k", "k": 5}))))
    lines = dict(found.lines())
    assert "(top-k); every logit would take" in lines["teacher's outputs"]
    assert lines["memory"].startswith("about ")
    assert lines["tokenizer"].startswith("the same ids for student and teacher on ")
    assert found.seconds > found.fixed > 0


class Unasked:
    """A client that may not be asked."""

    def __init__(self, served):
        self.ledger = Ledger(None, served.limit, served.prices)

    def described(self):
        return {"id": "tiny"}

    def post(self, *_):
        raise AssertionError("nothing may be sent")


def test_an_expense_is_counted_without_asking(made, tmp_path, monkeypatch):  # noqa: F811
    from limbeck.teachers.served.settings import Served

    experiment, _ = planned(made, monkeypatch, tmp_path)
    served = Served(
        url="http://127.0.0.1:1/v1", model="tiny", prices=Prices(input=2.0, output=4.0), limit=Limit(money=1)
    )
    teacher = ServedTeacher(served, 300, None, client=Unasked(served))
    (row,) = expense(replace(experiment, teacher=teacher)).found
    lengths = experiment.splits.train.table.texts.lengths("teacher")
    texts = {experiment.splits.train.table.raw(row): int(length) for row, length in enumerate(lengths.tolist())}
    sent = sum(texts.values())
    price = (2 * sent + 4 * len(texts)) / 1e6
    assert row[1].startswith(
        f"{len(texts):,} requests to come, {sent:,} tokens sent and {len(texts):,} written: {price:.4g} at"
    )
    free = ServedTeacher(
        served.model_copy(update={"prices": None, "limit": Limit()}), 300, None, client=Unasked(served)
    )
    (row,) = expense(replace(experiment, teacher=free)).found
    assert "what that costs is not known" in row[1]
    assert not expense(experiment).found, "a model here costs nothing"


def test_what_is_kept_for_the_backward_pass_is_counted_once():
    layer = nn.Sequential(nn.Linear(8, 16), nn.ReLU())
    inputs = torch.zeros(4, 8, requires_grad=True)
    with kept_bytes(layer) as kept:
        layer(inputs)
    assert kept.bytes == 4 * (4 * 8 + 4 * 16), "the input, and what comes out; not the weights"
    module = causal.made("llama")
    with kept_bytes(module) as whole:
        module(**causal.COLUMNS)
    with kept_bytes(module) as half:
        module(**{name: value[:5] for name, value in causal.COLUMNS.items()})
    assert 0.4 < half.bytes / whole.bytes < 0.6

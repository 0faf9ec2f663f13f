"""Tasks: models have the heads, and students answer in plain values."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from tests.fakes import asked
from tests.fakes.asked import SPEC, batch_of, context, model, supervised
from torch import nn
from transformers import AutoModel, BertConfig, BertForSequenceClassification

from limbeck.data.tasks import CLASSES, Classes, MultiLabel, Numbers, Spans, Tags
from limbeck.errors import DataError, LimbeckError
from limbeck.models.from_config import FromConfig
from limbeck.models.given import Given
from limbeck.models.saved import load_student, save_student
from limbeck.models.shrink import Shrunk
from limbeck.models.spec import BuildContext
from limbeck.models.specs import HuggingFace, Mlp, build
from limbeck.models.student import Student
from limbeck.objective import Labels, Objective
from limbeck.signals.call import logits_of
from limbeck.signals.capture import show


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    return asked.few_labelled(tmp_path_factory.mktemp("tasks"))


@pytest.fixture(params=asked.NAMES)
def splits(request, loaded):
    return loaded[request.param]


# --- models


def test_every_text_model_has_the_tasks_head(splits, tmp_path):
    donor, task = model(splits), splits.task
    donor.base_model.save_pretrained(tmp_path)
    shape = task.shape(4, context(splits).sample["input_ids"].shape[1], len(splits.classes))
    own = {"vocab_size": splits.reader.vocabulary, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    for spec in (
        SPEC,
        HuggingFace(path=str(tmp_path)),
        Shrunk(intermediate=8),
        FromConfig(model_type="electra", settings={**own, "intermediate_size": 16, "embedding_size": 16}),
    ):
        module = build(spec, context(splits, donor=donor), 0)
        assert type(module).__name__.endswith(task.auto.removeprefix("AutoModel")), spec
        assert show(module, context(splits).sample)["logits"].shape == shape
        assert module.config.problem_type == task.head().get("problem_type")
    assert AutoModel.from_pretrained(tmp_path).config.vocab_size == splits.reader.vocabulary


def test_a_classifier_is_built_as_before_there_were_tasks(loaded):
    splits = loaded["classes"]
    ours = build(SPEC, context(splits), 5)
    torch.manual_seed(5)
    config = BertConfig(
        vocab_size=splits.reader.vocabulary, hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=64, max_position_embeddings=32, pad_token_id=None, num_labels=len(splits.classes),
    )  # fmt: skip
    theirs = BertForSequenceClassification(config)
    assert type(ours) is type(theirs)
    assert all(value.equal(theirs.state_dict()[name]) for name, value in ours.state_dict().items())


def test_logits_of_another_shape_are_named(splits):
    other = CLASSES if splits.task in (Tags(), Spans()) else Tags()
    with pytest.raises(LimbeckError, match=r"gives . logits an example .*needs \[2"):
        build(Given(model(splits)), replace(context(splits), task=other), 0)


def test_tokens_are_asked_of_texts_only():
    images = BuildContext(3, {"pixel_values": torch.zeros(2, 3, 8, 8)}, task=Tags())
    with pytest.raises(LimbeckError, match="'tags' is asked of texts, but the data holds images"):
        build(FromConfig(model_type="vit"), images, 0)
    labels = BuildContext(3, {"pixel_values": torch.rand(2, 3, 8, 8)}, task=MultiLabel())
    assert show(build(Mlp(), labels, 0), labels.sample)["logits"].shape == (2, 3)


def test_start_and_end_are_one_signal():
    start, end = torch.randn(2, 5), torch.randn(2, 5)
    for output in (
        {"start_logits": start, "end_logits": end},
        type("Out", (), {"start_logits": start, "end_logits": end})(),
    ):
        assert logits_of(output).equal(torch.stack([start, end], -1))
    both = {"start_logits": start, "end_logits": end, "logits": torch.zeros(2, 3)}
    assert logits_of(both).shape == (2, 3)


# --- students


def loud_student(splits):
    """A student that was trained a little, so that its answers differ."""
    module = model(splits)
    optimiser, rows = torch.optim.AdamW(module.parameters(), 2e-2), supervised(splits)
    objective = Objective([Labels()], splits.task)
    for _ in range(60):
        batch = batch_of(splits.train, rows)
        loss, _ = objective({"logits": logits_of(module(**batch.columns("student")))}, None, batch)
        loss.backward()
        optimiser.step()
        optimiser.zero_grad()
    return Student(module.eval(), splits.reader, splits.classes, {}, splits.task)


def test_a_delivered_student_answers_in_plain_values(splits, tmp_path):
    student, task = loud_student(splits), splits.task
    rows = supervised(splits)[:7].tolist()
    items = [splits.test.table.raw(row) for row in rows]
    save_student(tmp_path / "s", student.module, SPEC, student.reader, student.classes, {}, task)
    again = load_student(tmp_path / "s")
    assert again.task == task
    said = again.predict(items)
    assert said == student.predict(items) == again.predict([json.loads(json.dumps(item)) for item in items])
    assert again.logits(items).equal(student.logits(items))
    assert [again.predict([item])[0] for item in items] == said if task.gives != "numbers" else True
    logits, names = student.logits(items), splits.classes
    assert logits.shape[0] == 7
    if task == Classes():
        assert said == [names[one] for one in logits.argmax(-1)]
    elif task == MultiLabel():
        assert said == [[name for name, one in zip(names, row, strict=True) if one > 0] for row in logits]
        torch.testing.assert_close(torch.from_numpy(student.probabilities(items)), logits.sigmoid())
    elif task.heads:
        cut = {one.name: logits[:, one.start : one.stop].argmax(1) for one in task.heads.values()}
        assert said == [{name: task.heads[name].classes[cut[name][row]] for name in cut} for row in range(7)]
        assert np.allclose(student.probabilities(items).sum(-1), 2)
    elif task == Numbers():
        assert said == [pytest.approx(float(one)) for one in logits[:, 0]]
    elif task == Tags():
        assert [[word for word, _ in one] for one in said] == [list(item) for item in items]
        assert {tag for one in said for _, tag in one} <= set(names)
        assert np.allclose(student.probabilities(items).sum(-1), 1)
    else:
        assert all(one == "" or one in text for one, (_, text) in zip(said, items, strict=True))
    assert again.predict([]) == []
    right = sum(int(one == true) for one, true in zip(said, truth(splits, rows), strict=True))
    assert task.gives == "numbers" or right >= 2, "it saw them with their labels"


def truth(splits, rows):
    """The answers of the test rows, from labels."""
    places = getattr(splits.reader, "places", None)
    items = [splits.test.table.raw(row) for row in rows]
    spots = places(items) if splits.task.reads != "texts" else None
    return splits.task.said(splits.test.labels[torch.tensor(rows)], items, spots, splits.classes)


def test_labels_said_are_those_of_the_file(splits):
    rows = splits.test.rows[:10].tolist()
    file = {
        json.dumps([row.get("text"), row.get("words"), row.get("question")]): row
        for row in asked.rows_of(splits.task.name, 90)
    }
    for row, said in zip(rows, truth(splits, rows), strict=True):
        item = splits.test.table.raw(row)
        key = {"texts": [item, None, None], "words": [None, list(item), None], "questions": [item[1], None, item[0]]}
        told = file[json.dumps(key[splits.task.reads])]
        expected = told.get("label", told.get("answer", None))
        if splits.task.heads:
            expected = {name: told[name] for name in splits.task.heads if told[name]}
        assert said == (list(zip(told["words"], told["tags"], strict=True)) if expected is None else expected)


def test_what_has_no_probabilities_says_so(loaded):
    for name in ("numbers", "spans"):
        student = Student(model(loaded[name]), loaded[name].reader, loaded[name].classes, {}, loaded[name].task)
        with pytest.raises(LimbeckError, match=r"use .*logits\(\)"):
            student.probabilities([loaded[name].test.table.raw(0)])


def test_a_folder_from_before_there_were_tasks_is_of_classes(loaded, tmp_path):
    from limbeck.models.saved import read_about, write_about

    splits = loaded["classes"]
    save_student(tmp_path / "s", model(splits), SPEC, splits.reader, splits.classes)
    about = read_about(tmp_path / "s" / "student.json")
    about.pop("task")
    about.pop("files")
    about["reader"]["value"].pop("reads")
    (tmp_path / "s" / "student.json").unlink()
    write_about(tmp_path / "s" / "student.json", about)
    student = load_student(tmp_path / "s")
    assert student.task == CLASSES
    assert set(student.predict(["anna eats tea in rome"])) <= set(splits.classes)


def test_tokens_without_words_are_logits_only():
    class Net(nn.Module):
        def forward(self, x):
            return torch.zeros(len(x), 4, 3)

    class Reader:
        fingerprint = "x"

        def encode(self, raw):
            return {"x": torch.stack(list(raw))}

    student = Student(Net(), Reader(), ("a", "b", "c"), {}, Tags())
    assert student.logits([torch.zeros(2)]).shape == (1, 4, 3)
    with pytest.raises(LimbeckError, match=r"trained on tokens.*use logits\(\)"):
        student.predict([torch.zeros(2)])


def test_spans_of_tokens_need_the_bounds_of_the_text():
    with pytest.raises(DataError, match="a span is four numbers"):
        Spans().column(torch.zeros(2, 2, dtype=torch.int64), torch.ones(2, dtype=torch.bool), 8)
    with pytest.raises(DataError, match="two numbers, its first character"):
        Spans().placed(torch.zeros(2, 4, dtype=torch.int64), torch.zeros(2, 8, 2, dtype=torch.int64))

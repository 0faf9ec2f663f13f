"""Tasks: answers are what losses see, hidden labels are nowhere, models have the heads, students answer in plain values."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from tests.fakes import asked
from torch import nn
from torch.nn import functional as F
from transformers import AutoModel, BertConfig, BertForSequenceClassification

from limbeck.data.batch import CLASS, NO_LABEL, SUPERVISED, Batch
from limbeck.data.sources import Data
from limbeck.data.task import ASKED, answered
from limbeck.data.tasks import CLASSES, TASKS, Classes, MultiLabel, MultiTask, Numbers, Spans, Tags
from limbeck.errors import DataError, LimbeckError
from limbeck.models.from_config import FromConfig
from limbeck.models.given import Given
from limbeck.models.saved import load_student, save_student
from limbeck.models.shrink import Shrunk
from limbeck.models.spec import BuildContext
from limbeck.models.specs import HuggingFace, Mlp, SmallTransformer, build
from limbeck.models.student import Student
from limbeck.objective import Labels, Objective, SoftTargets
from limbeck.regimes.plan import hard_labels
from limbeck.signals.call import logits_of
from limbeck.signals.capture import show
from limbeck.teachers.cached import CachedTeacher
from limbeck.teachers.labelling import label
from limbeck.teachers.local import LocalTeacher

SPEC = SmallTransformer(hidden=16, layers=1, positions=32)
LOGITS = frozenset({"logits"})
EXACT = {"rtol": 1e-5, "atol": 1e-6}  # float32 sums over a few dozen answers, in two orders


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    """The data of each task, of which a third of the training rows keep their label."""
    folder = tmp_path_factory.mktemp("tasks")
    return {
        name: Data.model_validate({**asked.written(folder, name, 90), "labelled": 20}).load() for name in asked.NAMES
    }


@pytest.fixture(params=asked.NAMES)
def splits(request, loaded):
    return loaded[request.param]


def context(splits, **more):
    rows = splits.train.rows[:4]
    sample = splits.train.batch(rows, torch.zeros_like(rows)).columns("student")
    names = splits.classes
    return BuildContext(len(names), sample, names, vocabulary=splits.reader.vocabulary, task=splits.task, **more)


def model(splits, seed=0):
    return build(SPEC, context(splits), seed).eval()


def batch_of(examples, rows):
    rows = torch.as_tensor(rows)
    return examples.batch(rows, torch.zeros_like(rows))


def supervised(splits):
    return splits.train.rows[splits.train.supervised[splits.train.rows]]


def soft(task):
    return SoftTargets(loss="logit-mse") if task.gives == "numbers" else SoftTargets(temperature=2.0)


def loss_of(task, term, student, teacher, batch, counts=None):
    return Objective([term], task)(
        {"logits": student}, teacher if teacher is None else {"logits": teacher}, batch, counts
    )[0]


# --- what losses see


def test_a_recipe_may_name_every_task():
    own = {"vectors", "next-token", "text-to-text"}  # which have files of their own
    assert {kind().name for kind in TASKS} == {*asked.NAMES, *own}
    assert [Data(source="mnist-5k", task=name).task for name in asked.NAMES] == [
        Classes(),
        MultiLabel(),
        MultiTask(),
        Numbers(),
        Tags(),
        Spans(),
    ]
    assert Data(source="mnist-5k").task == CLASSES


def test_cross_entropy_of_labels_is_the_binary_one():
    logits = torch.randn(7, 5, generator=torch.Generator().manual_seed(0))
    labels = torch.randint(0, 2, (7, 5), generator=torch.Generator().manual_seed(1))
    columns = MultiLabel().column(labels, torch.ones(7, dtype=torch.bool), 0)
    batch = Batch.of(torch.zeros(7, 1), columns[CLASS])
    ours = loss_of(MultiLabel(), Labels(), logits, None, batch)
    torch.testing.assert_close(ours, F.binary_cross_entropy_with_logits(logits, labels.float()), **EXACT)


def test_soft_targets_of_labels_are_the_binary_divergence():
    draw = torch.Generator().manual_seed(0)
    student, teacher = torch.randn(6, 4, generator=draw).double(), torch.randn(6, 4, generator=draw).double()
    batch = Batch.of(torch.zeros(6, 1), torch.full((6, 4), ASKED))
    p, q = (teacher / 2).sigmoid(), (student / 2).sigmoid()  # temperature 2: T squared is 4
    expected = 4 * (p * (p / q).log() + (1 - p) * ((1 - p) / (1 - q)).log()).mean()
    ours = loss_of(MultiLabel(), SoftTargets(temperature=2.0), student, teacher, batch)
    torch.testing.assert_close(ours, expected, **EXACT)


@pytest.mark.parametrize("count", [1, 3])
def test_identical_answers_equal_one(count):
    """So many equal words (or labels) an example cost what one does."""
    draw = torch.Generator().manual_seed(count)
    one, other = torch.randn(5, 4, generator=draw), torch.randn(5, 4, generator=draw)
    labels = torch.randint(0, 4, (5,), generator=draw)
    plain = Batch.of(torch.zeros(5, 1), labels)
    words = Batch.of(torch.zeros(5, 1), labels[:, None].expand(-1, count))
    for term in (Labels(), SoftTargets(temperature=3.0)):
        alone = loss_of(CLASSES, term, one, other, plain)
        several = loss_of(Tags(), term, *(each[:, None].expand(-1, count, -1) for each in (one, other)), words)
        torch.testing.assert_close(alone, several, **EXACT)
    found = answered(Tags(), one[:, None].expand(-1, count, -1), words)
    alone = answered(CLASSES, one, plain)
    assert Tags().scores(found).equal(Classes().scores(alone))


def spans_batch(labels):
    labels = torch.as_tensor(labels)
    columns = Spans().column(labels, torch.ones(len(labels), dtype=torch.bool), 0)
    batch = Batch.of(torch.zeros(len(labels), 1), columns[CLASS])
    return replace(batch, labels=columns)


def test_tokens_outside_the_text_are_never_chosen_and_learn_nothing():
    batch = spans_batch([[3, 4, 3, 6], [0, 0, 2, 5], [5, 5, 5, 6]])
    logits = torch.full((3, 8, 2), 50.0).requires_grad_()  # the text's own tokens are far less likely
    with torch.no_grad():
        for row, (begin, end) in enumerate([(3, 6), (2, 5), (5, 6)]):
            logits[row, begin:end] = torch.randn(end - begin, 2, generator=torch.Generator().manual_seed(row))
        logits[:, 0] = -3.0
    inside = torch.zeros(3, 8, dtype=torch.bool)
    inside[0, 3:6] = inside[1, 2:5] = inside[2, 5:6] = inside[:, 0] = True
    assert Spans().answers(logits, batch).softmax(-1).transpose(1, 2)[~inside].eq(0).all()
    hard = Spans().hard(
        logits.detach(), torch.tensor([[ASKED, ASKED, 3, 6], [ASKED, ASKED, 2, 5], [ASKED, ASKED, 5, 6]])
    )
    assert inside.gather(1, hard[:, :2]).all()
    loss_of(Spans(), Labels(), logits, None, batch).backward()
    assert logits.grad[~inside].eq(0).all()
    assert logits.grad[inside].ne(0).any()
    # the softmax is over the text's tokens and the first one: the sum of two cross-entropies, over 6 answers
    expected = sum(
        F.cross_entropy(logits[row][inside[row]][:, side], inside[row][:place].sum())
        for row, ends in enumerate(batch.labels[CLASS].tolist())
        for side, place in enumerate(ends)
    )
    torch.testing.assert_close(loss_of(Spans(), Labels(), logits, None, batch), expected / 6, **EXACT)


@pytest.mark.parametrize("task", [Tags(), Spans()])
def test_longer_padding_changes_nothing(task):
    draw = torch.Generator().manual_seed(0)
    logits = torch.randn(4, 6, 2, generator=draw)
    other = torch.randn(4, 6, 2, generator=draw)
    labels = torch.randint(0, 2, (4, 6), generator=draw)
    labels[:, 4:] = NO_LABEL
    batch = Batch.of(torch.zeros(4, 1), labels)
    longer = Batch.of(torch.zeros(4, 1), F.pad(labels, (0, 3), value=NO_LABEL))
    if task == Spans():
        batch = longer = spans_batch([[1, 2, 1, 4]] * 4)
    wide = [torch.cat([each, 9 * torch.randn(4, 3, 2, generator=draw)], 1) for each in (logits, other)]
    for term in (Labels(), SoftTargets()):
        short = loss_of(task, term, logits, other, batch)
        torch.testing.assert_close(loss_of(task, term, *wide, longer), short, **EXACT)


def test_equal_models_have_no_soft_loss(splits):
    batch = batch_of(splits.train, splits.train.rows[:16])
    logits = show(model(splits), batch.columns("student"))["logits"]
    assert abs(float(loss_of(splits.task, soft(splits.task), logits, logits, batch))) < 1e-6
    other = show(model(splits, 1), batch.columns("student"))["logits"]
    assert float(loss_of(splits.task, soft(splits.task), logits, other, batch)) > 1e-6


def test_numbers_are_compared_as_they_are():
    """A single number has no constant to be taken out, as the centred distance of logits would."""
    draw = torch.Generator().manual_seed(0)
    for width in (1, 3):
        one, other = torch.randn(6, width, generator=draw), torch.randn(6, width, generator=draw)
        numbers = Numbers().column(torch.full((6, width), float("nan")), torch.zeros(6, dtype=torch.bool), 0)
        batch = replace(Batch.of(torch.zeros(6, 1)), labels=numbers)
        torch.testing.assert_close(
            loss_of(Numbers(), soft(Numbers()), one, other, batch), F.mse_loss(one, other), **EXACT
        )


def test_micro_batches_and_orders_of_a_batch_give_the_same_loss(splits):
    """Texts of several lengths: denominators are answers of the whole step, and padding differs."""
    rows = splits.train.rows[torch.randperm(len(splits.train), generator=torch.Generator().manual_seed(0))[:24]]
    module, teacher = model(splits), model(splits, 1)
    objective = Objective([Labels(weight=0.5), soft(splits.task)], splits.task)

    def loss(parts):
        batches = [batch_of(splits.train, part) for part in parts]
        counts = objective.total_counts(batches)
        shown = [[show(one, batch.columns("student")) for one in (module, teacher)] for batch in batches]
        return sum(objective(*both, batch, counts)[0] for both, batch in zip(shown, batches, strict=True))

    whole = loss([rows])
    torch.testing.assert_close(loss(rows.split(7)), whole, **EXACT)
    torch.testing.assert_close(loss([rows.flip(0)]), whole, **EXACT)


def test_batches_without_any_label_teach_nothing_and_break_nothing(splits):
    train = splits.train
    rows = train.rows[~train.supervised[train.rows]][:8]
    batch, module = batch_of(train, rows), model(splits).train()
    objective = Objective([Labels(), soft(splits.task)], splits.task)
    teacher = show(model(splits, 1), batch.columns("student"))
    logits = logits_of(module(**batch.columns("student")))
    loss, parts = objective({"logits": logits}, teacher, batch)
    loss.backward()
    assert "labels" not in parts
    assert all(value.grad is None or value.grad.isfinite().all() for value in module.parameters())
    alone, _ = Objective([Labels()], splits.task)({"logits": logits.detach()}, None, batch)
    assert float(alone) == 0


def test_hidden_labels_are_nowhere_in_a_batch(splits):
    train = splits.train
    other = train.labels.clone()
    hidden = ~train.supervised
    known = (
        other[hidden]
        if splits.task.gives == "numbers"
        else torch.where(other[hidden] < 0, other[hidden], 1 - other[hidden].clamp(0, 1))
    )
    other[hidden] = known + 1 if splits.task.gives == "numbers" else known
    if splits.task == Spans():
        other[:, 2:] = train.labels[:, 2:]
    assert not other.equal(train.labels)
    rows = train.rows[~train.supervised[train.rows]][:12]
    one, two = batch_of(train, rows), batch_of(replace(train, labels=other), rows)
    assert all(value.equal(two.labels[name]) for name, value in one.labels.items())
    assert not one.masks[SUPERVISED].any()


# --- pseudo-labels and stored outputs


def test_hard_answers_are_labels(splits):
    """A model that says the labels loudly is understood to say them."""
    train, task = splits.train, splits.task
    rows = supervised(splits)
    labels, batch = train.labels[rows], batch_of(train, rows)
    length = batch.inputs["input_ids"].shape[1]
    loud = {
        "classes": lambda: 9 * F.one_hot(labels, len(splits.classes)).float(),
        "multi-label": lambda: 9.0 * (2 * labels - 1),
        "multi-task": lambda: (
            9 * (labels[..., None] == torch.arange(len(splits.classes))).sum(1).float()  # of missing ones none
        ),
        "numbers": lambda: labels,
        "tags": lambda: 9 * F.one_hot(labels[:, :length].clamp_min(0), len(splits.classes)).float(),
        "spans": lambda: 9 * F.one_hot(labels[:, :2], length).float().transpose(1, 2),
    }[task.name]()
    said = task.hard(loud, labels)
    assert said.where(labels >= 0, labels).equal(labels) if task.heads else said.equal(labels)
    assert task.scores(answered(task, loud, batch, train.spread)).eq(1).all()


def test_pseudo_labels_are_the_teachers_answers_where_there_is_none(splits):
    train, module = splits.train, model(splits, 3)
    labels = hard_labels(train, LocalTeacher(module, "t"), "cpu")
    assert labels.shape == train.labels.shape
    rows = supervised(splits)
    told = labels[rows]
    if splits.task.heads:  # where a row lacks the label of one task, the teacher's stands there
        told = told.where(train.labels[rows] >= 0, train.labels[rows])
    assert told.equal(train.labels[rows])
    relabelled = train.relabelled(labels)
    rows = train.rows[~train.supervised[train.rows]]
    batch = batch_of(relabelled, rows)
    logits = show(module, batch.columns("student"))["logits"]
    scores = splits.task.scores(answered(splits.task, logits, batch, train.spread))
    empty = splits.task == Spans() and scores.eq(0)  # a last token before the first is empty on both sides
    assert (scores.sub(1).abs().lt(1e-6) | empty).all(), "the teacher agrees with itself"
    assert float(loss_of(splits.task, Labels(), logits, None, batch)) >= 0
    assert relabelled.fingerprint != train.fingerprint


def test_stored_answers_are_the_live_ones(splits, tmp_path):
    train, live = splits.train, LocalTeacher(model(splits, 2), "t")
    cached = CachedTeacher(live, tmp_path, train.inputs_fingerprint)
    label(cached, train, (0,), 16, LOGITS)
    batch = batch_of(train, train.rows[:16])  # a batch that the rows were written in
    assert cached.observe(batch, LOGITS)["logits"].equal(live.observe(batch, LOGITS)["logits"])
    shuffled = batch_of(train, train.rows[torch.tensor([30, 2, 17, 5])])
    torch.testing.assert_close(
        cached.observe(shuffled, LOGITS)["logits"], live.observe(shuffled, LOGITS)["logits"], **EXACT
    )


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

"""Tasks: answers are what losses see, hidden labels are nowhere, and teachers' answers are labels."""

from dataclasses import replace

import pytest
import torch
from tests.fakes import asked
from tests.fakes.asked import EXACT, LOGITS, batch_of, loss_of, model, soft, supervised
from torch.nn import functional as F

from limbeck.data.batch import CLASS, NO_LABEL, SUPERVISED, Batch
from limbeck.data.sources import Data
from limbeck.data.task import ASKED, answered
from limbeck.data.tasks import CLASSES, TASKS, Classes, MultiLabel, MultiTask, Numbers, Spans, Tags
from limbeck.objective import Labels, Objective, SoftTargets
from limbeck.regimes.plan import hard_labels
from limbeck.signals.call import logits_of
from limbeck.signals.capture import show
from limbeck.teachers.cached import CachedTeacher
from limbeck.teachers.labelling import label
from limbeck.teachers.local import LocalTeacher


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    return asked.few_labelled(tmp_path_factory.mktemp("tasks"))


@pytest.fixture(params=asked.NAMES)
def splits(request, loaded):
    return loaded[request.param]


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

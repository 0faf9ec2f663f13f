"""Cross-fitting: of a labelled row answers the one teacher that was not trained on it, of any other row all alike."""

from dataclasses import replace

import pytest
import torch
from tests.fakes.rows import examples

from limbeck.data.batch import Batch
from limbeck.errors import LimbeckError
from limbeck.recipe.reading import parse
from limbeck.regimes.walk import walk
from limbeck.run import check
from limbeck.run.experiment import from_recipe
from limbeck.teachers.folds import ByFold
from limbeck.training.workshop import Workshop

RECIPE = """
limbeck: 1
name: folds
data: {source: mnist-5k, limit: 400, labelled: 90, validation: 60, test: 60}
teacher:
  model: {name: mlp, hidden: [64]}
  training: {steps: %d, batch-size: 32, optimizer: {name: adamw, learning-rate: 3e-3}, evaluate-every: 100}
  folds: 3
student: {name: mlp, hidden: [8]}
objective: {labels: 0.1, soft-targets: 0.9}
training: {steps: 5, batch-size: 32}
"""


def experiment(steps=5):
    return from_recipe(parse(RECIPE % steps))


def ids(*rows):
    rows = torch.tensor(rows)
    return Batch({}, {}, {}, rows, torch.zeros_like(rows))


def test_every_labelled_row_is_unseen_by_one_teacher_and_learnt_by_the_others():
    one = experiment()
    known = one.splits.train.labelled().rows
    stages = one.teacher_stages()
    assert [stage.name for stage in stages] == ["teacher fold-1", "teacher fold-2", "teacher fold-3"]
    assert len({stage.seed for stage in stages}) == 3
    learnt = torch.stack([torch.isin(known, stage.examples.rows) for stage in stages])
    assert (learnt.sum(0) == 2).all()
    assert [len(stage.examples) for stage in stages] == [60, 60, 60], "folds are as even as they can be"
    assert all(torch.isin(stage.examples.rows, known).all() for stage in stages)
    weights = ByFold(one.splits.train, 3).of(one.splits.train.batch(known, torch.zeros_like(known)))
    assert weights.equal((~learnt).T.float())


def test_all_alike_answer_what_nobody_has_seen():
    one = experiment().splits
    folds = ByFold(one.train, 3)
    hidden = one.train.rows[~one.train.supervised[one.train.rows]]
    for rows in (hidden, one.validation.rows, one.test.rows, torch.tensor([-1, len(one.train.labels)])):
        assert folds.of(ids(*rows.tolist())).equal(torch.full((len(rows), 3), 1 / 3))


def test_a_fold_hangs_on_the_labelled_rows_alone_and_is_named():
    one = experiment().splits.train
    assert ByFold(one, 3).fingerprint == ByFold(one, 3).fingerprint
    assert ByFold(one, 3).fingerprint != ByFold(one, 4).fingerprint
    other = replace(one, supervised=one.supervised.roll(1))
    assert ByFold(one, 3).fingerprint != ByFold(other, 3).fingerprint
    twice = replace(one, rows=torch.cat([one.rows, one.labelled().rows]))
    assert ByFold(twice, 3).fingerprint == ByFold(one, 3).fingerprint, "a row that is read twice is of one fold"


def test_labels_that_are_noise_are_learnt_by_heart_by_each_and_known_by_none_together(tmp_path):
    one = experiment(steps=100)
    labels = one.splits.train.labels.clone()
    rows = one.splits.train.labelled().rows
    labels[rows] = labels[rows][torch.randperm(len(rows), generator=torch.Generator().manual_seed(1))]
    one = replace(one, splits=replace(one.splits, train=replace(one.splits.train, labels=labels)))
    plan = walk(one.plan(tmp_path, 0).taught(), Workshop(tmp_path), tmp_path / "journal.json")
    batch = one.splits.train.batch(rows, torch.zeros_like(rows))
    every = frozenset({"logits", *(f"fold-{number}.logits" for number in (1, 2, 3))})
    right = {name: float((said.argmax(-1) == labels[rows]).float().mean()) for name, said in
             plan.teacher.observe(batch, every).items()}  # fmt: skip
    assert all(right[f"fold-{number}.logits"] > 0.6 for number in (1, 2, 3)), "two rows of three were learnt by heart"
    assert right["logits"] < 0.25, "chance is 0.1; three standard deviations of 90 rows are 0.1"


def test_too_few_rows_and_mixed_rows_are_refused():
    data = examples(40)
    with pytest.raises(LimbeckError, match="labelled rows cannot be shared out into 41 folds"):
        ByFold(data, 41)
    with pytest.raises(LimbeckError, match=r"leave out data\.mixup or teacher\.folds"):
        ByFold(replace(data, mixup=0.2), 2)


@pytest.mark.parametrize(
    ("teacher", "message"),
    [
        ("{model: mlp, folds: 3}", "folds are of the rows that a teacher is trained on"),
        ("{model: mlp, training: {steps: 5}, folds: 1}", "teacher.folds: found 1"),
        ("{stored: somewhere, folds: 2}", "folds are of the rows that a teacher is trained on"),
    ],
)
def test_folds_without_a_training_are_refused(teacher, message):
    before, after = RECIPE[: RECIPE.index("teacher:")], RECIPE[RECIPE.index("student:") :]
    with pytest.raises(LimbeckError, match=message):
        parse(f"{before}teacher: {teacher}\n{after}")


def test_a_check_tries_every_training():
    shown = dict(check(parse(RECIPE % 5)).found)
    assert shown["student"].count("(5 steps)") == 3
    assert "fold-3" in shown["student"]

"""Rows with a label as a chosen share of what a taught student reads: who reads so, what is stored for it, what is said."""

import re

import pytest
import torch
from pydantic import ValidationError
from tests.fakes.experiments import LABELS, SOFT, Clouds, Knows, Net, examples, plan
from tests.laws.test_equal_compute import experiment

import limbeck
from limbeck.data.sources import Data
from limbeck.errors import LimbeckError, PreflightError
from limbeck.objective import Decoupled
from limbeck.regimes.offline import Offline
from limbeck.regimes.walk import walk
from limbeck.run.preflight import preflight
from limbeck.training.order import Order
from limbeck.training.workshop import Workshop

DECOUPLED = Decoupled()


@pytest.mark.parametrize("share", [0.1, 0.25, 0.5, 0.9])
@pytest.mark.parametrize("labelled", [1, 3, 20])
def test_the_share_is_met_within_one_repetition(share, labelled):
    few = examples(rows=60, labelled=labelled)
    found = few.with_labels_as(share)
    times = {int(row): int(count) for row, count in zip(*found.rows.unique(return_counts=True), strict=True)}
    assert set(times) == set(few.rows.tolist()), "every row is there"
    assert all(count == 1 for row, count in times.items() if row >= labelled)
    (each,) = {count for row, count in times.items() if row < labelled}
    others = 60 - labelled

    def reached(count):
        return count * labelled / (count * labelled + others)

    assert each == 1 or reached(each - 1) < share < reached(each + 1)


def test_without_rows_of_either_kind_nothing_changes():
    for labelled in (0, 60):
        whole = examples(rows=60, labelled=labelled)
        assert whole.with_labels_as(0.5) is whole


def test_only_the_taught_read_so():
    one = plan(labelled=9, labelled_share=0.5)
    taught, alone = one.read((LABELS, SOFT)), one.read((LABELS,))
    assert taught.supervised[taught.rows].float().mean() > 0.45
    assert torch.equal(alone.rows, one.splits.train.labelled().rows)
    assert plan(labelled=9).read((LABELS, SOFT)) is not taught
    assert len(plan(labelled=9).read((LABELS, SOFT))) == len(one.splits.train)


def test_the_arm_on_hard_answers_reads_the_same_rows():
    one = plan(labelled=9, labelled_share=0.5)
    making = Offline().pseudo_labels(one)
    labels = next(making)
    training = making.send(labels.function(**labels.arguments))
    assert training.name.startswith("hard pseudo-labels")
    assert torch.equal(training.examples.rows, one.read(one.terms).rows)


@pytest.mark.parametrize("views", [0, 3, 50])
def test_what_it_will_ask_is_stored(views, tmp_path):
    one = plan(labelled=9, labelled_share=0.5, views=views, store=tmp_path / "stores")
    rows, training = one.read(one.terms).rows, one.training
    order = Order(rows, training.batch_size, 7, views)
    asked = {view for step in range(training.total) for view in order.step(step)[1].tolist()}
    assert asked <= set(one.needed_views)
    walk(Offline().distilled(one), Workshop(tmp_path), tmp_path / "journal.json")


def test_a_term_that_hardly_hears_a_label_is_named(tmp_path):
    def warned(labelled, terms=(LABELS, SOFT, DECOUPLED), **changes):
        given = plan(labelled=labelled, terms=terms)
        found = preflight(experiment(given, False, equal_compute=False, **changes), tmp_path).warnings
        return [one for one in found if "labelled-share" in one]

    (said,) = warned(4)
    assert re.search(r"decoupled learn.* are \d+\.\d % of a batch", said)
    assert not warned(4, labelled_share=0.25)
    assert not warned(30)
    assert not warned(4, terms=(LABELS, SOFT))
    with pytest.raises(PreflightError, match=r"None of the 16 rows .* data\.labelled-share"):
        warned(1, terms=(LABELS, DECOUPLED))


def test_settings_that_cannot_be():
    for share in (0, 1, -0.5):
        with pytest.raises(ValidationError, match="labelled-share"):
            Data.model_validate({"source": "mnist-5k", "labelled-share": share})
    with pytest.raises(ValidationError, match="mixes each row"):
        Data.model_validate({"source": "mnist-5k", "labelled-share": 0.5, "mixup": 1.0})
    table = Clouds(20)
    rows = [(table.x[row], int(table.labels[row])) for row in range(20)]
    with pytest.raises(LimbeckError, match="labelled_share is 2"):
        limbeck.distill(Knows(20), Net, rows, labelled_share=2)


def test_from_python(tmp_path, monkeypatch):
    monkeypatch.setenv("LIMBECK_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    table = Clouds(100)
    rows = [(table.x[row], int(table.labels[row])) for row in range(100)]
    given = {"training": {"steps": 5, "batch-size": 8}, "seeds": 1, "quiet": True, "labelled": 9}
    plain, shared = (limbeck.distill(Knows(100), Net, rows, **given, **more) for more in ({}, {"labelled_share": 0.5}))
    assert plain.folder != shared.folder
    one, other = (found.evidence.arms for found in (plain, shared))
    assert one.control.mean == other.control.mean, "the control reads rows with a label alone"
    assert one.distilled.mean != other.distilled.mean

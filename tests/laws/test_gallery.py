"""What the gallery keeps says what its pages say, and nothing of another teacher gets among it."""

import json

import numpy as np
import pytest
from benchmarks import gallery, kept, methods
from benchmarks.kept import RESULTS, Arm, Kept

from limbeck.config import digest


def arm(seed: int = 0, rows: int = 37) -> Arm:
    return Arm(0.5, np.random.default_rng(seed).random(rows) > 0.3, 1.5, {"stages.2": 0.25})


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.setattr(kept, "RESULTS", tmp_path)


def never() -> Arm:
    raise AssertionError("it is kept")


def test_an_arm_is_made_once_and_read_as_it_was():
    made = Kept("stage").arm("a", arm)
    again = Kept("stage").arm("a", never)
    assert np.array_equal(again.right, made.right)
    assert (again.validation, again.seconds, again.cka) == (made.validation, made.seconds, made.cka)
    assert Kept("stage").arm("b", lambda: arm(1)).right.tolist() != made.right.tolist()


def test_students_of_another_teacher_are_refused():
    Kept("stage").taught_by(arm().right)
    Kept("stage").taught_by(arm().right)
    with pytest.raises(SystemExit, match="cannot be compared"):
        Kept("stage").taught_by(arm(1).right)


def test_the_page_is_what_was_kept():
    assert gallery.GALLERY.read_text() == gallery.page(), "python -m benchmarks.gallery none"


@pytest.mark.parametrize(
    "name", [name for name in methods.STAGES if (RESULTS / "arms" / f"methods-{name}.jsonl").exists()]
)
def test_tables_follow_from_the_kept_answers(name, monkeypatch):
    monkeypatch.setattr(kept, "RESULTS", RESULTS)
    found = json.loads((RESULTS / f"methods-{name}.json").read_text())
    rows, arms = found["rows"], Kept(f"methods-{name}")
    assert rows["teacher"]["test"] == [arms.teacher(never).right.mean()]
    for row in (rows[one] for one in rows if one != "teacher"):
        keys = [digest([found["recipe"], row["objective"], seed])[:24] for seed in found["seeds"]]
        several = [arms.arm(key, never) for key in keys]
        assert [one.validation for one in several] == row["validation"]
        assert [one.right.mean() for one in several] == row["test"]

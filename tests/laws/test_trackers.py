"""Numbers reach an experiment tracker as they were."""

import pytest

from limbeck.errors import LimbeckError
from limbeck.objective.schedules import Place
from limbeck.run.conduct import _tracker
from limbeck.training.moments import Curve
from limbeck.training.progress import Tracker


def test_numbers_reach_tensorboard(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    curve, tracker = Curve(), _tracker("tensorboard", "a run", tmp_path)
    watcher = Tracker(tracker, curve, "distilled, seed 0")
    curve.add(1.5, {"labels": 0.5})
    watcher.stepped(None, Place(1, 10))
    watcher.evaluated({"accuracy": 0.75}, Place(1, 10))
    tracker.finish()
    events = EventAccumulator(str(tmp_path / "a run"))
    events.Reload()
    found = {tag: events.Scalars(tag)[0] for tag in events.Tags()["scalars"]}
    values = {tag.rpartition("/")[2]: (one.step, one.value) for tag, one in found.items()}
    assert values == {"loss": (1, 1.5), "labels": (1, 0.5), "validation accuracy": (1, 0.75)}


def test_an_unknown_tracker_is_refused(tmp_path):
    with pytest.raises(LimbeckError, match=r"none called 'tensorbored'; there are .*tensorboard"):
        _tracker("tensorbored", "a run", tmp_path)

"""What a person sees while a model trains: a bar with time left in a terminal, plain lines elsewhere."""

import time
from collections.abc import Mapping
from typing import Any, Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from limbeck.data.measure import Measure
from limbeck.objective.schedules import Place
from limbeck.training.moments import Curve, Metrics
from limbeck.training.stage import Stage

SECONDS_BETWEEN_LINES = 10.0


class Watcher:
    """All progress of one run, on the error stream, so that results can be piped.

    Use as a context manager; `watch` makes the part that observes one training, `labelling` hears of stored rows.
    """

    def __init__(self, console: Console | None = None, quiet: bool = False) -> None:
        self.console = console or Console(stderr=True, quiet=quiet, highlight=False)
        self.live = self.console.is_terminal and not quiet
        self.bars = Progress(
            TextColumn("{task.description:<28}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("[dim]{task.fields[note]}"),
            console=self.console,
            disable=not self.live,
        )
        self._labelling: tuple[TaskID, int] | None = None
        self._last = 0.0

    def __enter__(self) -> Self:
        self.bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.bars.stop()

    def say(self, line: str) -> None:
        """One plain line, above the bars."""
        self.console.print(line.replace("\N{NO-BREAK SPACE}", " "), soft_wrap=True, markup=False)

    def watch(self, stage: Stage, curve: Curve) -> tuple["Bar"]:
        """What observes the training of ``stage``."""
        return (Bar(self, stage, curve),)

    def labelling(self, done: int, total: int) -> None:
        """Told how many rows the teacher was asked about: of its outputs that are stored, or of what is made of it."""
        if self._labelling is None or self._labelling[1] != total:
            self._labelling = (self.bars.add_task("asking the teacher", total=total, note=""), total)
            self._last = time.monotonic()
        task, _ = self._labelling
        self.bars.update(task, completed=done)
        if done == total:
            self.bars.stop_task(task)
            self._labelling = None
        if not self.live and self.due():
            self.say(f"asking the teacher: {done} of {total} rows done")

    def due(self) -> bool:
        """Whether a plain line is due."""
        now = time.monotonic()
        if now - self._last < SECONDS_BETWEEN_LINES:
            return False
        self._last = now
        return True


class Bar:
    """The progress of one training."""

    def __init__(self, watcher: Watcher, stage: Stage, curve: Curve) -> None:
        self._watcher, self._name, self._curve = watcher, stage.name, curve
        self._task = watcher.bars.add_task(stage.name, total=stage.training.total, note="")
        self._begun = watcher._last = time.monotonic()  # the first estimate of the time left waits for some steps
        self._first: int | None = None
        self._measure, self._found = Measure.of(stage.validation.task), ""

    def at(self, place: Place) -> None:
        """Remembers where this process took over."""
        if self._first is None:
            self._first = place.step
            if place.step:
                self._watcher.say(f"{self._name}: goes on after step {place.step}")

    def stepped(self, _: Any, place: Place) -> None:
        """Shows the step, the loss and its parts."""
        if self._watcher.live:
            self._watcher.bars.update(self._task, completed=place.step, note=self._note())
        elif self._watcher.due():
            done = place.step - (self._first or 0)
            left = (time.monotonic() - self._begun) / max(1, done) * (place.steps - place.step)
            self._watcher.say(f"{self._name}: step {place.step} of {place.steps}, {left:.0f} s left; {self._note()}")

    def evaluated(self, metrics: Metrics, place: Place) -> None:
        """Shows the score on validation; ends the bar after the last step."""
        self._found = f", validation {self._score(metrics[self._measure.name])}"
        self._watcher.bars.update(self._task, completed=place.step, note=self._note())
        if place.step == place.steps:
            self._watcher.bars.stop_task(self._task)
            if not self._watcher.live:
                self._watcher.say(f"{self._name}: done in {time.monotonic() - self._begun:.0f} s{self._best()}")

    def _best(self) -> str:
        best = max((point[self._measure.name] for point in self._curve.points), default=None)
        return "" if best is None else f", best validation {self._score(best)}"

    def _score(self, value: float) -> str:
        return f"{self._measure.name} {self._measure.value(value)}"

    def _note(self) -> str:
        return ", ".join(f"{name} {value:.3f}" for name, value in self._curve.latest.items()) + self._found


class Tracker:
    """Sends a training's numbers to an experiment tracker of Accelerate, such as TensorBoard.

    Args:
        tracker: one of `accelerate.tracking`'s.
        curve: the curve that is being drawn.
        name: what is put before each number's name.
    """

    def __init__(self, tracker: Any, curve: Curve, name: str) -> None:
        self._tracker, self._curve, self._name = tracker, curve, name

    def stepped(self, _: Any, place: Place) -> None:
        """The loss and its parts."""
        self._log(self._curve.latest, place)

    def evaluated(self, metrics: Metrics, place: Place) -> None:
        """Validation metrics."""
        self._log({f"validation {name}": value for name, value in metrics.items()}, place)

    def _log(self, values: Mapping[str, float], place: Place) -> None:
        self._tracker.log({f"{self._name}/{name}": value for name, value in values.items()}, step=place.step)

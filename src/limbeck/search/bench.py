"""Where trials are trained: one teacher and one store of its outputs serve them all."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import isfinite
from pathlib import Path
from typing import Any, Final, Self

from limbeck.config import digest
from limbeck.data.task import Task
from limbeck.errors import LimbeckError, RecipeError
from limbeck.files import home
from limbeck.objective.schedules import Place
from limbeck.recipe import Recipe
from limbeck.regimes.plan import Plan
from limbeck.regimes.walk import walk
from limbeck.run.experiment import Experiment, from_recipe
from limbeck.run.ready import ready
from limbeck.search.fields import applied
from limbeck.search.study import Trial, score
from limbeck.training.loop import Watch
from limbeck.training.moments import Curve, Metrics
from limbeck.training.progress import Watcher
from limbeck.training.settings import Training
from limbeck.training.stage import Stage
from limbeck.training.workshop import Trained, Workshop

SEED: Final = 0
"""Of every trial: the same initial weights and order of data, so that trials differ by their settings alone."""


class _Ended(Exception):
    """A trial is not worth more steps. Raised, not returned: a training that merely stops is kept as a finished arm."""


class Bench:
    """Trains recipes that differ in the searched fields.

    Args:
        recipe: the one that is searched.
        out: the search folder.
        watcher: progress.
        code: whether a recipe may name Python code.
    """

    def __init__(self, recipe: Recipe, out: Path, watcher: Watcher, code: bool) -> None:
        self.recipe, self._out, self._watcher, self._code = recipe, out, watcher, code
        self.task = recipe.data.task
        self._ready: dict[str, tuple[Experiment, Plan]] = {}
        self._bar = watcher.bars.add_task("trials", total=None, note="")

    def progress(self, done: int, wanted: int) -> None:
        """Shows how many trials have ended."""
        self._watcher.bars.update(self._bar, completed=done, total=wanted)

    def plan(self, recipe: Recipe) -> Plan:
        """The recipe's plan with its teacher ready; data and teacher are loaded once for all recipes that share them."""
        theirs = recipe.teacher.tokenizer if recipe.teacher else None
        tokenizer = recipe.student.tokenizer or theirs
        key = digest([recipe.data, recipe.teacher, tokenizer])
        if key not in self._ready:
            experiment = from_recipe(recipe, self._code)
            workshop = Workshop(home(), self._watcher.watch)
            plan, _ = ready(experiment, workshop, self._out / "teachers" / key[:12], self._watcher)
            self._ready[key] = experiment, plan
        experiment, plan = self._ready[key]
        return replace(
            plan,
            student=recipe.student,
            terms=recipe.objective,
            training=recipe.training.resolved(len(experiment.splits.train)),
        ).matched()

    def trained(self, recipe: Recipe, seed: int) -> Trained:
        """The recipe's student in full."""
        plan = self.plan(recipe)
        return self._walk(recipe, plan.at(seed), self._watcher.watch)

    def run(self, trial: Trial, budget: float, prune: bool = True) -> None:
        """Trains a trial with its share of the steps, and ends it: finished, pruned, or given up.

        Raises:
            LimbeckError: it cannot be trained, for a reason that is not its settings.
        """
        record: dict[str, Any] = {"state": "diverged", "seed": SEED}
        try:
            recipe = applied(self.recipe, trial.settings)
            record["recipe"] = recipe.hash
            plan = self.plan(recipe)
            plan = replace(plan, training=shortened(plan.training, budget))
            watch = _Trial(trial, self.task, len(plan.splits.validation), prune, self._watcher)
            with watch:
                trained = self._walk(recipe, plan.at(SEED), watch)
                watch.catch_up(trained.points)  # an arm that was trained before has told nothing
        except _Ended as end:
            point = end.args[0]
            trial.finish({**record, "state": "pruned", **_told(self.task, watch.points, point)}, None)
        except (LimbeckError, OverflowError, RuntimeError) as error:
            reason = _fault_of_settings(error)
            if reason is None:
                raise
            trial.finish({**record, "reason": reason}, None)
        else:
            found = {**_told(self.task, trained.points, trained.metrics), "arm": trained.key, "state": "complete"}
            trial.finish({**record, **found}, score(trained.metrics, len(plan.splits.validation), self.task))

    def _walk(self, recipe: Recipe, plan: Plan, watch: Watch) -> Trained:
        journal = digest([recipe.hash, plan.training, plan.seed])[:16]
        regime = recipe.regime.arms(plan)["distilled"](plan)
        try:
            return walk(regime, Workshop(home(), watch), self._out / "journal" / f"{journal}.json")
        finally:
            self._clear()

    def _clear(self) -> None:
        """Takes away the bars that are full, as a search would fill the screen with them."""
        for bar in list(self._watcher.bars.tasks):
            if bar.finished and bar.id != self._bar:
                self._watcher.bars.remove_task(bar.id)


class _Trial:
    """What watches the training of a trial; as a context manager it shows a bar that goes when the trial ends."""

    def __init__(self, trial: Trial, task: Task, examples: int, prune: bool, watcher: Watcher) -> None:
        self._trial, self._task, self._examples = trial, task, examples
        self._prune, self._watcher = prune, watcher
        self._curve: Curve | None = None
        self._heard = 0
        self.points: Sequence[Mapping[str, Any]] = ()

    def __enter__(self) -> Self:
        self._bar = self._watcher.bars.add_task(f"trial {self._trial.number + 1}", total=None, note="")
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar in self._watcher.bars.task_ids:
            self._watcher.bars.remove_task(self._bar)

    def __call__(self, stage: Stage, curve: Curve) -> Sequence[object]:
        self._curve = curve
        return (self,)

    def stepped(self, _: Any, place: Place) -> None:
        """Shows the step."""
        if self._watcher.live:
            self._watcher.bars.update(self._bar, completed=place.step, total=place.steps)
        elif self._watcher.due():
            self._watcher.say(f"trial {self._trial.number + 1}: step {place.step} of {place.steps}")

    def evaluated(self, metrics: Metrics, place: Place) -> None:
        """Tells what is new on the curve; one that was resumed begins with points that nobody told of."""
        assert self._curve is not None
        self.catch_up(self._curve.points)

    def catch_up(self, points: Sequence[Mapping[str, Any]]) -> None:
        """Tells the points that were not told yet.

        Raises:
            _Ended: one of them leaves no hope.
        """
        for place in range(self._heard, len(points)):
            self._heard, self.points = place + 1, points[: place + 1]
            if self._trial.hopeless(score(points[place], self._examples, self._task), place + 1) and self._prune:
                raise _Ended(points[place])


def shortened(training: Training, share: float) -> Training:
    """A share of the steps, 20 at least, evaluated as often as the whole."""
    less = training.scaled(share)
    if training.evaluate_every is None:
        return less
    every = round(training.evaluate_every * less.total / training.total)
    return less.model_copy(update={"evaluate_every": max(1, every)})


def _fault_of_settings(error: Exception) -> str | None:
    """Why a trial is given up: its settings cannot be together, or leave the numbers; None if they are not at fault."""
    if isinstance(error, RecipeError) or (isinstance(error, LimbeckError) and "not finite" in str(error)):
        return str(error)
    # of Python's and of PyTorch's numbers: a learning rate of 1e38, say, is finite, but a step of the optimizer is not
    if isinstance(error, OverflowError) or "without overflow" in str(error):
        return "With these settings a step of training is too large for a number."
    return None


def _told(task: Task, points: Sequence[Mapping[str, Any]], metrics: Mapping[str, Any]) -> dict[str, Any]:
    """Metrics at ``step``, by the task's names, the steps that were trained, and the curve."""
    curve = [[point["step"], point[task.measure], _finite(point[task.cost])] for point in points]
    return {
        task.measure: metrics[task.measure],
        task.cost: _finite(metrics[task.cost]),
        "step": int(metrics["step"]),
        "steps": int(points[-1]["step"]),
        "curve": curve,
    }


def _finite(value: float) -> float | None:
    return value if isfinite(value) else None

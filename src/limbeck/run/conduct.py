"""Conducting an experiment: preflight, teacher, every arm at every seed; then it is concluded."""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from accelerate import PartialState

from limbeck.data.task import rank
from limbeck.errors import LimbeckError
from limbeck.evidence.schema import Evidence
from limbeck.files import held, home
from limbeck.models.saved import load_student
from limbeck.regimes.budget import Arm
from limbeck.regimes.plan import Plan
from limbeck.regimes.regime import Regime
from limbeck.regimes.walk import walk
from limbeck.run import folder as runs
from limbeck.run.arms import arms_of, compute_of, remembered
from limbeck.run.conclude import conclude
from limbeck.run.delivered import Delivered
from limbeck.run.experiment import Experiment
from limbeck.run.preflight import Preflight, preflight
from limbeck.run.ready import ready, reused
from limbeck.run.result import Result
from limbeck.training import launch
from limbeck.training.loop import Watch
from limbeck.training.moments import Curve
from limbeck.training.progress import Tracker, Watcher
from limbeck.training.stage import Stage
from limbeck.training.workshop import Trained, Workshop


def conduct(
    experiment: Experiment,
    out: Path,
    recipe_text: str,
    command: str | None = None,
    quiet: bool = False,
    check: bool = True,
) -> Result:
    """Runs an experiment into the folder ``out``, or goes on with the one that was begun there.

    Raises:
        Busy: another process works in ``out``.
        LimbeckError: ``out`` belongs to another recipe; preflight or training failed.
        Interrupted: the user stopped it; the same call goes on.
    """
    launch.join()
    state = PartialState()
    with runs.writable(out), ExitStack() as stack:
        if state.is_main_process:
            out.mkdir(parents=True, exist_ok=True)
            stack.enter_context(held(out, "a run writes there"))
            runs.claim(out, experiment.settings, experiment.hash)
        watcher = stack.enter_context(Watcher(quiet=quiet or not state.is_main_process))
        workshop = Workshop(home(), _watch(experiment, watcher, out))
        for remark in experiment.remarks:
            watcher.say(remark)
        if check:
            _announce(watcher, preflight(experiment, home()))
        plan, teacher = ready(experiment, workshop, out, watcher)
        compute = compute_of(experiment, plan)
        trained = _train(experiment, plan, arms_of(experiment, plan, compute), workshop, out, watcher)
        if state.is_main_process:
            conclude(experiment, plan, trained, teacher, compute, out, recipe_text, command)
        state.wait_for_everyone()
    best = max(trained["distilled"], key=lambda one: rank(experiment.splits.task, one.metrics))
    reader = experiment.splits.reader
    student = load_student(out / runs.STUDENT, module=best.untrained(), reader=reader)
    return Result(out, Evidence.read(out), Delivered.of(student, out))


def _train(
    experiment: Experiment, plan: Plan, chosen: Mapping[str, Arm], workshop: Workshop, out: Path, watcher: Watcher
) -> dict[str, list[Trained]]:
    trained: dict[str, list[Trained]] = {name: [] for name in chosen}
    for seed in experiment.seeds:
        for name, arm in chosen.items():
            one: Regime[Trained] = remembered(arm(plan.at(seed)))
            trained[name].append(walk(one, workshop, out / "journal" / f"{name}-{seed}.json"))
            reused(watcher, trained[name][-1], experiment.splits.task)
    return trained


def _announce(watcher: Watcher, found: Preflight) -> None:
    for what, finding in found.lines():
        watcher.say(f"{what:<22} {finding}")
    for warning in found.warnings:
        watcher.say(f"warning: {warning}")


def _watch(experiment: Experiment, watcher: Watcher, out: Path) -> Watch:
    """Progress and trackers for each stage."""
    made = [_tracker(name, experiment.name, out / "tracking") for name in experiment.trackers]

    def watch(stage: Stage, drawn: Curve) -> Sequence[object]:
        return (*watcher.watch(stage, drawn), *(Tracker(one, drawn, stage.name) for one in made))

    return watch


def _tracker(name: str, run: str, folder: Path) -> Any:
    """One of Accelerate's trackers, begun.

    Raises:
        LimbeckError: there is none of that name, or it is not installed.
    """
    from accelerate.tracking import LOGGER_TYPE_TO_CLASS, get_available_trackers

    if name not in LOGGER_TYPE_TO_CLASS:
        raise LimbeckError(f"trackers: there is none called {name!r}; there are {', '.join(LOGGER_TYPE_TO_CLASS)}.")
    if name not in [str(one) for one in get_available_trackers()]:
        raise LimbeckError(f"trackers: {name!r} is not installed: pip install {name}")
    kind = LOGGER_TYPE_TO_CLASS[name]
    folder.mkdir(parents=True, exist_ok=True)
    tracker = kind(run, logging_dir=str(folder)) if kind.requires_logging_directory else kind(run)
    tracker.start()
    return tracker

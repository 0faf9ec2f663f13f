"""The search itself: trials on validation, the winner confirmed at fresh seeds, and what is written of it."""

import json
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from accelerate import PartialState

from limbeck.code import allow_code as code_is_allowed
from limbeck.data.measure import Measure
from limbeck.data.task import Task
from limbeck.data.tasks import CLASSES
from limbeck.errors import LimbeckError
from limbeck.files import held, write_json, write_text
from limbeck.recipe import Recipe
from limbeck.recipe.reading import dump
from limbeck.run.folder import versions, writable
from limbeck.search import surface
from limbeck.search.bench import SEED, Bench
from limbeck.search.confirm import confirm, fresh
from limbeck.search.fields import Field, Method, Settings, applied, fields, grid, own, told
from limbeck.search.study import Study, changed, demand_installed, explained, settings_of
from limbeck.training.progress import Watcher

CLAIM, TRIALS, BEST, SURFACE = "search.json", "trials.json", "best.yaml", "surface.png"
TRIALS_OF_BAYES: Final = 20
COSTS: Final = {"nll": "NLL", "mse": "squared error", "distance": "distance"}
"""Of a task, as they are written."""


@dataclass(frozen=True)
class Found:
    """What a search found.

    ``trials``: a record for each, in their order. ``own``: the recipe's settings, by field. ``winner``: the record of the
    best, None while trials run elsewhere. ``confirmation``: see `limbeck.search.confirm`; None if there is nothing to
    confirm, as ``sentence`` says.
    """

    folder: Path
    fields: tuple[Field, ...]
    own: dict[str, Any]
    trials: tuple[dict[str, Any], ...]
    winner: dict[str, Any] | None
    recipe: Recipe | None
    confirmation: dict[str, Any] | None
    sentence: str
    warning: str
    task: Task = CLASSES

    @property
    def measure(self) -> Measure:
        """What the search maximises, and how it is written."""
        return Measure.of(self.task)


def search(
    recipe: Recipe,
    over: Sequence[str],
    *,
    method: Method = "grid",
    trials: int | None = None,
    budget: float = 0.2,
    prune: bool | None = None,
    confirmed_at: int | None = None,
    storage: str | None = None,
    out: Path | None = None,
    allow_code: bool = False,
    command: str | None = None,
    quiet: bool = False,
) -> Found:
    """Finds the settings with the best score on validation; the same call goes on after an interruption. Ties go by cost.

    The test part is not looked at. Trials are of one seed and a share of the steps; the winner is then trained in full
    against the recipe's own settings, at seeds that the search has not used.

    Args:
        recipe: whose settings are searched.
        over: what is searched: ``temperature``, ``weights``, ``field=a,b,c``, ``field=a..b``, ``field=log:a..b``.
        method: every combination, or Optuna's TPE.
        trials: how many, 20 by default; a grid has as many as it has points.
        budget: the share of the recipe's steps that a trial is given.
        prune: whether successive halving ends trials early; by default with ``bayes`` only, as a grid is there to be seen whole.
        confirmed_at: seeds of the confirmation, at least 2; by default as many as the recipe has.
        storage: an Optuna storage URL or a journal file that several machines share; by default a file in ``out``.
        out: the search folder, by default ``runs/<name>-search``.
        allow_code: whether the recipe may name Python code to run.
        command: for the record.
        quiet: no progress.

    Raises:
        LimbeckError: something that the user can mend.
    """
    demand_installed()
    prune = method == "bayes" if prune is None else prune
    if PartialState().num_processes > 1:
        raise LimbeckError(
            "A search trains each trial in one process: start it once on each machine, with the same --storage."
        )
    if not 0 < budget <= 1:
        raise LimbeckError(
            f"The budget of a trial is {budget:g}, but a share of the recipe's steps is needed: 0.2, say."
        )
    chosen = fields(recipe, over, method)
    points = _points(recipe, chosen, method)
    if method == "grid" and trials is not None and trials < len(points):
        raise LimbeckError(
            f"This grid has {len(points)} trials, more than --trials {trials}: give fewer values, or use --method bayes."
        )
    out = out or Path("runs") / f"{recipe.name.replace(' ', '-')}-search"
    identity = {
        "recipe": {key: value for key, value in recipe.plain().items() if key not in ("name", "trackers", "seeds")},
        "over": [field.plain() for field in chosen],
        "method": method,
        "budget": budget,
        "prune": prune,
        "seed": SEED,
    }
    identity = json.loads(json.dumps(identity))
    with writable(out), ExitStack() as stack:
        out.mkdir(parents=True, exist_ok=True)
        stack.enter_context(held(out, "a search writes there"))
        _claim(out, identity)
        stack.enter_context(code_is_allowed(allow_code))
        stack.enter_context(explained(storage))
        watcher = stack.enter_context(Watcher(quiet=quiet))
        study = Study(storage, out, recipe.name, identity, chosen, points, method)
        bench = Bench(recipe, out, watcher, allow_code)
        wanted = len(points) if method == "grid" else trials or TRIALS_OF_BAYES
        seeds = max(2, confirmed_at or recipe.seeds)
        before = sum(one["state"] != "running" for one in _records(study, chosen, method))
        watcher.say(
            f"{wanted} trials{f' ({before} done before)' * (before > 0)} of {100 * budget:g} % of the steps, judged on "
            f"validation; then the best in full against the recipe's own settings at {seeds} fresh seeds"
        )
        bench.progress(before, wanted)
        while trial := study.next(wanted):
            bench.run(trial, budget, prune)
            done = {one["number"]: one for one in _records(study, chosen, method)}
            watcher.say(_line(done[trial.number], wanted, bench.task))
            bench.progress(sum(one["state"] != "running" for one in done.values()), wanted)
        found = _concluded(bench, study, chosen, method, seeds, out, watcher)
        _write(found, recipe, identity, command)
    return found


def best(records: Sequence[dict[str, Any]], task: Task = CLASSES) -> dict[str, Any] | None:
    """Of those trained to the end of their budget: the best on validation, ties by cost, then the earlier one."""
    done = [one for one in records if one["state"] == "complete"]
    worst = float("inf")
    return max(
        done,
        key=lambda one: (
            one[task.measure],
            -(worst if one[task.cost] is None else one[task.cost]),
            -one["number"],
        ),
        default=None,
    )


def _points(recipe: Recipe, chosen: Sequence[Field], method: Method) -> list[Settings]:
    """What is tried first: the whole grid, or the recipe's own settings where they lie in the ranges."""
    if method == "grid":
        points: list[Settings] = list(grid(chosen))
        for point in points:
            applied(recipe, point)  # what cannot be together is said before anything is trained
        return points
    own_ones = {field.path: own(recipe, field.path) for field in chosen}
    inside = all(_inside(field, own_ones[field.path]) for field in chosen)
    return [own_ones] if inside else []


def _inside(field: Field, value: Any) -> bool:
    if field.values:
        return value in field.values
    return isinstance(value, int | float) and not isinstance(value, bool) and field.low <= value <= field.high


def _claim(out: Path, identity: dict[str, Any]) -> None:
    """Writes down whose folder it is, or makes sure of it.

    Raises:
        LimbeckError: it holds another search, or something else.
    """
    path = out / CLAIM
    strangers = [item.name for item in out.iterdir() if item.name not in (CLAIM, ".lock")]
    if not path.exists() or not strangers:  # one that failed before its first trial leaves nothing but its claim
        if strangers:
            raise LimbeckError(
                f"{out} is not empty and holds no search (it has {strangers[0]!r}): choose another --out."
            )
        write_json(path, identity)
        return
    try:
        known = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        raise LimbeckError(f"{path} is damaged: choose another --out.") from None
    if known != identity:
        raise LimbeckError(
            f"{out} holds another search (what differs: {', '.join(changed(known, identity))}). Choose another --out, or "
            "delete it; what is trained is kept elsewhere."
        )


def _records(study: Study, chosen: Sequence[Field], method: Method) -> list[dict[str, Any]]:
    """A record for each trial that was begun, by its number in the study."""
    return [
        {
            "number": trial.number,
            "settings": settings_of(trial, chosen, method),
            "state": "running",
            **trial.user_attrs.get("record", {}),
        }
        for trial in study.begun()
    ]


def _concluded(
    bench: Bench, study: Study, chosen: tuple[Field, ...], method: Method, seeds: int, out: Path, watcher: Watcher
) -> Found:
    records = _records(study, chosen, method)
    own_ones = {field.path: own(bench.recipe, field.path) for field in chosen}
    winner, count = best(records, bench.task), len(records)
    running = sum(one["state"] == "running" for one in records)
    warning = (
        f"The best of {count} trials is flattered: its {bench.task.measure} in the search is the highest of {count}, luck "
        "included. The number to quote is the confirmation, and even that is of the validation part by which the settings were "
        f"chosen; `limbeck run {out / BEST}` judges on the test part."
    )
    if running:
        said = f"{running} trials still run elsewhere: the same command confirms the winner once they are done."
        return Found(out, chosen, own_ones, tuple(records), None, None, None, said, warning, bench.task)
    if winner is None:
        reasons = [one["reason"] for one in records if "reason" in one]
        raise LimbeckError(f"No trial came to its end. The first reason: {reasons[0] if reasons else 'none is known'}")
    chosen_recipe = applied(bench.recipe, winner["settings"])
    if chosen_recipe.hash == bench.recipe.hash:
        said = "The recipe's own settings are the best of those that were tried: there is nothing to confirm."
        return Found(out, chosen, own_ones, tuple(records), winner, chosen_recipe, None, said, warning, bench.task)
    watcher.say(
        f"the best, trial {winner['number'] + 1}, in full against the recipe's own settings at {seeds} fresh seeds"
    )
    judged = confirm(bench, chosen_recipe, fresh(seeds), watcher.say)
    return Found(
        out, chosen, own_ones, tuple(records), winner, chosen_recipe, judged, judged["sentence"], warning, bench.task
    )


def _write(found: Found, recipe: Recipe, identity: dict[str, Any], command: str | None) -> None:
    """All files; the table of trials last."""
    if found.recipe is not None and found.winner is not None:
        named = found.recipe.model_copy(update={"name": f"{recipe.name[:59]} best"})
        settings = told(found.winner["settings"])
        head = (
            f"# {recipe.name}, the best of {len(found.trials)} trials by validation {found.measure.name}: {settings}\n"
        )
        write_text(found.folder / BEST, head + dump(named))
    surface.draw(
        found.folder / SURFACE,
        found.fields,
        found.trials,
        found.winner,
        found.own,
        found.measure,
        f"{recipe.name}: {len(found.trials)} trials of {100 * identity['budget']:g} % of the steps, one seed",
    )
    write_json(
        found.folder / TRIALS,
        {
            "recipe": recipe.hash,
            "best_recipe": found.recipe.hash if found.recipe else None,
            "over": identity["over"],
            "method": identity["method"],
            "budget": identity["budget"],
            "seed": SEED,
            "own_settings": found.own,
            "trials": list(found.trials),
            "winner": found.winner["number"] if found.winner else None,
            "confirmation": found.confirmation,
            "sentence": found.sentence,
            "warning": found.warning,
            "versions": versions(),
            "command": command,
        },
    )


def _line(record: dict[str, Any], wanted: int, task: Task) -> str:
    """What came of a trial."""
    head = f"trial {record['number'] + 1} of {wanted}: {told(record['settings'])}: "
    if record["state"] == "diverged":
        return f"{head}given up. {record['reason']}"
    early = f", ended after {record['steps']} steps" if record["state"] == "pruned" else ""
    cost = "not finite" if record[task.cost] is None else f"{record[task.cost]:.3f}"
    measure = Measure.of(task)
    found = f"{measure.name} {measure.value(record[task.measure])} on validation"
    return f"{head}{found}, {COSTS[task.cost]} {cost}{early}"

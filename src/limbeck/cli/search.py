"""``limbeck search``."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from limbeck.cli import options, tell

if TYPE_CHECKING:
    from limbeck.data.task import Task
    from limbeck.search import Found

_MOST = 10  # trials that are shown
_STATES = {"complete": "", "pruned": "ended early", "diverged": "given up"}


def search(
    context: typer.Context,
    recipe: options.Source,
    over: Annotated[
        list[str],
        typer.Option(
            metavar="FIELDS",
            help="temperature, weights, or both; or FIELD=1,2,4, FIELD=1..8, FIELD=log:0.5..16 for any field; repeatable.",
            show_default=False,
        ),
    ],
    method: Annotated[
        Literal["grid", "bayes"], typer.Option(help="grid: every combination; bayes: Optuna's TPE.")
    ] = "grid",
    trials: Annotated[
        int | None, typer.Option(min=1, help="How many trials.", show_default="the whole grid; bayes: 20")
    ] = None,
    budget: Annotated[
        float, typer.Option(min=0.001, max=1, help="The share of the recipe's steps that a trial is given.")
    ] = 0.2,
    prune: Annotated[
        bool | None,
        typer.Option(
            "--prune/--no-prune",
            help="End hopeless trials early, by successive halving.",
            show_default="with bayes only",
        ),
    ] = None,
    confirm: Annotated[
        int | None,
        typer.Option(
            min=2, help="Fresh seeds at which the winner is set against the recipe.", show_default="the recipe's seeds"
        ),
    ] = None,
    storage: Annotated[
        str | None,
        typer.Option(
            help="An Optuna storage URL, or journal:FILE, that several machines share.", show_default="a file in --out"
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="The search folder.", show_default="runs/<name>-search")
    ] = None,
    settings: options.Overrides = None,
    allow_code: options.AllowCode = False,
) -> None:
    """Find the temperature, weights or other settings that do best on validation, and say whether they are better.

    The test part is not looked at. An interrupted search goes on where it was when the same command is given again.
    """
    from limbeck.recipe.reading import read

    chosen = read(recipe, settings or ())
    from limbeck.search import search as seek

    found = seek(
        chosen,
        over,
        method=method,
        trials=trials,
        budget=budget,
        prune=prune,
        confirmed_at=confirm,
        storage=storage,
        out=out,
        allow_code=allow_code,
        command=context.obj,
    )
    show(found)


def show(found: "Found") -> None:
    """The best trials, the sentence, the warning, and what was written."""
    from limbeck.search.fields import short, shown
    from limbeck.search.seek import BEST, COSTS, SURFACE, TRIALS

    task, measure = found.task, found.measure
    ranked = sorted(found.trials, key=lambda one: _rank(one, task))
    columns = ("trial", *(short(field.path) for field in found.fields), measure.name, COSTS[task.cost], "steps", "")
    rows = [
        (
            str(one["number"] + 1),
            *(shown(one["settings"].get(field.path)) for field in found.fields),
            None if one.get(task.measure) is None else measure.value(one[task.measure]),
            None if one.get(task.cost) is None else f"{one[task.cost]:.3f}",
            None if one.get("steps") is None else f"{one['steps']:,}",
            ", ".join(filter(None, (_STATES.get(one["state"], one["state"]), _whose(one, found)))),
        )
        for one in ranked[:_MOST]
    ]
    tell.raw("")
    tell.table(columns, rows, right=range(len(columns) - 1))
    tell.raw("")
    if len(ranked) > _MOST:
        tell.say(f"The best {_MOST} of {len(ranked)} trials; all of them are in {TRIALS}.")
    better = found.confirmation["better"] if found.confirmation else None
    tell.say(found.sentence, f"bold {({'yes': 'green', 'no': 'red'}).get(better or '', 'yellow')}")
    if found.winner is None:
        return
    tell.note(found.warning, "warning", "bold yellow")
    tell.raw("")
    tell.pairs(
        [
            ("recipe", str(found.folder / BEST)),
            ("trials", str(found.folder / TRIALS)),
            ("picture", str(found.folder / SURFACE)),
        ]
    )


def _rank(record: dict[str, Any], task: "Task") -> tuple[bool, float, float, int]:
    """Those that came to their end first, the best of them first."""
    cost, score = record.get(task.cost), record.get(task.measure)
    return (
        record["state"] != "complete",
        -(score if score is not None else float("-inf")),
        float("inf") if cost is None else cost,
        record["number"],
    )


def _whose(record: dict[str, Any], found: "Found") -> str:
    if found.winner and record["number"] == found.winner["number"]:
        return "the best"
    return "the recipe's own" if record["settings"] == found.own else ""

"""``limbeck run``."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from limbeck.cli import options, tell

if TYPE_CHECKING:
    from limbeck.evidence.schema import Evidence


def run(
    context: typer.Context,
    recipe: options.Source,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="The run folder.", show_default="runs/<name>")] = None,
    settings: options.Overrides = None,
    quick: options.Quick = False,
    max_minutes: Annotated[
        float | None, typer.Option("--max-minutes", min=0.1, help="Cut all budgets so that it takes no longer.")
    ] = None,
    allow_code: options.AllowCode = False,
) -> None:
    """Train teacher, student and the student without a teacher; say whether the teacher helped.

    An interrupted run goes on where it was when the same command is given again.
    """
    from limbeck.recipe import reading

    chosen = reading.read(recipe, settings or ())
    if quick:
        chosen = reading.quick(chosen)
        tell.note(f"A quick run: a tenth of the steps, seeds: {chosen.seeds}. Its verdict is not the recipe's.")
    from limbeck.run import run as conduct
    from limbeck.run.deeds import CUT

    folder = out or Path("runs") / chosen.name.replace(" ", "-")
    result = conduct(chosen, folder, max_minutes=max_minutes, allow_code=allow_code, command=context.obj)
    show(result.evidence)
    if quick:
        tell.say("This was a quick run: the verdict speaks of a tenth of the training, not of the recipe.")
    for note in result.evidence.notes:
        if note.startswith(CUT):
            tell.say(note)
    tell.say(f"Report: {result.report_path}")


def show(evidence: "Evidence") -> None:
    """The arms, the verdict, and what would settle it."""
    from limbeck.evidence import summary

    tell.raw("")
    columns = summary.columns(evidence)
    tell.table(columns, summary.rows(evidence), right=range(1, len(columns)))
    tell.raw("")
    colour = {"helped": "green", "did not help": "red"}.get(evidence.verdict, "yellow")
    verdict, *more = summary.paragraphs(evidence)
    tell.say(verdict, f"bold {colour}")
    for paragraph in more:
        tell.say(paragraph)
    tell.raw("")

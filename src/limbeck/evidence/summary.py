"""A run in a few lines: every arm, the verdict, and what would settle it."""

from collections.abc import Sequence

from limbeck.data.measure import Measure
from limbeck.evidence.figures import number, short
from limbeck.evidence.groups import said_by_group
from limbeck.evidence.records import Arm, Quality
from limbeck.evidence.schema import Evidence, Step
from limbeck.evidence.tasks import said_by_task
from limbeck.evidence.words import NAMES, against


def columns(evidence: Evidence) -> tuple[str, ...]:
    """The heads of `rows`."""
    costs = [title for title, _ in _costs(evidence.arms.distilled.mean)]
    steps = ("steps",) if _stepped(evidence) else ()
    return ("", evidence.measure.name, *costs, "parameters", "one example", "training", *steps)


def rows(evidence: Evidence) -> list[tuple[str | None, ...]]:
    """A row for each arm, with what `columns` names; None where something was not measured."""
    return [
        (NAMES[name], *_cells(arm, evidence.measure), *((_steps(arm),) if _stepped(evidence) else ()))
        for name, arm in evidence.arms.present().items()
    ]


def paragraphs(evidence: Evidence) -> list[str]:
    """The verdict, what each ingredient added, and what would settle it."""
    steps = "; ".join(_step(step, evidence.measure) for step in evidence.attribution)
    matched = evidence.at_equal_compute
    said = (
        evidence.sentence,
        against(matched) if matched else None,
        f"Step by step: {steps}." if steps else None,
        said_by_task(evidence),
        said_by_group(evidence),
        evidence.advice,
    )
    return [one for one in said if one]


def text(evidence: Evidence) -> str:
    """Both as plain text."""
    cells = [columns(evidence), *([cell if cell is not None else "–" for cell in row] for row in rows(evidence))]
    table = "\n".join(_line(row, [max(map(len, column)) for column in zip(*cells, strict=True)]) for row in cells)
    return "\n\n".join([table, "\n".join(paragraphs(evidence))]).replace("\N{NO-BREAK SPACE}", " ")


def _line(row: Sequence[str], widths: Sequence[int]) -> str:
    first, *rest = (cell.rjust(width) for cell, width in zip(row, widths, strict=True))
    return "  ".join([first.strip().ljust(widths[0]), *rest])


def _step(step: Step, measure: Measure) -> str:
    return f"{step.step} {measure.gained(step.difference.mean, step.difference.ci95, unit='', after=' over seeds')}"


def _stepped(evidence: Evidence) -> bool:
    """Whether arms were given different numbers of steps."""
    return evidence.arms.equal_compute is not None


def _steps(arm: Arm) -> str | None:
    return f"{sum(arm.steps) / len(arm.steps):,.0f}" if arm.steps else None


def _costs(found: Quality) -> list[tuple[str, float | None]]:
    """What stands beside the measure; nothing does where nothing else was measured."""
    if found.mse is not None:
        return [("squared error", found.mse)]
    return [("NLL", found.nll), ("ECE", found.ece)] if found.nll is not None else []


def _cells(arm: Arm, measure: Measure) -> tuple[str | None, ...]:
    cost, times, found = arm.efficiency, arm.training_seconds, arm.mean
    mean = sum(times) / len(times) if times else None
    costs = [value for _, value in _costs(found)]
    return (
        measure.value(found.score) + (f" ± {measure.spread(arm.spread)}" if arm.spread is not None else ""),
        *(None if one is None else number(one) for one in costs),
        short(cost.parameters) if cost else None,
        f"{short(cost.latency.p50_ms)} ms" if cost and cost.latency else None,
        None if mean is None else f"{mean / 60:.1f} min" if mean >= 120 else f"{mean:.1f} s",
    )

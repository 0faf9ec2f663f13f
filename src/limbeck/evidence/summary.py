"""A run in a few lines: every arm, the verdict, and what would settle it."""

from collections.abc import Sequence
from typing import Final

from limbeck.evidence.schema import Arm, Evidence, Step
from limbeck.evidence.tables import NAMES, number, short
from limbeck.evidence.verdict import gained, percent

COLUMNS: Final = ("", "accuracy", "NLL", "ECE", "parameters", "one example", "training")


def rows(evidence: Evidence) -> list[tuple[str | None, ...]]:
    """A row for each arm, with what `COLUMNS` names; None where something was not measured."""
    return [(NAMES[name], *_cells(arm)) for name, arm in evidence.arms.present().items()]


def paragraphs(evidence: Evidence) -> list[str]:
    """The verdict, what each ingredient added, and what would settle it."""
    steps = "; ".join(_step(step) for step in evidence.attribution)
    said = (evidence.sentence, f"Step by step: {steps}." if steps else None, evidence.advice)
    return [one for one in said if one]


def text(evidence: Evidence) -> str:
    """Both as plain text."""
    cells = [COLUMNS, *([cell if cell is not None else "–" for cell in row] for row in rows(evidence))]
    table = "\n".join(_line(row, [max(map(len, column)) for column in zip(*cells, strict=True)]) for row in cells)
    return "\n\n".join([table, "\n".join(paragraphs(evidence))]).replace("\N{NO-BREAK SPACE}", " ")


def _line(row: Sequence[str], widths: Sequence[int]) -> str:
    first, *rest = (cell.rjust(width) for cell, width in zip(row, widths, strict=True))
    return "  ".join([first.strip().ljust(widths[0]), *rest])


def _step(step: Step) -> str:
    return f"{step.step} {gained(step.difference.mean, step.difference.ci95, unit='', after=' over seeds')}"


def _cells(arm: Arm) -> tuple[str | None, ...]:
    spread = arm.sd.get("accuracy")
    cost, times = arm.efficiency, arm.training_seconds
    mean = sum(times) / len(times) if times else None
    return (
        percent(arm.mean.accuracy) + (f" ± {100 * spread:.1f}" if spread is not None else ""),
        number(arm.mean.nll),
        number(arm.mean.ece),
        short(cost.parameters) if cost else None,
        f"{short(cost.latency.p50_ms)} ms" if cost and cost.latency else None,
        None if mean is None else f"{mean / 60:.1f} min" if mean >= 120 else f"{mean:.1f} s",
    )

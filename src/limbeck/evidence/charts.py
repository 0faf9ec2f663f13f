"""The geometry of the report's charts: everything in percent of the plotting area, so that text never scales.

The macros in ``charts.html`` draw the marks; colours are CSS variables and follow the reader's light or dark scheme.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import ceil, floor, log10
from typing import Any

import numpy as np

from limbeck.data.measure import Measure
from limbeck.evidence.records import Bin, Range, Training
from limbeck.evidence.results import Curve
from limbeck.evidence.schema import ARMS, Evidence

DOT = 2.0  # percent of the plotting area: dots that are nearer cover each other
LEAST = -0.5  # of a learning curve without a lower bound: what lies below is drawn there
PAIR = 2  # classes: log-centred predictions of two are opposite or equal, so a picture of their cosines says nothing
MOST_PARTS = 12  # trainings of one arm that are told one by one
MOST_POINTS = 160  # of one line; more cannot be seen


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """About ``count`` round numbers inside [low, high]."""
    rough = (high - low) / max(1, count)
    power = 10.0 ** floor(log10(rough))
    step = next(power * one for one in (1, 2, 5, 10) if power * one >= rough * 0.999)
    first = ceil(low / step - 1e-9)
    return [round(one * step, 12) for one in range(first, floor(high / step + 1e-9) + 1)]


@dataclass(frozen=True)
class Axis:
    """A linear axis; ``at`` gives percent from its low end."""

    low: float
    high: float

    @classmethod
    def around(cls, values: Iterable[float], margin: float = 0.08, least: float = 1e-4) -> "Axis":
        """An axis that holds all values with some air."""
        known = list(values)
        low, high = min(known), max(known)
        air = max((high - low) * margin, least)
        return cls(low - air, high + air)

    def at(self, value: float) -> float:
        """Percent of the way, to a thousandth."""
        return round(100 * (value - self.low) / (self.high - self.low), 3)

    def ticks(self, count: int = 5) -> list[float]:
        """Round numbers inside the axis."""
        return ticks(self.low, self.high, count)


def forest(evidence: Evidence) -> dict[str, Any] | None:
    """The difference against zero: a dot a seed, and both intervals."""
    gap, items = evidence.difference, evidence.item_bootstrap
    if gap is None or items is None:
        return None
    measure = evidence.measure
    digits = measure.decimals(gap.mean, *(gap.ci95 or ()))
    ends = [*gap.per_seed, *(gap.ci95 or ()), *items.ci95, 0.0, evidence.smallest_effect]
    axis = Axis.around(ends)
    rows: list[dict[str, Any]] = [
        {"label": "Each seed", "dots": _apart([axis.at(one) for one in gap.per_seed]), "range": None, "mean": None}
    ]
    if gap.ci95:
        rows.append(_interval_row("Mean, 95\N{NO-BREAK SPACE}% over seeds", gap.mean, gap.ci95, axis))
    rows.append(_interval_row("Mean, 95\N{NO-BREAK SPACE}% over test examples", items.mean, items.ci95, axis))
    return {
        "rows": rows,
        "zero": axis.at(0.0),
        "gain": measure.points(gap.mean, digits=digits),
        "interval": measure.span(gap.ci95, digits) if gap.ci95 else None,
        "matters": axis.at(evidence.smallest_effect),
        "ticks": [(axis.at(one), measure.signed_tick(one)) for one in axis.ticks(4)],
    }


def _apart(places: Sequence[float]) -> list[tuple[float, float]]:
    """Each dot's place in percent and its height in a row: dots that would cover each other stand in a column."""
    columns: list[list[float]] = []
    for one in sorted(places):
        if columns and one - columns[-1][0] < DOT:
            columns[-1].append(one)
        else:
            columns.append([one])
    found = []
    for column in columns:
        step = min(9.0, 24 / max(1, len(column) - 1))
        found += [(one, round(17 + step * (rank - (len(column) - 1) / 2), 2)) for rank, one in enumerate(column)]
    return found


def _interval_row(label: str, mean: float, interval: Range, axis: Axis) -> dict[str, Any]:
    return {"label": label, "dots": [], "range": (axis.at(interval[0]), axis.at(interval[1])), "mean": axis.at(mean)}


def ladder(evidence: Evidence) -> dict[str, Any] | None:
    """From the control's score to the distilled student's, a rung an ingredient, each with its interval."""
    control, teacher = evidence.arms.control, evidence.arms.teacher
    if control is None or not evidence.attribution:
        return None
    level = control.mean.score
    rungs = []
    for step in evidence.attribution:
        mean = step.difference.mean
        low, high = step.difference.ci95 or step.item_bootstrap.ci95
        rungs.append((step, level, level + mean, (level + low, level + high)))
        level += mean
    ends = [end for _, source, target, interval in rungs for end in (source, target, *interval)]
    if teacher is not None:
        ends.append(teacher.mean.score)
    axis = Axis.around([*ends, control.mean.score])
    rows = [
        {
            "label": f"+ {step.step}",
            "gain": evidence.measure.gained(step.difference.mean, step.difference.ci95 or step.item_bootstrap.ci95),
            "arm": step.target,
            "left": axis.at(min(source, target)),
            "width": round(abs(axis.at(target) - axis.at(source)), 3),
            "end": axis.at(target),
            "range": (axis.at(interval[0]), axis.at(interval[1])),
        }
        for step, source, target, interval in rungs
    ]
    return {
        "start": axis.at(control.mean.score),
        "rows": rows,
        "teacher": axis.at(teacher.mean.score) if teacher is not None else None,
        "ticks": [(axis.at(one), evidence.measure.tick(one)) for one in axis.ticks(4)],
    }


def learning(curves: Mapping[str, Sequence[Curve]], measure: Measure) -> dict[str, Any] | None:
    """The score on validation over steps: a thin line a seed, a thick one their mean."""
    lines: dict[str, list[list[tuple[float, float]]]] = {}
    for name in [one for one in ARMS if one in curves]:
        drawn = [
            [
                (float(point["step"]), max(LEAST, float(point["validation"][measure.name])))
                for point in curve
                if (point.get("validation") or {}).get(measure.name) is not None
            ]
            for curve in curves[name]
        ]
        lines[name] = [one for one in drawn if len(one) > 1]
    everything = [point for several in lines.values() for one in several for point in one]
    if not everything:
        return None
    x = Axis(min(0.0, min(step for step, _ in everything)), max(step for step, _ in everything))
    y = Axis.around([value for _, value in everything], 0.05, least=0.01)
    y = Axis(max(0.0, y.low) if measure.percent else y.low, min(1.0, y.high))
    arms = []
    for name, several in lines.items():
        if several:
            mean = _mean_line(several)
            paths = [_path(one, x, y) for one in several] if len(several) > 1 else []
            arms.append({"arm": name, "thin": paths, "thick": _path(mean, x, y), "last": measure.value(mean[-1][1])})
    return {
        "arms": arms,
        "x": [(x.at(one), f"{one:,g}" if x.high < 10 else f"{one:,.0f}") for one in x.ticks(4)],
        "y": [(y.at(one), measure.tick(one)) for one in y.ticks(4)],
    }


def timeline(evidence: Evidence) -> list[dict[str, Any]] | None:
    """What was made and trained for each arm's first seed, one after another, on one scale of time; None if all have one part."""
    arms = {name: arm.trainings for name, arm in evidence.arms.present().items() if arm.trainings}
    if not any(len(own) > 1 or own[0].making for own in arms.values()):
        return None
    spent = {name: sum(one.making + one.seconds for one in own) for name, own in arms.items()}
    longest = max(spent.values()) or 1.0
    rows = []
    for name, own in arms.items():
        widths, told = list[float](), list[str]()
        for one in own:
            if one.making:
                widths.append(one.making)
                told.append(f"making what {_title(one)} learns from")
            widths.append(one.seconds)
            told.append(f"{_title(one)}, {one.steps:,} steps")
        whole = spent[name]
        if len(told) > MOST_PARTS:
            widths, told = [whole], [f"{len(told):,} parts, {told[0]} to {told[-1]}"]
        rows.append(
            {
                "arm": name,
                "parts": [
                    {"width": round(100 * width / longest, 3), "told": one}
                    for width, one in zip(widths, told, strict=True)
                ],
                "told": "; ".join(told),
                "seconds": whole,
            }
        )
    return rows


def _title(one: Training) -> str:
    return one.name.partition(", seed ")[0]


def over_time(curves: Mapping[str, Sequence[Curve]], evidence: Evidence) -> dict[str, Any] | None:
    """Of a student without data the score on validation of the first seed over the minutes of its trainings; else None.

    Pictures that are made before a training count; within a training all steps are equally long.
    """
    if not evidence.without_data:
        return None
    found: dict[str, list[Curve]] = {}
    for name, arm in evidence.arms.present().items():
        if name != "teacher" and curves.get(name) and arm.trainings:
            found[name] = [_by_minutes(curves[name][0], arm.trainings)]
    return learning(found, evidence.measure)


def _by_minutes(curve: Curve, trainings: Sequence[Training]) -> Curve:
    """The curve with minutes in place of steps; a step between two trainings is the last of the first one."""
    ends = np.cumsum([one.steps for one in trainings])
    begins = np.cumsum([0.0, *(one.making + one.seconds for one in trainings)])
    found = []
    for point in curve:
        place = min(int(np.searchsorted(ends, point["step"])), len(trainings) - 1)
        own = trainings[place]
        share = 1 - (ends[place] - point["step"]) / max(1, own.steps)
        found.append({**point, "step": float(begins[place] + own.making + share * own.seconds) / 60})
    return found


def _mean_line(several: Sequence[Sequence[tuple[float, float]]]) -> list[tuple[float, float]]:
    """The mean over seeds where all of them are, between measurements by straight lines."""
    first = max(one[0][0] for one in several)
    last = min(one[-1][0] for one in several)
    steps = sorted({step for one in several for step, _ in one if first <= step <= last})
    each = [np.interp(steps, [step for step, _ in one], [value for _, value in one]) for one in several]
    return list(zip(steps, np.mean(each, 0).tolist(), strict=True)) if len(steps) > 1 else list(several[0])


def _path(line: Sequence[tuple[float, float]], x: Axis, y: Axis) -> str:
    """The points of an SVG polyline in a box of 100 by 100, the first quadrant up."""
    if len(line) > MOST_POINTS:
        line = [line[one] for one in np.linspace(0, len(line) - 1, MOST_POINTS).round().astype(int)]
    return " ".join(f"{x.at(step):g},{100 - y.at(value):g}" for step, value in line)


def reliability(evidence: Evidence) -> list[dict[str, Any]]:
    """Confidence against accuracy, a bar a bin, of the teacher, the control and the distilled student."""
    shown = evidence.arms.present()
    return [
        {"arm": name, "bars": _bars(shown[name].mean.reliability), "ece": shown[name].mean.ece}
        for name in ("teacher", "control", "distilled")
        if name in shown and shown[name].mean.reliability
    ]


def _bars(bins: Sequence[Bin]) -> list[dict[str, float]]:
    most = max(one.count for one in bins) or 1
    total = sum(one.count for one in bins) or 1
    return [
        {
            "left": round(100 * one.low, 3),
            "width": round(100 * (one.high - one.low), 3),
            "height": round(100 * one.accuracy, 2),
            "middle": round(100 * one.confidence, 2),
            "weight": round(0.25 + 0.75 * (one.count / most) ** 0.5, 3),  # what few examples say is drawn faintly
            "count": one.count / total,
        }
        for one in bins
        if one.accuracy is not None and one.confidence is not None
    ]


def heat(matrix: Sequence[Sequence[float]]) -> list[dict[str, Any]]:
    """A matrix of cosines as one path a shade: ten shades below zero and ten above, in a box of C by C."""
    shades: dict[int, list[str]] = {}
    for row, values in enumerate(matrix):
        for column, value in enumerate(values):
            shades.setdefault(round(10 * value), []).append(f"M{column} {row}h1v1h-1z")
    return [
        {"sign": "less" if shade < 0 else "more", "opacity": abs(shade) / 10, "path": "".join(cells)}
        for shade, cells in sorted(shades.items())
        if shade
    ]

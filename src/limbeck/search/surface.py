"""A picture of the response surface: the score on validation over the searched fields."""

from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any, Final, Literal

from limbeck.data.measure import Measure
from limbeck.search.fields import Field, short, shown

_MOST_PAIRS: Final = 3  # fields that are shown pair by pair; more are shown one by one
_MOST_NUMBERS: Final = 15  # more would hide each other
_DPI: Final = 150
_UNITS: Final = {
    "temperature": "T",
    "steps": "optimiser steps",
    "epochs": "passes",
    "batch-size": "examples",
}


def draw(
    path: Path,
    chosen: Sequence[Field],
    trials: Sequence[Mapping[str, Any]],
    winner: Mapping[str, Any] | None,
    own: Mapping[str, Any],
    measure: Measure,
    title: str,
) -> None:
    """One field: a curve; two or three: a heat map (or coloured points) for each pair; more: points for each field.

    ``trials``: records with ``settings``, ``state`` and their score by the measure's name. ``own``: the recipe's own settings
    by field.
    """
    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    found = [(trial, trial.get(measure.name)) for trial in trials]
    drawn = [{**trial, "shown": measure.scale * score} for trial, score in found if score is not None]
    best = None if winner is None else {**winner, "shown": measure.scale * winner[measure.name]}
    label = f"validation {measure.name}" + ", %" * measure.percent
    pairs = list(combinations(chosen, 2)) if 1 < len(chosen) <= _MOST_PAIRS else []
    count = len(pairs) or len(chosen)
    columns = min(3, count)
    lines = -(-count // columns)
    with mpl.rc_context({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False}):
        figure = Figure(figsize=(max(6.0, 4.6 * columns), 0.7 + 3.9 * lines), facecolor="white", layout="constrained")
        FigureCanvasAgg(figure)
        for place in range(count):
            axes = figure.add_subplot(lines, columns, place + 1)
            if pairs:
                _plane(figure, axes, pairs[place], drawn, best, own, label)
            else:
                _line(axes, chosen[place], drawn, best, own, label, alone=len(chosen) == 1)
        figure.suptitle(title, fontsize=10)
        figure.savefig(path, dpi=_DPI, metadata={"Software": None})


def _line(
    axes: Any,
    field: Field,
    trials: Sequence[Mapping[str, Any]],
    winner: Any,
    own: Mapping[str, Any],
    label: str,
    alone: bool,
) -> None:
    axis = _Axis(field, trials, cells=False)
    done = sorted((axis.at(one), one["shown"]) for one in trials if one["state"] == "complete")
    cut = [(axis.at(one), one["shown"]) for one in trials if one["state"] == "pruned"]
    axes.plot(*_columns(done), "o" + "-" * alone, color="#1f5fa8", label="trained to the end of its budget")
    if cut:
        axes.plot(*_columns(cut), "o", color="#9a9a9a", fillstyle="none", label="ended early, at its last evaluation")
    if winner:
        axes.plot([axis.at(winner)], [winner["shown"]], "*", color="#d1600a", markersize=15, label="best")
    if (place := axis.place(own.get(field.path))) is not None:
        axes.axvline(place, color="#555555", linestyle=":", linewidth=1, label="the recipe's own")
    axis.label(axes, "x")
    axes.set_ylabel(label)
    axes.grid(color="#e6e6e6", linewidth=0.7)
    axes.set_axisbelow(True)
    axes.legend(fontsize=7, frameon=False, markerscale=0.6, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2)


def _plane(
    figure: Any,
    axes: Any,
    pair: Sequence[Field],
    trials: Sequence[Mapping[str, Any]],
    winner: Any,
    own: Mapping[str, Any],
    label: str,
) -> None:
    across, up = (_Axis(field, trials) for field in pair)
    done = [one for one in trials if one["state"] == "complete"]
    cut = [one for one in trials if one["state"] == "pruned"]
    drawn = _cells if across.steps and up.steps else _points
    above = 0.25 if drawn is _cells else 0.0  # the number of its cell
    image = drawn(axes, across, up, done, cut)
    if image is not None:
        figure.colorbar(image, ax=axes, label=label)
    if winner:
        axes.plot([across.at(winner)], [up.at(winner) + above], "*", color="#d1600a", markersize=15, markeredgecolor="white",
                  linestyle="none", label="best")  # fmt: skip
    x, y = across.place(own.get(pair[0].path)), up.place(own.get(pair[1].path))
    if x is not None and y is not None:
        axes.plot(
            [x],
            [y + above],
            "s",
            color="#333333",
            fillstyle="none",
            markersize=13,
            linestyle="none",
            label="the recipe's own",
        )
    across.label(axes, "x")
    up.label(axes, "y")
    if axes.get_legend_handles_labels()[0]:
        axes.legend(fontsize=7, frameon=False, markerscale=0.6, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3)


def _cells(axes: Any, across: "_Axis", up: "_Axis", done: Sequence[Any], cut: Sequence[Any]) -> Any:
    """A heat map; each cell is the best of the trials in it, a grey one ended early."""
    import numpy as np

    table = np.full((len(up.steps), len(across.steps)), np.nan)
    for one in done:
        x, y = int(across.at(one)), int(up.at(one))
        table[y, x] = np.nanmax([table[y, x], one["shown"]])
    image = None
    if done:
        image = axes.imshow(table, origin="lower", aspect="auto", cmap="Blues", **_limits(done))
    else:
        axes.set_xlim(-0.5, len(across.steps) - 0.5)
        axes.set_ylim(-0.5, len(up.steps) - 0.5)
    early: dict[tuple[int, int], float] = {}
    for one in cut:
        cell = int(across.at(one)), int(up.at(one))
        early[cell] = max(early.get(cell, 0.0), one["shown"])
    for y, x in np.ndindex(*table.shape):
        if not np.isnan(table[y, x]):
            dark = image is not None and image.norm(table[y, x]) > 0.6
            axes.text(x, y, f"{table[y, x]:.1f}", ha="center", va="center", color="white" if dark else "black")
        elif (x, y) in early:
            axes.text(x, y, f"{early[x, y]:.1f}\nended early", ha="center", va="center", color="#777777", fontsize=7)
    axes.set_facecolor("#f2f2f2")
    return image


def _points(axes: Any, across: "_Axis", up: "_Axis", done: Sequence[Any], cut: Sequence[Any]) -> Any:
    """A point for each trial, coloured by its score; the ones that ended early are crosses."""
    image = None
    if done:
        x, y = [across.at(one) for one in done], [up.at(one) for one in done]
        image = axes.scatter(x, y, c=[one["shown"] for one in done], cmap="Blues", s=55, edgecolors="#1f3c5f",
                             **_limits(done))  # fmt: skip
        for one in done if len(done) <= _MOST_NUMBERS else ():
            axes.annotate(f"{one['shown']:.1f}", (across.at(one), up.at(one)), (10, 0), fontsize=7, va="center",
                          textcoords="offset points")  # fmt: skip
    if cut:
        axes.plot([across.at(one) for one in cut], [up.at(one) for one in cut], "x", color="#9a9a9a", linestyle="none",
                  label="ended early")  # fmt: skip
    axes.grid(color="#e6e6e6", linewidth=0.7)
    axes.set_axisbelow(True)
    return image


def _limits(done: Sequence[Any]) -> dict[str, float]:
    """Of the colours: a little below the lowest, so that it can be seen on white."""
    found = [one["shown"] for one in done]
    low, high = min(found), max(found)
    return {"vmin": low - 0.25 * max(high - low, 0.1), "vmax": max(high, low + 0.1)}


class _Axis:
    """Where values stand: numbers of a range at their place, chosen values at equal steps."""

    def __init__(self, field: Field, trials: Sequence[Mapping[str, Any]], cells: bool = True) -> None:
        self.field = field
        found: list[Any] = list(field.values)
        values = {one["settings"][field.path] for one in trials}
        if cells and not found and all(value in field.points() for value in values):  # a grid over a range
            found = list(field.points())
        ordered = all(isinstance(value, int | float) for value in found)
        self.steps = sorted(found) if ordered else found

    def place(self, value: Any) -> float | None:
        """Where it stands; None if it is not on the axis."""
        if self.steps:
            return float(self.steps.index(value)) if value in self.steps else None
        number = isinstance(value, int | float) and not isinstance(value, bool)
        return float(value) if number and self.field.low <= value <= self.field.high else None

    def at(self, trial: Mapping[str, Any]) -> float:
        """Where the trial stands."""
        found = self.place(trial["settings"][self.field.path])
        assert found is not None
        return found

    def label(self, axes: Any, which: Literal["x", "y"]) -> None:
        """The field, its unit if it has one, and the values."""
        axis = axes.xaxis if which == "x" else axes.yaxis
        unit = _UNITS.get(self.field.path.rpartition(".")[2])
        axis.set_label_text(short(self.field.path) + (f" ({unit})" if unit else ""))
        if self.steps:
            axis.set_ticks(range(len(self.steps)), [shown(value) for value in self.steps])
        elif self.field.log:
            from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

            axes.set(**{f"{which}scale": "log"})
            margin = (self.field.high / self.field.low) ** 0.05
            axes.set(**{f"{which}lim": (self.field.low / margin, self.field.high * margin)})
            axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
            axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            axis.set_minor_formatter(NullFormatter())
        else:
            margin = 0.05 * (self.field.high - self.field.low)
            axes.set(**{f"{which}lim": (self.field.low - margin, self.field.high + margin)})


def _columns(points: Sequence[tuple[float, float]]) -> tuple[list[float], list[float]]:
    return [x for x, _ in points], [y for _, y in points]

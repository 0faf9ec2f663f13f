"""How a task's scores are written: shares in percent and their differences in points, others as plain numbers."""

from dataclasses import dataclass

from limbeck.data.task import Task

Interval = tuple[float, float]


@dataclass(frozen=True)
class Measure:
    """What scores are called. ``percent``: they are shares; else plain numbers."""

    name: str = "accuracy"
    percent: bool = True

    @classmethod
    def of(cls, task: Task) -> "Measure":
        """That of a task: shares of what is right, or plain numbers, as of variance explained or reciprocal ranks."""
        return cls(task.measure, task.gives == "choices")

    @property
    def scale(self) -> float:
        """What a value is multiplied by before it is written."""
        return 100.0 if self.percent else 1.0

    @property
    def unit(self) -> str:
        """Of a difference, with the space before it."""
        return " points" if self.percent else ""

    def value(self, value: float) -> str:
        """A score: ``97.2 %`` or ``0.812``."""
        return f"{self.scale * value:.1f}\N{NO-BREAK SPACE}%" if self.percent else _minus(f"{value:.3f}")

    def spread(self, value: float) -> str:
        """A standard deviation of scores: ``1.2`` or ``0.012``."""
        return f"{self.scale * value:.{1 if self.percent else 3}f}"

    def tick(self, value: float) -> str:
        """A round score on an axis: ``97.5 %`` or ``0.8``."""
        return f"{self.scale * value:g}\N{NO-BREAK SPACE}%" if self.percent else _minus(f"{value:g}")

    def signed_tick(self, value: float) -> str:
        """A round difference on an axis: ``+0.5`` or ``0``."""
        return _minus(f"{self.scale * value:+g}") if value else "0"

    def decimals(self, *values: float) -> int:
        """Of differences that are read together: one more where the usual would leave little of a percentage point."""
        return (1 if self.percent else 3) + any(0 < abs(value) < 0.0095 for value in values)

    def points(self, value: float, signed: bool = True, digits: int | None = None) -> str:
        """A difference: ``+1.3`` (percentage points) or ``+0.013``, with a true minus sign."""
        digits = self.decimals(value) if digits is None else digits
        text = f"{self.scale * value:{'+' if signed else ''}.{digits}f}"
        return f"{0:.{digits}f}" if float(text) == 0 else _minus(text)

    def amount(self, value: float) -> str:
        """A threshold of differences, as short as it was given: ``0.5``, ``2``; ``0.005``."""
        return f"{self.scale * value:.4g}"

    def span(self, interval: Interval, digits: int | None = None) -> str:
        """An interval of differences: ``+0.7 to +1.9``."""
        digits = self.decimals(*interval) if digits is None else digits
        return f"{self.points(interval[0], digits=digits)} to {self.points(interval[1], digits=digits)}"

    def gained(
        self, mean: float, interval: Interval | None, unit: str | None = None, before: str = "", after: str = ""
    ) -> str:
        """A difference with its interval, if there is one: ``+1.31 points (-0.10 to +2.77)``."""
        digits = self.decimals(mean, *(interval or ()))
        bracket = f" ({before}{self.span(interval, digits)}{after})" if interval else ""
        return f"{self.points(mean, digits=digits)}{self.unit if unit is None else unit}{bracket}"


def _minus(text: str) -> str:
    return text.replace("-", "\N{MINUS SIGN}")


ACCURACY = Measure()

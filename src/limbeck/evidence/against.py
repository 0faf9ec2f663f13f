"""The distilled student beside a control: their difference, its two intervals, and what limits them."""

from collections.abc import Mapping
from dataclasses import dataclass

from limbeck.evidence.comparison import FEW, Scores, difference, item_bootstrap, paired
from limbeck.evidence.exam import Exam
from limbeck.evidence.records import Bootstrap, Difference, Matched
from limbeck.evidence.verdict import decide, sentence


@dataclass(frozen=True)
class Beside:
    """The distilled student (``high``) beside another arm (``low``), over the ``seeds`` that both have; scores [S, N]."""

    seeds: tuple[int, ...]
    low: Scores
    high: Scores
    gap: Difference
    items: Bootstrap

    @property
    def pair(self) -> tuple[float, float]:
        """Their mean scores."""
        return float(self.low.mean()), float(self.high.mean())


@dataclass(frozen=True)
class Comparing:
    """How scores are compared. ``bounded``: whether that of an example has a lowest and a highest value."""

    exam: Exam
    bounded: bool
    smallest_effect: float
    resamples: int
    seed: int

    def beside(self, other: Mapping[int, Scores], distilled: Mapping[int, Scores]) -> Beside | None:
        """None where they share no seed."""
        low, high = paired(other, distilled)
        if not len(low):
            return None
        gap = difference(high.mean(1).tolist(), low.mean(1).tolist(), resolution=1 / self.exam.examples)
        items = item_bootstrap(high, low, self.resamples, self.seed, self.bounded)
        return Beside(tuple(one for one in other if one in distilled), low, high, gap, items)

    def matched(self, other: Mapping[int, Scores], distilled: Mapping[int, Scores]) -> Matched | None:
        """The distilled student against the control that was given as much compute."""
        found = self.beside(other, distilled)
        if found is None:
            return None
        return Matched(
            verdict=decide(found.gap, found.items, self.smallest_effect),
            sentence=sentence(found.gap, found.items, found.pair, self.smallest_effect, None, self.exam.measure),
            difference=found.gap,
            item_bootstrap=found.items,
        )

    def remarks(self, beside: Beside, runs: int) -> list[str]:
        """What limits the comparison with the control. ``runs``: how many the arm with more of them has."""
        said, items = list[str](), beside.items
        if len(beside.seeds) < runs:
            shared = ", ".join(map(str, beside.seeds))
            said.append(f"Only seeds {shared} have both a control and a distilled student.")
        if not self.bounded:
            said.append(
                f"The {self.exam.measure.name} of a single example has no lowest value, so the interval over test examples is "
                "the bootstrap's alone: no exact bound stands behind it where few examples differ."
            )
        elif items.telling is not None and items.telling < FEW:
            said.append(
                f"Only {items.telling} of {items.examples:,} test examples tell the distilled student from the control, too "
                "few for the bootstrap alone: the interval over test examples is at least as wide as an exact bound."
            )
        return said

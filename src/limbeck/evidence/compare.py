"""Two or more evidences side by side."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from limbeck.data.measure import ACCURACY
from limbeck.evidence.figures import percent, short, size
from limbeck.evidence.schema import Evidence
from limbeck.evidence.verdict import outcome


@dataclass(frozen=True)
class Comparison:
    """A table of texts: ``columns`` are the runs, ``rows`` a name and a cell a run (``None``: not known)."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str, tuple[str | None, ...]], ...]
    warnings: tuple[str, ...]


def compare(evidences: Sequence[Evidence]) -> Comparison:
    """The evidences side by side, and what forbids to compare them.

    Two runs with one name are told apart by their place in the list.
    """
    names = [one.name for one in evidences]
    columns = tuple(
        name if names.count(name) == 1 else f"{name} ({place})" for place, name in enumerate(names, start=1)
    )
    metrics = dict.fromkeys(name for one in evidences for name in one.arms.distilled.mean.metrics)
    rows = [(name, tuple(cell(one) for one in evidences)) for name, cell in _CELLS]
    rows += [(name, tuple(_metric(one, name) for one in evidences)) for name in metrics]
    known = tuple(row for row in rows if any(cell is not None for cell in row[1]))
    return Comparison(columns, known, tuple(_warnings(evidences, columns)))


def _metric(evidence: Evidence, name: str) -> str | None:
    value = evidence.arms.distilled.mean.metrics.get(name)
    return None if value is None else f"{value:.3f}"


def _difference(evidence: Evidence) -> str | None:
    gap = evidence.difference
    if gap is None:
        return None
    return evidence.measure.gained(gap.mean, gap.ci95) + ("" if gap.ci95 else " (one seed)")


def _score(arm: str) -> Callable[[Evidence], str | None]:
    def cell(evidence: Evidence) -> str | None:
        found = getattr(evidence.arms, arm)
        return evidence.measure.value(found.mean.score) if found else None

    return cell


def _measure(evidence: Evidence) -> str | None:
    return evidence.measure.name if evidence.measure != ACCURACY else None


def _plain(name: str) -> Callable[[Evidence], str | None]:
    def cell(evidence: Evidence) -> str | None:
        value = getattr(evidence.arms.distilled.mean, name)
        return None if value is None else f"{value:.3f}"

    return cell


def _agreement(evidence: Evidence) -> str | None:
    found = evidence.fidelity.get("distilled")
    return percent(found.agreement) if found and found.agreement is not None else None


def _parameters(evidence: Evidence) -> str | None:
    cost = evidence.arms.distilled.efficiency
    return short(cost.parameters) if cost else None


def _bytes(evidence: Evidence) -> str | None:
    cost = evidence.arms.distilled.efficiency
    return size(cost.bytes_on_disk) if cost else None


def _latency(evidence: Evidence) -> str | None:
    cost = evidence.arms.distilled.efficiency
    return f"{short(cost.latency.p50_ms)}\N{NO-BREAK SPACE}ms" if cost and cost.latency else None


def _gap(evidence: Evidence) -> str | None:
    closed = evidence.gap_closed
    return None if closed is None or closed.value is None else percent(closed.value)


_CELLS: tuple[tuple[str, Callable[[Evidence], str | None]], ...] = (
    ("verdict", outcome),
    ("measure", _measure),
    ("distilled", _score("distilled")),
    ("control", _score("control")),
    ("teacher", _score("teacher")),
    ("difference", _difference),
    ("gap closed", _gap),
    ("agreement", _agreement),
    ("NLL", _plain("nll")),
    ("ECE", _plain("ece")),
    ("squared error", _plain("mse")),
    ("parameters", _parameters),
    ("on disk", _bytes),
    ("latency", _latency),
    ("seeds", lambda one: str(len(one.arms.distilled.per_seed))),
    ("train", lambda one: None if one.data.train is None else f"{one.data.train:,}"),
    ("labelled", lambda one: None if one.data.labelled is None else f"{one.data.labelled:,}"),
    ("test", lambda one: f"{one.data.test:,}"),
)


def _warnings(evidences: Sequence[Evidence], columns: Sequence[str]) -> list[str]:
    """Reasons why the columns do not speak of the same thing."""
    found = []
    first = evidences[0]
    for other, name in zip(evidences[1:], columns[1:], strict=True):
        pair = f"{columns[0]!r} and {name!r}"
        one, two = first.provenance, other.provenance
        if one.data_fingerprint is None or two.data_fingerprint is None:
            found.append(f"Whether {pair} were judged on the same data is unknown: a data fingerprint is missing.")
        elif one.data_fingerprint != two.data_fingerprint:
            found.append(f"{pair} were judged on different data: their numbers are not comparable.")
        elif first.data.test != other.data.test or first.data.classes != other.data.classes:
            found.append(f"{pair} were judged on different test sets: their numbers are not comparable.")
        if first.measure != other.measure:
            found.append(
                f"{pair} were judged by {first.measure.name} and by {other.measure.name}: their numbers are not comparable."
            )
        if (one.device, one.threads) != (two.device, two.threads):
            found.append(f"{pair} were measured on different devices or threads: their times are not comparable.")
    return found

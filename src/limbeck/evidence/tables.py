"""The tables of the report."""

from collections.abc import Callable
from typing import Any

from limbeck.data.measure import ACCURACY
from limbeck.evidence.besides import Form, Written
from limbeck.evidence.figures import compute, lasting, number, percent, share, short, size
from limbeck.evidence.metrics import TITLES
from limbeck.evidence.records import Arm
from limbeck.evidence.schema import Evidence
from limbeck.evidence.words import NAMES, several, titled

Cell = tuple[str, str | None] | None  # value, spread


def quality_and_cost(evidence: Evidence) -> list[dict[str, Any]]:
    """Rows of the table of arms; a row without cells is a heading."""
    arms = evidence.arms.present()
    rows: list[dict[str, Any]] = [{"name": "Quality on the test set", "cells": None}]

    def add(name: str, cell: Callable[[Arm], Cell]) -> None:
        cells = [cell(arm) for arm in arms.values()]
        if any(one is not None for one in cells):
            rows.append({"name": name, "cells": cells})

    def spread(arm: Arm, name: str, digits: int) -> str | None:
        value = arm.sd.get(name)
        return None if value is None else f"{value:.{digits}f}"

    def plain(name: str) -> Callable[[Arm], Cell]:
        def cell(arm: Arm) -> Cell:
            value = getattr(arm.mean, name)
            return None if value is None else (number(value), spread(arm, name, 3))

        return cell

    measure = evidence.measure
    add(
        titled(measure.name),
        lambda arm: (measure.value(arm.mean.score), None if arm.spread is None else measure.spread(arm.spread)),
    )
    if several(evidence):
        add("Answers that are right", _right)
    for name, title in (("nll", "NLL"), ("ece", "ECE"), ("brier", "Brier"), ("mse", "Squared error")):
        add(title, plain(name))
    for name in evidence.arms.distilled.mean.metrics:

        def metric(arm: Arm, name: str = name) -> Cell:
            value = arm.mean.metrics.get(name)
            return None if value is None else (number(value), spread(arm, name, 3))

        add(TITLES.get(name, name), metric)
    rows.append({"name": "Cost", "cells": None})
    add("Parameters", lambda arm: (short(arm.efficiency.parameters), None) if arm.efficiency else None)
    add("On disk", lambda arm: (size(arm.efficiency.bytes_on_disk), None) if arm.efficiency else None)
    add("Latency, median", lambda arm: _latency(arm, "p50_ms"))
    add("Latency, 95th percentile", lambda arm: _latency(arm, "p95_ms"))
    add("Examples per second", _throughput)
    add("Training time per seed", _training)
    add("Training steps", _steps)
    add("Training compute", lambda arm: (compute(arm.flops), None) if arm.flops is not None else None)
    return rows if rows[-1]["cells"] is not None else rows[:-1]


def _right(arm: Arm) -> Cell:
    value, spread = arm.mean.accuracy, arm.sd.get("accuracy")
    return None if value is None else (percent(value), None if spread is None else ACCURACY.spread(spread))


def _latency(arm: Arm, which: str) -> Cell:
    latency = arm.efficiency and arm.efficiency.latency
    return (f"{short(getattr(latency, which))}\N{NO-BREAK SPACE}ms", None) if latency else None


def _throughput(arm: Arm) -> Cell:
    cost = arm.efficiency
    return (short(cost.throughput), None) if cost and cost.throughput is not None else None


def _training(arm: Arm) -> Cell:
    times = arm.training_seconds
    if not times:
        return None
    mean = sum(times) / len(times)
    return lasting(mean), None


def _steps(arm: Arm) -> Cell:
    return (f"{sum(arm.steps) / len(arm.steps):,.0f}", None) if arm.steps else None


def fidelity(evidence: Evidence) -> dict[str, Any] | None:
    """Rows of the table of likeness to the teacher."""
    arms = [one for one in ("control", "distilled") if one in evidence.fidelity]
    if not arms:
        return None
    each = [evidence.fidelity[one] for one in arms]

    wrong = each[0].teacher_wrong or 0
    relations = [one.relations for one in each]
    rows: list[tuple[str, list[str | None]]] = [
        ("Same answer as the teacher", [share(one.agreement) for one in each]),
        (
            f"Same answer where the teacher is wrong ({wrong:,})",
            [share(one.agreement_where_teacher_wrong) for one in each],
        ),
        ("KL from the teacher, nats", [_score(one.kl, 3) for one in each]),
        ("Jensen-Shannon, nats", [_score(one.js, 3) for one in each]),
        ("Correlation with the teacher", [_score(one.correlation, 3) for one in each]),
        ("Squared difference from the teacher", [_score(one.squared_difference, 3) for one in each]),
        ("Class relations, Pearson", [_score(one.pearson) if one else None for one in relations]),
        ("Class relations, Spearman", [_score(one.spearman) if one else None for one in relations]),
    ]
    shown = [{"name": name, "cells": cells} for name, cells in rows if any(cell is not None for cell in cells)]
    last = relations[-1]
    return {"arms": arms, "rows": shown, "reason": last.reason if last else None}


def _score(value: float | None, digits: int = 2) -> str | None:
    return None if value is None else number(value, digits)


def teachers(evidence: Evidence) -> dict[str, Any] | None:
    """Rows of the table of several teachers, a column each, and of each two of them."""
    found = evidence.teachers
    if found is None:
        return None
    members, measure = found.members, evidence.measure
    rows: list[tuple[str, list[str | None]]] = [
        (titled(measure.name), [measure.value(one.score) for one in members]),
        ("Weight in their mean", [share(one.weight) for one in members]),
        ("Routed to it", [share(one.routed) for one in members]),
        ("Same answer as the student", [share(one.agreement) for one in members]),
    ]
    for other in members:
        pairs = {frozenset((one.one, one.other)): one for one in found.pairs}
        each = [pairs.get(frozenset((one.name, other.name))) for one in members]
        rows.append((f"Other answer than {other.name}", [share(one.differing) if one else None for one in each]))
    js = [one.js for one in found.pairs if one.js is not None]
    differing = [one.differing for one in found.pairs if one.differing is not None]
    note = "Of the test part." + " What was routed: of the training part, at the end." * any(
        one.routed for one in members
    )
    if differing:
        note += f" Two of them answer differently {percent(sum(differing) / len(differing))} of the time, on average"
        note += f"; Jensen-Shannon divergence {number(sum(js) / len(js))} nats." if js else "."
    return {
        "names": [one.name for one in members],
        "rows": [{"name": name, "cells": cells} for name, cells in rows if any(cell is not None for cell in cells)],
        "note": note,
    }


def writing(evidence: Evidence) -> dict[str, Any] | None:
    """What language models write, in numbers: the reference first, then the arms in their order."""
    found = evidence.samples
    if found is None or not found.arms:
        return None
    names = [name for name in evidence.arms.present() if name in found.arms]
    kinds = (
        ("The likeliest token at every step", [found.arms[name].likeliest for name in names]),
        (f"Drawn at temperature {found.temperature:g}", [found.arms[name].drawn for name in names]),
    )
    rows: list[dict[str, Any]] = []
    for heading, each in kinds:
        rows.append({"name": heading, "cells": None})
        for title, cell in _WRITTEN:
            cells = [cell(one) for one in (found.reference, *each)]
            if any(one is not None for one in cells[1:]):
                rows.append({"name": title, "cells": cells})
        for name in found.reference.watched:
            cells = [share(one.watched.get(name)) for one in (found.reference, *each)]
            rows.append({"name": f"Texts with {name}", "cells": cells})
    reasons = [f"{NAMES.get(name, name)} is left out: {why.rstrip('.')}." for name, why in found.left_out.items()]
    note = (
        f"{found.prompts:,} prompts of the test part, at most {found.new_tokens:,} tokens after each, first seed. Reference: "
        "what stands there, cut at the same length. Higher is not better: compare with the reference. Different tokens become "
        "rarer, and repetitions more frequent, as texts grow longer."
    )
    if any(one["name"] == _EXACT for one in rows):
        note += f" {_EXACT}: {_COMPARED[found.compared]}."
    if found.reference.teacher_nll is not None:
        note += " KL to the teacher there: from the writer's next tokens to its teacher's, along what it wrote itself."
    return {"names": names, "rows": rows, "note": " ".join([note, *reasons])}


_EXACT = "Exactly the reference"
_COMPARED: dict[Form, str] = {
    "text": "but for white space",
    "folded": "but for case, width, white space and stops at the end",
    "squad": "but for case, punctuation, English articles and white space (SQuAD)",
}
_WRITTEN: tuple[tuple[str, Callable[[Written], str | None]], ...] = (
    ("Different tokens (distinct-1)", lambda one: share(one.distinct_1)),
    ("Different pairs (distinct-2)", lambda one: share(one.distinct_2)),
    ("Repeated 4-grams", lambda one: share(one.repetition)),
    ("Texts that go in a loop", lambda one: share(one.looping)),
    ("Mean length, tokens", lambda one: None if one.mean_length is None else number(one.mean_length, 1)),
    ("Texts that end", lambda one: share(one.ended)),
    (_EXACT, lambda one: share(one.exact_match)),
    ("Tokens in common with it (ROUGE-L)", lambda one: share(one.rouge_l)),
    ("NLL by the teacher, nats a token", lambda one: _score(one.teacher_nll)),
    ("KL to the teacher there, nats a token", lambda one: _score(one.teacher_kl)),
)

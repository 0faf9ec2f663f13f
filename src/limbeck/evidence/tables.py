"""The words and tables of the report."""

from collections.abc import Callable
from typing import Any

from limbeck.data.measure import ACCURACY
from limbeck.evidence.besides import Written
from limbeck.evidence.comparison import FEW
from limbeck.evidence.records import Arm, Matched
from limbeck.evidence.schema import Evidence
from limbeck.evidence.verdict import who, worse

NAMES = {
    "teacher": "Teacher",
    "control": "Control",
    "final_stage": "Control, last training",
    "equal_compute": "Control, equal compute",
    "ceiling": "Control, all labels",
    "joint": "All tasks at once",
    "apart": "A student each",
    "central": "All rows in one place",
    "pseudo_labels": "Pseudo-labels",
    "best_single": "Best teacher alone",
    "soft_targets": "Soft targets",
    "off_policy": "Off-policy",
    "direct": "First teacher alone",
    "with_data": "Distilled with data",
    "fixed_teacher": "Fixed teacher",
    "unkept": "Nothing kept",
    "distilled": "Distilled",
}
Cell = tuple[str, str | None] | None  # value, spread


def number(value: float, digits: int = 3) -> str:
    """A number with a fixed count of decimals and a true minus sign."""
    return f"{value:,.{digits}f}".replace("-", "\N{MINUS SIGN}")


def short(value: float) -> str:
    """Three figures or so, with thousands: ``0.42``, ``9.81``, ``1,240``, ``66.4 M``."""
    for unit_size, unit in ((1e9, "G"), (1e6, "M")):
        if value >= unit_size:
            return f"{value / unit_size:,.{1 if value >= 10 * unit_size else 2}f}\N{NO-BREAK SPACE}{unit}"
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.2f}" if value < 10 else f"{value:.1f}"


def percent(value: float) -> str:
    """A share: ``97.2 %``."""
    return ACCURACY.value(value)


def titled(name: str) -> str:
    """With a capital: ``Accuracy``; ``R²`` as it is."""
    return name[:1].upper() + name[1:]


def size(count: int) -> str:
    """Bytes in decimal units."""
    for power, unit in ((9, "GB"), (6, "MB"), (3, "kB")):
        if count >= 10**power:
            return f"{count / 10**power:.3g}\N{NO-BREAK SPACE}{unit}"
    return f"{count}\N{NO-BREAK SPACE}B"


def question(evidence: Evidence) -> str:
    """What the report answers."""
    return f"Did {about(evidence)} help?"


def about(evidence: Evidence) -> str:
    """See `limbeck.evidence.verdict.who`."""
    return who(evidence.provenance, evidence.arms.teacher is not None, evidence.arms.unkept is not None)


def headline(evidence: Evidence) -> tuple[str, str]:
    """The verdict in large letters, and its tone."""
    if evidence.verdict == "helped":
        return f"Yes, {about(evidence)} helped.", "helped"
    if evidence.verdict == "did not help":
        did = "made it worse" if worse(evidence.difference, evidence.item_bootstrap) else "did not help"
        return f"No, {about(evidence)} {did}.", "not"
    return "Cannot tell.", "open"


def against(matched: Matched) -> str:
    """The verdict's sentence, of the control that was given as much compute."""
    return f"Against a control with as much compute: {matched.sentence[:1].lower()}{matched.sentence[1:]}"


def compared(evidence: Evidence) -> str:
    """One line: which models, which data, how often."""
    data, arms = evidence.data, evidence.arms
    runs = len(arms.distilled.per_seed)
    times = {1: "once", 2: "twice"}.get(runs, f"{runs} times")
    learnt = ""
    if data.train is not None:
        learnt = f" on {data.train:,} examples"
        if data.labelled is not None:
            learnt += " (all labelled)" if data.labelled == data.train else f" ({data.labelled:,} labelled)"
    asked = f"{len(evidence.tasks)} tasks" if evidence.tasks else data.outputs and f"{data.classes:,} {data.outputs}"
    judged = f"judged on the same {data.test:,} test examples{f' of {asked}' if asked else ''}."
    if arms.with_data:
        return (
            f"A student that saw no training example against the same student trained{learnt}, each {times}, {judged}"
        )
    taught, alone = (
        ("with a teacher", "without a teacher")
        if about(evidence) == "the teacher"
        else ("with this teaching", "without it")
    )
    against = f"the same student {alone}" if arms.control else "nothing, for there is no control"
    return f"A student {taught} against {against}, each trained {times}{learnt}, {judged}"


def tiles(evidence: Evidence) -> list[dict[str, str]]:
    """The figures that a reader in a hurry wants."""
    found: list[dict[str, str]] = []
    measure = evidence.measure

    def add(name: str, value: str, more: str = "") -> None:
        found.append({"name": name, "value": value, "more": more})

    kept = evidence.keeps
    if kept and kept.ratio is not None:
        below = f"{measure.amount(kept.margin)}{measure.unit} below it"
        if kept.non_inferior:
            more = f"surely no more than {below}"
        else:
            more = f"surely more than {below}" if kept.ci95[1] < -kept.margin else f"perhaps more than {below}"
        add(f"Teacher's {measure.name} kept", percent(kept.ratio), more)
    gaps = {"Gap to the teacher closed": evidence.gap_closed, "Gap to all labels recovered": evidence.gap_recovered}
    for title, gap in gaps.items():
        if gap is not None and gap.value is None:
            add(title, "–", gap.reason or "")
        elif gap is not None and gap.value is not None:
            between = (
                f"95\N{NO-BREAK SPACE}% interval {_share(gap.ci95[0])} to {_share(gap.ci95[1])}"
                if gap.ci95
                else gap.reason or ""
            )
            add(title, _share(gap.value), between)
    student, teacher = evidence.arms.distilled.efficiency, evidence.arms.teacher and evidence.arms.teacher.efficiency
    if student and teacher:
        if student.parameters:
            ratio = teacher.parameters / student.parameters
            more = f"{student.parameters:,} parameters, {size(student.bytes_on_disk)}"
            add(*_times(ratio, "Smaller", "Larger"), more)
        if student.latency and teacher.latency and student.latency.p50_ms and teacher.latency.p50_ms:
            ratio = teacher.latency.p50_ms / student.latency.p50_ms
            more = f"{short(student.latency.p50_ms)} ms for one example on {_device(student.device)}"
            add(*_times(ratio, "Faster", "Slower"), more)
    return found


def _times(ratio: float, more: str, less: str) -> tuple[str, str]:
    """A ratio above 1, and what it is called."""
    return (more, f"{short(ratio)}×") if ratio >= 1 else (less, f"{short(1 / ratio)}×")


def _share(value: float) -> str:
    return f"{100 * value:.0f}\N{NO-BREAK SPACE}%".replace("-", "\N{MINUS SIGN}")


def _device(name: str) -> str:
    return "CPU" if name == "cpu" else name


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
    if _several(evidence):
        add("Answers that are right", _right)
    for name, title in (("nll", "NLL"), ("ece", "ECE"), ("brier", "Brier"), ("mse", "Squared error")):
        add(title, plain(name))
    for name in evidence.arms.distilled.mean.metrics:

        def metric(arm: Arm, name: str = name) -> Cell:
            value = arm.mean.metrics.get(name)
            return None if value is None else (number(value), spread(arm, name, 3))

        add(name, metric)
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


def _several(evidence: Evidence) -> bool:
    """Whether examples have several answers, so that a mean over examples is another than one over answers."""
    mean = evidence.arms.distilled.mean
    return mean.answers is not None and mean.answers != mean.examples


def explained(evidence: Evidence) -> str:
    """What the table's measures are."""
    mean, measure = evidence.arms.distilled.mean, evidence.measure
    said = ["Mean ± standard deviation over seeds."]
    if _several(evidence):
        said.append(
            f"{titled(measure.name)}: the mean over test examples. Answers that are right, NLL, ECE and Brier: all "
            f"{mean.answers:,} answers together."
        )
    if mean.mse is not None:
        said.append(
            f"{measure.name}: the share of the variance of the true numbers that is explained; below 0 is worse than their mean."
        )
    elif mean.nll is None:
        said.append(
            f"{measure.name}: the mean over first texts of 1 / rank of their own partner, by cosine, among the second texts of "
            "all test examples; it falls with their number."
        )
    else:
        said.append(
            "NLL: negative log-likelihood in nats. ECE: expected calibration error, 15 bins. Brier: squared distance of the "
            "probabilities from the truth, 0 to 2. Lower is better for all three."
        )
    return " ".join(said)


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
    return (f"{mean / 60:.1f}\N{NO-BREAK SPACE}min" if mean >= 120 else f"{mean:.1f}\N{NO-BREAK SPACE}s", None)


def _steps(arm: Arm) -> Cell:
    return (f"{sum(arm.steps) / len(arm.steps):,.0f}", None) if arm.steps else None


def compute(flops: float) -> str:
    """Floating-point operations: ``66.4 TFLOP``."""
    for power, unit in ((18, "E"), (15, "P"), (12, "T"), (9, "G"), (6, "M")):
        if flops >= 10**power:
            return f"{flops / 10**power:.3g}\N{NO-BREAK SPACE}{unit}FLOP"
    return f"{flops:,.0f}\N{NO-BREAK SPACE}FLOP"


def timed(evidence: Evidence) -> str:
    """How the times were taken."""
    cost = evidence.arms.distilled.efficiency
    if cost is None or cost.latency is None:
        return ""
    threads = f", {cost.threads} thread{'s' if cost.threads != 1 else ''}" if cost.threads else ""
    batch = f" Examples per second: in batches of {cost.throughput_batch:,}." if cost.throughput_batch else ""
    counted = f"{cost.latency.timed:,} timed passes after {cost.latency.warmup} to warm up"
    return f"Latency: one example on {_device(cost.device)}{threads}, {counted}.{batch}"


def fidelity(evidence: Evidence) -> dict[str, Any] | None:
    """Rows of the table of likeness to the teacher."""
    arms = [one for one in ("control", "distilled") if one in evidence.fidelity]
    if not arms:
        return None
    each = [evidence.fidelity[one] for one in arms]

    def share(value: float | None) -> str | None:
        return None if value is None else percent(value)

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
        ("Weight in their mean", [_share_of(one.weight) for one in members]),
        ("Routed to it", [_share_of(one.routed) for one in members]),
        ("Same answer as the student", [_share_of(one.agreement) for one in members]),
    ]
    for other in members:
        pairs = {frozenset((one.one, one.other)): one for one in found.pairs}
        each = [pairs.get(frozenset((one.name, other.name))) for one in members]
        rows.append((f"Other answer than {other.name}", [_share_of(one.differing) if one else None for one in each]))
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
    for heading, several in kinds:
        rows.append({"name": heading, "cells": None})
        for title, cell in _WRITTEN:
            cells = [cell(one) for one in (found.reference, *several)]
            if any(one is not None for one in cells[1:]):
                rows.append({"name": title, "cells": cells})
        for name in found.reference.watched:
            cells = [_share_of(one.watched.get(name)) for one in (found.reference, *several)]
            rows.append({"name": f"Texts with {name}", "cells": cells})
    reasons = [f"{NAMES.get(name, name)} is left out: {why.rstrip('.')}." for name, why in found.left_out.items()]
    note = (
        f"{found.prompts:,} prompts of the test part, at most {found.new_tokens:,} tokens after each, first seed. Reference: "
        "what stands there, cut at the same length. Higher is not better: compare with the reference. Different tokens become "
        "rarer, and repetitions more frequent, as texts grow longer."
    )
    return {"names": names, "rows": rows, "note": " ".join([note, *reasons])}


_WRITTEN: tuple[tuple[str, Callable[[Written], str | None]], ...] = (
    ("Different tokens (distinct-1)", lambda one: _share_of(one.distinct_1)),
    ("Different pairs (distinct-2)", lambda one: _share_of(one.distinct_2)),
    ("Repeated 4-grams", lambda one: _share_of(one.repetition)),
    ("Texts that go in a loop", lambda one: _share_of(one.looping)),
    ("Mean length, tokens", lambda one: None if one.mean_length is None else number(one.mean_length, 1)),
    ("Texts that end", lambda one: _share_of(one.ended)),
    ("Exactly the reference", lambda one: _share_of(one.exact_match)),
)


def _share_of(value: float | None) -> str | None:
    return None if value is None else percent(value)


def facts(evidence: Evidence) -> list[tuple[str, str]]:
    """Provenance, line by line."""
    source, data = evidence.provenance, evidence.data
    split = [
        ("training", data.train),
        ("labelled", data.labelled),
        ("validation", data.validation),
        ("test", data.test),
    ]
    items = evidence.item_bootstrap
    rows: list[tuple[str, Any]] = [
        ("Command", source.command),
        ("Recipe", source.recipe_hash),
        ("Data", source.data_fingerprint),
        ("Teacher", source.teacher_fingerprint),
        ("Examples", ", ".join(f"{count:,} {name}" for name, count in split if count is not None)),
        ("Counts", ", ".join(f"{name} {count:,}" for name, count in source.counts.items())),
        ("Seeds", ", ".join(map(str, source.seeds))),
        ("Intervals", _intervals(evidence) if items else None),
        ("Device", source.device),
        ("Threads", source.threads),
        ("Versions", ", ".join(f"{name} {version}" for name, version in source.versions.items())),
        ("Date", source.date),
    ]
    return [(name, str(value)) for name, value in rows if value not in (None, "")]


def _intervals(evidence: Evidence) -> str:
    """How the two intervals came about, and McNemar's counts."""
    items = evidence.item_bootstrap
    assert items is not None
    measure = evidence.measure
    text = (
        f"over seeds by Student's t on paired differences; over test examples by {items.resamples:,} resamples "
        f"(seed {items.seed}), {measure.span(items.ci95)}{measure.unit}"
    )
    if items.telling is not None and items.telling < FEW and measure.percent:
        text += f", at least as wide as an exact bound, as only {items.telling} examples tell the two apart"
    if not evidence.mcnemar:
        return f"{text}. There is no McNemar test, as an example is not just right or wrong"
    tests = ", ".join(
        f"seed {one.seed}: {one.only_distilled_right} to {one.only_control_right}, p = {one.p:.2g}"
        for one in evidence.mcnemar
    )
    return f"{text}. McNemar, examples that only the distilled student or only the control has right: {tests}"

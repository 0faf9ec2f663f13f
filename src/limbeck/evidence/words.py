"""The sentences of the report."""

from typing import Any

from limbeck.evidence.comparison import FEW
from limbeck.evidence.figures import percent, short, size
from limbeck.evidence.records import Matched
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


def titled(name: str) -> str:
    """With a capital: ``Accuracy``; ``R²`` as it is."""
    return name[:1].upper() + name[1:]


def question(evidence: Evidence) -> str:
    """What the report answers."""
    if evidence.without_data:
        return "How far does it come without data?"
    return f"Did {about(evidence)} help?"


def about(evidence: Evidence) -> str:
    """See `limbeck.evidence.verdict.who`."""
    return who(evidence.provenance, evidence.arms.teacher is not None, evidence.arms.unkept is not None)


def headline(evidence: Evidence) -> tuple[str, str]:
    """The verdict in large letters, and its tone."""
    control = evidence.arms.control
    if evidence.without_data and control and control.mean.score > 0:
        return f"{percent(evidence.arms.distilled.mean.score / control.mean.score)} of what the data gives.", "open"
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
    if evidence.without_data:
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


def explained(evidence: Evidence) -> str:
    """What the table's measures are."""
    mean, measure = evidence.arms.distilled.mean, evidence.measure
    said = ["Mean ± standard deviation over seeds."]
    if several(evidence):
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


def several(evidence: Evidence) -> bool:
    """Whether examples have several answers, so that a mean over examples is another than one over answers."""
    mean = evidence.arms.distilled.mean
    return mean.answers is not None and mean.answers != mean.examples


def timed(evidence: Evidence) -> str:
    """How the times were taken."""
    cost = evidence.arms.distilled.efficiency
    if cost is None or cost.latency is None:
        return ""
    threads = f", {cost.threads} thread{'s' if cost.threads != 1 else ''}" if cost.threads else ""
    batch = f" Examples per second: in batches of {cost.throughput_batch:,}." if cost.throughput_batch else ""
    counted = f"{cost.latency.timed:,} timed passes after {cost.latency.warmup} to warm up"
    return f"Latency: one example on {_device(cost.device)}{threads}, {counted}.{batch}"


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

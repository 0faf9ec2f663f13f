"""Preflight of a whole experiment: what a run would do, what it would cost, and whether it can work at all."""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from math import ceil
from pathlib import Path
from typing import Final

from limbeck.advice.memory import Memory
from limbeck.advice.preflight import Dry, check_labels, dry_run
from limbeck.config import digest
from limbeck.errors import PreflightError
from limbeck.evidence.efficiency import SECONDS, TIMED, WARMUP
from limbeck.evidence.figures import compute as flop
from limbeck.models.identity import of_module, parameters
from limbeck.objective import Term
from limbeck.regimes.apart import APART
from limbeck.regimes.budget import EQUAL_COMPUTE, FINAL_STAGE, Compute, earlier
from limbeck.regimes.plan import Learnt, Plan
from limbeck.run.arms import arms_of, compute_of
from limbeck.run.cheaper import agreement
from limbeck.run.doubts import doubts
from limbeck.run.experiment import Experiment
from limbeck.run.language import exact_bytes, expense, logits_bytes, tokens
from limbeck.run.samples import writing_passes
from limbeck.signals.gradient import GRADIENT
from limbeck.teachers.coded import CodedTeacher
from limbeck.teachers.local import LocalTeacher
from limbeck.teachers.teacher import Teacher
from limbeck.training.settings import Training
from limbeck.training.stage import Stage

_REST: Final = 3.0  # seconds: loading and keeping models, the intervals, the report
_CALL: Final = 1e-3  # seconds that a call takes beside its rows
_SHOWN: Final = 12  # stages and their first batches that are told one by one
_BULK: Final = 1500  # rows through a model to time its throughput


@dataclass(frozen=True)
class Preflight:
    """What the preflight found. ``seconds``, ``store_bytes``: estimates from some steps, for the whole run.

    ``fixed``: how many of the seconds no smaller budget would save: evaluations, the teacher's outputs, timing, the report.
    """

    found: tuple[tuple[str, str], ...]
    seconds: float
    store_bytes: int
    fixed: float = 0.0
    warnings: list[str] = field(default_factory=list)

    def lines(self) -> list[tuple[str, str]]:
        """Pairs (what, finding) for a person."""
        return list(self.found)


def preflight(experiment: Experiment, home: Path) -> Preflight:
    """A dry batch through teacher, objective and student.

    Raises:
        PreflightError, SignalError: the run cannot work; says why.
    """
    splits = experiment.splits
    for part in (splits.train, splits.validation, splits.test):
        check_labels(part)
    cost = expense(experiment)
    plan = replace(experiment.plan(home, experiment.seeds[0]), store=None)
    teaching = [(stage, dry_run(stage, plan.device)) for stage in plan.teacher_stages]
    if teaching:  # untrained copies show the same signals, which is all that a dry batch needs of them
        plan = plan.joined([_untrained(stage) for stage in plan.teacher_stages])
    labelled = len(splits.train.labelled())
    if plan.training.batch_size > len(splits.train):
        raise PreflightError(
            f"training.batch-size is {plan.training.batch_size}, but there are only {len(splits.train)} training examples: "
            f"set it to {len(splits.train)} or less."
        )
    plan, coded = plan.matched(), None
    asked = tokens(experiment, plan, bool(teaching))
    compute = compute_of(experiment, plan)
    if experiment.store and plan.teacher and (codec := plan.coded):
        coded = CodedTeacher(plan.teacher, codec)
        plan = replace(plan, teacher=coded)
    tried = _tried(experiment.regime.stages(plan), plan.device)
    found = _budget(experiment, plan, tried, teaching, labelled, compute, coded)
    first, *rest = found.found
    return replace(
        found,
        found=(first, *asked.found, *rest, *cost.found),
        warnings=[*asked.warnings, *cost.warnings, *found.warnings],
    )


def _budget(
    experiment: Experiment,
    plan: Plan,
    tried: Sequence[tuple[Stage, Dry]],
    teaching: Sequence[tuple[Stage, Dry]],
    labelled: int,
    compute: Compute | None,
    coded: CodedTeacher | None = None,
) -> Preflight:
    splits, (*before, (last, dry)) = experiment.splits, tried
    before_last = earlier([stage for stage, _ in tried])
    steps, task = before_last + last.training.total, splits.task
    names, seeds = list(arms_of(experiment, plan, compute)), len(experiment.seeds)
    students = len(names) * seeds
    rows = len(splits.train) * len(plan.needed_views)
    alone = dry.seconds - dry.teacher_seconds - dry.pen_seconds  # each arm has as many steps in all
    shorter = earlier(experiment.regime.core.stages(plan)) if FINAL_STAGE in names else 0
    training = alone * (steps * students - (before_last + shorter) * seeds)
    training += sum(stage.training.total * one.seconds for stage, one in before) * seeds
    training += dry.pen_seconds * last.training.total * seeds
    training += experiment.regime.making_seconds(plan, seeds)
    if APART in names:  # as many students as tasks
        training += alone * steps * seeds * (len(task.heads) - 1)
    longer = compute.matched_steps - compute.steps if compute is not None and EQUAL_COMPUTE in names else 0
    training += alone * longer * seeds
    per_row = dry.teacher_seconds / plan.training.batch_size
    fixed = _REST + _looks(plan.training) * len(splits.validation) * dry.row_seconds * students
    fixed += len(splits.test) * (dry.row_seconds * students + per_row) + len(splits.validation) * per_row
    fixed += _timing(dry.row_seconds) + _timing(per_row)
    if task.gives == "tokens":
        fixed += writing_passes(experiment) * (dry.row_seconds * len(names) + per_row)
    members = len(plan.teacher.provides.members) if plan.teacher else 0
    if experiment.store:
        fixed += (
            per_row * rows * (1 + ("best_single" in names) / max(1, members))
        )  # who is taught by one asks that one again
    else:
        training += dry.teacher_seconds * plan.training.total * seeds
    for stage, one in teaching:
        training += one.seconds * stage.training.total
        fixed += _looks(stage.training) * len(splits.validation) * one.row_seconds
    each = coded.bytes // plan.training.batch_size if coded else dry.row_bytes
    store = rows * each * (1 + ("best_single" in names)) if experiment.store else 0
    seconds = training + fixed
    told = (
        f"{students} students ({', '.join(name.replace('_', '-') for name in names)}; {seeds} seed{'s' * (seeds > 1)})"
    )
    found = [
        (
            "data",
            f"{len(splits.train):,} training rows, {labelled:,} with label; {len(splits.validation):,} validation, "
            f"{len(splits.test):,} test; " + (f"{len(splits.classes)} {task.outputs}" if task.outputs else task.name),
        ),
        *([("filters", experiment.filtered)] if experiment.filtered else []),
        (
            "student",
            f"{_size(parameters(plan.start.module()), dry.parameters)}{_taught(teaching) or _given(plan.teacher)}",
        ),
        *agreement(experiment, plan.device),
        *([("layers", layers)] if (layers := paired(plan.terms, experiment.terms)) else []),
        *([("stages", _stages(tried))] if before else []),
        *_batches(before),
        ("first batch", _parts(dry)),
        (
            "training",
            f"{steps:,} steps for each of {told}{f', {steps + longer:,} for the one of equal compute' * bool(longer)}"
            f"{f', {steps - shorter:,} for the one of the last training' * (FINAL_STAGE in names)}: about "
            f"{duration(seconds)} with all that comes after",
        ),
        *([("compute", _computed(compute))] if compute is not None else []),
        ("teacher's outputs", _outputs(experiment, plan, rows, store)),
    ]
    peaks = [one.peak for _, one in (*tried, *teaching)]
    peak = max(filter(None, peaks), default=None)
    if peak is not None:
        found.append(
            (
                "memory",
                f"{_memory(dry.memory, logits_bytes(experiment, plan))}; the first step took {size(peak)}, with what libraries "
                "load for it",
            )
        )
    free = shutil.disk_usage(_existing(plan.store or Path.cwd())).free
    if store > free:
        raise PreflightError(
            f"The teacher's outputs would take {size(store)}, but only {size(free)} are free: choose fewer data.views, "
            "or another place with LIMBECK_HOME, or ask the teacher live with teacher.store: false."
        )
    return Preflight(tuple(found), seconds, store, fixed, doubts(experiment, plan, dry.silent, bool(teaching)))


def _untrained(stage: Stage) -> Learnt:
    """A teacher before its training; how it will be run does not matter yet."""
    module = stage.start.module()
    return lambda asking: LocalTeacher(module, of_module(module))


def _size(student: int, trained: int) -> str:
    """What is delivered, and what is trained for it, in parameters."""
    return f"{student:,} parameters" + (f", {trained:,} while it is trained" if trained != student else "")


def _taught(teaching: Sequence[tuple[Stage, Dry]]) -> str:
    """How large those are that are trained to teach, and how long, where they are several."""
    if len(teaching) == 1 and teaching[0][0].name == "teacher":
        return f", the teacher {teaching[0][1].parameters:,}"
    each = [f"the {stage.name} {one.parameters:,} ({stage.training.total:,} steps)" for stage, one in teaching]
    return "".join(f", {one}" for one in each)


def _given(teacher: Teacher | None) -> str:
    """How large a teacher is that needs no training here."""
    return f", the teacher {parameters(teacher.module):,}" if teacher is not None and teacher.module is not None else ""


def _outputs(experiment: Experiment, plan: Plan, rows: int, store: int) -> str:
    exact = exact_bytes(experiment, plan)
    whole = f"; every logit would take {size(exact)}" if exact else ""
    if plan.teacher is None:
        return "nobody's but its own"
    if not any(term.needs().teacher for term in plan.terms):
        return "none are read"
    if not experiment.store and not plan.teacher.provides.unseen:
        return "read from where they are stored"
    if not experiment.store:
        return f"asked live, nothing stored{whole}"
    how = f" ({experiment.codec.plain()['name']})" if experiment.codec else ""
    return f"{rows:,} rows, {size(store)}{how}{whole}"


def _memory(found: Memory, logits: int) -> str:
    """Its parts, the largest ones first; ``logits``: bytes of those that are made at a time, of a large vocabulary."""
    parts = {
        "the student": found.student,
        "the teacher": found.teacher,
        "gradients": found.gradients,
        "the optimiser": found.optimiser,
        "kept for the backward pass": found.activations,
        "parts of the logits": logits,
    }
    shown = sorted(((value, name) for name, value in parts.items() if value), reverse=True)
    return f"about {size(sum(parts.values()))}: {', '.join(f'{name} {size(value)}' for value, name in shown)}"


def _computed(compute: Compute) -> str:
    return (
        f"{flop(compute.distilled)} for a distilled student, {compute.ratio:.2g} times its control's; the teacher's passes are "
        "counted, and its own training is not"
    )


def _parts(dry: Dry) -> str:
    return ", ".join(f"{name} {value:.4g}" for name, value in dry.parts.items())


def _tried(stages: Sequence[Stage], device: str) -> list[tuple[Stage, Dry]]:
    """Each stage with its dry batch; those that differ in their seed alone, as rounds do, share one."""
    known, found = dict[str, Dry](), list[tuple[Stage, Dry]]()
    for stage in stages:
        kind = digest(stage.identity(stage.start.module()) | {"seed": None})
        if kind not in known:
            known[kind] = dry_run(stage, device)
        found.append((stage, known[kind]))
    return found


def _batches(before: Sequence[tuple[Stage, Dry]]) -> list[tuple[str, str]]:
    """The dry batches of the stages before the last, each once."""
    first = {id(dry): (stage, dry) for stage, dry in reversed(before)}
    shown = [(f"first batch, {_bare(stage)}", _parts(dry)) for stage, dry in reversed(first.values())]
    return shown[:_SHOWN] + [("first batches", f"{len(shown) - _SHOWN:,} more")] * (len(shown) > _SHOWN)


def _stages(tried: Sequence[tuple[Stage, Dry]]) -> str:
    """What is trained one after another."""
    each = [f"{_bare(stage)} {stage.training.total:,} steps of {dry.parameters:,} parameters" for stage, dry in tried]
    if len(each) > 2 * _SHOWN:
        each = [*each[:_SHOWN], f"{len(each) - _SHOWN - 1:,} more", each[-1]]
    return ", then ".join(each)


def _bare(stage: Stage) -> str:
    return stage.name.rpartition(", seed")[0]


def _looks(training: Training) -> int:
    """Evaluations while one model is trained."""
    return ceil(training.total / training.between_evaluations)


def _timing(row: float) -> float:
    """Seconds to time a model that takes ``row`` for one example: some hundred calls, or as long as each is given."""
    return min(3 * SECONDS, (WARMUP + TIMED) * (row + _CALL) + _BULK * row)


def paired(terms: Sequence[Term], given: Sequence[Term]) -> str:
    """The layers that rules found, the student's from the teacher's; empty if none was needed."""
    if tuple(terms) == tuple(given):
        return ""
    pairs = []
    for term in terms:
        ours, theirs = (sorted(side - {"logits", GRADIENT}) for side in (term.needs().student, term.needs().teacher))
        if ours and theirs:
            pairs.append(f"{term.name} {', '.join(ours)} from {', '.join(theirs)}")
    return "; ".join(pairs)


def _existing(path: Path) -> Path:
    return path if path.exists() else _existing(path.parent)


def duration(seconds: float) -> str:
    """``45 s``, ``3 min``, ``2.5 h``."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def size(count: float) -> str:
    """``512 B``, ``3.2 MB``; powers of 1,000."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"

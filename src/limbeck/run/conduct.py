"""Conducting an experiment: preflight, teacher, every arm at every seed, evidence, report, delivered student."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import PartialState
from numpy.typing import NDArray

from limbeck.advice.preflight import floor_of, score_of
from limbeck.data.examples import Examples
from limbeck.data.measure import Measure
from limbeck.data.task import Task, rank
from limbeck.errors import LimbeckError, PreflightError
from limbeck.evidence import summary
from limbeck.evidence.report import disagreements, write_report
from limbeck.evidence.schema import Evidence, Provenance, Quality, Verdict
from limbeck.evidence.verdict import outcome
from limbeck.evidence.weigh import weigh
from limbeck.export import Exported
from limbeck.export.deliver import Format
from limbeck.files import held, home, whole_folder, write_json
from limbeck.models.adapters import ADAPTERS, merged, write_adapters
from limbeck.models.saved import load_student, save_student
from limbeck.regimes.budget import Arm, Compute
from limbeck.regimes.plan import Plan
from limbeck.regimes.regime import Regime, train
from limbeck.regimes.walk import walk
from limbeck.run import folder as runs
from limbeck.run.arms import arms_of, compute_of, remembered
from limbeck.run.delivered import Delivered
from limbeck.run.experiment import Experiment
from limbeck.run.made import made_of
from limbeck.run.measure import counts, curve, measure, notes, said
from limbeck.run.preflight import Preflight, preflight
from limbeck.run.retention import retention_of
from limbeck.run.samples import samples_of
from limbeck.run.several import teachers_of
from limbeck.run.teachers import TEACHER_SEED
from limbeck.run.traffic import traffic_of
from limbeck.teachers.by_task import HeadOf
from limbeck.teachers.teacher import Teacher
from limbeck.training import launch
from limbeck.training.loop import Watch
from limbeck.training.moments import Curve
from limbeck.training.progress import Tracker, Watcher
from limbeck.training.stage import Stage
from limbeck.training.workshop import Trained, Workshop

_PROOFS = 32  # real inputs that are kept to prove exports on


@dataclass(frozen=True)
class Result:
    """What a run gave. ``student`` is the delivered one: of all seeds, the one that was best on validation."""

    folder: Path
    evidence: Evidence
    student: Delivered

    def __repr__(self) -> str:
        """One line: the verdict, and where the rest is."""
        return f"<Result: {outcome(self.evidence)}, {self.folder}>"

    def __str__(self) -> str:
        """Every arm, the verdict, and where the report is."""
        return f"{summary.text(self.evidence)}\n\nReport: {self.report_path}"

    def _repr_html_(self) -> str:
        """The same in a notebook."""
        return f"<pre>{escape(str(self))}</pre>"

    @property
    def verdict(self) -> Verdict:
        """``helped``, ``did not help`` or ``cannot tell``."""
        return self.evidence.verdict

    @property
    def sentence(self) -> str:
        """The verdict in a sentence, with its numbers."""
        return self.evidence.sentence

    @property
    def report_path(self) -> Path:
        """The report, one HTML page."""
        return self.folder / runs.REPORT

    def export(self, to: Format, folder: Path | str, samples: Sequence[Any] | None = None) -> Exported:
        """Writes the student into ``folder`` as ``safetensors``, ``hf`` or ``onnx``; see `Delivered.export`."""
        return self.student.export(to, folder, samples)

    def evaluate(self, data: Any, metrics: Sequence[str] = ()) -> Quality:
        """The student's quality on other data of the same task; see `Delivered.evaluate`."""
        return self.student.evaluate(data, metrics)


def conduct(
    experiment: Experiment,
    out: Path,
    recipe_text: str,
    command: str | None = None,
    quiet: bool = False,
    check: bool = True,
) -> Result:
    """Runs an experiment into the folder ``out``, or goes on with the one that was begun there.

    Raises:
        Busy: another process works in ``out``.
        LimbeckError: ``out`` belongs to another recipe; preflight or training failed.
        Interrupted: the user stopped it; the same call goes on.
    """
    launch.join()
    state = PartialState()
    with runs.writable(out), ExitStack() as stack:
        if state.is_main_process:
            out.mkdir(parents=True, exist_ok=True)
            stack.enter_context(held(out, "a run writes there"))
            runs.claim(out, experiment.settings, experiment.hash)
        watcher = stack.enter_context(Watcher(quiet=quiet or not state.is_main_process))
        workshop = Workshop(home(), _watch(experiment, watcher, out))
        for remark in experiment.remarks:
            watcher.say(remark)
        if check:
            _announce(watcher, preflight(experiment, home()))
        plan, teacher = ready(experiment, workshop, out, watcher)
        compute = compute_of(experiment, plan)
        trained = _train(experiment, plan, arms_of(experiment, plan, compute), workshop, out, watcher)
        if state.is_main_process:
            _weigh(experiment, plan, trained, teacher, compute, out, recipe_text, command)
        state.wait_for_everyone()
    best = max(trained["distilled"], key=lambda one: rank(experiment.splits.task, one.metrics))
    reader = experiment.splits.reader
    student = load_student(out / runs.STUDENT, module=best.untrained(), reader=reader)
    return Result(out, Evidence.read(out), Delivered.of(student, out))


def ready(experiment: Experiment, workshop: Workshop, out: Path, watcher: Watcher) -> tuple[Plan, Trained | None]:
    """The plan with its teacher ready, and how the teacher was trained, if it was trained here.

    Raises:
        PreflightError: the teacher is no better than an answer that is always the same.
    """
    plan = experiment.plan(home(), experiment.seeds[0], watcher.labelling)
    trained = None
    if plan.teacher_stages:
        trained = walk(remembered(_school(plan.teacher_stages)), workshop, out / "journal" / "teacher.json")
        for one in (*trained.before, trained):
            _reused(watcher, one, experiment.splits.task)
    plan = walk(plan.taught(), workshop, out / "journal" / "taught.json").matched()
    _check_teacher(experiment, plan)
    if trained is not None and experiment.learners:
        _check_members(plan.teacher_stages, (*trained.before, trained))
    return plan, trained


def _school(stages: Sequence[Stage]) -> Regime[Trained]:
    """Those who will teach, one after another; the last one, who remembers the others."""
    for stage in stages[:-1]:
        yield from train(stage)
    return (yield from train(stages[-1]))


def _check_members(stages: Sequence[Stage], trained: Sequence[Trained]) -> None:
    """A mean hides a teacher that knows nothing."""
    for stage, one in zip(stages, trained, strict=True):
        validation, measure = stage.validation, Measure.of(stage.validation.task)
        floor = floor_of(validation)
        if one.metrics[measure.name] <= floor:
            raise PreflightError(
                f"On the validation part the {measure.name} of the {one.name} is {measure.value(one.metrics[measure.name])}, "
                f"and that of {validation.task.constant} {measure.value(floor)}: it has learnt nothing, which the others would "
                "hide. Give its training more steps or another learning rate."
            )


def _check_teacher(experiment: Experiment, plan: Plan) -> None:
    if plan.teacher is None or not plan.teacher.provides.unseen:
        return
    for where, teacher, validation in _exams(plan.teacher, experiment.splits.validation):
        stages, task, measure = plan.teacher_stages, validation.task, Measure.of(validation.task)
        score, floor = score_of(teacher, validation, plan.device), floor_of(validation)
        if score > floor:
            continue
        raise PreflightError(
            f"On the validation part the teacher's {measure.name}{where} is {measure.value(score)}, and that of "
            f"{task.constant} {measure.value(floor)}: "
            + (
                f"it has learnt nothing in {sum(one.training.total for one in stages):,} steps of training on "
                f"{len(stages[0].examples):,} labelled rows. Give teacher.training (in Python teacher_training) more steps or "
                "another learning rate, and look at the labels."
                if stages
                else f"it knows nothing of {f'these {task.outputs}' if task.outputs else 'this task'}. Are they in the order "
                "that it was trained with? If it still has to be trained on them, give teacher.training (in Python "
                "teacher_training)."
            )
        )


def _exams(teacher: Teacher, validation: Examples) -> Iterator[tuple[str, Teacher, Examples]]:
    """What a teacher must know something of: the task, or each of several that it knows, as a mean hides one."""
    heads, known = validation.task.heads, teacher.provides.heads
    if not heads:
        yield "", teacher, validation
    for name in heads if known is None else sorted(known):
        yield f" in the task {name!r}", HeadOf(teacher, validation.task, name), validation.only(name).labelled()


def _train(
    experiment: Experiment, plan: Plan, chosen: Mapping[str, Arm], workshop: Workshop, out: Path, watcher: Watcher
) -> dict[str, list[Trained]]:
    trained: dict[str, list[Trained]] = {name: [] for name in chosen}
    for seed in experiment.seeds:
        for name, arm in chosen.items():
            one: Regime[Trained] = remembered(arm(plan.at(seed)))
            trained[name].append(walk(one, workshop, out / "journal" / f"{name}-{seed}.json"))
            _reused(watcher, trained[name][-1], experiment.splits.task)
    return trained


def _reused(watcher: Watcher, trained: Trained, task: Task) -> None:
    if trained.reused:
        measure = Measure.of(task)
        found = f"{measure.name} {measure.value(trained.metrics[measure.name])}"
        watcher.say(f"{trained.name}: trained before, {found} on validation")


def _announce(watcher: Watcher, found: Preflight) -> None:
    for what, finding in found.lines():
        watcher.say(f"{what:<22} {finding}")
    for warning in found.warnings:
        watcher.say(f"warning: {warning}")


def _watch(experiment: Experiment, watcher: Watcher, out: Path) -> Watch:
    """Progress and trackers for each stage."""
    made = [_tracker(name, experiment.name, out / "tracking") for name in experiment.trackers]

    def watch(stage: Stage, drawn: Curve) -> Sequence[object]:
        return (*watcher.watch(stage, drawn), *(Tracker(one, drawn, stage.name) for one in made))

    return watch


def _tracker(name: str, run: str, folder: Path) -> Any:
    """One of Accelerate's trackers, begun.

    Raises:
        LimbeckError: there is none of that name, or it is not installed.
    """
    from accelerate.tracking import LOGGER_TYPE_TO_CLASS, get_available_trackers

    if name not in LOGGER_TYPE_TO_CLASS:
        raise LimbeckError(f"trackers: there is none called {name!r}; there are {', '.join(LOGGER_TYPE_TO_CLASS)}.")
    if name not in [str(one) for one in get_available_trackers()]:
        raise LimbeckError(f"trackers: {name!r} is not installed: pip install {name}")
    kind = LOGGER_TYPE_TO_CLASS[name]
    folder.mkdir(parents=True, exist_ok=True)
    tracker = kind(run, logging_dir=str(folder)) if kind.requires_logging_directory else kind(run)
    tracker.start()
    return tracker


def _weigh(
    experiment: Experiment,
    plan: Plan,
    trained: Mapping[str, Sequence[Trained]],
    teacher: Trained | None,
    compute: Compute | None,
    out: Path,
    recipe_text: str,
    command: str | None,
) -> None:
    splits = experiment.splits
    source = Provenance(
        recipe_hash=experiment.hash,
        data_fingerprint=splits.train.table.fingerprint,
        teacher_fingerprint=plan.teacher.fingerprint if plan.teacher else None,
        versions=runs.versions(),
        seeds=experiment.seeds,
        device=plan.device,
        threads=torch.get_num_threads(),
        date=datetime.now(UTC).isoformat(timespec="seconds"),
        command=command,
        counts={"steps": plan.training.total, "batch size": plan.training.batch_size, "teacher seed": TEACHER_SEED},
    )
    before = _before(out, source, trained, teacher)
    measured = measure(experiment, plan, trained, teacher, compute, before)
    samples, texts = samples_of(experiment, plan, trained)
    evidence = weigh(
        measured.arms,
        measured.labels,
        splits.classes,
        name=experiment.name,
        metrics=experiment.metrics,
        data=counts(experiment),
        smallest_effect=experiment.smallest_effect,
        margin=experiment.margin,
        notes=[*experiment.remarks, *notes(experiment, plan, trained, teacher, compute)],
        provenance=before.provenance if before else source,
        task=splits.task,
        example=measured.example,
        samples=samples,
        retention=retention_of(experiment, plan, trained),
        traffic=traffic_of(experiment, plan, trained),
        teachers=teachers_of(experiment, plan, trained, measured),
        taught=plan.teacher.provides.heads if plan.teacher else None,
    )
    curves = {name: [curve(one) for one in arms] for name, arms in trained.items()}
    if teacher:
        curves["teacher"] = [curve(replace(one, before=())) for one in (*teacher.before, teacher)]
    best = max(trained["distilled"], key=lambda one: rank(experiment.splits.task, one.metrics))
    about = {"recipe_hash": experiment.hash, "name": experiment.name, "validation": best.metrics}
    delivered = merged(best.module(), experiment.sample().columns("student"))
    if getattr(experiment.student, "keep_adapters", False):
        with whole_folder(out / ADAPTERS) as draft:
            write_adapters(best.module(), draft)
    save_student(out / runs.STUDENT, delivered, None, splits.reader, splits.classes, about, splits.task)
    test = splits.test
    examples = disagreements(
        evidence,
        measured.arms,
        measured.labels,
        splits.classes,
        lambda position: test.table.show(int(test.rows[position])),
        splits.task,
        measured.example,
        lambda position, answers: said(test, position, answers),
    )
    shown = [{**vars(one), "content": tensor(one.content)} for one in examples]
    written, made = [vars(one) for one in texts], made_of(plan, trained)
    pictures = [{**vars(one), "picture": tensor(one.picture)} for one in made]
    runs.keep(
        out,
        runs.SHOWN,
        {"curves": curves, "examples": shown, "samples": written, "made": pictures, "recipe": recipe_text},
    )
    runs.keep(out, runs.INPUTS, [test.table.raw(row) for row in test.rows[:_PROOFS].tolist()])
    write_report(evidence, curves, examples, recipe_text, out / runs.REPORT, texts, made)
    write_json(out / runs.EVIDENCE, evidence.plain())  # last: a run with evidence is finished


def _before(
    out: Path, source: Provenance, trained: Mapping[str, Sequence[Trained]], teacher: Trained | None
) -> Evidence | None:
    """The evidence that is there already, if it is of these very trainings, measured in the same circumstances."""
    try:
        found = Evidence.read(out)
    except LimbeckError:
        return None
    arms = found.arms.present()
    there = {name: arm.training_seconds for name, arm in arms.items() if name != "teacher" or teacher}
    # a training that was done again took another time
    here = {name: tuple(one.whole_seconds for one in several) for name, several in trained.items()}
    if teacher:
        here["teacher"] = (teacher.whole_seconds,)
    passing = {"date": None, "command": None}
    same = found.provenance.model_copy(update=passing) == source.model_copy(update=passing)
    return found if same and there == here else None


def tensor(content: str | NDArray[np.uint8]) -> str | torch.Tensor:
    """An image as a tensor, a text as it is: what can be kept."""
    return content if isinstance(content, str) else torch.from_numpy(np.ascontiguousarray(content))

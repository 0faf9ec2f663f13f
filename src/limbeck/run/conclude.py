"""Concluding a run: evidence, report and delivered student, from what was trained."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from limbeck.data.sifting import write_rejected
from limbeck.data.task import rank
from limbeck.errors import LimbeckError
from limbeck.evidence.report import disagreements, write_report
from limbeck.evidence.schema import Evidence, Provenance
from limbeck.evidence.weigh import weigh
from limbeck.files import whole_folder, write_json
from limbeck.models.adapters import ADAPTERS, merged, write_adapters
from limbeck.models.saved import save_student
from limbeck.regimes.budget import Compute
from limbeck.regimes.plan import Plan
from limbeck.run import folder as runs
from limbeck.run.experiment import Experiment
from limbeck.run.made import made_of
from limbeck.run.measure import counts, curve, measure, notes, said
from limbeck.run.retention import retention_of
from limbeck.run.samples import samples_of
from limbeck.run.several import teachers_of
from limbeck.run.teachers import TEACHER_SEED
from limbeck.run.traffic import traffic_of
from limbeck.training.workshop import Trained

_PROOFS = 32  # real inputs that are kept to prove exports on


def conclude(
    experiment: Experiment,
    plan: Plan,
    trained: Mapping[str, Sequence[Trained]],
    teacher: Trained | None,
    compute: Compute | None,
    out: Path,
    recipe_text: str,
    command: str | None,
) -> None:
    """Measures every arm, and writes what a run leaves in the folder ``out``; the evidence last: it says that all is there."""
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
        notes=[
            *experiment.remarks,
            *filter(None, [experiment.filtered]),
            *notes(experiment, plan, trained, teacher, compute),
        ],
        provenance=before.provenance if before else source,
        task=splits.task,
        example=measured.example,
        samples=samples,
        retention=retention_of(experiment, plan, trained),
        traffic=traffic_of(experiment, plan, trained),
        teachers=teachers_of(experiment, plan, trained, measured),
        taught=plan.teacher.provides.heads if plan.teacher else None,
        groups=None if splits.test.domains is None else splits.test.domains.of_rows(splits.test.rows),
    )
    if splits.rejected:
        write_rejected(out / runs.REJECTED, splits.rejected)
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

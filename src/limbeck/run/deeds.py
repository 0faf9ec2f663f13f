"""What the commands do."""

import json
import time
from dataclasses import replace
from pathlib import Path

import torch

from limbeck.code import allow_code as code_is_allowed
from limbeck.data.batch import NO_LABEL
from limbeck.data.raw import Raw
from limbeck.data.sources import Data
from limbeck.errors import LimbeckError
from limbeck.evidence.records import Quality
from limbeck.evidence.report import Example, Made, Sample, write_report
from limbeck.evidence.schema import Evidence
from limbeck.export import Exported
from limbeck.files import home
from limbeck.models.saved import load_student
from limbeck.recipe import Recipe
from limbeck.recipe.reading import dump
from limbeck.run import folder as runs
from limbeck.run.conduct import conduct
from limbeck.run.delivered import Delivered, judged
from limbeck.run.experiment import from_recipe
from limbeck.run.labelling import Labelling
from limbeck.run.measure import answers_of
from limbeck.run.preflight import Preflight, preflight
from limbeck.run.result import Result
from limbeck.teachers.part import WHOLE, Part
from limbeck.teachers.store import StoreInfo
from limbeck.training.progress import Watcher
from limbeck.training.settings import Training

_SHARE_OF_BUDGET = 0.85  # an estimate from a few steps may be that much too low
CUT = "Budgets were cut"
"""How the note on them begins."""


def run(
    recipe: Recipe,
    out: Path | None = None,
    *,
    max_minutes: float | None = None,
    allow_code: bool = False,
    command: str | None = None,
    quiet: bool = False,
) -> Result:
    """Runs a recipe, or goes on with it where it was interrupted.

    Args:
        recipe: see `limbeck.recipe.reading.read`.
        out: the run folder, by default ``runs/<name>``.
        max_minutes: if the preflight expects more, all budgets are cut by one factor, to no fewer than 20 steps; the terminal
            and the report say so.
        allow_code: whether the recipe may name Python code to run.
        command: for the record.
        quiet: no progress.

    Raises:
        LimbeckError: something that the user can mend.
    """
    out = out or Path("runs") / recipe.name
    with code_is_allowed(allow_code):
        remarks: tuple[str, ...] = ()
        if max_minutes is not None:
            recipe, remarks = _within(recipe, out, max_minutes, allow_code)
        experiment = replace(from_recipe(recipe, allow_code), remarks=remarks)
        return conduct(experiment, out, dump(recipe), command, quiet)


def _within(recipe: Recipe, out: Path, minutes: float, allow_code: bool) -> tuple[Recipe, tuple[str, ...]]:
    """The recipe with budgets that fit into ``minutes``, and what the report must say of it."""
    if (out / runs.RECIPE).exists():  # going on: the budgets were cut when the run began
        found = runs.read(out)["recipe"]
        known = Recipe.model_validate_json(json.dumps(found)) if "limbeck" in found else recipe
        if _unbudgeted(known) == _unbudgeted(recipe):
            return known, _cut(recipe, known, minutes)
    began = time.monotonic()
    experiment = from_recipe(recipe, allow_code)
    expected = preflight(experiment, home())
    spent = 2 * (time.monotonic() - began)  # the run reads and tries everything once more
    left = _SHARE_OF_BUDGET * (60 * minutes - spent) - expected.fixed
    share = max(0.0, left / max(1e-9, expected.seconds - expected.fixed))
    if share >= 1:
        return recipe, ()
    training = experiment.training.resolved(len(experiment.splits.train)).scaled(share)
    teacher = recipe.teacher
    if teacher is not None:
        labelled = len(experiment.splits.train.labelled())
        teacher = teacher.budgeted(lambda own: own.resolved(labelled).scaled(share))
    regime = recipe.regime.budgeted(lambda own: own.scaled(share))
    less = recipe.model_copy(update={"training": training, "teacher": teacher, "regime": regime})
    return less, _cut(recipe, less, minutes)


def _unbudgeted(recipe: Recipe) -> Recipe:
    """The recipe without its budgets."""

    def bare(training: Training) -> Training:
        return training.model_copy(update={"steps": 1, "epochs": None})

    teacher = recipe.teacher and recipe.teacher.budgeted(bare)
    regime = recipe.regime.budgeted(bare)
    return recipe.model_copy(update={"training": bare(recipe.training), "teacher": teacher, "regime": regime})


def _cut(whole: Recipe, less: Recipe, minutes: float) -> tuple[str, ...]:
    """What a reader must know of cut budgets; nothing if they are whole."""
    taught = [one.teacher.trainings if one.teacher else () for one in (whole, less)]
    pairs: list[tuple[str, Training, Training]] = [
        ("each student", whole.training, less.training),
        *((who, own, cut) for (who, own), (_, cut) in zip(*taught, strict=True)),
    ]
    told = [
        f"{less.steps:,} steps for {who} in place of {f'{whole.steps:,}' if whole.steps else f'{whole.epochs:g} epochs'}"
        for who, whole, less in pairs
        if whole != less
    ]
    if whole.regime != less.regime:
        told.append("less for the trainings before the last in the same proportion")
    if not told:
        return ()
    return (
        f"{CUT} to fit --max-minutes {minutes:g}: {', '.join(told)}. The verdict speaks of this shorter training, not of the "
        "recipe's.",
    )


def check(recipe: Recipe, *, allow_code: bool = False) -> Preflight:
    """The preflight alone.

    Raises:
        PreflightError: the run cannot work; says why.
    """
    with code_is_allowed(allow_code):
        return preflight(from_recipe(recipe, allow_code), home())


def label(recipe: Recipe, *, allow_code: bool = False, part: Part = WHOLE, reuse: bool = False) -> StoreInfo:
    """Trains the teacher if it has to be, and stores its outputs for every training row and view, or for a part of them.

    ``reuse``: whether rows that an earlier store holds of the same teacher, for the same input, are taken over: a data set that
    grew is asked for its new rows. They were computed in other batches, and may differ in their last bits.

    Raises:
        LimbeckError: the recipe asks its teacher live, or replays a store.
    """
    with Watcher() as watcher, Labelling(recipe, watcher, allow_code, reuse) as labelling:
        left = labelling.do(part)
        if reuse:
            watcher.say(f"{labelling.reused:,} rows were taken over from earlier stores")
        if part != WHOLE:
            watcher.say(
                f"part {part.number}/{part.of} is done; "
                + (f"{left:,} rows of other parts are not stored yet" if left else "all rows are stored")
            )
        return labelling.info()


def load(folder: Path | str, module: torch.nn.Module | None = None) -> Delivered:
    """The delivered student of a run, or of a folder that ``limbeck export --to safetensors`` wrote.

    ``module``: one like it, if it was given in memory.

    Raises:
        LimbeckError: there is none, or it was altered.
    """
    folder = Path(folder)
    if (folder / runs.RECIPE).exists() and not (folder / runs.STUDENT).exists():
        raise LimbeckError(
            f"{folder} has no student yet: the run is not finished. The same `limbeck run` goes on with it."
        )
    of_run = (folder / runs.STUDENT).is_dir()
    return Delivered.of(load_student(folder / runs.STUDENT if of_run else folder, module), folder if of_run else None)


def _recipe_of(folder: Path) -> Recipe:
    found = runs.read(folder)["recipe"]
    if "limbeck" not in found:
        raise _in_memory(folder)
    return Recipe.model_validate_json(json.dumps(found))


def _in_memory(folder: Path) -> LimbeckError:
    return LimbeckError(
        f"{folder} was run from objects in memory, which are not in the folder, so this takes Python. "
        f"student = limbeck.load({str(folder)!r}, module=...), with a module like the student's, gives the student back; "
        "student.export('onnx', 'a-new-folder') exports it, and student.evaluate(data) judges it on (input, label) pairs."
    )


def evaluate(folder: Path, data: Data | None = None) -> Quality:
    """The delivered student's quality on other data of the same task and classes, or on the run's own test part.

    Args:
        folder: the run.
        data: a source in the form of a recipe's ``data``; every labelled row of it is used.

    Raises:
        LimbeckError: the task or the classes are others, or the data cannot be read.
    """
    recipe, student = _recipe_of(folder), load(folder)
    metrics = recipe.evidence.metrics
    if data is None:
        test = from_recipe(recipe, code=True).splits.test
        answers = answers_of(student.module, test, "student", "cpu")
        return judged(answers, student.task, student.classes, metrics)
    raw = data.source.load(data.task)
    if raw.task.name != student.task.name:
        raise LimbeckError(
            f"{raw.name} has labels of the task {raw.task.name!r}, but the student's is {student.task.name!r}."
        )
    items = [raw.items[row] for row in torch.arange(len(raw)).tolist()]
    return student.judged(items, _in_order(raw, student), metrics, raw.name)


def _in_order(raw: Raw, student: Delivered) -> torch.Tensor:
    """Labels by the student's numbers of what they name.

    Raises:
        LimbeckError: the student does not know some.
    """
    what = student.task.outputs
    if raw.classes == student.classes or not what:
        return raw.labels
    if unknown := sorted(set(raw.classes) - set(student.classes)):
        raise LimbeckError(f"{raw.name} has {what} that the student does not know: {', '.join(unknown[:5])}.")
    place = torch.tensor([student.classes.index(name) for name in raw.classes])
    if student.task.named:
        return torch.where(raw.labels >= 0, place[raw.labels.clamp_min(0)], raw.labels)
    found = torch.full((len(raw), len(student.classes)), NO_LABEL)
    found[:, place] = raw.labels
    return found


def report(folder: Path) -> Path:
    """Writes the report of a finished run again, with this version's layout.

    Raises:
        LimbeckError: the run is not finished.
    """
    if not (folder / runs.EVIDENCE).exists():
        runs.read(folder)  # says so if it is no run at all
    evidence = Evidence.read(folder)
    kept = runs.kept(folder, runs.SHOWN)
    examples = [Example(**{**one, "content": runs.image(one["content"])}) for one in kept["examples"]]
    texts = [Sample(**one) for one in kept.get("samples", ())]  # older runs kept none
    made = [Made(**{**one, "picture": runs.image(one["picture"])}) for one in kept.get("made", ())]
    path = folder / runs.REPORT
    write_report(evidence, kept["curves"], examples, kept["recipe"], path, texts, made)
    return path


def export_run(folder: Path, to: str, out: Path | None = None) -> Exported:
    """Exports the delivered student, proven equal on real inputs from the run's test part.

    Raises:
        LimbeckError: the format does not suit the model, or the export answers otherwise than the student.
    """
    try:
        student = load(folder)
    except LimbeckError as error:
        if "module=" in str(error) and "limbeck" not in runs.read(folder)["recipe"]:
            raise _in_memory(folder) from error
        raise
    return student.export(to, out or folder / f"export-{to}")  # type: ignore[arg-type]

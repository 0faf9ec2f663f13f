"""The report: one self-contained HTML page, readable without network, script or colour."""

import base64
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

from limbeck.data.task import Task
from limbeck.data.tasks import CLASSES
from limbeck.errors import LimbeckError
from limbeck.evidence import charts, figures, tables, words
from limbeck.evidence.exam import Exam
from limbeck.evidence.groups import shown_groups
from limbeck.evidence.metrics import softmax
from limbeck.evidence.results import ArmResults, Curve
from limbeck.evidence.retention import shown_retention
from limbeck.evidence.schema import Evidence
from limbeck.evidence.tasks import shown_tasks
from limbeck.evidence.traffic import shown_traffic
from limbeck.files import write_text

WIDEST = 256  # pixels of an embedded picture
LONGEST = 600  # characters of an embedded text
WIDE = 16  # characters of an answer: more stand below its label
MOST_TOLD = 8  # answers to an example that are told


@dataclass(frozen=True)
class Example:
    """One test example for a person to look at: a text, or an image (uint8, [height, width] or [height, width, 3]).

    The confidences are None where there is not just one choice. ``teacher_right``: None for what is neither right nor wrong,
    such as a number; where there is a confidence, None says no more than the texts.
    """

    content: str | np.ndarray[Any, Any]
    truth: str
    teacher: str
    student: str
    teacher_confidence: float | None
    student_confidence: float | None
    position: int | None = None
    teacher_right: bool | None = None
    student_right: bool | None = None


@dataclass(frozen=True)
class Sample:
    """A prompt of the test part, what follows it in the data, and what each arm writes: by its likeliest tokens, and drawn."""

    prompt: str
    reference: str
    likeliest: Mapping[str, str]
    drawn: Mapping[str, str]


@dataclass(frozen=True)
class Made:
    """A picture that was made for the student to learn from (uint8, [height, width] or [height, width, 3]), and what the teacher
    says of it.
    """

    picture: np.ndarray[Any, Any]
    answer: str
    confidence: float


def disagreements(
    evidence: Evidence,
    arms: ArmResults,
    labels: np.ndarray[Any, Any],
    classes: Sequence[str],
    show: Callable[[int], Any],
    task: Task = CLASSES,
    example: np.ndarray[Any, Any] | None = None,
    say: Callable[[int, np.ndarray[Any, Any]], Any] | None = None,
) -> tuple[Example, ...]:
    """The examples on which teacher and first distilled student disagree most.

    ``show``: the content of a test position, a text or a uint8 image. ``example``: see `limbeck.evidence.weigh.weigh`. ``say``:
    answers [K] to a test position as a delivered student gives them (see `Task.said`); None: the name of a class.
    """
    if arms.teacher is None or "distilled" not in evidence.fidelity:
        return ()
    exam = Exam.of(labels, classes, task, example)
    teacher, student = (np.asarray(arm.logits[0], dtype=np.float64) for arm in (arms.teacher, arms.distilled))
    found = []
    for position in evidence.fidelity["distilled"].disagreements:
        mine = exam.example == position
        truth, *said = (one[mine] for one in (exam.labels, teacher, student))
        answers = [truth, *(said if task.gives == "numbers" else [one.argmax(1) for one in said])]
        told = told_apart([say(position, one) if say else classes[int(one[0])] for one in answers])
        sure = [float(softmax(one).max()) if exam.binary else None for one in said]
        right = [None if task.gives == "numbers" else bool((one == truth).all()) for one in answers[1:]]
        found.append(Example(show(position), *told, sure[0], sure[1], position, right[0], right[1]))
    return tuple(found)


def told_apart(answers: Sequence[Any]) -> tuple[str, str, str]:
    """What the truth and two models say of one example; of words with tags, and of many labels, only where they differ.

    ``answers``: a text, a number, or several of either, or (word, tag) pairs; or a class of each task by its name.
    """
    answers = [list(one.items()) if isinstance(one, Mapping) else one for one in answers]
    several = [list(one) if isinstance(one, list | tuple) else [one] for one in answers]
    common = set.intersection(*(set(enumerate(one)) for one in several))
    tagged = any(isinstance(word, tuple) for one in several for word in one)
    if tagged or max(map(len, several)) > MOST_TOLD:
        several = [[word for place, word in enumerate(one) if (place, word) not in common] for one in several]
    truth, theirs, ours = (", ".join(map(_word, one[:MOST_TOLD])) + " …" * (len(one) > MOST_TOLD) for one in several)
    return truth or "none", theirs or "none", ours or "none"


def _word(said: Any) -> str:
    """A text, a number, or a word with its tag."""
    if isinstance(said, str | tuple):
        return said if isinstance(said, str) else ": ".join(said)
    return f"{said:.4g}".replace("-", "\N{MINUS SIGN}")


def image_uri(pixels: np.ndarray[Any, Any]) -> str:
    """A PNG data URI of a uint8 image [H, W], [H, W, 1] or [H, W, 3], at most `WIDEST` pixels a side."""
    from PIL import Image

    array = np.asarray(pixels)
    array = array[..., 0] if array.ndim == 3 and array.shape[-1] == 1 else array
    if array.dtype != np.uint8 or array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[-1] != 3):
        raise LimbeckError(
            f"An example for the report has shape {list(array.shape)} and type {array.dtype}: "
            "an image is uint8, [height, width] or [height, width, 3]."
        )
    picture = Image.fromarray(np.ascontiguousarray(array))
    picture.thumbnail((WIDEST, WIDEST))
    stream = io.BytesIO()
    picture.save(stream, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(stream.getvalue()).decode()


def _shown(example: Example) -> dict[str, Any]:
    """An example as the template reads it."""
    common = {name: value for name, value in vars(example).items() if name != "content"}
    for who in ("teacher", "student"):
        if common[f"{who}_right"] is None and common[f"{who}_confidence"] is not None:
            common[f"{who}_right"] = common[who] == common["truth"]
    if isinstance(example.content, str):
        return {**common, "text": _cut(example.content), "image": None}
    return {**common, "image": image_uri(example.content), "tiny": max(np.shape(example.content)[:2]) <= 64}


def _written(sample: Sample, arms: Sequence[str]) -> dict[str, Any]:
    """A sample as the template reads it: the writers in the order of the tables."""
    return {
        "prompt": _cut(sample.prompt),
        "reference": _cut(sample.reference),
        "arms": [
            (name, _cut(sample.likeliest[name]), _cut(sample.drawn[name])) for name in arms if name in sample.drawn
        ],
    }


def _cut(text: str) -> str:
    return text if len(text) <= LONGEST else text[:LONGEST].rstrip() + " …"


def _day(date: str) -> str:
    """``21 November 2026`` for an ISO date; whatever else it is, as it is."""
    try:
        when = datetime.fromisoformat(date)
    except ValueError:
        return date
    return f"{when.day} {when:%B %Y}"


def render(
    evidence: Evidence,
    curves: Mapping[str, Sequence[Curve]],
    examples: Sequence[Example],
    recipe_text: str,
    samples: Sequence[Sample] = (),
    made: Sequence[Made] = (),
) -> str:
    """The page as text. Everything that did not come from this package's own files is escaped."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    here = Path(__file__).parent
    environment = Environment(
        loader=FileSystemLoader(here), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters.update(
        day=_day,
        number=figures.number,
        lasting=figures.lasting,
        percent=lambda value, digits=1: f"{100 * value:.{digits}f}\N{NO-BREAK SPACE}%",
    )
    css = (here / "report.css").read_text(encoding="utf-8")
    relations = evidence.fidelity["distilled"].relations if "distilled" in evidence.fidelity else None
    pictured = relations is not None and len(relations.teacher or ()) > charts.PAIR
    headline, tone = words.headline(evidence)
    arms = list(evidence.arms.present())
    return environment.get_template("report.html").render(
        css=Markup(css),  # noqa: S704 - our own file
        evidence=evidence,
        measure=evidence.measure,
        headline=headline,
        question=words.question(evidence),
        tone=tone,
        matched=words.against(evidence.at_equal_compute) if evidence.at_equal_compute else None,
        names=words.NAMES,
        arms=arms,
        tiles=words.tiles(evidence),
        compared=words.compared(evidence),
        table=tables.quality_and_cost(evidence),
        explained=words.explained(evidence),
        timed=words.timed(evidence),
        fidelity=tables.fidelity(evidence),
        teachers=tables.teachers(evidence),
        facts=words.facts(evidence),
        forest=charts.forest(evidence),
        ladder=charts.ladder(evidence),
        learning=charts.learning(curves, evidence.measure),
        timeline=charts.timeline(evidence),
        over_time=charts.over_time(curves, evidence),
        reliability=charts.reliability(evidence),
        relations={"teacher": charts.heat(relations.teacher), "student": charts.heat(relations.student)}
        if pictured and relations and relations.teacher and relations.student
        else None,
        opposites=relations is not None and len(relations.teacher or ()) == charts.PAIR,
        classes=list(evidence.arms.distilled.mean.per_class),
        examples=[_shown(one) for one in examples],
        long=any(len(name) > WIDE for one in examples for name in (one.truth, one.teacher, one.student)),
        samples=[_written(one, arms) for one in samples],
        writing=tables.writing(evidence),
        retention=shown_retention(evidence),
        tasks=shown_tasks(evidence),
        groups=shown_groups(evidence),
        traffic=shown_traffic(evidence),
        made=[{"image": image_uri(one.picture), "answer": one.answer, "confidence": one.confidence} for one in made],
        recipe=recipe_text.strip(),
    )


def write_report(
    evidence: Evidence,
    curves: Mapping[str, Sequence[Curve]],
    examples: Sequence[Example],
    recipe_text: str,
    path: Path,
    samples: Sequence[Sample] = (),
    made: Sequence[Made] = (),
) -> None:
    """Writes the page to ``path``, whole or not at all.

    ``curves``: by arm, one a seed (`weigh.Curve`). ``examples``: as `disagreements` gives them. ``samples``: of language
    models, what they write. ``made``: of students without data, pictures that they learnt from.
    """
    write_text(path, render(evidence, curves, examples, recipe_text, samples, made))

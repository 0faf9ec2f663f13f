"""The report: one self-contained HTML page, readable without network, script or colour."""

import base64
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

from limbeck.errors import LimbeckError
from limbeck.evidence import charts, tables
from limbeck.evidence.metrics import softmax
from limbeck.evidence.schema import Evidence
from limbeck.evidence.verdict import amount
from limbeck.evidence.weigh import ArmResults, Curve
from limbeck.files import write_text

WIDEST = 256  # pixels of an embedded picture
LONGEST = 600  # characters of an embedded text


@dataclass(frozen=True)
class Example:
    """One test example for a person to look at: a text, or an image (uint8, [height, width] or [height, width, 3])."""

    content: str | np.ndarray[Any, Any]
    truth: str
    teacher: str
    student: str
    teacher_confidence: float
    student_confidence: float
    position: int | None = None


def disagreements(
    evidence: Evidence,
    arms: ArmResults,
    labels: np.ndarray[Any, Any],
    classes: Sequence[str],
    show: Callable[[int], Any],
) -> tuple[Example, ...]:
    """The examples on which teacher and first distilled student disagree most.

    ``show``: the content of a test position, a text or a uint8 image.
    """
    if arms.teacher is None or "distilled" not in evidence.fidelity:
        return ()
    teacher, student = (np.asarray(arm.logits[0], dtype=np.float64) for arm in (arms.teacher, arms.distilled))
    found = []
    for position in evidence.fidelity["distilled"].disagreements:
        t, s = softmax(teacher[position]), softmax(student[position])
        found.append(
            Example(
                content=show(position),
                truth=classes[int(labels[position])],
                teacher=classes[int(t.argmax())],
                student=classes[int(s.argmax())],
                teacher_confidence=float(t.max()),
                student_confidence=float(s.max()),
                position=position,
            )
        )
    return tuple(found)


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
    if isinstance(example.content, str):
        text = example.content
        return {**common, "text": text if len(text) <= LONGEST else text[:LONGEST].rstrip() + " …", "image": None}
    return {**common, "image": image_uri(example.content), "tiny": max(np.shape(example.content)[:2]) <= 64}


def _day(date: str) -> str:
    """``21 November 2026`` for an ISO date; whatever else it is, as it is."""
    try:
        when = datetime.fromisoformat(date)
    except ValueError:
        return date
    return f"{when.day} {when:%B %Y}"


def render(
    evidence: Evidence, curves: Mapping[str, Sequence[Curve]], examples: Sequence[Example], recipe_text: str
) -> str:
    """The page as text. Everything that did not come from this package's own files is escaped."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    here = Path(__file__).parent
    environment = Environment(
        loader=FileSystemLoader(here), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters.update(
        amount=amount,
        day=_day,
        number=tables.number,
        percent=lambda value, digits=1: f"{100 * value:.{digits}f}\N{NO-BREAK SPACE}%",
    )
    css = (here / "report.css").read_text(encoding="utf-8")
    relations = evidence.fidelity["distilled"].relations if "distilled" in evidence.fidelity else None
    pictured = relations is not None and relations.teacher is not None and relations.student is not None
    headline, tone = tables.headline(evidence)
    arms = list(evidence.arms.present())
    return environment.get_template("report.html").render(
        css=Markup(css),  # noqa: S704 - our own file
        evidence=evidence,
        headline=headline,
        tone=tone,
        names=tables.NAMES,
        arms=arms,
        tiles=tables.tiles(evidence),
        compared=tables.compared(evidence),
        table=tables.quality_and_cost(evidence),
        timed=tables.timed(evidence),
        fidelity=tables.fidelity(evidence),
        facts=tables.facts(evidence),
        forest=charts.forest(evidence),
        ladder=charts.ladder(evidence),
        learning=charts.learning(curves),
        reliability=charts.reliability(evidence),
        relations={"teacher": charts.heat(relations.teacher), "student": charts.heat(relations.student)}
        if pictured and relations and relations.teacher and relations.student
        else None,
        classes=list(evidence.arms.distilled.mean.per_class),
        examples=[_shown(one) for one in examples],
        recipe=recipe_text.strip(),
    )


def write_report(
    evidence: Evidence,
    curves: Mapping[str, Sequence[Curve]],
    examples: Sequence[Example],
    recipe_text: str,
    path: Path,
) -> None:
    """Writes the page to ``path``, whole or not at all.

    ``curves``: by arm, one a seed (`weigh.Curve`). ``examples``: as `disagreements` gives them.
    """
    write_text(path, render(evidence, curves, examples, recipe_text))

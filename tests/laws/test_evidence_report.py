"""The report says what the evidence says, needs nothing from outside, and lets no user string run."""

import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import jsonschema
import numpy as np
import pytest

import limbeck.evidence.schema as schema
from limbeck.errors import LimbeckError
from limbeck.evidence.charts import forest, over_time, timeline
from limbeck.evidence.records import Efficiency, Latency, Training
from limbeck.evidence.report import Example, disagreements, image_uri, render, write_report
from limbeck.evidence.results import ArmResult, ArmResults
from limbeck.evidence.schema import Counts, Evidence, Provenance
from limbeck.evidence.verdict import outcome
from limbeck.evidence.weigh import weigh
from limbeck.evidence.words import NAMES

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
KIN = {0: (8, 2), 1: (9,), 2: (0, 4), 3: (5, 6), 4: (7, 2), 5: (3, 7), 6: (3,), 7: (4, 5), 8: (0, 9), 9: (1, 8)}
RECIPE = "name: tiny-images\nteacher: {model: resnet18}\nstudent: {model: small-cnn}\nobjective: soft-targets\n"


def worlds(seeds: int = 3, rows: int = 1000, gain: float = 0.55, classes: int = 10) -> tuple[ArmResults, np.ndarray]:
    """A teacher that knows which classes are alike, and students that have come more or less of its way."""
    generator = np.random.default_rng(7)
    labels = np.arange(rows) % classes
    kin = np.zeros((classes, classes))
    for one, others in KIN.items():
        if one < classes:
            kin[one, [other for other in others if other < classes]] = 1.6
    hard = generator.normal(size=(rows, classes)) * 1.1
    clean = 5.0 * np.eye(classes)[labels] + kin[labels] + hard

    def student(skill: float, seed: int, sharp: float = 1.0) -> np.ndarray:
        noise = np.random.default_rng(100 * seed + int(1000 * skill)).normal(size=clean.shape)
        mixed = sharp * (5.0 * np.eye(classes)[labels] + skill * kin[labels] + 1.15 * hard + (1 - skill) * 1.5 * noise)
        return mixed.astype(np.float32)

    def curves(top: float) -> list[list[dict]]:
        steps = range(50, 2001, 50)
        return [
            [
                {
                    "step": step,
                    "loss": 2.3 * np.exp(-step / 500),
                    "parts": {},
                    "validation": {
                        "accuracy": top
                        - 0.6 * np.exp(-step / 300)
                        + 0.006 * np.random.default_rng(step + seed).normal()
                    },
                }
                for step in steps
            ]
            for seed in range(seeds)
        ]

    def arm(skill: float, top: float, sharp: float = 1.0) -> ArmResult:
        cost = Efficiency(
            parameters=94_410, bytes_on_disk=379_816, latency=Latency(p50_ms=0.412, p95_ms=0.587, timed=100, warmup=20),
            throughput=18_240.0, throughput_batch=256, threads=1,
        )  # fmt: skip
        several = [student(skill, seed, sharp) for seed in range(seeds)]
        return ArmResult(several, range(seeds), curves(top), [41.2 + seed for seed in range(seeds)], cost)

    big = Efficiency(
        parameters=11_173_962, bytes_on_disk=44_782_344,
        latency=Latency(p50_ms=5.91, p95_ms=7.2, timed=100, warmup=20),
        throughput=412.0, throughput_batch=256, threads=1,
    )  # fmt: skip
    return ArmResults(
        teacher=ArmResult([clean.astype(np.float32)], efficiency=big),
        control=arm(0.2, 0.86, 1.6),
        pseudo_labels=arm(0.2 + gain / 3, 0.885, 1.3),
        distilled=arm(0.2 + gain, 0.92),
    ), labels


def realistic(**options) -> tuple[Evidence, ArmResults, np.ndarray]:
    arms, labels = worlds(**options)
    evidence = weigh(
        arms, labels, CLASSES, name="tiny-images", metrics=("f1-macro", "top-5"),
        data=Counts(train=4000, labelled=500, validation=500, test=len(labels), classes=10),
        notes=("Soft targets on 500 labelled and 3,500 unlabelled images.", "The teacher is one fixed model."),
        provenance=Provenance(
            recipe_hash="3f9a" * 16, data_fingerprint="b71c" * 16, teacher_fingerprint="0d42" * 16,
            versions={"limbeck": "0.1.0", "torch": "2.13.0"}, seeds=tuple(arms.distilled.seeds),
            device="cpu", threads=1,
            date="2026-11-21T10:00:00+00:00", command="limbeck run recipes/tiny-images.yaml", counts={"epochs": 20},
        ),
    )  # fmt: skip
    return evidence, arms, labels


def page(tmp: Path, **options) -> Path:
    evidence, arms, labels = realistic(**options)

    def show(position: int) -> np.ndarray:
        generator = np.random.default_rng(position)
        small = generator.integers(0, 255, (4, 4, 3), dtype=np.uint8)
        return np.kron(small, np.ones((8, 8, 1), dtype=np.uint8))

    curves = {name: getattr(arms, name).curves for name in ("control", "pseudo_labels", "distilled")}
    path = tmp / "report.html"
    write_report(evidence, curves, disagreements(evidence, arms, labels, CLASSES, show), RECIPE, path)
    return path


class Links(HTMLParser):
    """Everything in a page that could fetch or run."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.links: list[str] = []
        self.handlers: list[str] = []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        for name, value in attrs:
            if name in {"src", "href", "action", "data", "poster", "srcset", "xlink:href"}:
                self.links.append(value or "")
            if name.startswith("on"):
                self.handlers.append(name)


def read(text: str) -> Links:
    parser = Links()
    parser.feed(text)
    return parser


def test_every_arm_has_a_colour_and_a_name():
    css = Path(schema.__file__).with_name("report.css").read_text()
    for name in schema.ARMS:
        assert css.count(f"--{name}: #") == 2, f"{name}, by day and by night"
        assert name in NAMES


def test_schema_file_is_current_and_evidence_validates():
    stored = Path(schema.__file__).with_name("evidence.schema.json").read_text()
    assert stored == schema.schema_text(), "write schema_text() to evidence.schema.json"
    jsonschema.Draft202012Validator.check_schema(json.loads(stored))
    for options in ({}, {"seeds": 1}, {"gain": 0.0}):
        evidence, _, _ = realistic(rows=300, **options)
        jsonschema.Draft202012Validator(json.loads(stored)).validate(evidence.plain())


def test_evidence_comes_back_from_its_file(tmp_path):
    evidence, _, _ = realistic(rows=200)
    (tmp_path / "evidence.json").write_text(json.dumps(evidence.plain(), allow_nan=False))
    assert Evidence.read(tmp_path) == evidence
    with pytest.raises(LimbeckError, match="No evidence at"):
        Evidence.read(tmp_path / "nothing")
    (tmp_path / "evidence.json").write_text('{"format": 2}')
    with pytest.raises(LimbeckError, match="not evidence of format 1"):
        Evidence.read(tmp_path)


def test_page_is_self_contained_and_says_the_verdict(tmp_path):
    text = page(tmp_path).read_text()
    found = read(text)
    assert "script" not in found.tags
    assert not found.handlers
    assert all(link.startswith("data:") for link in found.links)
    assert "default-src &#39;none&#39;" not in text
    assert "content=\"default-src 'none'; style-src 'unsafe-inline'; img-src data:\"" in text
    assert not re.search(r"url\(|@import|http://|https://", text)
    evidence, _, _ = realistic()
    assert evidence.verdict == "helped"
    assert "Yes, the teacher helped." in text
    assert evidence.sentence in text
    assert (
        text.index("Yes, the teacher helped.") < text.index("What was compared") < text.index("Which ingredient helped")
    )
    assert len(text) < 200_000


@pytest.mark.parametrize(
    "evil", ["<script>alert(1)</script>", '"><img src=x onerror=alert(1)>', "'); }</style><script>x</script>"]
)
def test_user_strings_are_inert(evil):
    arms, labels = worlds(rows=240, classes=10)
    evidence = weigh(
        arms, labels, [f"{evil}{one}" for one in range(10)], name=evil, notes=(evil,), ingredients=evil, resamples=200,
        provenance=Provenance(recipe_hash=evil, date=evil, command=evil, device=evil, versions={evil: evil},
                              counts={evil: 1}),
    )  # fmt: skip
    examples = [Example(evil, evil, evil, evil, 0.5, 0.5, 3)]
    honest = weigh(arms, labels, CLASSES, notes=("x",), resamples=200, provenance=Provenance(
        recipe_hash="x", date="x", command="x", device="x", versions={"x": "x"}, counts={"x": 1}))  # fmt: skip
    text = render(evidence, {"control": arms.control.curves}, examples, evil)
    plain = render(honest, {"control": arms.control.curves}, [Example("x", "x", "x", "x", 0.5, 0.5, 3)], "x")
    assert evil not in text
    assert read(text).tags == read(plain).tags  # not one element more, nor one less
    assert not read(text).handlers


def test_page_without_control_teacher_or_curves():
    arms, labels = worlds(rows=240)
    alone = ArmResults(distilled=arms.distilled)
    evidence = weigh(alone, labels, CLASSES, why_no_control="the regime has two peers and no teacher.", resamples=200)
    assert evidence.verdict == "cannot tell"
    assert "two peers" in evidence.sentence
    text = render(evidence, {}, [], "")
    assert "Cannot tell." in text
    assert "Recipe</h2>" not in text


@pytest.mark.parametrize("seeds", [1, 3])
def test_a_student_without_data_is_held_against_what_data_gives_and_not_judged(seeds):
    arms, labels = worlds(rows=240, seeds=seeds)
    swapped = ArmResults(
        teacher=arms.teacher, control=arms.distilled, with_data=arms.distilled, distilled=arms.control
    )  # it does worse than with data, as they do
    evidence = weigh(swapped, labels, CLASSES, resamples=200)
    ours, theirs = (
        np.mean([(z.argmax(1) == labels).mean() for z in arm.logits]) for arm in (arms.control, arms.distilled)
    )
    share = f"{100 * ours / theirs:.1f}\N{NO-BREAK SPACE}% of"
    assert ours < theirs
    assert (evidence.verdict, outcome(evidence), evidence.advice, evidence.gap_closed) == (
        "cannot tell",
        "without data",
        None,
        None,
    )
    assert evidence.difference.mean == pytest.approx(ours - theirs)
    assert share in evidence.sentence
    assert ("paired seeds" in evidence.sentence) == (seeds > 1)
    text = render(evidence, {}, [], "")
    assert f"{share} what the data gives." in text
    assert "How far does it come without data?" in text
    assert "made it worse" not in text
    assert "made the student worse" not in text


def in_turn(arms, several):
    """The world's arms, the distilled student after so many trainings before; a curve's 2,000 steps are all of them together."""
    each = 2000 // several
    own = [Training(name=f"stage {place}, seed 0", steps=each, seconds=30.0 * place) for place in range(1, several + 1)]
    alone = [Training(name="control, seed 0", steps=2000, seconds=45.0)]
    return replace(
        arms, distilled=replace(arms.distilled, trainings=own), control=replace(arms.control, trainings=alone)
    )


def test_trainings_stand_one_after_another_on_one_scale_of_time():
    arms, labels = worlds(rows=240)
    assert timeline(weigh(arms, labels, CLASSES, resamples=200)) is None, "nothing is known of them"
    assert timeline(weigh(in_turn(arms, 1), labels, CLASSES, resamples=200)) is None, "each has one"
    evidence = weigh(in_turn(arms, 2), labels, CLASSES, resamples=200)
    control, distilled = timeline(evidence)
    assert (control["arm"], distilled["arm"]) == ("control", "distilled")
    assert [one["width"] for one in distilled["parts"]] == pytest.approx([100 / 3, 200 / 3], abs=1e-3)
    assert [one["width"] for one in control["parts"]] == [50.0]
    assert distilled["told"] == "stage 1, 1,000 steps; stage 2, 1,000 steps"
    many = timeline(weigh(in_turn(arms, 20), labels, CLASSES, resamples=200))[1]
    assert [one["width"] for one in many["parts"]] == [100.0]
    assert many["told"] == "20 parts, stage 1, 100 steps to stage 20, 100 steps"
    text = render(evidence, {}, [], "")
    assert "What was made and trained, one after another" in text
    assert "stage 2, 1,000 steps" in text
    assert schema.Evidence.model_validate_json(json.dumps(evidence.plain())) == evidence


def test_without_data_the_curve_is_over_time_too():
    arms, labels = worlds(rows=240)
    arms = in_turn(arms, 2)
    curves = {name: getattr(arms, name).curves for name in ("control", "distilled")}
    assert over_time(curves, weigh(arms, labels, CLASSES, resamples=200)) is None, "it has the data"
    beside = ArmResults(teacher=arms.teacher, control=arms.control, with_data=arms.control, distilled=arms.distilled)
    evidence = weigh(beside, labels, CLASSES, resamples=200)
    drawn = over_time(curves, evidence)
    assert [one["arm"] for one in drawn["arms"]] == ["control", "distilled"]
    ends = {one["arm"]: float(one["thick"].split()[-1].split(",")[0]) for one in drawn["arms"]}
    assert ends == pytest.approx({"control": 50.0, "distilled": 100.0}), "45 and 90 seconds"
    middle = [float(point.split(",")[0]) for point in drawn["arms"][1]["thick"].split()][19]
    assert middle == pytest.approx(100 / 3, abs=0.01), "half of the steps, a third of the time"
    text = render(evidence, curves, [], "")
    assert "How good after how long" in text
    assert text.count("over training steps; at the end") == text.count("over minutes; at the end") == 1


def test_making_pictures_takes_its_time_on_the_page():
    arms, labels = worlds(rows=240)
    arms = in_turn(arms, 2)
    making = [one.model_copy(update={"making": 45.0}) for one in arms.distilled.trainings]  # of 30 and 60 seconds
    arms = replace(arms, distilled=replace(arms.distilled, trainings=making))
    beside = ArmResults(teacher=arms.teacher, control=arms.control, with_data=arms.control, distilled=arms.distilled)
    evidence = weigh(beside, labels, CLASSES, resamples=200)
    rows = {row["arm"]: row for row in timeline(evidence)}
    assert [one["width"] for one in rows["distilled"]["parts"]] == pytest.approx(
        [100 * one / 180 for one in (45, 30, 45, 60)], abs=1e-3
    )
    assert rows["distilled"]["told"].startswith(
        "making what stage 1 learns from; stage 1, 1,000 steps; making what stage 2"
    )
    curve = [{"step": step, "validation": {evidence.measure.name: 0.5}} for step in (1, 1000, 1001, 2000)]
    (drawn,) = (one for one in over_time({"distilled": [curve]}, evidence)["arms"] if one["arm"] == "distilled")
    places = [float(point.split(",")[0]) / 100 for point in drawn["thick"].split()]
    assert places == pytest.approx([45.03 / 180, 75 / 180, 120.06 / 180, 1.0], abs=1e-4)
    alone = replace(arms.distilled, trainings=making[:1])
    evidence = weigh(replace(beside, distilled=alone), labels, CLASSES, resamples=200)
    assert timeline(evidence), "one training, and what was made for it"


def test_no_strange_numbers_on_the_page(tmp_path):
    for options in ({"seeds": 1}, {"gain": 0.0}, {}):
        text = page(tmp_path, rows=200, **options).read_text()
        assert not re.search(r"\b(nan|inf|None|Infinity)\b", text)


def test_every_seed_has_a_dot_of_its_own():
    evidence, _, _ = realistic(rows=200)
    gap = evidence.difference.model_copy(update={"per_seed": (0.01, 0.01, 0.04, 0.0101)})
    dots = forest(evidence.model_copy(update={"difference": gap}))["rows"][0]["dots"]
    assert len(set(dots)) == 4
    assert all(abs(one - other) > 1.9 or abs(up - down) >= 8
               for place, (one, up) in enumerate(dots) for other, down in dots[:place])  # fmt: skip
    alike = forest(evidence.model_copy(update={"difference": gap.model_copy(update={"per_seed": (0.01,) * 40})}))
    assert all(5 <= height <= 29 for _, height in alike["rows"][0]["dots"])


def test_no_accuracy_is_emphasised(tmp_path):
    text = page(tmp_path, rows=200, gain=-0.2).read_text()
    assert 'class="main"' not in text, "bold reads as best"


def test_pictures():
    assert image_uri(np.zeros((8, 8), dtype=np.uint8)).startswith("data:image/png;base64,")
    assert image_uri(np.zeros((900, 600, 3), dtype=np.uint8)).startswith("data:image/png;base64,")
    assert image_uri(np.zeros((8, 8, 1), dtype=np.uint8)) == image_uri(np.zeros((8, 8), dtype=np.uint8))
    with pytest.raises(LimbeckError, match="uint8"):
        image_uri(np.zeros((3, 8, 8), dtype=np.float32))


@pytest.mark.parametrize("classes", [2, 3, 60])
def test_any_number_of_classes_and_texts(classes):
    generator = np.random.default_rng(0)
    labels = np.arange(25 * classes) % classes

    def arm(skill: float, seeds: int) -> ArmResult:
        logits = [generator.normal(size=(len(labels), classes)) + skill * np.eye(classes)[labels] for _ in range(seeds)]
        flat = [[{"step": 10 * step, "loss": 1.0, "validation": {"accuracy": 1.0}} for step in range(1, 400)]] * seeds
        return ArmResult(logits, range(seeds) if seeds > 1 else (), flat)

    names = [f"class {one}" for one in range(classes)]
    arms = ArmResults(teacher=arm(3, 1), control=arm(1.5, 2), distilled=arm(2, 2))
    evidence = weigh(arms, labels, names, resamples=200)
    shown = evidence.fidelity["distilled"].relations
    assert (shown.teacher is None) == (classes > 50)
    assert (shown.pearson is None) == (classes < 4)
    degrees = {abs(value) for row in shown.teacher or () for value in row} - {0.0, 1.0}
    assert bool(degrees) == (2 < classes <= 50), "of two classes there are none"
    found = disagreements(evidence, arms, labels, names, lambda position: f"a text of row {position}. " * 50)
    text = render(evidence, {"control": arms.control.curves, "distilled": arms.distilled.curves}, found, RECIPE)
    assert "a text of row" in text
    assert ("Which classes each model finds alike" in text) == bool(degrees)
    assert ("No picture of class relations" in text) == (classes == 2)
    assert "…" in text
    assert len(text) < 150_000

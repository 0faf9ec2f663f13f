"""Evidence of every task: what holds for all of them, and what is said where something has no meaning."""

import json
import re
from dataclasses import replace
from pathlib import Path

import jsonschema
import numpy as np
import pytest
import torch
from tests.fakes.worlds import NAMES, TASKS, World, world

import limbeck.evidence.schema as schema
from limbeck.data.asked import asked
from limbeck.data.batch import Batch
from limbeck.data.examples import Examples
from limbeck.data.language import NextToken
from limbeck.data.measure import ACCURACY, Measure
from limbeck.data.sources import Data
from limbeck.data.task import Answered
from limbeck.data.tasks import CLASSES, Classes, MultiLabel, Numbers, Spans, Tags, Vectors
from limbeck.data.text import TextTable
from limbeck.data.text_reader import TextReader
from limbeck.data.tokenizers import fitted
from limbeck.errors import DataError, LimbeckError
from limbeck.evidence import summary
from limbeck.evidence.compare import compare
from limbeck.evidence.comparison import difference, gap_closed, item_bootstrap, keeps
from limbeck.evidence.exam import Exam
from limbeck.evidence.fidelity import fidelity
from limbeck.evidence.metrics import METRICS, TITLES, check_names
from limbeck.evidence.quality import quality
from limbeck.evidence.report import disagreements, render, told_apart
from limbeck.evidence.resample import MANY, resample
from limbeck.evidence.results import ArmResult, ArmResults
from limbeck.evidence.schema import Evidence
from limbeck.run.measure import ends, said

EVERY = pytest.mark.parametrize("task", TASKS, ids=lambda task: task.name)
SEVERAL = pytest.mark.parametrize("task", [MultiLabel(), Tags()], ids=lambda task: task.name)
SCHEMA = json.loads(Path(schema.__file__).with_name("evidence.schema.json").read_text())


def exam_of(one: World) -> Exam:
    return Exam.of(one.labels, one.names, one.task, one.example)


@EVERY
def test_evidence_is_whole_and_comes_back(task):
    found = world(task).weighed(metrics=task.metrics)
    jsonschema.Draft202012Validator(SCHEMA).validate(found.plain())
    assert Evidence.model_validate_json(json.dumps(found.plain(), allow_nan=False)) == found
    assert found.verdict == "helped"
    assert f"The teacher helped: {task.measure} on 240 test examples went from" in found.sentence
    mean = found.arms.distilled.mean
    assert (mean.measure.name, mean.measure.percent) == (task.measure, task.gives != "numbers")
    assert mean.score == pytest.approx(np.mean([one.score for one in found.arms.distilled.per_seed]))
    assert found.arms.distilled.spread == found.arms.distilled.sd["score"] > 0
    assert found.difference.mean == pytest.approx(mean.score - found.arms.control.mean.score)
    assert 0 < found.gap_closed.value < 1.05
    assert [step.step for step in found.attribution] == ["hard pseudo-labels", "soft targets"]
    assert sum(step.difference.mean for step in found.attribution) == pytest.approx(found.difference.mean)
    assert set(mean.metrics) == set(task.metrics)
    assert all(value is not None for value in mean.metrics.values())
    assert bool(found.mcnemar) == (task.name == "classes")
    likeness = found.fidelity["distilled"]
    assert (likeness.agreement is None) == (likeness.squared_difference is not None) == (task.gives == "numbers")
    assert (mean.accuracy is None) == (mean.nll is None) == (mean.mse is not None) == (task.gives == "numbers")
    assert (mean.reliability == ()) == (mean.per_class == {}) == (task.gives == "numbers")
    assert all(0 <= place < 240 for place in likeness.disagreements)


@EVERY
def test_scores_stay_in_their_range_and_the_truth_is_perfect(task):
    one = world(task)
    exam = exam_of(one)
    for arm in (one.arms.teacher, one.arms.control):
        scores = exam.scores(arm.logits[0])
        assert scores.shape == (240,)
        assert scores.dtype == np.float64
        assert scores.max() <= 1
        assert task.gives == "numbers" or scores.min() >= 0
    perfect = one.labels if task.gives == "numbers" else np.eye(40)[one.labels]
    assert (exam.scores(perfect) == 1).all()


@EVERY
def test_the_order_of_examples_says_nothing(task):
    one = world(task)
    order = np.random.default_rng(1).permutation(one.examples)
    rows = np.concatenate([np.flatnonzero(one.example == place) for place in order])
    renamed = np.argsort(order)[one.example[rows]]
    metrics = task.metrics
    there = quality(one.arms.control.logits[0], one.labels, metrics, one.names, task=task, example=one.example)
    back = quality(one.arms.control.logits[0][rows], one.labels[rows], metrics, one.names, task=task, example=renamed)
    assert back.score == pytest.approx(there.score)
    assert back.metrics == pytest.approx(there.metrics)
    assert back.accuracy == pytest.approx(there.accuracy)
    assert back.per_class == pytest.approx(there.per_class)


@SEVERAL
def test_equal_answers_of_an_example_count_as_one(task):
    """Every answer said twice is the same score."""
    one = world(task)
    exam, logits = exam_of(one), one.arms.control.logits[0]
    twice = Exam.of(np.repeat(one.labels, 2), one.names, one.task, np.repeat(one.example, 2))
    assert twice.scores(np.repeat(logits, 2, 0)) == pytest.approx(exam.scores(logits))


def test_one_answer_an_example_is_as_classes():
    """Tags of texts with one word, and classes: the same numbers."""
    one = world(Classes())
    logits = one.arms.control.logits[0]
    classes = quality(logits, one.labels, ("f1-macro",), one.names)
    tags = quality(logits, one.labels, ("f1-macro",), one.names, task=Tags(), example=one.example)
    assert classes.model_copy(update={"measure": tags.measure}) == tags
    theirs = one.arms.teacher.logits[0]
    assert fidelity(theirs, logits, one.labels) == fidelity(
        theirs, logits, one.labels, task=Tags(), example=one.example
    )


def test_right_and_wrong_are_scores():
    """Booleans and their numbers give the very same statistics."""
    generator = np.random.default_rng(0)
    a, b, teacher = generator.random((3, 90)) < 0.8, generator.random((3, 90)) < 0.6, generator.random((1, 90)) < 0.95
    numbers = [one.astype(np.float64) for one in (teacher, b, a)]
    assert item_bootstrap(a, b, 300) == item_bootstrap(numbers[2], numbers[1], 300)
    assert gap_closed(teacher, b, a, 300) == gap_closed(*numbers, 300)
    assert keeps(teacher, a, resamples=300) == keeps(numbers[0], numbers[2], resamples=300)
    assert difference(a.mean(1), b.mean(1)) == difference(numbers[2].mean(1), numbers[1].mean(1))


@EVERY
def test_the_floor_is_the_best_answer_that_is_always_the_same(task):
    one = world(task, examples=60)
    exam = exam_of(one)
    floor = exam.floor()
    choices = {"classes": 4, "tags": 5}.get(task.name)
    if choices:
        every = [
            exam.scores(np.tile(np.eye(choices)[choice], (len(one.labels), 1))).mean() for choice in range(choices)
        ]
        assert floor == pytest.approx(max(every))
    elif task.heads:
        of = (one.labels >= 2).astype(int)  # which task each answer is to
        every = [exam.scores(np.eye(5)[np.array([a, b])[of]]).mean() for a in (0, 1) for b in (2, 3, 4)]
        assert floor == pytest.approx(max(every))
        assert len(set(every)) > 1
    elif task.name == "multi-label":
        sets = [[number >> place & 1 for place in range(5)] for number in range(32)]
        every = [exam.scores(np.eye(2)[np.tile(one_set, one.examples)]).mean() for one_set in sets]
        assert floor <= max(every) + 1e-12
        assert floor == pytest.approx(max(every), abs=0.03), "the commonest labels together are about the best set"
    elif task.name == "spans":
        never = exam.scores(np.eye(32)[np.zeros(len(one.labels), dtype=int)]).mean()
        assert floor == pytest.approx(never)
        assert 0 < floor < 1
    else:
        mean = np.tile(one.labels.mean(0), (60, 1))
        assert floor == 0
        assert exam.scores(mean).mean() == pytest.approx(0, abs=1e-12)
        assert exam.scores(mean + 0.1).mean() < 0


@EVERY
def test_students_that_learnt_nothing_are_named(task):
    one = world(task)
    flat = np.zeros_like(one.arms.control.logits[0])
    constant = one.labels * 0 + one.labels.mean(0) if task.gives == "numbers" else flat
    lost = ArmResult([constant, constant + 0], (0, 1))
    found = replace(one, arms=ArmResults(distilled=lost, control=lost)).weighed()
    assert f"No student is clearly better than {task.constant}" in found.advice
    assert not any("No student" in note for note in one.weighed().notes)


def test_numbers_have_no_exact_bound_and_it_is_said():
    one = world(Numbers())
    alike = replace(one, arms=replace(one.arms, distilled=one.arms.control))
    found = alike.weighed()
    assert found.item_bootstrap.ci95 == (0, 0)
    assert any("no lowest value" in note for note in found.notes)
    bounded = world(MultiLabel())
    same = replace(bounded, arms=replace(bounded.arms, distilled=bounded.arms.control)).weighed()
    assert same.item_bootstrap.ci95[1] == pytest.approx(1 - 0.025 ** (1 / 240)), "an F1 differs by 1 at most"
    assert not any("no lowest value" in note for note in same.notes)
    assert any("Only 0 of 240" in note for note in same.notes)


def test_a_score_below_zero_is_no_share_that_is_kept():
    generator = np.random.default_rng(0)
    bad = -generator.random((1, 50))
    assert keeps(bad, np.repeat(bad, 2, 0), resamples=100, bounded=False).ratio is None


def test_two_ways_of_resampling_are_one_bootstrap():
    """Above `MANY` distinct rows positions are drawn; the same law, other draws."""
    values = np.random.default_rng(0).normal(size=(MANY + 500, 1))
    drawn = resample(values, 3000)[:, 0]
    assert drawn.mean() == pytest.approx(values.mean(), abs=0.003)  # 5 standard errors of 3,000 draws
    assert drawn.std() == pytest.approx(values.std() / len(values) ** 0.5, rel=0.07)  # 5 of their spread
    assert np.array_equal(drawn, resample(values, 3000)[:, 0])


@EVERY
def test_the_report_is_whole(task):
    one = world(task)
    found = one.weighed(metrics=task.metrics)
    curves = {name: getattr(one.arms, name).curves for name in ("control", "distilled")}
    evil = "<script>alert(1)</script> in the tower of Pisa on a long and sunny day"

    def say(position: int, answers: np.ndarray) -> object:
        if task.name == "tags":
            return [(f"w{place}<b>", one.names[tag]) for place, tag in enumerate(answers)]
        if task.name == "multi-label":
            return [name for name, answer in zip(one.names, answers, strict=True) if answer]
        return "<i>1173</i>" if task.name == "spans" else float(answers.flat[0]) if task.gives == "numbers" else "cat"

    examples = disagreements(found, one.arms, one.labels, one.names, lambda position: evil, task, one.example, say)
    text = render(found, curves, examples, "name: x")
    assert len(examples) == 8
    assert not re.search(r"\b(nan|inf|None|Infinity)\b", text)
    assert "<script" not in text
    assert "w0<b>" not in text
    assert found.sentence.replace("'", "&#39;") in text
    assert ("Whether confidence can be trusted" in text) == (task.gives != "numbers")
    assert ("class relations" in text.lower()) == (task.named and not task.heads)
    assert ("Task by task" in text) == bool(task.heads)
    assert ("✓" in text or "✗" in text) == (task.gives != "numbers")
    assert ("percentage points" in text) == (task.gives != "numbers")
    assert (" points" in found.sentence) == (task.gives != "numbers")
    assert ("There is no McNemar test" in text) == (task.name != "classes")
    assert "accuracy" not in found.sentence or "accuracy" in task.measure
    assert f"Validation {task.measure} over training steps" in text
    assert f"From the control&#39;s {task.measure} to" in text or f"From the control's {task.measure} to" in text
    table = summary.text(found)
    assert task.measure in table.splitlines()[0]
    assert len({len(row) for row in (summary.columns(found), *summary.rows(found))}) == 1


def test_runs_of_two_measures_are_not_compared_in_silence():
    found = compare([world(task).weighed(name=task.name) for task in (Classes(), Numbers())])
    assert any("accuracy and by R²" in one for one in found.warnings)
    rows = dict(found.rows)
    assert rows["distilled"][0].endswith("%")
    assert not rows["distilled"][1].endswith("%")
    assert rows["NLL"][1] is None
    assert rows["squared error"][0] is None


def test_files_of_before_are_read(tmp_path):
    found = world(Classes()).weighed().plain()
    for arm in found["arms"].values():
        for one in [*(arm or {}).get("per_seed", ()), *([arm["mean"]] if arm else ())]:
            for name in ("score", "measure", "answers", "mse"):
                one.pop(name)
        if arm:
            arm["sd"].pop("score")
    for one in found["fidelity"].values():
        one.pop("squared_difference")
        one.pop("correlation")
    found["data"].pop("outputs")
    (tmp_path / "evidence.json").write_text(json.dumps(found))
    read = Evidence.read(tmp_path)
    assert read.measure == ACCURACY
    assert read.arms.distilled.mean.score == read.arms.distilled.mean.accuracy
    assert read.arms.distilled.spread == read.arms.distilled.sd["accuracy"]
    assert "test examples of 4 classes" in render(read, {}, [], "")


def test_metrics_belong_to_tasks():
    assert {name for task in (*TASKS, Vectors(), NextToken()) for name in task.metrics} == set(METRICS)
    assert set(TITLES) == set(METRICS)
    with pytest.raises(LimbeckError, match=r"'mae' is no metric of classes\. There are auroc"):
        check_names(["mae"], CLASSES, ())
    with pytest.raises(LimbeckError, match="did you mean 'spearman'"):
        check_names(["spearmen"], Numbers(), ())
    check_names(["entity-f1"], Tags(), NAMES["tags"])
    with pytest.raises(LimbeckError, match="begin with B- and I- beside O, but there is 'NOUN'"):
        check_names(["entity-f1"], Tags(), ("NOUN", "VERB"))


def test_an_exam_needs_an_answer_to_every_example():
    with pytest.raises(DataError, match="no answer with a label"):
        Exam.of([0, 1, 1], None, Tags(), [0, 0, 2])
    with pytest.raises(DataError, match="no answer with a label"):
        Exam.of([0, 1, 1, 0], None, Tags(), [0, 2, 1, 2])
    with pytest.raises(DataError, match="expected the same shape"):
        quality(np.zeros((4, 2)), np.zeros((4, 1)), task=Numbers())
    with pytest.raises(DataError, match="not finite for 1 of 4 answers"):
        quality(np.array([[0, np.nan], [0, 1], [0, 1], [0, 1]]), [0, 1, 1, 0], task=Tags(), example=[0, 0, 1, 1])


def test_labels_that_are_partly_unknown_leave_what_needs_columns_undefined():
    found = quality(
        np.eye(2)[[1, 0, 1]], [1, 0, 0], ("f1-macro", "subset-accuracy"), ("a", "b"), task=MultiLabel(), example=[0, 0, 1]
    )  # fmt: skip
    assert found.metrics == {"f1-macro": None, "subset-accuracy": 0.5}
    assert found.per_class == {}
    assert found.score == pytest.approx(0.5)


def test_what_is_said_of_an_example_is_short():
    assert told_apart(["cat", "dog", "cat"]) == ("cat", "dog", "cat")
    assert told_apart([["a", "b"], [], ["a"]]) == ("a, b", "none", "a")
    assert told_apart(["", "1173", ""]) == ("none", "1173", "none")
    assert told_apart([3.14159, -2.0, 0.5]) == ("3.142", "\N{MINUS SIGN}2", "0.5")
    assert told_apart([(1.0, 2.0), (1.0, 2.5), (0.0, 0.0)]) == ("1, 2", "1, 2.5", "0, 0")
    text = [[(f"w{place}", "O") for place in range(30)] for _ in range(3)]
    text[1][7], text[2][9] = ("w7", "B-PER"), ("w9", "B-LOC")
    assert told_apart(text) == ("w7: O, w9: O", "w7: B-PER, w9: O", "w7: O, w9: B-LOC")
    other = [[(f"w{place}", str(side)) for place in range(30)] for side in range(3)]
    assert told_apart(other)[0] == ", ".join(f"w{place}: 0" for place in range(8)) + " …"


PERSONS = [
    {"words": ["Ada", "met", "Bob"], "tags": ["B-PER", "O", "B-PER"]},
    {"words": ["a", "day"], "tags": ["O", "O"]},
]
ASKED = [
    {"question": "where", "context": "the mill in Cambridge", "answer": "Cambridge", "start": 12},
    {"question": "when", "context": "a day", "answer": "", "start": 0},
]
SAID = {
    "tags": ("tagged", PERSONS, [("Ada", "B-PER"), ("met", "O"), ("Bob", "B-PER")]),
    "spans": ("questions", ASKED, "Cambridge"),
}


@pytest.mark.parametrize("task", [Tags(), Spans()], ids=lambda task: task.name)
def test_the_truth_is_said_as_it_was_written(task, tmp_path):
    source, rows, expected = SAID[task.name]
    (tmp_path / "x.jsonl").write_text("".join(json.dumps(rows[place % 2]) + "\n" for place in range(40)))
    data = {"source": {"name": source, "path": str(tmp_path / "x.jsonl")}, "task": task.name}
    raw = Data.model_validate(data).source.load(task)
    reader = TextReader(tokenizer=fitted(list(raw.items), task.reads), reads=task.reads)
    table = TextTable(raw.items, reader)
    known = torch.ones(len(raw), dtype=torch.bool)
    some = Examples(table, torch.arange(len(raw)), table.placed(raw.labels, task), known, raw.classes, task=task)

    def right(batch: Batch) -> torch.Tensor:
        logits = torch.zeros(task.shape(len(batch), batch.inputs["input_ids"].shape[1], len(raw.classes)))
        labels = batch.labels["class"]
        axis = labels.clamp_min(0).unsqueeze(-1 if task.named else 1)
        return logits.scatter(-1 if task.named else 1, axis, 5.0)

    found = asked(right, some, "cpu")
    assert (task.scores(found) == 1).all()
    answers = found.logits.argmax(-1).numpy()
    assert said(some, 0, answers[found.example.numpy() == 0]) == expected
    assert said(some, 3, answers[found.example.numpy() == 3]) == ([("a", "O"), ("day", "O")] if task.named else "")


def test_numbers_are_written_in_their_own_unit():
    measure = Measure.of(Numbers())
    assert measure.value(0.8124) == "0.812"
    assert measure.value(-0.5) == "\N{MINUS SIGN}0.500"
    assert measure.gained(0.0312, (0.0101, 0.0523)) == "+0.031 (+0.010 to +0.052)"
    assert measure.gained(0.0042, None) == "+0.0042"
    assert measure.amount(0.005) == "0.005"
    assert ACCURACY.amount(0.005) == "0.5"
    assert Measure.of(Spans()).value(0.8124) == "81.2\N{NO-BREAK SPACE}%"


@EVERY
def test_scores_of_no_seed_are_drawn_from_torch(task):
    """Scores are a function of answers alone: the same on every call, and nothing is drawn."""
    one = world(task)
    before = torch.random.get_rng_state()
    exam = exam_of(one)
    assert np.array_equal(exam.scores(one.arms.control.logits[0]), exam.scores(one.arms.control.logits[0]))
    one.weighed(resamples=50)
    assert torch.equal(before, torch.random.get_rng_state())
    tensors = [torch.from_numpy(part) for part in (one.arms.control.logits[0], one.labels, one.example)]
    spread = float(np.square(one.labels - one.labels.mean(0)).mean()) if task.gives == "numbers" else 1.0
    direct = task.scores(Answered(*tensors, one.examples, spread))
    assert np.array_equal(direct.numpy(), exam.scores(one.arms.control.logits[0]))


def test_long_lists_are_told_by_their_ends():
    few, many = [str(one) for one in range(6)], [str(one) for one in range(11)]
    assert ends(few) == few
    assert ends(many) == ["0", "1", "2", "5 more", "8", "9", "10"]

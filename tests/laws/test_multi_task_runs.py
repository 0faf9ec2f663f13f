"""Runs of several tasks: what evidence says of each, recipes, and what is refused before anything is trained."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from tests.fakes import asked
from tests.fakes.experiments import Net
from tests.fakes.tasks import NAMES, TASK, examples
from torch.nn import functional as F

import limbeck
from limbeck.data.columns import raw_of
from limbeck.data.measure import ACCURACY
from limbeck.data.multi_task import MultiTask
from limbeck.data.sources import Data
from limbeck.data.task import NEVER, Answered
from limbeck.data.tasks import CLASSES
from limbeck.data.tweets import _AIRLINE, _addressed
from limbeck.errors import DataError, LimbeckError, PreflightError
from limbeck.evidence.exam import Exam
from limbeck.evidence.report import render, told_apart
from limbeck.evidence.results import ArmResult, ArmResults
from limbeck.evidence.tasks import shown_tasks, task_scores
from limbeck.evidence.weigh import weigh
from limbeck.evidence.words import compared
from limbeck.files import home
from limbeck.recipe.reading import parse
from limbeck.run import load, run
from limbeck.run.experiment import from_recipe
from limbeck.run.preflight import preflight
from limbeck.teachers.by_task import ByTask
from limbeck.teachers.teacher import Provides

# --- evidence


def marked(generator, labels, skill):
    """Logits that are right the more often the more skill there is; other heads cannot be chosen."""
    found = skill * np.eye(5)[labels] + generator.normal(size=(len(labels), 5))
    for start, stop in ((0, 2), (2, 5)):
        mine = (labels >= start) & (labels < stop)
        found[np.ix_(mine, [place for place in range(5) if not start <= place < stop])] = NEVER
    return found


def judged(taught=None, **skills):
    generator = np.random.default_rng(0)
    both = np.stack([generator.integers(0, 2, 300), generator.integers(2, 5, 300)], 1)
    kept = np.ones((300, 2), dtype=bool)
    kept[:90, 1] = False
    labels, example = both[kept], np.repeat(np.arange(300), 2).reshape(-1, 2)[kept]

    def arm(skill, seeds):
        runs = [marked(generator, labels, skill).astype(np.float32) for _ in range(seeds)]
        return ArmResult(runs, range(seeds) if seeds > 1 else ())

    arms = {name: arm(skill, 1 if name == "teacher" else 3) for name, skill in skills.items()}
    found = weigh(ArmResults(**arms), labels, NAMES, task=TASK, example=example, taught=taught, resamples=200)
    return found, arms, labels


def test_each_tasks_scores_and_differences_are_those_of_its_own_answers():
    """Counted by hand, arm by arm."""
    found, arms, labels = judged(teacher=4.0, control=0.8, apart=1.4, distilled=1.6)
    assert [(one.name, one.classes, one.examples) for one in found.tasks] == [("mood", 2, 300), ("town", 3, 210)]
    for one, head in zip(found.tasks, TASK.heads.values(), strict=True):
        mine = (labels >= head.start) & (labels < head.stop)
        right = {
            name: [float((z[mine].argmax(1) == labels[mine]).mean()) for z in arm.logits] for name, arm in arms.items()
        }
        for name, each in right.items():
            assert one.scores[name] == pytest.approx(np.mean(each))
        assert one.sd["control"] == pytest.approx(np.std(right["control"], ddof=1))
        for other in ("control", "apart"):
            gaps = np.subtract(right["distilled"], right[other])
            assert one.gains[other].difference.per_seed == pytest.approx(gaps)
            assert one.gains[other].item_bootstrap.mean == pytest.approx(gaps.mean())
            assert one.gains[other].item_bootstrap.examples == one.examples
        assert one.floor == pytest.approx(np.bincount(labels[mine]).max() / mine.sum())
    helped = [one.gains["control"].verdict for one in found.tasks]
    assert "helped" in helped
    page = render(found, {}, (), "x")
    assert "Task by task" in page
    assert "A student each" in page
    floor, *rest = shown_tasks(found)["rows"]
    assert floor["cells"] == [(ACCURACY.value(one.floor), None) for one in found.tasks]
    rows = {row["name"]: row["cells"] for row in rest}
    assert list(rows) == ["teacher", "control", "apart", "distilled"]
    assert rows["distilled"] == [
        (ACCURACY.value(one.scores["distilled"]), ACCURACY.spread(one.sd["distilled"])) for one in found.tasks
    ]
    gains = {row["name"]: row["cells"] for row in shown_tasks(found)["gains"]}
    words = {"helped": "better", "did not help": "no better", "cannot tell": "cannot tell"}
    for other in ("control", "apart"):
        assert [cell[0] for cell in gains[other]] == [words[one.gains[other].verdict] for one in found.tasks]
    assert "on the same 300 test examples of 2 tasks" in compared(found)
    assert found.arms.apart is not None


def test_a_teacher_of_one_task_is_judged_there_and_is_no_arm_beside_students_of_both():
    found, *_ = judged({"mood"}, teacher=4.0, control=1.0, distilled=1.5)
    assert found.arms.teacher is None
    assert found.gap_closed is None
    assert found.fidelity == {}
    assert ["teacher" in one.scores for one in found.tasks] == [True, False]
    assert judged(frozenset(TASK.heads), teacher=4.0, control=1.0, distilled=1.5)[0].arms.teacher is not None


def test_one_task_alone_needs_no_table():
    exam = Exam.of([0, 1, 0, 1])
    assert task_scores(exam, {"distilled": {0: np.eye(2)[[0, 1, 0, 1]]}}) == ()


def test_a_score_is_the_share_of_an_examples_own_answers():
    right = torch.tensor([True, False, True, True])
    labels = torch.tensor([0, 3, 1, 4])
    logits = F.one_hot(torch.where(right, labels, labels - 1), 5).float()
    found = TASK.scores(Answered(logits, labels, torch.tensor([0, 0, 1, 2]), 4))
    assert found.tolist() == [0.5, 1.0, 1.0, 0.0]


def test_answers_differ_task_by_task():
    told = told_apart(
        [{"mood": "good", "town": "rome"}, {"mood": "good", "town": "oslo"}, {"mood": "bad", "town": "rome"}]
    )
    assert told == ("mood: good, town: rome", "mood: good, town: oslo", "mood: bad, town: rome")
    same = told_apart(
        [{"mood": "good", "town": "rome"}, {"mood": "good", "town": "oslo"}, {"mood": "good", "town": "rome"}]
    )
    assert same == ("town: rome", "town: oslo", "town: rome")


# --- recipes

RECIPE = """
limbeck: 1
name: both
data:
  source: {name: table, path: rows.jsonl, label: [meal, town]}
  task: multi-task
  labelled: 60
  validation: 20
  test: 30
  max-length: 16
teacher:
  ensemble:
    - name: cook
      task: meal
      model: &bert {name: small-transformer, hidden: 16, layers: 1, heads: 1}
      training: &steps {steps: 90, batch-size: 16, optimizer: {name: adamw, learning-rate: 1e-2}}
student: *bert
objective: {labels: 1, soft-targets: {task: meal, temperature: 2}, hints: {student: hidden.1, teacher: cook.hidden.1}}
training: {steps: 6, batch-size: 16}
seeds: 1
evidence: {apart: true}
"""

HINTS = ", hints: {student: hidden.1, teacher: cook.hidden.1}"


@pytest.fixture
def table(tmp_path, monkeypatch):
    monkeypatch.setenv("LIMBECK_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    rows = asked.rows_of("multi-task", 200)
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))


@pytest.mark.usefixtures("table")
def test_a_student_of_two_tasks_with_a_teacher_of_one(tmp_path):
    """Its other task is learnt from labels; nothing that nobody knows reaches report, exports or answers."""
    found = run(parse(RECIPE.replace(HINTS, "")), tmp_path / "run", quiet=True)
    evidence = found.evidence
    assert list(evidence.arms.present()) == ["control", "apart", "pseudo_labels", "distilled"]
    assert [sorted(one.scores) for one in evidence.tasks] == [
        ["apart", "control", "distilled", "pseudo_labels", "teacher"],
        ["apart", "control", "distilled", "pseudo_labels"],
    ]
    assert "Distilled less control, task by task: meal" in str(found)
    answers = load(tmp_path / "run").predict(["anna eats tea in rome"])
    assert [sorted(one) for one in answers] == [["meal", "town"]]
    again = found.student.evaluate([("anna eats tea in rome no 1000", {"meal": "tea", "town": None})])
    assert (again.examples, again.answers) == (1, 1)


@pytest.mark.usefixtures("table")
@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (
            "task: meal\n      model",
            "task: mael\n      model",
            r"teacher cook is for the task 'mael'.*did you mean 'meal'",
        ),
        ("{task: meal, temp", "{task: town, temp", r"'soft-targets' is about the task 'town', which no teacher knows"),
        (
            "{labels: 1, s",
            "{labels: {weight: 1, task: tow}, s",
            r"'labels' is about the task 'tow'.*did you mean 'town'",
        ),
        ("label: [meal, town]", "label: meal", "several labels a row"),
        ("label: [meal, town]", "label: [meal, twon]", "no column 'twon'"),
        ("task: multi-task", "task: classes", "'task: multi-task', with a class in each"),
        (
            "task: multi-task",
            "task: {name: multi-task, tasks: [{name: meal, classes: [tea, soup]}]}",
            "name the same ones",
        ),
    ],
)
def test_what_cannot_be_is_said_before_anything_is_trained(old, new, said):
    assert old in RECIPE
    with pytest.raises(LimbeckError, match=f"(?s){said}"):
        preflight_of(RECIPE.replace(old, new))


def preflight_of(text):
    return preflight(from_recipe(parse(text)), home())


@pytest.mark.usefixtures("table")
def test_a_task_without_a_label_to_learn_from_is_refused(tmp_path):
    rows = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    towns = iter([one for one in rows if one["town"]][:30])
    known = {json.dumps(one["text"]) for one in towns}
    (tmp_path / "rows.jsonl").write_text(
        "\n".join(json.dumps(one | ({} if json.dumps(one["text"]) in known else {"town": ""})) for one in rows)
    )
    with pytest.raises(DataError, match="No row of the train part has a label of the task 'town'"):
        from_recipe(parse(RECIPE.replace("labelled: 60", "labelled: 1")))


@pytest.mark.usefixtures("table")
def test_teachers_are_trained_apart_and_budgets_of_both_are_known():
    both = RECIPE.replace(
        "student: *bert", "    - {name: guide, task: town, model: *bert, training: *steps}\nstudent: *bert"
    )
    one = from_recipe(parse(both))
    assert [(stage.name, stage.examples.task, len(stage.examples.classes)) for stage in one.teacher_stages()] == [
        ("teacher cook", CLASSES, 4),
        ("teacher guide", CLASSES, 4),
    ]
    assert parse(both).teacher.tasks == {"meal", "town"}
    assert [name for name, _ in parse(both).teacher.trainings] == ["the teacher cook", "the teacher guide"]
    told = dict(preflight_of(both).lines())["training"]
    assert "(control, apart, pseudo-labels, soft-targets, distilled; 1 seed)" in told, "and none is the best of both"


def test_a_union_has_the_label_of_one_task_in_each_row(tmp_path):
    for number in range(12):
        place = tmp_path / "pictures" / "ab"[number % 2] / f"{number}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((8, 8), 9 * number, dtype=np.uint8)).save(place)
    source = {
        "name": "union",
        "sources": {"one": "mnist-5k", "two": {"name": "image-folder", "path": str(tmp_path / "pictures")}},
    }
    with pytest.raises(DataError, match=r"images \[1, 28, 28\].*\[1, 8, 8\].*must be of one size"):
        Data.model_validate({"source": source, "task": "multi-task"}).load()
    with pytest.raises(DataError, match="is for 'task: multi-task', and the task is 'classes'"):
        Data.model_validate({"source": source}).load()
    source["sources"]["two"] = "uci-digits"
    found = Data.model_validate({"source": {**source, "limit": 200}, "task": "multi-task"}).load()
    train = found.train
    assert len(train) <= 400
    assert (train.labels >= 0).sum(1).eq(1).all()
    assert found.classes[:2] == ("one: 0", "one: 1")
    assert not len(train.unlabelled()), "of each row one task is asked, and it is labelled"
    every = Data.model_validate({"source": {**source, "limit": 200, "everywhere": True}, "task": "multi-task"}).load()
    assert len(every.train.unlabelled()) == len(every.train)
    assert every.train.labels.where(every.train.labels >= 0, -1).equal(every.train.labels)


def test_columns_of_classes_are_tasks_by_their_names():
    datasets = pytest.importorskip("datasets")
    kinds = {"text": datasets.Value("string"), "mood": datasets.ClassLabel(names=["good", "bad"])}
    kinds["town"] = datasets.Value("string")
    rows = {"text": ["one", "two", "three"], "mood": [1, 0, -1], "town": ["rome", "oslo", ""]}
    part = datasets.Dataset.from_dict(rows, features=datasets.Features(kinds))
    raw = raw_of([part, None, None], "text", ("mood", "town"), "here", task=MultiTask())
    assert raw.classes == ("mood: bad", "mood: good", "town: oslo", "town: rome")
    assert raw.labels.tolist() == [[0, 3], [1, 2], [-1, -1]]


def test_tweets_to_an_airline_do_not_name_it_where_it_is_asked():
    assert _addressed("@United thanks") == "united"
    assert _addressed("@united and @JetBlue") is None
    assert _AIRLINE.sub("@airline", "@united and @JetBlue") == "@airline and @airline"


class Rows:
    """The clouds, with a label of each task, or None."""

    def __init__(self):
        self.whole = examples(160)

    def __len__(self):
        return 160

    def __getitem__(self, row):
        told = [None if one < 0 else int(one) for one in self.whole.labels[row]]
        return self.whole.table.x[row], None if row == 7 else {"mood": told[0], "town": told[1]}


def learnt(teacher, tmp_path):
    return limbeck.distill(
        teacher,
        lambda: Net(classes=5),
        Rows(),
        task="multi-task",
        training={"steps": 8, "batch-size": 8},
        seeds=1,
        out=tmp_path / "run",
        quiet=True,
    )


NUMBERED = MultiTask().asking([*(f"mood: {one}" for one in (0, 1)), *(f"town: {one}" for one in (2, 3, 4))])


def test_a_mean_does_not_hide_a_teacher_that_knows_nothing_of_its_task(tmp_path, monkeypatch):
    monkeypatch.setenv("LIMBECK_HOME", str(tmp_path / "home"))

    class Constant(Sign):
        def observe(self, batch, needs):
            return {"logits": torch.zeros(len(batch), 3)}

    with pytest.raises(PreflightError, match=r"the teacher's accuracy in the task 'town' is .* it knows nothing"):
        learnt(ByTask(NUMBERED, {"mood": Sign(), "town": Constant()}), tmp_path)


def test_modules_in_memory_learn_several_tasks(tmp_path, monkeypatch):
    monkeypatch.setenv("LIMBECK_HOME", str(tmp_path / "home"))
    result = learnt(ByTask(NUMBERED, {"mood": Sign()}), tmp_path)
    assert [one.name for one in result.evidence.tasks] == ["mood", "town"]
    assert result.evidence.tasks[0].scores["teacher"] == 1.0
    assert set(result.student.predict([Rows()[0][0]])[0]) == {"mood", "town"}


class Sign:
    """A teacher of moods that knows all of them."""

    fingerprint = "sign"
    module = None

    @property
    def provides(self):
        return Provides(frozenset({"logits"}))

    def observe(self, batch, needs):
        x = batch.inputs["x"][:, 0]
        return {"logits": torch.stack([-x, x], 1)}

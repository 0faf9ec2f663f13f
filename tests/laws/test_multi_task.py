"""Several tasks with a head each: what labels are, what terms see, who teaches what, and students apart."""

from dataclasses import replace

import pytest
import torch
from tests.contracts.test_regime_contract import Stopped, Stops
from tests.fakes.experiments import TRAINING, WIDTH, Net, plan
from tests.fakes.tasks import NAMES, TASK, batch, examples, splits
from torch import nn
from torch.nn import functional as F

from limbeck.data.batch import CLASS, NO_LABEL, SUPERVISED
from limbeck.data.multi_task import MultiTask
from limbeck.data.task import ASKED, NEVER, answered
from limbeck.data.tasks import CLASSES
from limbeck.errors import DataError, LimbeckError, SignalError
from limbeck.losses import cross_entropy, kl_divergence
from limbeck.models.given import Given
from limbeck.models.identity import of_module
from limbeck.models.spec import BuildContext
from limbeck.objective import Hints, Labels, Objective, SoftTargets, by_task
from limbeck.objective.schedules import Place
from limbeck.regimes.apart import OneEach, one_each
from limbeck.regimes.offline import Offline
from limbeck.regimes.plan import hard_labels
from limbeck.regimes.walk import walk
from limbeck.teachers.by_task import ByTask, HeadOf
from limbeck.teachers.ensemble import EnsembleTeacher
from limbeck.teachers.local import LocalTeacher
from limbeck.training.stage import Start
from limbeck.training.workshop import Workshop

LOGITS = frozenset({"logits"})


def sides(rows=24, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return tuple({"logits": torch.randn(rows, 5, generator=generator)} for _ in range(2))


def teacher_of(classes, seed=3):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        module = Net(classes=classes)
    return LocalTeacher(module.requires_grad_(False), of_module(module))


def planned(**changes):
    context = BuildContext(5, {"x": torch.zeros(4, WIDTH)}, NAMES, task=TASK)
    given = {
        "splits": splits(),
        "student": Still(),
        "context": context,
        "terms": by_task((Labels(weight=0.5), SoftTargets(weight=0.5, temperature=2.0)), TASK),
        "teacher": ByTask(TASK, {"mood": teacher_of(2), "town": teacher_of(3)}),
    }
    return plan(**{**given, **changes})


class Wide(Given):
    """A network with as many outputs as the data asks for."""

    def __init__(self):
        super().__init__(Net)

    def create(self, context):
        return Net(classes=context.classes)


# --- labels


def test_labels_are_numbers_of_outputs_and_outputs_are_named_by_task_and_class():
    rows = [("good", "rome"), ("bad", ""), (None, "oslo"), None, {"town": "rome", "mood": "bad"}]
    found, names = MultiTask().read(rows, "here", ("mood", "town"))
    assert names == ("mood: bad", "mood: good", "town: oslo", "town: rome")
    assert found.tolist() == [[1, 3], [0, -1], [-1, 2], [-1, -1], [0, 3]]
    task = MultiTask().asking(names)
    assert {name: (one.start, one.stop, one.classes) for name, one in task.heads.items()} == {
        "mood": (0, 2, ("bad", "good")),
        "town": (2, 4, ("oslo", "rome")),
    }
    assert task.asking(names) == task
    again, same = task.read([("good", "oslo")], "a part of it", names)
    assert (again.tolist(), same) == ([[1, 2]], names), "classes that do not occur keep their outputs"


@pytest.mark.parametrize(
    ("rows", "names", "said"),
    [
        ([("a", "b", "c")], ("mood", "town"), "row 0 has 3 labels, but there are 2 tasks: mood, town"),
        (["a", "b"], None, "several labels a row"),
        ([("a", "x"), ("b", "x")], ("mood", "town"), "every label of the task 'town' is 'x'"),
        ([("a", ""), ("b", None)], ("mood", "town"), "no row has a label of the task 'town'"),
        ([{"mod": "a"}], ("mood", "town"), "a label of the task 'mod'; there are mood, town"),
        ([("a", "b")], ("mood", "its. town"), "cannot be called 'its. town'"),
        ([("a", "b")], ("mood", "mood"), "named twice"),
    ],
)
def test_labels_that_are_none_are_refused_and_named(rows, names, said):
    with pytest.raises(DataError, match=said):
        MultiTask().read(rows, "here", names)


def test_a_row_without_any_label_is_for_training_and_rows_are_balanced_by_all_labels():
    labels = examples().labels
    strata = TASK.strata(labels)
    assert (strata == NO_LABEL).equal((labels < 0).all(1))
    pairs = {}
    for row, one in zip(labels.tolist(), strata.tolist(), strict=True):
        assert pairs.setdefault(tuple(row), one) == one
    assert len(set(pairs.values())) == len(pairs)


# --- terms


def test_a_term_about_each_task_sees_its_head_alone_and_the_rows_with_its_label():
    """Against the formula on rows and columns cut by hand."""
    ours, theirs = sides()
    seen, objective = batch(), Objective([Labels(weight=0.3), SoftTargets(weight=0.7, temperature=3.0)], TASK)
    loss, parts = objective(ours, theirs, seen)
    assert list(parts) == ["labels of mood", "labels of town", "soft-targets of mood", "soft-targets of town"]
    expected = 0.0
    for name, (start, stop, place) in {"mood": (0, 2, 0), "town": (2, 5, 1)}.items():
        labels = seen.labels[CLASS][:, place]
        rows = labels >= 0
        assert 0 < int(rows.sum()) < len(rows)
        hard = F.cross_entropy(ours["logits"][rows, start:stop], labels[rows] - start)
        soft = 9 * F.kl_div(
            (ours["logits"][:, start:stop] / 3).log_softmax(1),
            (theirs["logits"][:, start:stop] / 3).softmax(1),
            reduction="batchmean",
        )
        torch.testing.assert_close(parts[f"labels of {name}"], hard)
        torch.testing.assert_close(parts[f"soft-targets of {name}"], soft)
        expected += 0.3 * hard + 0.7 * soft
    torch.testing.assert_close(loss, expected)


def test_a_task_that_is_not_asked_of_a_row_is_not_taught_there():
    """Rows of another source count for neither labels nor teachers of the task, and get no hard answer of it."""
    seen = batch(missing=False)
    labels = seen.labels[CLASS].clone()
    labels[:6, 1], labels[6:10, 1] = NO_LABEL, ASKED
    seen = replace(seen, labels={CLASS: labels})
    ours, theirs = sides()
    objective = Objective([Labels(task="town"), SoftTargets(task="town", temperature=1.0)], TASK)
    _, parts = objective(ours, theirs, seen)
    assert {name: int(one) for name, one in objective.counts(seen).items()} == {
        "supervised of town": 14,
        "real of town": 18,
    }
    soft = kl_divergence(ours["logits"][6:, 2:], theirs["logits"][6:, 2:], torch.tensor(1.0)).mean()
    torch.testing.assert_close(parts["soft-targets of town"], soft)
    torch.testing.assert_close(parts["labels of town"], F.cross_entropy(ours["logits"][10:, 2:], labels[10:, 1] - 2))
    said = TASK.hard(theirs["logits"], labels)
    assert said[:6, 1].eq(NO_LABEL).all()
    assert said[6:, 1].ge(2).all()


def test_micro_batches_add_up_to_one_batch_though_tasks_have_other_numbers_of_labels():
    ours, theirs = sides()
    whole, objective = batch(), Objective([Labels(), SoftTargets()], TASK)
    parts = [whole.select(torch.arange(24)[rows]) for rows in (slice(0, 5), slice(5, 24))]
    counts = objective.total_counts(parts)
    each = [
        objective({"logits": ours["logits"][one.ids]}, {"logits": theirs["logits"][one.ids]}, one, counts)[0]
        for one in parts
    ]
    torch.testing.assert_close(sum(each), objective(ours, theirs, whole)[0])


def test_each_task_may_have_a_temperature_a_weight_and_a_gate_of_its_own():
    ours, theirs = sides()
    gate = {"by": "teacher-confidence", "above": 0.6}
    terms = [
        SoftTargets(task="mood", temperature=2.0, weight=0.25, gate=gate),
        SoftTargets(task="town", temperature=5.0),
    ]
    loss, parts = Objective(terms, TASK)(ours, theirs, batch())
    a, b = ((side["logits"][:, :2], side["logits"][:, 2:]) for side in (ours, theirs))
    kept = b[0].softmax(1).amax(1) > 0.6
    assert 0 < int(kept.sum()) < 24
    mood = (kl_divergence(a[0], b[0], torch.tensor(2.0)) * kept).sum() / 24
    town = kl_divergence(a[1], b[1], torch.tensor(5.0)).mean()
    torch.testing.assert_close(loss, 0.25 * mood + town)
    torch.testing.assert_close(parts["soft-targets of mood.kept"], kept.float().mean())


def test_smoothing_spreads_over_the_classes_of_the_task_alone():
    ours, _ = sides()
    loss, _ = Objective([Labels(task="town", smoothing=0.3)], TASK)(ours, None, batch(missing=False))
    labels = batch(missing=False).labels[CLASS][:, 1] - 2
    torch.testing.assert_close(loss, cross_entropy(ours["logits"][:, 2:], labels, 0.3).mean())


def test_terms_between_layers_are_no_heads_and_one_that_names_a_task_sees_its_labels():
    terms = by_task((Hints(student="body", teacher="body"), Labels()), TASK)
    assert [(one.name, one.task) for one in terms] == [("hints", None), ("labels", "mood"), ("labels", "town")]
    assert by_task(terms, TASK) == terms, "once is enough"
    plain = (Labels(), SoftTargets())
    assert by_task(plain, CLASSES) == plain
    seen = TASK.headed(batch(), "town")
    assert seen.masks[SUPERVISED].equal(seen.labels[CLASS] >= 0)
    assert int(seen.labels[CLASS].max()) == 2


def test_a_task_that_is_not_there_or_that_nobody_teaches_is_named():
    with pytest.raises(SignalError, match=r"about the task 'twon'.*did you mean 'town'"):
        by_task((Labels(task="twon"),), TASK)
    with pytest.raises(SignalError, match="asks one thing alone"):
        Objective([Labels(task="town")])
    with pytest.raises(SignalError, match="which no teacher knows: they know mood"):
        by_task((SoftTargets(task="town"),), TASK, {"mood"})
    found = by_task((Labels(), SoftTargets()), TASK, {"mood"})
    assert [one.task for one in found] == ["mood", "town", "mood"], "labels of both, answers of the one that is known"
    with pytest.raises(SignalError, match="knows nothing of this task: it knows mood"):
        Objective([SoftTargets()], TASK).check(ByTask(TASK, {"mood": teacher_of(2)}).provides)


# --- balanced weights


def test_each_task_has_an_uncertainty_of_its_own():
    ours, theirs = sides()
    objective = Objective([Labels(weight={"schedule": "uncertainty"})], TASK)
    objective.build(ours, theirs, batch=batch())
    assert [name for name, *_ in objective.owned()] == ["labels of mood.weight", "labels of town.weight"]
    loss, parts = objective(ours, theirs, batch())
    loss.backward()
    # d/ds (e^-s L + s / 2) at s = 0, where raw's slope is sigmoid(raw)
    for name, part in objective.balances.items():
        slope = float(torch.sigmoid(part.raw.detach()))
        assert float(part.raw.grad) == pytest.approx(slope * (0.5 - float(parts[name])), rel=1e-4)


def test_two_tasks_pull_alike_at_the_layer_that_they_share():
    """Weighted, the gradients of both at the shared signal have one norm; at their own logits they have not."""
    generator = torch.Generator().manual_seed(4)
    shared = torch.randn(24, 6, generator=generator).requires_grad_()
    heads = torch.randn(6, 5, generator=generator) * torch.tensor([3.0, 3.0, 0.2, 0.2, 0.2])
    weight = {"schedule": "gradient-norm", "against": "labels of town", "where": "body", "momentum": 0}
    objective = Objective([Labels(task="mood", weight=weight), Labels(task="town")], TASK)
    assert objective.needs().student == {"logits", "body"}
    signals, seen = {"body": shared, "logits": shared @ heads}, batch()
    objective.build(signals, {}, batch=seen)
    objective.at(Place(0, 10))
    objective(signals, {}, seen)
    quotient = float(objective.balances["labels of mood"].quotient)
    norms = []
    for name, (start, stop) in {"mood": (0, 2), "town": (2, 5)}.items():
        own = TASK.headed(seen, name)
        rows = own.masks[SUPERVISED]
        loss = F.cross_entropy(signals["logits"][rows, start:stop], own.labels[CLASS][rows])
        norms.append(float(torch.autograd.grad(loss, shared, retain_graph=True)[0].norm()))
    assert quotient == pytest.approx(norms[1] / norms[0], rel=1e-5)
    assert not 0.8 < quotient < 1.25


# --- teachers


def test_teachers_of_a_task_each_say_what_they_say_alone_and_what_nobody_knows_cannot_be_chosen():
    mood, seen = teacher_of(2), batch()
    teacher = ByTask(TASK, {"mood": mood}, {"m": mood})
    said = teacher.observe(seen, frozenset({"logits", "m.logits", "m.body"}))
    alone = mood.observe(seen, frozenset({"logits", "body"}))
    assert said["logits"][:, :2].equal(alone["logits"])
    assert said["logits"][:, 2:].eq(NEVER).all()
    assert said["m.logits"].equal(alone["logits"])
    assert said["m.body"].equal(alone["body"])
    assert teacher.provides.heads == {"mood"}
    assert teacher.provides.members["m"].heads == {"mood"}
    assert TASK.hard(said["logits"], seen.labels[CLASS])[:, 1].eq(ASKED).all()
    other = ByTask(TASK, {"mood": teacher_of(2, 9)}, {"m": mood})
    assert len({one.fingerprint for one in (teacher, other, ByTask(TASK, {"mood": mood}, {"n": mood}))}) == 3


def test_the_same_teacher_twice_says_what_it_says_once():
    whole, seen = teacher_of(5), batch()
    heads = {name: HeadOf(whole, TASK, name) for name in TASK.heads}
    twice = {name: EnsembleTeacher([one, one]) for name, one in heads.items()}
    said = ByTask(TASK, heads).observe(seen, LOGITS)["logits"]
    assert said.equal(whole.observe(seen, LOGITS)["logits"])
    mean = ByTask(TASK, twice).observe(seen, LOGITS)["logits"]
    for one in TASK.heads.values():
        torch.testing.assert_close(
            mean[:, one.start : one.stop].log_softmax(1), said[:, one.start : one.stop].log_softmax(1)
        )


@pytest.mark.parametrize(
    ("heads", "said"),
    [
        ({}, "need one at least"),
        ({"twon": 2}, "for the task 'twon', and the data asks mood, town"),
    ],
)
def test_teachers_that_do_not_suit_are_named(heads, said):
    with pytest.raises(LimbeckError, match=said):
        ByTask(TASK, {name: teacher_of(count) for name, count in heads.items()})


def test_a_teacher_of_other_classes_is_named_when_it_speaks():
    with pytest.raises(SignalError, match=r"the task 'mood' gives logits of the shape \[24, 3\], and the task has 2"):
        ByTask(TASK, {"mood": teacher_of(3)}).observe(batch(), LOGITS)


def test_hard_answers_stand_where_a_task_has_no_label_and_nowhere_else():
    one = planned(teacher=ByTask(TASK, {"town": teacher_of(3)}))
    train = one.splits.train
    assert one.pseudo_labels
    found, known = hard_labels(train, one.teacher, "cpu")[:50], train.labels[:50]
    assert found[known >= 0].equal(known[known >= 0])
    assert (found[:, 1] >= 2).all()
    assert found[:, 0].equal(known[:, 0]), "nobody says anything of moods"


# --- trainings


def test_a_teacher_of_one_task_is_trained_on_its_labels_and_classes():
    own = splits().only("town")
    assert (own.task, own.classes) == (CLASSES, ("oslo", "rome", "lima"))
    assert len(own.train.labelled()) == int((splits().train.labels[:50, 1] >= 0).sum())
    assert len(own.test) == int((splits().test.labels[70:, 1] >= 0).sum()), "what nobody knows cannot be judged"
    assert own.test.labels[own.test.rows].min() >= 0


def test_students_apart_are_trained_as_if_each_were_alone(tmp_path):
    """One training of both is, weight by weight, that of a student of one task with the same seed."""
    one = planned(training=TRAINING.model_copy(update={"steps": 6, "keep": "last"}))
    arm = one_each(Offline())
    found = walk(arm(one), Workshop(tmp_path), tmp_path / "journal.json").module()
    assert [part.head.out_features for part in found.models] == [2, 3]
    for place, name in enumerate(TASK.heads):
        alone = replace(one, terms=tuple(term for term in one.terms if term.task == name))
        start = OneEach((Start(Still(), one.seed, one.context.about(CLASSES, TASK.heads[name].classes)),))
        padded = replace(alone.stage("alone", teacher=one.teacher, start=Padded(start, TASK.heads[name])))
        trained = Workshop(tmp_path / name).train(padded).module().inner.models[0]
        ours, theirs = found.models[place].state_dict(), trained.state_dict()
        assert set(ours) == set(theirs)
        for key in ours:
            torch.testing.assert_close(ours[key], theirs[key], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("inside", [False, True], ids=["between", "inside"])
@pytest.mark.parametrize("name", ["apart", "distilled"])
def test_cut_off_in_its_training_an_arm_ends_as_if_it_had_not_been(name, inside, tmp_path):
    def end(root, workshop):
        one = planned(store=root / "stores")
        arm = one_each(Offline()) if name == "apart" else Offline().distilled
        return walk(arm(one), workshop, root / "journal.json")

    whole = end(tmp_path / "whole", Workshop(tmp_path / "whole"))
    with pytest.raises(Stopped):
        end(tmp_path / "cut", Stops(tmp_path / "cut", 0, inside))
    again = end(tmp_path / "cut", Workshop(tmp_path / "cut"))
    assert (again.key, again.fingerprint) == (whole.key, whole.fingerprint)


class Still(Wide):
    """Without dropout and BatchNorm."""

    def create(self, context):
        return Net(norm=False, drop=0.0, classes=context.classes)


class Padded:
    """A student of one head among outputs that say nothing."""

    def __init__(self, start, head):
        self.start, self.head = start, head

    def module(self):
        return Padding(self.start.module(), self.head)


class Padding(nn.Module):
    def __init__(self, inner, head):
        super().__init__()
        self.inner, self.head = inner, head

    def forward(self, x):
        said = self.inner(x=x)
        return F.pad(said, (self.head.start, 5 - self.head.stop))


def test_students_apart_need_several_tasks_and_answers():
    hints = (Hints(student="body", teacher="body"),)
    with pytest.raises(LimbeckError, match="there is none: add labels"):
        next(one_each(Offline())(planned(terms=hints)))
    with pytest.raises(LimbeckError, match="there is one task alone"):
        next(one_each(Offline())(plan()))


def test_validation_chooses_by_all_tasks():
    seen = batch()
    logits = torch.randn(24, 5, generator=torch.Generator().manual_seed(2))
    found = answered(TASK, logits, seen)
    assert len(found.labels) == int((seen.labels[CLASS] >= 0).sum())
    for row, label, z in zip(found.example.tolist(), found.labels.tolist(), found.logits, strict=True):
        assert label in seen.labels[CLASS][row].tolist()
        start, stop = (0, 2) if label < 2 else (2, 5)
        assert z[start:stop].equal(logits[row, start:stop])
        assert z.eq(NEVER).sum() == 5 - (stop - start)


def test_layers_by_a_rule_stay_until_they_are_found():
    rule = Hints(layers={"body": "body"})
    assert by_task((Labels(), rule), TASK)[-1] is rule

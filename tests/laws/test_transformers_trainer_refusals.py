"""What cannot be is said by the Trainer that distils before the first step."""

import pytest
import torch
from tests.fakes.experiments import CLASSES, HINTS, LABELS, SOFT, Knows, Net, apart, smooth, teacher
from torch import nn

from limbeck.errors import DataError, LimbeckError, SettingError, SignalError
from limbeck.objective import Crd, Hints, Objective, RkdDistance
from limbeck.teachers.teacher import Provides

transformers = pytest.importorskip("transformers")
from tests.fakes.trainers import arguments, bert, clouds, distilled, of_texts, seeded  # noqa: E402
from transformers import TrainerCallback  # noqa: E402

from limbeck.integrations.transformers import DistillationTrainer  # noqa: E402

pytestmark = pytest.mark.usefixtures("cheap_collections")


def test_terms_that_remember_examples_are_told_their_numbers(tmp_path):
    crd = Crd(student="body", teacher="body", width=4, negatives=8)
    kept = []

    class Keeping(TrainerCallback):
        def on_step_begin(self, args, state, control, **rest):
            kept.append(trainer.objective.parts["crd"].student_memory.clone())

    trainer = DistillationTrainer(
        seeded(smooth),
        arguments(tmp_path, max_steps=2, per_device_train_batch_size=8, train_sampling_strategy="sequential"),
        teacher=teacher().module,
        objective=(LABELS, crd),
        train_dataset=clouds(20)[::-1],
        callbacks=[Keeping()],
    )
    trainer.train()
    moved = (kept[0] != kept[1]).any(1).nonzero().flatten().tolist()
    assert moved == list(range(12, 20)), "the first batch are the last rows"
    with pytest.raises(SignalError, match=r"from 40 to 47 .* of 8"):
        distilled(tmp_path, objective=(LABELS, crd), data=clouds(8, first=40))
    unnumbered = [{name: value for name, value in row.items() if name != "ids"} for row in clouds()]
    with pytest.raises(SignalError, match="'ids' or 'id', counted from 0"):
        distilled(tmp_path, objective=(LABELS, crd), data=unnumbered)


class Stored:
    """A teacher that is asked by row numbers."""

    fingerprint, module = "stored", None
    provides = Provides(names=frozenset({"logits"}), unseen=False)

    def __init__(self):
        self.asked = []

    def observe(self, batch, needs):
        self.asked += batch.ids.tolist()
        return {"logits": torch.zeros(len(batch), CLASSES)}


def test_a_stored_teacher_is_asked_by_the_rows_numbers(tmp_path):
    theirs = Stored()
    distilled(tmp_path, objective=None, theirs=theirs, data=clouds(32, first=40), max_steps=2)
    assert set(theirs.asked) == set(range(40, 72))
    unnumbered = [{name: value for name, value in row.items() if name != "ids"} for row in clouds()]
    with pytest.raises(SignalError, match="stored by row"):
        distilled(tmp_path, objective=None, theirs=theirs, data=unnumbered)
    with pytest.raises(SignalError, match="needs \\['body'\\] of the teacher, which does not show it"):
        distilled(tmp_path, theirs=theirs)


class Sharing(Net):
    def __init__(self, other):
        super().__init__()
        self.body = other.body


def renamed(rows):
    return [{"x": row["x"], "klass": row["labels"]} for row in rows]


THEIRS = teacher().module.requires_grad_(True)
WRONG = {
    "a misspelt setting": (
        {"objective": {"soft-targets": {"temprature": 2}}},
        SettingError,
        "did you mean 'temperature'",
    ),
    "an unknown term": ({"objective": {"soft-target": 1.0}}, SettingError, "objective"),
    "no terms": ({"objective": ()}, LimbeckError, "must be a list of terms"),
    "a built objective": ({"objective": "built"}, LimbeckError, "built already"),
    "no teacher": ({"theirs": None}, SignalError, "'soft-targets' needs a teacher, and there is none"),
    "another thing": ({"theirs": "bert-base"}, LimbeckError, "teacher is a str"),
    "other classes": ({"theirs": Net(classes=4)}, SignalError, "4 logits an example and the student 3"),
    "a layer that is not there": (
        {"objective": (Hints(student="bodi", teacher="body"),)},
        SignalError,
        "no module 'bodi': did you mean 'body'",
    ),
    "a teacher that cannot read": (
        {"theirs": nn.Linear(5, 3), "objective": (SOFT,)},
        DataError,
        "The teacher fails on the data: RuntimeError",
    ),
    "a shared layer": ({"model": Sharing(THEIRS), "theirs": THEIRS}, LimbeckError, "share the parameter 'body.weight'"),
    "no labels": (
        {"data": renamed(clouds()), "remove_unused_columns": False},
        DataError,
        "no column of a batch is called",
    ),
    "labels of other classes": ({"data": [{**row, "labels": 7} for row in clouds()]}, DataError, "A label is 7"),
    "tokens": (
        {"data": [{**row, "labels": torch.tensor([1, 2])} for row in clouds()]},
        DataError,
        "one class an example",
    ),
    "numbers": ({"data": [{**row, "labels": 0.5} for row in clouds()]}, DataError, "numbers of shape"),
    "no rows": ({"data": []}, DataError, "training set is empty"),
    "parts of a batch": (
        {"objective": (RkdDistance(student="body", teacher="body"),), "gradient_accumulation_steps": 2},
        SignalError,
        "compares the examples of a batch",
    ),
    "a silent term": (
        {"objective": (LABELS, Hints(student="norm", teacher="norm")), "model": "silent"},
        LimbeckError,
        "'hints' was exactly zero for a whole epoch",
    ),
    "a loss that is not finite": ({"learning_rate": 1e30, "max_grad_norm": 0.0}, LimbeckError, "not finite"),
}


class Constant(Net):
    """Its ``norm`` gives the same whatever it is given."""

    def __init__(self):
        super().__init__(32, norm=False)
        self.norm = nn.Linear(32, 32).requires_grad_(False)
        nn.init.zeros_(self.norm.weight)
        nn.init.zeros_(self.norm.bias)


@pytest.mark.parametrize("name", WRONG)
def test_what_does_not_fit_is_said_in_one_paragraph(tmp_path, name):
    given, kind, said = WRONG[name]
    given = dict(given)
    if given.get("objective") == "built":
        given["objective"] = Objective([HINTS])
        given["objective"].build({"body": torch.zeros(2, 16)}, {"body": torch.zeros(2, 32)})
    if given.get("model") == "silent":
        given |= {"model": Constant(), "theirs": Constant()}
    model = given.setdefault("model", seeded(smooth))
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(kind, match=said) as caught:
        distilled(tmp_path, **given)
    assert "\n" not in str(caught.value)
    if name not in ("a silent term", "a loss that is not finite"):
        assert apart(before, model.state_dict()) == 0


def test_classes_in_another_order_are_refused(tmp_path):
    names = [{0: "bad", 1: "fair", 2: "good"}, {0: "good", 1: "fair", 2: "bad"}]
    student, theirs = (bert(1, id2label=one, label2id={name: index for index, name in one.items()}) for one in names)
    with pytest.raises(SignalError, match="read for the wrong classes"):
        of_texts(tmp_path, student, theirs=theirs).train()


def test_two_losses_are_refused(tmp_path):
    with pytest.raises(LimbeckError, match="label_smoothing_factor has no effect on an objective"):
        of_texts(tmp_path, bert(1), label_smoothing_factor=0.1)
    with pytest.raises(LimbeckError, match="two losses for one training"):
        DistillationTrainer(bert(1), arguments(tmp_path), compute_loss_func=print)


def test_an_optimiser_that_does_not_know_the_projector_is_refused(tmp_path):
    model = seeded(smooth)
    for objective, fits in (((LABELS, SOFT), True), ((LABELS, HINTS), False)):
        trainer = DistillationTrainer(
            model,
            arguments(tmp_path, max_steps=2),
            teacher=teacher().module,
            objective=objective,
            train_dataset=clouds(),
            optimizers=(torch.optim.SGD(model.parameters(), lr=0.1), None),
        )
        if fits:
            trainer.train()
            continue
        with pytest.raises(LimbeckError, match="which the optimizer in 'optimizers' does not know"):
            trainer.train()


def test_a_teacher_at_chance_is_pointed_out(tmp_path, caplog):
    distilled(tmp_path, theirs=Knows(order=(1, 2, 0)), max_steps=1, objective=(LABELS, SOFT))
    assert "where always the same answer is right on 16" in caplog.text
    caplog.clear()
    distilled(tmp_path, theirs=Knows(), max_steps=1, objective=(LABELS, SOFT))
    assert caplog.text == ""

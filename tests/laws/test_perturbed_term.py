"""The term that compares a step away with the teacher's answer, in every task."""

import pytest
import torch
from pydantic import TypeAdapter
from tests.fakes.perturbed import TEXT, Words, X, linear, net
from torch.nn import functional as F

from limbeck.data.batch import CLASS, NO_LABEL, Batch
from limbeck.data.task import ASKED
from limbeck.data.tasks import MultiLabel, Numbers, Spans, Tags
from limbeck.errors import SettingError, SignalError
from limbeck.losses import kl_divergence
from limbeck.objective import Labels, Objective, Perturbed, SoftTargets, Terms
from limbeck.objective.gates import Gate
from limbeck.signals.capture import Capture, show
from limbeck.teachers.local import LocalTeacher

# --- the term


def batch_and_teacher(seed=4):
    teacher = torch.randn(4, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return Batch.of({"x": X}, torch.arange(4)), {"logits": teacher}


def test_a_short_step_is_soft_targets():
    batch, teacher = batch_and_teacher()
    found = []
    for term in (SoftTargets(temperature=3.0), Perturbed(epsilon=1e-9, temperature=3.0)):
        model, objective = net(), Objective([term])
        with Capture(model, objective.needs().student) as capture:
            loss, _ = objective(capture({"x": X}), teacher, batch)
        found.append((loss, *torch.autograd.grad(loss, list(model.parameters()))))
    for plain, moved in zip(*found, strict=True):
        torch.testing.assert_close(moved, plain, rtol=0, atol=1e-7)  # the step, times slopes below 100


def test_it_is_the_divergence_at_the_moved_input_with_the_teacher_at_the_input_itself():
    batch, teacher = batch_and_teacher()
    model, objective = net(), Objective([Labels(), Perturbed(epsilon=0.5, temperature=2.0)])
    shown = show(model, {"x": X}, objective.needs().student)
    _, parts = objective(shown, teacher, batch)
    log_q, p = (shown["perturbed.0.5"] / 2).log_softmax(-1), (teacher["logits"] / 2).softmax(-1)
    expected = 4 * F.kl_div(log_q, p, reduction="batchmean")
    torch.testing.assert_close(parts["perturbed"], expected, rtol=1e-12, atol=0)
    assert parts["perturbed"] > 0


def test_training_by_it_brings_the_answer_around_an_example_to_the_teachers():
    batch, teacher = batch_and_teacher()
    held = {}
    for name, term in {"soft": SoftTargets(temperature=1.0), "moved": Perturbed(temperature=1.0)}.items():
        model, objective = net(), Objective([term])
        optimiser = torch.optim.Adam(model.parameters(), 0.02)
        with Capture(model, objective.needs().student) as capture:
            for _ in range(60):
                optimiser.zero_grad()
                objective(capture({"x": X}), teacher, batch)[0].backward()
                optimiser.step()
        around = show(model, {"x": X}, {"perturbed.1.0"})["perturbed.1.0"]
        held[name] = float(kl_divergence(around, teacher["logits"]).mean())
    assert held["moved"] < held["soft"] / 2  # 0.02 and 1.8 when this was written


def test_as_a_recipe_writes_it():
    found = TypeAdapter(Terms).validate_python(
        {"labels": 0.1, "perturbed": {"weight": 0.5, "epsilon": 2, "temperature": 2}}
    )
    assert found[1] == Perturbed(epsilon=2.0, temperature=2.0, weight=0.5)
    assert found[1].needs().student == {"perturbed.2.0"}
    for wrong in (0.0, -1.0, float("inf"), float("nan")):
        with pytest.raises(SettingError, match="epsilon"):
            Perturbed(epsilon=wrong)


def test_other_classes_are_said():
    batch, _ = batch_and_teacher()
    with pytest.raises(SignalError, match="4 classes and the teacher 3"):
        Objective([Perturbed()]).build({"perturbed.1.0": torch.zeros(4, 4)}, {"logits": torch.zeros(4, 3)}, batch=batch)


# --- tasks with several answers an example


def tagged(count=5):
    labels = torch.full((2, count), NO_LABEL)
    labels[0, 1], labels[0, 3], labels[1, 2] = 2, ASKED, 0
    return Batch.of(TEXT, labels)


@pytest.mark.parametrize("gate", [None, Gate(by="teacher-confidence", above=0.4)])
def test_tags_are_compared_answer_by_answer(gate):
    """Three of ten places have an answer; the loss is that of three examples of their own."""
    model, teacher, batch = Words(each=True), Words(each=True), tagged()
    with torch.no_grad():
        for parameter in teacher.parameters():
            parameter.add_(0.3)
    terms = [Labels(), Perturbed(gate=gate, temperature=2.0), SoftTargets(gate=gate)]
    objective = Objective(terms, Tags())
    ours, theirs = show(model, TEXT, objective.needs().student), show(teacher, TEXT)
    objective.build(ours, theirs, batch=batch)
    _, parts = objective(ours, theirs, batch)
    places = torch.tensor([0, 0, 1]), torch.tensor([1, 3, 2])
    few = Batch.of(torch.zeros(3, 1), torch.tensor([2, NO_LABEL, 0]))
    alone = Objective(terms)
    sides = [{name: value[places] for name, value in side.items()} for side in (ours, theirs)]
    alone.build(*sides)
    _, expected = alone(*sides, few)
    assert parts.keys() == expected.keys()
    for name in parts:
        torch.testing.assert_close(parts[name], expected[name], rtol=1e-12, atol=0)
    assert parts["perturbed"] > 0
    assert objective.counts(batch)["real answers"] == 3


def test_tags_of_two_tokenizers_do_not_line_up():
    ours, theirs = {"perturbed.1.0": torch.zeros(2, 5, 4)}, {"logits": torch.zeros(2, 6, 4)}
    with pytest.raises(SignalError, match="other places"):
        Objective([Perturbed()], Tags())(ours, theirs, tagged())


@pytest.mark.parametrize(("task", "shape"), [(MultiLabel(), (2, 5)), (Spans(), (2, 5, 2))])
def test_tasks_whose_rows_of_logits_are_no_choice_say_so(task, shape):
    batch = Batch.of(TEXT, torch.zeros(2, shape[-1], dtype=torch.int64))
    if task == Spans():
        labels = {CLASS: batch.labels[CLASS], "text": torch.tensor([[2, 5], [1, 3]])}
        batch = Batch(batch.inputs, labels, batch.masks, batch.ids, batch.views)
    objective = Objective([Perturbed()], task)
    with pytest.raises(SignalError, match=rf"'perturbed\.1\.0' takes each row .* {task.name!r}"):
        objective.build({"perturbed.1.0": torch.zeros(shape)}, {"logits": torch.zeros(shape)}, batch=batch)


def test_numbers_have_no_answer_to_go_against():
    with pytest.raises(SignalError, match="'perturbed' compares probabilities"):
        Objective([Perturbed()], Numbers()).check(LocalTeacher(linear(), "f").provides)

"""The choice among layers: what it is where there is none, what it comes to choose, what it tells."""

import pytest
import torch
from pydantic import TypeAdapter, ValidationError
from tests.fakes.experiments import LABELS, TRAINING, Knows, seeded_teacher, stage

from limbeck.data.batch import Batch
from limbeck.errors import SignalError
from limbeck.objective import Hints, LayerChoice, Objective, Terms
from limbeck.objective.schedules import Place
from limbeck.teachers.ensemble import EnsembleTeacher
from limbeck.training.loop import train

START = Place(0, 1)


def draws(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def rows(count=6):
    return Batch.of(torch.zeros(count, 1), torch.arange(count) % 3)


def test_with_one_layer_on_either_side_it_is_a_normalised_hint():
    student, teacher = {"a": draws(6, 3, 4, 4)}, {"b": draws(6, 3, 2, 2, seed=1)}
    term, hint = LayerChoice(student=["a"], teacher=["b"]), Hints(student="a", teacher="b", normalise=True)
    part, joint = term.build(student, teacher, 6), hint.build(student, teacher, 6)
    assert not list(part.parameters()), "there is nothing to choose, and widths are equal"
    found = term.values(student, teacher, rows(), START, part)
    torch.testing.assert_close(found, hint.values(student, teacher, rows(), START, joint), rtol=0, atol=0)


def test_it_begins_as_the_mean_of_all_hints():
    student = {"a": draws(6, 3), "c": draws(6, 5, seed=1)}
    teacher = {"b": draws(6, 3, seed=2), "d": draws(6, 5, seed=3)}
    term = LayerChoice(student=["a", "c"], teacher=["b", "d"])
    part = term.build(student, teacher, 6).double()
    each = [
        hint.values(student, teacher, rows(), START, joint) for hint, joint in zip(term.hints, part.joints, strict=True)
    ]
    # queries and keys are of order 0.1 and 1 at first, so shares are within some percent of each other
    torch.testing.assert_close(term.values(student, teacher, rows(), START, part), sum(each) / 4, rtol=0.05, atol=0)
    assert all((share - 0.5).abs().max() < 0.05 for share in part.told().values())


def learnt(balance, steps=200):
    """Shares after training on two kinds of examples: each kind's feature is a copy of another layer of the teacher."""
    torch.manual_seed(0)
    term = LayerChoice(student=["a"], teacher=["b", "d"], balance=balance)
    kind = torch.arange(64) % 2 == 0

    def drawn(seed):
        b, d = draws(64, 4, seed=seed), draws(64, 4, seed=seed + 1000)
        marked = torch.where(kind[:, None], b, d)
        marked[:, 0] = torch.where(kind, 3.0, -3.0)  # by which the kinds can be told apart
        return {"a": marked}, {"b": torch.where(kind[:, None], marked, b), "d": torch.where(kind[:, None], d, marked)}

    part = term.build(*drawn(0), 64).double()
    optimiser = torch.optim.Adam(part.parameters(), lr=0.01)
    for step in range(steps):
        optimiser.zero_grad()
        term.values(*drawn(step), rows(64), START, part).mean().backward()
        optimiser.step()
    term.values(*drawn(5000), rows(64), START, part)
    return part.told()["a<-b"][kind].mean(), part.told()["a<-b"][~kind].mean()


def test_each_example_comes_to_hear_the_layer_that_it_can_copy():
    of_b, of_d = learnt(balance=0.0)
    assert of_b > 0.95, "of new examples"
    assert of_d < 0.05


def test_balance_holds_the_shares_together():
    of_b, of_d = learnt(balance=20.0)
    assert abs(of_b - 0.5) < 0.1
    assert abs(of_d - 0.5) < 0.1


def test_layers_of_named_teachers_are_chosen_from_and_the_shares_are_in_the_curve(tmp_path):
    both = EnsembleTeacher(
        [seeded_teacher(lambda: Knows(100)), seeded_teacher(lambda: Knows(100, (1, 0, 2)))], names=("one", "two")
    )
    term = LayerChoice(weight=0.3, student=("logits",), teacher=("one.logits", "two.logits"))
    trained = train(stage(terms=(LABELS, term), teacher=both, training=TRAINING), tmp_path)
    parts = trained.points[-1]["parts"]
    shares = {name: value for name, value in parts.items() if "<-" in name}
    assert set(shares) == {"layer-choice.logits<-one.logits", "layer-choice.logits<-two.logits"}
    assert sum(shares.values()) == pytest.approx(1, abs=1e-6)
    assert not any("layer-choice" in name for name in trained.weights), "what chooses is not delivered"


def test_what_it_trains_is_the_objectives():
    student, teacher = {"a": draws(6, 3)}, {"b": draws(6, 4, seed=1), "d": draws(6, 5, seed=2)}
    objective = Objective([LayerChoice(student=["a"], teacher=["b", "d"])])
    objective.build(student, teacher, examples=6)
    names = {name.split(".")[2] for name, _ in objective.named_parameters()}
    assert names == {"queries", "keys", "joints"}


def test_settings_that_cannot_be():
    read = TypeAdapter(Terms).validate_python
    for given in ({"student": ["a", "a"], "teacher": ["b"]}, {"student": ["a"], "teacher": ["b", "b"]}):
        with pytest.raises(ValidationError, match="named twice"):
            read({"layer-choice": given})
    with pytest.raises(ValidationError):
        read({"layer-choice": {"student": [], "teacher": ["b"]}})


def test_a_layer_that_joins_none_is_refused():
    term = LayerChoice(student=["a"], teacher=["b", "d"])
    with pytest.raises(SignalError, match="No projector joins"):
        term.build({"a": draws(6, 3)}, {"b": draws(6, 3), "d": draws(6, 2, 3, 4, 5)}, 6)

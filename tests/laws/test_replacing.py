"""Module replacement: what the model is at either end, and that nothing but the student's layers moves."""

from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from tests.fakes.experiments import LABELS, Crash, Layered, Net, Watching, crash, plan, seeded_teacher, stage
from torch import nn

from limbeck.errors import LimbeckError
from limbeck.models.given import Given
from limbeck.models.replacing import Replacement, replaced, replacing
from limbeck.objective.schedules import Place
from limbeck.regimes.theseus import Theseus
from limbeck.regimes.walk import walk
from limbeck.training.loop import train
from limbeck.training.settings import Training
from limbeck.training.workshop import Workshop

SETTINGS = Replacement(from_rate=0.3, until=0.5, seed=3)


def pair(layers=4, fewer=2):
    torch.manual_seed(0)
    donor, student = Layered(layers, drop=0.0), Layered(fewer, drop=0.0)
    return donor, student, replacing(donor, student, SETTINGS, {"x": x()})


def x():
    return torch.randn(5, 12, generator=torch.Generator().manual_seed(1))


def with_layers(donor, student):
    """The donor with the student's layers."""
    module = Layered(len(student.layers), drop=0.0)
    module.load_state_dict(
        {**student.state_dict(), **{n: v for n, v in donor.state_dict().items() if "layers" not in n}}
    )
    return module


def test_with_everything_replaced_it_is_the_successor_and_with_nothing_the_predecessor():
    donor, student, module = pair()
    module.train()
    for group in module.layers:
        group.replaced = True
    assert torch.equal(module(x()), with_layers(donor, student)(x()))
    for group in module.layers:
        group.replaced = False
    assert torch.equal(module(x()), donor(x()))
    assert torch.equal(module.eval()(x()), with_layers(donor, student)(x())), "it is judged as what will be delivered"
    assert torch.equal(replaced(module)(x()), with_layers(donor, student)(x()))
    assert replaced(module).state_dict().keys() == student.state_dict().keys()


def test_some_replaced_is_the_mixture_of_the_two():
    donor, student, module = pair()
    module.train()
    module.layers[0].replaced, module.layers[1].replaced = True, False
    mixed = Layered(3, drop=0.0)
    mixed.load_state_dict(
        {n: v for n, v in donor.state_dict().items() if "layers" not in n}
        | {n: v for n, v in student.state_dict().items() if n.startswith("layers.0")}
        | {n.replace("layers.2", "layers.1"): v for n, v in donor.state_dict().items() if n.startswith("layers.2")}
        | {n.replace("layers.3", "layers.2"): v for n, v in donor.state_dict().items() if n.startswith("layers.3")}
    )
    assert torch.equal(module(x()), mixed(x()))


def test_only_the_students_layers_have_a_gradient():
    _, _, module = pair()
    for taken in (True, False):
        for group in module.layers:
            group.replaced = taken
        module.zero_grad(set_to_none=True)
        module.train()(x()).square().sum().backward()
        got = {name for name, parameter in module.named_parameters() if parameter.grad is not None}
        assert got == {name for name, _ in module.named_parameters() if ".after." in name}
        moved = any(bool(parameter.grad.any()) for parameter in module.parameters() if parameter.grad is not None)
        assert moved == taken


def test_the_rate_rises_in_a_line_to_one():
    rates = [SETTINGS.rate(Place(step, 100)) for step in range(100)]
    assert rates[0] == 0.3
    assert rates[25] == pytest.approx(0.65)
    assert rates[50:] == [1.0] * 50
    steps = [after - before for before, after in pairwise(rates[:51])]
    assert steps == pytest.approx([0.7 / 50] * 50)


def test_what_is_drawn_follows_the_rate_and_depends_on_seed_and_step_alone():
    def drawn(seed):
        _, _, module = pair(8, 4)
        moments = replace(module.training_moments, seed=seed, until=1.0)
        found = []
        for step in range(400):
            moments.at(Place(step, 400))
            found.append([group.replaced for group in moments.groups])
        return torch.tensor(found).double()

    one = drawn(3)
    assert torch.equal(one, drawn(3))
    assert not torch.equal(one, drawn(4))
    # 400 draws a group at a mean rate of 0.65: a standard error of 0.021 (the variance is below 0.25 x 0.9)
    assert one.mean(0).tolist() == pytest.approx([0.65] * 4, abs=0.08)
    assert not torch.equal(one[:, 0], one[:, 1]), "each group draws for itself"


def test_neither_model_is_altered():
    donor, student, _ = pair()
    before = [value.clone() for module in (donor, student) for value in module.state_dict().values()]
    module = replacing(donor, student, SETTINGS, {"x": x()})
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(1.0)
    assert all(
        torch.equal(a, b)
        for a, b in zip(before, [*donor.state_dict().values(), *student.state_dict().values()], strict=True)
    )
    assert all(parameter.requires_grad for parameter in donor.parameters())


@pytest.mark.parametrize(
    ("donor", "student", "told"),
    [
        (Layered(4), Layered(3), "4 layers and the student 3"),
        (Layered(4), Layered(4), "4 layers and the student 4"),
        (Layered(4), Layered(2, width=8), "built otherwise"),
        (Layered(4), Net(), "no layers at 'layers'"),
        (Net(), Net(), "no list of equal layers"),
    ],
)
def test_what_cannot_be_replaced_is_told(donor, student, told):
    with pytest.raises(LimbeckError, match=told):
        replacing(donor, student, SETTINGS, {"x": x()})


def layered(tmp_path, **changes):
    given = {"student": Given(lambda: Layered(2)), "teacher": seeded_teacher(Layered), "terms": (LABELS,)}
    return plan(store=tmp_path / "stores", **{**given, **changes})


REGIME = Theseus(replacing=Training(steps=6, batch_size=16))


def test_the_second_training_begins_where_the_first_ended(tmp_path):
    one, workshop = layered(tmp_path), Workshop(tmp_path)
    first = workshop.train(REGIME.stages(one)[0])
    trained = first.module()
    steps = []
    said = None
    regime = REGIME.distilled(one)
    while True:
        try:
            step = regime.send(said)
        except StopIteration:
            break
        steps.append(step)
        said = workshop.train(step)
    initial = steps[-1].start.module().eval()
    assert torch.equal(initial(x()), trained.eval()(x())), "judged alike"
    before = one.teacher.module.state_dict()
    assert all(torch.equal(initial.state_dict()[name], before[name]) for name in before if "layers" not in name)


def test_training_moves_the_students_layers_alone_and_resumes_bit_for_bit(tmp_path):
    first = REGIME.stages(layered(tmp_path))[0]
    whole = train(first, tmp_path / "whole").weights
    begun = first.start.module().state_dict()
    assert {name for name in whole if not torch.equal(whole[name], begun[name])} == {
        name for name in whole if ".after." in name
    }
    shaken = replace(first, training=first.training.model_copy(update={"checkpoint_every": 1}))
    with pytest.raises(Crash):
        train(shaken, tmp_path / "cut", Watching(after=3, act=crash))
    resumed = train(shaken, tmp_path / "cut").weights
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_a_whole_walk_gives_a_student_of_the_students_size(tmp_path):
    one = layered(tmp_path)
    trained = walk(REGIME.distilled(one), Workshop(tmp_path), tmp_path / "journal.json")
    module = trained.module()
    assert sum(p.numel() for p in module.parameters()) == sum(p.numel() for p in Layered(2).parameters())
    assert all(parameter.requires_grad for parameter in module.parameters())


def test_a_teacher_without_a_model_is_refused(tmp_path):
    with pytest.raises(LimbeckError, match="needs a teacher that is a model"):
        REGIME.stages(layered(tmp_path, teacher=None))


def test_a_model_that_does_something_between_its_layers_is_refused():
    class Between(Layered):
        def forward(self, x):
            hidden = self.body(x)
            for layer in self.layers:
                hidden = torch.relu(layer(hidden))
            return self.head(hidden)

    with pytest.raises(LimbeckError, match="Between does something between its layers"):
        replacing(Between(4), Between(2), SETTINGS, {"x": x()})


def test_a_list_of_tuples_is_a_layer_too():
    class Tupled(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.Linear(12, 12)

        def forward(self, hidden, *, scale=1.0):
            return hidden + scale * self.inner(hidden), "more"

    class Stack(nn.Module):
        def __init__(self, layers):
            super().__init__()
            self.layers = nn.ModuleList(Tupled() for _ in range(layers))

        def forward(self, x):
            for layer in self.layers:
                x = layer(x, scale=0.5)[0]
            return x

    torch.manual_seed(0)
    donor = Stack(4)
    module = replacing(donor, Stack(2), SETTINGS, {"x": x()}).train()
    for group in module.layers:
        group.replaced = False
    assert torch.equal(module(x()), donor(x()))


def test_frozen_parameters_stay_and_a_pattern_that_fits_nothing_is_told(tmp_path):
    still = stage(terms=(LABELS,), teacher=None, frozen=("body.*",))
    weights, begun = train(still, tmp_path).weights, still.start.module().state_dict()
    moved = {name for name in weights if not torch.equal(weights[name], begun[name])}
    assert not any(name.startswith("body") for name in moved)
    assert "head.weight" in moved
    with pytest.raises(LimbeckError, match=r"'frozen: boby\.\*' fits no parameter"):
        replace(still, frozen=("boby.*",)).model()
    free = replace(still, frozen=())
    initial = still.start.module()
    assert still.identity(initial) != free.identity(initial)

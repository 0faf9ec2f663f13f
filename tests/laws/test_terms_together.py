"""Any two terms in one objective: with one look at each side, the loss and its gradients are the sums of both alone."""

import pytest
import torch
from tests.contracts.test_term_contract import (
    DRAWS,
    LEAST,
    ROWS,
    SHAPES,
    batch_of,
    grads,
    leaves,
    signals,
    task_of,
)

from limbeck.data.tasks import CLASSES
from limbeck.objective import TERMS, Objective

ALL = [kind(**LEAST[kind.model_fields["name"].default][0]) for kind in TERMS]
KINDS = {task: [term for term in ALL if task_of(term).name == task] for task in {task_of(term).name for term in ALL}}


def shown(objective, task):
    """Signals of both sides, as all the terms need them."""
    needs, names = objective.needs(), SHAPES if task == CLASSES else {"logits"}
    ours, theirs = (signals(names, seed, task=task) for seed in (1, 2))  # the same ones, whoever else is read
    return {name: ours[name] for name in needs.student}, {name: theirs[name] for name in needs.teacher}


def built(terms, task, like=None):
    """An objective; ``like``: one with the same parts among its own, which are taken over."""
    objective = Objective(terms, task)
    objective.build(*shown(objective, task), examples=ROWS)
    for name, part in objective.parts.items():
        if like is not None:
            part.load_state_dict(like[name])
    return objective.double().eval()


def lost(objective, task):
    torch.manual_seed(0)
    student, teacher = shown(objective, task)
    ours = leaves(student)
    loss, _ = objective(ours, teacher, batch_of(task=task))
    return loss.detach(), grads(loss, ours)


@pytest.mark.parametrize("first", ALL, ids=lambda term: term.name)
def test_a_term_beside_any_other_is_what_it_is_alone(first):
    task = task_of(first)
    for second in KINDS[task.name]:
        if second is first or ALL.index(second) < ALL.index(first):
            continue
        both = built([first, second], task)
        kept = {name: part.state_dict() for name, part in both.parts.items()}
        loss, slopes = lost(both, task)
        assert loss.isfinite()
        if {first.name, second.name} & set(DRAWS):
            continue  # what is drawn depends on who drew before
        alone = [lost(built([one], task, kept), task) for one in (first, second)]
        assert torch.allclose(loss, sum(one for one, _ in alone), rtol=1e-9, atol=1e-9), second.name
        for name, slope in slopes.items():
            expected = sum(own[name] for _, own in alone if name in own)
            assert torch.allclose(slope, expected, rtol=1e-7, atol=1e-9), (second.name, name)


def test_all_terms_of_classes_together_learn():
    terms = KINDS[CLASSES.name]
    objective = built(terms, CLASSES)
    student, teacher = shown(objective, CLASSES)
    ours = leaves(student)
    loss, told = objective(ours, teacher, batch_of())
    assert loss.isfinite()
    assert len(told) >= len(terms)
    assert all(slope.isfinite().all() for slope in grads(loss, ours).values())

"""Every term keeps one contract. The types are found by `TERMS`; a new one only needs its least settings below."""

import json
from dataclasses import replace
from typing import NamedTuple

import pytest
import torch
from pydantic import TypeAdapter, ValidationError
from torch import Tensor, nn

from limbeck.config import digest
from limbeck.data.batch import CLASS, DOMAIN, NO_LABEL, REAL, SUPERVISED, TOKENS, Batch
from limbeck.data.tasks import CLASSES, NextToken, Vectors
from limbeck.errors import SettingError
from limbeck.objective import TERMS, Needs, Objective, Term, Terms
from limbeck.objective.chunks import opened
from limbeck.objective.schedules import Fixed, Place
from limbeck.objective.temperatures import Learned
from limbeck.signals.logits import Offer
from limbeck.teachers.teacher import Provides

VECTORS = {"student": "vector", "teacher": "vector"}
UNLIKE = {"student": "vector", "teacher": "wide"}
MAPS = {"student": "map", "teacher": "map"}
OTHER_MAPS = {"student": "map", "teacher": "map:in"}
TOKEN = {"student": "tokens", "teacher": "tokens"}
LAYERS = {"student": "attention.1", "teacher": "attention.1"}
LEAST = {
    "labels": [{}, {"smoothing": 0.1}],
    "soft-targets": [
        {},
        *({"loss": loss} for loss in ("cross-entropy", "probability-mse", "logit-mse")),
        {"standardize": True},
        {"temperature": {"schedule": "by-difficulty", "easy": 2, "hard": 5}},
        {"temperature": {"schedule": "learned"}},
    ],
    "decoupled": [{}, {"temperature": {"schedule": "by-difficulty", "easy": 2, "hard": 5}}],
    "dist": [{}],
    "nkd": [{}],
    "wsld": [{}],
    "confidence": [{"alpha": 0.6}, {"alpha": 0.75, "keep-prior": False, "temperature": 2}],
    "perturbed": [{}, {"epsilon": 0.5, "temperature": {"schedule": "by-difficulty", "easy": 2, "hard": 5}}],
    "routing": [
        {"teachers": ["a"]},
        {"teachers": ["a", "b"]},
        {"teachers": ["a", "b"], "paths": {"b": {"vector": "wide"}}},
        {
            "teachers": ["a", "b"],
            "by": "map",
            "balance": 0,
            "temperature": {"schedule": "by-difficulty", "easy": 2, "hard": 5},
        },
    ],
    "divergence": [
        {},
        {"kind": "reverse-kl", "temperature": 2},
        {"kind": "jensen-shannon", "beta": 0.3},
        {"kind": "continuous-jensen-shannon", "beta": 0.9},
        {"kind": "skew-kl", "alpha": 0.2},
        {"kind": "skew-reverse-kl"},
        {"kind": "total-variation"},
        {"kind": "adaptive-kl", "mass": 0.6},
        {"kind": "alpha-beta"},
    ],
    "uld": [{}, {"top": 2, "temperature": 2}],
    "shared-vocabulary": [{}, {"kind": "jensen-shannon", "temperature": 2}],
    "alm": [{}, {"temperature": None}],
    "hints": [
        VECTORS,
        {**VECTORS, "normalise": True},
        UNLIKE,
        TOKEN,
        {**TOKEN, "normalise": True},
        {"student": "tokens", "teacher": "wide", "normalise": True},
        {**OTHER_MAPS, "projector": "always"},
        {"student": "map", "teacher": "grid"},
    ],
    "cosine": [VECTORS, UNLIKE, TOKEN, MAPS],
    "attention-transfer": [MAPS, OTHER_MAPS, TOKEN],
    "channel-wise": [MAPS, OTHER_MAPS, TOKEN],
    "vid": [VECTORS, MAPS, OTHER_MAPS, TOKEN],
    "ofd": [MAPS, OTHER_MAPS, TOKEN],
    "mgd": [MAPS, {**OTHER_MAPS, "hide": "cells", "drop": 0.5}],
    "simkd": [MAPS, OTHER_MAPS],
    "review": [{"layers": {"map": "map:in", "grid-map": "map"}, "middle": 2}],
    "layer-choice": [
        {"student": ["vector"], "teacher": ["vector", "wide"]},
        {"student": ["vector", "tokens"], "teacher": ["wide", "tokens", "vector"], "balance": 0.5},
        {"student": ["map"], "teacher": ["map", "map:in"], "balance": 0, "width": 3},
    ],
    "jacobian": [{}, {"normalise": False}],
    "attention-maps": [LAYERS, {**LAYERS, "form": "mse"}],
    "minilm": [{**LAYERS, "heads": 2}],
    "rkd-distance": [VECTORS, UNLIKE, TOKEN, MAPS],
    "rkd-angle": [VECTORS, UNLIKE],
    "similarity-preserving": [MAPS, OTHER_MAPS, TOKEN],
    "correlation-congruence": [VECTORS, UNLIKE],
    "pkt": [VECTORS, UNLIKE],
    "gram": [MAPS, OTHER_MAPS, {**MAPS, "form": "kl"}, TOKEN],
    "nst": [MAPS, OTHER_MAPS],
    "fsp": [{"student": ("map", "grid-map"), "teacher": ("map", "grid-map")}],
    "contrastive": [{**VECTORS, "width": 3}, {**UNLIKE, "width": 3, "other-classes": True}],
    "crd": [{**VECTORS, "width": 3, "negatives": 3}, {**UNLIKE, "width": 3, "negatives": 3, "other-classes": True}],
    "partners": [{}, {"temperature": 1.0}],
    "margin-mse": [{}, {"scores": "dot"}],
    "gradient-penalty": [{}],
    "coral": [{"student": "vector"}, {"student": "tokens"}],
    "domain-adversarial": [{"student": "vector", "strength": 1}, {"student": "map"}],
    "adversarial": [VECTORS, {"student": "logits", "teacher": "logits"}],
}
"""The settings with which each term is tried, by its name; the first ones are the least it takes."""

SHAPES = {
    "logits": (5,),
    "perturbed.0.5": (5,),
    "a.logits": (5,),
    "b.logits": (5,),
    "b.wide": (6,),
    "perturbed.1.0": (5,),
    "vector": (4,),
    "wide": (6,),
    "tokens": (3, 4),
    "grid": (17, 6),
    "map": (2, 4, 4),
    "grid-map": (3, 4, 4),
    "map:in": (3, 2, 2),
    "logits of pairs": (2, 4),
    "logits of tokens": (3, 5),
    "gradient": (3, 4),
    "attention.1.probs": (2, 3, 3),
    "attention.1.scores": (2, 3, 3),
    "attention.1.query": (3, 4),
    "attention.1.key": (3, 4),
    "attention.1.value": (3, 4),
}
DRAWS = ("crd", "mgd")  # numbers are drawn for each example
# two players; memories and weights without a gradient of their own, or with one that is not the value's
NOT_A_SLOPE = ("adversarial", "crd", "domain-adversarial", "routing", "wsld")
ROWS = 6
CASES = [(term, given) for term in TERMS for given in LEAST[term.model_fields["name"].default]]
PLACE = Place(0, 10)


class Case(NamedTuple):
    term: Term
    student: dict[str, Tensor]
    teacher: dict[str, Tensor]
    batch: Batch
    part: nn.Module | None

    def values(self, student=None, teacher=None, batch=None):
        torch.manual_seed(0)
        ours, theirs = (self.student if student is None else student), (self.teacher if teacher is None else teacher)
        return self.term.values(ours, theirs, self.batch if batch is None else batch, PLACE, self.part)

    def by_row(self, values):
        """The values of each example, of scope ``token`` those of its tokens."""
        if self.term.scope != "token":
            return list(values)
        return list(values.split(opened(self.batch).sum(1).tolist()))

    def objective(self):
        objective = Objective([self.term], task_of(self.term))
        objective.build(self.student, self.teacher, examples=ROWS)
        return objective.double().eval()  # what remembers stays as it is


def heard(term):
    """The student's signal that a gate alone reads, which has no gradient."""
    return term.by if term.name == "routing" and term.by != "logits" else None


def task_of(term):
    if "choices" in term.takes:
        return CLASSES
    return NextToken() if "tokens" in term.takes else Vectors()


def signals(names, seed, rows=ROWS, task=CLASSES):
    generator = torch.Generator().manual_seed(seed)
    of = {"vectors": "logits of pairs", "tokens": "logits of tokens"}
    shapes = SHAPES if task == CLASSES else {"logits": SHAPES[of[task.gives]]}
    shown = {name: torch.randn(rows, *shapes[name], generator=generator, dtype=torch.float64) for name in sorted(names)}
    return {name: value.softmax(-1) if name.endswith("probs") else value for name, value in shown.items()}


def batch_of(rows=ROWS, task=CLASSES):
    lengths = torch.tensor([3, 1, 2, 3, 2, 1])[:rows]
    tokens = torch.arange(3) < lengths[:, None]
    columns = {"input_ids": torch.ones(rows, 3, dtype=torch.int64), "attention_mask": tokens.long()}
    labels = torch.arange(rows) % 5
    batch = Batch.of(columns, torch.where(tokens, labels[:, None], NO_LABEL) if task.gives == "tokens" else labels)
    return replace(batch, labels={**batch.labels, DOMAIN: torch.arange(rows) // 3})


@pytest.fixture(
    params=CASES,
    ids=lambda case: "-".join([case[0].__name__, *(str(one).replace(" ", "") for one in case[1].values())]),
)
def case(request):
    kind, given = request.param
    term = kind(**given)
    needs = term.needs()
    student, teacher = (
        signals(side, n, task=task_of(term)) for n, side in enumerate((needs.student, needs.teacher), 1)
    )
    objective = Objective([term], task_of(term))
    objective.build(student, teacher, examples=ROWS)
    objective.double().eval()
    return Case(term, student, teacher, batch_of(task=task_of(term)), next(iter(objective.parts.values()), None))


def grads(value, of):
    leaves = list(of.values())
    found = torch.autograd.grad(value, leaves, allow_unused=True)
    return {n: torch.zeros_like(v) if g is None else g for (n, v), g in zip(of.items(), found, strict=True)}


def leaves(given):
    return {name: value.clone().requires_grad_() for name, value in given.items()}


def test_every_term_has_settings_here_and_a_name_of_its_own():
    names = [term.model_fields["name"].default for term in TERMS]
    assert len(set(names)) == len(names)
    assert set(names) == set(LEAST)
    assert all(LEAST.values())


def test_it_says_what_it_is(case):
    term = case.term
    assert isinstance(term, Term)
    assert term.scope in ("token", "example", "batch")
    assert term.mask in (REAL, SUPERVISED, TOKENS)
    assert isinstance(term.reads, Offer)
    assert isinstance(term.zero_at_match, bool)
    assert isinstance(term.needs(), Needs)
    assert term.needs().student
    assert type(term).__doc__
    with pytest.raises(ValidationError, match="frozen"):
        term.weight = Fixed(value=2.0)
    with pytest.raises(SettingError):
        type(term)(**{**term.model_dump(), "nonsense": 1})


def test_alone_is_the_same_term_at_weight_one(case):
    heavy = type(case.term).model_validate(
        {**case.term.plain(), "weight": {"schedule": "linear", "start": 0, "end": 3}}
    )
    assert heavy.alone() == case.term.alone()
    assert heavy.alone().weight.at(PLACE) == 1
    assert heavy.weight.at(Place(9, 10)) == 3


def test_it_survives_json_and_works_after(case):
    text = json.dumps(case.term.plain())
    again = type(case.term).model_validate(json.loads(text))
    assert again == case.term
    assert digest(again) == digest(case.term)
    assert TypeAdapter(Terms).validate_python([json.loads(text)]) == (case.term,)
    torch.manual_seed(0)
    assert torch.equal(again.values(case.student, case.teacher, case.batch, PLACE, case.part), case.values())


def test_it_reads_nothing_but_its_needs(case):
    class Asked(dict):
        def __init__(self, given):
            super().__init__(given)
            self.names = set()

        def __getitem__(self, name):
            self.names.add(name)
            return super().__getitem__(name)

    student, teacher = Asked(case.student), Asked(case.teacher)
    case.values(student, teacher)
    assert (student.names, teacher.names) == (set(case.term.needs().student), set(case.term.needs().teacher))


def test_it_gives_one_finite_value_an_example_and_none_is_negative(case):
    value = case.values()
    assert value.dtype == torch.float64
    assert value.isfinite().all()
    assert value.min() >= -1e-12 or case.term.name == "vid"  # rounding of T^2 = 16 times sums near 1
    assert value.max() > 1e-3  # and it sees that these two differ
    if case.term.scope == "example":
        assert value.shape == (ROWS,)


def test_it_alters_nothing_it_is_given(case):
    before = [{name: value.clone() for name, value in side.items()} for side in (case.student, case.teacher)]
    case.values()
    for side, kept in zip((case.student, case.teacher), before, strict=True):
        assert all(torch.equal(side[name], kept[name]) for name in side)


def test_it_is_zero_with_zero_gradient_at_a_match_if_it_says_so(case):
    needs, term = case.term.needs(), case.term
    trained = case.part is not None and any(True for _ in case.part.parameters())
    if trained or (needs.teacher and needs.teacher != needs.student):
        pytest.skip("a projector stands between the two sides: there is no match to speak of")
    ours = leaves(case.student)
    value = case.values(ours, case.student if needs.teacher else {})
    slopes = grads(value.sum(), ours)
    if term.zero_at_match and not (term.name == "soft-targets" and term.loss == "cross-entropy"):
        # sums of probabilities are 1 to some 1e-16, times T^2
        assert value.abs().max() < 1e-13
        assert all(slope.abs().max() < 1e-13 for slope in slopes.values())
    else:
        assert value.min() > 1e-3


def test_the_order_of_examples_does_not_matter(case):
    if case.term.name in DRAWS:
        pytest.skip("it draws numbers, in the order of the examples")
    turn = torch.tensor([4, 2, 0, 5, 1, 3])
    student, teacher = ({name: value[turn] for name, value in side.items()} for side in (case.student, case.teacher))
    expected, turned = case.values(), case.values(student, teacher, case.batch.select(turn))
    if case.term.scope != "example":
        assert torch.allclose(turned.sum(), expected.sum(), rtol=1e-12)
    else:
        assert torch.allclose(turned, expected[turn], rtol=1e-12)


def test_an_example_does_not_see_the_others(case):
    if case.term.scope == "batch" or case.term.name in DRAWS:
        pytest.skip("it compares examples, or draws numbers in their order")
    few = torch.arange(2, 5)
    student, teacher = ({name: value[few] for name, value in side.items()} for side in (case.student, case.teacher))
    alone, every = case.values(student, teacher, case.batch.select(few)), case.by_row(case.values())
    assert torch.allclose(alone.flatten(), torch.cat([every[row].flatten() for row in few.tolist()]), rtol=1e-12)


@pytest.mark.parametrize("mask", [REAL, "own"])
@pytest.mark.parametrize("worst", [torch.nan, torch.inf, 1e30])
def test_what_masked_rows_hold_never_reaches_the_loss(case, mask, worst):
    name = case.term.mask if mask == "own" else REAL
    kept = torch.tensor([1, 0, 1, 1, 0, 1]).bool()
    whole = case.batch
    labels = whole.labels[CLASS].clone()
    if name == SUPERVISED:
        labels[~kept] = NO_LABEL
    masked = Batch(whole.inputs, {**whole.labels, CLASS: labels}, {**whole.masks, name: kept}, whole.ids, whole.views)
    objective, results = case.objective(), []
    for fill, batch, rows in ((None, whole.select(kept), kept), (worst, masked, torch.ones(ROWS, dtype=torch.bool))):
        sides = []
        for side in (case.student, case.teacher):
            dirty = {n: value.clone() for n, value in side.items()}
            if fill is not None:
                for value in dirty.values():
                    value[~kept] = fill
            sides.append(leaves({n: value[rows] for n, value in dirty.items()}))
        torch.manual_seed(0)
        loss, parts = objective(*sides, batch)
        slopes = grads(loss, sides[0])
        results.append((loss, parts, {n: slope if fill is None else slope[kept] for n, slope in slopes.items()}))
    (loss, parts, slopes), (dirty_loss, dirty_parts, dirty_slopes) = results
    assert torch.allclose(loss, dirty_loss, rtol=1e-12)
    assert parts.keys() == dirty_parts.keys()
    assert all(torch.allclose(slopes[n], dirty_slopes[n], rtol=1e-12) for n in slopes)


def test_what_padding_tokens_hold_never_reaches_the_loss(case):
    padding = ~case.batch.masks[TOKENS]
    objective = case.objective()
    clean = leaves(case.student), leaves(case.teacher)
    dirty = leaves(case.student), leaves(case.teacher)
    for side in dirty:
        if "tokens" in side:
            with torch.no_grad():
                side["tokens"][padding] = torch.nan
    results = []
    for sides in (clean, dirty):
        torch.manual_seed(0)
        results.append(objective(*sides, case.batch)[0])
    assert torch.equal(*results)
    slopes = [grads(loss, {**sides[0], **dict(objective.named_parameters())})
              for loss, sides in zip(results, (clean, dirty), strict=True)]  # fmt: skip
    assert all(torch.equal(slopes[0][n], slopes[1][n]) for n in slopes[0])


def test_nothing_that_counts_is_a_loss_of_zero(case):
    none = {**case.batch.masks, case.term.mask: torch.zeros(ROWS, dtype=torch.bool)}
    batch = Batch(case.batch.inputs, case.batch.labels, none, case.batch.ids, case.batch.views)
    ours = leaves(case.student)
    loss, _ = case.objective()(ours, case.teacher, batch)
    assert loss == 0
    assert all(slope.abs().max() == 0 for slope in grads(loss, ours).values())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("size", [1.0, 1e4])
def test_half_precision_signals_are_computed_in_single(case, dtype, size):
    ours, theirs = ({n: (size * v).to(dtype) for n, v in side.items()} for side in (case.student, case.teacher))
    objective = Objective([case.term], task_of(case.term))
    objective.build(ours, theirs, examples=ROWS)
    objective.float().eval()
    ours = leaves(ours)
    torch.manual_seed(0)
    with torch.autocast("cpu", dtype=torch.bfloat16):  # must not reach inside
        loss, parts = objective(ours, theirs, case.batch)
    assert loss.dtype == torch.float32
    assert loss.isfinite()
    single = [{n: v.float() for n, v in side.items()} for side in (ours, theirs)]
    part = next(iter(objective.parts.values()), None)
    torch.manual_seed(0)
    values = case.term.values(*single, case.batch, PLACE, part)  # every row counts
    # the same operations in float32, but for the order in which a mean is taken
    assert torch.allclose(parts[case.term.name], values.mean(), rtol=1e-6)
    assert torch.allclose(loss, case.term.weight.at(PLACE) * parts[case.term.name], rtol=1e-6)
    loss.backward()
    assert all(value.grad.dtype == dtype for name, value in ours.items() if name != heard(case.term))


def test_the_gradient_is_the_values_slope(case):
    held = getattr(case.term, "kind", None) == "adaptive-kl"  # its weights are constants to the gradient
    if held or case.term.name in NOT_A_SLOPE or getattr(case.term, "temperature", None) == Learned(schedule="learned"):
        pytest.skip("its gradient is not that of its value, by design")
    ours = leaves(case.student)
    names, parameters = list(ours), [] if case.part is None else list(case.part.parameters())

    def values(*given):
        return case.values(dict(zip(names, given, strict=False)))

    # of many weights a random direction: every slope is in it
    assert torch.autograd.gradcheck(values, (*ours.values(), *parameters), fast_mode=bool(parameters))


def test_the_teachers_side_gets_no_gradient(case):
    ours, theirs = leaves(case.student), leaves(case.teacher)
    case.values(ours, theirs).sum().backward()
    assert all((value.grad is not None) == (name != heard(case.term)) for name, value in ours.items())
    assert all(value.grad is None for value in theirs.values())


def test_its_own_parameters_are_found_and_learn(case):
    objective = case.objective()
    objective.at(Place(5, 10))  # at the first step a learned temperature is not trained yet
    loss, _ = objective(case.student, case.teacher, case.batch)
    for name, slope in grads(loss, dict(objective.named_parameters())).items() if loss.requires_grad else ():
        assert slope.abs().max() > 0, name


def test_resting_it_touches_its_parameters_and_the_student_with_zero(case):
    resting = type(case.term).model_validate({**case.term.plain(), "weight": 0})
    objective = Objective([resting], task_of(resting))
    objective.build(case.student, case.teacher, examples=ROWS)
    ours = leaves(case.student)
    loss, parts = objective.double()(ours, case.teacher, case.batch)
    assert loss == 0
    assert parts == {}
    loss.backward()  # every process must be able to
    assert all(p.grad is not None and p.grad.abs().max() == 0 for p in objective.parameters())
    assert all(value.grad is None or value.grad.abs().max() == 0 for value in ours.values())


def test_what_it_needs_of_a_teacher_is_checked(case):
    objective, wanted = Objective([case.term], task_of(case.term)), case.term.needs().teacher
    objective.check(Provides())
    objective.check(Provides(wanted, case.term.reads))
    if not wanted:
        objective.check(None)
        return
    for provides in (None, Provides(frozenset())):
        with pytest.raises(Exception, match=case.term.name):
            objective.check(provides)

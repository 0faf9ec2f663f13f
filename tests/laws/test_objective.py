import copy
import random
from itertools import pairwise

import numpy as np
import pytest
import torch
from pydantic import TypeAdapter, ValidationError
from torch import nn

from limbeck.config import digest
from limbeck.data.batch import CLASS, REAL, SUPERVISED, Batch
from limbeck.errors import SettingError, SignalError
from limbeck.objective import Hints, Labels, Objective, SoftTargets, Terms
from limbeck.objective.projectors import Projector, normalised
from limbeck.objective.schedules import Place
from limbeck.signals.logits import Offer
from limbeck.teachers.teacher import Provides

terms = TypeAdapter(Terms).validate_python
ROWS, CLASSES = 12, 4
LINE = {"schedule": "linear", "start": 1.0, "end": 0.0}


def data(rows=ROWS, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, 5, generator=generator, dtype=torch.float64)
    teacher = {
        "logits": torch.randn(rows, CLASSES, generator=generator, dtype=torch.float64),
        "body": torch.randn(rows, 7, generator=generator, dtype=torch.float64),
    }
    labels = torch.randint(0, CLASSES, (rows,), generator=generator)
    labels[::5] = -100  # unevenly spread over micro-batches
    return x, labels, teacher


class Student(nn.Module):
    def __init__(self):
        super().__init__()
        self.body, self.head = nn.Linear(5, 6), nn.Linear(6, CLASSES)

    def forward(self, x):
        body = self.body(x)
        return {"body": body, "logits": self.head(body.tanh())}


def student():
    torch.manual_seed(0)
    return Student().double()


ALL = (
    Labels(weight=0.3),
    SoftTargets(weight=0.9, temperature=3.0),
    Hints(student="body", teacher="body", weight=2.0),
)


def built(given=ALL):
    x, _, teacher = data()
    objective = Objective(given)
    objective.build(student()(x), teacher)
    return objective.double()


def slopes(loss, *modules):
    parameters = [p for module in modules for p in module.parameters()]
    return torch.autograd.grad(loss, parameters, allow_unused=True)


class TestTheSum:
    def test_it_is_weights_times_the_means_over_the_masks(self):
        x, labels, teacher = data()
        model, objective = student(), built()
        whole = Batch.of(x, labels)
        real = torch.arange(ROWS) < 9
        batch = Batch(whole.inputs, whole.labels, {**whole.masks, REAL: real}, whole.ids, whole.views)
        shown = model(x)
        loss, parts = objective(shown, teacher, batch)
        rows = {"labels": real & (labels >= 0), "soft-targets": real, "hints": real}
        expected = 0.0
        for name, term, part in zip(objective.names, ALL, (None, None, objective.parts["hints"]), strict=True):
            values = term.values(shown, teacher, batch, Place(0, 1), part)
            mean = values[rows[name]].mean()
            assert torch.allclose(parts[name], mean, rtol=1e-12)
            expected = expected + term.weight.at(Place(0, 1)) * mean
        assert torch.allclose(loss, expected, rtol=1e-12)
        assert loss.shape == ()
        assert not any(part.requires_grad for part in parts.values())

    def test_counts_are_the_rows_that_are_real_and_in_the_mask(self):
        x, labels, _ = data()
        whole = Batch.of(x, labels)
        real = torch.arange(ROWS) < 9
        batch = Batch(whole.inputs, whole.labels, {**whole.masks, REAL: real}, whole.ids, whole.views)
        assert {name: int(count) for name, count in built().counts(batch).items()} == {
            REAL: 9,
            SUPERVISED: int((real & (labels >= 0)).sum()),
        }

    @pytest.mark.parametrize("sizes", [(6, 6), (1, 11), (5, 4, 3), (1,) * ROWS])
    def test_micro_batches_with_the_steps_counts_are_one_batch(self, sizes):
        x, labels, teacher = data()
        model, objective = student(), built()
        loss, parts = objective(model(x), teacher, Batch.of(x, labels))
        expected = slopes(loss, model, objective)
        chunks = torch.split(torch.arange(ROWS), sizes)
        batches = [Batch.of(x, labels).select(chunk) for chunk in chunks]
        counts = objective.total_counts(batches)
        total, summed, found = 0.0, dict.fromkeys(parts, 0.0), [torch.zeros_like(g) for g in expected]
        for chunk, batch in zip(chunks, batches, strict=True):
            seen = {name: value[chunk] for name, value in teacher.items()}
            one, own = objective(model(x[chunk]), seen, batch, counts)
            total = total + one
            for name, value in own.items():
                summed[name] += float(value)
            for place, slope in zip(found, slopes(one, model, objective), strict=True):
                place += slope
        assert total.item() == pytest.approx(loss.item(), rel=1e-12)  # float64: another order of twelve summands
        assert all(torch.allclose(a, b, rtol=1e-12, atol=1e-14) for a, b in zip(found, expected, strict=True))
        assert summed == pytest.approx({name: float(value) for name, value in parts.items()}, rel=1e-12)

    def test_means_of_uneven_micro_batches_would_differ(self):
        """The law above can fail: own denominators give another loss."""
        x, labels, teacher = data()
        model, objective = student(), built()
        whole, _ = objective(model(x), teacher, Batch.of(x, labels))
        chunks = torch.split(torch.arange(ROWS), (1, 11))
        own = [
            objective(model(x[c]), {n: v[c] for n, v in teacher.items()}, Batch.of(x, labels).select(c))[0]
            for c in chunks
        ]
        assert abs(sum(own) / 2 - whole).item() > 1e-3

    def test_padding_rows_change_nothing(self):
        x, labels, teacher = data()
        model, objective = student(), built()
        loss, parts = objective(model(x), teacher, Batch.of(x, labels))
        longer = torch.cat([torch.arange(ROWS), torch.zeros(3, dtype=torch.int64)])
        wide = Batch.of(x, labels).select(longer)
        masks = {**wide.masks, REAL: torch.arange(ROWS + 3) < ROWS}
        padded = Batch(wide.inputs, wide.labels, masks, wide.ids, wide.views)
        again, others = objective(model(x[longer]), {n: v[longer] for n, v in teacher.items()}, padded)
        assert torch.allclose(again, loss, rtol=1e-12)
        assert others.keys() == parts.keys()

    def test_labels_alone_is_cross_entropy(self):
        x, labels, _ = data()
        logits = student()(x)["logits"]
        loss, parts = Objective([Labels()])({"logits": logits}, None, Batch.of(x, labels))
        assert torch.allclose(loss, nn.functional.cross_entropy(logits, labels, ignore_index=-100), rtol=1e-12)
        assert list(parts) == ["labels"]

    def test_no_labels_is_zero_and_not_nan(self):
        x, _, teacher = data()
        loss, parts = built()(student()(x), teacher, Batch.of(x))
        assert loss.isfinite()
        assert "labels" not in parts  # there is nothing to say of it

    def test_mixed_labels_may_be_probabilities(self):
        x, labels, teacher = data()
        objective = Objective([Labels(), SoftTargets()])
        soft = torch.eye(CLASSES)[labels.clamp_min(0)]
        loss, _ = objective(student()(x), teacher, Batch.of(x, soft))
        same, _ = objective(student()(x), teacher, Batch.of(x, labels.clamp_min(0)))
        assert torch.allclose(loss, same, rtol=1e-12)


class TestWeightsOverTime:
    def test_weights_and_temperatures_follow_the_place(self):
        x, labels, teacher = data()
        cool = {"schedule": "linear", "start": 4.0, "end": 1.0}
        objective = Objective([Labels(weight=LINE), SoftTargets(temperature=cool)])
        shown, batch = student()(x), Batch.of(x, labels)
        for step, (weight, t) in {0: (1.0, 4.0), 1: (0.5, 2.5), 2: (0.0, 1.0)}.items():
            objective.at(Place(step, 3))
            loss, _ = objective(shown, teacher, batch)
            fixed, _ = Objective([Labels(weight=weight), SoftTargets(temperature=t)])(shown, teacher, batch)
            assert torch.equal(loss, fixed)

    def test_a_resting_term_touches_its_parameters_with_zero(self):
        x, labels, teacher = data()
        model = student()
        resting = built([Labels(), Hints(student="body", teacher="body", weight=LINE)])
        resting.at(Place(9, 10))
        loss, parts = resting(model(x), teacher, Batch.of(x, labels))
        loss.backward()
        assert set(parts) == {"labels"}
        assert all(torch.equal(p.grad, torch.zeros_like(p)) for p in resting.parameters())
        alone, _ = Objective([Labels()])(model(x), None, Batch.of(x, labels))
        assert torch.equal(loss, alone)

    def test_when_all_rest_the_step_still_differentiates_to_zero(self):
        x, labels, teacher = data()
        model, objective = student(), Objective([SoftTargets(weight=LINE)])
        objective.at(Place(9, 10))
        loss, parts = objective(model(x), teacher, Batch.of(x, labels))
        loss.backward()
        assert loss == 0
        assert parts == {}
        assert all(p.grad is None or not p.grad.any() for p in model.parameters())

    def test_a_negative_weight_is_refused(self):
        with pytest.raises(SettingError):
            Labels(weight=-1.0)
        with pytest.raises(ValidationError):
            terms({"labels": -0.5})


class TestHowItIsWritten:
    def test_a_mapping_and_a_list_are_the_same(self):
        by_name = terms({"labels": 0.1, "soft-targets": {"weight": 0.9, "temperature": 2}, "hints": [HINT, HINT]})
        listed = terms(
            [
                {"name": "labels", "weight": 0.1},
                {"name": "soft-targets", "weight": 0.9, "temperature": 2},
                {"name": "hints", **HINT},
                {"name": "hints", **HINT},
            ]
        )
        assert by_name == listed
        assert digest(by_name) == digest(listed)
        assert by_name[0] == Labels(weight=0.1)
        assert by_name[1] == SoftTargets(weight=0.9, temperature=2.0)
        assert terms(["labels", "soft-targets"]) == (Labels(), SoftTargets())

    def test_defaults_written_out_are_the_same_value(self):
        assert digest(terms({"labels": {}})) == digest(terms({"labels": {"weight": 1.0, "smoothing": 0.0}}))

    @pytest.mark.parametrize(
        "wrong",
        [{"lables": 1}, ["nothing"], [{"weight": 1}], {}, [], {"labels": True}, {"labels": "much"}, {"labels": None},
         {"labels": {"wieght": 1}}, {"soft-targets": {"loss": "js"}}, {"hints": 1.0}, {"labels": {"smoothing": 1}}],
    )  # fmt: skip
    def test_what_no_term_understands_is_refused(self, wrong):
        with pytest.raises(ValidationError):
            terms(wrong)

    def test_repeats_get_names_of_their_own(self):
        objective = Objective(terms({"hints": [HINT, HINT, HINT], "labels": 1}))
        assert objective.names == ("hints", "hints-2", "hints-3", "labels")
        x, labels, teacher = data()
        objective.build(student()(x), teacher)
        assert set(objective.parts) == {"hints", "hints-2", "hints-3"}
        weights = [part.linear.weight for part in objective.parts.values()]
        assert all(not torch.equal(a, b) for a, b in pairwise(weights))
        _, parts = objective.double()(student()(x), teacher, Batch.of(x, labels))
        assert tuple(parts) == objective.names

    def test_no_terms_are_refused(self):
        with pytest.raises(ValueError, match="at least one"):
            Objective([])


HINT = {"student": "body", "teacher": "body"}


class TestCheck:
    def test_no_teacher(self):
        with pytest.raises(SignalError, match=r"'soft-targets' needs a teacher"):
            Objective([Labels(), SoftTargets()]).check(None)
        Objective([Labels()]).check(None)

    def test_a_lacking_signal_is_named(self):
        with pytest.raises(SignalError, match=r"'hints' needs \['body'\]"):
            Objective(ALL).check(Provides(frozenset({"logits"})))
        Objective(ALL).check(Provides(frozenset({"logits", "body"})))
        Objective(ALL).check(Provides())

    @pytest.mark.parametrize("offer", list(Offer))
    def test_logits_stored_too_coarsely(self, offer):
        objective, provides = Objective([Labels(), SoftTargets()]), Provides(frozenset({"logits"}), offer)
        if offer == Offer.MATRIX:
            objective.check(provides)
        else:
            with pytest.raises(SignalError, match=r"every token, of all rows at once, .* 'teacher.store: false'"):
                objective.check(provides)

    def test_coarse_logits_do_not_matter_to_who_does_not_read_them(self):
        Objective([Hints(**HINT)]).check(Provides(frozenset({"logits", "body"}), Offer.EXPECTATIONS))

    def test_other_classes_are_refused(self):
        x, _, teacher = data()
        with pytest.raises(SignalError, match="4 classes and the teacher 3"):
            Objective([SoftTargets()]).build(student()(x), {"logits": teacher["logits"][:, :3]})


class TestOwnLoop:
    """Plain dictionaries, `Batch.of`, and nothing else of the package."""

    def test_it_trains(self):
        x, labels, teacher = data(rows=64)
        model, objective = student(), Objective([Labels(weight=0.1), SoftTargets(weight=0.9), Hints(**HINT)])
        batch = Batch.of(x, labels)
        objective.build(model(x), teacher)
        objective.double()
        before = copy.deepcopy(objective.state_dict())
        optimiser = torch.optim.SGD([*model.parameters(), *objective.parameters()], lr=0.1)
        curve = []
        for _ in range(30):
            loss, _ = objective(model(x), teacher, batch)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            curve.append(loss.item())
        assert all(after < before for before, after in pairwise(curve))
        assert all(not torch.equal(before[name], value) for name, value in objective.state_dict().items())

    def test_soft_targets_need_no_build(self):
        x, labels, teacher = data()
        loss, _ = Objective([SoftTargets()])(student()(x), {"logits": teacher["logits"]}, Batch.of(x, labels))
        assert loss > 0

    def test_a_projector_that_no_optimiser_knows_is_refused_every_time(self):
        x, labels, teacher = data()
        objective = Objective([Hints(**HINT)])
        for _ in range(2):  # a cell that is run again must not go on with an untrained projector
            with pytest.raises(SignalError, match=r"objective\.build"):
                objective(student()(x), teacher, Batch.of(x, labels))

    def test_batches_keep_what_they_are_given(self):
        labels = torch.tensor([1, -100, 3])
        batch = Batch.of({"a": torch.zeros(3, 2), "b": torch.zeros(3)}, labels, torch.tensor([7, 8, 9]))
        assert set(batch.inputs) == {"a", "b"}
        assert batch.masks[SUPERVISED].tolist() == [True, False, True]
        assert batch.masks[REAL].all()
        assert batch.ids.tolist() == [7, 8, 9]
        assert torch.equal(batch.labels[CLASS], labels)


def projected(student_shape, teacher_shape, always=False):
    student, teacher = torch.randn(2, *student_shape), torch.randn(2, *teacher_shape)
    projector = Projector(student, teacher, always)
    ours, theirs = projector(student, teacher)
    assert ours.shape == theirs.shape
    assert torch.equal(projector(student, teacher)[1], theirs)
    return projector, tuple(ours.shape[1:])


class TestProjectors:
    @pytest.mark.parametrize(
        ("student_shape", "teacher_shape", "out"),
        [
            ((4,), (6,), (6,)),
            ((6,), (4,), (4,)),
            ((3, 4), (3, 6), (3, 6)),
            ((4, 8, 8), (6, 8, 8), (6, 8, 8)),
            ((4, 8, 8), (6, 4, 4), (6, 4, 4)),
            ((4, 4, 4), (6, 8, 8), (6, 4, 4)),
            ((4, 6, 2), (6, 3, 5), (6, 3, 2)),
            ((4, 8, 8), (6,), (6,)),
            ((4,), (6, 8, 8), (6,)),
            ((3, 4), (6,), (6,)),
            ((4,), (3, 6), (6,)),
        ],
    )
    def test_shapes(self, student_shape, teacher_shape, out):
        projector, found = projected(student_shape, teacher_shape)
        assert found == out
        assert any(True for _ in projector.parameters())

    @pytest.mark.parametrize("shape", [(4,), (3, 4), (4, 5, 5)])
    def test_equal_widths_need_no_map_unless_asked(self, shape):
        projector, _ = projected(shape, shape)
        assert not list(projector.parameters())
        value = torch.randn(2, *shape)
        assert all(torch.equal(side, value) for side in projector(value, value))
        projector, _ = projected(shape, shape, always=True)
        assert sum(p.numel() for p in projector.parameters()) == 4 * 4 + 4

    def test_a_square_map_is_a_rotation_at_first(self):
        projector, _ = projected((4,), (4,), always=True)
        weight = projector.linear.weight
        # float32 products of four numbers below one
        assert torch.allclose(weight @ weight.T, torch.eye(4), atol=1e-6)
        assert not projector.linear.bias.any()

    def test_a_rotated_feature_is_absorbed(self):
        generator = torch.Generator().manual_seed(4)
        feature = torch.randn(32, 4, generator=generator)
        turn, _ = torch.linalg.qr(torch.randn(4, 4, generator=generator))
        projector = Projector(feature, feature, always=True)
        with torch.no_grad():
            projector.linear.weight.copy_(turn)
            projector.linear.bias.zero_()
        ours, theirs = projector(feature @ turn, feature)
        # weight is applied transposed, so it undoes the turn up to float32 rounding
        assert torch.allclose(ours, theirs, atol=1e-5)

    @pytest.mark.parametrize(
        ("student_shape", "teacher_shape"),
        [((3, 4), (4, 8, 8)), ((4, 8, 8), (3, 4)), ((2, 2, 2, 2), (2,)), ((), (4,))],
    )
    def test_what_cannot_be_joined_is_refused(self, student_shape, teacher_shape):
        with pytest.raises(SignalError):
            Projector(torch.randn(2, *student_shape), torch.randn(2, *teacher_shape))

    def test_ragged_tokens_are_pooled_over_those_that_count(self):
        tokens, vectors = torch.randn(3, 5, 4), torch.randn(3, 6)
        mask = torch.arange(5) < torch.tensor([5, 2, 0])[:, None]
        projector = Projector(tokens, vectors)
        ours, _ = projector(tokens, vectors, mask)
        expected = torch.stack([tokens[0].mean(0), tokens[1, :2].mean(0), torch.zeros(4)])
        assert torch.allclose(ours, projector.linear(expected), atol=1e-6)  # float32 means
        back = Projector(vectors, tokens)
        assert torch.allclose(back(vectors, tokens, None, mask)[1], expected, atol=1e-6)

    @pytest.mark.parametrize("teacher", ["tokens", "vector"])
    @pytest.mark.parametrize("normalise", [False, True])
    def test_longer_padding_changes_no_hint(self, teacher, normalise):
        """A batch that is padded further is the same batch: live, stored and re-packed rows agree."""
        generator = torch.Generator().manual_seed(6)
        shorter = {name: torch.randn(3, 5, 4, generator=generator, dtype=torch.float64) for name in ("ours", "tokens")}
        shorter["vector"] = torch.randn(3, 4, generator=generator, dtype=torch.float64)
        mask = (torch.arange(5) < torch.tensor([5, 2, 1])[:, None]).long()
        losses = []
        for extra, fill in ((0, 0.0), (3, 9.0)):
            pad = (0, 0, 0, extra)
            shown = {n: nn.functional.pad(v, pad, value=fill) if v.ndim == 3 else v for n, v in shorter.items()}
            columns = {"input_ids": torch.zeros(3, 5 + extra), "attention_mask": nn.functional.pad(mask, (0, extra))}
            objective = Objective([Hints(student="ours", teacher=teacher, projector="always", normalise=normalise)])
            objective.build(shown, shown, seed=1)
            losses.append(objective.double()(shown, shown, Batch.of(columns))[0])
        assert torch.allclose(*losses, rtol=1e-12)

    def test_a_teacher_with_its_own_tokenizer_has_its_own_padding(self):
        ours, theirs = torch.randn(2, 4), torch.randn(2, 3, 4)
        own = torch.tensor([[1, 1, 0], [1, 0, 0]])
        columns = {"attention_mask": torch.ones(2, 3), "input_ids": torch.ones(2, 3), "teacher.attention_mask": own}
        loss, _ = Objective([Hints(student="a", teacher="b")])({"a": ours}, {"b": theirs}, Batch.of(columns))
        pooled = torch.stack([theirs[0, :2].mean(0), theirs[1, 0]])
        assert torch.allclose(loss, (ours - pooled).square().mean(), rtol=1e-5)  # float32

    @pytest.mark.parametrize("shape", [(4,), (3, 4), (4, 2, 2)])
    def test_normalised_features_have_no_scale(self, shape):
        value = 5 + torch.randn(3, *shape, dtype=torch.float64)
        scaled = normalised(value)
        # the 1e-6 that keeps a zero feature finite is 1e-7 of these squares
        assert torch.allclose(scaled.flatten(1).square().mean(1), torch.ones(3, dtype=torch.float64), rtol=1e-6)
        assert torch.allclose(normalised(100 * value), scaled, rtol=1e-6)
        assert normalised(torch.zeros(2, *shape)).isfinite().all()


class TestBuild:
    def test_a_seed_decides_and_nothing_else_does(self):
        x, _, teacher = data()
        made = []
        for seed in (3, 3, 4):
            torch.randn(7)  # where the global state stands must not matter
            objective = Objective(ALL)
            objective.build(student()(x), teacher, seed)
            made.append(objective.parts["hints"].linear.weight)
        assert torch.equal(made[0], made[1])
        assert not torch.equal(made[0], made[2])

    def test_the_global_random_states_are_left_alone(self, monkeypatch):
        x, _, teacher = data()
        shown = student()(x)
        reached = []
        monkeypatch.setattr(torch.cuda, "manual_seed_all", reached.append)
        torch.manual_seed(5)
        reached.clear()
        state, python, numpy = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].copy()
        Objective(ALL).build(shown, teacher, 9)
        assert torch.equal(torch.get_rng_state(), state)
        assert random.getstate() == python
        assert (np.random.get_state()[1] == numpy).all()
        assert reached == []  # an accelerator's generator is not restored, so it must not be seeded

    def test_it_leaves_no_gradient_and_trains_what_it_made(self):
        objective = built()
        assert {name for name, _ in objective.named_parameters()} == {
            "parts.hints.linear.weight",
            "parts.hints.linear.bias",
        }
        assert all(p.requires_grad and p.grad is None for p in objective.parameters())

    def test_its_state_can_be_stored_and_loaded(self):
        x, labels, teacher = data()
        first, second = built(), Objective(ALL)
        second.build(student()(x), teacher, seed=77)
        second.double().load_state_dict(first.state_dict())
        values = [o(student()(x), teacher, Batch.of(x, labels))[0] for o in (first, second)]
        assert torch.equal(*values)

    def test_its_needs_are_those_of_all_terms(self):
        needs = Objective(ALL).needs()
        assert needs.student == {"logits", "body"}
        assert needs.teacher == {"logits", "body"}

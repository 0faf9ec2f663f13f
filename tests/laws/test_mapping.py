"""Rules that pair the layers of two models become terms with the names of those layers."""

import pytest
import torch
from tests.fakes.layered import IDS, IMAGES, bert, encoder, normal
from torch import nn
from torch.nn import functional as F

from limbeck.data.batch import REAL, Batch
from limbeck.errors import SignalError
from limbeck.losses.similarity import linear_cka
from limbeck.models import nets
from limbeck.objective import Hints, Labels, SoftTargets, mapping
from limbeck.objective.mapping import matched, similar
from limbeck.signals.capture import show
from limbeck.teachers.local import LocalTeacher
from limbeck.teachers.teacher import Provides


class Stored:
    """Answers without a model."""

    fingerprint, module = "stored", None

    def __init__(self, signals):
        self.signals, self.provides = signals, Provides(frozenset(signals))

    def observe(self, batch, needs):
        return {name: self.signals[name][batch.ids] for name in needs}


class Never(nn.Module):
    def forward(self, x):
        raise AssertionError("it was run")


def cnn(count, width=4, seed=0):
    torch.manual_seed(seed)
    return nets.SmallCnn(3, width, count, 4)


def image_batches(rows=12, batch=6):
    images = torch.randn(rows, 3, 16, 16, generator=torch.Generator().manual_seed(3))
    return [Batch.of(images[ids], ids=ids) for ids in torch.arange(rows).split(batch)]


def found(terms):
    return [(term.student, term.teacher) for term in terms]


class TestMatched:
    def test_nothing_is_run_where_no_term_asks(self):
        given = (Labels(), SoftTargets(), Hints(student="a", teacher="b"), Hints(layers={"c": "d", "e": "f"}))
        terms = matched(given, Never(), LocalTeacher(Never(), "t"), image_batches())
        assert terms[:3] == given[:3]
        assert found(terms[2:]) == [("a", "b"), ("c", "d"), ("e", "f")]
        assert matched(given[:1], Never(), None, ()) == given[:1]

    @pytest.mark.parametrize(
        ("rule", "students", "teachers", "expected"),
        [("uniform", 2, 4, [(0, 1), (1, 3)]), ("last", 2, 4, [(0, 2), (1, 3)]), ("uniform", 4, 2, [(1, 0), (3, 1)])],
    )
    def test_a_rule_becomes_a_term_for_each_pair_with_all_its_settings(self, rule, students, teachers, expected):
        given = Hints(layers=rule, weight=0.3, normalise=True)
        teacher = LocalTeacher(cnn(teachers, 8), "t")
        terms = matched([Labels(), given], cnn(students), teacher, image_batches())
        assert terms[0] == Labels()
        assert found(terms[1:]) == [(f"blocks.{a}", f"blocks.{b}") for a, b in expected]
        for term in terms[1:]:
            assert term.layers is None
            assert term.model_copy(update={"student": None, "teacher": None, "layers": rule}) == given

    def test_similarity_gives_equal_nets_the_diagonal_and_a_deeper_teacher_its_own_layers_back(self):
        student = cnn(3)
        same = matched([Hints(layers="similarity")], student, LocalTeacher(cnn(3), "t"), image_batches())
        assert found(same) == [(f"blocks.{n}", f"blocks.{n}") for n in range(3)]
        batches = image_batches()
        names = [f"blocks.{n}" for n in range(3)]
        shown = [show(student, batch.columns("student"), names) for batch in batches]
        own = {name: torch.cat([one[name] for one in shown]).double() for name in names}
        turn = torch.linalg.qr(normal(16, 16))[0]
        noise = {f"n{n}": normal(12, 5, seed=n) for n in range(9)}
        # the student's layers, rotated as vectors, stand at the places 1, 4 and 10 of a store in the order of numbers
        signals = dict(zip([f"layer.{n}" for n in (0, 2, 3, 5, 6, 7, 8, 9, 11)], noise.values(), strict=True))
        for name, place in zip(names, (1, 4, 10), strict=True):
            vector = own[name].mean((2, 3))
            signals[f"layer.{place}"] = (
                3 * vector @ turn[: vector.shape[1], : vector.shape[1]] if place == 10 else vector
            )
        terms = matched([Hints(layers="similarity")], student, Stored(signals), batches)
        assert found(terms) == list(zip(names, ("layer.1", "layer.4", "layer.10"), strict=True))
        assert terms == matched([Hints(layers="similarity")], student, Stored(signals), batches)

    def test_similarity_leaves_padding_out_tokens_and_rows_alike(self, monkeypatch):
        student, teacher = bert(2), LocalTeacher(bert(3, 12, seed=1), "t")
        generator = torch.Generator().manual_seed(5)
        ids, lengths = (
            torch.randint(1, 20, (10, 7), generator=generator),
            torch.randint(1, 8, (10,), generator=generator),
        )
        mask = (torch.arange(7) < lengths[:, None]).long()
        ids = ids * mask
        short = [Batch.of({"input_ids": ids, "attention_mask": mask})]
        longer = {"input_ids": F.pad(ids, (0, 5), value=9), "attention_mask": F.pad(mask, (0, 5))}
        more = {name: torch.cat([value, value[:3]]) for name, value in longer.items()}
        padded = Batch.of(more)
        padded.masks[REAL][10:] = False
        halves = [padded.select(torch.arange(4)), padded.select(torch.arange(4, 13))]
        measured = []
        monkeypatch.setattr(mapping, "similar", lambda cka: measured.append(cka) or similar(cka))
        pairs = [
            found(matched([Hints(layers="similarity")], student, teacher, batches))
            for batches in (short, [padded], halves)
        ]
        assert pairs[0] == pairs[1] == pairs[2]
        # single-precision forward passes of other shapes: 1e-6 of the features, divided by a small HSIC
        assert torch.allclose(measured[1], measured[0], atol=1e-4)
        assert torch.allclose(measured[2], measured[0], atol=1e-4)
        left = torch.cat([show(student, short[0].columns("student"), ["hidden.1"])["hidden.1"]]).double()
        right = teacher.observe(short[0], frozenset({"hidden.2"}))["hidden.2"].double()
        left, right = ((side * mask[..., None]).sum(1) / mask.sum(1, keepdim=True) for side in (left, right))
        assert torch.allclose(measured[0][0, 1], linear_cka(left, right), atol=1e-9)

    def test_each_side_reads_its_own_columns(self):
        columns = {f"{side}.{name}": value for name, value in IDS.items() for side in ("student", "teacher")}
        columns["teacher.input_ids"] = torch.randint(0, 20, (3, 9))
        columns["teacher.attention_mask"] = torch.ones(3, 9, dtype=torch.int64)
        batch = Batch.of(columns | {"x": IMAGES["x"]})
        terms = matched([Hints(layers="last")], bert(2), LocalTeacher(bert(3), "t"), [batch])
        assert found(terms) == [("hidden.1", "hidden.2"), ("hidden.2", "hidden.3")]

        class Nine(nn.Module):
            def __init__(self):
                super().__init__()
                self.words, self.layers, self.head = nn.Embedding(20, 8), nn.ModuleList([encoder()]), nn.Linear(8, 4)

            def forward(self, input_ids):
                assert input_ids.shape[1] == 9
                return self.head(self.layers[0](self.words(input_ids)).mean(1))

        terms = matched([Hints(layers="last")], Nine(), LocalTeacher(Nine(), "t"), [batch], side="teacher")
        assert found(terms) == [("layers.0", "layers.0")]

    @pytest.mark.parametrize(
        ("names", "expected"),
        [
            (["logits", "hidden.0", "hidden.2", "hidden.10", "attention.1.probs", "gradient", "block.3"], "hidden.10"),
            (["logits", "layer2", "layer10", "layer10:in"], "layer10"),
        ],
    )
    def test_a_store_gives_the_layers_it_holds_in_the_order_of_their_numbers(self, names, expected):
        teacher = Stored({name: torch.zeros(12, 2) for name in names})
        terms = matched([Hints(layers="uniform")], cnn(1), teacher, image_batches())
        assert found(terms) == [("blocks.0", expected)]
        assert len(matched([Hints(layers="uniform")], cnn(4), teacher, image_batches())) == 2

    def test_a_teacher_with_a_model_is_asked_for_what_it_provides_alone(self):
        class Some(LocalTeacher):
            provides = Provides(frozenset({"logits", "blocks.1"}))

        terms = matched([Hints(layers="uniform")], cnn(2), Some(cnn(3), "t"), image_batches())
        assert found(terms) == [("blocks.1", "blocks.1")]

    def test_who_shows_no_layers_is_said_and_what_it_has(self):
        flat = nn.Sequential(nn.Flatten(), nn.Linear(768, 4))
        rule = [Hints(layers="uniform")]
        what = r"shows no layers that can be matched: name them with layers: \{student: teacher\}"
        with pytest.raises(SignalError, match=f"The student {what}. It has the modules 0, 1"):
            matched(rule, flat, LocalTeacher(cnn(2), "t"), image_batches())
        with pytest.raises(SignalError, match=f"The teacher {what}"):
            matched(rule, cnn(2), LocalTeacher(flat, "t"), image_batches())
        with pytest.raises(SignalError, match=f"The teacher {what}. It has stored 'hidden.0', 'logits'"):
            matched(
                rule, cnn(2), Stored({"logits": torch.zeros(12, 4), "hidden.0": torch.zeros(12, 4)}), image_batches()
            )
        with pytest.raises(SignalError, match="there is none"):
            matched(rule, cnn(2), None, image_batches())
        with pytest.raises(SignalError, match="no examples"):
            matched(rule, cnn(2), LocalTeacher(cnn(2), "t"), [])

    def test_too_few_examples_or_broken_features_are_said(self):
        rule, teacher = [Hints(layers="similarity")], LocalTeacher(cnn(2), "t")
        with pytest.raises(SignalError, match="at least 4 examples, and there are 3"):
            matched(rule, cnn(2), teacher, image_batches(3))
        broken = Stored({"one": torch.full((12, 2), torch.nan)})
        with pytest.raises(SignalError, match="The teacher's layer 'one' gives numbers that are not finite"):
            matched(rule, cnn(2), broken, image_batches())

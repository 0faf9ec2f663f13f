import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from limbeck.data.batch import REAL, Batch
from limbeck.errors import SignalError
from limbeck.losses.similarity import linear_cka, unit_kernel
from limbeck.models import light, nets
from limbeck.objective import Hints, Labels, SoftTargets, mapping
from limbeck.objective.mapping import last, layers_of, matched, similar, uniform
from limbeck.signals.capture import show
from limbeck.teachers.local import LocalTeacher
from limbeck.teachers.teacher import Provides

law = settings(max_examples=40, deadline=None, derandomize=True)
# float64 kernels of at most 30 examples, of norm 1: rounding of some 1e-15
TIGHT = 1e-11


def normal(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


class TestCka:
    @law
    @given(st.integers(5, 30), st.integers(1, 9), st.integers(1, 9), st.integers(0, 99), st.floats(1e-3, 1e3))
    def test_it_does_not_see_rotations_shifts_and_scales_and_is_symmetric(self, rows, ours, theirs, seed, scale):
        x, y = normal(rows, ours, seed=seed), normal(rows, theirs, seed=seed + 100)
        y = y + x.mean(1, keepdim=True)
        value = linear_cka(x, y)
        assert value.shape == ()
        assert value.dtype == torch.float64
        assert abs(value) <= 1 + TIGHT
        turn = torch.linalg.qr(normal(ours, ours, seed=seed + 200))[0]
        assert torch.allclose(linear_cka(scale * (x @ turn) + 5, y), value, atol=TIGHT)
        assert torch.allclose(linear_cka(y, x), value, atol=TIGHT)
        order = torch.randperm(rows, generator=torch.Generator().manual_seed(seed))
        assert torch.allclose(linear_cka(x[order], y[order]), value, atol=TIGHT)
        assert torch.allclose(linear_cka(x, scale * (x @ turn) - 5), torch.ones((), dtype=torch.float64), atol=TIGHT)

    def test_it_sees_other_linear_maps_and_other_orders_of_the_examples(self):
        x = normal(20, 4)
        assert linear_cka(x, x * torch.tensor([10.0, 1, 1, 1])) < 0.9
        assert linear_cka(x, x.flip(0)).abs() < 0.5

    def test_unrelated_features_are_near_zero_on_either_side_of_it(self):
        values = torch.stack([linear_cka(normal(40, 100, seed=i), normal(40, 60, seed=i + 50)) for i in range(20)])
        # one value deviates by 1 / sqrt(40 * 39 / 2) = 0.036, the mean of twenty by 0.008
        assert values.abs().max() < 0.15
        assert values.mean().abs() < 0.03
        assert values.min() < 0 < values.max()

    def test_features_of_any_shape_are_flattened_and_half_precision_is_not_squared_in_its_own(self):
        x, y = normal(6, 2, 3, 3), normal(6, 4, 5, seed=1)
        assert torch.equal(linear_cka(x, y), linear_cka(x.flatten(1), y.flatten(1)))
        halves = (400 * x).half(), y.bfloat16()
        assert torch.equal(linear_cka(*halves), linear_cka(*(one.double() for one in halves)))

    @pytest.mark.parametrize("size", [1e-300, 1e-30, 1e30, 1e300])
    def test_neither_huge_nor_tiny_features_are_lost(self, size):
        x, y = normal(8, 3), normal(8, 4, seed=1)
        assert torch.allclose(linear_cka(size * x, y), linear_cka(x, y), atol=TIGHT)

    @pytest.mark.parametrize("value", [0.0, 0.1, 1e30])
    def test_constant_features_are_like_nothing_not_even_themselves(self, value):
        still = torch.full((7, 3), value)
        assert linear_cka(still, normal(7, 3)) == 0
        assert linear_cka(normal(7, 3), still) == 0
        assert linear_cka(still, still) == 0

    def test_examples_that_are_equally_far_apart_are_like_nothing(self):
        assert linear_cka(torch.eye(6), normal(6, 3)) == 0
        assert linear_cka(torch.eye(6), torch.eye(6)) == 0

    @pytest.mark.parametrize("rows", [0, 1, 2, 3])
    def test_fewer_than_four_examples_are_refused_with_their_number(self, rows):
        with pytest.raises(ValueError, match=rf"at least 4 examples.*\[{rows}, 2\]"):
            linear_cka(torch.zeros(rows, 2), torch.zeros(rows, 2))
        assert linear_cka(normal(4, 2), normal(4, 3)).isfinite()

    @pytest.mark.parametrize(("ours", "theirs"), [((5, 2), (6, 2)), ((5,), (5,)), ((5, 0), (5, 2))])
    def test_what_is_no_feature_of_the_same_examples_is_refused(self, ours, theirs):
        with pytest.raises(ValueError, match=r"\["):
            linear_cka(torch.zeros(ours), torch.zeros(theirs))

    def test_it_is_a_measure_without_gradient(self):
        assert not linear_cka(normal(5, 2).requires_grad_(), normal(5, 2).requires_grad_()).requires_grad
        kernel = unit_kernel(normal(9, 2))
        assert kernel.norm().item() == pytest.approx(1)
        # U-centred: rows sum to zero, and the diagonal is zero
        assert kernel.sum(0).abs().max() < 1e-14
        assert torch.equal(kernel.diagonal(), torch.zeros(9, dtype=torch.float64))


def rising(pairs, students, teachers):
    assert len(pairs) == min(students, teachers)
    for place, count in ((0, students), (1, teachers)):
        side = [pair[place] for pair in pairs]
        assert all(0 <= one < count for one in side)
        assert all(a < b for a, b in itertools.pairwise(side))


class TestRules:
    @law
    @given(st.integers(1, 40), st.integers(1, 40))
    def test_uniform_and_last_rise_and_end_with_the_last(self, students, teachers):
        for rule in (uniform, last):
            pairs = rule(students, teachers)
            rising(pairs, students, teachers)
            assert pairs[-1] == (students - 1, teachers - 1)
            assert rule(teachers, students) == [(b, a) for a, b in pairs]
        # no layer is further than half a layer from its even place
        small, large = sorted((students, teachers))
        for one, other in uniform(small, large):
            assert abs((other + 1) - (one + 1) * large / small) <= 0.5

    @pytest.mark.parametrize(
        ("students", "teachers", "numbers"),
        [
            (6, 12, [2, 4, 6, 8, 10, 12]),
            (4, 12, [3, 6, 9, 12]),
            (3, 3, [1, 2, 3]),
            (5, 12, [2, 5, 7, 10, 12]),  # 2.4, 4.8, 7.2, 9.6, 12
            (2, 5, [3, 5]),  # 2.5, and halves go up
            (4, 6, [2, 3, 5, 6]),  # 1.5, 3, 4.5, 6
            (1, 7, [7]),
        ],
    )
    def test_uniform_by_hand(self, students, teachers, numbers):
        assert uniform(students, teachers) == [(m, number - 1) for m, number in enumerate(numbers)]

    def test_last_by_hand(self):
        assert last(2, 5) == [(0, 3), (1, 4)]
        assert last(5, 2) == [(3, 0), (4, 1)]

    @pytest.mark.parametrize("rule", [uniform, last])
    def test_nothing_is_paired_with_nothing(self, rule):
        assert rule(0, 3) == rule(3, 0) == []

    @law
    @given(st.integers(1, 6), st.integers(1, 6), st.integers(0, 999), st.sampled_from([1, 8]))
    def test_similar_is_the_best_of_all_that_rise(self, students, teachers, seed, steps):
        # few steps make many ties
        cka = (normal(students, teachers, seed=seed) * steps).round() / steps
        pairs = similar(cka)
        rising(pairs, students, teachers)
        count = min(students, teachers)
        every = [
            list(zip(a, b, strict=True))
            for a in itertools.combinations(range(students), count)
            for b in itertools.combinations(range(teachers), count)
        ]
        sums = {tuple(one): sum(cka[a, b].item() for a, b in one) for one in every}
        assert sums[tuple(pairs)] == pytest.approx(max(sums.values()), abs=1e-12)  # of six numbers below 8

    def test_similar_by_hand(self):
        assert similar(torch.tensor([[0.9, 0.1, 0.2, 0.1], [0.8, 0.1, 0.7, 0.2]])) == [(0, 0), (1, 2)]
        assert similar(torch.tensor([[0.1, 0.9], [0.9, 0.1]])) == [(0, 0), (1, 1)]  # a crossing does not rise
        assert similar(torch.zeros(2, 4)) == [(0, 2), (1, 3)]
        assert similar(torch.zeros(0, 3)) == []

    @pytest.mark.parametrize("wrong", [torch.zeros(3), torch.tensor([[torch.nan]]), torch.tensor([[torch.inf, 0]])])
    def test_similar_refuses_what_has_no_largest_sum(self, wrong):
        with pytest.raises(ValueError, match="finite"):
            similar(wrong)


IMAGES = {"x": torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(1))}
IDS = {"input_ids": torch.arange(18).reshape(3, 6), "attention_mask": torch.arange(6) < torch.tensor([[6], [3], [1]])}


def conv(before, after, stride=1):
    return nn.Sequential(nn.Conv2d(before, after, 3, stride, 1), nn.BatchNorm2d(after), nn.ReLU(inplace=True))


def blocks(width, count):
    return nn.Sequential(*(nets.ResidualBlock(width, width, 1) for _ in range(count)))


def head(width):
    return nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 4)


def encoder():
    return nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)


class Stages(nn.Module):
    """As torchvision writes ResNet: stages with names of their own."""

    def __init__(self, *depths):
        super().__init__()
        self.stem, self.count = conv(3, 4), len(depths)
        for place, depth in enumerate(depths):
            down = nets.ResidualBlock(4, 4, 1 if place == 0 else 2)
            setattr(self, f"layer{place + 1}", nn.Sequential(down, *blocks(4, depth - 1)))
        self.fc = nn.Linear(4, 4)

    def forward(self, x):
        x = self.stem(x)
        for place in range(self.count):
            x = getattr(self, f"layer{place + 1}")(x)
        return self.fc(x.mean((2, 3)))


class Vgg(nn.Module):
    def __init__(self):
        super().__init__()
        first = nn.Conv2d(3, 4, 3, 1, 1), nn.ReLU(inplace=True), nn.Conv2d(4, 4, 3, 1, 1), nn.ReLU(inplace=True)
        self.features = nn.Sequential(*first, nn.MaxPool2d(2), nn.Conv2d(4, 8, 3, 1, 1), nn.ReLU(), nn.MaxPool2d(2))
        self.classifier = nn.Sequential(nn.Linear(8, 7), nn.ReLU(), nn.Dropout(), nn.Linear(7, 4))

    def forward(self, x):
        return self.classifier(self.features(x).mean((2, 3)))


class LeNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1, self.conv2, self.pool = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 6, 3), nn.MaxPool2d(2)
        self.fc1, self.fc2 = nn.Linear(54, 5), nn.Linear(5, 4)

    def forward(self, x):
        x = self.pool(F.relu(self.conv1(x)))
        x = self.pool(F.relu(self.conv2(x)))
        return F.log_softmax(self.fc2(F.relu(self.fc1(x.flatten(1)))), 1)


class Vit(nn.Module):
    def __init__(self, form):
        super().__init__()
        self.patch = nn.Sequential(conv(3, 8, 2), nn.Sequential(conv(8, 8, 2))) if form == "stem" else conv(3, 8, 4)
        self.first, self.form = nn.Parameter(torch.zeros(1, 1, 8)), form
        made = [encoder() for _ in range(3)]
        if form == "named":
            self.one, self.two, self.three = made
        else:
            self.blocks = nn.ModuleList(made) if form == "list" else nn.Sequential(*made)
        self.norm, self.head = nn.LayerNorm(8), nn.Linear(8, 4)

    def forward(self, x):
        x = self.patch(x).flatten(2).mT
        x = torch.cat([self.first.expand(len(x), 1, 8), x], 1)
        for block in (self.one, self.two, self.three) if self.form == "named" else self.blocks:
            x = block(x)
        return self.head(self.norm(x)[:, 0])


class Pairs(nn.Module):
    """Layers that are lists themselves, of attention and the rest, with what is never run and what runs twice."""

    def __init__(self):
        super().__init__()
        self.embed, self.unused = nn.Linear(16, 8), nn.ModuleList([encoder()])
        part = nn.Sequential(nn.LayerNorm(8), nn.Linear(8, 8))
        self.layers = nn.ModuleList(
            nn.ModuleList([nn.Sequential(nn.LayerNorm(8), nn.Linear(8, 8)) for _ in range(2)]) for _ in range(3)
        )
        self.again, self.head = nn.ModuleList([part]), nn.Linear(8, 4)

    def forward(self, x):
        x = self.embed(x.mean(1))
        for attend, forward in self.layers:
            x = x + forward(x + attend(x))
        return {"logits": self.head(self.again[0](self.again[0](x)).mean(1))}


class Tagger(nn.Module):
    def __init__(self):
        super().__init__()
        self.words, self.one = nn.Embedding(20, 8), nn.LSTM(8, 8, batch_first=True)
        self.two, self.head = nn.LSTM(8, 6, batch_first=True), nn.Linear(6, 4)

    def forward(self, input_ids, attention_mask):
        return self.head(self.two(self.one(self.words(input_ids))[0])[0][:, -1])


class Named(nn.Module):
    def __init__(self):
        super().__init__()
        self.one, self.two = encoder(), encoder()

    def forward(self, x):
        return self.two(self.one(x))


class Tokens(nn.Module):
    def __init__(self, body):
        super().__init__()
        self.words, self.body, self.head = nn.Embedding(20, 8), body, nn.Linear(8, 4)

    def forward(self, input_ids, attention_mask):
        x = self.words(input_ids)
        for part in self.body if isinstance(self.body, nn.ModuleList) else [self.body]:
            x = part(x)
        return self.head(x.mean(1, keepdim=True)).squeeze(1)


class Gated(nn.Module):
    """A residual block that weighs its channels by their means (Hu et al. 2018)."""

    def __init__(self, width):
        super().__init__()
        self.conv, self.gate = nn.Conv2d(width, width, 3, padding=1), nn.Conv2d(width, width, 1)

    def forward(self, x):
        x = self.conv(x)
        return x * self.gate(x.mean((2, 3), keepdim=True)).sigmoid()


class Named2d(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.gated, self.head = nn.Conv2d(3, 4, 1), Gated(4), nn.Linear(4, 4)

    def forward(self, x):
        return self.head(self.gated(self.stem(x)).mean((2, 3)))


def plain(inplace):
    act = nn.ReLU(inplace)
    wide = nn.Sequential(nn.Linear(768, 8), nn.BatchNorm1d(8), nn.ReLU(inplace), nn.Dropout(0.5), nn.Linear(8, 8))
    return nn.Sequential(nn.Flatten(), *wide, act, nn.Linear(8, 4), nn.LogSoftmax(1))


def bert(layers=3, width=8, seed=0):
    from transformers import BertConfig, BertForSequenceClassification

    torch.manual_seed(seed)
    config = BertConfig(
        vocab_size=20,
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=2,
        intermediate_size=8,
        num_labels=4,
    )
    return BertForSequenceClassification(config)


MODELS = {
    "small-cnn": (lambda: nets.SmallCnn(3, 4, 3, 4), ["blocks.0", "blocks.1", "blocks.2"]),
    "one block": (lambda: nets.SmallCnn(3, 4, 1, 4), ["blocks.0"]),
    "small-resnet": (lambda: nets.SmallResnet(3, 4, 2, 3, 4), ["stages.0", "stages.1", "stages.2"]),
    "mobile-cnn": (lambda: light.InvertedCnn(3, 4, 2, 3, 2, False, 4), ["stages.0", "stages.1", "stages.2"]),
    "efficient-cnn": (lambda: light.InvertedCnn(3, 4, 1, 3, 2, True, 4), ["stages.0", "stages.1", "stages.2"]),
    "shuffle-cnn": (lambda: light.ShuffleCnn(3, 4, 2, 3, 2, 4), ["stages.0", "stages.1", "stages.2"]),
    "one stage": (lambda: nets.SmallResnet(3, 4, 3, 1, 4), ["stages.0.0", "stages.0.1", "stages.0.2"]),
    "mlp": (lambda: nets.Mlp(768, (8, 9), 0.1, 4), ["blocks.0", "blocks.1"]),
    "one hidden layer": (lambda: nets.Mlp(768, (8,), 0.1, 4), ["blocks.0"]),
    "plain": (lambda: plain(False), ["3", "6"]),
    "plain, in place": (lambda: plain(True), ["3", "6"]),
    "named stages": (lambda: Stages(2, 3, 2), ["layer1", "layer2", "layer3"]),
    "named stages of one": (lambda: Stages(1, 1, 1), ["layer1", "layer2", "layer3"]),
    "two containers": (lambda: Stages(2, 2), ["layer1.0", "layer1.1", "layer2.0", "layer2.1"]),
    "stem, body, head": (lambda: nn.Sequential(conv(3, 4), blocks(4, 3), *head(4)), ["1.0", "1.1", "1.2"]),
    "body in one": (lambda: nn.Sequential(nets.SmallCnn(3, 4, 2, 4), nn.Identity()), ["0.blocks.0", "0.blocks.1"]),
    "vgg": (Vgg, ["features.3", "features.6"]),
    "lenet": (LeNet, ["conv1", "conv2"]),
    "vit": (lambda: Vit("list"), ["blocks.0", "blocks.1", "blocks.2"]),
    "vit, stem in blocks": (lambda: Vit("stem"), ["blocks.0", "blocks.1", "blocks.2"]),
    "vit, named blocks": (lambda: Vit("named"), ["one", "two", "three"]),
    "one token block": (lambda: Tokens(nn.ModuleList([encoder()])), ["body.0"]),
    "one named token block": (lambda: Tokens(encoder()), ["body"]),
    "token blocks in one": (lambda: Tokens(Named()), ["body.one", "body.two"]),
    "lists of lists": (Pairs, ["layers.0.1", "layers.1.1", "layers.2.1"]),
    "recurrent": (Tagger, ["one", "two"]),
    "one stage with names": (Named2d, ["gated"]),
    "bert": (bert, ["hidden.1", "hidden.2", "hidden.3"]),
    "linear": (lambda: nn.Sequential(nn.Flatten(), nn.Linear(768, 4)), []),
}


def columns_of(name):
    return IDS if name in ("bert", "recurrent") or "token block" in name else IMAGES


class TestLayers:
    @pytest.mark.parametrize("name", MODELS)
    def test_a_models_layers_are_what_a_person_would_name(self, name):
        make, expected = MODELS[name]
        model = make()
        found = layers_of(model, columns_of(name))
        assert found == expected
        # transformers leaves hooks of its own
        assert name == "bert" or not any(part._forward_hooks for part in model.modules())
        assert all(part.training for part in model.modules())
        if found:  # and each can be captured by its name
            shown = show(model, columns_of(name), found)
            assert all(len(shown[one]) == 3 for one in found)

    def test_the_mode_of_each_part_and_the_statistics_are_left_as_they_were(self):
        model = nets.SmallCnn(3, 4, 2, 4)
        model.blocks[0].eval()
        before = {name: value.clone() for name, value in model.state_dict().items()}
        layers_of(model, IMAGES)
        assert not model.blocks[0].training
        assert model.blocks[1].training
        assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())

    def test_hooks_and_mode_are_put_back_when_the_model_fails(self):
        model = nets.SmallCnn(3, 4, 2, 4)
        with pytest.raises(RuntimeError):
            layers_of(model, {"x": torch.zeros(2, 5, 8, 8)})
        assert model.training
        assert not any(part._forward_hooks for part in model.modules())

    def test_wrappers_are_looked_through(self):
        assert layers_of(nn.DataParallel(Stages(1, 1, 1)), IMAGES) == ["layer1", "layer2", "layer3"]
        compiled = torch.compile(nets.SmallCnn(3, 4, 2, 4), backend="eager")
        assert layers_of(compiled, IMAGES) == ["blocks.0", "blocks.1"]

    def test_a_part_called_base_layer_makes_no_adapter_of_its_module(self):
        class Based(nn.Module):
            def __init__(self):
                super().__init__()
                self.base_layer, self.head = nets.SmallCnn(3, 4, 2, 4), nn.Linear(4, 4)

            def forward(self, x):
                return self.head(self.base_layer(x))

        assert layers_of(Based(), IMAGES) == ["base_layer.blocks.0", "base_layer.blocks.1"]
        assert layers_of(nn.Sequential(Based()), IMAGES) == ["0.base_layer.blocks.0", "0.base_layer.blocks.1"]

    def test_what_runs_twice_or_is_written_over_is_no_layer(self):
        class Twice(nets.SmallResnet):
            def forward(self, x):
                x = self.stages[0](self.stem(x))
                x = self.stages[2](F.relu_(self.stages[1](x)))
                return self.head(self.stages[3](self.stages[3](x)).mean((2, 3)))

        model = Twice(3, 4, 1, 4, 4)
        model.stages[3] = nn.Sequential(nets.ResidualBlock(16, 16, 1))
        model.head = nn.Linear(16, 4)
        assert layers_of(model, IMAGES) == ["stages.0", "stages.2"]

    def test_one_example_is_enough(self):
        assert len(layers_of(nets.SmallCnn(3, 4, 2, 4), {"x": IMAGES["x"][:1]})) == 2


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

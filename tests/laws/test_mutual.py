"""Laws of students that teach each other, and of exits that the deepest answer teaches."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from tests.fakes.experiments import HINTS, LABELS, SOFT, Layered, Watching, control_c, plan, same, smooth
from torch import nn

from limbeck.data.batch import Batch
from limbeck.data.images import ImageReader
from limbeck.data.token_tasks import Tags
from limbeck.errors import Interrupted, LimbeckError, SettingError
from limbeck.export import export
from limbeck.models.architecture import describe, rebuild
from limbeck.models.exits import Exit, Exits
from limbeck.models.given import Given
from limbeck.models.nets import SmallCnn, SmallResnet
from limbeck.models.peers import Peers
from limbeck.models.specs import Mlp
from limbeck.models.student import Student
from limbeck.objective import Dist, Objective, SoftTargets
from limbeck.objective.within import Within
from limbeck.regimes.deep_to_shallow import DeepToShallow
from limbeck.regimes.mutual import Mutual, best_of
from limbeck.regimes.walk import walk
from limbeck.signals.capture import Capture, show
from limbeck.training.loop import train
from limbeck.training.optimizers import clip, groups
from limbeck.training.workshop import Workshop

PLAIN = SoftTargets(weight=1.0, temperature=1.0)


def alone(**changes):
    return plan(**{"teacher": None, "student": Given(smooth), "terms": (LABELS, PLAIN), "store": None, **changes})


def deep(**changes):
    return alone(**{"student": Given(lambda: Layered(3, drop=0.0)), "terms": (LABELS, SOFT), **changes})


def only(regime, one):
    (stage,) = regime.stages(one)
    return stage


def said(stage, rows=12):
    """What the untrained student of a stage shows for some rows, and the batch."""
    batch = stage.examples.batch(stage.examples.rows[:rows], torch.zeros(rows, dtype=torch.int64))
    return batch, show(stage.start.module(), batch.columns("student"), Objective(stage.terms).needs().student)


@pytest.mark.parametrize("count", [1, 2, 4])
def test_the_loss_of_peers_is_the_papers(count):
    """Sum over peers of cross-entropy + mean over the others of KL(other || peer), in NumPy."""
    stage = only(Mutual(peers=count), alone(terms=(LABELS.alone(), PLAIN)))
    batch, shown = said(stage)
    loss, _ = Objective(stage.terms)(shown, None, batch)
    logits = [shown[f"peers.{place}"].double().numpy() for place in range(count)]
    p = [
        np.exp(z - z.max(1, keepdims=True)) / np.exp(z - z.max(1, keepdims=True)).sum(1, keepdims=True) for z in logits
    ]
    rows, labels = np.arange(len(batch)), batch.labels["class"].numpy()
    expected = 0.0
    for i in range(count):
        expected += -np.log(p[i][rows, labels]).mean()
        for j in set(range(count)) - {i}:
            expected += (p[j] * np.log(p[j] / p[i])).sum(1).mean() / (count - 1)
    assert float(loss) == pytest.approx(expected, abs=1e-5)  # float32 logits
    assert count == 1 or len({tuple(z.flatten()) for z in logits}) == count, "peers begin with weights of their own"


def test_a_peer_gets_no_gradient_from_what_it_teaches():
    stage = only(Mutual(peers=2), alone())
    batch, _ = said(stage)
    one = next(term for term in stage.terms if term.name == "soft-targets of peer 1 from 2")
    module = stage.start.module()
    with Capture(module, one.needs().student) as capture:
        shown = capture(batch.columns("student"))
    assert not one.sides(shown, one.term.needs())[1]["logits"].requires_grad
    one.values(shown, {}, batch, None, None).sum().backward()
    assert all(parameter.grad is not None for parameter in module.peers[0].parameters())
    assert all(parameter.grad is None for parameter in module.peers[1].parameters())


def test_without_exchange_peers_are_trained_as_if_alone(tmp_path):
    """The control's peers are bit for bit those of trainings of their own, clipping included."""
    one = alone(terms=(LABELS, PLAIN))
    one = replace(one, training=one.training.model_copy(update={"clip": 0.05}))
    together = train(next(Mutual(peers=2).control(one)), tmp_path / "both").weights
    first = train(one.stage("control", one.without_teacher), tmp_path / "first").weights
    for name, value in first.items():
        assert torch.allclose(together[f"peers.0.{name}"], value, atol=1e-6), name


def test_each_peers_gradient_is_clipped_by_itself():
    module = Peers([nn.Linear(3, 2), nn.Linear(3, 2)])
    for place, peer in enumerate(module.peers):
        for parameter in peer.parameters():
            parameter.grad = torch.full_like(parameter, 100.0 * place + 1e-3)
    found = groups(module, (), 0.01)
    assert {group["clip"] for group in found} == {"student peers.0", "student peers.1"}
    assert sum(len(group["params"]) for group in found) == len(list(module.parameters()))
    clip(found, 1.0)
    assert float(module.peers[0].weight.grad.abs().max()) == pytest.approx(1e-3)
    assert float(torch.nn.utils.get_total_norm([p.grad for p in module.peers[1].parameters()])) == pytest.approx(1)


def test_a_term_within_gives_what_the_term_gives():
    stage = only(Mutual(peers=2), alone(terms=(LABELS, Dist(weight=2.0), SoftTargets(gate="teacher-certainty"))))
    batch, shown = said(stage)
    for term in stage.terms:
        if term.teacher is None:
            continue
        ours, theirs = shown[term.student], shown[term.teacher]
        plain = term.term.values({"logits": ours}, {"logits": theirs}, batch, None, None)
        assert torch.equal(term.values(shown, {}, batch, None, None), plain)
        if term.gate:
            gated = term.term.gate.weights({"logits": ours}, {"logits": theirs}, batch)
            assert torch.equal(term.gate.weights(shown, {}, batch), gated)
    loss, parts = (objective := Objective(stage.terms))(shown, None, batch)
    assert loss.isfinite()
    assert {"soft-targets of peer 1 from 2.kept", "dist of peer 2 from 1"} <= parts.keys()
    assert objective.needs().teacher == frozenset()
    assert len({str(term.plain()) for term in stage.terms}) == len(stage.terms), "the arm is named by each"


def test_an_ensemble_answers_by_the_mean_of_probabilities():
    torch.manual_seed(0)
    peers = [nn.Linear(5, 4).double() for _ in range(3)]
    x = torch.randn(7, 5, dtype=torch.float64)
    mean = torch.stack([peer(x).softmax(-1) for peer in peers]).mean(0)
    assert torch.allclose(Peers(peers)(x=x).softmax(-1), mean, atol=1e-12)
    numbers = torch.stack([peer(x) for peer in peers]).mean(0)
    assert torch.allclose(Peers(peers, numbers=True)(x=x), numbers, atol=1e-12)


@pytest.mark.parametrize("deliver", ["best", "student", "ensemble"])
def test_what_is_delivered(deliver, tmp_path):
    one, workshop = alone(), Workshop(tmp_path)
    regime = Mutual(peers=3, deliver=deliver)
    trained = walk(regime.distilled(one), workshop, tmp_path / "journal")
    together = workshop.train(only(regime, one))
    module, whole = trained.module(), together.module()
    if deliver == "ensemble":
        assert isinstance(module, Peers)
        return
    found = [best_of(together, (f"peers.{place}",), one.splits.validation, "cpu") for place in range(3)]
    right = [each.metrics["accuracy"] for each in found]
    place = 0 if deliver == "student" else max(range(3), key=lambda at: (right[at], -found[at].metrics["nll"]))
    assert same_weights(module, whole.peers[place])
    assert trained.metrics["accuracy"] == right[place]
    assert not module.training
    assert len({each.key for each in found} | {together.key}) == 4
    assert same_weights(trained.as_teacher().module, module)


def same_weights(one, two):
    a, b = one.state_dict(), two.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_peers_of_several_kinds():
    regime = Mutual(models=({"name": "mlp", "hidden": 7}, Mlp(hidden=(9, 9))))
    stage = only(regime, alone(student=Mlp(hidden=(5,))))
    widths = [peer.blocks[0][0].out_features for peer in stage.start.module().peers]
    assert widths == [5, 7, 9]
    batch, shown = said(stage)
    assert Objective(stage.terms)(shown, None, batch)[0].isfinite()


@pytest.mark.parametrize(
    ("told", "message"),
    [
        ({"peers": 0}, "greater than or equal to 1"),
        ({"peers": 2, "models": ({"name": "mlp"},)}, "give one of them"),
        ({"models": ({"name": "mlp"},), "deliver": "best"}, "another kind of model for each seed"),
    ],
)
def test_settings_that_contradict_each_other(told, message):
    with pytest.raises(SettingError, match=message):
        Mutual(**told)


@pytest.mark.parametrize("regime", [Mutual(), DeepToShallow()], ids=lambda one: one.name)
def test_what_cannot_be_told_is_refused(regime):
    with pytest.raises(LimbeckError, match="its own teacher"):
        regime.stages(plan())
    with pytest.raises(LimbeckError, match="nothing is learnt from a teacher"):
        regime.stages(deep(terms=(LABELS,)))
    whole = deep()
    train = replace(whole.splits.train, task=Tags())
    with pytest.raises(LimbeckError, match="an example has several"):
        regime.stages(replace(whole, splits=replace(whole.splits, train=train)))


def test_peers_compare_no_layers():
    with pytest.raises(LimbeckError, match="compare logits"):
        Mutual().stages(alone(terms=(LABELS, HINTS)))


@pytest.mark.parametrize("regime", [Mutual(peers=3), DeepToShallow()], ids=lambda one: one.name)
@pytest.mark.parametrize("after", [1, 6])
def test_stopped_and_resumed_is_uninterrupted(regime, after, tmp_path):
    stage = only(regime, deep())
    whole = train(stage, tmp_path / "whole")
    with pytest.raises(Interrupted):
        train(stage, tmp_path / "cut", Watching(after=after, act=control_c))
    assert same(train(stage, tmp_path / "cut"), whole)


def test_exits_learn_from_the_deepest_answer_and_it_from_labels_alone():
    stage = only(DeepToShallow(), deep())
    assert [term.name for term in stage.terms] == [
        "labels of the deepest",
        "labels of exit 1",
        "labels of exit 2",
        "soft-targets of exit 1",
        "soft-targets of exit 2",
    ]
    module, batch = stage.start.module(), said(stage)[0]
    soft = [term for term in stage.terms if term.teacher]
    with Capture(module, Objective(soft).needs().student) as capture:
        shown = capture(batch.columns("student"))
    sum(term.values(shown, {}, batch, None, None).sum() for term in soft).backward()
    layers = module.model.layers if hasattr(module.model, "layers") else module.model.get_submodule("layers")
    assert all(parameter.grad is None for parameter in layers[-1].parameters()), "the deepest is detached"
    assert all(parameter.grad is not None for parameter in layers[0].parameters())
    assert all(parameter.grad is not None for parameter in module.exits.parameters())


def test_exits_leave_the_model_as_it_is(tmp_path):
    one, workshop = deep(), Workshop(tmp_path)
    trained = walk(DeepToShallow().distilled(one), workshop, tmp_path / "journal")
    whole = workshop.train(only(DeepToShallow(), one)).module()
    assert isinstance(trained.module(), Layered)
    assert same_weights(trained.module(), whole.model)
    batch = Batch.of(torch.randn(6, 12))
    assert torch.equal(show(trained.module(), batch.columns("student"))["logits"], whole(x=batch.inputs["x"]))
    assert {name for name in trained.metrics if name.startswith("part: ")} == {
        "part: exit 1",
        "part: exit 2",
        "part: the deepest",
    }


class Counting(nn.Module):
    """A layer that counts how often it ran."""

    def __init__(self, scale):
        super().__init__()
        self.scale, self.ran = scale, 0

    def forward(self, x):
        self.ran += 1
        return x * self.scale


def stacked(threshold):
    """Two layers and a head that doubles, with an exit that gives what it reads."""
    model = nn.Sequential(Counting(1.0), Counting(2.0))
    exit_ = Exit([3], [3], 3)
    exit_.bottleneck, exit_.head = nn.Identity(), nn.Identity()
    return Exits(model, ["0"], [exit_], threshold).eval()


def test_each_row_has_the_first_answer_that_is_sure_enough():
    x = torch.tensor([[5.0, 0.0, 0.0], [0.1, 0.0, 0.0]])
    sure = float(x[0].softmax(0)[0])
    model = stacked(sure - 1e-3)
    assert torch.equal(model(x=x), torch.stack([x[0], 2 * x[1]]))
    assert model.model[1].ran == 1, "one row needs it"
    assert torch.equal(model(x=x[:1]), x[:1])
    assert model.model[1].ran == 1, "no row needs it"
    assert torch.equal(stacked(sure + 1e-3)(x=x), 2 * x)
    assert torch.equal(stacked(None)(x=x), 2 * x)
    assert torch.equal(stacked(0.0)(x=x), x)
    assert torch.equal(stacked(0.0).train()(x=x), 2 * x), "in training every layer runs"
    assert not stacked(0.0).model[0]._forward_hooks
    model(x=x[:1])
    assert not model.model[0]._forward_hooks, "hooks are taken away when a pass ends early, too"


def test_what_an_earlier_exit_settled_stays_settled():
    """The second exit is less sure of the first row, and both rows go on to it."""
    first, second = (Exit([3], [3], 3) for _ in range(2))
    first.bottleneck, first.head = nn.Identity(), nn.Identity()
    second.bottleneck, second.head = nn.Identity(), Counting(0.01)
    model = nn.Sequential(Counting(1.0), Counting(1.0), Counting(3.0))
    x = torch.tensor([[5.0, 0.0, 0.0], [0.1, 0.0, 0.0]])
    whole = Exits(model, ["0", "1"], [first, second], 0.9).eval()
    assert torch.equal(whole(x=x), torch.stack([x[0], 3 * x[1]]))


@pytest.mark.parametrize("net", [SmallCnn(1, 4, 3, 5), SmallResnet(1, 4, 1, 3, 5)], ids=["cnn", "resnet"])
def test_an_exits_bottleneck_has_the_form_of_the_deepest_layer(net):
    from limbeck.models.depth import longest
    from limbeck.models.exits import exits_for

    x, stack = torch.randn(2, 1, 28, 28), longest(net)
    paths, deepest = [f"{stack}.0", f"{stack}.1"], f"{stack}.2"
    shown = show(net, {"x": x}, {*paths, deepest})
    whole = exits_for(net, paths, deepest, shown, 5)
    found = show(whole, {"x": x}, {"exits.0", "exits.0.bottleneck", "exits.1.bottleneck", "logits"})
    assert found["exits.0.bottleneck"].shape == found["exits.1.bottleneck"].shape == shown[deepest].shape
    assert found["exits.0"].shape == (2, 5)


def test_tokens_that_do_not_count_do_not_count():
    torch.manual_seed(0)
    one, x = Exit([6, 8], [6, 4], 3), torch.randn(2, 6, 8)
    mask = torch.tensor([[1, 1, 1, 0, 0, 0], [1, 1, 1, 1, 1, 1]])
    other = x.clone()
    other[0, 3:] = 99.0
    assert torch.allclose(one(x, mask), one(other, mask), atol=1e-6)
    assert not torch.allclose(one(x), one(other), atol=1e-2)


@pytest.mark.parametrize("threshold", [None, 0.4])
def test_they_are_built_again_from_what_is_written(threshold, tmp_path):
    torch.manual_seed(0)
    exits = Exits(SmallCnn(1, 4, 2, 3), ["blocks.0"], [Exit([4, 14, 14], [8, 7, 7], 3)], threshold)
    x = torch.randn(5, 1, 28, 28)
    for module in (exits, Peers([SmallCnn(1, 4, 2, 3), SmallCnn(1, 2, 2, 3)])):
        again = rebuild(describe(module, None, tmp_path), tmp_path, None)
        again.load_state_dict(module.state_dict())
        assert torch.equal(again.eval()(x=x), module.eval()(x=x))


def test_a_file_of_them_answers_as_they_do(tmp_path):
    """The writer proves it on these images; what it follows runs whole, and chooses row by row as the model does."""
    pytest.importorskip("onnxruntime")
    torch.manual_seed(0)
    reader = ImageReader(height=12, width=12, channels=1, mean=(0.2,), std=(0.5,))
    images = [np.random.default_rng(seed).integers(0, 256, (12, 12)).astype(np.uint8) for seed in range(9)]
    exits = Exits(SmallCnn(1, 4, 2, 3), ["blocks.0"], [Exit([4, 6, 6], [8, 3, 3], 3)]).eval()
    columns = reader.encode(images)
    sure = show(exits, columns, {"exits.0"})["exits.0"].softmax(-1).amax(-1)
    deep = exits(**columns)
    exits.threshold = float(sure.median())
    assert 0 < int((exits(**columns) == deep).all(1).sum()) < len(images), "some rows of each kind"
    for module in (exits, Peers([SmallCnn(1, 4, 2, 3), SmallCnn(1, 2, 2, 3)]).eval()):
        student = Student(module, reader, ("a", "b", "c"))
        assert export(student, "onnx", tmp_path / type(module).__name__, images, 0).max_difference < 1e-4


def test_a_wrapped_term_finds_its_layers_and_is_alone_as_the_term_is():
    one = Within(SoftTargets(weight=0.3, gate="gap"), "exits.0", "logits", "exit 1")
    assert one.alone().weight.at(None) == 1
    assert one.alone().gate is None
    assert one.resolved(lambda rule: []) == (one,)

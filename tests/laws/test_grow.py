"""A student that begins as its teacher: larger, and untrained it answers the same."""

import math
from dataclasses import replace

import pytest
import torch
from tests.contracts.test_regime_contract import answered, known
from tests.fakes.experiments import plan
from tests.laws.test_shrink import KINDS, TEXT, donor_of, logits
from torch import nn

from limbeck.advice.preflight import dry_run
from limbeck.data.images import ImageReader
from limbeck.errors import LimbeckError, SettingError
from limbeck.models.deepen import repeated
from limbeck.models.nets import Mlp as MlpNet
from limbeck.models.saved import load_student, save_student
from limbeck.models.specs import BuildContext, Grown, Mlp, MlpMixer, SmallCnn, SmallResnet, build
from limbeck.models.widen import copies, divided
from limbeck.objective import Labels, SoftTargets
from limbeck.regimes.offline import Offline
from limbeck.teachers.local import LocalTeacher

READER = ImageReader(height=9, width=7, channels=1, mean=(0.0,), std=(1.0,))
IMAGES = BuildContext(4, {"x": torch.rand(6, 1, 9, 7, generator=torch.Generator().manual_seed(0))}, tuple("abcd"))
NETS = {
    "mlp": Mlp(hidden=(5, 7)),
    "small-cnn": SmallCnn(width=3, blocks=2),
    "small-resnet": SmallResnet(width=3, stages=2),
}
# Sums of at most some hundred products in float32, in another order: 1e-6 of logits of size 1 to 10.
NEAR = 1e-5


def net_of(name, steps=8):
    """A network as trained: statistics and scales are not those of a new one."""
    module = build(NETS[name], IMAGES, 0)
    optimiser = torch.optim.Adam(module.parameters(), 0.05)
    for _ in range(steps):
        optimiser.zero_grad()
        nn.functional.cross_entropy(module(IMAGES.sample["x"]), torch.arange(6) % 4).backward()
        optimiser.step()
    return module.eval()


def grown(donor, context=IMAGES, seed=1, **settings):
    return build(Grown(**settings), replace(context, donor=donor), seed)


def shown(module):
    with torch.no_grad():
        return module.eval()(IMAGES.sample["x"])


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize(
    "settings", [{"wider": 2}, {"wider": 1.5}, {"wider": 3.2}, {"deeper": 1}, {"wider": 2, "deeper": 2}], ids=str
)
def test_a_larger_network_answers_as_its_teacher(name, settings):
    donor = net_of(name)
    if name == "small-cnn" and "deeper" in settings:
        with pytest.raises(LimbeckError, match="each of its layers halves the image"):
            grown(donor, **settings)
        return
    module = grown(donor, **settings)
    before, after = shown(donor), shown(module)
    assert torch.allclose(before, after, atol=NEAR * float(before.abs().max().clamp_min(1)), rtol=0)
    for part, of in (
        (donor, IMAGES.sample["x"] + 1.0),
        (donor.train(), IMAGES.sample["x"]),
    ):  # and not on the sample alone
        with torch.no_grad():
            first, second = part(of), module.train(part.training)(of)
        assert torch.allclose(first, second, atol=1e-4), "batch statistics of copies are the same"
    expected = {"mlp": "hidden", "small-cnn": "width", "small-resnet": "width"}[name]
    own, old = module.settings[expected], donor.settings[expected]
    wide = settings.get("wider", 1)
    if name == "mlp":
        assert own == [math.ceil(wide * one) for one in old] + [math.ceil(wide * old[-1])] * settings.get("deeper", 0)
    else:
        assert own == math.ceil(wide * old)


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        *((kind, {"wider": 2, "feed_forward": 1.3, "deeper": 1}) for kind in KINDS),
        ("bert", {"wider": 3}),
        ("bert", {"feed_forward": 1.3}),
        ("roberta", {"deeper": 3}),
        ("distilbert", {"deeper": 2}),
    ],
    ids=str,
)
def test_a_larger_encoder_answers_as_its_teacher(kind, settings):
    donor = donor_of(kind)
    module = grown(donor, TEXT, **settings)
    before, after = logits(donor), logits(module)
    assert torch.allclose(before, after, atol=NEAR * float(before.abs().max()), rtol=0)
    count = sum(one.numel() for one in donor.parameters())
    assert sum(one.numel() for one in module.parameters()) > 1.05 * count


def test_sizes_of_a_larger_encoder():
    config = grown(donor_of("bert"), TEXT, wider=2, feed_forward=1.5, deeper=2).config
    assert (config.hidden_size, config.num_attention_heads, config.intermediate_size) == (48, 8, 120)
    assert config.num_hidden_layers == 5


def moved(module, context, steps=3):
    """A few steps of AdamW, whose size does not depend on a gradient's."""
    optimiser = torch.optim.AdamW(module.train().parameters(), 0.01)
    for _ in range(steps):
        optimiser.zero_grad()
        found = module(**context.sample)
        found = found if isinstance(found, torch.Tensor) else found.logits
        nn.functional.cross_entropy(found, torch.arange(len(found)) % found.shape[1]).backward()
        optimiser.step()
    return module


def test_copies_part_as_training_goes_on():
    donor = net_of("mlp")
    module = moved(grown(donor, wider=2), IMAGES)
    first, before = module.blocks[0][0].weight, donor.blocks[0][0].weight
    live = (first[:5] - before).abs().amax(1) > 5e-3  # a unit at rest decays, by 3e-4 at most
    assert live.sum() >= 3
    assert (first[:5] - first[5:]).abs().amax(1)[live].min() > 1e-3, "every unit that learns, and its copy"


@pytest.mark.parametrize(
    ("name", "parts"),
    [("small-resnet", ["stages.0.1.norm2.weight", "stages.1.1.norm2.weight"]), ("mlp", ["blocks.2.0.weight"])],
)
def test_new_layers_of_networks_learn_from_the_first_step(name, parts):
    module = grown(net_of(name), deeper=1)
    before = {part: module.get_parameter(part).clone() for part in parts}
    moved(module, IMAGES, 1)
    assert all(not torch.equal(module.get_parameter(part), one) for part, one in before.items())


@pytest.mark.parametrize("kind", ["bert", "distilbert"])
def test_new_layers_of_encoders_learn_from_the_first_step(kind):
    module = grown(donor_of(kind), TEXT, deeper=1)
    still = {name: one.clone() for name, one in module.named_parameters() if not one.any()}
    assert still
    moved(module, TEXT, 1)
    # the last norm before a new layer lost its shift to it, and gets a gradient too
    assert all(bool(module.get_parameter(name).any()) for name in still if not name.endswith("key.bias"))


def test_it_draws_from_its_seed_alone():
    donor, state = net_of("mlp"), torch.random.get_rng_state()
    one, again, other = (grown(donor, wider=2, seed=seed).state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(one[name], again[name]) for name in one)
    assert not torch.equal(one["head.weight"], other["head.weight"])
    assert torch.equal(torch.random.get_rng_state(), state)
    assert donor.head.weight.shape == (4, 7), "the teacher is not altered"


def test_shares_of_copies_sum_to_one_and_differ():
    torch.manual_seed(0)
    weight = torch.randn(6, 5, 3, 3)
    places = copies(5, 12)
    made_of = divided(weight, 1, places)
    assert places.tolist() == [0, 1, 2, 3, 4, 0, 1, 2, 3, 4, 0, 1]
    # float32 products, rounded once each
    assert torch.allclose(torch.zeros_like(weight).index_add_(1, places, made_of), weight, atol=1e-6)
    assert (made_of[:, 0] - made_of[:, 5]).abs().min() > 1e-7
    assert torch.equal(divided(weight, 1, copies(5, 5)), weight), "one copy has all of it, to the bit"


@pytest.mark.parametrize(
    ("count", "more", "expected"),
    [
        (1, 1, (0, 0)),
        (3, 1, (0, 1, 1, 2)),
        (2, 2, (0, 0, 1, 1)),
        (4, 2, (0, 1, 1, 2, 3, 3)),
        (2, 4, (0, 0, 0, 1, 1, 1)),
        (5, 0, (0, 1, 2, 3, 4)),
    ],
)
def test_new_layers_stand_evenly_among_the_old(count, more, expected):
    assert repeated(count, more) == expected


def test_a_language_model_grows_in_depth_and_feed_forward_alone():
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.GPT2Config(
        vocab_size=60, n_embd=24, n_head=4, n_layer=2, n_positions=32, bos_token_id=0, eos_token_id=0
    )
    donor = transformers.GPT2LMHeadModel(config).eval()
    for value in donor.parameters():
        value.data += 0.1 * torch.randn_like(value)
    context = replace(TEXT, donor=donor)
    module = Grown(deeper=1, feed_forward=1.5).create(context)
    assert (module.config.n_layer, module.config.n_inner) == (3, 144)
    before, after = logits(donor), logits(module)
    assert torch.allclose(before, after, atol=NEAR * float(before.abs().max()), rtol=0)
    with pytest.raises(LimbeckError, match=r"wider: 2.*table of tokens as well"):
        Grown(wider=2).create(context)


@pytest.mark.parametrize(
    ("donor", "settings", "message"),
    [
        (None, {"wider": 2}, "made out of a trained model"),
        ("bert", {"wider": 1.5}, r"wider: 1\.5.*whole number of copies"),
        ("bert", {"deeper": 1, "at": "bert.encoder.nowhere"}, "no list of layers at"),
        ("mixer", {"wider": 2}, "for mlp, small-cnn, small-resnet and transformers"),
        ("mlp", {"feed_forward": 2}, "are for transformers models"),
    ],
)
def test_what_cannot_be_is_said(donor, settings, message):
    if donor == "bert":
        context = replace(TEXT, donor=donor_of("bert"))
    elif donor == "mixer":
        context = replace(IMAGES, donor=build(MlpMixer(patch=1), IMAGES, 0))
    else:
        context = replace(IMAGES, donor=net_of(donor) if donor else None)
    with pytest.raises(LimbeckError, match=message):
        build(Grown(**settings), context, 0)


def test_a_model_that_would_not_answer_the_same_is_refused():
    class Sharp(MlpNet):
        def forward(self, x):
            return super().forward(x) * self.blocks[0][0].weight.shape[0]  # more units, larger answers

        def larger(self, wider, deeper):
            net = super().larger(wider, deeper)
            net.__class__ = Sharp
            return net

    donor = Sharp(9 * 7, (5,), 0.0, 4)
    with pytest.raises(LimbeckError, match=r"cannot be grown so \(wider: 2.*does not answer as the teacher"):
        grown(donor, wider=2)


def test_a_student_with_other_tokens_is_refused():
    with pytest.raises(LimbeckError, match=r"leave out 'data\.tokenizer'"):
        Grown(deeper=1).create(replace(TEXT, donor=donor_of("bert"), donor_tokens=torch.arange(60)))


def test_the_control_begins_with_the_same_copied_weights(tmp_path):
    torch.manual_seed(0)
    donor = MlpNet(12, (5,), 0.0, 3).eval()
    one = plan(
        student=Grown(wider=2), teacher=LocalTeacher(donor, "t"), terms=(Labels(), SoftTargets()), store=tmp_path
    )
    one = replace(one, context=replace(one.context, donor=donor))
    starts = []
    for arm in ("control", "distilled"):
        steps, _ = answered(Offline().arms(one)[arm](one), known)
        starts.append(steps[-1].start.module())
    assert all(torch.equal(a, b) for a, b in zip(*(start.parameters() for start in starts), strict=True))
    x = torch.randn(4, 12)
    assert torch.allclose(starts[0].eval()(x), donor(x), atol=NEAR)


def test_a_grown_student_is_delivered_and_built_again(tmp_path):
    module = grown(net_of("small-resnet"), wider=2, deeper=1)
    save_student(tmp_path / "student", module, Grown(wider=2, deeper=1), READER, tuple("abcd"))
    assert torch.equal(shown(load_student(tmp_path / "student").module), shown(module))


@pytest.mark.parametrize("settings", [{}, {"wider": 0.5}, {"wider": 2, "at": "encoder"}, {"deeper": -1}])
def test_settings_without_a_meaning(settings):
    with pytest.raises(SettingError):
        Grown(**settings)


def test_a_larger_copy_is_not_taken_for_a_mistake_where_it_agrees_with_its_teacher_at_first():
    torch.manual_seed(0)
    donor = MlpNet(12, (5,), 0.0, 3).eval()
    one = plan(student=Grown(deeper=1), teacher=LocalTeacher(donor, "t"), terms=(Labels(), SoftTargets()))
    one = replace(one, context=replace(one.context, donor=donor))
    found = dry_run(one.stage("student", teacher=one.teacher), "cpu")
    assert found.parts["soft-targets"] == 0, "to the bit: a layer more that changes nothing"

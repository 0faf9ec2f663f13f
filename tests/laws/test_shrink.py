"""A student out of its teacher: what is not asked to change does not, what is cut is cut everywhere alike."""

from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from limbeck.errors import LimbeckError, SettingError
from limbeck.models.depth import which
from limbeck.models.identity import of_module, parameters
from limbeck.models.narrow import narrow
from limbeck.models.specs import BuildContext, FromConfig, Shrunk, build
from limbeck.models.vocabulary import cut_vocabulary

transformers = pytest.importorskip("transformers")

IDS = torch.randint(2, 60, (8, 11), generator=torch.Generator().manual_seed(0))
MASK = torch.ones_like(IDS)
MASK[1, 6:] = 0
IDS[1, 6:] = 1
TEXT = BuildContext(3, {"input_ids": IDS, "attention_mask": MASK}, ("a", "b", "c"), vocabulary=60)
SIZES = {"hidden_size": 24, "num_attention_heads": 4, "num_hidden_layers": 3, "intermediate_size": 40}
COMMON = {"num_labels": 3, "vocab_size": 60, "pad_token_id": 1, "max_position_embeddings": 64}
KINDS = {
    "bert": ("Bert", SIZES),
    "distilbert": ("DistilBert", {"dim": 24, "n_heads": 4, "n_layers": 3, "hidden_dim": 40}),
    "roberta": ("Roberta", SIZES),
    "electra": ("Electra", {**SIZES, "embedding_size": 16}),
    "electra-square": ("Electra", {**SIZES, "embedding_size": 24}),
}
every = pytest.mark.parametrize("kind", KINDS)


def made(name, **settings):
    torch.manual_seed(0)
    config = getattr(transformers, f"{name}Config")(**COMMON, **settings)
    module = getattr(transformers, f"{name}ForSequenceClassification")(config).eval()
    for value in module.parameters():  # as trained: no zero biases, no norms of exactly one, large effects
        value.data += 0.2 * torch.randn_like(value)
    return module


def donor_of(kind):
    name, sizes = KINDS[kind]
    return made(name, **sizes)


def logits(module, context=TEXT):
    with torch.no_grad():
        return module.eval()(**context.sample).logits


@every
@pytest.mark.parametrize(
    "spec",
    [Shrunk(), Shrunk(hidden=24, heads=4, intermediate=40, layers=3), Shrunk(layers=(0, 1, 2))],
    ids=("nothing", "sizes", "layers"),
)
def test_a_full_size_copy_answers_as_the_teacher_bit_for_bit(kind, spec):
    donor = donor_of(kind)
    before = of_module(donor)
    student = build(spec, replace(TEXT, donor=donor), 5)
    assert torch.equal(logits(student), logits(donor))
    assert of_module(student) == of_module(donor) == before
    assert all(one is not other for one, other in zip(student.parameters(), donor.parameters(), strict=True))
    assert all(value.requires_grad for value in student.parameters())


@every
def test_a_narrow_student_has_the_sizes_of_its_config_and_answers(kind):
    donor = donor_of(kind)
    spec = Shrunk(layers=2, hidden=12, heads=2, intermediate=20)
    student = build(spec, replace(TEXT, donor=donor), 0)
    config = student.config
    assert (config.hidden_size, config.num_attention_heads, config.num_hidden_layers) == (12, 2, 2)
    fresh = type(donor)(config)
    assert {name: value.shape for name, value in fresh.state_dict().items()} == {
        name: value.shape for name, value in student.state_dict().items()
    }
    assert parameters(student) < parameters(donor) / 2
    assert logits(student).isfinite().all()
    assert of_module(student) == of_module(build(spec, replace(TEXT, donor=donor), 1)), "nothing in it is drawn"


@every
@pytest.mark.parametrize("change", [{"hidden": 12, "heads": 2}, {"intermediate": 20}, {"hidden": 18, "heads": 3}])
def test_a_narrow_student_does_not_depend_on_the_order_of_the_teachers_channels(kind, change):
    donor = donor_of(kind)
    order = torch.randperm(24, generator=torch.Generator().manual_seed(3))
    other = type(donor)(donor.config).eval()
    named = dict(donor.state_dict())
    for name, value in named.items():  # by name, unlike the code
        parts = name.split(".")
        out_of_heads = parts[-2] in ("query", "key", "value", "q_lin", "k_lin", "v_lin")
        into_heads = name.endswith(("attention.output.dense.weight", "out_lin.weight"))
        for axis, size in enumerate(value.shape):
            if size == 24 and not (out_of_heads and axis == 0) and not (into_heads and axis == 1):
                named[name] = named[name].index_select(axis, order)
    other.load_state_dict(named)
    # 1e-5: float32 sums of some tens of numbers of size 1 in another order
    assert torch.allclose(logits(other), logits(donor), atol=1e-5)
    one, same = (narrow(module, TEXT.sample, **change) for module in (donor, other))
    assert torch.allclose(logits(one), logits(same), atol=1e-5)


def test_what_never_speaks_is_dropped_first():
    donor = donor_of("bert")
    layer = donor.bert.encoder.layer[1]
    with torch.no_grad():
        layer.intermediate.dense.weight[::2] = 0  # neurons 0, 2, ... give gelu(0) = 0
        layer.intermediate.dense.bias[::2] = 0
        layer.attention.self.value.weight[6:18] = 0  # so do heads 1 and 2
        layer.attention.self.value.bias[6:18] = 0
    student = narrow(donor, TEXT.sample, hidden=12, heads=2, intermediate=20)
    own = student.bert.encoder.layer[1]
    assert torch.equal(own.intermediate.dense.bias, layer.intermediate.dense.bias[1::2])
    kept = [*range(6), *range(18, 24)]
    assert torch.equal(own.attention.self.value.bias, layer.attention.self.value.bias[kept])
    assert torch.equal(own.attention.self.query.bias, layer.attention.self.query.bias[kept])


def test_padding_has_no_say():
    donor = donor_of("bert")
    changed = IDS.clone()
    changed[1, 6:] = 30
    one, other = (
        narrow(donor, {**TEXT.sample, "input_ids": ids}, hidden=12, heads=2, intermediate=20) for ids in (IDS, changed)
    )
    assert of_module(one) == of_module(other)


def test_without_data_weights_say_what_matters():
    donor = donor_of("bert")
    with torch.no_grad():
        donor.bert.encoder.layer[0].output.dense.weight[:, ::2] = 0
    student = narrow(donor, {}, intermediate=20)
    whole = donor.bert.encoder.layer[0].intermediate.dense.bias
    assert torch.equal(student.bert.encoder.layer[0].intermediate.dense.bias, whole[1::2])


class Ordered(transformers.BertForSequenceClassification):
    def forward(self, input_ids=None, attention_mask=None, **options):
        found = super().forward(input_ids=input_ids, attention_mask=attention_mask, **options)
        vectors = self.bert(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        found.logits = found.logits + (vectors * torch.arange(vectors.shape[-1])).sum((1, 2))[:, None]
        return found


def test_channels_whose_order_means_something_are_not_cut():
    donor = Ordered(transformers.BertConfig(**COMMON, **SIZES)).eval()
    with pytest.raises(LimbeckError, match="depend on the order of its channels"):
        narrow(donor, TEXT.sample, hidden=12, heads=2)
    assert narrow(donor, TEXT.sample, intermediate=20).config.intermediate_size == 20


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (Shrunk(hidden=12), "hidden .12. is not heads .4. times 6.*'heads: 2'"),
        (Shrunk(heads=2), "hidden .24. is not heads .2. times 6"),
        (Shrunk(hidden=48, heads=8), "'hidden: 48' is more .* it has 24"),
        (Shrunk(intermediate=41), "'intermediate: 41' is more .* it has 40"),
        (Shrunk(layers=4), "'layers: 4' is more .* it has 3"),
        (Shrunk(embedding_rank=18), "would not make the 60 x 24 embeddings smaller: choose 17 or less"),
        (Shrunk(vocabulary="task"), "read the same columns here"),
    ],
)
def test_what_cannot_be_is_said(spec, message):
    with pytest.raises(LimbeckError, match=message):
        build(spec, replace(TEXT, donor=donor_of("bert")), 0)


def test_what_cannot_be_cut_is_named():
    with pytest.raises(LimbeckError, match=r"axis 1 of 'roformer.encoder.embed_positions.weight' \[64, 6\]"):
        narrow(made("RoFormer", **SIZES), TEXT.sample, hidden=12, heads=2)
    other = made("MPNet", **SIZES)
    with pytest.raises(LimbeckError, match="attention interface"):
        narrow(other, TEXT.sample, hidden=12, heads=2)
    assert logits(narrow(other, TEXT.sample, intermediate=20)).isfinite().all()
    plain = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    rows = BuildContext(4, {"x": torch.rand(2, 4)}, donor=plain)
    for spec in (Shrunk(hidden=2, heads=1), Shrunk(embedding_rank=1)):
        with pytest.raises(LimbeckError, match="only 'layers' can be chosen of it"):
            build(spec, rows, 0)
    with pytest.raises(LimbeckError, match="reads other tokens"):
        build(Shrunk(), replace(TEXT, donor=donor_of("bert"), donor_tokens=torch.arange(60)), 0)
    with pytest.raises(SettingError, match="when 'layers' is a number"):
        Shrunk(layers=(0, 1), choose="last")
    with pytest.raises(SettingError, match="none are chosen"):
        Shrunk(at="bert.encoder.layer")


def test_layers_are_chosen_as_in_distilbert_and_distilbart():
    assert which(6, 12, "uniform") == (0, 2, 4, 7, 9, 11)
    assert which(3, 12, "uniform") == (0, 6, 11)
    assert which(1, 12, "uniform") == which(1, 12, "first") == (0,)
    assert which(3, 12, "last") == (9, 10, 11)
    assert which(3, 12, "first") == (0, 1, 2)


@given(st.integers(1, 40), st.integers(0, 40))
def test_evenly_spaced_layers_differ_and_reach_both_ends(count, more):
    found = which(count, count + more, "uniform")
    assert len(found) == count
    assert found[0] == 0
    assert count == 1 or found[-1] == count + more - 1
    gaps = {after - before for before, after in pairwise(found)}
    assert all(gap > 0 for gap in gaps)
    assert not gaps or max(gaps) - min(gaps) <= 1


def test_the_last_layers_are_the_last():
    donor = donor_of("bert")
    student = build(Shrunk(layers=2, choose="last"), replace(TEXT, donor=donor), 0)
    for new, old in enumerate((1, 2)):
        one, other = student.bert.encoder.layer[new], donor.bert.encoder.layer[old]
        assert torch.equal(one.output.dense.weight, other.output.dense.weight)


@every
def test_with_fewer_tokens_the_answers_on_these_are_the_same(kind):
    donor = donor_of(kind)
    donor.config.sep_token_id, donor.config.bos_token_id = 40, 59
    ids = torch.tensor([0, 1, *range(3, 58, 2), *range(2, 58, 4), 40])
    ids = ids.unique()
    place = torch.full((60,), -1)
    place[ids] = torch.arange(len(ids))
    rows = {**TEXT.sample, "input_ids": torch.where(MASK.bool(), torch.arange(8)[:, None] * 2 + 3, 1).expand(8, 11)}
    mine = {**rows, "input_ids": place[rows["input_ids"]]}
    assert mine["input_ids"].min() >= 0
    context = replace(TEXT, donor=donor, sample=mine, vocabulary=len(ids), donor_tokens=ids)
    student = build(Shrunk(vocabulary="task"), context, 0)
    with torch.no_grad():
        assert torch.equal(student.eval()(**mine).logits, donor(**rows).logits)
    assert student.config.vocab_size == len(ids)
    assert student.config.pad_token_id == 1
    assert student.config.sep_token_id == place[40]
    assert student.config.bos_token_id is None
    with pytest.raises(LimbeckError, match=r"1 of .* are none of them"):
        build(Shrunk(vocabulary="task"), replace(context, donor_tokens=ids.where(ids != 5, -1)), 0)


def test_tokens_that_positions_are_counted_by_are_not_renumbered():
    donor = donor_of("roberta")
    ids = torch.tensor([0, *range(2, 60), 1])  # the padding token, from which RoBERTa counts, would be the last
    place = ids.argsort()
    with pytest.raises(LimbeckError, match="mean more to it than their vectors"):
        cut_vocabulary(donor, ids, {**TEXT.sample, "input_ids": place[IDS]})


IMAGES = BuildContext(3, {"pixel_values": torch.rand(2, 1, 16, 16)})
LARGE = replace(TEXT, vocabulary=2000)


def test_a_mobilebert_from_its_config():
    sizes = {"hidden_size": 256, "embedding_size": 128, "intra_bottleneck_size": 128, "true_hidden_size": 128}
    settings = {**sizes, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 384}
    student = build(FromConfig(model_type="mobilebert", settings=settings), replace(TEXT, vocabulary=8000), 0)
    assert 2e6 < parameters(student) < 4e6
    assert student.config.vocab_size == 8000
    assert student.config.pad_token_id == 1, "as the sample is padded"
    assert len(student.mobilebert.encoder.layer) == 4
    assert logits(student).shape == (8, 3)


def test_any_architecture_takes_what_the_data_says():
    tiny = {"hidden_size": 16, "num_attention_heads": 2, "num_hidden_layers": 1, "intermediate_size": 32}
    for kind, context in (("roberta", LARGE), ("electra", LARGE), ("modernbert", LARGE), ("vit", IMAGES)):
        settings = {**tiny, "patch_size": 4} if kind == "vit" else tiny
        module = build(FromConfig(model_type=kind, settings=settings), context, 0)
        assert module.config.num_labels == 3
        assert of_module(module) == of_module(build(FromConfig(model_type=kind, settings=settings), context, 0))
        assert of_module(module) != of_module(build(FromConfig(model_type=kind, settings=settings), context, 1))
    assert module.config.image_size == 16
    assert module.config.num_channels == 1
    own = FromConfig(model_type="bert", settings={**tiny, "vocab_size": 70, "pad_token_id": None})
    assert build(own, TEXT, 0).config.vocab_size == 70


@pytest.mark.parametrize(
    ("spec", "context", "message"),
    [
        (FromConfig(model_type="mobilbert"), TEXT, "no model type 'mobilbert': did you mean 'mobilebert'"),
        (
            FromConfig(model_type="bert", settings={"hiden_size": 8}),
            TEXT,
            "no setting 'hiden_size': did you mean 'hidden_size'",
        ),
        (
            FromConfig(model_type="bert", settings={"hidden_size": 10}),
            TEXT,
            "'bert' cannot have these settings: .*multiple",
        ),
        (FromConfig(model_type="bert", settings={"hidden_size": "x"}), TEXT, "'bert' cannot have these settings"),
        (FromConfig(model_type="vit"), TEXT, "'vit' does not classify texts"),
        (FromConfig(model_type="bert"), IMAGES, "'bert' does not classify images"),
        (
            FromConfig(model_type="bert", settings={"vocab_size": 40}),
            TEXT,
            "40 tokens .* a token 5.*raise 'vocab_size'",
        ),
        (
            FromConfig(model_type="bert", settings={"max_position_embeddings": 8}),
            TEXT,
            "8 positions.*texts of 11 tokens",
        ),
    ],
)
def test_settings_that_do_not_fit_are_said_in_words(spec, context, message):
    with pytest.raises(LimbeckError, match=message):
        build(spec, context, 0)

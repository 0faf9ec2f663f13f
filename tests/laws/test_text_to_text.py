"""Encoders with decoders: what the decoder is told and is to tell, and that no arrangement of a batch changes it."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import transformers
from torch import nn

from limbeck.data.batch import CLASS, DECODED, NO_LABEL
from limbeck.data.examples import Examples
from limbeck.data.language import BYTES, NextToken, TextToText
from limbeck.data.task import answered
from limbeck.data.text import TextTable
from limbeck.data.text_reader import TextReader
from limbeck.data.tokenizers import begins_with, fitted, quiet
from limbeck.errors import DataError, LimbeckError, SettingError, SignalError
from limbeck.losses.storages import whole
from limbeck.models.generation import generated
from limbeck.models.identity import parameters
from limbeck.models.saved import load_student, save_student
from limbeck.models.shrink import Stacks
from limbeck.models.specs import BuildContext, FromConfig, Given, HuggingFace, Lora, Shrunk, SmallTransformer, build
from limbeck.objective import Diverging, Hints, Labels, Objective
from limbeck.signals.capture import Capture, show
from limbeck.signals.logits import Chunked
from limbeck.teachers.local import LocalTeacher

TASK, LOGITS = TextToText(), frozenset({"logits"})
PAIRS = [
    ("the cat sat", "a cat"),
    ("a dog ran under the tree then", "the dog and the cat sang under the roof"),
    ("it slept", "it"),
    ("the bird and the cat ran on the mat then sat under a tree", "a dog ran"),
] * 2
SIDES = {"attention_heads": 2, "ffn_dim": 24, "layers": 4}
BARTS = {f"{side}_{name}": size for side in ("encoder", "decoder") for name, size in SIDES.items()}
BARTS |= {"d_model": 16, "max_position_embeddings": 64, "dropout": 0.0}
KINDS = {
    "bart": BARTS,
    "marian": BARTS,
    "t5": {"d_model": 16, "d_kv": 8, "num_heads": 2, "num_layers": 4, "num_decoder_layers": 4, "d_ff": 24},
}
every = pytest.mark.parametrize("kind", KINDS)


def table(pairs=PAIRS, longest=16):
    texts = [text for pair in PAIRS for text in pair]
    return TextTable(pairs, TextReader(tokenizer=fitted(texts), max_length=longest, reads="sources"))


TABLE = table()
LABELS = TABLE.placed(torch.zeros(len(PAIRS), dtype=torch.int64), TASK)
EXAMPLES = Examples(TABLE, torch.arange(8), LABELS, torch.ones(8, dtype=torch.bool), (), task=TASK)
CONTEXT = BuildContext(0, TABLE.read(torch.arange(8), torch.zeros(8, dtype=torch.int64)), task=TASK)
CONTEXT = replace(CONTEXT, vocabulary=TABLE.reader.vocabulary)


def made(kind, seed=0):
    """As trained: no zero biases, large effects."""
    module = build(FromConfig(model_type=kind, settings=KINDS[kind]), CONTEXT, seed).eval()
    draw = torch.Generator().manual_seed(seed)
    for value in module.parameters():
        value.data += 0.2 * torch.randn(value.shape, generator=draw)
    if hasattr(module, "final_logits_bias"):
        module.final_logits_bias += torch.randn(module.final_logits_bias.shape, generator=draw)
        module.final_logits_bias[:, :4] -= 9  # it tells words
    return module


def batch_of(*rows):
    rows = torch.tensor(rows)
    return EXAMPLES.batch(rows, torch.zeros_like(rows))


# --- what a decoder is told, and is to tell


@every
def test_it_is_told_what_it_is_to_tell_one_place_later_as_the_model_would_shift_it(kind):
    batch = batch_of(0, 1, 2)
    labels, told = batch.labels[CLASS], batch.inputs[DECODED]
    shifted = made(kind).prepare_decoder_input_ids_from_labels(labels=labels)
    there = labels != NO_LABEL
    assert torch.equal(told[there], shifted[there])
    assert labels.shape == told.shape == (3, 16)
    ends = TABLE.reader.encode([("it", "it")])["input_ids"][0, 2]
    for row, (_, target) in enumerate(PAIRS[:3]):
        known = labels[row][there[row]].tolist()
        assert len(known) == len(target.split()) + 1
        assert known[-1] == ends, "the end is told too"
        assert batch.labels[BYTES][row].tolist() == [len(target), *[0] * 15]


def test_a_decoder_begins_as_its_own_model_does(tmp_path):
    module = made("bart")
    for begin in (5, 7):
        module.config.decoder_start_token_id = begin
        folder = tmp_path / str(begin)
        with quiet():
            transformers.PreTrainedTokenizerFast(
                tokenizer_object=_tokenizer().backend_tokenizer, **_tokenizer().special_tokens_map
            ).save_pretrained(folder)
            module.config.save_pretrained(folder)
        assert begins_with(str(folder)) == begin
    readers = [TextReader(tokenizer=str(tmp_path / name), reads="sources") for name in ("5", "7")]
    assert readers[0].fingerprint != readers[1].fingerprint
    assert readers[0].encode(PAIRS[:1])[DECODED][0, 0] == 5


def _tokenizer():
    from limbeck.data.tokenizers import loaded

    return loaded(TABLE.reader.tokenizer).tokenizer


@pytest.mark.parametrize(
    ("tokens", "begin"),
    [
        ({"bos_token": "the", "eos_token": "a", "pad_token": "it"}, "a"),  # BART
        ({"eos_token": "a", "pad_token": "it"}, "it"),  # T5, Marian
        ({"cls_token": "the", "sep_token": "a", "pad_token": "it"}, "the"),  # BERT
    ],
    ids=("bart", "t5", "bert"),
)
def test_without_a_model_it_begins_as_is_usual(tmp_path, tokens, begin):
    made = transformers.PreTrainedTokenizerFast(tokenizer_object=_tokenizer().backend_tokenizer, **tokens)
    made.save_pretrained(tmp_path)
    assert begins_with(str(tmp_path)) == made.convert_tokens_to_ids(begin)


def test_what_is_too_long_is_cut_and_its_bytes_with_it():
    short = table([("a cat sat on the mat", "the dog and the cat sang under the roof")], 4)
    labels = short.placed(torch.zeros(1, dtype=torch.int64), TASK)
    columns = short.read(torch.tensor([0]), torch.tensor([0]))
    assert labels.shape == (1, 4, 2)
    assert columns["input_ids"].shape == columns[DECODED].shape == (1, 4)
    assert int(labels[0, :, 1].sum()) == len("the dog and the")
    assert columns["input_ids"][0, -1] == short.reader.encode([("it", "it")])["input_ids"][0, 2], (
        "a source keeps its end"
    )


@pytest.mark.parametrize(
    ("pairs", "why"),
    [
        (["the cat"], "turns a text into another, but row 0 is a single text"),
        ([("the cat", "a"), "the cat"], "row 1 is a str, but a pair of a text and what it is to be turned into"),
        ([("the cat", "")], "row 0 has no token to be told"),
    ],
    ids=("single", "mixed", "empty"),
)
def test_what_cannot_be_learnt_from_is_told(pairs, why):
    with pytest.raises(DataError, match=why):
        table(pairs)


def test_two_tokenizers_are_refused():
    other = TextReader(tokenizer=fitted(["another text"] * 2), max_length=16, reads="sources")
    with pytest.raises(DataError, match="two tokenizers"):
        TextTable(PAIRS, TABLE.reader, other).placed(torch.zeros(8, dtype=torch.int64), TASK)


# --- its logits


@every
def test_the_head_is_left_out_and_read(kind):
    module, columns = made(kind), batch_of(0, 1, 2, 3).columns("student")
    with torch.no_grad():
        own = module(**columns).logits
        with Capture(module, LOGITS) as capture:
            for _ in range(3):  # at first some of the head's own are compared
                found = capture(columns)["logits"]
                assert isinstance(found, Chunked)
                torch.testing.assert_close(whole(found), own, rtol=1e-5, atol=1e-5)  # float32
                # others run the model while the capture is open
                torch.testing.assert_close(module(**columns).logits, own)
                torch.testing.assert_close(whole(show(module, columns)["logits"]), own, rtol=1e-5, atol=1e-5)


@every
def test_padding_on_either_side_changes_nothing(kind):
    module = made(kind)
    together = show(module, batch_of(0, 1, 2, 3).columns("student"))["logits"]
    for row in range(4):
        alone = batch_of(row)
        there = (alone.labels[CLASS] != NO_LABEL)[0]
        ours = whole(show(module, alone.columns("student"))["logits"])[0, there]
        # other shapes, other kernels: float32 through eight layers
        torch.testing.assert_close(ours, whole(together)[row, : len(there)][there], rtol=1e-3, atol=1e-4)


@every
def test_the_loss_is_that_of_the_formula_and_of_the_model_itself(kind):
    module, batch = made(kind), batch_of(0, 1, 3)
    objective = Objective((Labels(weight=1.0),), TASK)
    with Capture(module, LOGITS) as capture:
        loss, _ = objective(capture(batch.columns("student")), None, batch)
    trained = [value for value in module.parameters() if value.requires_grad]  # Marian's positions are not
    ours = torch.autograd.grad(loss, trained, allow_unused=True)
    own = module(**batch.columns("student"), labels=batch.labels[CLASS]).loss
    theirs = torch.autograd.grad(own, trained, allow_unused=True)
    torch.testing.assert_close(loss, own, rtol=1e-5, atol=1e-6)
    for one, other in zip(ours, theirs, strict=True):
        assert (one is None) == (other is None)
        if one is not None and other is not None:
            torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-5)  # sums of a hundred float32 in another order
    with torch.no_grad():
        z = module(**batch.columns("student")).logits.numpy().astype(np.float64)
    labels = batch.labels[CLASS].numpy()
    log_p = z - z.max(-1, keepdims=True)
    log_p -= np.log(np.exp(log_p).sum(-1, keepdims=True))
    nats = [-log_p[row, at, labels[row, at]] for row, at in zip(*np.nonzero(labels != NO_LABEL), strict=True)]
    assert float(loss.detach()) == pytest.approx(np.mean(nats), rel=1e-5)
    found = answered(TASK, show(module, batch.columns("student"))["logits"], batch)
    sizes = sum(len(PAIRS[row][1]) for row in (0, 1, 3))
    expected = 1 - sum(nats) / np.log(2) / 8 / sizes
    assert float(TASK.scores(found).mean()) == pytest.approx(expected, rel=1e-5)


def test_divergences_compare_what_is_told():
    teacher, student, batch = made("bart"), made("bart", 1), batch_of(0, 1, 3)
    shown = LocalTeacher(teacher, "t").observe(batch, LOGITS)
    for kind, sides in (("forward-kl", (1, 0)), ("reverse-kl", (0, 1))):
        objective = Objective((Diverging(kind=kind, weight=1.0),), TASK)
        with Capture(student, LOGITS) as capture:
            loss, _ = objective(capture(batch.columns("student")), shown, batch)
        with torch.no_grad():
            logs = [
                one(**batch.columns("student")).logits.double().log_softmax(-1)[batch.labels[CLASS] != NO_LABEL]
                for one in (student, teacher)
            ]
        p, q = logs[sides[0]], logs[sides[1]]
        assert float(loss.detach()) == pytest.approx(float((p.exp() * (p - q)).sum(-1).mean()), rel=1e-4)
    same = Objective((Diverging(weight=1.0),), TASK)
    with Capture(teacher, LOGITS) as capture:
        loss, _ = same(capture(batch.columns("student")), shown, batch)
        assert float(loss.detach()) == pytest.approx(0, abs=1e-5)


def test_layers_of_a_decoder_have_no_padding_that_terms_know():
    term = Hints(student="model.decoder.layers.0", teacher="model.decoder.layers.1")
    with pytest.raises(SignalError, match="reads a layer of the decoder"):
        Objective((term,), TASK).check(LocalTeacher(made("bart"), "t").provides)
    module, batch = made("bart"), batch_of(0, 1)
    name = "model.encoder.layers.1"
    objective = Objective((Hints(student=name, teacher=name),), TASK)
    seen = show(module, batch.columns("student"), {name})
    objective.build(seen, seen, 0, 2, batch)
    assert objective(seen, seen, batch)[0].isfinite()


# --- its models


@every
def test_decoder_layers_are_taken_and_the_encoder_stays(kind):
    donor = made(kind)
    student = build(Shrunk(layers=Stacks(decoder=2)), replace(CONTEXT, donor=donor), 0)
    path = {"t5": "decoder.block"}.get(kind, "model.decoder.layers")
    ours, theirs = (dict(one.get_submodule(path).state_dict()) for one in (student, donor))
    for new, old in enumerate((0, 3)):  # evenly spaced, with the first and the last
        for name, value in theirs.items():
            if name.startswith(f"{old}.") and name.replace(f"{old}.", f"{new}.", 1) in ours:
                assert torch.equal(ours[name.replace(f"{old}.", f"{new}.", 1)], value)
    assert len(student.get_submodule(path)) == 2
    assert len(student.get_submodule(path.replace("decoder", "encoder"))) == 4
    both = build(Shrunk(layers=Stacks(encoder=(0, 2), decoder=1)), replace(CONTEXT, donor=donor), 0)
    assert [len(both.get_submodule(path.replace("decoder", side))) for side in ("encoder", "decoder")] == [2, 1]
    important = build(Shrunk(layers=Stacks(decoder=1), choose="important"), replace(CONTEXT, donor=made("bart")), 0)
    assert parameters(important) < parameters(made("bart"))


def test_stacks_that_are_not_there_or_said_twice():
    with pytest.raises(SettingError, match="say how many layers"):
        Stacks()
    with pytest.raises(SettingError, match="'at' says where the 'layers' are, as 'encoder' and 'decoder' do"):
        Shrunk(layers=Stacks(decoder=1), at="model.decoder.layers")
    donor = transformers.AutoModelForCausalLM.from_config(
        transformers.GPT2Config(n_embd=8, n_head=2, n_layer=2, vocab_size=CONTEXT.vocabulary)
    )
    with pytest.raises(LimbeckError, match="GPT2LMHeadModel has no decoder of its own"):
        build(Shrunk(layers=Stacks(decoder=1)), replace(CONTEXT, donor=donor, task=NextToken()), 0)


@every
def test_it_writes_the_same_alone_and_beside_others_and_is_delivered(kind, tmp_path):
    module, sources = made(kind), [source for source, _ in PAIRS[:4]]
    reader = TABLE.reader
    with Capture(module, LOGITS):  # as while it trains
        together = generated(module, reader.tokenizer, sources, most=8)
    assert together == [generated(module, reader.tokenizer, [one], most=8)[0] for one in sources]
    assert len(set(together)) > 1, "a text that does not depend on its source shows nothing"
    module.generation_config.num_beams = 3
    save_student(tmp_path / "student", module, None, reader, (), task=TASK)
    again = load_student(tmp_path / "student")
    assert again.module.generation_config.num_beams == 3
    assert again.task == TASK
    assert again.generate(sources, most=8) == together, "it searches without beams here, whatever its settings"
    assert torch.equal(again.logits(PAIRS[:3]), whole(show(module, again.reader.encode(PAIRS[:3]))["logits"]))
    student = build(Lora(of=Shrunk(layers=Stacks(decoder=1)), rank=2), replace(CONTEXT, donor=module), 0)
    assert len(generated(student, reader.tokenizer, sources, most=8)) == 4


class Peeking(nn.Module):
    """Tells what it is told next."""

    def forward(self, input_ids, decoder_input_ids, attention_mask=None):
        ahead = decoder_input_ids.roll(-1, 1)
        return nn.functional.one_hot(ahead, CONTEXT.vocabulary).float()


def test_what_is_no_encoder_with_a_decoder_is_refused(tmp_path):
    with pytest.raises(LimbeckError, match="an encoder without a decoder"):
        build(SmallTransformer(layers=1, hidden=8, heads=2), CONTEXT, 0)
    with pytest.raises(LimbeckError, match="'bert' does not turn texts into others"):
        build(FromConfig(model_type="bert"), CONTEXT, 0)
    sizes = {"hidden_size": 16, "num_attention_heads": 2, "num_hidden_layers": 1, "intermediate_size": 16}
    with quiet():
        transformers.BertModel(transformers.BertConfig(vocab_size=CONTEXT.vocabulary, **sizes)).save_pretrained(
            tmp_path
        )
    with pytest.raises(LimbeckError, match="a 'bert' is no encoder with a decoder"):
        build(HuggingFace(path=str(tmp_path)), CONTEXT, 0)
    with pytest.raises(LimbeckError, match="no decoder that is told a text"):
        build(Given(lambda: nn.Embedding(CONTEXT.vocabulary, CONTEXT.vocabulary)), CONTEXT, 0)
    with pytest.raises(LimbeckError, match="would see the tokens that it is to"):
        build(Given(Peeking), CONTEXT, 0)
    module = made("bart")
    module.config.decoder_start_token_id = 5
    with pytest.raises(LimbeckError, match="begins with the token 5, and the data with 2"):
        build(Given(lambda: module), CONTEXT, 0)

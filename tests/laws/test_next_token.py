"""Language models: what is to be foreseen, what is kept of answers, and that no arrangement of a batch changes the loss."""

import math

import pytest
import torch
from tests.fakes import causal, two
from torch import nn
from torch.nn import functional as F

from limbeck import losses
from limbeck.data.batch import CLASS, NO_LABEL, REAL, SUPERVISED, TOKENS, Batch
from limbeck.data.language import BYTES, NextToken
from limbeck.data.task import answered
from limbeck.data.text import TextTable
from limbeck.data.text_reader import TextReader
from limbeck.data.tokenizers import fitted
from limbeck.errors import DataError, SignalError
from limbeck.objective import Diverging, Labels, Objective, SoftTargets
from limbeck.objective.balance import Uncertainty
from limbeck.signals.capture import Capture, show
from limbeck.signals.head import head_of
from limbeck.signals.logits import Chunked, stored, whole
from limbeck.teachers.local import LocalTeacher

TASK = NextToken()
LOGITS = frozenset({"logits"})
SOME = ["the cat sat on the mat", "a dog ran", "then the bird sang under a tree"]


def table(items, longest=16):
    words = [part for item in items for part in ((item,) if isinstance(item, str) else item)]
    reader = TextReader(tokenizer=fitted(words), max_length=longest, reads="sequences")
    return TextTable(items, reader)


def batch_of(ids, mask, prompt=0, seen=None):
    """``prompt``: tokens that are given. ``seen``: bool [B], whose labels are."""
    rows = len(ids)
    following = torch.cat([ids[:, 1:], torch.zeros(rows, 1, dtype=torch.int64)], 1)
    counts = torch.cat([mask[:, 1:] * mask[:, :-1], torch.zeros(rows, 1, dtype=torch.int64)], 1).bool()
    counts[:, : max(0, prompt - 1)] = False
    seen = torch.ones(rows, dtype=torch.bool) if seen is None else seen
    labels = torch.stack([following.where(counts, NO_LABEL), torch.ones_like(ids)], 2)
    masks = {REAL: torch.ones(rows, dtype=torch.bool), SUPERVISED: seen, TOKENS: mask.bool()}
    return Batch(
        {"input_ids": ids, "attention_mask": mask},
        TASK.column(labels, seen, ids.shape[1]),
        masks,
        torch.arange(rows),
        torch.zeros(rows, dtype=torch.int64),
    )


BATCH = batch_of(causal.IDS, causal.MASK)


def models(kind="llama", **more):
    return causal.made("llama"), causal.made(kind, **more).eval()  # without dropout, so that two passes are alike


def loss_of(terms, teacher, student, batch=BATCH, counts=None):
    objective = Objective(terms, TASK)
    with Capture(student, LOGITS) as capture:
        ours = capture(batch.columns("student"))
    return objective(ours, LocalTeacher(teacher, "t").observe(batch, LOGITS), batch, counts)


def gradients(loss, module):
    return dict(
        zip(
            (n for n, _ in module.named_parameters()), torch.autograd.grad(loss, list(module.parameters())), strict=True
        )
    )


def close(ours, theirs, atol=1e-6):
    """float32: sums of a few hundred numbers around 1 in another order."""
    for name, value in theirs.items():
        torch.testing.assert_close(ours[name], value, rtol=1e-4, atol=atol)


# --- what is to be foreseen


def test_every_token_but_the_first_is_foreseen_and_the_end_too():
    texts = table(SOME)
    labels = texts.placed(torch.zeros(3, dtype=torch.int64), TASK)
    columns = texts.read(torch.arange(3), torch.zeros(3, dtype=torch.int64))
    for row in range(3):
        ids = columns["input_ids"][row][columns["attention_mask"][row].bool()]
        assert labels[row, : len(ids) - 1, 0].tolist() == ids[1:].tolist()
        assert (labels[row, len(ids) - 1 :, 0] == NO_LABEL).all()
        assert int(labels[row, :, 1].sum()) > 0
    assert labels.shape[:2] == (3, 16)


def test_of_a_prompt_and_its_continuation_only_the_second_is():
    texts = table([("what did the cat do", "it sat"), ("who ran", "a dog ran and slept")])
    labels = texts.placed(torch.zeros(2, dtype=torch.int64), TASK)
    columns = texts.read(torch.arange(2), torch.zeros(2, dtype=torch.int64))
    for row, words in enumerate((2, 5)):
        ids = columns["input_ids"][row][columns["attention_mask"][row].bool()].tolist()
        known = labels[row, :, 0] != NO_LABEL
        assert labels[row, known, 0].tolist() == ids[-words - 1 :]  # the words and the end
        first = int(known.nonzero()[0])
        assert labels[row, first, 0] == ids[first + 1]
        assert int(labels[row, :, 1].sum()) == len(["it sat", "a dog ran and slept"][row])


def test_an_answer_in_a_chat_ends_at_its_end_and_not_where_the_template_does(tmp_path):
    asks = two.byte_level(300, special=("<end>", "<|user|>", "<|assistant|>"), chat=two.CHAT)
    end = asks.convert_tokens_to_ids("<end>")
    assert asks.apply_chat_template([{"role": "user", "content": "a"}], tokenize=False).endswith("<end>\n")
    reader = TextReader(tokenizer=two.saved(tmp_path, asks), max_length=64, reads="sequences")
    for answer in ("it sat", "say <end> twice"):
        texts = TextTable([("what did the cat do", answer)], reader)
        labels = texts.placed(torch.zeros(1, dtype=torch.int64), TASK)[0, :, 0]
        foreseen = labels[labels != NO_LABEL].tolist()
        assert foreseen[-1] == end
        assert asks.decode(foreseen) == f"{answer}<end>"


def test_a_template_that_refuses_a_chat_is_named(tmp_path):
    template = "{{ raise_exception('roles must alternate') }}"
    asks = two.byte_level(300, special=("<end>", "<|user|>", "<|assistant|>"), chat=template)
    reader = TextReader(tokenizer=two.saved(tmp_path, asks), max_length=64, reads="sequences")
    with pytest.raises(DataError, match=r"chat template of the tokenizer .* refuses .*roles must alternate"):
        TextTable([("what did the cat do", "it sat")], reader)


@pytest.mark.parametrize(
    ("items", "longest", "why"),
    [
        ([("one two three four five six", "seven")], 4, "its prompt alone has"),
        (["one", ("two", "three")], 16, None),
        ([3], 16, "row 0 is a int"),
    ],
)
def test_what_cannot_be_learnt_from_is_told(items, longest, why):
    if why is None:
        assert len(table(items, longest)) == 2  # texts and prompts may stand side by side
        return
    with pytest.raises(DataError, match=why):
        TextTable(items, TextReader(tokenizer=fitted(["one two three"]), max_length=longest, reads="sequences"))


# --- the head is read and not run


@pytest.mark.parametrize("kind", causal.KINDS)
def test_what_is_read_of_the_head_makes_the_models_own_logits(kind):
    more = {"final_logit_softcapping": 2.0} if kind == "gemma2" else {}
    module = causal.made(kind, **more)
    found = show(module, causal.COLUMNS, LOGITS)["logits"]
    assert found.offers < stored(causal.logits(module)).offers  # not every logit was made
    torch.testing.assert_close(whole(found), causal.logits(module), rtol=1e-5, atol=1e-5)
    assert head_of(module) is not None


def test_a_head_that_does_more_is_found_out():
    module = causal.made("llama")
    forward = module.lm_head.forward
    module.lm_head.forward = lambda hidden: forward(hidden) ** 2
    with pytest.raises(SignalError, match="does more to the last layer"):
        show(module, causal.COLUMNS, LOGITS)


def test_a_model_without_such_a_head_shows_its_logits():
    class Plain(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed = nn.Embedding(60, 60)

        def forward(self, input_ids):
            return self.embed(input_ids)

    assert isinstance(show(Plain(), {"input_ids": causal.IDS}, LOGITS)["logits"], torch.Tensor)


def test_an_adapter_of_the_head_is_trained():
    from peft import LoraConfig, get_peft_model

    teacher, student = models(tie_word_embeddings=False)
    config = LoraConfig(r=2, target_modules=["lm_head"], lora_dropout=0.0, init_lora_weights=False)
    adapted = get_peft_model(student, config)
    loss, _ = loss_of([Diverging(kind="reverse-kl")], teacher, adapted)
    loss.backward()
    mine = {n: p.grad.clone() for n, p in adapted.named_parameters() if p.grad is not None}
    assert all("lora" in name for name in mine)
    assert len(mine) == 2
    adapted.zero_grad()
    known = BATCH.labels[CLASS] != NO_LABEL
    ours = adapted(**causal.COLUMNS).logits
    losses.reverse_kl(ours[known], causal.logits(teacher)[known]).mean().backward()
    close(mine, {n: p.grad for n, p in adapted.named_parameters() if p.grad is not None})
    config = LoraConfig(r=2, target_modules=["lm_head"], lora_dropout=0.5)
    dropping = get_peft_model(models(tie_word_embeddings=False)[1], config).train()
    with pytest.raises(SignalError, match="dropout"):
        loss_of([Diverging()], teacher, dropping)


# --- the loss


@pytest.mark.parametrize("kind", ["llama", "gemma2", "gpt2"])
@pytest.mark.parametrize("divergence", ["forward-kl", "reverse-kl", "jensen-shannon", "total-variation"])
def test_the_objective_is_the_dense_one(kind, divergence):
    teacher, student = models(kind)
    unseen = torch.arange(len(causal.IDS)) % 3 > 0
    batch = batch_of(causal.IDS, causal.MASK, seen=unseen)
    terms = [
        Labels(weight=0.3, smoothing=0.1),
        Diverging(kind=divergence, weight=0.5),
        SoftTargets(weight=0.2, temperature=2.0),
    ]
    loss, parts = loss_of(terms, teacher, student, batch)
    ours, theirs, labels = student(**causal.COLUMNS).logits, causal.logits(teacher), batch.labels[CLASS]
    known, seen = labels != NO_LABEL, labels >= 0
    apart = {
        "labels": F.cross_entropy(ours[seen], labels[seen], label_smoothing=0.1),
        "divergence": getattr(losses, divergence.replace("-", "_"))(ours[known], theirs[known]).mean(),
        "soft-targets": losses.kl_divergence(ours[known], theirs[known], 2.0).mean(),
    }
    dense = 0.3 * apart["labels"] + 0.5 * apart["divergence"] + 0.2 * apart["soft-targets"]
    for name, value in apart.items():
        torch.testing.assert_close(parts[name], value.detach(), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(loss, dense, rtol=1e-5, atol=1e-6)
    close(gradients(loss, student), gradients(dense, student), atol=1e-5)


def test_a_weight_that_finds_itself_has_its_own_pass():
    teacher, student = models()
    terms = [Labels(weight=0.5), Diverging(weight=Uncertainty(schedule="uncertainty"))]
    objective = Objective(terms, TASK)
    with Capture(student, LOGITS) as capture:
        ours = capture(BATCH.columns("student"))
    seen = LocalTeacher(teacher, "t").observe(BATCH, LOGITS)
    objective.build(ours, seen, batch=BATCH)
    loss, parts = objective(ours, seen, BATCH)
    (weight,) = objective.balances.values()
    raw = next(weight.parameters())
    loss.backward()
    assert float(raw.grad.abs()) > 0
    labels = BATCH.labels[CLASS]
    known = labels != NO_LABEL
    mean = losses.forward_kl(student(**causal.COLUMNS).logits[known], causal.logits(teacher)[known]).mean()
    torch.testing.assert_close(parts["divergence"], mean.detach(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("side", ["right", "left", "wide"])
def test_padding_changes_nothing(side):
    teacher, student = models()
    terms = [Labels(weight=0.5), Diverging(weight=0.5)]
    loss, parts = loss_of(terms, teacher, student)
    more = 4
    pad, none = (
        torch.ones(len(causal.IDS), more, dtype=torch.int64),
        torch.zeros(len(causal.IDS), more, dtype=torch.int64),
    )
    both = ([pad, causal.IDS], [none, causal.MASK]) if side == "left" else ([causal.IDS, pad], [causal.MASK, none])
    ids, mask = (torch.cat(one, 1) for one in both)
    if side == "wide":
        ids, mask = F.pad(causal.IDS, (0, 9), value=59), F.pad(causal.MASK, (0, 9))
    other, told = loss_of(terms, teacher, student, batch_of(ids, mask))
    torch.testing.assert_close(other, loss, rtol=1e-5, atol=1e-5)
    for name, value in parts.items():
        torch.testing.assert_close(told[name], value, rtol=1e-5, atol=1e-5)


def test_accumulated_is_one_batch():
    teacher, student = models()
    terms = [Labels(weight=0.5), Diverging(kind="skew-kl", weight=0.5)]
    whole_loss, _ = loss_of(terms, teacher, student)
    halves = [BATCH.select(torch.arange(7)), BATCH.select(torch.arange(7, 10))]  # of unequal numbers of tokens
    counts = Objective(terms, TASK).total_counts(halves)
    parts = [loss_of(terms, teacher, student, half, counts)[0] for half in halves]
    torch.testing.assert_close(sum(parts), whole_loss, rtol=1e-5, atol=1e-6)
    close(gradients(sum(parts), student), gradients(whole_loss, student), atol=1e-5)


def test_nothing_is_learnt_of_prompts():
    teacher, student = models()
    terms = [Diverging()]
    loss, _ = loss_of(terms, teacher, student, batch_of(causal.IDS, causal.MASK, prompt=5))
    known = BATCH.labels[CLASS].clone()
    known[:, :4] = NO_LABEL
    rows = known != NO_LABEL
    dense = losses.forward_kl(student(**causal.COLUMNS).logits[rows], causal.logits(teacher)[rows]).mean()
    torch.testing.assert_close(loss, dense, rtol=1e-5, atol=1e-6)


def test_a_student_that_is_the_teacher_has_nothing_to_learn():
    teacher = causal.made("llama")
    loss, _ = loss_of([Diverging(kind="reverse-kl"), Diverging(kind="forward-kl")], teacher, causal.made("llama"))
    assert abs(float(loss.detach())) < 1e-6


# --- what is kept of answers


def test_compression_is_bits_per_byte_turned_round():
    module = causal.made("llama")
    found = answered(TASK, show(module, causal.COLUMNS, LOGITS)["logits"], BATCH)
    labels = BATCH.labels[CLASS]
    known = labels != NO_LABEL
    nats = F.cross_entropy(causal.logits(module)[known], labels[known], reduction="sum")
    sizes = int(BATCH.labels[BYTES][known].sum())
    score = float(TASK.scores(found).mean())
    assert score == pytest.approx(1 - float(nats) / math.log(2) / sizes / 8, rel=1e-5)
    assert float(TASK.costs(found).mean()) == pytest.approx(float(nats) / int(known.sum()), rel=1e-5)


def test_a_small_part_of_the_vocabulary_is_cut_where_it_is_padding():
    teacher, student = models()
    wide = causal.made("llama", vocab_size=64)
    with torch.no_grad():
        wide.load_state_dict(
            {n: F.pad(v, (0, 0, 0, 4)) if v.shape[:1] == (60,) else v for n, v in teacher.state_dict().items()}
        )
    a, _ = loss_of([Diverging()], teacher, student)
    b, _ = loss_of([Diverging()], wide, student)
    torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)
    assert isinstance(show(wide, causal.COLUMNS, LOGITS)["logits"], Chunked)

"""Terms between two tokenizers: which tokens they compare, that no arrangement changes them, what they are of one tokenizer."""

import pytest
import torch
from tests.fakes import causal, two
from tests.laws.test_next_token import BATCH
from torch.nn import functional as F

from limbeck.data.aligned import CHUNKS
from limbeck.data.alignment import shared_tokens
from limbeck.data.batch import CLASS, NO_LABEL, REAL, Batch
from limbeck.data.examples import Examples
from limbeck.data.language import BYTES, NextToken
from limbeck.data.spelling import spelling
from limbeck.data.task import answered
from limbeck.data.tokenizers import loaded
from limbeck.losses import pieces
from limbeck.losses.crossed import binary_kl_limit, uld
from limbeck.losses.divergences import log_probabilities
from limbeck.losses.storages import whole
from limbeck.objective import Alm, Diverging, Labels, Objective, SharedVocabulary, Uld
from limbeck.objective.chunks import chunks_of, opened, openings
from limbeck.objective.crossed import VOCABULARY
from limbeck.objective.schedules import Place
from limbeck.signals.capture import Capture, show
from limbeck.signals.head import head_of
from limbeck.teachers.cached import CachedTeacher
from limbeck.teachers.local import LocalTeacher
from limbeck.teachers.store.hidden import HiddenCodec
from limbeck.teachers.store.top_k import TopKCodec

TASK = NextToken()
LOGITS = frozenset({"logits"})
TERMS = (Uld(), SharedVocabulary(), Alm())
PAIRS = [
    ("what did the cat do", "it sat on the mat"),
    ("who", "na\u00efve cats and a dog"),
    ("", "the bird sang"),
]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Tokenizers: bytes with few pairs, with many and a token of beginning, and one with a chat template."""
    folder = tmp_path_factory.mktemp("two")
    chat = ("<end>", "<|user|>", "<|assistant|>")
    return {
        "short": two.saved(folder / "short", two.byte_level(270)),
        "long": two.saved(folder / "long", two.byte_level(340, special=("</s>", "<s>"), bos_token="<s>")),
        "chat": two.saved(folder / "chat", two.byte_level(300, special=chat, chat=two.CHAT)),
    }


def examples(folders, student="short", teacher="long", items=two.TEXTS, longest=64):
    table = two.table(folders[student], folders[teacher], list(items), longest)
    rows = torch.arange(len(items))
    labels = table.placed(torch.zeros(len(items), dtype=torch.int64), TASK)
    return Examples(table, rows, labels, torch.ones(len(items), dtype=torch.bool), (), task=TASK)


def batch_of(found, rows=None):
    ids = found.rows if rows is None else torch.tensor(rows)
    return found.batch(ids, torch.zeros_like(ids))


@pytest.fixture(scope="module")
def sides(folders):
    """The data, its batch, and a model of each side; the teacher's tokens are others than the student's."""
    found = examples(folders)
    sizes = [len(loaded(folders[name]).tokenizer) for name in ("short", "long")]
    student, teacher = (causal.made("llama", vocab_size=size) for size in sizes)
    return found, batch_of(found), student, teacher


def objective_of(terms, found, student, teacher, batch):
    objective = Objective(terms, TASK)
    seen = {**LocalTeacher(teacher, "t").observe(batch, LOGITS)}
    told = {VOCABULARY: found.table.aligned.vocabulary} if found.table.aligned else {}
    with torch.no_grad():
        objective.build(show(student, batch.columns("student"), LOGITS), {**seen, **told}, batch=batch)
    return objective


def loss_of(objective, student, teacher, batch, counts=None):
    with Capture(student, LOGITS) as capture:
        ours = capture(batch.columns("student"))
    return objective(ours, LocalTeacher(teacher, "t").observe(batch, LOGITS), batch, counts)


def gradients(loss, module):
    return torch.autograd.grad(loss, list(module.parameters()))


def close(ours, theirs):
    """float32: sums of some hundred numbers around 1 in another order."""
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


# --- which tokens go together


def pieces_of(found, side):
    """Per row, the bytes of each chunk."""
    batch, prefix = batch_of(found), "teacher." if side == "teacher" else ""
    table = found.table
    spelled = spelling(loaded((table.teacher if prefix else table.reader).tokenizer).tokenizer)
    told = []
    for ids, numbers in zip(batch.inputs[prefix + "input_ids"], batch.inputs[CHUNKS + side], strict=True):
        row = {}
        for token, number in zip(ids[1:].tolist(), numbers[:-1].tolist(), strict=True):
            row[number] = row.get(number, b"") + spelled.tokens[token].text
        row.pop(-1, None)
        told.append(row)
    return told


@pytest.mark.parametrize("names", [("short", "long"), ("long", "short"), ("short", "chat"), ("chat", "long")])
@pytest.mark.parametrize("items", [two.TEXTS, PAIRS])
def test_chunks_are_the_same_bytes_and_the_end_is_one(folders, names, items):
    found = examples(folders, *names, items)
    ours, theirs = pieces_of(found, "student"), pieces_of(found, "teacher")
    assert not found.table.aligned.lost
    assert ours == theirs
    for row, item in zip(ours, items, strict=True):
        whole_text = (item if isinstance(item, str) else item[1]).encode()
        spelled = b"".join(row[number] for number in range(len(row)))
        assert row[len(row) - 1] == b""  # the end of the text, which both foresee
        assert whole_text.endswith(spelled)
        if not isinstance(item, str) and item[0]:
            assert spelled == whole_text  # the prompt is no part, and the first letters are foreseen from it


def test_of_a_text_that_is_cut_only_what_both_read_whole_is_compared(folders):
    found = examples(folders, items=two.TEXTS, longest=8)
    ours, theirs = pieces_of(found, "student"), pieces_of(found, "teacher")
    assert ours == theirs
    for row, text in zip(ours, two.TEXTS, strict=True):
        spelled = b"".join(row.values())
        assert spelled in text.encode()
        assert b"" not in row.values()  # nobody reads the end


def test_as_many_chunks_begin_on_both_sides_and_in_the_same_order(folders):
    batch = batch_of(examples(folders))
    ours, theirs = (chunks_of(batch, side) for side in ("student", "teacher"))
    one, other = ours[openings(ours)], theirs[openings(theirs)]
    assert torch.equal(one, other)
    assert torch.equal(one, torch.arange(len(one)))
    assert torch.equal(opened(batch), openings(ours))


def test_the_columns_belong_to_neither_side(folders):
    batch = batch_of(examples(folders))
    assert set(batch.columns("student")) == set(batch.columns("teacher")) == {"input_ids", "attention_mask"}


def test_padding_and_the_other_rows_do_not_change_a_rows_chunks(folders):
    found = examples(folders)
    every, few = batch_of(found), batch_of(found, [2, 0])
    for side in ("student", "teacher"):
        whole_rows, part = every.inputs[CHUNKS + side][[2, 0]], few.inputs[CHUNKS + side]
        width = part.shape[1]
        assert torch.equal(whole_rows[:, :width], part)
        assert (whole_rows[:, width:] == -1).all()


# --- what is learnt


@pytest.mark.parametrize("term", TERMS, ids=lambda term: term.name)
def test_the_order_of_a_batch_and_its_parts_give_the_same_gradient(term, sides):
    found, batch, student, teacher = sides
    objective = objective_of([Labels(weight=0.3), term], found, student, teacher, batch)
    loss, parts = loss_of(objective, student, teacher, batch)
    slopes = gradients(loss, student)
    assert sum(float(one.abs().sum()) for one in slopes) > 0
    turned, other = loss_of(objective, student, teacher, batch_of(found, [4, 2, 0, 1, 3]))
    close(gradients(turned, student), slopes)
    assert other[term.name] == pytest.approx(float(parts[term.name]), rel=1e-5)
    micros = [batch_of(found, rows) for rows in ([1], [4, 0], [2, 3])]
    counts = objective.total_counts(micros)
    assert counts == {key: int(value) for key, value in objective.counts(batch).items()}
    split = sum(loss_of(objective, student, teacher, one, counts)[0] for one in micros)
    close(gradients(split, student), slopes)


@pytest.mark.parametrize("term", TERMS, ids=lambda term: term.name)
def test_a_row_that_is_not_real_says_nothing(term, sides):
    found, _, student, teacher = sides
    some, padded = batch_of(found, [0, 3]), batch_of(found, [0, 3, 3, 1])
    padded.masks[REAL][2:] = False
    objective = objective_of([term], found, student, teacher, some)
    one, other = (loss_of(objective, student, teacher, batch)[0] for batch in (some, padded))
    torch.testing.assert_close(other, one, rtol=1e-5, atol=1e-7)


def test_a_batch_without_a_chunk_reaches_the_head_with_zero(sides):
    found, _, student, teacher = sides
    batch = batch_of(found, [0])
    batch.inputs[CHUNKS + "student"].fill_(-1)
    batch.inputs[CHUNKS + "teacher"].fill_(-1)
    for term in TERMS:
        loss, _ = loss_of(objective_of([term], found, student, teacher, batch_of(found, [0])), student, teacher, batch)
        assert loss == 0
        assert all(float(one.abs().sum()) == 0 for one in gradients(loss, student))  # and none is missing


@pytest.mark.parametrize("term", TERMS, ids=lambda term: term.name)
def test_pieces_are_the_whole_and_no_more_logits_are_made_at_once(term, sides, monkeypatch):
    found, batch, student, teacher = sides
    objective = objective_of([term], found, student, teacher, batch)
    loss, _ = loss_of(objective, student, teacher, batch)
    slopes = gradients(loss, student)
    monkeypatch.setattr(pieces, "_LOGITS", 5 * 340)
    made, head = [], F.linear
    monkeypatch.setattr("limbeck.losses.storages.linear", lambda *a: made.append(head(*a)) or made[-1])
    again, _ = loss_of(objective, student, teacher, batch)
    close([again, *gradients(again, student)], [loss, *slopes])
    assert max(one.numel() for one in made) <= 5 * 340  # five rows are what a head is first compared on
    assert len(made) > 4


@pytest.mark.parametrize("kind", ["forward-kl", "reverse-kl", "jensen-shannon", "adaptive-kl"])
@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_a_shared_vocabulary_of_one_tokenizer_is_the_divergence_itself(kind, temperature):
    student, teacher = causal.made("llama"), causal.made("gpt2")
    batch = BATCH
    results = []
    for term in (SharedVocabulary(kind=kind, temperature=temperature), Diverging(kind=kind, temperature=temperature)):
        objective = Objective([Labels(weight=0.5), term], TASK)
        with torch.no_grad():
            objective.build(*(show(one, batch.columns("student"), LOGITS) for one in (student, teacher)), batch=batch)
        loss, _ = loss_of(objective, student, teacher, batch)
        results.append([loss, *gradients(loss, student)])
    close(*results)


def test_of_one_tokenizer_every_token_is_a_chunk_of_its_own():
    student, teacher, batch = causal.made("llama"), causal.made("gpt2"), BATCH
    ours, theirs = (whole(show(one, batch.columns("student"), LOGITS)["logits"]) for one in (student, teacher))
    seen = batch.labels[CLASS] != NO_LABEL
    _, parts = loss_of(Objective([Uld(), Alm(temperature=None)], TASK), student, teacher, batch)
    torch.testing.assert_close(parts["uld"], uld(ours[seen], theirs[seen]).mean(), rtol=1e-5, atol=1e-7)
    q, p = (log_probabilities(one[seen]).gather(1, batch.labels[CLASS][seen][:, None])[:, 0] for one in (ours, theirs))
    torch.testing.assert_close(parts["alm"], binary_kl_limit(q, p).mean(), rtol=1e-4, atol=1e-6)


def test_alm_is_what_the_formula_gives_for_each_stretch_of_text(sides):
    """By loops over the text: no tensors of chunks."""
    found, batch, student, teacher = sides
    logs = []
    for module, side in ((student, "student"), (teacher, "teacher")):
        columns = batch.columns(side)
        said = log_probabilities(whole(show(module, columns, LOGITS)["logits"]).double())
        likely = {}
        for row in range(len(batch)):
            for at, number in enumerate(batch.inputs[CHUNKS + side][row].tolist()):
                if number >= 0:
                    token = int(columns["input_ids"][row, at + 1])
                    likely[row, number] = likely.get((row, number), 0.0) + float(said[row, at, token])
        logs.append(likely)
    ours, theirs = logs
    assert ours.keys() == theirs.keys()
    expected = []
    for key, q in ours.items():
        a, b = (torch.tensor(one / 100, dtype=torch.float64).exp() for one in (theirs[key], q))
        expected.append(100 * (a * (a / b).log() + (1 - a) * ((1 - a) / (1 - b)).log()))
    _, parts = loss_of(objective_of([Alm()], found, student, teacher, batch), student, teacher, batch)
    # float32 log-likelihoods of some tens, of which differences of a few are taken
    assert float(parts["alm"]) == pytest.approx(float(torch.stack(expected).mean()), rel=1e-4)


def test_the_shared_vocabulary_goes_by_bytes_and_by_place(folders, sides):
    """Every context and every shared token, one by one; both have tokens that the other has not."""
    found, teacher = examples(folders, "chat", "long", two.TEXTS[:3]), sides[3]
    batch, student = batch_of(found), causal.made("llama", vocab_size=len(loaded(folders["chat"]).tokenizer))
    ours, theirs = (
        whole(show(one, batch.columns(side), LOGITS)["logits"]).double().softmax(-1)
        for one, side in ((student, "student"), (teacher, "teacher"))
    )
    spelled = [spelling(loaded(reader.tokenizer).tokenizer) for reader in (found.table.reader, found.table.teacher)]
    shared = shared_tokens(*spelled).tolist()
    total, count = 0.0, 0
    for row in range(len(batch)):
        columns = [batch.inputs[CHUNKS + side][row].tolist() for side in ("student", "teacher")]
        for number in range(max(columns[0]) + 1):
            i, j = (column.index(number) for column in columns)
            pairs = [(ours[row, i, own], theirs[row, j, other]) for own, other in enumerate(shared) if other >= 0]
            rest = 1 - sum(q for q, _ in pairs), 1 - sum(p for _, p in pairs)
            total += float(sum(p * (p / q).log() for q, p in [*pairs, rest]))
            count += 1
    objective = objective_of([SharedVocabulary()], found, student, teacher, batch)
    assert float(loss_of(objective, student, teacher, batch)[1]["shared-vocabulary"]) == pytest.approx(
        total / count, rel=1e-4
    )


def test_a_student_whose_tokens_are_all_shared_learns_the_teachers_shares_of_them():
    """The teacher's other tokens are left out: nothing of it is as large as the logarithm of nothing."""
    draw = torch.Generator().manual_seed(0)
    ours, theirs = torch.randn(7, 4, generator=draw), 2 * torch.randn(7, 6, generator=draw)
    term, told = SharedVocabulary(), torch.tensor([3, 0, 5, 2])
    part = term.build({"logits": ours[None]}, {"logits": theirs[None], VOCABULARY: told}, 0)
    q, p = ours.log_softmax(-1), theirs[:, told].log_softmax(-1)
    values = of_rows(term, ours, theirs, part)
    torch.testing.assert_close(values, (p.exp() * (p - q)).sum(-1), rtol=1e-5, atol=1e-6)


def of_rows(term, ours, theirs, part):
    """The values of a term where each of the rows [N, V] is a token that is to be foreseen."""
    ids = torch.zeros(1, len(ours), dtype=torch.int64)
    batch = Batch.of({"input_ids": ids, "attention_mask": ids + 1}, torch.zeros_like(ids))
    return term.values({"logits": ours[None]}, {"logits": theirs[None]}, batch, Place(0, 1), part)


def test_labels_beside_them_are_learnt_as_alone(sides):
    found, batch, student, teacher = sides
    every = objective_of([Labels(), *TERMS], found, student, teacher, batch)
    _, parts = loss_of(every, student, teacher, batch)
    for term in (Labels(), *TERMS):
        alone = objective_of([term], found, student, teacher, batch)
        assert float(loss_of(alone, student, teacher, batch)[1][term.name]) == pytest.approx(
            float(parts[term.name]), rel=1e-6
        )


# --- the teacher's side


def test_a_teacher_of_its_own_tokenizer_is_scored_on_its_own_tokens(sides):
    found, batch, _, teacher = sides
    theirs = found.as_read_by("teacher")
    assert found.as_read_by("student") is found
    assert found.labelled().as_read_by("teacher").table is theirs.table  # made once
    own = batch_of(theirs)
    assert torch.equal(own.inputs["input_ids"], batch.inputs["teacher.input_ids"])
    # it begins with a token of beginning, so every byte is foreseen
    assert own.labels[BYTES].sum(1).tolist() == [len(text.encode()) for text in two.TEXTS]
    seen = answered(TASK, LocalTeacher(teacher, "t").observe(own, LOGITS)["logits"], own)
    plain = show(teacher, batch.columns("teacher"), LOGITS)["logits"]
    ids, mask = batch.inputs["teacher.input_ids"], batch.inputs["teacher.attention_mask"].bool()
    logs = log_probabilities(whole(plain))[:, :-1].gather(2, ids[:, 1:, None])[..., 0]
    torch.testing.assert_close(seen.logits[:, 0].sum(), logs[mask[:, 1:]].sum(), rtol=1e-5, atol=1e-3)


@pytest.mark.parametrize(("codec", "terms"), [(HiddenCodec(), TERMS), (TopKCodec(k=2, dtype="float32"), (Alm(),))])
def test_stored_answers_of_its_tokens_teach_as_live_ones(codec, terms, sides, tmp_path):
    found, batch, student, teacher = sides
    with torch.no_grad():
        made = codec.made(head_of(teacher))
    cached = CachedTeacher(LocalTeacher(teacher, "t"), tmp_path, found.inputs_fingerprint, codec=made)
    cached.observe(batch, LOGITS)
    cached.flush()
    turned = batch_of(found, [3, 1, 4, 0, 2])
    objective = objective_of(list(terms), found, student, teacher, batch)
    live, expected = loss_of(objective, student, teacher, turned)
    with Capture(student, LOGITS) as capture:
        stored, parts = objective(capture(turned.columns("student")), cached.observe(turned, LOGITS), turned)
    assert cached.hits == len(found)
    for name, value in expected.items():
        torch.testing.assert_close(parts[name], value, rtol=1e-4, atol=1e-6)
    close(gradients(stored, student), gradients(live, student))


def test_one_module_is_enough_for_both_where_the_tokenizers_differ_in_name_alone(folders):
    """The same tokenizer under another fingerprint: chunks are tokens, and the terms are zero at the same model."""
    other = two.byte_level(270)
    other.add_special_tokens({"additional_special_tokens": ["<extra>"]})
    found = examples({**folders, "other": two.saved(folders["short"] + "-other", other)}, teacher="other")
    batch, module = batch_of(found), causal.made("llama", vocab_size=len(other))
    assert torch.equal(batch.inputs[CHUNKS + "student"], batch.inputs[CHUNKS + "teacher"])
    objective = objective_of(TERMS, found, module, module, batch)
    loss, _ = loss_of(objective, module, module, batch)
    assert float(loss.detach()) == pytest.approx(0, abs=1e-6)

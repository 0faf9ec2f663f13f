"""What a served model tells of its own texts is what the same model here would tell of them, in whatever form it names tokens."""

import itertools

import pytest
import torch
from tests.fakes import openai_server, speakers
from tests.laws.test_crossed_terms import batch_of, examples, folders

from limbeck.data.batch import CLASS, NO_LABEL
from limbeck.data.forms import Forms
from limbeck.data.language import NextToken
from limbeck.data.spelling import spelling
from limbeck.data.tokenizers import loaded
from limbeck.errors import LimbeckError, SignalError
from limbeck.objective import Diverging, Objective
from limbeck.regimes.sequence_level import SequenceLevel
from limbeck.regimes.writing import written
from limbeck.teachers.served.settings import Manner, Served
from limbeck.teachers.served.teacher import ServedTeacher

assert folders
PAIRS = [("what did the cat do", "it sat on the mat"), ("who ran", "a dog, 猫 and caf\u00e9 🙂"), ("a bird", "it sang")]
LOGITS = frozenset({"logits"})
TOP = 6
SETTINGS = SequenceLevel(max_new_tokens=64)


@pytest.fixture(scope="module")
def known(folders):
    """A tokenizer that is both sides', the data, and a model that knows it nearly by heart."""
    found = examples(folders, "short", "short", PAIRS)
    tokenizer = loaded(folders["short"]).tokenizer
    return found, tokenizer, speakers.Reciter(read(found), len(tokenizer))


def read(found):
    """The tokens of each row."""
    batch = batch_of(found).columns("student")
    return [ids[mask.bool()].tolist() for ids, mask in zip(batch["input_ids"], batch["attention_mask"], strict=True)]


def told(known, tmp_path, regime=SETTINGS, served=None, examples=None, **how):
    """The examples of what a speaker wrote, and who teaches by them."""
    found, tokenizer, model = known
    speaker = speakers.Speaker(model, tokenizer, **how)
    with openai_server.running(speaker) as server:
        settings = Served(url=server.url, model="tiny", logprobs="written", **{"top": TOP, **(served or {})})
        with ServedTeacher(settings, len(tokenizer), tmp_path / "served") as teacher:
            assert not teacher.provides.unseen
            most = teacher.writing([prompt for prompt, _ in PAIRS], regime.wanted, marked=True)
            (new, recalled), _ = written(examples or found, teacher, regime, tmp_path / "written")
    assert len(speaker.asked) <= most.requests
    assert sum(one["max_tokens"] for one in speaker.asked) <= most.output
    return new, recalled, speaker


def exact(model, batch):
    """Log-softmax of the same model here at every place, [B, T, V], text by text; beyond a text NaN."""
    columns = batch.columns("student")
    logs = torch.full((*columns["input_ids"].shape, len(model.head)), torch.nan)
    for row, (ids, mask) in enumerate(zip(columns["input_ids"], columns["attention_mask"].bool(), strict=True)):
        with torch.no_grad():
            logs[row, mask] = model(ids[mask][None])[0].log_softmax(-1)
    return logs


STYLES = [
    *(
        {"served": {"writes": Manner(by=by)}, "named": named}
        for by in ("chat", "completions")
        for named in ("bytes", "numbers")
    ),
    {"named": "letters"},
    {"end": False},
]


@pytest.mark.parametrize("how", STYLES, ids=str)
def test_it_shows_what_the_model_itself_would_show_of_these_texts(known, tmp_path, how):
    _, tokenizer, model = known
    new, recalled, speaker = told(known, tmp_path, **how)
    assert [new.table.raw(row) for row in new.rows.tolist()] == PAIRS  # it says them by heart
    batch = batch_of(new)
    logits, labels, own = recalled.observe(batch, LOGITS)["logits"], batch.labels[CLASS], exact(model, batch)
    some = len(PAIRS) if how.get("end") is False else 0
    forms, expected = Forms(tokenizer), 0
    for row, place in itertools.product(*map(range, labels.shape)):
        ids, logs = logits.ids[row, place], logits.log_probabilities[row, place]
        known_here = ids >= 0
        token = int(labels[row, place])
        if token == NO_LABEL or (some and token == tokenizer.eos_token_id):
            assert not known_here.any()
            continue
        values, likeliest = own[row, place].topk(TOP)
        assert int(ids[0]) == token == int(likeliest[0])
        wanted = {
            int(one): float(value)
            for one, value in zip(likeliest, values, strict=True)
            if int(one) == token or how.get("named") == "numbers" or _unique(forms, tokenizer, int(one), how, speaker)
        }
        expected += len(wanted)
        got = dict(zip(ids[known_here].tolist(), logs[known_here].tolist(), strict=True))
        assert got == pytest.approx(wanted, abs=1e-5)
    places = int((labels != NO_LABEL).sum()) - some
    assert expected > 0.6 * TOP * places  # most tokens are known by their names


def _unique(forms, tokenizer, token, how, speaker):
    """Whether no other token may be named as this one is."""
    name = speaker._spelled(token)
    if how.get("named") == "letters" or how.get("served", {}).get("writes", Manner()).by == "completions":
        name = speaker._letters(token).encode()
    return sum(forms.may_be(name, other) for other in range(len(tokenizer))) == 1


def test_with_every_token_named_the_loss_is_the_dense_one(known, tmp_path):
    _, tokenizer, model = known
    classes = len(tokenizer)
    new, recalled, _ = told(known, tmp_path, served={"top": classes}, named="numbers", most=classes)
    batch = batch_of(new)
    student = torch.randn(
        *batch.columns("student")["input_ids"].shape, classes, generator=torch.Generator().manual_seed(1)
    )
    logits, teacher = student.clone().requires_grad_(), exact(model, batch)
    objective = Objective((Diverging(),), NextToken())
    seen = recalled.observe(batch, LOGITS)
    objective.build({"logits": logits}, seen, batch=batch)
    total, _ = objective({"logits": logits}, seen, batch=batch)
    total.backward()
    valid = batch.labels[CLASS] != NO_LABEL
    plain = student.clone().requires_grad_()
    by_hand = torch.nn.functional.kl_div(
        plain[valid].log_softmax(-1), teacher[valid], reduction="batchmean", log_target=True
    )
    by_hand.backward()
    torch.testing.assert_close(total.detach(), by_hand.detach(), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(logits.grad, plain.grad, rtol=1e-4, atol=1e-6)


def test_a_text_is_followed_to_the_token_that_is_read_otherwise(known, tmp_path):
    """A model may spell a word by its letters where the tokenizer has a token for it."""
    found, tokenizer, _ = known
    spelled, texts = spelling(tokenizer).tokens, read(found)
    letters = {token.content: number for number, token in enumerate(spelled) if len(token.content) == 1}
    at = max(place for place, token in enumerate(texts[0]) if len(spelled[token].content) > 1 and spelled[token].text)
    assert found.labels[0, at - 1, 0] == texts[0][at]  # of the answer, and not its first token
    texts[0][at : at + 1] = [letters[bytes([one])] for one in spelled[texts[0][at]].content]
    strange = speakers.Reciter(texts, len(tokenizer))
    new, recalled, _ = told((found, tokenizer, strange), tmp_path, named="numbers")
    batch = batch_of(new)
    logits, labels, own = recalled.observe(batch, LOGITS)["logits"], batch.labels[CLASS], exact(strange, batch)
    assert [new.table.raw(row) for row in new.rows.tolist()] == PAIRS
    taught = labels != NO_LABEL
    taught[0, at - 1 :] = False
    assert taught[0].any()
    assert torch.equal((logits.ids >= 0).any(-1), taught)
    torch.testing.assert_close(logits.log_probabilities[taught][:, :TOP], own[taught].topk(TOP).values)


def test_nothing_is_asked_twice_and_another_top_is_another_answer(known, tmp_path):
    new, recalled, speaker = told(known, tmp_path)
    assert len(speaker.asked) == len(PAIRS)
    same, again, second = told(known, tmp_path)
    assert not second.asked
    assert again.fingerprint == recalled.fingerprint
    assert same.fingerprint == new.fingerprint
    _, other, third = told(known, tmp_path, served={"top": TOP + 1})
    assert len(third.asked) == len(PAIRS)
    assert other.fingerprint != recalled.fingerprint


@pytest.mark.parametrize("by", ["chat", "completions"])
def test_a_server_that_tells_nothing_of_what_it_writes_is_told(known, tmp_path, by):
    with pytest.raises(SignalError, match=r"no log-probabilities of what it wrote.*'logprobs: none'"):
        told(known, tmp_path, served={"writes": Manner(by=by)}, most=None)
    with pytest.raises(SignalError, match=r"no likeliest tokens beside the token 1"):
        told(known, tmp_path, served={"writes": Manner(by=by)}, most=0)


def test_fewer_than_were_asked_are_said_or_refused(known, tmp_path, caplog):
    told(known, tmp_path, most=2)
    assert f"asked for {TOP} log-probabilities and gave 2" in caplog.text
    with pytest.raises(SignalError, match=r"gave 2 log-probabilities at some position, and 'least' is 3"):
        told(known, tmp_path, served={"least": 3}, most=2)


def test_log_probabilities_after_a_temperature_are_refused(known, tmp_path):
    warm = SETTINGS.model_copy(update={"temperature": 0.5})
    with pytest.raises(SignalError, match=r"drawn by, at temperature 0\.5, and not its own.*RETURN_ORIGINAL_LOGPROB"):
        told(known, tmp_path / "after", warm, after=True)
    _, _, speaker = told(known, tmp_path / "own", warm)
    assert len(speaker.asked) == len(PAIRS) + 2
    for cool in (SETTINGS, SETTINGS.model_copy(update={"temperature": 1.0})):  # there both are one
        _, _, speaker = told(known, tmp_path / f"{cool.temperature}", cool, after=True)
        assert len(speaker.asked) == len(PAIRS)  # nothing was probed


def test_a_teacher_of_another_tokenizer_is_refused(known, folders, tmp_path):
    _, _, model = known
    other = loaded(folders["long"]).tokenizer
    found = examples(folders, "long", "long", PAIRS)
    speaker = speakers.Speaker(model, known[1], named="numbers")
    with openai_server.running(speaker) as server:
        served = Served(url=server.url, model="tiny", logprobs="written", top=TOP)
        with (
            ServedTeacher(served, len(other)) as teacher,
            pytest.raises(LimbeckError, match="it has another tokenizer"),
        ):
            written(found, teacher, SETTINGS, tmp_path)


def test_two_tokenizers_are_followed_by_the_teachers_own(known, folders, tmp_path):
    found = examples(folders, "long", "short", PAIRS)  # the student reads otherwise
    new, recalled, _ = told(known, tmp_path, examples=found)
    theirs = new.as_read_by("teacher")
    batch = batch_of(theirs)
    ids, labels = recalled.observe(batch_of(new), LOGITS)["logits"].ids, batch.labels[CLASS]
    assert torch.equal((ids >= 0).any(-1), labels != NO_LABEL)
    assert torch.equal(ids[..., 0][labels != NO_LABEL], labels[labels != NO_LABEL].int())


def test_rows_that_were_not_written_are_refused(known, tmp_path):
    new, recalled, _ = told(known, tmp_path)
    batch = batch_of(new)
    with pytest.raises(SignalError, match="logits alone, not 'hidden'"):
        recalled.observe(batch, frozenset({"hidden"}))
    longer = examples(
        {"short": new.table.reader.tokenizer}, "short", "short", [(one, f"{two} and") for one, two in PAIRS]
    )
    with pytest.raises(SignalError, match=r"Row 0 has \d+ tokens, and \d+ were written there"):
        recalled.observe(batch_of(longer), LOGITS)


@pytest.mark.parametrize("name", ["short", "long", "chat"])
def test_a_name_that_several_tokens_have_is_none_of_them(folders, name):
    tokenizer = loaded(folders[name]).tokenizer
    forms, spelled = Forms(tokenizer), spelling(tokenizer).tokens
    assert forms.classes == len(spelled)
    named: dict[bytes, set[int]] = {}
    for number, token in enumerate(spelled):
        for form in {
            token.content,
            token.content.decode(errors="replace").encode(),
            tokenizer.decode([number]).encode(),
        }:
            named.setdefault(form, set()).add(number)
            assert forms.may_be(form, number)
        assert forms.token(number) == number
        assert forms.may_be(number, number)
        assert not forms.may_be(number, number + 1)
    assert all(forms.token(form) == (min(own) if len(own) == 1 else None) for form, own in named.items())
    assert forms.token("\ufffd".encode()) is None  # 128 bytes are no letter
    assert len(named["\ufffd".encode()]) >= 128
    assert forms.token(b"no token") is None
    assert forms.token(len(spelled)) is None
    assert not forms.may_be(b"the", len(spelled))

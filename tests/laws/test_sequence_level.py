"""Sequence-level distillation: the student's labels are what the teacher writes, in the student's own tokens."""

import json
from dataclasses import replace

import pytest
import torch
from tests.fakes import causal, two
from tests.laws.test_crossed_terms import batch_of, examples, folders
from torch import nn

from limbeck.data.batch import CLASS, NO_LABEL
from limbeck.data.sifting import Length, Words
from limbeck.data.tasks import CLASSES
from limbeck.data.tokenizers import loaded
from limbeck.errors import LimbeckError
from limbeck.models.generation import generated
from limbeck.regimes.sequence_level import SequenceLevel
from limbeck.regimes.writing import _writer, _wrote
from limbeck.regimes.writing import written as timed
from limbeck.teachers.local import LocalTeacher
from limbeck.teachers.teacher import Provides

assert folders
PROMPTS = [(f"what did the {one} do", "it sat") for one in ("cat", "dog", "bird", "mat", "roof", "tree")]
SOME = SequenceLevel(max_new_tokens=40, temperature=1.0, samples=2)
FEW = SequenceLevel(max_new_tokens=8)


def written(*given, **more):
    """What was written, without the time."""
    return timed(*given, **more)[0][0]


@pytest.fixture(scope="module")
def sides(folders):
    """Prompts, and a teacher of another tokenizer that ends every twentieth token or so."""
    found = examples(folders, "short", "long", PROMPTS)
    known = loaded(folders["long"]).tokenizer
    module = causal.made("llama", vocab_size=len(known))
    head = nn.Linear(24, len(known))
    head.weight.data.copy_(0.1 * module.lm_head.weight.data)
    head.bias.data.zero_()[known.eos_token_id] = 3.0
    module.lm_head = head
    return found, module, folders["long"]


def texts_of(found):
    return [found.table.raw(row) for row in found.rows.tolist()]


def test_labels_are_what_the_teacher_writes_and_nothing_of_the_data(sides, tmp_path):
    found, module, tokenizer = sides
    before = torch.random.get_rng_state()
    new = written(found, LocalTeacher(module, "t"), SOME, tmp_path)
    assert torch.equal(torch.random.get_rng_state(), before)
    rows = texts_of(new)
    prompts = [prompt for prompt, _ in PROMPTS]
    said = _wrote(
        _writer(module, tokenizer, prompts, SOME), module, tokenizer, prompts, SOME, 0
    )  # by the teacher's own tokens
    expected = [(prompt, one.text) for prompt, one in zip(prompts * 2, said, strict=True) if one.ended]
    assert rows == expected
    assert 4 < len(rows) <= 12
    assert all(text != "it sat" for _, text in rows)
    assert len({text for _, text in rows}) > len(rows) / 2  # draws differ
    assert new.supervised.all()
    known, batch = loaded(found.table.reader.tokenizer).tokenizer, batch_of(new)
    for row, (_, text) in enumerate(rows):
        labels = batch.labels[CLASS][row]
        own = labels[labels != NO_LABEL].tolist()
        assert own == [*known(text)["input_ids"], known.eos_token_id][: len(own)]
    assert not new.table.aligned.lost  # what is written can be compared as well
    assert new.table.teacher is not None


def test_what_was_written_is_kept_and_read_again(sides, tmp_path, monkeypatch):
    found, module, _ = sides
    told = []
    first = written(found, LocalTeacher(module, "t"), SOME, tmp_path, on_progress=lambda *one: told.append(one))
    assert told == [(6, 6)]

    def never(*_, **__):
        raise AssertionError("it was written before")

    with monkeypatch.context() as patch:
        patch.setattr(type(module), "generate", never)
        again = written(found, LocalTeacher(module, "t"), SOME, tmp_path)
        with pytest.raises(AssertionError, match="before"):
            written(found, LocalTeacher(module, "another"), SOME, tmp_path)
        (path,) = tmp_path.rglob("0.json")
        path.write_text(path.read_text()[:-9])
        with pytest.raises(AssertionError, match="before"):  # what is damaged is written anew
            written(found, LocalTeacher(module, "t"), SOME, tmp_path)
    anew = written(found, LocalTeacher(module, "t"), SOME, tmp_path)
    assert texts_of(first) == texts_of(again) == texts_of(anew)
    assert first.fingerprint == again.fingerprint == anew.fingerprint != found.fingerprint


def test_the_likeliest_text_is_the_models_own(sides):
    _, _, tokenizer = sides
    module, prompts = causal.made("llama", vocab_size=len(loaded(tokenizer).tokenizer)), [one for one, _ in PROMPTS]
    said = _wrote(_writer(module, tokenizer, prompts, FEW), module, tokenizer, prompts, FEW, 0)
    assert [one.text for one in said] == generated(module, tokenizer, prompts, 8)
    assert len({one.text for one in said}) > 1


def test_a_text_without_an_end_or_a_letter_teaches_nothing(sides, tmp_path, caplog):
    found, module, _ = sides
    few = written(found, LocalTeacher(module, "t"), SOME.model_copy(update={"max_new_tokens": 8}), tmp_path)
    every = written(found, LocalTeacher(module, "t"), SOME, tmp_path)
    assert 0 < len(few) < len(every)
    assert "are left out: they are empty, or have no end within 8 tokens" in caplog.text
    assert {text for _, text in texts_of(few)} <= {text for _, text in texts_of(every)}  # draws hang on nothing else
    with pytest.raises(LimbeckError, match=r"None of the 6 texts .* has letters and an end within .*: 1: raise it"):
        written(found, LocalTeacher(module, "t"), SequenceLevel(max_new_tokens=1), tmp_path)


def test_what_a_filter_rejects_of_the_teachers_texts_is_listed_and_not_learnt(sides, tmp_path, monkeypatch, caplog):
    found, module, _ = sides
    every = texts_of(written(found, LocalTeacher(module, "t"), SOME, tmp_path))
    letter = every[0][1].split()[0]

    def never(*_, **__):
        raise AssertionError("other filters judge the same texts")

    monkeypatch.setattr("limbeck.regimes.writing._wrote", never)
    filtered = SOME.model_copy(update={"filter": (Words(words=(letter,)),)})
    some = texts_of(written(found, LocalTeacher(module, "t"), filtered, tmp_path))
    out = [pair for pair in every if Words(words=(letter,)).reasons([pair[1]])[0] is not None]
    assert out
    assert some == [pair for pair in every if pair not in out]
    (path,) = tmp_path.rglob("rejected.jsonl")
    listed = [json.loads(line) for line in path.read_text().splitlines()]
    assert sorted(one["texts"][0] for one in listed) == sorted(text for _, text in out)
    prompts = {row: found.table.raw(row)[0] for row in found.rows.tolist()}
    assert all((prompts[one["row"]], one["texts"][0]) in out for one in listed)
    assert f"{len(out)} of {len(every)} texts of the teacher were rejected" in caplog.text
    nothing = SOME.model_copy(update={"filter": (Length(most=1),)})
    with pytest.raises(LimbeckError, match=r"reject all .* texts that the teacher wrote"):
        written(found, LocalTeacher(module, "t"), nothing, tmp_path)


@pytest.mark.parametrize(
    ("settings", "change", "why"),
    [
        (SequenceLevel(samples=2), {}, "at temperature 0 all are the same"),
        (SequenceLevel(), {"task": None}, "write 'task: next-token'"),
        (SequenceLevel(), {"texts": two.TEXTS}, "5 of 5 training rows are running text"),
        (SequenceLevel(), {"teacher": "stored"}, "a transformers model that is here"),
    ],
)
def test_what_cannot_be_is_told(settings, change, why, folders, sides, tmp_path):
    found, module, _ = sides
    teacher = LocalTeacher(module, "t")
    if "texts" in change:
        found = examples(folders, items=change["texts"])
    if "task" in change:
        found = replace(found, task=CLASSES)
    if "teacher" in change:
        teacher = Mute()
    with pytest.raises(LimbeckError, match=why):
        written(found, teacher, settings, tmp_path)


class Mute:
    fingerprint, module, provides = "m", None, Provides()

    def observe(self, batch, needs):
        raise AssertionError("it is not asked")

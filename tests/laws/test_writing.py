"""Writing texts anew: a pure function of (text, id, view), by whatever writer, and facts that follow a text."""

import random

import numpy as np
import pytest
import torch
from tests.fakes.writing import TEXTS, facts_at, rules, wordnet_at, write

from limbeck.data.writing.facts import Facts, followed
from limbeck.data.writing.rules import Rules
from limbeck.data.writing.writer import Writer
from limbeck.errors import DataError, SettingError

RULES = [{rule: 0.2} for rule in ("synonyms", "insert", "swap", "delete")]


@pytest.fixture(scope="module")
def wordnet(tmp_path_factory):
    return str(wordnet_at(tmp_path_factory.mktemp("wordnet")))


@pytest.fixture(scope="module")
def facts(tmp_path_factory):
    return facts_at(tmp_path_factory.mktemp("facts"))


@pytest.fixture(params=[*RULES, {"synonyms": 0.3, "insert": 0.1, "swap": 0.3, "delete": 0.5, "share": 0.6}, None])
def writer(request, wordnet, facts):
    return Facts(path=facts, share=0.8) if request.param is None else rules(wordnet, **request.param)


# --- all writers


def test_view_0_is_the_text_as_it_is(writer):
    assert isinstance(writer, Writer)
    assert write(writer, list(range(40)), [0] * 40) == TEXTS


def test_a_row_says_the_same_in_any_batch(writer):
    generator = torch.Generator().manual_seed(0)
    rows = torch.randint(0, 40, (60,), generator=generator)
    views = torch.randint(0, 5, (60,), generator=generator)
    together = writer.write(TEXTS, rows, views)
    for place in (*range(0, 60, 7), 59):
        assert writer.write(TEXTS, rows[place : place + 1], views[place : place + 1]) == together[place : place + 1]
    back = writer.write(TEXTS, rows.flip(0), views.flip(0))
    assert back[::-1] == together
    assert any(new != TEXTS[row] for new, row in zip(together, rows.tolist(), strict=True))


def test_writing_moves_no_generator(writer):
    states = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
    write(writer, list(range(40)), [3] * 40)
    assert states == (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist())


def test_views_differ_and_ids_differ(writer):
    texts = ["the film and the actor, a dull film for all of us who were slowly there"] * 60
    seen = {(row, view): write(writer, [row], [view], texts)[0] for row in range(30) for view in (1, 2)}
    assert len({seen[row, 1] for row in range(30)}) > 1
    assert any(seen[row, 1] != seen[row, 2] for row in range(30))


def test_the_share_is_kept(wordnet):
    texts = ["one two three four five"] * 4000
    rows, views = torch.arange(4000), torch.ones(4000, dtype=torch.int64)
    for share in (0.0, 0.3, 1.0):
        new = Rules(share=share, delete=0.1).write(texts, rows, views)
        changed = sum(one != text for one, text in zip(new, texts, strict=True)) / 4000
        assert abs(changed - share) < 0.03  # 4 standard deviations of 4000 coins: 4 * sqrt(.25 / 4000) = 0.032


# --- fingerprints


def test_fingerprints_follow_settings_and_content_not_the_place(wordnet, facts, tmp_path):
    copy = str(wordnet_at(tmp_path / "copy"))
    assert rules(copy, synonyms=0.1).fingerprint == rules(wordnet, synonyms=0.1).fingerprint
    other = str(wordnet_at(tmp_path / "other", (("noun", ("film", "flick"), 1),)))
    (tmp_path / "facts.csv").write_text("subject,relation,object\nfilm,is,art\n")
    writers = [
        rules(wordnet, synonyms=0.1),
        rules(other, synonyms=0.1),
        rules(wordnet, synonyms=0.2),
        rules(wordnet, insert=0.1),
        rules(wordnet, synonyms=0.1, share=0.7),
        Rules(swap=0.1),
        Rules(delete=0.1),
        Facts(path=facts),
        Facts(path=facts, share=0.9),
        Facts(path=facts, template="{subject}: {object}"),
        Facts(path=str(tmp_path / "facts.csv")),
    ]
    assert len({writer.fingerprint for writer in writers}) == len(writers)
    assert Rules(swap=0.1, keep_labels=False).fingerprint == Rules(swap=0.1).fingerprint  # the texts are the same


# --- facts


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("I saw THE ACTOR", {"I saw THE ACTOR. the actor is a star."}),
        ("An actor, there.", {"An actor, there. actor plays in films."}),
        ("Films and filmed", {"Films and filmed"}),
        ("The actors", {"The actors"}),
        ("Film noir!", {"Film noir! film noir is dark."}),
        ("film: actor!", {f"film: actor! {fact}" for fact in (
            "film is seen in cinemas.", "film is, mostly, 90 minutes.", "actor plays in films.")}),
        ("看电影吧。", {"看电影吧。电影 在 电影院."}),
        ("看电影", {"看电影。电影 在 电影院."}),
        ("I write c++, not C", {"I write c++, not C. C++ is a language."}),
        ("I write C", {"I write C"}),
        ('He said "film."', {'He said "film." film is seen in cinemas.', 'He said "film." film is, mostly, 90 minutes.'}),
    ],
)  # fmt: skip
def test_a_fact_about_what_is_mentioned_follows(facts, text, said):
    writer = Facts(path=facts, share=1.0)
    assert {write(writer, [0], [view], [text])[0] for view in range(1, 40)} == said


def test_a_fact_is_said_as_the_template_says(facts):
    writer = Facts(path=facts, share=1.0, template="({subject}: {object})")
    assert write(writer, [0], [1], ["C++"]) == ["C++. (C++: a language)"]
    with pytest.raises(SettingError, match=r"\{subject\} and \{object\}"):
        Facts(path=facts, template="{subject} {relation}")
    for wrong in ("{subject", "{0} {object}", "{subject.x.y} {object}"):
        with pytest.raises(SettingError, match="no other braces"):
            Facts(path=facts, template=wrong)


def test_sentences_follow_each_other():
    assert followed("So it is  ", "Yes.") == "So it is. Yes."
    assert followed("是吗？", "是。") == "是吗？是。"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("subject,object\na,b\n", "no column 'relation'"),
        ("subject,relation,object\na,is,\n", "line 2"),
        ("subject,relation,object\na,is,b\n++,is,b\n", "line 3"),
        ("subject,relation,object\n", "no facts"),
        ("", "no column"),
        (b"\xff\xfe", "UTF-8"),
    ],
)
def test_facts_that_cannot_be_read(tmp_path, content, message):
    path = tmp_path / "f.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(DataError, match=message):
        _ = Facts(path=str(path)).fingerprint
    with pytest.raises(DataError, match="no file of facts"):
        _ = Facts(path=str(tmp_path / "absent.csv")).fingerprint

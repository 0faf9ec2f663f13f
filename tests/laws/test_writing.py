"""Writing texts anew: a pure function of (text, id, view) that keeps what it must not touch."""

import random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.fakes.writing import wordnet_at
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from limbeck.data.batch import CLASS, NO_LABEL, SUPERVISED
from limbeck.data.examples import Examples
from limbeck.data.sources import Data
from limbeck.data.table import Table
from limbeck.data.text import TextTable
from limbeck.data.text_reader import TextReader
from limbeck.data.writing.facts import Facts, followed
from limbeck.data.writing.rules import Rules
from limbeck.data.writing.synonyms import replaceable
from limbeck.data.writing.wording import Wording, cased
from limbeck.data.writing.writer import Writer
from limbeck.errors import DataError, SettingError
from limbeck.objective.gates import Gate

TEXTS = [
    "The film was dull, but the actor (a star) moved slowly.",
    "Dull film! A film of no use; it isn't good.",
    "这部电影很好看，我喜欢。",
    "हिन्दी में लिखा हुआ एक वाक्य है।",
    "word",
    "?!",
    "Ça va très bien: l’été est là...",
    "一 film を 見ました",
] * 5
RULES = [{rule: 0.2} for rule in ("synonyms", "insert", "swap", "delete")]


@pytest.fixture(scope="module")
def wordnet(tmp_path_factory):
    return str(wordnet_at(tmp_path_factory.mktemp("wordnet")))


@pytest.fixture(scope="module")
def facts(tmp_path_factory):
    path = tmp_path_factory.mktemp("facts") / "facts.csv"
    path.write_text(
        "subject,relation,object\nfilm,is seen in,cinemas\nactor,plays in,films\nthe actor,is,a star\n电影,在,电影院\n"
        'film,"is, mostly,",90 minutes\nC++,is,a language\nfilm noir,is,dark\n'
    )
    return str(path)


def rules(wordnet, share=1.0, **given):
    reads = {"synonyms_from": wordnet} if given.keys() & {"synonyms", "insert"} else {}
    return Rules(share=share, **reads, **given)


@pytest.fixture(params=[*RULES, {"synonyms": 0.3, "insert": 0.1, "swap": 0.3, "delete": 0.5, "share": 0.6}, None])
def writer(request, wordnet, facts):
    return Facts(path=facts, share=0.8) if request.param is None else rules(wordnet, **request.param)


def write(writer, rows, views, texts=TEXTS):
    return writer.write(texts, torch.tensor(rows), torch.tensor(views))


# --- words


@settings(max_examples=150, deadline=None, derandomize=True)
@given(st.text())
def test_words_and_gaps_give_the_text_back(text):
    wording = Wording.of(text)
    assert str(wording) == text
    assert len(wording.gaps) == len(wording) + 1
    assert [text[start:end] for start, end in wording.spans] == list(wording.words)
    assert not any(letter.isalnum() for gap in wording.gaps for letter in gap)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("It isn't well-known: 3.5%", ["It", "isn't", "well", "known", "3", "5"]),
        ("这部film好。", ["这", "部", "film", "好"]),
        ("हिन्दी में", ["हिन्दी", "में"]),
        ("می‌خواهم", ["می‌خواهم"]),
        ("l’été e\u0301té", ["l’été", "e\u0301té"]),
        ("👩‍🚀 ok ❤️", ["ok"]),
        ("ที่นี่", ["ที่", "นี่"]),
        ("Привет, мир", ["Привет", "мир"]),
    ],
)
def test_words_of_any_script(text, words):
    assert list(Wording.of(text).words) == words


@pytest.mark.parametrize(
    ("text", "place", "left"),
    [
        ("a, b c.", 0, "b c."),
        ("a, b c.", 1, "a, c."),
        ("a, b c.", 2, "a, b."),
        ("said, so. Then", 1, "said. Then"),
        ("(a b) c", 1, "(a) c"),
        ("我很好", 1, "我好"),
    ],
)
def test_punctuation_stays_when_a_word_goes(text, place, left):
    assert str(Wording.of(text).without(place)) == left


@pytest.mark.parametrize(
    ("text", "word", "place", "said"),
    [
        ("a b.", "x", 0, "x a b."),
        ("a b.", "x", 1, "a x b."),
        ("a b.", "x", 2, "a b x."),
        ("我好。", "很", 1, "我很好。"),
    ],
)
def test_a_word_is_put_in_with_its_space(text, word, place, said):
    assert str(Wording.of(text).inserted(word, place)) == said


def test_words_without_spaces_are_joined_to_what_is_known_the_longest_first():
    known = frozenset(["电影", "电影院", "我们"])
    assert Wording.of("我们去电影院，看电影。").joined(known).words == ("我们", "去", "电影院", "看", "电影")
    assert Wording.of("电，影").joined(known).words == ("电", "影")


def test_case_is_that_of_the_word_before():
    assert [cased("movie", like) for like in ("film", "Film", "FILM", "A")] == ["movie", "Movie", "MOVIE", "Movie"]


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


# --- rules


def one(wordnet, rule, text, view=1, row=0, alpha=0.1):
    return rules(wordnet, **{rule: alpha}).write([text] * (row + 1), torch.tensor([row]), torch.tensor([view]))[0]


@pytest.mark.parametrize("alpha", [0.01, 0.2, 0.45])
def test_each_rule_alters_as_many_words_as_it_says(wordnet, alpha):
    text = "zero one two three four five six seven eight nine ten eleven"
    words, count = text.split(), max(1, int(alpha * 12))
    for view in range(1, 30):
        left = one(wordnet, "delete", text, view, alpha=alpha).split()
        assert len(left) == 12 - count
        assert [word for word in words if word in left] == left  # in their order
        swapped = one(wordnet, "swap", text, view, alpha=alpha).split()
        assert sorted(swapped) == sorted(words)
        assert 2 <= sum(a != b for a, b in zip(swapped, words, strict=True)) <= 2 * count or count > 1
        inserted = one(wordnet, "insert", f"{text} dull", view, alpha=alpha).split()
        assert len(inserted) == 13 + max(1, int(alpha * 13))
        assert [word for word in inserted if word != "boring"] == [*words, "dull"]


def test_a_synonym_takes_the_place_of_its_word_everywhere_and_in_its_case(wordnet):
    said = {one(wordnet, "synonyms", "Dull: the film, a dull dull film's end", view) for view in range(1, 60)}
    assert said == {
        "Dull: the film, a boring boring film's end",
        "Dull: the movie, a dull dull film's end",
        "Dull: the moving picture, a dull dull film's end",
        "Dull: the cinema, a dull dull film's end",
    }


def test_words_without_synonyms_stay(wordnet):
    for text in ("这部电影很好看。", "the was of it", "xyzzy plugh", "FILM Dull"):
        for rule in ("synonyms", "insert"):
            assert one(wordnet, rule, text) == text


def test_deletion_leaves_a_word_and_empty_texts_are_left_alone(wordnet):
    assert one(wordnet, "delete", "word.", alpha=0.9) == "word."
    assert len(one(wordnet, "delete", "one two", alpha=0.9).split()) == 1
    for rule in ("synonyms", "insert", "swap", "delete"):
        for text in ("", "  ", "?!"):
            assert one(wordnet, rule, text) == text


def test_stop_words_contractions_and_numbers_give_way_to_nothing():
    assert [word for word in ("the", "Don't", "isn’t", "3", "not", "film", "电") if replaceable(word)] == ["film", "电"]


def test_stop_words_stay_even_if_somebody_knows_synonyms(tmp_path):
    (tmp_path / "s.tsv").write_text("the\tthat\nnot\tnever\n")
    for rule in ("synonyms", "insert"):
        writer = Rules(**{rule: 0.5}, share=1.0, synonyms_from=str(tmp_path / "s.tsv"))
        assert write(writer, [0], [1], ["not the film"]) == ["not the film"]


def test_every_rule_that_is_on_is_drawn(wordnet):
    text = "dull one two three four five six seven eight nine"
    said = [one(wordnet, "delete", text, view) for view in range(1, 9)]
    mixed = rules(wordnet, synonyms=0.1, insert=0.1, swap=0.1, delete=0.1)
    kinds = {"synonyms": 0, "insert": 0, "swap": 0, "delete": 0}
    for view in range(1, 401):
        words = mixed.write([text], torch.tensor([0]), torch.tensor([view]))[0].split()
        kind = {9: "delete", 11: "insert"}.get(len(words)) or ("synonyms" if "boring" in words else "swap")
        kinds[kind] += 1
    assert all(60 < count < 140 for count in kinds.values())  # 100 expected, standard deviation 8.7
    assert len(set(said)) > 1


# --- synonyms


def test_synonyms_of_another_language_from_a_file(tmp_path):
    (tmp_path / "s.tsv").write_text("电影\t影片，片子\nFilm\tStreifen, Kinofilm\n")
    (tmp_path / "s.csv").write_text('电影,影片,片子\nFilm,"Streifen, Kinofilm"\n')
    for name in ("s.tsv", "s.csv"):
        writer = Rules(synonyms=0.1, share=1.0, synonyms_from=str(tmp_path / name))
        said = {write(writer, [0], [view], ["这部电影很好，Der Film."])[0] for view in range(1, 30)}
        assert said == {
            f"这部{word}很好，Der {film}."
            for word, film in (("影片", "Film"), ("片子", "Film"), ("电影", "Streifen"), ("电影", "Kinofilm"))
        }
    same = [Rules(synonyms=0.1, synonyms_from=str(tmp_path / name)).fingerprint for name in ("s.tsv", "s.csv")]
    assert same[0] == same[1]


@pytest.mark.parametrize(
    ("content", "message"),
    [("", "no synonyms"), ("word\n", "line 1"), ("a\tb\n\nword\t , \n", "line 3"), (b"\xff\xfe\xff", "UTF-8")],
)
def test_a_file_of_synonyms_that_cannot_be_read(tmp_path, content, message):
    path = tmp_path / "s.tsv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(DataError, match=message):
        _ = Rules(synonyms=0.1, synonyms_from=str(path)).fingerprint


def test_a_missing_wordnet_names_the_package(tmp_path, monkeypatch):
    from limbeck.data.writing import wordnet as module

    monkeypatch.setattr(module, "_places", lambda: [tmp_path])
    module.wordnet.cache_clear()
    with pytest.raises(DataError, match=r"wordnet-base.*nltk\.downloader.*synonyms-from"):
        _ = Rules(insert=0.1).fingerprint
    monkeypatch.undo()
    monkeypatch.setenv("WNSEARCHDIR", str(wordnet_at(tmp_path / "own")))
    module.wordnet.cache_clear()
    assert module.wordnet().of("dull") == ("boring",)
    module.wordnet.cache_clear()
    with pytest.raises(DataError, match="no synonyms at"):
        _ = Rules(synonyms=0.1, synonyms_from=str(tmp_path / "absent")).fingerprint
    (tmp_path / "own" / "data.verb").unlink()
    with pytest.raises(DataError, match=r"data\.verb is missing"):
        _ = Rules(synonyms=0.1, synonyms_from=str(tmp_path / "own")).fingerprint


def test_a_damaged_wordnet_is_named(tmp_path):
    folder = wordnet_at(tmp_path)
    (folder / "data.adj").write_text("nothing\n")
    with pytest.raises(DataError, match="damaged: its entry of 'dull'"):
        one(str(folder), "synonyms", "dull")


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


# --- tables and batches


class Blank:
    """Writes nothing under odd views, and a word under even ones."""

    fingerprint = "blank"

    def write(self, texts, ids, views):
        return [
            "" if view % 4 == 1 else " \n" if view % 4 == 3 else "bad bad" if view else texts[row]
            for row, view in zip(ids.tolist(), views.tolist(), strict=True)
        ]


def tokenizer(folder, *words):
    vocabulary = {word: index for index, word in enumerate(("[PAD]", "[UNK]", *words))}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="[PAD]", unk_token="[UNK]").save_pretrained(folder)
    return TextReader(tokenizer=str(folder), max_length=24)


@pytest.fixture(scope="module")
def readers(tmp_path_factory):
    folder = tmp_path_factory.mktemp("readers")
    return tokenizer(folder / "a", "good", "bad", "dull"), tokenizer(folder / "b", "dull", "bad", "good", "film")


SAID = [" ".join(["good", "bad", "dull", "film"][: 1 + row % 4] * (1 + row % 3)) for row in range(24)]


def same(one, other):
    wide, slim = (one, other) if one.shape[-1] >= other.shape[-1] else (other, one)
    return not wide[..., slim.shape[-1] :].any() and wide[..., : slim.shape[-1]].equal(slim)


def test_both_sides_read_what_was_written(readers):
    table = TextTable(SAID, *readers, Rules(delete=0.2, swap=0.2, share=0.7))
    assert isinstance(table, Table)
    ids, views = torch.arange(24), torch.arange(24) % 3
    columns, texts = table.read(ids, views), table.written(ids, views)
    for reader, side in zip(readers, ("", "teacher."), strict=True):
        for name, value in reader.encode(texts).items():
            assert columns[side + name].equal(value)
    for place in range(24):  # the same pair in a batch of its own
        alone = table.read(ids[place : place + 1], views[place : place + 1])
        assert all(same(columns[name][place : place + 1], value) for name, value in alone.items())
    plain = TextTable(SAID, *readers).read(ids, torch.zeros_like(ids))
    assert all(value.equal(plain[name]) for name, value in table.read(ids, torch.zeros_like(ids)).items())
    assert (table.raw(3), table.show(3)) == (SAID[3], SAID[3])


def test_a_table_is_named_by_its_writer_too(readers):
    reader = readers[0]
    tables = [TextTable(SAID, reader), *(TextTable(SAID, reader, None, Rules(swap=one)) for one in (0.1, 0.2))]
    assert len({table.fingerprint for table in tables}) == 3
    assert TextTable(SAID, reader, None, Rules(swap=0.1)).fingerprint == tables[1].fingerprint


def test_nothing_written_is_the_text_as_it_is(readers):
    table = TextTable(SAID, readers[0], None, Blank())
    ids = torch.arange(4)
    assert table.written(ids, torch.tensor([0, 1, 2, 3])) == [SAID[0], SAID[1], "bad bad", SAID[3]]
    assert table.altered(ids, torch.tensor([0, 1, 2, 3])).tolist() == [False, False, True, False]
    assert table.altered(ids[:0], ids[:0]).dtype == torch.bool


def test_labels_stay_unless_they_are_not_to(readers):
    table = TextTable(SAID, readers[0], None, Blank())
    rows, known = torch.arange(24), torch.arange(24) != 6
    keep = Examples(table, rows, rows % 2, known, ("a", "b"))
    drop = Examples(table, rows, rows % 2, known, ("a", "b"), keep_labels=False)
    views = rows % 3  # 2 is written, 1 is blank
    assert keep.batch(rows, views).masks[SUPERVISED].equal(known)
    batch = drop.batch(rows, views)
    assert batch.masks[SUPERVISED].equal(known & (views != 2))
    assert batch.labels[CLASS].equal(torch.where(known & (views != 2), rows % 2, NO_LABEL))
    assert drop.batch(rows, torch.zeros_like(rows)).masks[SUPERVISED].equal(known)
    assert drop.fingerprint != keep.fingerprint
    assert drop.inputs_fingerprint == keep.inputs_fingerprint  # the teacher sees the same texts
    assert drop.supervised.equal(known)


def test_a_gate_drops_written_rows_of_which_the_teacher_is_unsure(readers):
    rows = torch.arange(24)
    data = Examples(
        TextTable(SAID, readers[0], None, Blank()), rows, rows % 2, rows >= 0, ("a", "b"), keep_labels=False
    )
    batch = data.batch(rows, torch.full_like(rows, 2))
    sure = rows % 3 == 0
    logits = torch.where(sure[:, None], torch.tensor([4.0, 0.0]), torch.tensor([0.1, 0.0]))
    shown = {"logits": logits}
    weights = Gate(by="teacher-confidence", above=0.9).weights(shown, shown, batch)
    assert not batch.masks[SUPERVISED].any()
    assert weights.bool().equal(sure)


# --- recipes


@pytest.fixture
def reviews(tmp_path):
    lines = "".join(f"{SAID[row]} {row},{'ab'[row % 2]}\n" for row in range(24))
    (tmp_path / "r.csv").write_text("text,label\n" + lines)
    return {"name": "table", "path": str(tmp_path / "r.csv")}


def test_a_recipe_chooses_the_writer(reviews, facts):
    data = Data.model_validate(
        {"source": reviews, "augment": {"swap": 0.2, "share": 0.9, "keep-labels": False}, "views": 3}
    )
    assert data.looks == 3
    assert data.augment == Rules(swap=0.2, share=0.9, keep_labels=False)
    splits = data.load()
    assert splits.train.table.writer == data.augment
    assert (splits.train.keep_labels, splits.test.keep_labels) == (False, True)
    assert Data.model_validate(data.plain()) == data
    named = Data.model_validate({"source": reviews, "augment": {"name": "facts", "path": facts}})
    assert named.looks is None
    assert named.load().train.table.writer.name == "facts"
    assert Data.model_validate({"source": reviews, "augment": {"swap": 0.2, "share": 0.0}}).looks == 0
    assert Data.model_validate({"source": reviews}).load().train.keep_labels


@pytest.mark.parametrize(
    ("augment", "message"),
    [
        ({"shift": 1}, "alter images"),
        ({"swap": 0.1, "shift": 1}, "unknown setting"),
        ({"swop": 0.1}, "did you mean 'swap'"),
        ({"name": "rule", "swap": 0.1}, "facts, masked-words"),
        ({"swap": 0}, "no rule is switched on"),
        ({"swap": 0.1, "synonyms-from": "x"}, "both are 0"),
        ({"swap": 0.1, "share": 1.0, "keep-labels": False}, "no text with its label"),
        ({"swap": 1.0}, "less than 1"),
    ],
)
def test_a_recipe_that_cannot_be(reviews, augment, message):
    with pytest.raises((DataError, SettingError), match=message):
        Data(source=reviews, augment=augment).load()


def test_images_are_not_written():
    with pytest.raises(DataError, match=r"'augment: \{name: rules\}' writes texts anew, but mnist-5k holds images"):
        Data(source="mnist-5k", augment={"swap": 0.1}).load()

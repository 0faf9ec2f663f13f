"""Writing texts anew by rules: words of any script are put in, exchanged or left out, and no others."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.fakes.writing import rules, wordnet_at, write

from limbeck.data.writing.rules import Rules
from limbeck.data.writing.synonyms import replaceable
from limbeck.data.writing.wording import Wording, cased
from limbeck.errors import DataError


@pytest.fixture(scope="module")
def wordnet(tmp_path_factory):
    return str(wordnet_at(tmp_path_factory.mktemp("wordnet")))


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

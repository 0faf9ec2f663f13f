"""A tokenizer reduced to some texts: the same pieces on what it covers, other pieces but no loss on the rest."""

import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from limbeck.data.reduced import coverage, keep, reduced
from limbeck.data.sources import Data
from limbeck.data.tabular import TextFile
from limbeck.data.text import TextTable
from limbeck.data.text_reader import TextReader
from limbeck.data.tokenizers import fitted, tokenizer_of
from limbeck.errors import DataError
from limbeck.models.readers import load_reader, save_reader

tokenizers = pytest.importorskip("tokenizers")
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers  # noqa: E402

STEMS = ["walk", "talk", "work", "jump", "low", "new", "wide", "fast", "over", "under"]
ENDS = ["", "s", "ed", "ing", "er", "est", "able"]
WORDS = [f"{stem}{end}" for stem in STEMS for end in ENDS]
TEXTS = [" ".join(WORDS[(7 * row + 3 * place) % len(WORDS)] for place in range(9)) for row in range(200)]
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


def trained(kind):
    """A tokenizer of each kind as it comes, special tokens last or first, with a post-processor of each form."""
    if kind == "wordpiece":
        one = Tokenizer(models.WordPiece(unk_token="[UNK]"))
        one.normalizer, one.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
        trainer = trainers.WordPieceTrainer(vocab_size=160, special_tokens=["[UNK]"], show_progress=False)
    elif kind == "unigram":
        one = Tokenizer(models.Unigram())
        one.pre_tokenizer = pre_tokenizers.Metaspace()
        trainer = trainers.UnigramTrainer(
            vocab_size=120, special_tokens=SPECIAL, unk_token="[UNK]", show_progress=False
        )
    elif kind == "bpe-bytes":
        one = Tokenizer(models.BPE())
        one.pre_tokenizer, one.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=400, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), special_tokens=[], show_progress=False
        )
    else:
        one = Tokenizer(models.BPE(unk_token="[UNK]", end_of_word_suffix="</w>"))
        one.pre_tokenizer = pre_tokenizers.Whitespace()
        trainer = trainers.BpeTrainer(
            vocab_size=200, special_tokens=SPECIAL, end_of_word_suffix="</w>", show_progress=False
        )
    one.train_from_iterator(TEXTS, trainer)
    one.add_special_tokens(SPECIAL)
    ends = [(name, one.token_to_id(name)) for name in ("[SEP]", "[CLS]")]
    if kind == "wordpiece":
        one.post_processor = processors.BertProcessing(*ends)
    elif kind == "bpe-bytes":
        template = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=ends)
        one.post_processor = processors.Sequence([processors.ByteLevel(), template])
    else:
        one.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=ends)
    return one


KINDS = ("wordpiece", "unigram", "bpe-bytes", "bpe-words")
WHOLE = {kind: trained(kind) for kind in KINDS}
every = pytest.mark.parametrize("kind", KINDS)
some = st.lists(st.sampled_from([*WORDS, "wal", "kings", "überfast", "unlowest"]), min_size=1, max_size=6).map(" ".join)
letters = st.text(alphabet="walkingestr ü日", min_size=1, max_size=20)


def less(kind, texts):
    whole = WHOLE[kind]
    return Tokenizer.from_str(keep(whole.to_str(), {piece for text in texts for piece in whole.encode(text).tokens}))


@every
@settings(max_examples=60)
@given(train=st.lists(some, min_size=1, max_size=5), text=some | letters)
def test_covered_text_has_the_same_pieces(kind, train, text):
    whole, small = WHOLE[kind], less(kind, train)
    order = sorted(small.get_vocab(), key=small.get_vocab().get)
    for one in (*train, text):
        before, after = whole.encode(one), small.encode(one)
        unknown = whole.token_to_id("[UNK]") in before.ids
        if one in train or (not unknown and all(small.token_to_id(piece) is not None for piece in before.tokens)):
            assert after.tokens == before.tokens
            assert [whole.token_to_id(order[index]) for index in after.ids] == before.ids
            assert after.type_ids == before.type_ids
        assert after.ids.count(small.token_to_id("[UNK]")) <= before.ids.count(whole.token_to_id("[UNK]"))


@every
def test_it_is_smaller_numbered_without_holes_and_keeps_what_words_are_spelt_with(kind):
    whole, small = WHOLE[kind], less(kind, ["walking under"])
    vocabulary = small.get_vocab()
    assert set(vocabulary) < set(whole.get_vocab())
    assert sorted(vocabulary.values()) == list(range(len(vocabulary)))
    assert vocabulary.keys() >= set(SPECIAL)
    assert vocabulary.keys() >= {
        piece for piece in whole.get_vocab() if len(piece.strip("#").removesuffix("</w>")) == 1
    }
    assert all(vocabulary[name] == small.encode("low").ids[place] for place, name in ((0, "[CLS]"), (-1, "[SEP]")))
    order = sorted(vocabulary, key=vocabulary.get)
    if kind != "bpe-bytes":  # where special tokens came later than some pieces and later than all
        assert [whole.token_to_id(piece) for piece in order] == sorted(whole.token_to_id(piece) for piece in order)


def test_merge_ancestors_stay():
    small = json.loads(keep(WHOLE["bpe-words"].to_str(), {"walking</w>"}))["model"]
    pieces, merges = set(small["vocab"]), {tuple(pair) for pair in small["merges"]}
    assert "walking</w>" in pieces
    assert any(left + right == "walking</w>" for left, right in merges)
    assert all({left, right, left + right} <= pieces for left, right in merges)
    assert "under</w>" not in pieces


def test_the_unknown_scores_as_before_in_a_unigram():
    """An unknown letter scores 10 below the least piece: with zz -30, xy zw (-40) beats an unknown x and yzw (-41)."""
    pieces = [("[UNK]", 0.0), ("xy", -20.0), ("zw", -20.0), ("yzw", -1.0), ("zz", -30.0), ("zzz", -5.0)]
    whole = Tokenizer(models.Unigram(pieces, unk_id=0))
    small = Tokenizer.from_str(keep(whole.to_str(), {"xy", "zw", "yzw"}))
    assert small.encode("xyzw").tokens == whole.encode("xyzw").tokens == ["xy", "zw"]
    assert "zzz" not in small.get_vocab()
    assert small.encode("q").ids == [small.token_to_id("[UNK]")]


def test_other_kinds_are_refused():
    with pytest.raises(DataError, match="kind WordLevel cannot be reduced"):
        reduced(TEXTS, fitted(TEXTS))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    from transformers import PreTrainedTokenizerFast

    place = tmp_path_factory.mktemp("whole")
    names = dict(zip(("pad_token", "unk_token", "cls_token", "sep_token", "mask_token"), SPECIAL, strict=True))
    columns = ["input_ids", "token_type_ids", "attention_mask"]
    PreTrainedTokenizerFast(tokenizer_object=WHOLE["wordpiece"], model_input_names=columns, **names).save_pretrained(
        place
    )
    return str(place)


def test_a_student_takes_it_along(folder, tmp_path):
    name = reduced(TEXTS[:3], folder)
    assert name == reduced(TEXTS[2::-1], folder)
    assert name != reduced(["low"], folder)
    reader = TextReader(tokenizer=name, max_length=32)
    told = save_reader(reader, tmp_path)
    again = load_reader(told, tmp_path, None)
    assert again.fingerprint == reader.fingerprint
    assert again.vocabulary == reader.vocabulary == len(tokenizer_of(name))
    for texts in (TEXTS[:3], TEXTS[50:60], ["日本"]):
        one, other = reader.encode(texts), again.encode(texts)
        assert one.keys() == other.keys() == {"input_ids", "token_type_ids", "attention_mask"}
        assert all(torch.equal(one[column], other[column]) for column in one)
    with pytest.raises(DataError, match="fitted on the training texts of a run"):
        TextReader(tokenizer="task:0000").encode(["a"])


def test_a_table_knows_which_token_is_which(folder):
    reader = TextReader(tokenizer=reduced(TEXTS[:3], folder), max_length=32)
    whole = TextReader(tokenizer=folder, max_length=32)
    table = TextTable(TEXTS[:3], reader, whole)
    columns = table.read(torch.arange(3), torch.zeros(3, dtype=torch.int64))
    assert torch.equal(table.teacher_tokens[columns["input_ids"]], columns["teacher.input_ids"])
    assert TextTable(TEXTS[:3], reader, reader).teacher_tokens is None
    words = TextReader(tokenizer=fitted(["yes no yes no"]), max_length=32)
    assert (TextTable(TEXTS[:3], words, whole).teacher_tokens == -1).any()


def test_coverage_counts_what_is_not_kept(folder):
    name = reduced(["low low"], folder)
    whole, small = (tokenizer_of(one).backend_tokenizer for one in (folder, name))
    text = "lowest under 日"
    lost = [piece for piece in whole.encode(text, add_special_tokens=False).tokens if small.token_to_id(piece) is None]
    found = coverage(name, folder, [text])
    assert lost
    assert found.uncovered == len(lost) / len(whole.encode(text, add_special_tokens=False).tokens)
    assert found.unknown == 1 / len(small.encode(text, add_special_tokens=False).tokens)
    assert (found.tokens, found.of) == (small.get_vocab_size(), whole.get_vocab_size())
    assert coverage(name, folder, ["low"]).uncovered == 0


def data(tmp_path, **fields):
    rows = [f'"{text}",{row % 2}\n' for row, text in enumerate(TEXTS[:60])]
    (tmp_path / "a.csv").write_text("text,label\n" + "".join(rows))
    return Data(source=TextFile(path=str(tmp_path / "a.csv"), text="text", label="label"), **fields)


def test_it_is_fitted_on_the_training_rows_and_says_once_what_it_covers(folder, tmp_path, caplog):
    splits = data(tmp_path).load(tokenizer="task", teacher_tokenizer=folder)
    assert sum("of the validation texts' tokens" in one.getMessage() for one in caplog.records) == 1
    train = [splits.train.table.raw(row) for row in splits.train.rows.tolist()]
    assert splits.reader.tokenizer == reduced(train, folder)
    assert data(tmp_path, tokenizer=folder).load(tokenizer="task").reader == splits.reader
    assert data(tmp_path, tokenizer="task").load(teacher_tokenizer=folder).reader == splits.reader


def test_without_a_whole_one_it_says_so(folder, tmp_path):
    with pytest.raises(DataError, match="this teacher brings none"):
        data(tmp_path).load(tokenizer="task")
    with pytest.raises(DataError, match="leave one of the two out"):
        data(tmp_path, tokenizer="words").load(tokenizer="task", teacher_tokenizer=folder)

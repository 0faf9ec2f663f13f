"""Two tokenisations of one text: every byte is in one chunk, and no chunk can be split."""

import json
import random
import unicodedata

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from limbeck.data.alignment import byte_ends, chunks, shared_tokens
from limbeck.data.spelling import Kind, Spelling, Token, spelling
from limbeck.errors import DataError

law = settings(max_examples=60, deadline=None, derandomize=True)
TEXTS = (
    "hello world, hello there",
    "  two  spaces and a \n new line ",
    "蒸馏把大模型教给小模型。蒸馏!",
    "Türkiye café cafe\u0301 na\u0131ve \u0928\u092e\u0938\u094d\u0924\u0947",
    "🙂👩‍👩‍👧 flags 🇩🇪 and 🙂",
    "a",
)
SPECIAL = ["<unk>", "</s>"]
LETTERS = sorted({letter for text in TEXTS for letter in text})


def fast(backend, **names):
    return PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>", eos_token="</s>", **names)


def byte_level(size, space=False, normalizer=None):
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=space)
    backend.decoder = decoders.ByteLevel()
    if normalizer:
        backend.normalizer = normalizer
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    backend.train_from_iterator(
        TEXTS * 3,
        trainers.BpeTrainer(vocab_size=size, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False),
    )
    return fast(backend)


ALPHABET = byte_level(258)  # bytes alone, without one merge


def unigram():
    backend = Tokenizer(models.Unigram())
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    backend.decoder = decoders.Metaspace(prepend_scheme="always")
    trainer = trainers.UnigramTrainer(
        vocab_size=150, unk_token="<unk>", special_tokens=SPECIAL, initial_alphabet=LETTERS, show_progress=False
    )
    backend.train_from_iterator(TEXTS * 3, trainer)
    return fast(backend)


def fallback():
    """As Llama 2's: a space before every text, and a byte token for each byte of an unknown letter."""
    names = [*SPECIAL, *(f"<0x{byte:02X}>" for byte in range(256)), "▁", "h", "e", "▁h", "▁he", "l", "ll", "A"]
    merges = [("▁", "h"), ("▁h", "e"), ("l", "l")]
    vocabulary = {name: number for number, name in enumerate(names)}
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=merges, byte_fallback=True, unk_token="<unk>"))
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    backend.decoder = decoders.Sequence(steps)
    return fast(backend)


def words(*texts):
    pieces = pre_tokenizers.Whitespace()
    known = dict.fromkeys(word for text in texts for word, _ in pieces.pre_tokenize_str(text))
    backend = Tokenizer(
        models.WordLevel({name: number for number, name in enumerate([*SPECIAL, *known])}, unk_token="<unk>")
    )
    backend.pre_tokenizer = pieces
    return fast(backend)


def word_pieces():
    names = [*SPECIAL, "hel", "##lo", "wor", "##ld", "lo", ",", "there"]
    backend = Tokenizer(models.WordPiece({name: number for number, name in enumerate(names)}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece()
    return fast(backend)


@pytest.fixture(scope="module")
def known():
    return {
        "bytes": byte_level(265),
        "longer": byte_level(330),
        "spaced": byte_level(300, space=True),
        "unigram": unigram(),
        "fallback": fallback(),
        "words": words(*TEXTS),
    }


NAMES = ("bytes", "longer", "spaced", "unigram", "fallback", "words")


def read(tokenizer, texts):
    rows = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]
    ids = torch.full((len(rows), max(map(len, rows))), tokenizer.eos_token_id)
    for row, tokens in enumerate(rows):
        ids[row, : len(tokens)] = torch.tensor(tokens)
    return ids


def ends_of(tokenizer, texts):
    return byte_ends(spelling(tokenizer), texts, read(tokenizer, texts))


def walked(ours, theirs):
    """The chunks of one row by two pointers: the side that ends earlier goes on, equal ends close."""
    found = [-1] * len(ours), [-1] * len(theirs)
    sides = [[(at, end) for at, end in enumerate(side) if end >= 0] for side in (ours, theirs)]
    number, i, j, held = 0, 0, 0, ([], [])
    while i < len(sides[0]) and j < len(sides[1]):
        (at, end), (other, other_end) = sides[0][i], sides[1][j]
        if end <= other_end:
            held[0].append(at)
            i += 1
        if other_end <= end:
            held[1].append(other)
            j += 1
        if end == other_end:
            for side, tokens in zip(found, held, strict=True):
                for token in tokens:
                    side[token] = number
                tokens.clear()
            number += 1
    return found


def rising(generator, length, size):
    """Ends of tokens, some of them without bytes."""
    ends = sorted(generator.sample(range(1, length + 1), generator.randint(0, min(size, length))))
    gaps = generator.sample(range(size), len(ends))
    row = [-1] * size
    for at, end in zip(sorted(gaps), ends, strict=True):
        row[at] = end
    return row


@law
@given(st.integers(0, 2**31), st.integers(1, 4), st.integers(1, 30))
def test_chunks_are_those_of_two_pointers(seed, rows, length):
    generator = random.Random(seed)
    sizes = generator.randint(1, 20), generator.randint(1, 20)
    ours, theirs = ([rising(generator, length, size) for _ in range(rows)] for size in sizes)
    found = chunks(torch.tensor(ours), torch.tensor(theirs))
    expected = zip(*(walked(*pair) for pair in zip(ours, theirs, strict=True)), strict=True)
    for side, rows_expected in zip(found, expected, strict=True):
        assert side.dtype == torch.int64
        assert side.tolist() == list(rows_expected)


def test_no_tokens_are_in_no_chunk():
    for sizes in ((0, 3), (3, 0), (0, 0)):
        ours, theirs = chunks(*(torch.arange(1, size + 1).repeat(2, 1) for size in sizes))
        assert [tuple(side.shape) for side in (ours, theirs)] == [(2, size) for size in sizes]
        assert (ours == -1).all()
        assert (theirs == -1).all()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("other", NAMES)
def test_every_byte_is_in_one_chunk_and_chunks_spell_the_text(known, name, other):
    sides = [ends_of(known[which], TEXTS) for which in (name, other)]
    numbered = chunks(*sides)
    for row, text in enumerate(TEXTS):
        covered = []
        for ends, ids in zip(sides, numbered, strict=True):
            kept = [(end, chunk) for end, chunk in zip(ends[row].tolist(), ids[row].tolist(), strict=True) if end >= 0]
            assert all(chunk >= 0 for _, chunk in kept)  # the whole text was read, so nothing is left over
            starts = [0, *(end for end, _ in kept)]
            owners = [chunk for start, (end, chunk) in zip(starts, kept, strict=False) for _ in range(start, end)]
            assert sorted(set(owners)) == list(range(owners[-1] + 1))
            covered.append(owners)
        assert covered[0] == covered[1]  # each byte's one chunk is the same on both sides
        assert len(covered[0]) == len(text.encode())


@pytest.mark.parametrize("name", NAMES)
def test_the_same_tokenizer_gives_one_token_a_chunk_and_shares_every_token(known, name):
    ends = ends_of(known[name], TEXTS)
    ours, theirs = chunks(ends, ends)
    assert torch.equal(ours, theirs)
    for row in ours:
        assert row[row >= 0].tolist() == list(range(int((row >= 0).sum())))
    own = spelling(known[name])
    assert shared_tokens(own, own).tolist() == list(range(len(known[name])))


@law
@given(st.text(max_size=12))
def test_byte_tokens_end_at_every_byte_of_any_text(text):
    ids = torch.tensor([ALPHABET(text, add_special_tokens=False)["input_ids"]], dtype=torch.int64)
    assert byte_ends(spelling(ALPHABET), [text], ids).tolist() == [list(range(1, len(text.encode()) + 1))]


def test_a_letter_of_many_bytes_is_split_where_its_tokens_end(known):
    assert ends_of(known["fallback"], ["he里🙂"]).tolist() == [[2, 3, 4, 5, 6, 7, 8, 9]]
    assert ends_of(known["words"], ["hello  world there "]).tolist() == [[5, 12, 19]]
    ours, theirs = chunks(ends_of(known["fallback"], ["蒸a"]), torch.tensor([[3, 4]]))
    assert ours.tolist() == [[-1, 0, 0, 0, 1]]  # the first token is the space before the text, and has no bytes
    assert theirs.tolist() == [[0, 1]]


def test_a_space_that_is_put_before_the_text_is_no_byte_and_its_own_is(known):
    assert ends_of(known["spaced"], ["a b"])[0, 0] == 1
    assert ends_of(known["unigram"], ["hello"])[0].max() == 5
    for name in ("spaced", "unigram", "fallback"):
        assert ends_of(known[name], [" a"])[0].max() == 2


def test_prompts_special_tokens_and_padding_have_no_bytes(known):
    own, eos = spelling(known["bytes"]), known["bytes"].eos_token_id
    ids = torch.tensor([[*known["bytes"]("ab", add_special_tokens=False)["input_ids"], eos, eos]])
    assert byte_ends(own, ["ab"], ids).tolist() == [[1, 2, -1, -1]]
    counts = torch.tensor([[False, True, True, True]])
    assert byte_ends(own, ["b"], ids, counts).tolist() == [[-1, 1, -1, -1]]


def test_a_text_that_is_cut_short_ends_its_last_chunk_where_both_sides_do(known):
    ids = read(known["longer"], TEXTS[:1])[:, :2]
    ours = byte_ends(spelling(known["longer"]), TEXTS[:1], ids)
    theirs = ends_of(known["bytes"], TEXTS[:1])
    one, other = chunks(ours, theirs)
    assert one.tolist() == [[0, 1]]
    assert (other[theirs > ours.max()] == -1).all()


def test_words_of_every_kind_have_bytes():
    own = spelling(word_pieces())
    assert own.tokens[3] == Token(Kind.INSIDE, b"lo")
    assert not own.spaced
    assert ends_of(word_pieces(), ["hello, world"]).tolist() == [[3, 5, 6, 10, 12]]


def test_shared_tokens_spell_the_same_bytes_and_are_shared_once(known):
    sides = [spelling(known[name]) for name in ("longer", "fallback")]
    shared = shared_tokens(*sides)
    ours, theirs = sides
    kept = [(own, other) for own, other in enumerate(shared.tolist()) if other >= 0]
    for own, other in kept:
        assert ours.tokens[own].content == theirs.tokens[other].content
        assert (ours.tokens[own].kind == Kind.SPECIAL) == (theirs.tokens[other].kind == Kind.SPECIAL)
    assert len({other for _, other in kept}) == len(kept)
    assert len(kept) >= 256  # every byte at least: "Ġ" and "▁" are one, "ä" and "<0xE4>" too
    back = shared_tokens(theirs, ours)
    assert all(back[other] == own for own, other in kept)
    tokens = {token.content: number for number, token in enumerate(theirs.tokens) if token.kind == Kind.TEXT}
    spoken = next(number for number, token in enumerate(ours.tokens) if token.content == b"A")
    assert shared[spoken] == tokens[b"A"]  # and not "<0x41>", which stands in only where there is no such token


def test_ends_of_sequence_are_one_token_and_a_special_name_is_no_text():
    ours = Spelling((Token(Kind.SPECIAL, b"</s>"), Token(Kind.TEXT, b"<eos>"), Token(Kind.TEXT, b" ")), end=0)
    theirs = Spelling((Token(Kind.TEXT, b" "), Token(Kind.SPECIAL, b"<eos>"), Token(Kind.TEXT, b"</s>")), end=1)
    assert shared_tokens(ours, theirs).tolist() == [1, -1, 0]
    assert shared_tokens(ours, theirs, width=5).tolist() == [1, -1, 0, -1, -1]
    endless = Spelling(ours.tokens)
    assert shared_tokens(ours, endless).tolist() == [0, 1, 2]  # by its name, where only one has an end


@pytest.mark.parametrize(
    ("change", "text", "said"),
    [
        (normalizers.NFC(), "cafe\u0301 au lait", "form NFC"),
        (normalizers.NFKC(), "ﬁne", "form NFKC"),
        (normalizers.Lowercase(), "Hello", "small letters"),
        (normalizers.Replace("l", "L"), "hello", "Leave such texts out"),
    ],
)
def test_a_tokenizer_that_changes_texts_is_refused_by_row(change, text, said):
    tokenizer = byte_level(262, normalizer=change)
    same = unicodedata.normalize("NFC", "cafe\u0301").lower()
    with pytest.raises(DataError, match=f"row 1: the tokens do not spell the text.*{said}"):
        ends_of(tokenizer, ["au", text])
    if "form" in said:
        assert ends_of(tokenizer, [same]).max() == len(same.encode())


def test_small_letters_of_word_pieces_and_unknown_words_are_refused():
    backend = Tokenizer.from_str(word_pieces().backend_tokenizer.to_str())
    backend.normalizer = normalizers.BertNormalizer(lowercase=True)
    with pytest.raises(DataError, match=r"row 0: the tokens do not spell.*small letters"):
        ends_of(fast(backend), ["Hello"])
    with pytest.raises(DataError, match="row 0: the tokenizer has no token for a part"):
        ends_of(words("hello"), ["hello moon"])


def test_bad_input_is_named(known):
    own = spelling(known["bytes"])
    with pytest.raises(DataError, match="row 0: there is no token 999 in a vocabulary of"):
        byte_ends(own, ["a"], torch.tensor([[999]]))
    with pytest.raises(DataError, match="row 0: half of a surrogate pair at character 1"):
        byte_ends(own, ["a\ud83d"], torch.tensor([[2]]))
    with pytest.raises(ValueError, match="2 texts and 1 rows"):
        byte_ends(own, ["a", "b"], torch.tensor([[2]]))
    with pytest.raises(ValueError, match="do not rise"):
        chunks(torch.tensor([[1, 2, 2]]), torch.tensor([[1, 2]]))
    with pytest.raises(DataError, match="object does not say how its tokens are spelled"):
        spelling(object())
    with pytest.raises(DataError, match="The teacher's tokenizer leaves out the white space"):
        shared_tokens(own, spelling(known["words"]))
    with pytest.raises(ValueError, match="width is 3"):
        shared_tokens(own, own, width=3)


def test_a_text_with_the_name_of_a_special_token_is_refused(known):
    with pytest.raises(DataError, match="do not spell"):
        ends_of(known["bytes"], ["say </s> aloud"])


def test_added_tokens_are_spelled_as_they_are():
    tokenizer = byte_level(262)
    tokenizer.add_tokens(["é!", "\t\t"])
    assert json.loads(tokenizer.backend_tokenizer.to_str())["added_tokens"]
    assert ends_of(tokenizer, ["é!\t\té"]).tolist() == [[3, 5, 6, 7]]

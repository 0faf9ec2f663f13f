"""What holds of every number about language models, and what is said of bad input."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from limbeck.errors import DataError, LimbeckError
from limbeck.evidence import generations as g
from limbeck.evidence import language

law = settings(max_examples=60, deadline=None, derandomize=True)
tokens = st.lists(st.integers(0, 4), max_size=40)
nlls = st.lists(st.tuples(st.floats(0, 1e4), st.integers(1, 1000)), min_size=2, max_size=30)


@law
@given(nlls, st.integers(1, 29))
def test_texts_may_be_joined_without_a_change_of_bits_per_byte(rows, cut):
    nats, sizes = np.array(rows).T
    joined = [[part[:cut].sum(), part[cut:].sum()] if cut < len(part) else [part.sum()] for part in (nats, sizes)]
    whole = language.bits_per_byte(nats, sizes)
    assert language.bits_per_byte(*joined) == pytest.approx(whole, rel=1e-12)
    each = language.bits_per_byte_of_each(nats, sizes)
    assert whole == pytest.approx(np.average(each, weights=sizes), rel=1e-12)
    assert each.min() <= whole * (1 + 1e-12) + 1e-300
    assert whole <= each.max() * (1 + 1e-12)


@law
@given(nlls)
def test_a_comparison_turns_round_with_its_sides(rows):
    nats, sizes = np.array(rows).T
    other = nats[::-1]
    ours, theirs = (language.compare_bits(*pair, sizes, resamples=50) for pair in ((nats, other), (other, nats)))
    assert ours.mean == pytest.approx(-theirs.mean, abs=1e-9)
    apart = language.bits_per_byte(nats, sizes) - language.bits_per_byte(other, sizes)
    assert ours.mean == pytest.approx(apart, abs=1e-9)
    same = language.compare_bits(nats, nats, sizes, resamples=50)
    assert (same.mean, same.ci95, same.telling) == (0, (0, 0), 0)


def test_a_comparison_does_not_touch_the_global_random_state_and_comes_again():
    draw = np.random.default_rng(0)
    a, b, sizes = draw.gamma(2, 9, 2000), draw.gamma(2, 9, 2000), draw.integers(1, 90, 2000)
    before = np.random.get_state()[1].tolist()
    first = language.compare_bits(a, b, sizes, resamples=100, seed=4)
    assert first == language.compare_bits(a, b, sizes, resamples=100, seed=4)
    assert first.ci95 != language.compare_bits(a, b, sizes, resamples=100, seed=5).ci95
    assert np.random.get_state()[1].tolist() == before


def test_several_seeds_are_averaged():
    draw = np.random.default_rng(0)
    a, b, sizes = draw.gamma(2, 9, (3, 50)), draw.gamma(2, 9, (2, 50)), draw.integers(1, 90, 50)
    found = language.compare_bits(a, b, sizes, resamples=100)
    per_seed = [np.mean([language.bits_per_byte(row, sizes) for row in one]) for one in (a, b)]
    assert found.mean == pytest.approx(per_seed[0] - per_seed[1], rel=1e-12)
    assert found == language.compare_bits(a.mean(0), b.mean(0), sizes, resamples=100)


@pytest.mark.parametrize(
    ("nats", "sizes", "says"),
    [
        ([1.0, 2.0], [3], "shape \\[2\\] and the number of bytes \\[1\\]"),
        ([], [], "at least one text"),
        ([1.0, float("nan")], [3, 3], "text 1 is nan"),
        ([float("inf"), 1.0], [3, 3], "text 0 is inf"),
        ([1.0, -40.0], [3, 3], "text 1 is -40, below 0"),
        ([1.0, 2.0], [3, 0], "Text 1 has 0 bytes"),
        ([1.0, 2.0], [-3, 1], "Text 0 has -3 bytes"),
        ([1.0, 2.0], [float("nan"), 1], "Text 0 has nan bytes"),
    ],
)
def test_what_cannot_be_is_named(nats, sizes, says):
    for one in (language.bits_per_byte, language.bits_per_byte_of_each, lambda a, b: language.compare_bits(a, a, b)):
        with pytest.raises(LimbeckError, match=says):
            one(nats, sizes)


def test_other_complaints():
    with pytest.raises(LimbeckError, match="Text 0 has 0 tokens"):
        language.perplexity([1.0], [0])
    with pytest.raises(LimbeckError, match="shape \\[1, 1\\]"):
        language.bits_per_byte([[1.0]], [[3]])
    with pytest.raises(LimbeckError, match="at least two"):
        language.compare_bits([1.0], [2.0], [3])
    with pytest.raises(DataError, match="Text 1 is no valid Unicode"):
        language.utf8_bytes(["fine", "\ud800"])
    assert language.bits_per_byte([-1e-5, 1.0], [3, 3]) > 0, "rounding is no mistake"
    assert language.perplexity([1e6], [1]) == float("inf")


@law
@given(st.lists(tokens, max_size=5), st.integers(1, 5))
def test_distinct_is_a_share_and_a_second_copy_halves_it(texts, n):
    once, twice = g.distinct_n(texts, n), g.distinct_n(texts + texts, n)
    assert (once is None) == all(len(text) < n for text in texts)
    if once is not None:
        assert 0 < once <= 1
        assert twice == pytest.approx(once / 2)


@law
@given(tokens, st.integers(1, 5))
def test_repetition_is_what_distinct_leaves_and_new_tokens_have_none(text, n):
    again = g.repetition(text, n)
    assert (again is None) == (len(text) < n)
    if again is not None:
        assert again == pytest.approx(1 - g.distinct_n([text], n))
        assert g.repetition(range(len(text)), n) == 0


@law
@given(tokens.filter(bool), tokens, st.integers(3, 6))
def test_a_block_again_and_again_is_a_loop(block, before, times):
    found = g.longest_loop([*before, *block * times])
    assert len(block) * times <= found <= len(before) + len(block) * times
    assert g.longest_loop(range(30)) == 0


@law
@given(tokens, tokens)
def test_likeness_is_symmetric_and_whole_at_a_match(a, b):
    assert g.rouge_l(a, a) == 1
    assert g.rouge_l(a, b) == g.rouge_l(b, a)
    assert 0 <= g.rouge_l(a, b) <= 1
    assert g.rouge_l(a, [token + 9 for token in b]) == (0 if a or b else 1)
    assert g.longest_common_subsequence(a, [9, *a, 9]) == len(a)


@law
@given(tokens, st.sets(st.integers(0, 4), max_size=2))
def test_a_text_ends_at_the_first_of_its_end_tokens(text, ends):
    cut = g.before_end(text, ends)
    assert cut == text[: len(cut)]
    assert not ends & set(cut)
    assert (len(cut) < len(text)) == (g.ended_share([text], ends) == 1)
    assert g.before_end(torch.tensor(text, dtype=torch.int64), ends) == cut


def test_nothing_written_divides_nothing():
    for texts in ([], [[]], [[], []], [""]):
        assert g.distinct_n(texts, 2) is None
    assert g.repetition([]) is g.repetition("") is g.repetition([1, 2]) is None
    assert g.longest_loop([]) == 0
    assert g.lengths([]) is g.ended_share([], {1}) is None
    assert g.lengths([[], [1]]).empty == 0.5
    assert g.rouge_l([], []) == 1
    assert g.rouge_l([], [1]) == g.rouge_l([1], []) == 0
    assert g.exact_match([], []).shape == (0,)


def test_tensors_are_compared_by_value():
    text = [1, 2, 1, 2, 1, 2]
    for one in (torch.tensor(text), np.array(text)):
        assert g.repetition(one, 2) == g.repetition(text, 2) > 0
        assert g.longest_loop(one) == 6
        assert g.rouge_l(one, text) == 1
        assert g.distinct_n(one[None], 2) == g.distinct_n([text], 2)
        assert g.ended_share(one[None], {2}) == 1


def test_scripts_without_spaces_are_measured():
    chinese, thai = "今天天气很好今天天气很好今天天气很好", "สวัสดีสวัสดีสวัสดี"
    for text in (chinese, thai):
        assert g.longest_loop(text) == len(text)
        assert g.repetition(text) > 0.5
        assert g.distinct_n([text], 2) < 0.5
    assert 0 < g.rouge_l("北京是首都", "首都是北京") < 1


def test_exact_match_by_normaliser():
    said = ["Paris", " paris. ", "The Paris", "ＰＡＲＩＳ", "Paris, France", ""]
    truth = ["Paris"] * 6
    assert g.exact_match(said, truth).tolist() == [1, 0, 0, 0, 0, 0]
    assert g.exact_match(said, truth, g.folded).tolist() == [1, 1, 0, 1, 0, 0]
    assert g.exact_match(said, truth, g.squad).tolist() == [1, 1, 1, 0, 0, 0]
    assert g.exact_match(["b", "x"], [["a", "b"], ("a", "b")]).tolist() == [1, 0]
    assert g.exact_match(["北京。", "मुंबई।", "-3", "1.5"], ["北京", "मुंबई", "3", "15"], g.folded).tolist() == [1, 1, 0, 0]
    assert g.exact_match(["", "a", "the", "B"], ["A"] * 4, g.squad).tolist() == [0, 1, 0, 0], "A is a choice too"
    assert g.exact_match([" "], [""]).tolist() == [1], "no answer is an answer where it is the reference"


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: g.exact_match(["a"], []), "1 answers to 0 references"),
        (lambda: g.exact_match(["a", "b"], ["a", []]), "Answer 1 has no reference"),
        (lambda: g.distinct_n([[1]], 0), "n is 0"),
        (lambda: g.repetition([1], -1), "n is -1"),
        (lambda: g.longest_loop([1], 1), "times is 1"),
    ],
)
def test_bad_calls_are_named(call, says):
    with pytest.raises(LimbeckError, match=says):
        call()

"""Numbers of language models against independent forms: tables of all subsequences, counting by hand, plain bootstraps."""

import itertools
import math
import re
import string

import numpy as np
import pytest
from scipy import stats

from limbeck.evidence import generations as g
from limbeck.evidence import language
from limbeck.evidence.comparison import item_bootstrap


def world(texts=200, seed=0):
    """NLL of two models whose quality depends on the length of a text, in nats, and bytes."""
    draw = np.random.default_rng(seed)
    sizes = draw.integers(5, 400, texts)
    ours = sizes * 0.7 + draw.gamma(2, 3, texts)
    return ours, ours + 0.02 * sizes + draw.normal(0, 1, texts), sizes


def test_bits_per_byte_by_hand():
    # 8 bits on 2 bytes and 2 bits on 8 bytes: 10 bits on 10 bytes, where the mean over texts is 2.125
    nats = np.log(2) * np.array([8.0, 2.0])
    assert language.bits_per_byte(nats, [2, 8]) == pytest.approx(1.0, rel=1e-14)
    assert language.bits_per_byte_of_each(nats, [2, 8]) == pytest.approx([4.0, 0.25], rel=1e-14)
    assert language.perplexity(nats, [1, 9]) == pytest.approx(2.0, rel=1e-14)


def test_uniform_bytes_have_eight_bits_whatever_the_tokens():
    """A model of single bytes and one of pairs of bytes, both uniform, spell the same texts."""
    texts = ["plain words", "höher", "北京", "नमस्ते", "🙂"]
    sizes = language.utf8_bytes(texts)
    assert sizes.tolist() == [11, 6, 6, 18, 4]
    singles, pairs = sizes * math.log(256), np.ceil(sizes / 2) * math.log(256**2)
    assert language.bits_per_byte(singles, sizes) == pytest.approx(8, rel=1e-14)
    assert language.bits_per_byte(pairs[1:], sizes[1:]) == pytest.approx(8, rel=1e-14)
    assert language.perplexity(singles, sizes) == pytest.approx(256, rel=1e-12)
    assert language.perplexity(pairs[1:], sizes[1:] / 2) == pytest.approx(256**2, rel=1e-12)


def test_the_paired_interval_is_a_plain_bootstrap_of_the_ratio():
    ours, theirs, sizes = world()
    found = language.compare_bits(ours, theirs, sizes, resamples=4000)
    draw, ratios = np.random.default_rng(9), []
    for _ in range(4000):
        at = draw.integers(0, len(sizes), len(sizes))
        ratios.append((ours[at].sum() - theirs[at].sum()) / (math.log(2) * sizes[at].sum()))
    # a 2.5 % quantile of 4000 draws is off by 0.04 of their standard deviation (1 / (density sqrt(n))); twice and four sigma
    assert found.ci95 == pytest.approx(np.percentile(ratios, [2.5, 97.5]), abs=0.25 * np.std(ratios))
    assert found.mean == pytest.approx((ours.sum() - theirs.sum()) / (math.log(2) * sizes.sum()), rel=1e-12)
    assert (found.examples, found.telling, found.resamples) == (200, 200, 4000)
    # lengths drawn by themselves would add their own spread, twenty times as much here
    apart = [
        (ours[i].sum() / sizes[j].sum() - theirs[k].sum() / sizes[m].sum()) / math.log(2)
        for i, j, k, m in draw.integers(0, 200, (500, 4, 200))
    ]
    assert found.ci95[1] - found.ci95[0] < np.ptp(np.percentile(apart, [2.5, 97.5])) / 20


def test_texts_of_equal_size_are_compared_as_items_are():
    ours, theirs, _ = world()
    found = language.compare_bits(ours, theirs, np.full(200, 10), resamples=500)
    items = item_bootstrap(ours[None] / 10 / np.log(2), theirs[None] / 10 / np.log(2), 500, bounded=False)
    assert found.mean == pytest.approx(items.mean, rel=1e-12)
    # the same 500 draws of the same seed, unless equal rows were merged in another order
    assert found.ci95 == pytest.approx(items.ci95, rel=1e-9)


def test_the_interval_covers_the_truth_as_often_as_it_says():
    """Texts of 60 from a law whose ratio is known: bytes uniform on 1..99, bits apart 0.1 bytes + noise."""
    draw, covered, tries = np.random.default_rng(3), 0, 300
    for one in range(tries):
        sizes = draw.integers(1, 100, 60)
        apart = 0.1 * sizes + draw.normal(0, 2, 60)
        low, high = language.compare_bits((500 + apart) * np.log(2), np.full(60, 500 * np.log(2)), sizes, 400, one).ci95
        covered += low <= 0.1 <= high
    # a percentile bootstrap of 60 covers some 94 %; 300 tries leave that 1.4 % of standard error: three of those
    assert 0.895 <= covered / tries <= 0.985


def all_grams(text, n):
    return [tuple(text[start : start + n]) for start in range(len(text) - n + 1)]


def test_distinct_and_repetition_count_by_hand():
    text = [1, 2, 1, 2, 1, 3]  # pairs: 12 21 12 21 13
    assert g.distinct_n([text], 2) == pytest.approx(3 / 5)
    assert g.repetition(text, 2) == pytest.approx(2 / 5)
    assert g.distinct_n([text, [1, 2], []], 2) == pytest.approx(3 / 6)
    assert g.distinct_n([text, text], 2, first=3) == pytest.approx(2 / 4)
    assert g.repetition([7] * 10) == pytest.approx(6 / 7)


@pytest.mark.parametrize("n", [1, 2, 3, 4])
def test_repetition_counts_what_stood_before(n):
    draw = np.random.default_rng(n)
    for _ in range(30):
        text = draw.integers(0, 3, draw.integers(n, 30)).tolist()
        grams = all_grams(text, n)
        again = sum(gram in grams[:at] for at, gram in enumerate(grams))
        assert g.repetition(text, n) == pytest.approx(again / len(grams))


def slow_loop(text, times):
    """Every stretch and every block, compared token by token."""
    return max(
        (
            end - start
            for start, end in itertools.combinations(range(len(text) + 1), 2)
            for period in range(1, (end - start) // times + 1)
            if all(text[at] == text[at - period] for at in range(start + period, end))
        ),
        default=0,
    )


@pytest.mark.parametrize("times", [2, 3, 4])
def test_the_longest_loop_is_that_of_all_stretches(times):
    draw = np.random.default_rng(times)
    found = set()
    for _ in range(60):
        text = draw.integers(0, 2, draw.integers(0, 16)).tolist()
        found.add(g.longest_loop(text, times))
        assert g.longest_loop(text, times) == slow_loop(text, times), text
    assert len(found) > 4
    stretch = " on and on and on and on"  # three whole blocks of seven and a bit
    assert g.longest_loop(f"so{stretch}.", times) == (len(stretch) if times < 4 else 0)


def slow_lcs(a, b):
    table = np.zeros((len(a) + 1, len(b) + 1), dtype=int)
    for i, j in itertools.product(range(len(a)), range(len(b))):
        table[i + 1, j + 1] = table[i, j] + 1 if a[i] == b[j] else max(table[i, j + 1], table[i + 1, j])
    return int(table[-1, -1])


def test_common_subsequences_are_those_of_the_table():
    draw = np.random.default_rng(0)
    for _ in range(150):
        a, b = (draw.integers(0, 4, draw.integers(0, 90)).tolist() for _ in range(2))
        length = slow_lcs(a, b)
        assert g.longest_common_subsequence(a, b) == length
        if a and b and length:
            precision, recall = length / len(a), length / len(b)
            assert g.rouge_l(a, b) == pytest.approx(2 * precision * recall / (precision + recall), rel=1e-14)


def test_squad_is_its_definition():
    def official(text):  # lower, no punctuation, no articles, single spaces: in the order of the paper's script
        bare = "".join(letter for letter in text.lower() if letter not in set(string.punctuation))
        return " ".join(re.sub(r"\b(a|an|the)\b", " ", bare).split())

    texts = ["The  Beatles!", "a man, a plan", "U.S.A.", "An-other", "then", "  x\ty ", "the", "1.5", "-3", "Ärger."]
    texts += ["the—end", "“The End”", "the\u00a0cat", "theta a"]
    assert [g.squad(one) for one in texts] == [official(one) for one in texts]
    assert g.squad("The  Beatles!") == "beatles"


def test_lengths_are_numpys():
    counts = np.random.default_rng(1).integers(0, 9, 101)
    found = g.lengths([[0] * one for one in counts])
    assert (found.mean, found.median) == (pytest.approx(counts.mean()), np.median(counts))
    assert (found.shortest, found.longest, found.empty) == (counts.min(), counts.max(), (counts == 0).mean())


def test_diversity_is_higher_where_the_law_is_flatter():
    draw = np.random.default_rng(0)
    flat = draw.integers(0, 50, (40, 30))
    peaked = stats.zipfian.rvs(2.0, 50, size=(40, 30), random_state=0)
    assert g.distinct_n(flat, 2) > g.distinct_n(peaked, 2)
    assert np.mean([g.repetition(one, 1) for one in flat]) < np.mean([g.repetition(one, 1) for one in peaked])

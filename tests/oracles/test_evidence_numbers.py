"""Slow, independent forms in float64, from the definitions."""

import math
from functools import cache

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.stats import binomtest
from torch import nn

from limbeck.data.tasks import CLASSES
from limbeck.errors import DataError, LimbeckError
from limbeck.evidence.comparison import difference, gap_closed, item_bootstrap, keeps, mcnemar
from limbeck.evidence.efficiency import bytes_on_disk, compare_latency, efficiency, parameters
from limbeck.evidence.fidelity import fidelity, relation_matrix
from limbeck.evidence.quality import quality
from limbeck.evidence.resample import resample, upper_bound
from limbeck.evidence.verdict import detectable, seeds_needed


def sample(rows=400, classes=5, seed=0, skill=2.0):
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, classes, rows)
    return generator.normal(size=(rows, classes)) + skill * np.eye(classes)[labels], labels


def probabilities(row):
    top = max(row)
    each = [math.exp(value - top) for value in row]
    return [value / sum(each) for value in each]


def test_quality_by_loops():
    logits, labels = sample()
    found = quality(logits, labels)
    nll = brier = right = 0.0
    bins = [[] for _ in range(15)]
    for row, label in zip(logits, labels, strict=True):
        p = probabilities(row)
        nll -= math.log(p[label])
        brier += sum((value - (one == label)) ** 2 for one, value in enumerate(p))
        best = p.index(max(p))
        right += best == label
        place = next(b for b in range(15) if b / 15 < max(p) <= (b + 1) / 15)
        bins[place].append((max(p), best == label))
    ece = sum(
        len(one) / len(labels) * abs(sum(c for c, _ in one) / len(one) - sum(r for _, r in one) / len(one))
        for one in bins
        if one
    )
    assert found.accuracy == pytest.approx(right / len(labels))
    assert found.nll == pytest.approx(nll / len(labels), abs=1e-12)
    assert found.brier == pytest.approx(brier / len(labels), abs=1e-12)
    assert found.ece == pytest.approx(ece, abs=1e-12)
    assert [one.count for one in found.reliability] == [len(one) for one in bins]
    for number in range(5):
        of_class = labels == number
        assert found.per_class[str(number)] == pytest.approx((logits.argmax(1) == labels)[of_class].mean())


def test_named_metrics_by_loops():
    logits, labels = sample(classes=7)
    guess = logits.argmax(1)
    found = quality(logits, labels, CLASSES.metrics).metrics
    f1, recall, auroc, support = [], [], [], []
    for one in range(7):
        tp, fp, fn = ((guess == one) & (labels == one)).sum(), ((guess == one) & (labels != one)).sum(), 0
        fn = ((guess != one) & (labels == one)).sum()
        f1.append(2 * tp / (2 * tp + fp + fn))
        recall.append(tp / (tp + fn))
        support.append((labels == one).sum())
        p = np.array([probabilities(row)[one] for row in logits])
        wins = [(a > b) + 0.5 * (a == b) for a in p[labels == one] for b in p[labels != one]]
        auroc.append(np.mean(wins))
    assert found["f1-macro"] == pytest.approx(np.mean(f1))
    assert found["f1-weighted"] == pytest.approx(np.average(f1, weights=support))
    assert found["balanced-accuracy"] == pytest.approx(np.mean(recall))
    assert found["auroc"] == pytest.approx(np.mean(auroc))
    top = [sum(row[other] > row[label] for other in range(7)) < 5 for row, label in zip(logits, labels, strict=True)]
    assert found["top-5"] == pytest.approx(np.mean(top))
    a, b = np.eye(7)[guess], np.eye(7)[labels]
    cov = np.sum((a - a.mean(0)) * (b - b.mean(0)))
    assert found["mcc"] == pytest.approx(cov / math.sqrt(np.sum((a - a.mean(0)) ** 2) * np.sum((b - b.mean(0)) ** 2)))


def test_quality_refuses_what_cannot_be_judged():
    logits, labels = sample()
    with pytest.raises(LimbeckError, match="did you mean 'f1-macro'"):
        quality(logits, labels, ("f1_macro",))
    broken = logits.copy()
    broken[3, 0] = np.nan
    for bad, truth in ((broken, labels), (logits[:-1], labels), (logits, labels + 3), (logits, labels - 100)):
        with pytest.raises(DataError):
            quality(bad, truth)
    absent = np.where(labels == 4, 0, labels)
    assert quality(logits, absent, ("auroc",)).metrics["auroc"] is None
    assert quality(logits, absent).per_class["4"] is None
    assert len(quality(logits, labels, classes=("a", "a", "b", "c", "d")).per_class) == 5


def test_quality_survives_extreme_logits():
    found = quality(np.array([[1e4, 0.0], [0.0, 1e4]], dtype=np.float32), np.array([1, 1]))
    assert found.nll == pytest.approx(5000)
    assert found.brier == pytest.approx(1.0)
    assert found.ece == pytest.approx(0.5)


def test_fidelity_by_loops():
    teacher, labels = sample(seed=1)
    student, _ = sample(seed=2)
    found = fidelity(teacher, student, labels)
    kl = js = 0.0
    for t, s in zip(teacher, student, strict=True):
        p, q = probabilities(t), probabilities(s)
        m = [(a + b) / 2 for a, b in zip(p, q, strict=True)]
        kl += sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))
        js += sum(a * math.log(a / c) / 2 + b * math.log(b / c) / 2 for a, b, c in zip(p, q, m, strict=True))
    assert found.kl == pytest.approx(kl / len(labels), abs=1e-12)
    assert found.js == pytest.approx(js / len(labels), abs=1e-12)
    same, wrong = teacher.argmax(1) == student.argmax(1), teacher.argmax(1) != labels
    assert found.agreement == pytest.approx(same.mean())
    assert found.agreement_where_teacher_wrong == pytest.approx(same[wrong].mean())
    assert all(not same[one] for one in found.disagreements)
    assert len(found.disagreements) == 8


def toy(classes=10, rows=2000):
    generator = np.random.default_rng(5)
    labels = np.arange(rows) % classes
    dark = generator.normal(size=(classes, classes))
    dark = dark + dark.T
    return 5 * np.eye(classes)[labels] + dark[labels] + 0.3 * generator.normal(size=(rows, classes)), labels, dark


def test_class_relations_see_dark_knowledge_and_not_temperature():
    teacher, labels, dark = toy()
    assert fidelity(teacher, teacher, labels).relations.pearson == pytest.approx(1)
    assert fidelity(teacher, teacher / 3, labels).relations.pearson > 0.99
    shuffle = np.random.default_rng(1).permutation(10)
    other = teacher - dark[labels] + dark[shuffle][:, shuffle][labels]
    assert abs(fidelity(teacher, other, labels).relations.pearson) < 0.5
    cosines = relation_matrix(teacher, labels)
    one, two = (np.log(np.mean([probabilities(row) for row in teacher[labels == k]], axis=0) + 1e-12) for k in (2, 6))
    one, two = one - one.mean(), two - two.mean()
    assert cosines[2, 6] == pytest.approx(one @ two / math.sqrt((one @ one) * (two @ two)))


def test_class_relations_say_why_they_cannot_be_scored():
    teacher, labels, _ = toy(classes=3, rows=300)
    assert "at least 4" in fidelity(teacher, teacher, labels).relations.reason
    teacher, labels, _ = toy(rows=100)
    assert "at least 20" in fidelity(teacher, teacher, labels).relations.reason
    teacher, labels, _ = toy()
    flat = fidelity(teacher, np.zeros_like(teacher), labels).relations
    assert flat.pearson is None
    assert "the student finds all pairs" in flat.reason
    assert "no test example" in fidelity(teacher, teacher, np.zeros_like(labels)).relations.reason


def test_t_interval_by_hand():
    a, b = [0.91, 0.93, 0.92, 0.95], [0.90, 0.90, 0.91, 0.90]
    each = [x - y for x, y in zip(a, b, strict=True)]
    mean = sum(each) / 4
    sd = math.sqrt(sum((one - mean) ** 2 for one in each) / 3)
    found = difference(a, b)
    assert found.mean == pytest.approx(mean)
    assert found.sd == pytest.approx(sd)
    # 3.182446... is the 97.5 % quantile of Student's t with 3 degrees of freedom, from the tables
    assert found.ci95 == pytest.approx((mean - 3.182446305 * sd / 2, mean + 3.182446305 * sd / 2), abs=1e-9)


def test_one_seed_and_equal_seeds_are_honest():
    assert difference([0.9], [0.8]).ci95 is None
    assert "One seed" in difference([0.9], [0.8]).note
    assert difference([0.9, 0.8], [0.9, 0.8]).ci95 == (0, 0)
    equal = difference([0.9, 0.8], [0.8, 0.7], resolution=0.01)
    assert equal.sd == pytest.approx(0.01 / math.sqrt(12))
    assert "same difference" in equal.note
    assert equal.ci95[0] < equal.mean < equal.ci95[1]


def test_resampling_equals_the_plain_bootstrap():
    generator = np.random.default_rng(0)
    values = generator.choice([-1 / 3, 0, 1 / 3, 1], size=300, p=[0.1, 0.7, 0.1, 0.1])
    fast = resample(values[:, None], 4000)[:, 0]
    plain = np.array([values[generator.integers(0, 300, 300)].mean() for _ in range(4000)])
    assert fast.mean() == pytest.approx(values.mean(), abs=0.002)
    assert fast.std() == pytest.approx(plain.std(), rel=0.05)
    assert np.percentile(fast, [2.5, 97.5]) == pytest.approx(np.percentile(plain, [2.5, 97.5]), abs=0.005)
    assert np.array_equal(fast, resample(values[:, None], 4000)[:, 0])  # seeded
    assert fast.std() == pytest.approx(values.std() / math.sqrt(300), rel=0.05)


def test_resampling_keeps_columns_together_and_bounds_memory():
    values = np.random.default_rng(0).normal(size=(3000, 2))
    values[:, 1] = -values[:, 0]
    draws = resample(values, 5000)  # all rows distinct: more than one block
    assert draws.shape == (5000, 2)
    assert draws.sum(1) == pytest.approx(np.zeros(5000), abs=1e-9)


def test_item_interval_covers_the_truth_about_as_often_as_it_says():
    generator = np.random.default_rng(3)
    hits = 0
    for trial in range(200):
        a, b = generator.random((1, 400)) < 0.9, generator.random((1, 400)) < 0.85
        low, high = item_bootstrap(a, b, resamples=500, seed=trial).ci95
        hits += low <= 0.05 <= high
    assert 180 <= hits <= 199


def pair(gains, losses, rows):
    """Two runs, of which the first alone has so many examples right, and the second alone so many."""
    a, b = np.ones((1, rows), dtype=bool), np.ones((1, rows), dtype=bool)
    b[0, :gains] = False
    a[0, gains : gains + losses] = False
    return a, b


@pytest.mark.parametrize("rows", [30, 120, 1000])
def test_upper_bound_is_the_exact_binomial_bound(rows):
    for hits in (0, 1, 3, 10, 24):
        exact = binomtest(hits, rows).proportion_ci(0.95, "exact").high
        assert upper_bound(np.arange(rows) < hits, 1.0) == pytest.approx(exact, rel=1e-6)
    low, high = item_bootstrap(*pair(0, 0, rows)).ci95
    assert high == pytest.approx(1 - 0.025 ** (1 / rows))
    assert low == pytest.approx(-high)
    # drawn weights say the same as the law: a value that hardly differs from the others calls for draws
    drawn = upper_bound(np.where(np.arange(rows) < 1, 1e-9, np.arange(rows) < 4), 1.0)
    assert drawn == pytest.approx(binomtest(3, rows).proportion_ci(0.95, "exact").high, rel=0.02)


def test_few_examples_show_a_difference_where_mcnemars_exact_test_does():
    for gains, losses in ((5, 0), (6, 0), (7, 1), (8, 1), (9, 2), (10, 2), (11, 3), (12, 3), (15, 5), (15, 6)):
        rejects = binomtest(gains, gains + losses).pvalue < 0.05
        low, _ = item_bootstrap(*pair(gains, losses, 300)).ci95
        assert (low > 0) == rejects, (gains, losses)
        _, high = item_bootstrap(*pair(losses, gains, 300)).ci95
        assert (high < 0) == rejects, (gains, losses)


@pytest.mark.parametrize(
    ("gains", "losses"), [(0.005, 0), (0.02, 0), (0.04, 0), (0.005, 0.005), (0.02, 0.02), (0.04, 0.01), (0.01, 0.04)]
)
def test_the_interval_of_few_examples_misses_as_seldom_as_it_says(gains, losses):
    """Every outcome that can be, weighted by its probability: no simulation."""
    rows, below, above = 100, 0.0, 0.0
    for more in range(16):
        for less in range(16 if losses else 1):
            chance = multinomial([more, less, rows - more - less], rows, [gains, losses, 1 - gains - losses])
            if chance < 1e-6:
                continue
            low, high = interval_of(more, less, rows)
            above += chance * (low > gains - losses)
            below += chance * (high < gains - losses)
    assert below <= 0.0255
    assert above <= 0.0255


@cache
def interval_of(more, less, rows):
    return item_bootstrap(*pair(more, less, rows), resamples=2000).ci95


def multinomial(counts, rows, shares):
    return float(stats.multinomial.pmf(counts, rows, shares))


def test_mcnemar_exact_and_approximate():
    a = np.array([True] * 8 + [False] * 2 + [True] * 20)
    b = np.array([False] * 8 + [True] * 2 + [True] * 20)
    exact = mcnemar(a, b, 0)
    tail = sum(math.comb(10, one) for one in (0, 1, 2, 8, 9, 10)) / 2**10
    assert exact.exact
    assert exact.p == pytest.approx(tail)
    assert mcnemar(a, a, 0).p == 1
    wide = mcnemar(np.repeat(a, 5), np.repeat(b, 5), 0)
    assert not wide.exact
    assert wide.p == pytest.approx(math.erfc(math.sqrt((30 - 1) ** 2 / 50 / 2)))


def runs(accuracy, seeds=3, rows=2000, seed=0):
    return np.random.default_rng(seed).random((seeds, rows)) < accuracy


def test_gap_closed():
    teacher, control = runs(0.95, 1), runs(0.80, seed=1)
    found = gap_closed(teacher, control, runs(0.90, seed=2))
    assert found.value == pytest.approx(2 / 3, abs=0.12)
    assert found.ci95[0] < found.value < found.ci95[1]
    assert gap_closed(teacher, control, control).value == 0
    near = gap_closed(runs(0.80, 1, seed=4), control, runs(0.90, seed=2))
    assert near.value is None
    assert near.ci95 is None
    assert "measurably" in near.reason
    assert "worse" in gap_closed(runs(0.6, 1), control, control).reason


def test_a_gain_of_few_examples_is_no_certain_share_of_the_gap():
    teacher, control = runs(0.95, 1, rows=200), runs(0.80, rows=200, seed=1)
    same = gap_closed(teacher, control, control)
    assert same.value == 0
    most = 1 - 0.025 ** (1 / 200)
    assert same.ci95[1] == pytest.approx(most / (teacher.mean() - control.mean()), rel=1e-6)
    assert same.ci95[0] == pytest.approx(-same.ci95[1])
    assert not keeps(teacher[:, :120], teacher[:, :120]).non_inferior, "120 equal answers leave 3 points open"


def test_keeps():
    teacher = runs(0.9, 1, rows=20_000)
    same = np.repeat(teacher, 3, 0)
    assert keeps(teacher, same).non_inferior
    assert keeps(teacher, same).ratio == 1
    worse = keeps(teacher, same & runs(0.95, rows=20_000, seed=1))
    assert not worse.non_inferior
    assert worse.ci95[0] < worse.difference < worse.ci95[1] < 0
    assert keeps(teacher, same[:1]).basis == "test examples"
    few = runs(0.9, 1, rows=200)
    open_question = keeps(few, few & runs(0.98, rows=200, seed=1))
    assert open_question.ci95[0] < -0.02 < open_question.ci95[1]
    assert not open_question.non_inferior  # the lower end decides


def test_power_agrees_with_simulation():
    generator = np.random.default_rng(0)
    effect = detectable(0.01, 5)
    draws = generator.normal(effect, 0.01, size=(4000, 5))
    shown = draws.mean(1) - 2.776445105 * draws.std(1, ddof=1) / math.sqrt(5) > 0
    assert shown.mean() == pytest.approx(0.8, abs=0.06)
    assert seeds_needed(0.01, effect) == 5
    assert seeds_needed(1.0, 1e-4) is None


def test_sizes_agree_with_the_format():
    from safetensors.torch import save

    module = nn.Sequential(nn.Linear(20, 64), nn.BatchNorm1d(64), nn.Linear(64, 64), nn.Linear(64, 64))
    assert bytes_on_disk(module) == len(save(module.state_dict()))
    assert parameters(module) == sum(one.numel() for one in module.parameters())
    half = nn.Linear(3, 5).half()
    assert bytes_on_disk(half) == len(save(half.state_dict()))
    before = parameters(module), bytes_on_disk(module)
    module[3].weight = module[2].weight
    assert parameters(module) == before[0] - 64 * 64
    assert bytes_on_disk(module) < before[1] - 4 * 64 * 64 + 1


def test_latency_is_measured_in_turns_and_within_its_time():
    from time import sleep

    calls = []
    found = compare_latency({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, seconds=1)
    assert found["a"].timed == found["b"].timed == 100
    assert found["a"].warmup == 20
    assert all(set(calls[one : one + 2]) == {"a", "b"} for one in range(0, len(calls), 2))
    slow = compare_latency({"slow": lambda: sleep(0.03)}, seconds=0.1)["slow"]
    assert 5 <= slow.timed < 100
    assert slow.p95_ms >= slow.p50_ms >= 30


def test_efficiency_leaves_the_module_as_it_was():
    module = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 3))
    module.train()
    module[1].eval()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    found = efficiency(module, {"x": torch.randn(1, 4)}, {"x": torch.randn(32, 4)}, seconds=0.2)
    assert [module.training, module[0].training, module[1].training] == [True, True, False]
    assert all(torch.equal(before[name], value) for name, value in module.state_dict().items())
    assert found.parameters == 83
    assert found.throughput_batch == 32
    assert found.throughput > 0
    assert found.threads == torch.get_num_threads()

"""What must hold whatever the predictions are, and the truth table of the verdict."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from limbeck.data.measure import ACCURACY
from limbeck.errors import LimbeckError
from limbeck.evidence.compare import compare
from limbeck.evidence.comparison import attribution, difference, item_bootstrap
from limbeck.evidence.fidelity import fidelity
from limbeck.evidence.quality import quality
from limbeck.evidence.records import Bootstrap, Difference
from limbeck.evidence.resample import percentile_interval, resample
from limbeck.evidence.results import ArmResult, ArmResults
from limbeck.evidence.schema import Provenance
from limbeck.evidence.verdict import advice, decide, outcome, sentence
from limbeck.evidence.weigh import weigh

FINITE = st.floats(-50, 50, width=32)
LOGITS = st.tuples(st.integers(1, 40), st.integers(2, 7)).flatmap(
    lambda shape: arrays(np.float32, shape, elements=FINITE)
)
RUNS = arrays(bool, (3, 60))
FAST = settings(max_examples=40, deadline=None)


def labels_for(logits):
    return np.arange(len(logits)) % logits.shape[1]


@FAST
@given(LOGITS)
def test_quality_stays_in_its_ranges(logits):
    found = quality(logits, labels_for(logits), ("f1-macro", "mcc", "auroc", "top-5", "balanced-accuracy"))
    assert 0 <= found.accuracy <= 1
    assert found.nll >= 0
    assert 0 <= found.ece <= 1
    assert -1e-12 <= found.brier <= 2 + 1e-12
    assert sum(one.count for one in found.reliability) == len(logits)
    shifted = quality(logits.astype(np.float64) + 7, labels_for(logits))
    assert shifted.nll == pytest.approx(found.nll, abs=1e-9)


@FAST
@given(LOGITS)
def test_a_model_is_faithful_to_itself(logits):
    found = fidelity(logits, logits, labels_for(logits))
    assert found.agreement == 1
    assert found.kl == pytest.approx(0, abs=1e-12)
    assert found.js == pytest.approx(0, abs=1e-12)
    assert found.disagreements == ()
    assert found.agreement_where_teacher_wrong in (1, None)


@FAST
@given(LOGITS, st.integers(0, 99))
def test_divergences_are_not_negative_and_js_is_symmetric(logits, seed):
    other = np.random.default_rng(seed).normal(size=logits.shape) * 9
    there, back = (fidelity(*pair, labels_for(logits)) for pair in ((logits, other), (other, logits)))
    assert there.kl >= 0
    assert 0 <= there.js <= np.log(2) + 1e-12
    assert there.js == pytest.approx(back.js, abs=1e-12)
    assert there.agreement == back.agreement


@FAST
@given(RUNS)
def test_identical_predictions_differ_by_nothing(right):
    assert difference(right.mean(1), right.mean(1)).mean == 0
    found = item_bootstrap(right, right, 200)
    assert found.mean == found.telling == 0
    assert found.ci95[0] == -found.ci95[1]
    assert decide(difference(right.mean(1), right.mean(1), 1 / 60), found) == "cannot tell", "60 examples show little"


@FAST
@given(RUNS, RUNS)
def test_differences_are_antisymmetric(a, b):
    there, back = difference(a.mean(1), b.mean(1), 1 / 60), difference(b.mean(1), a.mean(1), 1 / 60)
    assert there.mean == pytest.approx(-back.mean)
    assert there.ci95 == pytest.approx((-back.ci95[1], -back.ci95[0]))
    assert there.ci95[0] <= there.mean <= there.ci95[1]
    few = item_bootstrap(a, np.where(np.arange(60) < 24, b, a), 200)
    swapped = item_bootstrap(np.where(np.arange(60) < 24, b, a), a, 200)
    assert few.telling == swapped.telling <= 24
    assert few.ci95 == pytest.approx((-swapped.ci95[1], -swapped.ci95[0]), abs=0.1)
    assert few.ci95[0] < few.mean < few.ci95[1]
    one, two = item_bootstrap(a, b, 2000), item_bootstrap(b, a, 2000)
    assert one.mean == pytest.approx(-two.mean)
    assert one.ci95 == pytest.approx((-two.ci95[1], -two.ci95[0]), abs=0.03)  # other draws of the same law


def gap(low, high, seeds=3):
    ci95 = None if low is None else (low, high)
    mean = 0.01 if low is None else (low + high) / 2
    each = tuple(mean + 0.01 * (place - (seeds - 1) / 2) for place in range(seeds))
    return Difference(mean=mean, ci95=ci95, sd=None if low is None else 0.01, seeds=seeds, per_seed=each)


def items(low, high):
    return Bootstrap(mean=(low + high) / 2, ci95=(low, high), resamples=10_000, examples=1000, seed=0)


@pytest.mark.parametrize(
    ("over_seeds", "over_items", "verdict", "words"),
    [
        ((0.010, 0.020), (0.008, 0.022), "helped", "The teacher helped: "),
        ((0.001, 0.004), (0.001, 0.004), "helped", "though surely by less than the 0.5 points"),
        ((0.010, 0.020), (0.000, 0.030), "cannot tell", "the test set is too small"),
        ((-0.001, 0.020), (0.004, 0.016), "cannot tell", "the seeds differ too much"),
        ((-0.010, 0.020), (-0.010, 0.020), "cannot tell", "and the test set is too small"),
        ((-0.004, 0.005), (-0.005, 0.004), "did not help", "any gain is below the 0.5 points"),
        ((-0.030, -0.010), (-0.028, -0.012), "did not help", "made the student worse"),
        ((-0.030, -0.010), (-0.050, 0.006), "cannot tell", "the test set is too small"),
        ((0.000, 0.020), (0.001, 0.020), "cannot tell", "the seeds differ too much"),
        ((None, None), (0.010, 0.030), "cannot tell", "One seed cannot tell"),
        ((None, None), (-0.030, -0.010), "cannot tell", "One seed cannot tell"),
    ],
)
def test_verdict(over_seeds, over_items, verdict, words):
    one = gap(*over_seeds, seeds=1 if over_seeds[0] is None else 3)
    assert decide(one, items(*over_items)) == verdict
    said = sentence(one, items(*over_items), (0.90, 0.91))
    assert words in said
    assert said.endswith(".")
    assert "1,000 test examples" in said
    told = advice(one, items(*over_items))
    assert (told is not None) == (verdict == "cannot tell")


def test_smallest_effect_moves_the_line():
    pair = gap(-0.004, 0.008), items(-0.004, 0.008)
    assert decide(*pair, smallest_effect=0.01) == "did not help"
    assert decide(*pair, smallest_effect=0.005) == "cannot tell"
    assert decide(None, None) == "cannot tell"
    assert "peers" in sentence(None, None, None, why_no_control="it has peers.")
    assert "at least 3 seeds" in advice(gap(None, None, 1), items(0, 1))


def test_numbers_read_well():
    assert ACCURACY.points(0.0131) == "+1.3"
    assert ACCURACY.points(-0.0042) == "−0.42"
    assert ACCURACY.gained(0.02333, (-0.0054, 0.052)) == "+2.33 points (−0.54 to +5.20)", "all with as many decimals"
    assert ACCURACY.gained(0.1, None) == "+10.0 points"
    said = sentence(gap(-0.135, 0.044), items(-0.0875, -0.0083), (0.9, 0.85))
    assert (
        "−4.55 points (95\N{NO-BREAK SPACE}% interval −13.50 to +4.40 over 3 paired seeds, −8.75 to −0.83 over" in said
    )
    assert ACCURACY.points(0.0) == ACCURACY.points(-0.0) == ACCURACY.points(1e-9, digits=1) == "0.0"
    assert ACCURACY.span((-0.004, 0.014)) == "−0.40 to +1.40"
    assert ACCURACY.span((0.02, 0.03)) == "+2.0 to +3.0"


def students(skills, rows=3000, classes=5, seeds=3):
    labels = np.arange(rows) % classes

    def one(skill, seed):
        generator = np.random.default_rng(1000 * seed + int(100 * skill))
        return generator.normal(size=(rows, classes)) + skill * np.eye(classes)[labels]

    return {
        name: ArmResult([one(skill, seed) for seed in range(1 if name == "teacher" else seeds)],
                        () if name == "teacher" else range(seeds))
        for name, skill in skills.items()
    }, labels  # fmt: skip


def weighed(skills, **options):
    arms, labels = students(skills)
    return weigh(ArmResults(**arms), labels, [str(one) for one in range(5)], resamples=1000, **options)


def test_weigh_tells_help_from_harm_and_from_nothing():
    helped = weighed({"teacher": 4, "control": 2, "pseudo_labels": 2.3, "distilled": 2.8})
    assert helped.verdict == "helped"
    assert helped.keeps is not None
    assert not helped.keeps.non_inferior
    assert 0 < helped.gap_closed.value < 1
    assert [step.step for step in helped.attribution] == ["hard pseudo-labels", "soft targets"]
    total = sum(step.difference.mean for step in helped.attribution)
    assert total == pytest.approx(helped.difference.mean)
    harmed = weighed({"teacher": 4, "control": 2.8, "distilled": 2})
    assert harmed.verdict == "did not help"
    assert outcome(harmed) == "made it worse"
    assert outcome(helped) == "helped"
    arms, labels = students({"control": 2})
    same = weigh(ArmResults(distilled=arms["control"], control=arms["control"]), labels, list("abcde"))
    assert same.verdict == outcome(same) == "did not help", "3,000 examples show that the gain is below 0.5 points"
    assert same.difference.ci95[0] < 0 < same.difference.ci95[1] < same.item_bootstrap.ci95[1] < 0.002
    assert same.gap_closed is None
    assert same.keeps is None


@pytest.mark.parametrize("seeds", [2, 3, 10])
def test_arms_that_answer_alike_are_as_unsure_as_the_test_set_is_small(seeds):
    skills = {"teacher": 4, "control": 2}

    def alike(rows):
        arms, labels = students(skills, rows, seeds=seeds)
        arms["distilled"] = arms["control"]
        return weigh(ArmResults(**arms), labels, list("abcde"), resamples=500)

    few = alike(120)
    assert few.verdict == "cannot tell", "one example is 0.83 points"
    assert few.item_bootstrap.ci95[1] > 0.03
    assert few.sentence.endswith("; the test set is too small."), few.sentence
    assert few.advice == (
        "No test example tells the two apart. If that stays so, about 740 test examples would show that a gain is below "
        "0.5 points."
    )
    assert any("Only 0 of 120 test examples" in note for note in few.notes)
    assert few.gap_closed.ci95[0] < 0 < few.gap_closed.ci95[1]
    assert alike(730).verdict == "cannot tell"
    many = alike(740)
    assert many.verdict == "did not help", many.sentence
    assert many.advice is None


def test_an_ordinary_interval_is_the_bootstraps_own():
    generator = np.random.default_rng(0)
    a, b = generator.random((3, 400)) < 0.9, generator.random((3, 400)) < 0.85
    found = item_bootstrap(a, b, 2000)
    assert found.telling >= 25
    gap = (a.mean(0) - b.mean(0)).round(12)
    assert found.ci95 == percentile_interval(resample(gap[:, None], 2000)[:, 0])


def test_students_that_learnt_nothing_are_not_asked_for_more_seeds():
    lost = weighed({"teacher": 4, "control": 0.02, "distilled": 0})
    assert "No student is clearly better than always answering the commonest class" in lost.notes[-1]
    assert lost.advice.startswith(lost.notes[-1])
    assert "More seeds or test examples would not settle it" in lost.advice
    assert "seeds would be needed" not in lost.advice
    one = weighed({"teacher": 4, "control": 0.02, "distilled": 2})
    assert "hardly anything" not in " ".join((*one.notes, one.advice or ""))
    uneven = np.where(np.arange(3000) < 2850, 0, np.arange(3000) % 5)
    always = ArmResult([np.eye(5)[np.zeros(3000, dtype=int)]] * 2, (0, 1))
    constant = weigh(ArmResults(distilled=always, control=always), uneven, list("abcde"), resamples=200)
    assert constant.verdict == "did not help"
    assert "hardly anything was learnt" in constant.advice


def test_weigh_pairs_by_seed_and_says_what_it_left_out():
    arms, labels = students({"control": 2, "distilled": 2.5})
    turned = ArmResult(arms["distilled"].logits[::-1], (2, 1, 0))
    straight = weigh(ArmResults(**arms), labels, list("abcde"), resamples=500)
    crossed = weigh(ArmResults(distilled=turned, control=arms["control"]), labels, list("abcde"), resamples=500)
    assert straight.difference == crossed.difference
    fewer = ArmResult(arms["control"].logits[:2], (0, 1))
    part = weigh(ArmResults(distilled=arms["distilled"], control=fewer), labels, list("abcde"), resamples=500)
    assert part.difference.seeds == 2
    assert "Only seeds 0, 1" in part.notes[0]
    for wrong in (ArmResult(arms["control"].logits, (5, 6, 7)), ArmResult(arms["control"].logits, (0, 0, 1))):
        with pytest.raises(LimbeckError, match="seed"):
            weigh(ArmResults(distilled=arms["distilled"], control=wrong), labels, list("abcde"))
    one = arms["distilled"].logits[0]
    copied = weigh(ArmResults(distilled=ArmResult([one, one], (0, 1))), labels, list("abcde"))
    assert "not independent" in " ".join(copied.notes)


def test_weigh_is_repeatable_and_names_a_diverged_run():
    skills = {"teacher": 4, "control": 2, "distilled": 2.8}
    assert weighed(skills) == weighed(skills)
    arms, labels = students(skills)
    arms["control"].logits[1][0, 0] = np.nan
    with pytest.raises(LimbeckError, match=r"control, seed 1, are not finite for 1 of 3000"):
        weigh(ArmResults(**arms), labels, list("abcde"))


def test_attribution_has_the_steps_that_have_arms():
    runs = {seed: np.random.default_rng(seed).random(100) < 0.8 for seed in range(3)}

    def steps(*names):
        return [step.step for step in attribution(dict.fromkeys(names, runs), "hints", 100)]

    assert steps("control", "distilled") == []
    assert steps("control", "pseudo_labels", "distilled") == ["hard pseudo-labels", "hints"]
    assert steps("control", "soft_targets", "distilled") == ["soft targets", "other terms or trainings"]
    everything = steps("control", "pseudo_labels", "soft_targets", "distilled")
    assert everything == ["hard pseudo-labels", "soft targets", "other terms or trainings"]
    assert steps("pseudo_labels", "soft_targets", "distilled") == []


def test_compare_puts_runs_side_by_side_and_warns():
    skills = {"teacher": 4, "control": 2, "distilled": 2.8}
    one = weighed(skills, name="a", provenance=Provenance(data_fingerprint="x"), metrics=("mcc",))
    two = weighed(skills, name="a", provenance=Provenance(data_fingerprint="x", device="cuda"))
    three = weighed(skills, name="b", provenance=Provenance(data_fingerprint="y"))
    found = compare([one, two, three, weighed(skills, name="c")])
    assert found.columns == ("a (1)", "a (2)", "b", "c")
    assert all(len(cells) == 4 for _, cells in found.rows)
    rows = dict(found.rows)
    assert rows["verdict"] == ("helped",) * 4
    assert rows["mcc"][1] is None
    assert "different devices" in found.warnings[0]
    assert "different data" in found.warnings[1]
    assert "unknown" in found.warnings[2]
    assert len(found.warnings) == 3

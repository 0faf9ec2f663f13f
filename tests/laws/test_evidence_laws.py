"""What must hold whatever the predictions are, and the truth table of the verdict."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from limbeck.errors import LimbeckError
from limbeck.evidence.compare import compare
from limbeck.evidence.comparison import attribution, difference, item_bootstrap
from limbeck.evidence.fidelity import fidelity
from limbeck.evidence.quality import quality
from limbeck.evidence.schema import Bootstrap, Difference, Provenance
from limbeck.evidence.verdict import advice, decide, points, sentence, span
from limbeck.evidence.weigh import ArmResult, ArmResults, weigh

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
    assert found.ci95 == (0, 0)
    assert decide(difference(right.mean(1), right.mean(1)), found) == "did not help"


@FAST
@given(RUNS, RUNS)
def test_differences_are_antisymmetric(a, b):
    there, back = difference(a.mean(1), b.mean(1), 1 / 60), difference(b.mean(1), a.mean(1), 1 / 60)
    assert there.mean == pytest.approx(-back.mean)
    assert there.ci95 == pytest.approx((-back.ci95[1], -back.ci95[0]))
    assert there.ci95[0] <= there.mean <= there.ci95[1]
    one, two = item_bootstrap(a, b, 2000), item_bootstrap(b, a, 2000)
    assert one.mean == pytest.approx(-two.mean)
    assert one.ci95 == pytest.approx((-two.ci95[1], -two.ci95[0]), abs=0.03)  # other draws of the same law


def gap(low, high, seeds=3):
    ci95 = None if low is None else (low, high)
    mean = 0.01 if low is None else (low + high) / 2
    return Difference(mean=mean, ci95=ci95, sd=None if low is None else 0.01, seeds=seeds, per_seed=(mean,) * seeds)


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
    assert points(0.0131) == "+1.3"
    assert points(-0.0042) == "−0.42"
    assert points(0.0) == points(-0.0) == points(1e-9, digits=1) == "0.0"
    assert span((-0.004, 0.014)) == "−0.40 to +1.40"
    assert span((0.02, 0.03)) == "+2.0 to +3.0"


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
    assert weighed({"teacher": 4, "control": 2.8, "distilled": 2}).verdict == "did not help"
    arms, labels = students({"control": 2})
    same = weigh(ArmResults(distilled=arms["control"], control=arms["control"]), labels, list("abcde"))
    assert same.verdict == "did not help"
    assert same.difference.ci95 == (0, 0)
    assert same.gap_closed is None
    assert same.keeps is None


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
    assert steps("control", "soft_targets", "distilled") == ["soft targets", "other terms"]
    everything = steps("control", "pseudo_labels", "soft_targets", "distilled")
    assert everything == ["hard pseudo-labels", "soft targets", "other terms"]
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

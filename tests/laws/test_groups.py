"""Group by group: who is left behind, told apart from chance, in numbers that are those of the group alone."""

import numpy as np
import pytest

from limbeck.errors import DataError
from limbeck.evidence.comparison import difference
from limbeck.evidence.groups import group_scores, said_by_group, shown_groups
from limbeck.evidence.report import write_report
from limbeck.evidence.results import ArmResult, ArmResults
from limbeck.evidence.schema import Evidence
from limbeck.evidence.weigh import weigh
from limbeck.recipe.reading import parse
from limbeck.run import run

N = 1200
WHOSE = ["town" if row % 3 else "village" for row in range(N)]
TOWN = np.array([one == "town" for one in WHOSE])
LABELS = np.random.default_rng(0).integers(0, 3, N)


def answers(town: float, village: float, seed: int):
    """Logits that are right with these probabilities, in town and village."""
    draw = np.random.default_rng(seed)
    right = draw.random(N) < np.where(TOWN, town, village)
    said = np.where(right, LABELS, (LABELS + 1) % 3)
    return 3.0 * np.eye(3)[said]


def evidence(student=(0.9, 0.6), groups=WHOSE) -> Evidence:
    arms = {
        "teacher": ArmResult(logits=[answers(0.95, 0.9, 100)]),
        "control": ArmResult(logits=[answers(0.8, 0.75, seed) for seed in range(3)], seeds=(0, 1, 2)),
        "distilled": ArmResult(logits=[answers(*student, 50 + seed) for seed in range(3)], seeds=(0, 1, 2)),
    }
    return weigh(ArmResults(**arms), LABELS, ("a", "b", "c"), groups=groups, resamples=500)


def test_scores_and_differences_are_those_of_the_groups_own_examples():
    found = evidence()
    right = {seed: (answers(0.9, 0.6, 50 + seed).argmax(1) == LABELS) for seed in range(3)}
    control = {seed: (answers(0.8, 0.75, seed).argmax(1) == LABELS) for seed in range(3)}
    teacher = answers(0.95, 0.9, 100).argmax(1) == LABELS
    assert [one.name for one in found.groups] == ["town", "village"]
    for one, mine in zip(found.groups, (TOWN, ~TOWN), strict=True):
        assert one.examples == mine.sum()
        each = [right[seed][mine].mean() for seed in range(3)]
        assert one.scores["distilled"] == pytest.approx(np.mean(each))
        assert one.sd["distilled"] == pytest.approx(np.std(each, ddof=1))
        assert one.scores["teacher"] == pytest.approx(teacher[mine].mean())
        assert one.sd["teacher"] is None
        known = {"control": [control[seed][mine].mean() for seed in range(3)], "teacher": [teacher[mine].mean()] * 3}
        for other, theirs in known.items():
            expected = difference(each, theirs, resolution=1 / mine.sum())
            assert one.gains[other].difference.mean == pytest.approx(expected.mean)
            assert one.gains[other].difference.ci95 == pytest.approx(expected.ci95)


def test_a_group_that_is_left_behind_is_named_though_the_mean_gains():
    found = evidence(student=(0.9, 0.6))
    assert found.difference.mean > 0
    said = said_by_group(found)
    assert "Worse than the control in 1 of 2 groups: village (" in said
    assert (
        "Worse than the teacher in 2 of 2 groups" in said or "Worse than the teacher in 1 of 2 groups: village" in said
    )
    shown = shown_groups(found)
    assert [one["name"] for one in shown["columns"]] == ["town", "village", "apart"]
    by_arm = {row["name"]: row["cells"] for row in shown["rows"]}
    assert float(by_arm["distilled"][-1][0].split()[0]) == pytest.approx(30, abs=4)
    (less,) = [row for row in shown["gains"] if row["name"] == "control"]
    assert [cell[0] for cell in less["cells"][:2]] == ["better", "worse"]


def test_nobody_is_left_behind_where_all_gain():
    assert "control" not in (said_by_group(evidence(student=(0.95, 0.9))) or "")


def test_one_group_or_none_is_no_table():
    assert evidence(groups=None).groups == ()
    assert evidence(groups=["all"] * N).groups == ()
    assert shown_groups(evidence(groups=None)) is None
    assert said_by_group(evidence(groups=None)) is None


def test_groups_of_other_examples_are_refused():
    with pytest.raises(DataError, match="There are 1,200 test examples, and groups of 3"):
        evidence(groups=["a", "b", "c"])


def test_the_order_of_seeds_and_the_names_of_groups_change_no_number():
    scores = {
        "control": {seed: (answers(0.8, 0.7, seed).argmax(1) == LABELS) * 1.0 for seed in range(3)},
        "distilled": {seed: (answers(0.9, 0.8, 9 + seed).argmax(1) == LABELS) * 1.0 for seed in range(3)},
    }
    one = group_scores(scores, WHOSE, resamples=200)
    turned = {arm: dict(reversed(seeds.items())) for arm, seeds in scores.items()}
    other = group_scores(turned, [{"town": "b", "village": "a"}[name] for name in WHOSE], resamples=200)
    by_name = {found.name: found for found in other}
    for found in one:
        twin = by_name[{"town": "b", "village": "a"}[found.name]]
        assert twin.examples == found.examples
        assert twin.scores == pytest.approx(found.scores)
        assert twin.gains["control"].difference.mean == pytest.approx(found.gains["control"].difference.mean)
        assert twin.gains["control"].verdict == found.gains["control"].verdict


def test_the_report_shows_them_escaped(tmp_path):
    found = evidence(groups=[f"<b>{name}</b>" for name in WHOSE])
    write_report(found, {}, (), "limbeck: 1", tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    assert "Group by group" in page
    assert "&lt;b&gt;town&lt;/b&gt;" in page
    assert "<b>town</b>" not in page


def test_a_table_with_a_domain_is_judged_by_it(tmp_path, monkeypatch):
    monkeypatch.setenv("LIMBECK_HOME", str(tmp_path / "home"))
    rows = [
        f"{('dull', 'sunny')[row % 2]} day {row},{('no', 'yes')[row % 2]},{('town', 'village')[row % 3 == 0]}"
        for row in range(300)
    ]
    (tmp_path / "table.csv").write_text("text,label,place\n" + "\n".join(rows) + "\n")
    recipe = f"""
limbeck: 1
name: groups
data:
  source: {{name: table, path: {tmp_path / "table.csv"}, text: text, label: label, domain: place}}
  validation: 40
  test: 60
teacher: {{model: small-transformer, training: {{steps: 40}}}}
student: {{name: small-transformer, layers: 1, hidden: 16}}
training: {{steps: 4}}
seeds: 2
"""
    found = run(parse(recipe), tmp_path / "run", quiet=True)
    groups = found.evidence.groups
    assert [one.name for one in groups] == ["town", "village"]
    assert sum(one.examples for one in groups) == 60
    mean = sum(one.examples * one.scores["distilled"] for one in groups) / 60
    assert mean == pytest.approx(found.evidence.arms.distilled.mean.score)
    assert "Group by group" in found.report_path.read_text()

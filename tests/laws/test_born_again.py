"""Laws of generations: one is the offline regime, each learns from who came before, and nobody's start is another's."""

from itertools import pairwise

import pytest
import torch
from tests.contracts.test_regime_contract import answered, known
from tests.fakes.experiments import HINTS, LABELS, SOFT, Net, apart, plan, seeded_teacher
from tests.laws.test_equal_compute import experiment

from limbeck.config import digest
from limbeck.data.batch import Batch
from limbeck.errors import LimbeckError
from limbeck.regimes.born_again import BornAgain
from limbeck.regimes.budget import FINAL_STAGE, at_final_stage
from limbeck.regimes.offline import Offline
from limbeck.regimes.pupils import PART
from limbeck.regimes.walk import walk
from limbeck.run.arms import arms_of
from limbeck.signals.call import call
from limbeck.training.stage import Stage
from limbeck.training.workshop import Workshop

LOGITS = frozenset({"logits"})


def stages(regime, arm="distilled", **changes):
    one = plan(**changes)
    return [step for step in answered(regime.arms(one)[arm](one), known)[0] if isinstance(step, Stage)]


def identity(stage):
    return digest(stage.identity(stage.start.module()))


def weights(stage):
    return {name: value.detach() for name, value in stage.start.module().named_parameters()}


def test_one_generation_is_the_offline_regime():
    one, offline = stages(BornAgain(generations=1)), stages(Offline())
    assert [identity(stage) for stage in one] == [identity(stage) for stage in offline]
    assert list(BornAgain(generations=1).arms(plan())) == list(Offline().arms(plan()))


def test_each_is_taught_by_the_one_before(tmp_path):
    regime, one = BornAgain(generations=3), plan()
    workshop, trained = Workshop(tmp_path), []

    def taught(step):
        trained.append((step, workshop.train(step)))
        return trained[-1][1]

    _, end = answered(regime.distilled(one), taught)
    assert end is trained[-1][1]
    assert trained[0][0].teacher.fingerprint == one.teacher.fingerprint
    for (_, before), (stage, _) in pairwise(trained):
        assert stage.teacher.fingerprint == before.fingerprint
        for name, value in before.module().state_dict().items():
            assert torch.equal(stage.teacher.module.state_dict()[name], value), "and it is the trained one"
    assert [stage.name for stage, _ in trained] == ["generation 1, seed 0", "generation 2, seed 0", "distilled, seed 0"]


def test_no_two_begin_alike_and_the_last_begins_as_its_control():
    every, (control,) = stages(BornAgain(generations=3)), stages(BornAgain(generations=3), "control")
    assert len({stage.seed for stage in every}) == 3
    assert len({digest([w.tolist() for w in weights(stage).values()]) for stage in every}) == 3
    assert apart(weights(every[-1]), weights(control)) == 0
    assert control.seed == every[-1].seed
    other = stages(BornAgain(generations=3), seed=1)
    assert not {stage.seed for stage in every} & {stage.seed for stage in other}, "nor those of two seeds"


def test_without_a_teacher_the_first_one_learns_from_labels_alone(tmp_path):
    alone, one = BornAgain(generations=2), plan(teacher=None)
    every = stages(alone, teacher=None)
    assert [stage.name for stage in every] == [
        f"{name}, seed 0" for name in ("generation 0", "generation 1", "distilled")
    ]
    assert [term.name for term in every[0].terms] == ["labels"]
    assert every[0].teacher is None
    assert len({stage.seed for stage in every}) == 3
    assert list(alone.arms(one)) == ["control", "distilled"]
    (control,) = stages(alone, "control", teacher=None)
    assert control.training.total == 3 * one.training.total
    end = walk(alone.distilled(one), Workshop(tmp_path), tmp_path / "journal.json")
    assert end.name == "distilled, seed 0"
    ours = every[1].teacher.module.state_dict()
    assert all(torch.equal(value, every[0].start.module().state_dict()[name]) for name, value in ours.items())


def test_all_before_teach_as_the_mean_of_their_probabilities():
    _, _, last = stages(BornAgain(generations=3, learn_from="all"))
    x = torch.randn(7, 12, generator=torch.Generator().manual_seed(0))
    batch = Batch.of(x)
    members = [one.observe(batch, LOGITS)["logits"].double().softmax(-1) for one in last.teacher.members]
    assert len(members) == 3, "the first teacher and two students"
    said = last.teacher.observe(batch, LOGITS)["logits"].double().softmax(-1)
    assert torch.allclose(said, sum(members) / 3, atol=1e-6)  # float32 logits


def test_the_arms_have_the_budgets_that_they_say():
    regime = BornAgain(generations=3)
    one = plan()
    assert list(regime.arms(one)) == ["control", "direct", "distilled"]
    for arm in ("control", "direct"):
        (stage,) = stages(regime, arm)
        assert stage.training.total == 3 * one.training.total
    (direct,) = stages(regime, "direct")
    assert direct.teacher.fingerprint == one.teacher.fingerprint
    (short,) = answered(at_final_stage(regime.arms(one)["control"], regime)(one), known)[0]
    (offline,) = stages(Offline(), "control")
    assert identity(short) == identity(offline), "so it is trained once for both"
    assert short.name == "control of the last training's steps, seed 0"


def test_which_controls_stand_in_the_evidence(tmp_path):
    one = plan()
    assert list(arms_of(experiment(one, False, regime=BornAgain()), one, None)) == [
        *("control", FINAL_STAGE, "direct", "distilled")
    ]
    assert FINAL_STAGE not in arms_of(experiment(one, False), one, None)


def test_what_students_cannot_teach_is_refused():
    with pytest.raises(LimbeckError, match=r"'hints' reads 'body' of the teacher.*compare answers"):
        BornAgain().stages(plan(terms=(LABELS, SOFT, HINTS)))
    BornAgain(generations=1).stages(plan(terms=(LABELS, SOFT, HINTS)))


def test_it_is_walked_to_the_same_end_with_a_store_and_without(tmp_path):
    """Outputs of every generation are stored under its own name."""
    found = []
    for store in (None, tmp_path / "stores"):
        one = plan(store=store, teacher=seeded_teacher(lambda: Net(24)))
        found.append(
            walk(
                BornAgain(generations=2).distilled(one),
                Workshop(tmp_path / f"{store is None}"),
                tmp_path / f"{store is None}.json",
            )
        )
    assert found[0].fingerprint == found[1].fingerprint
    assert len(list((tmp_path / "stores").iterdir())) == 2


def test_all_generations_answer_by_the_mean_of_their_probabilities(tmp_path):
    regime, one = BornAgain(generations=3, deliver="ensemble"), plan()
    workshop, trained = Workshop(tmp_path), []

    def worked(step):
        if not isinstance(step, Stage):
            return step.function(**step.arguments)
        trained.append(workshop.train(step))
        return trained[-1]

    _, whole = answered(regime.distilled(one), worked)
    columns = one.splits.test.batch(one.splits.test.rows, torch.zeros_like(one.splits.test.rows)).columns("student")
    said = [call(student.module(), columns).double().softmax(-1) for student in trained]
    mean = torch.stack(said).mean(0)
    torch.testing.assert_close(call(whole.module(), columns).double().exp(), mean, rtol=0, atol=1e-6)
    assert len(said) == 3
    assert {name for name in whole.metrics if name.startswith(PART)} == {f"{PART}generation {n}" for n in (1, 2, 3)}
    again = walk(regime.distilled(one), workshop, tmp_path / "journal.json")
    assert (again.key, again.metrics) == (whole.key, whole.metrics)
    assert whole.key not in {student.key for student in trained}

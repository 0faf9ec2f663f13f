"""Laws of assistants: as few as bridge the gap, each taught by the one before; and no more than pay."""

from dataclasses import dataclass
from itertools import pairwise
from math import ceil, log

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.contracts.test_regime_contract import CHAIN, answered, known
from tests.fakes.experiments import HINTS, LABELS, SOFT, Knows, Net, plan, seeded_teacher, start
from torch import nn

from limbeck.config import digest
from limbeck.errors import LimbeckError
from limbeck.models.sized import between, parameters, sized
from limbeck.models.spec import BuildContext
from limbeck.models.specs import (
    EfficientCnn,
    Mlp,
    MlpMixer,
    MobileCnn,
    ShuffleCnn,
    SmallCnn,
    SmallResnet,
    SmallTransformer,
    Vit,
)
from limbeck.regimes import assistants
from limbeck.regimes.assistants import Assistants, pays
from limbeck.regimes.offline import Offline
from limbeck.regimes.regime import Make
from limbeck.regimes.walk import walk
from limbeck.training.stage import Stage
from limbeck.training.workshop import Workshop

IMAGE = BuildContext(10, {"pixels": torch.zeros(2, 1, 28, 28)})
TEXT = BuildContext(2, {"input_ids": torch.zeros(2, 8, dtype=torch.int64)}, vocabulary=50)
SPECS = [(Mlp(hidden=(8, 5)), IMAGE), (SmallCnn(), IMAGE), (SmallResnet(width=4), IMAGE), (MlpMixer(hidden=8), IMAGE)]
SPECS += [(Vit(hidden=8), IMAGE), (SmallTransformer(hidden=16), TEXT)]
SPECS += [(MobileCnn(width=4), IMAGE), (ShuffleCnn(width=4), IMAGE), (EfficientCnn(width=4), IMAGE)]
SMALL = Mlp(hidden=(6,))


def identity(stage):
    return digest(stage.identity(stage.start.module()))


def stages(regime, arm="distilled", **changes):
    one = plan(**{"student": SMALL, **changes})
    return [step for step in answered(regime.arms(one)[arm](one), known)[0] if isinstance(step, Stage)]


# --- sizes


@pytest.mark.parametrize(("spec", "context"), SPECS, ids=lambda one: getattr(one, "name", ""))
def test_a_wider_model_is_just_large_enough(spec, context):
    own = parameters(spec, context)
    assert parameters(spec.widened(1.0), context) == own
    assert spec.widened(1.0).widened(1.0) == spec.widened(1.0)
    for wanted in (own, 2 * own, 7 * own):
        found = parameters(sized(spec, context, wanted), context)
        assert wanted <= found
        assert found < 1.7 * wanted, "widths are whole, and those of heads multiples of their number"


@settings(max_examples=20)  # each builds some fifty models
@given(st.floats(1, 500), st.floats(2, 20))
def test_as_few_stand_between_as_bridge_the_gap(gap, ratio):
    context = start().context
    small = parameters(SMALL, context)
    found = [parameters(one, context) for one in between(SMALL, context, round(gap * small), ratio)]
    sizes = [round(gap * small), *found, small]
    assert sizes == sorted(sizes, reverse=True)
    assert len(found) == max(0, ceil(log(max(1.0, round(gap * small) / small)) / log(ratio) - 1e-9) - 1)
    # widths are whole: each unit of this perceptron has 16 parameters, and the smallest model 117
    assert all(large / less < ratio * 1.2 for large, less in pairwise(sizes))


def test_what_makes_a_model_larger_must_be_known():
    class Fixed(Mlp):
        def widened(self, factor):
            return None

    with pytest.raises(LimbeckError, match=r"'mlp' larger is not known.*'chain'"):
        sized(Fixed(), IMAGE, 10**6)
    with pytest.raises(LimbeckError, match="cannot be made so wide"):
        sized(SMALL, start().context, 10**9)


# --- the chain


def test_without_a_gap_it_is_the_offline_regime():
    alike = seeded_teacher(lambda: nn.Sequential(nn.Linear(12, 6), nn.ReLU(), nn.Linear(6, 3)))
    one, offline = stages(Assistants(), teacher=alike), stages(Offline(), teacher=alike)
    assert [identity(stage) for stage in one] == [identity(stage) for stage in offline]
    given = plan(student=SMALL, teacher=alike)
    assert list(Assistants().arms(given)) == list(Offline().arms(given)), "and nothing stands in between"
    assert [identity(stage) for stage in stages(Assistants(chain=()))] == [
        identity(stage) for stage in stages(Offline())
    ]


def test_across_a_gap_each_is_taught_by_the_one_before(tmp_path):
    wide = seeded_teacher(lambda: Net(400))
    one, trained = plan(student=SMALL, teacher=wide), []
    regime, workshop = Assistants(ratio=5), Workshop(tmp_path)

    def taught(step):
        trained.append((step, workshop.train(step)))
        return trained[-1][1]

    _, end = answered(regime.distilled(one), taught)
    assert [stage.name for stage, _ in trained] == [*(f"assistant {n}, seed 0" for n in (1, 2)), "distilled, seed 0"]
    assert trained[0][0].teacher.fingerprint == wide.fingerprint
    for (_, before), (stage, _) in pairwise(trained):
        assert stage.teacher.fingerprint == before.fingerprint
    assert end is trained[-1][1]
    (control,) = stages(regime, "control", teacher=wide)
    assert identity(control) != identity(trained[-1][0])
    ours, theirs = (one.start.module().state_dict() for one in (trained[-1][0], control))
    assert all(torch.equal(ours[name], theirs[name]) for name in ours), "the student begins as its control"


def test_the_arms_have_the_steps_of_the_whole_chain():
    regime = Assistants(chain=CHAIN)
    for arm in ("control", "direct"):
        (stage,) = stages(regime, arm)
        assert stage.training.total == 5 + 12 + 12
    assert [stage.training.total for stage in stages(regime)] == [5, 12, 12]


def test_layers_and_teachers_that_are_no_model_are_refused():
    with pytest.raises(LimbeckError, match=r"'assistants' students teach.*'hints' reads 'body'"):
        stages(Assistants(chain=CHAIN), terms=(LABELS, SOFT, HINTS))

    class Elsewhere:
        module, fingerprint = None, "elsewhere"
        provides = seeded_teacher(Net).provides

    with pytest.raises(LimbeckError, match=r"no model in memory.*name them with 'chain'"):
        stages(Assistants(), teacher=Elsewhere())


# --- where it stops


@pytest.mark.parametrize(("paid", "best"), [((False,), 0), ((True, False), 1), ((True, True), 2)])
def test_it_stops_where_an_assistant_no_longer_pays_and_gives_the_best(paid, best, tmp_path, monkeypatch):
    regime, verdicts, told = Assistants(chain=CHAIN, stop=True), list(paid), []

    def decided(before, after, validation, device):
        told.append((before.name, after.name))
        return verdicts[len(told) - 1]

    monkeypatch.setattr(assistants, "pays", decided)
    one = plan(student=SMALL)
    end = walk(regime.distilled(one), Workshop(tmp_path), tmp_path / "journal.json")
    students = ["student of the teacher", "student of assistant 1", "student of assistant 2"]
    assert end.name == f"{students[best]}, seed 0"
    assert told == [(f"{a}, seed 0", f"{b}, seed 0") for a, b in pairwise(students)][: len(paid)]
    assert sum(stage.training.total for stage in regime.stages(one)) == 12 + 5 + 12 + 12 + 12


@dataclass
class Was:
    """Stands for a trained arm."""

    made: nn.Module

    def module(self):
        return self.made.eval()


class Guesses(Knows):
    """Right on some rows alone: of the others it names the next class."""

    def __init__(self, share):
        super().__init__(100)
        self.share = share

    def forward(self, x):
        wrong = torch.arange(len(x)) >= self.share * len(x)
        logits = super().forward(x)
        return torch.where(wrong[:, None], logits.roll(1, 1), logits)


def test_what_pays_is_more_than_a_standard_error():
    validation = plan().splits.validation
    worse, little, more = Was(Guesses(0.5)), Was(Guesses(0.55)), Was(Guesses(0.95))
    assert pays(worse, more, validation, "cpu")
    assert not pays(more, worse, validation, "cpu")
    assert not pays(worse, worse, validation, "cpu"), "identical ones least of all"
    assert not pays(worse, little, validation, "cpu"), "one row of 20: the difference is its own standard error"


def test_a_decision_is_a_step_that_a_journal_keeps(tmp_path):
    one = plan(student=SMALL)
    steps, _ = answered(Assistants(chain=CHAIN, stop=True).distilled(one), _decide)
    assert [step.name for step in steps if isinstance(step, Make)] == [
        "whether assistant 1 pays",
        "whether assistant 2 pays",
    ]


def _decide(step):
    return True if isinstance(step, Make) else known(step)

"""The regime of a federation: who learns from what, who answers, what is made, and what is refused."""

from dataclasses import replace

import pytest
import safetensors.torch
import torch
from tests.contracts.test_regime_contract import answered, known
from tests.fakes.experiments import LABELS, SOFT, WIDTH, Clouds, Net, plan, smooth, teacher
from tests.fakes.pictures import Convolutions, picture_plan

from limbeck import distill
from limbeck.errors import LimbeckError, SettingError
from limbeck.federation.averaging import agreed
from limbeck.federation.letters import SERVER, Letter
from limbeck.models.given import Given
from limbeck.models.specs import Mlp
from limbeck.objective import Hints
from limbeck.recipe.reading import bundled, read
from limbeck.regimes.clients import Averaged, Here, Received, local, private
from limbeck.regimes.federated import Federated
from limbeck.regimes.generator import Generator
from limbeck.regimes.public import models_of, public_of
from limbeck.regimes.walk import walk
from limbeck.synthesis.games import Dafl
from limbeck.training.settings import Training
from limbeck.training.stage import Stage, Start
from limbeck.training.workshop import Workshop

FEDERATED = Federated(clients=3, rounds=2)


@pytest.fixture(autouse=True)
def own_home(tmp_path, monkeypatch):
    monkeypatch.setenv("LIMBECK_HOME", str(tmp_path / "home"))


def alone(**changes):
    return plan(**{"teacher": None, "labelled": 30, **changes})


def trainings(regime, arm="distilled", **changes):
    one = alone(**changes)
    return [step for step in answered(regime.arms(one)[arm](one), known)[0] if isinstance(step, Stage)]


def state(scale=1.0, seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        found = Net().state_dict()
    found["norm.running_mean"] += scale
    found["norm.num_batches_tracked"] += int(10 * scale)
    return found


# --- who learns from what


def test_a_client_sees_its_own_rows_and_the_server_those_without_a_label():
    for regime in (FEDERATED, Federated(clients=3, rounds=2, models=(Mlp(hidden=(9,)),))):
        parts = [set(part.rows.tolist()) for part in regime.parts(alone())]
        assert set().union(*parts) == set(range(30))
        for stage in trainings(regime):
            rows = set(stage.examples.rows.tolist())
            if "server" in stage.name or "by all" in stage.name:
                assert rows == set(range(30, 50))
                assert [term.name for term in stage.terms] == ["soft-targets"]
                assert stage.views == 0
            else:
                number = int(stage.name.partition("client ")[2].partition(",")[0])
                assert rows == parts[number - 1]
                assert set(stage.validation.rows.tolist()) <= rows, "nothing else is looked at either"
                assert [term.name for term in stage.terms] == ["labels"]
                assert stage.terms[0].weight.value == 1.0
                assert stage.training.keep == "last"


def test_what_guides_a_client_is_the_model_that_it_was_sent():
    stages = trainings(
        Federated(clients=2, rounds=2, distil="clients"), terms=(LABELS, SOFT, Hints(student="body", teacher="body"))
    )
    assert len(stages) == 4
    assert all([term.name for term in stage.terms] == ["labels", "soft-targets", "hints"] for stage in stages)
    for stage in stages:
        ours, theirs = stage.start.module().state_dict(), stage.teacher.module.state_dict()
        assert all(torch.equal(value, theirs[name]) for name, value in ours.items())
    both = trainings(Federated(clients=2, rounds=1, distil="both"))
    assert [bool(stage.teacher) for stage in both] == [True, True, True]


def test_rounds_read_other_rows_first():
    stages = [stage for stage in trainings(FEDERATED, "control") if "client 1" in stage.name]
    assert stages[0].seed != stages[1].seed


def test_the_control_is_the_same_without_a_teacher():
    ours, theirs = trainings(FEDERATED), trainings(FEDERATED, "control")
    private_ones = [stage for stage in ours if "server" not in stage.name]
    assert [stage.seed for stage in private_ones] == [stage.seed for stage in theirs]
    assert [stage.examples.fingerprint for stage in private_ones] == [stage.examples.fingerprint for stage in theirs]
    (central,) = trainings(FEDERATED, "central")
    assert len(central.examples) == 30
    assert central.training.total == sum(stage.training.total for stage in ours)


# --- who answers


def test_some_are_asked_and_some_of_these_are_absent():
    one = Federated(clients=20, rounds=50, share=0.25, absent=0.3)
    asked, answering = ([f(7, turn) for turn in range(1, 51)] for f in (one.asked, one.answering))
    assert all(len(own) == 5 for own in asked)
    assert all(set(there) <= set(own) for there, own in zip(answering, asked, strict=True))
    missing = 1 - sum(map(len, answering)) / 250
    assert 0.3 - 4 * (0.21 / 250) ** 0.5 < missing < 0.3 + 4 * (0.21 / 250) ** 0.5
    assert len({number for own in asked for number in own}) == 20
    assert asked != [one.asked(8, turn) for turn in range(1, 51)]
    assert Federated(clients=4).answering(0, 1) == (1, 2, 3, 4)
    assert len(Federated(clients=3, share=0.01).asked(0, 1)) == 1, "somebody is always asked"


def test_a_round_in_which_nobody_answers_leaves_the_model_as_it_was(tmp_path):
    regime = Federated(clients=2, rounds=6, absent=0.7)
    whole = alone(training=Training(steps=2, batch_size=8))
    there = [regime.answering(whole.seed, turn) for turn in range(1, 7)]
    assert () in there[1:], "the seed has such a round"
    found = walk(regime.control(whole), Workshop(tmp_path), tmp_path / "journal.json")
    assert [turn.answered for turn in found.turns] == [len(one) for one in there]
    assert all((turn.up == 0) == (turn.answered == 0) for turn in found.turns)
    assert all(turn.asked == 2 for turn in found.turns)
    nobody = Federated(clients=1, rounds=2, absent=0.999999)
    with pytest.raises(LimbeckError, match="no client answered in any of 2 rounds"):
        answered(nobody.control(whole), known)


class Spoils(Here):
    """What the second client answers is not what was asked for."""

    def answers(self, turn, asked, content):
        found = yield from super().answers(turn, asked, content)
        rows = {**decoded_of(found.letters[2]), "rows": torch.ones(4, WIDTH)}
        found.letters[2] = Letter("weights", turn, 2, rows, 10).encoded()
        return found


def decoded_of(content):
    return safetensors.torch.load(content)


def test_a_letter_that_is_refused_is_no_answer_and_the_round_goes_on(tmp_path, caplog):
    whole, regime = alone(), Federated(clients=2, rounds=1)
    found = walk(regime.served(whole, Spoils(regime.members(whole))), Workshop(tmp_path), tmp_path / "journal.json")
    assert [(turn.asked, turn.answered) for turn in found.turns] == [(2, 1)]
    assert "The letter of client 2 in round 1 holds 'rows', which is no part of the weights" in caplog.text
    first = Federated(clients=1, rounds=1)
    own = regime.own(private(whole, regime.parts(whole)[0].rows), 1)
    alone_ = walk(first.served(whole, Here((Averaged(own),))), Workshop(tmp_path), tmp_path / "other.json")
    assert alone_.key == found.key, "as if the second were not there"


# --- degenerate cases


def test_one_client_is_one_training_after_another(tmp_path):
    """With one client its mean is its own, so that rounds are trainings one after another, each from the last."""
    regime, whole = Federated(clients=1, rounds=2), alone()
    found = walk(regime.control(whole), Workshop(tmp_path), tmp_path / "journal.json")
    own = private(whole, whole.splits.train.labelled().rows)
    workshop, start = Workshop(tmp_path / "apart"), whole.start
    for turn in (1, 2):
        client = Averaged(regime.own(own, 1, "control"))
        start = workshop.train(client.stage(turn, start))
    ours, theirs = found.module().state_dict(), start.module().state_dict()
    assert all(torch.equal(value, theirs[name]) for name, value in ours.items())


def test_equal_clients_agree_on_what_each_says():
    said = torch.randn(6, 3, generator=torch.Generator().manual_seed(1))
    for by in ("alike", "rows", "classes"):
        found = agreed([said] * 4, [1, 2, 3, 4], [(1, 2, 3), (0, 0, 1), (5, 0, 0), (1, 1, 1)], by)
        assert torch.allclose(found, said, atol=1e-6)


def test_what_a_client_starts_from_is_its_letter():
    start, sent = alone().start, state(0.5, 4)
    content = Letter("weights", 3, SERVER, sent).encoded()
    found = Received(start, content, 3).module().state_dict()
    assert all(torch.equal(found[name], value) for name, value in sent.items())
    with pytest.raises(LimbeckError, match="The server's letter in round 4"):
        Received(start, content, 4).module()


def test_with_all_labels_the_control_needs_no_public_rows():
    whole = alone()
    revealed = replace(whole, splits=replace(whole.splits, train=whole.splits.train.revealed()))
    stages = [step for step in answered(FEDERATED.control(revealed), known)[0] if isinstance(step, Stage)]
    assert sum(len(stage.examples) for stage in stages) == 2 * 50


# --- pictures in place of public rows

MADE = Federated(clients=3, rounds=2, made={"width": 4, "latent": 8})


def test_with_made_pictures_the_server_reads_no_row(tmp_path):
    """Every row has a label, and is some client's."""
    one = picture_plan(tmp_path, teacher=None, terms=(LABELS, SOFT))
    assert not len(public_of(one))
    stages = MADE.stages(one)
    servers = [stage for stage in stages if "server" in stage.name]
    assert len(servers) == 2
    for stage in servers:
        assert stage.writing == MADE.made
        assert [term.name for term in stage.terms] == ["soft-targets"]
        assert stage.examples.table is not one.splits.train.table
        assert not len(stage.examples.labelled())
        assert len(stage.examples) == stage.training.batch_size
    found = walk(MADE.distilled(one), Workshop(tmp_path / "home"), tmp_path / "a.json")
    again = walk(MADE.distilled(one), Workshop(tmp_path / "other"), tmp_path / "b.json")
    assert found.fingerprint == again.fingerprint
    plain = walk(MADE.control(one), Workshop(tmp_path / "home"), tmp_path / "c.json")
    assert found.turns == plain.turns, "pictures do not cross"
    assert found.fingerprint != plain.fingerprint


def test_who_is_asked_about_made_pictures_is_the_mean_of_the_clients_logits(tmp_path):
    one = picture_plan(tmp_path, teacher=None, terms=(LABELS, SOFT))
    modules = [Start(one.student, seed, one.context).module().eval() for seed in (1, 2)]
    letters = [Letter("weights", 1, who, model.state_dict(), 7) for who, model in enumerate(modules, 1)]
    whole = models_of(one, letters, "alike", Generator())
    batch = one.splits.test.batch(one.splits.test.rows[:5], torch.zeros(5, dtype=torch.int64))
    said = whole.observe(batch, frozenset({"logits"}))["logits"]
    with torch.no_grad():
        each = [model(batch.inputs["pixel_values"]) for model in modules]
    torch.testing.assert_close(said, sum(each) / 2)
    assert Dafl().reads(whole.module) == {"logits", "peers.0.head:in", "peers.1.head:in"}


def test_pictures_are_made_of_models_of_pictures_alone(tmp_path):
    with pytest.raises(LimbeckError, match="'made' in the regime 'federated' makes pictures for a classifier"):
        MADE.stages(alone())
    held = MADE.model_copy(update={"made": Generator(game=Dafl(statistics=1.0))})
    plan = picture_plan(tmp_path, teacher=None, terms=(LABELS, SOFT), student=Given(lambda: Convolutions(norm=False)))
    with pytest.raises(LimbeckError, match=r"made\.game\.statistics"):
        held.stages(plan)


# --- what is refused


@pytest.mark.parametrize(
    ("changes", "regime", "message"),
    [
        ({"teacher": teacher()}, FEDERATED, "leave 'teacher' out"),
        ({"terms": (LABELS,)}, FEDERATED, "nothing is learnt from a teacher"),
        ({"labelled": None}, FEDERATED, r"here every row has one: hide some \(data.labelled\)"),
        ({"terms": (LABELS, Hints(student="body", teacher="body"))}, FEDERATED, "compare logits"),
        ({"labelled": 2}, FEDERATED, "each client needs one of its own"),
    ],
)
def test_what_cannot_be_is_said_before_anything_is_trained(changes, regime, message):
    one = alone(**changes)
    for what in (lambda: regime.stages(one), lambda: answered(regime.distilled(one), known)):
        with pytest.raises(LimbeckError, match=message):
            what()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"models": ({"name": "mlp"},), "distil": "both"}, "clients with models of their own"),
        ({"distil": "clients", "weights": "rows"}, "the server learns nothing"),
        ({"distil": "clients", "server": {"steps": 3}}, "the server learns nothing"),
        ({"made": {}, "weights": "rows"}, "count alike"),
        ({"made": {}, "distil": "clients"}, "the server learns nothing"),
        ({"made": {}, "models": ({"name": "mlp"},)}, "no weights cross"),
        ({"made": {}, "server": {"epochs": 3}}, "have no epochs"),
        ({"alpha": 0.0}, "alpha"),
        ({"absent": 1.0}, "absent"),
        ({"share": 0.0}, "share"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(settings, message):
    with pytest.raises(SettingError, match=message):
        Federated(**settings)


def test_local_trainings_choose_nothing():
    found = local(Training(steps=30, patience=2, batch_size=8, accumulate=4), 100)
    assert (found.keep, found.patience, found.between_evaluations) == ("last", None, 30)
    assert (found.batch_size, found.accumulate) == (8, 4)
    assert local(Training(steps=30, batch_size=8, accumulate=4), 3).batch_size == 3
    assert local(Training(steps=30, batch_size=8, accumulate=4), 3).accumulate == 3


# --- a run


def test_a_run_tells_what_crossed(tmp_path):
    table = Clouds(400)
    rows = [(table.x[row], int(table.labels[row])) for row in range(400)]
    found = distill(
        None,
        smooth,
        rows,
        objective={"labels": 1, "soft-targets": {"weight": 1, "temperature": 1}},
        training={"steps": 6, "keep": "last", "batch-size": 32, "optimizer": {"name": "adamw", "learning-rate": 0.01}},
        regime=Federated(clients=3, rounds=2, alpha=1.0, weights="classes"),
        labelled=200,
        seeds=1,
        quiet=True,
        out=tmp_path / "run",
    )
    arms, traffic = found.evidence.arms, found.evidence.traffic
    assert set(arms.present()) == {"control", "central", "distilled"}
    assert sum(traffic.rows) == 200
    assert traffic.public > 0
    assert 1 / 3 < traffic.commonest <= 1
    assert set(traffic.arms) == {"control", "distilled"}
    size = len(Letter("weights", 1, SERVER, found.student.module.state_dict()).encoded())
    for turns in traffic.arms.values():
        assert [(turn.asked, turn.answered) for turn in turns] == [(3, 3)] * 2
        assert all(turn.down == 3 * size for turn in turns)
        assert all(0 <= turn.up - 3 * size < 3 * 64 for turn in turns), "counts take a few bytes more"
    assert arms.central.steps == (48,)
    assert arms.control.steps == (36,)
    assert arms.distilled.steps == (48,)
    assert arms.final_stage is None
    page = found.report_path.read_text()
    assert "What crossed between clients and server" in page
    assert "All rows in one place" in page


def test_the_recipe_names_what_the_page_says():
    recipe = read(bundled()["federated"])
    assert recipe.regime.alpha == 0.1
    assert recipe.teacher is None

"""What every regime is held to: it decides and nothing else, and comes to the same decisions again."""

import json
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
import torch
from tests.fakes.experiments import HINTS, LABELS, SOFT, Layered, Net, Watching, plan, seeded_teacher, stage
from tests.fakes.pictures import picture_plan

from limbeck.config import digest
from limbeck.errors import LimbeckError
from limbeck.models.given import Given
from limbeck.models.identity import of_module
from limbeck.models.specs import Mlp
from limbeck.objective import Labels
from limbeck.regimes.assistants import Assistant, Assistants
from limbeck.regimes.born_again import BornAgain
from limbeck.regimes.continual import Continual, Distil, Replay
from limbeck.regimes.deep_to_shallow import DeepToShallow
from limbeck.regimes.elastic import Ewc
from limbeck.regimes.ema import Ema
from limbeck.regimes.federated import Federated
from limbeck.regimes.fine_tuned import FineTuned
from limbeck.regimes.generator import Generator
from limbeck.regimes.inversion import Inversion
from limbeck.regimes.meta_distil import MetaDistil
from limbeck.regimes.mutual import Mutual
from limbeck.regimes.offline import Offline
from limbeck.regimes.projected import Projection
from limbeck.regimes.regime import Make, Teaching, make, train
from limbeck.regimes.snapshot import Snapshot
from limbeck.regimes.staged import Part, Staged
from limbeck.regimes.theseus import Theseus
from limbeck.regimes.walk import walk
from limbeck.synthesis.games import Adversarial
from limbeck.synthesis.inversion import Pictures
from limbeck.teachers.ensemble import EnsembleTeacher
from limbeck.teachers.local import LocalTeacher
from limbeck.training.loop import train as run
from limbeck.training.order import Order, Steps
from limbeck.training.settings import Training
from limbeck.training.stage import Stage
from limbeck.training.workshop import Workshop

NAMED = Training(steps=5, batch_size=16)  # the training that regimes here name themselves
STAGED = Staged(before=(Part(name="features", objective=(HINTS,), training=NAMED),))
THESEUS = Theseus(replacing=NAMED)
CHAIN = (
    Assistant(model=Mlp(hidden=(20,)), training=NAMED),
    Assistant(model=Mlp(hidden=(9,))),
)
IN_TURN = Continual(tasks=3, replay=Replay(rows=4), distil=Distil())  # with a teacher for each task
REGIMES: list[Teaching] = [
    Offline(),
    STAGED,
    THESEUS,
    BornAgain(generations=3),
    Assistants(chain=CHAIN),
    Ema(),
    Snapshot(),
    Mutual(),
    MetaDistil(),
    FineTuned(training=Training(steps=7, batch_size=16), elastic=0.1),
    FineTuned(of=STAGED, training=Training(steps=7, batch_size=16)),
    DeepToShallow(),
    Continual(tasks=3, replay=Replay(rows=4), distil=Distil(), ewc=Ewc(rows=5), projection=Projection(rows=5)),
    IN_TURN,
    Federated(clients=2, rounds=2, alpha=0.5, server=NAMED, weights="classes"),
    Federated(clients=1, rounds=2, models=(Mlp(hidden=(9,)),)),
    Inversion(pictures=Pictures(count=18, batch_size=9, steps=3), rounds=2),
    Generator(width=4, latent=8),
    Generator(game=Adversarial(student_steps=3), width=4, latent=8),
]
ALONE = {
    "ema",
    "snapshot",
    "mutual",
    "deep-to-shallow",
    "continual",
    "federated",
}  # regimes whose student is its own teacher
LABELS_ALONE = {"continual"}  # regimes that say themselves what is learnt from the student's past
IMAGINED = {"inversion", "generator"}  # regimes that make pictures
# regimes whose students teach, so that layers of a teacher need not be there, or that follow a gradient through answers alone
ANSWERS = {"born-again", "assistants", "mutual", "deep-to-shallow", "meta-distil", "federated"}
SERVERS = {"federated"}  # regimes in which a server takes steps without labels, which no control can
ARMS = ["control", "pseudo_labels", "soft_targets", "distilled"]


def ready(tmp_path, **changes):
    given = {"labelled": 20, "store": tmp_path / "stores", "terms": (LABELS, SOFT, HINTS)}
    return plan(**{**given, **changes})


def layered(tmp_path, regime):
    """A plan that suits the regime, whose student has half of its teacher's layers."""
    if regime.name in IMAGINED:
        return picture_plan(tmp_path)
    if regime is IN_TURN:
        three = EnsembleTeacher([seeded_teacher(Layered, seed) for seed in range(3)])
        return ready(tmp_path, student=Given(lambda: Layered(2)), teacher=three, terms=(LABELS, SOFT))
    terms = (LABELS, SOFT) if regime.name in ANSWERS else (LABELS, SOFT, HINTS)
    terms = (LABELS,) if regime.name in LABELS_ALONE else terms
    teacher = None if regime.name in ALONE else seeded_teacher(Layered)
    return ready(tmp_path, student=Given(lambda: Layered(2)), teacher=teacher, terms=terms)


@pytest.fixture(autouse=True)
def own_home(tmp_path, monkeypatch):
    monkeypatch.setenv("LIMBECK_HOME", str(tmp_path / "home"))


EVERY = [
    pytest.param(regime, arm, id=f"{regime.name}-{arm}")
    for regime in REGIMES
    for arm in regime.arms(layered(Path(), regime))
]


def teaching():
    return stage(terms=(LABELS,), teacher=None, steps=3, seed=0)


def answered(regime, answer):
    """The steps that a regime yields, each answered with ``answer(step)``, and what it returns."""
    steps, _, end = conversed(regime, answer)
    return steps, end


def conversed(regime, answer):
    """The same, with the answers."""
    steps, answers = [], []
    while True:
        try:
            step = regime.send(answers[-1] if answers else None)
        except StopIteration as end:
            return steps, answers, end.value
        steps.append(step)
        answers.append(answer(step))


@dataclass(frozen=True)
class Untrained:
    """Stands for what a stage gave, or a part of that: the model that it began with."""

    stage: Stage
    path: str = ""
    metrics: dict = field(default_factory=dict)
    of: tuple = ()
    turns: tuple = ()

    def module(self):
        return self.stage.start.module().get_submodule(self.path).eval()

    def part(self, path):
        return replace(self, path=path)

    def as_teacher(self, asking=None):
        return LocalTeacher(self.module().requires_grad_(False), of_module(self.module()), asking)


def known(step):
    return step.function(**step.arguments) if isinstance(step, Make) else Untrained(step)


@pytest.mark.parametrize("regime", REGIMES, ids=lambda regime: regime.name)
def test_a_regime_has_all_that_is_asked_of_it(regime):
    assert isinstance(regime, Teaching)
    assert regime.plain()["name"] == regime.name


@pytest.mark.parametrize(("regime", "arm"), EVERY)
def test_a_regime_never_optimises_nor_draws(regime, arm, tmp_path, monkeypatch):
    def never(*_, **__):
        raise AssertionError("a regime does not optimise")

    for kind in (torch.optim.AdamW, torch.optim.SGD):
        monkeypatch.setattr(kind, "step", never)
    monkeypatch.setattr(torch.Tensor, "backward", never)
    state = torch.random.get_rng_state()
    steps, answers, end = conversed(regime.arms(layered(tmp_path, regime))[arm](layered(tmp_path, regime)), known)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert all(isinstance(step, Stage | Make) for step in steps)
    last = [step for step in steps if isinstance(step, Stage)][-1]
    if isinstance(end, Untrained):
        assert end.stage == last, "what the last stage gave is what the arm gives, or a part of that"
    else:
        assert end.key == answers[-1].key, "or what was put together last"


@pytest.mark.parametrize(("regime", "arm"), EVERY)
def test_a_regime_decides_the_same_again(regime, arm, tmp_path):
    def marks():
        steps, _ = answered(regime.arms(layered(tmp_path, regime))[arm](layered(tmp_path, regime)), known)
        return [digest(one.identity(one.start.module())) if isinstance(one, Stage) else one.name for one in steps]

    assert marks() == marks()


@pytest.mark.parametrize(("regime", "arm"), EVERY)
def test_walking_again_loads_what_was_trained(regime, arm, tmp_path):
    first, again = Watching(), Watching()
    journal, one = tmp_path / "journal.json", layered(tmp_path, regime)
    one = walk(regime.arms(one)[arm](one), Workshop(tmp_path, first), journal)
    written, two = journal.read_text(), layered(tmp_path, regime)
    two = walk(regime.arms(two)[arm](two), Workshop(tmp_path, again), journal)
    assert first.log
    assert not again.log
    assert (one.key, one.fingerprint) == (two.key, two.fingerprint)
    assert journal.read_text() == written
    marks = dict(json.loads(written))
    own = one.path or one.weights.parent.parent.name == "averages"
    assert marks[one.name] == one.key or own, (
        "a part of what was trained, or what was put together, has a key of its own"
    )


class Stopped(Exception):
    """What a run is cut off by."""


class Stops(Workshop):
    """Is cut off when the training of this number begins, or, ``inside``, after some steps of it."""

    def __init__(self, root, number, inside):
        super().__init__(root, self.watched)
        self.left, self.inside = number, inside

    def watched(self, stage, curve):
        return (Watching(curve, after=5, act=self.stop),) if self.inside and not self.left else ()

    def stop(self):
        raise Stopped

    def train(self, stage):
        if not self.left and not self.inside:
            raise Stopped
        found = super().train(stage)
        self.left -= 1
        return found


@pytest.mark.parametrize("inside", [False, True], ids=["between", "inside"])
@pytest.mark.parametrize("regime", REGIMES, ids=lambda regime: regime.name)
def test_cut_off_at_any_training_it_ends_as_if_it_had_not_been(regime, inside, tmp_path):
    def end(root, workshop):
        one = layered(root, regime)
        return walk(regime.arms(one)["distilled"](one), workshop, root / "journal.json")

    whole = end(tmp_path / "whole", Workshop(tmp_path / "whole"))
    count = len(regime.stages(layered(tmp_path, regime)))
    for number in range(count):
        root = tmp_path / f"{number}"
        with pytest.raises(Stopped):
            end(root, Stops(root, number, inside))
        again = end(root, Workshop(root))
        assert (again.key, again.fingerprint) == (whole.key, whole.fingerprint), number


@pytest.mark.parametrize("regime", REGIMES, ids=lambda regime: regime.name)
def test_a_regime_tells_every_training_of_its_student_beforehand(regime, tmp_path):
    one = layered(tmp_path, regime)
    steps, _ = answered(regime.arms(one)["distilled"](one), known)
    told, done = regime.stages(one), [step for step in steps if isinstance(step, Stage)]
    fixed = [one.examples.fingerprint for one in told] == [one.examples.fingerprint for one in done]
    assert fixed or regime.name == "inversion", "only what is not made yet may be another"
    assert [(one.terms, one.training, len(one.examples), one.frozen) for one in told] == [
        (one.terms, one.training, len(one.examples), one.frozen) for one in done
    ]


@pytest.mark.parametrize("regime", REGIMES, ids=lambda regime: regime.name)
def test_other_budgets_reach_every_training_that_a_regime_names(regime, tmp_path):
    one = layered(tmp_path, regime)
    other = replace(one, training=one.training.model_copy(update={"steps": 2 * one.training.total}))
    before, doubled, fewer = (
        [stage.training.total for stage in chosen.stages(given)]
        for chosen, given in (
            (regime, one),
            (regime, other),
            (regime.budgeted(lambda own: own.model_copy(update={"steps": 2})), one),
        )
    )
    # those with the recipe's budget change with the recipe, and no others do
    assert fewer == [own if own != twice else 2 for own, twice in zip(before, doubled, strict=True)]


@pytest.mark.parametrize(("regime", "arm"), EVERY)
def test_every_arm_has_the_steps_of_the_distilled_student(regime, arm, tmp_path):
    one = layered(tmp_path, regime)
    steps, _ = answered(regime.arms(one)[arm](one), known)
    total = sum(step.training.total for step in steps if isinstance(step, Stage))
    told = [stage for stage in regime.stages(one) if not (arm == "control" and unlabelled(stage, regime))]
    assert total == sum(stage.training.total for stage in told)


def unlabelled(stage, regime):
    """Whether a training is one of a server's, or what a server has its clients do, without labels."""
    return regime.name in SERVERS and not len(stage.examples.labelled())


@pytest.mark.parametrize("regime", [Offline(), STAGED], ids=lambda regime: regime.name)
def test_rows_without_a_label_are_not_read_where_labels_alone_teach(regime, tmp_path):
    one = ready(tmp_path, terms=(LABELS,), labelled=13)
    trained = 0
    for arm in ("control", "distilled"):
        steps, _ = answered(regime.arms(one)[arm](one), known)
        stages = [step for step in steps if isinstance(step, Stage)]
        for own in [step for step in stages if not any(term.needs().teacher for term in step.terms)]:
            order = Order(own.examples.rows, own.training.batch_size, own.seed, own.views)
            read = Steps(own.examples, order)
            ids = {row for step in range(own.training.total) for batch in read[step] for row in batch.ids.tolist()}
            assert ids == set(range(13)), "every row that has a label, and no other"
            trained += 1
    assert trained == 2, "the control, and the objective of labels itself"


def test_a_changed_decision_is_named(tmp_path):
    workshop, journal = Workshop(tmp_path), tmp_path / "journal.json"
    walk(Offline().control(ready(tmp_path)), workshop, journal)
    with pytest.raises(LimbeckError, match=r"step 1 is 'control, seed 1'.*was 'control, seed 0'.*journal\.json"):
        walk(Offline().control(ready(tmp_path, seed=1)), workshop, journal)
    with pytest.raises(LimbeckError, match="trained from something else"):
        walk(Offline().control(ready(tmp_path, student=Given(lambda: Net(8)))), workshop, journal)


def test_regimes_nest_and_give_what_they_got(tmp_path):
    def generations(plan):
        found = []
        for seed in range(2):
            trained = yield from train(plan.at(seed).stage(f"generation {seed}", teacher=plan.teacher))
            found.append((yield from make(f"copy {seed}", lambda trained: trained.as_teacher(), trained=trained)))
        return found

    def twice(plan):
        return [(yield from generations(plan)), (yield from generations(plan))]

    journal = tmp_path / "journal.json"
    one, two = walk(twice(ready(tmp_path)), Workshop(tmp_path), journal)
    assert [teacher.fingerprint for teacher in one] == [teacher.fingerprint for teacher in two]
    assert one[0].fingerprint != one[1].fingerprint
    names = [name for name, _ in json.loads(journal.read_text())]
    assert names == ["generation 0, seed 0", "copy 0", "generation 1, seed 1", "copy 1"] * 2
    assert all(not p.requires_grad for p in one[0].module.parameters())


def test_a_teacher_that_has_to_be_trained_is_trained_first_in_every_arm(tmp_path):
    for arm in ARMS:
        untaught = ready(tmp_path, teacher=None, teacher_stages=(teaching(),))
        seen = []
        regime = getattr(Offline(), arm)(untaught)
        walk(_noted(regime, seen), Workshop(tmp_path), tmp_path / f"{arm}.json")
        assert seen[0].name == "tiny"
        assert isinstance(seen[-1], Stage)
        if seen[-1].teacher:
            assert seen[-1].teacher.fingerprint == Workshop(tmp_path).train(teaching()).fingerprint


def _noted(regime, seen):
    said = None
    while True:
        try:
            step = regime.send(said)
        except StopIteration as end:
            return end.value
        seen.append(step)
        said = yield step


# --- the offline regime


def last(arm, one):
    return answered(getattr(Offline(), arm)(one), known)[0][-1]


def identity(arm, one):
    found = last(arm, one)
    return found.identity(found.start.module())


@pytest.mark.parametrize("seed", [0, 1])
def test_the_control_differs_from_the_distilled_student_in_the_teacher_alone(tmp_path, seed):
    one = ready(tmp_path).at(seed)
    distilled, control = identity("distilled", one), identity("control", one)
    differ = {name for name in distilled if distilled[name] != control[name]}
    assert differ == {"terms", "teacher", "examples"}
    assert control["teacher"] is None
    assert [term["name"] for term in control["terms"]] == ["labels"]
    assert control["terms"][0]["weight"]["value"] == 1.0, "nothing else speaks, so labels have their full weight"
    examples = last("control", one).examples
    assert examples.rows.tolist() == list(range(20))


def test_where_every_row_has_a_label_the_examples_are_the_same(tmp_path):
    one = plan(store=tmp_path / "stores")
    distilled, control = identity("distilled", one), identity("control", one)
    assert {name for name in distilled if distilled[name] != control[name]} == {"terms", "teacher"}


@pytest.mark.parametrize("arm", ["pseudo_labels", "soft_targets"])
def test_the_other_arms_share_all_but_what_they_are_about(arm, tmp_path):
    one = ready(tmp_path)
    distilled, other = identity("distilled", one), identity(arm, one)
    differ = {name for name in distilled if distilled[name] != other[name]}
    assert differ == ({"terms", "teacher", "examples"} if arm == "pseudo_labels" else {"terms"})


def test_pseudo_labels_are_the_given_ones_where_seen_and_the_teachers_elsewhere(tmp_path):
    one = ready(tmp_path)
    examples = last("pseudo_labels", one).examples
    train_part = one.splits.train
    assert torch.equal(examples.labels[:20], train_part.labels[:20])
    unseen = torch.arange(20, 50)
    shown = one.teacher.observe(train_part.batch(unseen, torch.zeros_like(unseen)), frozenset({"logits"}))["logits"]
    assert torch.equal(examples.labels[20:50], shown.argmax(-1))
    assert not torch.equal(examples.labels[20:50], train_part.labels[20:50]), "the hidden labels are not peeked at"
    assert examples.supervised[:50].all()
    assert torch.equal(examples.rows, train_part.rows)


def test_seeds_share_data_and_differ_in_weights_and_order(tmp_path):
    zero, one = (identity("control", ready(tmp_path).at(seed)) for seed in (0, 1))
    assert {name for name in zero if zero[name] != one[name]} == {"initial", "seed"}


def test_an_objective_without_labels_has_a_control_that_learns_from_labels(tmp_path):
    control = last("control", plan(terms=(SOFT,), store=tmp_path))
    assert control.terms == (Labels(),)


@pytest.mark.parametrize(
    ("labelled", "terms", "wanted"),
    [
        (None, (LABELS, SOFT), ["control", "distilled"]),
        (20, (LABELS, SOFT), ["control", "pseudo_labels", "distilled"]),
        (None, (LABELS, SOFT, HINTS), ["control", "soft_targets", "distilled"]),
        (20, (LABELS, SOFT, HINTS), ["control", "pseudo_labels", "soft_targets", "distilled"]),
        (None, (LABELS, HINTS), ["control", "distilled"]),
    ],
)
def test_which_arms_there_are(labelled, terms, wanted):
    assert list(Offline().arms(plan(labelled=labelled, terms=terms))) == wanted


@pytest.mark.parametrize("labelled", [None, 20])
@pytest.mark.parametrize(("views", "different"), [(0, 1), (1, 1), (2, 2), (None, 4)])
def test_all_that_training_asks_for_is_labelled_before_and_nothing_else(tmp_path, views, different, labelled):
    one = plan(labelled=labelled, store=tmp_path / "stores", terms=(LABELS, SOFT, HINTS), views=views)
    steps, _ = answered(Offline().distilled(one), known)
    cached = steps[-1].teacher
    as_they_are = labelled is not None and views != 0  # hard pseudo-labels are the teacher's answers to view 0
    asked = 50 * (different + as_they_are)  # 12 steps of 16 over 50 rows reach into the 4th epoch
    assert cached.misses == asked
    run(steps[-1], tmp_path / "training")
    assert cached.misses == asked

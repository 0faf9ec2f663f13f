"""Trainings one after another: each begins where the last one ended, and every other arm has as many steps in all."""

from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from tests.fakes.experiments import HINTS, LABELS, SOFT, Net, plan, seeded_teacher, stage

from limbeck.data.batch import NO_LABEL
from limbeck.data.examples import Examples, Splits
from limbeck.data.tabular import TextFile
from limbeck.data.tasks import Tags
from limbeck.data.text import TextTable
from limbeck.data.text_reader import TextReader
from limbeck.data.tokenizers import fitted
from limbeck.errors import DataError, LimbeckError, SettingError
from limbeck.models.given import Given
from limbeck.models.small import SmallTransformer
from limbeck.models.spec import BuildContext
from limbeck.models.specs import build
from limbeck.objective import Hints
from limbeck.regimes.staged import Part, Staged
from limbeck.regimes.walk import walk
from limbeck.teachers.ensemble import EnsembleTeacher
from limbeck.teachers.local import LocalTeacher
from limbeck.training.settings import Training
from limbeck.training.workshop import Workshop

FEATURES = Part(name="features", objective=(HINTS,), training=Training(steps=5, batch_size=16))
LAST = Part(name="last features", objective=(HINTS,), training=Training(steps=3, batch_size=16))


def trained(regime, one, tmp_path):
    """Every stage that an arm trains, and what each gave."""
    workshop, found, said = Workshop(tmp_path), [], None
    while True:
        try:
            step = regime.send(said)
        except StopIteration:
            return found
        if hasattr(step, "start"):
            said = workshop.train(step)
            found.append((step, said))
        else:
            said = step.function(**step.arguments)


def test_each_training_begins_where_the_last_one_ended(tmp_path):
    one = plan(store=tmp_path / "stores")
    steps = trained(Staged(before=(FEATURES, LAST)).distilled(one), one, tmp_path)
    assert [step.name for step, _ in steps] == ["features, seed 0", "last features, seed 0", "distilled, seed 0"]
    for (_, before), (after, _) in pairwise(steps):
        begun, ended = after.start.module().state_dict(), before.module().state_dict()
        assert all(torch.equal(begun[name], ended[name]) for name in ended)
    untrained = one.start.module().state_dict()
    assert all(torch.equal(value, untrained[name]) for name, value in steps[0][0].start.module().state_dict().items())


def test_hints_alone_leave_the_head_as_it_was(tmp_path):
    one = plan(store=tmp_path / "stores")
    first, gave = trained(Staged(before=(FEATURES,)).distilled(one), one, tmp_path)[0]
    begun, ended = first.start.module().state_dict(), gave.module().state_dict()
    # no gradient reaches it, and what gets none is not decayed either
    assert torch.equal(begun["head.weight"], ended["head.weight"])
    assert not torch.equal(begun["body.weight"], ended["body.weight"])


def test_epochs_are_of_the_rows_that_a_training_sees(tmp_path):
    one = plan(store=tmp_path / "stores")
    part = FEATURES.model_copy(update={"training": Training(epochs=4, batch_size=10)})
    assert part.budget(one).total == 4 * 50 / 10
    assert [each.training.total for each in Staged(before=(part,)).stages(one)] == [20, 12]


def test_a_training_may_have_a_teacher_of_its_own(tmp_path):
    one = plan(store=tmp_path / "stores")
    torch.manual_seed(7)
    other = Net(8)
    part = FEATURES.model_copy(update={"teacher": Given(other)})
    first = Staged(before=(part,)).stages(one)[0]
    assert first.teacher.fingerprint != one.teacher.fingerprint
    assert torch.equal(first.teacher.module.body.weight, other.body.weight)


def several(*names):
    known = [seeded_teacher(lambda seed=seed: seeded(seed)) for seed in range(len(names))]
    return known, EnsembleTeacher(known, names=names)


def seeded(seed):
    torch.manual_seed(seed)
    return Net(8)


def test_teachers_may_come_one_after_another(tmp_path):
    known, teacher = several("one", "two", "three")
    one = plan(teacher=teacher)
    parts = [
        Part(name="alone", objective=(SOFT,), members=("two",)),
        Part(name="both", objective=(SOFT,), members=("two", "three")),
    ]
    steps = [step for step, _ in trained(Staged(before=parts).distilled(one), one, tmp_path)]
    batch = one.splits.train.batch(one.splits.train.rows[:5], torch.zeros(5, dtype=torch.int64))

    def said(asked):
        return asked.observe(batch, frozenset({"logits"}))["logits"].softmax(-1)

    each = [said(member) for member in known]
    for step, expected in zip(steps, (each[1], (each[1] + each[2]) / 2, sum(each) / 3), strict=True):
        torch.testing.assert_close(said(step.teacher), expected)
    assert len({step.teacher.fingerprint for step in steps}) == 3


def test_teachers_that_a_training_cannot_name():
    _, teacher = several("one", "two")
    part = Part(name="alone", objective=(SOFT,), members=("one", "four"))
    with pytest.raises(LimbeckError, match="'four', and the recipe's teacher consists of one, two"):
        Staged(before=(part,)).stages(plan(teacher=teacher))
    with pytest.raises(LimbeckError, match="leave 'members' out"):
        Staged(before=(part,)).stages(plan())
    with pytest.raises(SettingError, match="both say who teaches"):
        Part(name="alone", objective=(SOFT,), members=("one",), teacher="small-cnn")


def test_outputs_of_a_training_are_stored_only_if_it_says_so(tmp_path):
    one = plan(store=tmp_path / "stores")
    for keep in (False, True):
        part = FEATURES.model_copy(update={"store": keep})
        steps = trained(Staged(before=(part,)).distilled(one), one, tmp_path / str(keep))
        assert hasattr(steps[0][0].teacher, "store") is keep
        assert hasattr(steps[-1][0].teacher, "store")


def test_layers_of_a_training_are_found_by_rule(tmp_path):
    one = plan(store=tmp_path / "stores")
    part = FEATURES.model_copy(update={"objective": (Hints(layers={"body": "body"}),)})
    assert part.plan(one).terms == (Hints(student="body", teacher="body"),)


@pytest.mark.parametrize("names", [("one", "one"), ("one", "distilled")])
def test_trainings_are_told_apart(names):
    with pytest.raises(SettingError, match="a name of its own"):
        Staged(before=tuple(FEATURES.model_copy(update={"name": name}) for name in names))


def test_a_frozen_pattern_that_fits_nothing_is_told_before_anything_is_trained(tmp_path):
    part = FEATURES.model_copy(update={"frozen": ("encoder.*",)})
    with pytest.raises(LimbeckError, match="fits no parameter"):
        Staged(before=(part,)).stages(plan())[0].model()


# --- other texts

SENTENCES = [
    f"the {adjective} {noun} is {verb}"
    for adjective in ("good", "bad", "old")
    for noun in ("film", "cast", "plot", "end")
    for verb in ("here", "gone")
]


def texts_plan():
    reader = TextReader(tokenizer=fitted(SENTENCES), max_length=16)
    table = TextTable(SENTENCES, reader)
    labels = torch.arange(len(SENTENCES)) % 2
    known = torch.ones(len(SENTENCES), dtype=torch.bool)
    rows = torch.arange(len(SENTENCES))
    parts = Splits(
        *(Examples(table, part, labels, known, ("no", "yes")) for part in (rows[:12], rows[12:18], rows[18:]))
    )
    sample = parts.train.batch(rows[:4], torch.zeros(4, dtype=torch.int64)).columns("student")
    context = BuildContext(2, sample, ("no", "yes"), vocabulary=reader.vocabulary)
    spec = SmallTransformer(layers=1, hidden=8, heads=2)
    module = build(spec, context, 9)
    return plan(
        splits=parts, student=spec, context=context, teacher=LocalTeacher(module.requires_grad_(False), "t"), views=0
    )


HIDDEN = Hints(student="hidden.1", teacher="hidden.1")


def corpus(tmp_path, lines):
    path = tmp_path / "corpus.csv"
    path.write_text("text,label\n" + "".join(f"{line},{number % 2}\n" for number, line in enumerate(lines)))
    return TextFile(path=str(path))


def test_other_texts_are_read_without_labels_and_without_what_the_student_is_judged_by(tmp_path):
    one = texts_plan()
    lines = ["a film about nothing", SENTENCES[20], SENTENCES[13], SENTENCES[0], "another film"]
    part = Part(
        name="general", objective=(HIDDEN,), training=Training(steps=2, batch_size=2), texts=corpus(tmp_path, lines)
    )
    examples = part.plan(one).splits.train
    assert [examples.table.raw(row) for row in examples.rows.tolist()] == [lines[0], lines[3], lines[4]]
    batch = examples.batch(examples.rows, torch.zeros_like(examples.rows))
    assert batch.labels["class"].eq(NO_LABEL).all()
    assert not batch.masks["supervised"].any()
    direct = one.splits.train.table.reader.encode([lines[0], lines[3], lines[4]])
    assert torch.equal(batch.inputs["input_ids"], direct["input_ids"])


def test_a_walk_over_other_texts_trains_and_repeats(tmp_path):
    one = texts_plan()
    part = Part(
        name="general",
        objective=(HIDDEN,),
        training=Training(steps=2, batch_size=2),
        texts=corpus(tmp_path, ["a film", "b film", "c"]),
    )
    regime = Staged(before=(part,))
    short = replace(one, training=Training(steps=2, batch_size=4))
    first = walk(regime.distilled(short), Workshop(tmp_path / "a"), tmp_path / "a.json")
    again = walk(regime.distilled(short), Workshop(tmp_path / "b"), tmp_path / "b.json")
    assert first.fingerprint == again.fingerprint


def test_other_texts_need_a_student_of_texts_and_one_answer_an_example(tmp_path):
    source = corpus(tmp_path, ["a film", "b film"])
    part = Part(name="general", objective=(HINTS,), training=Training(steps=2, batch_size=2), texts=source)
    with pytest.raises(DataError, match="for a student that reads texts"):
        part.plan(plan(student=Given(Net), teacher=seeded_teacher(Net)))
    one = texts_plan()
    tagged = replace(one, splits=replace(one.splits, train=replace(one.splits.train, task=Tags())))
    with pytest.raises(DataError, match="compare layers there"):
        part.model_copy(update={"objective": (SOFT,)}).plan(tagged)


def test_a_stage_of_the_fakes_can_be_frozen():
    assert stage(terms=(LABELS,), teacher=None, frozen=("body.weight",)).model().body.weight.requires_grad is False

"""On-policy training: what is written, that writing disturbs nothing, and that what is learnt from it is what the papers say."""

import random
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from tests.fakes import experiments, writers
from tests.fakes.experiments import Crash, Watching, crash, same
from tests.fakes.writers import ALWAYS, END, LABELS, NEAR, OnPolicy, stage

from limbeck.data.batch import CLASS, GIVEN, NO_LABEL, REAL, SUPERVISED, WRITTEN, Batch
from limbeck.data.examples import Splits
from limbeck.data.language import SAMPLED, NextToken
from limbeck.errors import LimbeckError, SettingError, SignalError
from limbeck.losses import onpolicy
from limbeck.losses.sequences import jensen_shannon, reverse_kl
from limbeck.models.sampling import Ends, Mixed, continued, drawn
from limbeck.objective import Diverging, Objective
from limbeck.objective.returns import Returns
from limbeck.objective.schedules import Place
from limbeck.regimes.pen import Tally
from limbeck.regimes.plan import Plan
from limbeck.regimes.walk import walk
from limbeck.signals.capture import Capture
from limbeck.teachers.store.top_k import TopKCodec
from limbeck.teachers.teacher import Provides
from limbeck.training.loop import train
from limbeck.training.workshop import Workshop

ENDS = Ends(24, (END,), 0)
PROMPTS = [torch.tensor(one) for one in ([2, 5, 9], [2, 7], [2, 4, 8, 15, 16, 20], [2, 11, 6, 5])]
LOGITS = frozenset({"logits"})
BOTH = OnPolicy(share=0.5, each="text", max_new_tokens=6)
MINILLM = (LABELS, Diverging(kind="reverse-kl", texts="written", returns=Returns(gamma=0.9)))
DISTILLM2 = (Diverging(kind="skew-kl", texts="given"), Diverging(kind="skew-reverse-kl", texts="written"))
KINDS = pytest.mark.parametrize("kind", ["Llama", "GPT2"])


def logs(module, text):
    """Log-probabilities [T, V] of the tokens that follow each of ``text``, from one pass over all of it."""
    with torch.no_grad():
        return torch.log_softmax(module(input_ids=text[None]).logits[0].float(), -1)


def written(settings, step=0, one=None, terms=(LABELS, NEAR)):
    """The micro-batches of a step before and after, and what wrote them."""
    one = stage(settings, terms=terms) if one is None else one
    student = one.model()
    rows = one.examples.rows[:8]
    before = one.examples.batch(rows, torch.zeros_like(rows))
    pen = settings.pen(one, student)
    return before, pen.written(student, [before], Place(step, 10))[0], student, one.teacher.module


def rows_of(batch, mask):
    return batch.masks[mask].nonzero()[:, 0].tolist()


def text_of(batch, row):
    return batch.inputs["input_ids"][row][batch.inputs["attention_mask"][row].bool()]


# --- writing


@KINDS
def test_a_text_hangs_on_no_other_and_padding_is_nothing(kind):
    module = writers.model(2, kind=kind)
    draws = drawn(range(4), 9)
    for lots in (None, draws):
        together = continued(module, PROMPTS, ENDS, 9, lots)
        for row, prompt in enumerate(PROMPTS):
            ((tokens, chances),) = continued(module, [prompt], ENDS, 9, None if lots is None else lots[row : row + 1])
            assert tokens.tolist() == together[row][0].tolist()
            torch.testing.assert_close(chances, together[row][1], rtol=1e-4, atol=1e-5)  # float32, other paddings
    greedy = continued(module, PROMPTS[:1], ENDS, 5)[0][0].tolist()
    text = PROMPTS[0]
    for token in greedy:
        assert int(logs(module, text)[-1].argmax()) == token
        text = torch.cat([text, torch.tensor([token])])


@KINDS
@pytest.mark.parametrize(("temperature", "share"), [(1.0, 0.0), (0.7, 0.0), (1.0, 0.3), (1.5, 0.2)])
def test_the_chance_of_a_token_is_what_one_pass_says(kind, temperature, share):
    module, other = writers.model(2, kind=kind), writers.model(1, seed=5, kind=kind)
    mixed = Mixed(other, share) if share else None
    for prompt, (tokens, chances) in zip(
        PROMPTS, continued(module, PROMPTS, ENDS, 9, drawn(range(4), 9), temperature, mixed), strict=True
    ):
        text = torch.cat([prompt, tokens])
        q, p = (torch.softmax(logs(one, text) / temperature, -1) for one in (module, other))
        whole = ((1 - share) * q + share * p)[len(prompt) - 1 : -1]
        own = whole.gather(1, tokens[:, None])[:, 0].log()
        torch.testing.assert_close(chances, own, rtol=1e-4, atol=1e-4)  # float32, a token at a time or all at once


def test_tokens_come_as_often_as_they_should():
    module, other = writers.model(1, spread=0.5), writers.model(1, seed=5, spread=0.5)
    many, prompt = 2000, PROMPTS[0]
    for mixed in (None, Mixed(other, 0.4)):
        found = continued(module, [prompt] * many, ENDS, 1, drawn(range(many), 1), 1.0, mixed)
        counts = torch.bincount(torch.cat([tokens for tokens, _ in found]), minlength=24).double()
        p = logs(module, prompt)[-1].double().exp()
        p = p if mixed is None else 0.6 * p + 0.4 * logs(other, prompt)[-1].double().exp()
        # each count is binomial; 5 standard deviations are passed by one in two million
        assert ((counts - many * p).abs() <= 5 * (many * p * (1 - p)).sqrt() + 1).all()


def test_texts_stop_at_their_end_or_are_cut_off_without_one():
    module = writers.model(1, spread=0.1)
    found = [tokens for tokens, _ in continued(module, PROMPTS * 20, ENDS, 12, drawn(range(80), 12))]
    ended = [tokens for tokens in found if END in tokens]
    assert 10 < len(ended) < 70
    assert all(tokens.tolist().index(END) == len(tokens) - 1 for tokens in ended)
    assert all(len(tokens) == 12 for tokens in found if END not in tokens)
    endless = continued(module, PROMPTS * 20, replace(ENDS, end=()), 12, drawn(range(80), 12))
    assert all(len(tokens) == 12 for tokens, _ in endless)


def test_a_models_own_generation_settings_and_a_padded_vocabulary_are_not_heeded():
    module = writers.model(1)
    plain = [tokens.tolist() for tokens, _ in continued(module, PROMPTS, ENDS, 9, drawn(range(4), 9))]
    module.generation_config.repetition_penalty, module.generation_config.min_new_tokens = 9.0, 8
    module.generation_config.suppress_tokens = [plain[0][0]]
    kept = module.generation_config
    assert [tokens.tolist() for tokens, _ in continued(module, PROMPTS, ENDS, 9, drawn(range(4), 9))] == plain
    assert module.generation_config is kept
    few = [tokens for tokens, _ in continued(module, PROMPTS * 9, replace(ENDS, vocabulary=8), 9, drawn(range(36), 9))]
    assert max(int(tokens.max()) for tokens in few) < 8


def test_writing_leaves_everything_as_it_was():
    module, other = writers.model(2, seed=1).train(), writers.model(1, seed=5)
    module.model.layers[0].eval()  # a part that was in another mode
    modes = [part.training for part in module.modules()]
    before = torch.random.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
    continued(module, PROMPTS, ENDS, 5, drawn(range(4), 5), 1.0, Mixed(other, 0.5))
    after = torch.random.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
    assert torch.equal(before[0], after[0])
    assert before[1:] == after[1:]
    assert [part.training for part in module.modules()] == modes
    assert torch.is_grad_enabled()
    assert all(p.requires_grad and p.grad is None for p in module.parameters())


# --- batches


@pytest.mark.parametrize(
    "settings", [BOTH, BOTH.model_copy(update={"opening": 4}), OnPolicy(share=1.0, max_new_tokens=3)]
)
def test_a_written_row_is_its_prompt_and_what_followed(settings):
    before, after, student, _ = written(settings)
    own = rows_of(after, WRITTEN)
    assert own
    assert torch.equal(after.masks[GIVEN], ~after.masks[WRITTEN])
    assert (before.inputs["attention_mask"] >= 0).all()
    for row in range(len(before)):
        old, new = text_of(before, row), text_of(after, row)
        if row not in own:
            assert new.tolist() == old.tolist()
            known = before.labels[CLASS][row] != NO_LABEL
            assert after.labels[CLASS][row][: len(known)][known[: after.labels[CLASS].shape[1]]].tolist() == (
                before.labels[CLASS][row][known].tolist()
            )
            continue
        known = int((before.labels[CLASS][row] != NO_LABEL).nonzero()[0]) + 1
        begin = min(max(known, settings.opening), len(old) - 1)
        assert new[:begin].tolist() == old[:begin].tolist()
        tokens = new[begin:]
        assert 1 <= len(tokens) <= settings.max_new_tokens
        assert END not in tokens[:-1]
        asked = (after.labels[CLASS][row] != NO_LABEL).nonzero()[:, 0].tolist()
        assert asked == list(range(begin - 1, len(new) - 1))
        assert after.labels[CLASS][row, asked].tolist() == tokens.tolist()
        assert not after.masks[SUPERVISED][row]
        whole = logs(student, new)[begin - 1 : -1].gather(1, tokens[:, None])[:, 0]
        torch.testing.assert_close(after.labels[SAMPLED][row, asked], whole, rtol=1e-4, atol=1e-4)
    padding = after.inputs["attention_mask"] == 0
    assert (after.inputs["input_ids"][padding] == 0).all()
    assert (after.labels[CLASS][padding] == NO_LABEL).all()


def test_rows_that_do_not_count_are_not_written():
    one = stage()
    batch = one.examples.batch(one.examples.rows[:4], torch.zeros(4, dtype=torch.int64))
    batch.masks[REAL][2] = False
    (after,) = OnPolicy(share=1.0, max_new_tokens=3).pen(one, one.model()).written(one.model(), [batch], Place(0, 1))
    assert rows_of(after, WRITTEN) == [0, 1, 3]
    assert text_of(after, 2).tolist() == text_of(batch, 2).tolist()


def test_the_teacher_writes_too_and_its_texts_are_given_with_labels():
    _, after, _, teacher = written(OnPolicy(share=0.0, teacher_share=1.0, max_new_tokens=6))
    assert rows_of(after, GIVEN) == list(range(8)) == rows_of(after, SUPERVISED)
    for row in range(8):
        text, asked = text_of(after, row), (after.labels[CLASS][row] != NO_LABEL).nonzero()[:, 0]
        whole = logs(teacher, text)[asked].gather(1, text[asked + 1][:, None])[:, 0]
        torch.testing.assert_close(after.labels[SAMPLED][row, asked], whole, rtol=1e-4, atol=1e-4)


def test_what_is_written_hangs_on_seed_step_and_row_and_not_on_the_arrangement():
    one = stage(BOTH)
    student, rows = one.model(), one.examples.rows[:8]

    def texts(parts, step=3, seed=0, settings=BOTH):
        batches = [one.examples.batch(ids, torch.zeros_like(ids)) for ids in parts]
        found = settings.pen(replace(one, seed=seed), student).written(student, batches, Place(step, 10))
        return [text_of(batch, row).tolist() for batch in found for row in range(len(batch))]

    assert texts([rows]) == texts([rows[:4], rows[4:]]) == texts([rows[:1], rows[1:]])
    turn = torch.tensor([5, 2, 7, 0, 1, 3, 6, 4])
    assert texts([rows[turn]]) == [texts([rows])[at] for at in turn.tolist()]
    assert texts([rows]) == texts([rows])
    assert len({str(texts([rows], *other, ALWAYS)) for other in ((3, 0), (4, 0), (3, 1))}) == 3


def test_shares_are_those_of_texts_or_of_steps():
    settings = OnPolicy(share=0.3, teacher_share=0.2, each="text", max_new_tokens=1)
    one = stage(settings)
    student, rows = one.model(), one.examples.rows
    batch = one.examples.batch(rows, torch.zeros_like(rows))
    authors = torch.stack([settings.pen(one, student)._authors(batch, Place(step, 100)) for step in range(60)])
    # 1,920 draws: a standard deviation of some 0.01
    assert float((authors == 1).double().mean()) == pytest.approx(0.3, abs=0.04)
    assert float((authors == 2).double().mean()) == pytest.approx(0.2, abs=0.04)
    by_step = settings.model_copy(update={"each": "step"}).pen(one, student)
    steps = torch.stack([by_step._authors(batch, Place(step, 100)) for step in range(60)])
    assert (steps == steps[:, :1]).all()
    assert set(steps[:, 0].tolist()) == {0, 1, 2}
    rising = OnPolicy(share={"schedule": "linear", "start": 0, "end": 1}, max_new_tokens=1).pen(one, student)
    assert [int(rising._authors(batch, Place(step, 100))[0]) for step in (0, 99)] == [0, 1]


def test_the_curve_tells_length_ends_and_repetition(tmp_path):
    found = train(stage(OnPolicy(share=1.0, max_new_tokens=5)), tmp_path)
    for point in found.points:
        assert 1 <= point["parts"]["written.tokens"] <= 5
        assert 0 <= point["parts"]["written.ended"] <= 1
        assert 0 <= point["parts"]["written.repeated"] < 1
    pen, one = ALWAYS.pen(stage(), stage().model()), stage()
    pen.written(
        one.model(), [one.examples.batch(one.examples.rows[:2], torch.zeros(2, dtype=torch.int64))], Place(0, 1)
    )
    assert pen.told()
    assert not pen.told(), "nothing is told twice"
    tally = Tally()
    tally.add([1, 2, 3, 4, 1, 2, 3, 4, 3], True)  # six 4-grams, of which the fifth is the first
    tally.add([1, 2], False)
    assert tally.told() == {"written.tokens": 5.5, "written.ended": 0.5, "written.repeated": 1 / 6}


# --- training


def test_a_share_of_nothing_is_offline_training_bit_for_bit(tmp_path):
    plain = train(stage(None), tmp_path / "a")
    assert same(plain, train(stage(OnPolicy(share=0.0, max_new_tokens=6)), tmp_path / "b"))
    assert not same(plain, train(stage(BOTH), tmp_path / "c"))


def test_resumed_is_uninterrupted_and_two_runs_are_one(tmp_path):
    terms, settings = MINILLM, BOTH.model_copy(update={"mixed": 0.2})
    whole = train(stage(settings, terms=terms), tmp_path / "whole")
    assert same(whole, train(stage(settings, terms=terms), tmp_path / "again"))
    with pytest.raises(Crash):
        train(stage(settings, terms=terms, checkpoint_every=2), tmp_path / "cut", Watching(after=5, act=crash))
    assert same(whole, train(stage(settings, terms=terms, checkpoint_every=2), tmp_path / "cut"))
    other = train(replace(stage(settings, terms=terms), seed=1), tmp_path / "other")
    assert not same(whole, other)


@pytest.mark.parametrize("terms", [(LABELS, NEAR), MINILLM], ids=["gkd", "minillm"])
def test_accumulated_is_one_batch(terms, tmp_path):
    one, two = (train(stage(BOTH, terms=terms, accumulate=count), tmp_path / f"{count}").weights for count in (1, 2))
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, rtol=1e-4, atol=1e-5)  # sums of float32 in another order


def objective_of(terms, batch, student, teacher, dtype=torch.float64):
    objective = Objective(terms, NextToken())
    student, teacher = student.to(dtype), teacher.to(dtype)
    with Capture(student, LOGITS) as ours, Capture(teacher, LOGITS) as theirs, torch.no_grad():
        shown = theirs(batch.columns("teacher"))
        with torch.enable_grad():
            loss, parts = objective(ours(batch.columns("student")), shown, batch)
    return loss, parts, torch.autograd.grad(loss, list(student.parameters()))


def dense(batch, module):
    """Logits [B, T, V] with their graph."""
    return module(input_ids=batch.inputs["input_ids"], attention_mask=batch.inputs["attention_mask"]).logits


def test_gkd_is_the_mean_divergence_over_written_and_given_tokens():
    _, batch, student, teacher = written(BOTH)
    loss, parts, slopes = objective_of((LABELS, NEAR), batch, student, teacher)
    z, t = dense(batch, student), dense(batch, teacher).detach()
    asked = batch.labels[CLASS] != NO_LABEL
    labelled = asked & batch.masks[GIVEN][:, None]
    far = jensen_shannon(z[asked], t[asked], 0.5).mean()
    hard = torch.nn.functional.cross_entropy(z[labelled], batch.labels[CLASS][labelled])
    torch.testing.assert_close(parts["divergence"], far.detach())
    torch.testing.assert_close(parts["labels"], hard.detach())  # nothing from the student's own texts
    torch.testing.assert_close(loss, 0.3 * hard + 0.7 * far)
    for ours, right in zip(
        slopes, torch.autograd.grad(0.3 * hard + 0.7 * far, list(student.parameters())), strict=True
    ):
        torch.testing.assert_close(ours, right, rtol=1e-4, atol=1e-7)  # what a row counts is kept in float32


def test_labels_say_nothing_where_all_texts_are_the_students_own():
    _, batch, student, teacher = written(OnPolicy(share=1.0, max_new_tokens=5))
    loss, parts, _ = objective_of((LABELS, NEAR), batch, student, teacher)
    assert "labels" not in parts
    torch.testing.assert_close(loss.detach(), 0.7 * parts["divergence"])
    alone, none, slopes = objective_of((LABELS,), batch, student, teacher)
    assert float(alone.detach()) == 0
    assert none == {}
    assert all((one == 0).all() for one in slopes)


def test_distillm2_is_a_mean_of_each_kind_of_text():
    _, batch, student, teacher = written(BOTH, terms=DISTILLM2)
    loss, _, _ = objective_of(DISTILLM2, batch, student, teacher)
    z, t = dense(batch, student).detach(), dense(batch, teacher).detach()
    sides, alphas = [], []
    for mask in (GIVEN, WRITTEN):
        asked = (batch.labels[CLASS] != NO_LABEL) & batch.masks[mask][:, None]
        sides.append((z[asked][None], t[asked][None]))
        alphas.append(torch.tensor([0.1]))
    given, own = onpolicy.distillm2(*sides, tuple(alphas))
    torch.testing.assert_close(loss.detach(), given.mean() + own.mean())


@pytest.mark.parametrize(
    ("settings", "returns"),
    [
        (BOTH, Returns()),
        (BOTH, Returns(gamma=0.7, length_normalised=False, reward_clip=0.5)),
        (BOTH.model_copy(update={"mixed": 0.3, "temperature": 1.3}), Returns(ratio_clip=0.1)),
        (BOTH.model_copy(update={"mixed": 0.3}), Returns(ratio_clip=None)),
    ],
)
def test_minillm_has_the_gradient_of_its_two_parts(settings, returns):
    terms = (Diverging(kind="reverse-kl", texts="written", returns=returns),)
    _, batch, student, teacher = written(settings, terms=terms)
    loss, parts, slopes = objective_of(terms, batch, student, teacher)
    z, t = dense(batch, student), dense(batch, teacher).detach()
    mask = (batch.labels[CLASS] != NO_LABEL) & batch.masks[WRITTEN][:, None]
    tokens = batch.labels[CLASS].clamp_min(0)[..., None]
    q, p = (torch.log_softmax(one, -1).gather(2, tokens)[..., 0] for one in (z, t))
    credit = onpolicy.minillm_returns(
        q,
        p,
        mask,
        returns.gamma,
        length_normalised=returns.length_normalised,
        single_step=True,
        clip=returns.reward_clip,
    )
    assert float(credit.abs().max()) > 0.05
    drawn_at = batch.labels[SAMPLED].double()
    later = onpolicy.policy_gradient_loss(q, drawn_at, credit, mask, returns.ratio_clip)[mask].mean()
    now = reverse_kl(z[mask], t[mask]).mean()
    right = torch.autograd.grad(now + later, list(student.parameters()))
    alone = torch.autograd.grad(reverse_kl(dense(batch, student)[mask], t[mask]).mean(), list(student.parameters()))
    assert max(float((one - other).abs().max()) for one, other in zip(right, alone, strict=True)) > 1e-4
    for ours, other in zip(slopes, right, strict=True):
        torch.testing.assert_close(ours, other, rtol=1e-4, atol=1e-6)  # log-probabilities are kept in float32
    torch.testing.assert_close(parts["divergence"], now.detach())  # its value is the reverse KL alone
    assert loss.isfinite()


def test_nothing_is_credited_where_the_student_is_its_teacher():
    terms = (Diverging(kind="reverse-kl", texts="written", returns=Returns()),)
    _, batch, student, _ = written(OnPolicy(share=1.0, max_new_tokens=6), terms=terms)
    loss, _, slopes = objective_of(terms, batch, student, student)
    assert abs(float(loss.detach())) < 1e-9
    assert all(one.abs().max() < 1e-9 for one in slopes)


# --- keys


def test_what_is_not_on_policy_keeps_its_key():
    assert not {"texts", "returns"} & Diverging().plain().keys()
    plain, writing = stage(None), stage(BOTH)
    module = plain.model()
    assert "writing" not in plain.identity(module)
    assert writing.identity(module) == plain.identity(module) | {"writing": BOTH.plain()}
    term = MINILLM[1]
    assert Diverging.model_validate(term.plain()) == term


# --- the regime


def plan(**changes):
    one = stage(None)
    given = {
        "splits": Splits(one.examples, one.validation, one.validation),
        "student": one.start.spec,
        "terms": (LABELS, NEAR),
        "training": one.training,
        "teacher": one.teacher,
        "teacher_stages": (),
        "views": 0,
        "seed": 0,
        "context": one.start.context,
    }
    return Plan(**{**given, **changes})


def stages(arm, one):
    """The steps that an arm yields, each answered by the stage itself."""
    regime, found = BOTH.arms(one)[arm](one), []
    try:
        while True:
            found.append(regime.send(found[-1] if found else None))
    except StopIteration:
        return found


def test_the_control_and_off_policy_training_stand_beside_it():
    one = plan()
    assert list(BOTH.arms(one)) == ["control", "off_policy", "distilled"]
    ((control,), (off,), (distilled,)) = (stages(arm, one) for arm in BOTH.arms(one))
    (told,) = BOTH.stages(one)
    assert distilled.identity(one.start.module()) == told.identity(one.start.module())
    keys = {name: each.identity(one.start.module()) for name, each in (("on", distilled), ("off", off))}
    assert keys["on"] == keys["off"] | {"writing": BOTH.plain()}, "they differ in the writing alone"
    assert control.writing is None
    assert control.teacher is None
    assert control.training == off.training == distilled.training == one.training


def test_without_writing_given_texts_are_all_and_terms_of_written_ones_are_left_out():
    ((off,), (distilled,)) = (stages(arm, plan(terms=DISTILLM2)) for arm in ("off_policy", "distilled"))
    assert off.terms == DISTILLM2[:1]
    assert distilled.terms == DISTILLM2
    assert list(BOTH.arms(plan(terms=MINILLM))) == ["control", "distilled"], "labels alone are the control"


def test_an_arm_is_trained_once(tmp_path):
    one = plan()

    def walked():
        return walk(BOTH.distilled(one), Workshop(tmp_path), tmp_path / "journal.json")

    first, again = walked(), walked()
    assert (first.reused, again.reused) == (False, True)
    assert first.fingerprint == again.fingerprint


# --- what cannot be


def without_generate():
    return torch.nn.Sequential(torch.nn.Embedding(24, 24))


def elsewhere(**provides):
    class Other:
        fingerprint, module = "other", None

        def __init__(self):
            self.provides = replace(Provides(), **provides)

        def observe(self, batch, needs):
            raise AssertionError("it is refused before it is asked")

    return Other()


@pytest.mark.parametrize(
    ("settings", "changes", "why"),
    [
        ({}, {"make": without_generate}, "Sequential, the student, has no generate"),
        ({"max_new_tokens": 60}, {}, "the student reads 64 at most: set 'max-new-tokens' to 5"),
        ({"opening": 60, "max_new_tokens": 6}, {}, "longest prompt has 60 tokens"),
        ({}, {"teacher": elsewhere(unseen=False)}, "stored outputs say nothing"),
        ({"mixed": 0.2}, {"teacher": elsewhere()}, "no model in memory"),
        ({"share": 0.5, "teacher_share": 0.5}, {"teacher": elsewhere()}, "no model in memory"),
    ],
)
def test_what_cannot_be_written_with_is_told_before_the_first_step(settings, changes, why):
    one = stage(OnPolicy(**{"max_new_tokens": 6, **settings}), **changes)
    student = changes["make"]() if "make" in changes else one.model()
    with pytest.raises(LimbeckError, match=why):
        one.writing.pen(one, student)


def test_other_tasks_and_two_tokenizers_are_refused():
    with pytest.raises(LimbeckError, match=r"the task here is 'classes'"):
        BOTH.pen(experiments.stage(), None)
    one = stage(BOTH)
    batch = one.examples.batch(one.examples.rows[:1], torch.zeros(1, dtype=torch.int64))
    two = Batch.of({**batch.inputs, "teacher.input_ids": batch.inputs["input_ids"]})
    one = replace(one, examples=SimpleNamespace(**vars(one.examples), batch=lambda ids, views: two))
    with pytest.raises(LimbeckError, match=r"'teacher.input_ids' beside.*same tokenizer"):
        BOTH.pen(one, one.model())


def test_a_store_is_refused_as_it_cannot_hold_what_is_not_written_yet():
    with pytest.raises(LimbeckError, match=r"leave teacher\.store out"):
        BOTH.stages(plan(codec=TopKCodec()))


def test_nobody_learns_from_written_texts_where_nobody_writes(tmp_path):
    with pytest.raises(SignalError, match=r"texts: written.*nobody writes.*on-policy"):
        train(stage(None, terms=MINILLM), tmp_path)


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (lambda: OnPolicy(share=0.7, teacher_share=0.4), "together they are at most 1"),
        (lambda: OnPolicy(share=1.5), "from 0 to 1"),
        (lambda: OnPolicy(share=-0.5), "not negative"),
        (lambda: OnPolicy(temperature=0.0), "greater than 0"),
        (lambda: OnPolicy(mixed=1.0), "less than 1"),
        (lambda: Diverging(kind="forward-kl", texts="written", returns=Returns()), "reverse-kl with texts: written"),
        (lambda: Diverging(kind="reverse-kl", returns=Returns()), "reverse-kl with texts: written"),
        (lambda: Diverging(kind="reverse-kl", texts="written", temperature=2.0, returns=Returns()), "temperature 1"),
    ],
)
def test_wrong_settings_are_named(make, why):
    with pytest.raises(SettingError, match=why):
        make()

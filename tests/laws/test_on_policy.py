"""On-policy training: what is learnt from written texts is what the papers say."""

from dataclasses import replace

import pytest
import torch
from tests.fakes.experiments import Crash, Watching, crash, same
from tests.fakes.writers import BOTH, DISTILLM2, LABELS, MINILLM, NEAR, OnPolicy, stage, written

from limbeck.data.batch import CLASS, GIVEN, NO_LABEL, WRITTEN
from limbeck.data.language import SAMPLED, NextToken
from limbeck.losses import onpolicy
from limbeck.losses.sequences import jensen_shannon, reverse_kl
from limbeck.objective import Diverging, Objective
from limbeck.objective.returns import Returns
from limbeck.signals.capture import Capture
from limbeck.training.loop import train

LOGITS = frozenset({"logits"})


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

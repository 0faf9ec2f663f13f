"""On-policy training: what is written, how often, and that writing disturbs nothing."""

import random
from dataclasses import replace

import numpy as np
import pytest
import torch
from tests.fakes import writers
from tests.fakes.writers import ALWAYS, BOTH, END, PROMPTS, OnPolicy, logs, rows_of, stage, text_of, written

from limbeck.data.batch import CLASS, GIVEN, NO_LABEL, REAL, SUPERVISED, WRITTEN
from limbeck.data.language import SAMPLED
from limbeck.models.sampling import Ends, Mixed, continued, drawn
from limbeck.objective.schedules import Place
from limbeck.regimes.pen import Tally
from limbeck.training.loop import train

ENDS = Ends(24, (END,), 0)
KINDS = pytest.mark.parametrize("kind", ["Llama", "GPT2"])


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

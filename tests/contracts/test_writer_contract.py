"""What every writer must do: transformers, vLLM by a stand-in, and vLLM itself where it is installed (make vllm)."""

import sys
from importlib.util import find_spec

import pytest
import torch
from tests.fakes import vllm as standin
from tests.fakes.writers import END, PROMPTS, logs, model

from limbeck.models import vllm as ours
from limbeck.models.sampling import Ends
from limbeck.models.writers import Transformers, Vllm

ENDS = Ends(24, (END,), 0)
MOST = 8
ROOM = 64
real = [pytest.mark.vllm, pytest.mark.skipif(find_spec("vllm") is None, reason="make vllm installs it")]


@pytest.fixture(scope="module")
def installed():
    """vLLM itself, started once for all tests of this file."""
    yield
    ours.stop()


@pytest.fixture(params=["transformers", "stand-in", pytest.param("vllm", marks=real)])
def settings(request, monkeypatch):
    if request.param == "vllm":
        request.getfixturevalue("installed")
        yield Vllm(eager=True)
        return
    monkeypatch.setattr(ours, "_running", [])
    monkeypatch.setitem(sys.modules, "vllm", standin)
    yield Transformers() if request.param == "transformers" else Vllm()
    ours.stop()


@pytest.fixture
def module():
    return model(2, width=64)  # vLLM's attention on a processor wants heads of 32


def writing(settings, module, ends=ENDS):
    return settings.of(module, "the student", ends, ROOM)


def test_the_likeliest_text_is_the_models_own(settings, module):
    found = writing(settings, module)(module, PROMPTS, None, MOST)
    for prompt, (tokens, told) in zip(PROMPTS, found, strict=True):
        text = prompt
        while len(text) < len(prompt) + MOST and (len(text) == len(prompt) or int(text[-1]) != END):
            text = torch.cat([text, logs(module, text)[-1].argmax()[None]])
        assert torch.equal(tokens, text[len(prompt) :])
        torch.testing.assert_close(told, own_logs(module, prompt, tokens), rtol=1e-4, atol=1e-4)


def own_logs(module, prompt, tokens, temperature=1.0):
    said = logs(module, torch.cat([prompt, tokens]))[len(prompt) - 1 : -1]
    return (said / temperature).log_softmax(-1).gather(1, tokens[:, None])[:, 0]


@pytest.mark.parametrize("temperature", [0.7, 1.5])
def test_drawn_tokens_come_with_the_probability_that_they_were_drawn_by(settings, module, temperature):
    found = writing(settings, module)(module, PROMPTS, [1, 2, 3, 4], MOST, temperature)
    for prompt, (tokens, told) in zip(PROMPTS, found, strict=True):
        assert 1 <= len(tokens) <= MOST
        assert END not in tokens[:-1]
        assert len(tokens) == MOST or tokens[-1] == END
        torch.testing.assert_close(told, own_logs(module, prompt, tokens, temperature), rtol=1e-4, atol=1e-4)


def test_a_text_hangs_on_its_seed_and_on_no_other_text(settings, module):
    write, seeds = writing(settings, module), [2**60 + 5, 7, 8, 9]
    before = torch.random.get_rng_state()
    together = write(module, PROMPTS, seeds, MOST)
    turned = write(module, PROMPTS[::-1], seeds[::-1], MOST)[::-1]
    alone = write(module, PROMPTS[:1], seeds[:1], MOST)
    assert torch.equal(torch.random.get_rng_state(), before)
    for (one, _), (other, _) in zip(together, turned, strict=True):
        assert torch.equal(one, other)
    assert torch.equal(alone[0][0], together[0][0])
    others = write(module, PROMPTS[:1] * 20, range(20), MOST)
    assert len({tuple(tokens.tolist()) for tokens, _ in others}) > 10


def test_draws_follow_the_whole_distribution(settings, module):
    count = 3000
    found = writing(settings, module)(module, PROMPTS[:1] * count, range(count), 1)
    seen = torch.bincount(torch.cat([tokens for tokens, _ in found]), minlength=24)
    expected = count * logs(module, PROMPTS[0])[-1].exp()
    common = expected > 5
    distance = ((seen - expected).square() / expected)[common].sum()
    # chi-squared: a mean of some 20 and a standard deviation of some 6; this is beyond six of them
    assert float(distance) < 20 + 6 * 6.5
    assert int(common.sum()) > 8


def test_weights_that_moved_write_other_texts(settings, module):
    write = writing(settings, module)
    before = write(module, PROMPTS, None, MOST)
    optimizer = torch.optim.AdamW(module.parameters(), 0.05)
    module.train()
    module(input_ids=PROMPTS[0][None]).logits.square().sum().backward()
    optimizer.step()
    after = write(module, PROMPTS, None, MOST)
    assert module.training
    assert [one.tolist() for one, _ in after] != [one.tolist() for one, _ in before]
    for prompt, (tokens, told) in zip(PROMPTS, after, strict=True):
        torch.testing.assert_close(told, own_logs(module.eval(), prompt, tokens), rtol=1e-4, atol=1e-4)


def test_what_pads_a_vocabulary_is_never_written(settings, module):
    few = Ends(10, (END,), 0)
    found = writing(settings, module, few)(module, PROMPTS[1:2] * 40, range(40), MOST)
    assert max(int(tokens.max()) for tokens, _ in found) < 10
    tokens, told = found[0]
    said = logs(module, torch.cat([PROMPTS[1], tokens]))[len(PROMPTS[1]) - 1 : -1, :10].log_softmax(-1)
    torch.testing.assert_close(told, said.gather(1, tokens[:, None])[:, 0], rtol=1e-4, atol=1e-4)


def test_a_tied_head_is_handed_over_too(settings):
    module = model(2, width=64, tie_word_embeddings=True)
    write = writing(settings, module)
    for _ in range(2):
        for prompt, (tokens, told) in zip(PROMPTS, write(module, PROMPTS, range(4), MOST), strict=True):
            torch.testing.assert_close(told, own_logs(module, prompt, tokens), rtol=1e-4, atol=1e-4)
        with torch.no_grad():
            module.get_input_embeddings().weight.mul_(1.5)


def test_nothing_is_asked_nothing_is_written(settings, module):
    assert writing(settings, module)(module, [], [], MOST) == []

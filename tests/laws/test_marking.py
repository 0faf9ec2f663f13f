"""What a reader makes of a writer's texts: step by step by hand, and as the reverse KL of whole texts."""

import math

import pytest
import torch
import transformers
from tests.fakes import causal

from limbeck.data.tokenizers import quiet
from limbeck.models import marking
from limbeck.models.marking import marked
from limbeck.models.sampling import Ends, continued, drawn

ENDS, MOST = Ends(60, (2,), 1), 7


def turning(seed):
    """A tiny model with encoder and decoder."""
    with torch.random.fork_rng(), quiet():
        torch.manual_seed(seed)
        config = transformers.T5Config(
            vocab_size=64, d_model=16, d_kv=4, d_ff=32, num_layers=2, num_heads=4, decoder_start_token_id=1
        )
        module = transformers.T5ForConditionalGeneration(config).eval()
        for value in module.parameters():
            value.data += 0.1 * torch.randn_like(value)
    return module


def other(kind, scale=0.05):
    """Near the model of that kind, but not the same."""
    module = causal.made(kind)
    draw = torch.Generator().manual_seed(5)
    for value in module.parameters():
        value.data += scale * torch.randn(value.shape, generator=draw)
    return module


def prompts(count=9):
    draw = torch.Generator().manual_seed(3)
    sizes = torch.randint(1, 7, (count,), generator=draw).tolist()
    return [torch.randint(3, 60, (size,), generator=draw) for size in sizes]


def by_hand(writer, reader, asked, texts, begin):
    """One token at a time, without padding, in float64."""
    nll, kl = [], []
    for prompt, text in zip(asked, texts, strict=True):
        for place, token in enumerate(text):
            before = torch.tensor([list(text[:place])], dtype=torch.int64)
            if begin is None:
                columns = {"input_ids": torch.cat([prompt[None], before], 1)}
            else:
                first = torch.tensor([[begin]])
                columns = {"input_ids": prompt[None], "decoder_input_ids": torch.cat([first, before], 1)}
            with torch.no_grad():
                q, p = (
                    torch.log_softmax(module(**columns).logits[0, -1, :60].double(), -1) for module in (writer, reader)
                )
            nll.append(-float(p[token]))
            kl.append(float((q.exp() * (q - p)).sum()))
    return sum(nll) / len(nll), sum(kl) / len(kl)


@pytest.mark.parametrize("kind", ["llama", "gpt2", "encoder and decoder"])
def test_marks_are_those_of_each_token_by_itself(kind, monkeypatch):
    ends = ENDS
    if kind == "encoder and decoder":
        writer, reader, ends = turning(0), turning(1), Ends(60, (2,), 1, begin=1)
    else:
        writer, reader = causal.made(kind), other(kind)
    asked = prompts()
    draws = drawn(range(len(asked)), MOST)
    texts = [own.tolist() for own, _ in continued(writer, asked, ends, MOST, draws)]
    found, (nll, kl) = marked(writer, reader, asked, texts, ends), by_hand(writer, reader, asked, texts, ends.begin)
    assert (found.nll, found.kl) == (pytest.approx(nll, rel=1e-5), pytest.approx(kl, rel=1e-4)), "float32"
    monkeypatch.setattr(marking, "_BATCH", 2)
    again = marked(writer, reader, asked, texts, ends)
    assert (again.nll, again.kl) == (pytest.approx(found.nll, rel=1e-5), pytest.approx(found.kl, rel=1e-4))


def test_a_writer_finds_its_own_text_as_likely_as_when_it_wrote_it():
    writer, asked = causal.made("llama"), prompts()
    wrote = continued(writer, asked, ENDS, MOST, drawn(range(len(asked)), MOST))
    found = marked(writer, writer, asked, [own.tolist() for own, _ in wrote], ENDS)
    assert found.nll == pytest.approx(-float(torch.cat([logs for _, logs in wrote]).mean()), rel=1e-4)
    assert found.kl == 0


def test_of_drawn_texts_it_is_the_reverse_kl_of_whole_texts():
    writer, reader, count = causal.made("llama"), other("llama", 0.02), 600
    asked = [torch.tensor([4, 9])] * count
    wrote = continued(writer, asked, ENDS, MOST, drawn(range(count), MOST))
    texts = [own.tolist() for own, _ in wrote]
    tokens = sum(map(len, texts))
    # log q - log p of whole texts has the same expectation as the sum of their tokens' KL
    ratios = torch.tensor(
        [
            float(logs.sum()) + marked(writer, reader, [head], [text], ENDS).nll * len(text)
            for head, text, (_, logs) in zip(asked, texts, wrote, strict=True)
        ]
    ).double()
    whole = marked(writer, reader, asked, texts, ENDS).kl * tokens / count
    error = float(ratios.std()) / count**0.5
    assert abs(whole - float(ratios.mean())) < 4 * error
    assert whole > 4 * error, "or the test shows nothing"


def test_where_nobody_wrote_or_nothing_stands_there_is_no_kl():
    writer, reader = causal.made("llama"), other("llama")
    asked = prompts(3)
    data = marked(None, reader, asked, [[5, 2], [], [7]], ENDS)
    assert data.kl is None
    assert data.nll > 0
    assert marked(writer, reader, asked, [[], [], []], ENDS) is None
    with torch.no_grad():
        reader.lm_head.weight[0] = math.nan
    assert marked(writer, reader, asked, [[5, 2], [], [7]], ENDS) is None


def test_modes_are_put_back():
    writer, reader = causal.made("llama").train(), other("llama").train()
    marked(writer, reader, prompts(2), [[5], [6]], ENDS)
    assert writer.training
    assert reader.training

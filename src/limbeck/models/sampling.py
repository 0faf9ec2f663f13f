"""Texts that a language model writes token by token, with what it thought of each token: what on-policy training learns from."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from limbeck.data.sequences import end_of
from limbeck.data.tokenizers import Tokenizer, begins_with, library, quiet
from limbeck.errors import LimbeckError
from limbeck.losses.onpolicy import mixed_log_probs, until_end
from limbeck.signals.call import accepts, logits_of
from limbeck.signals.capture import bare, named


@dataclass(frozen=True)
class Ends:
    """What texts are made of: tokens below ``vocabulary``, ``end`` after the last one (empty: no text ends), ``pad`` nowhere.

    ``begin``: what a decoder with an encoder is told first; None: a model goes on with its prompt.
    """

    vocabulary: int
    end: tuple[int, ...]
    pad: int
    begin: int | None = None

    @classmethod
    def of(cls, known: Tokenizer, begin: int | None = None) -> "Ends":
        """Those of a tokenizer."""
        return cls(len(known.tokenizer), tuple(end_of(known.tokenizer)), known.pad, begin)


def begin_of(module: nn.Module, tokenizer: str) -> int | None:
    """What a model with encoder and decoder, which turns a prompt into another text, is told first; None of all others."""
    turns = getattr(getattr(module, "config", None), "is_encoder_decoder", False)
    return begins_with(tokenizer) if turns else None


@dataclass(frozen=True)
class Mixed:
    """Another model that has a say: each token is drawn from ``share`` of its distribution and the rest of the writer's."""

    module: nn.Module
    share: float


def drawn(seeds: Sequence[int], most: int) -> Tensor:
    """Numbers from 0 to below 1 for ``most`` tokens of each text, float64 [len(seeds), most], one seed a text.

    So what is drawn for a text depends on no other, and global random state is not touched.
    """
    rows = [torch.rand(most, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) for seed in seeds]
    return torch.stack(rows) if rows else torch.empty(0, most, dtype=torch.float64)


@torch.no_grad()
def continued(
    module: nn.Module,
    prompts: Sequence[Tensor],
    ends: Ends,
    most: int,
    draws: Tensor | None = None,
    temperature: float = 1.0,
    mixed: Mixed | None = None,
) -> list[tuple[Tensor, Tensor]]:
    """What the model writes after each prompt, or turns it into, in evaluation mode, up to its end or ``most`` tokens.

    Tokens are drawn from the whole distribution: top-k and top-p would bias whatever is learnt from them. What the model's own
    generation settings say is not heeded. Its mode is put back.

    Args:
        module: a model of transformers.
        prompts: int64 [P] each, of any lengths above 0.
        ends: what texts are made of.
        most: tokens at most.
        draws: of `drawn`, [len(prompts), most]; None for the likeliest token at every step.
        temperature: of the drawing, above 0.
        mixed: who else has a say (MiniLLM).

    Returns:
        For each prompt the tokens, int64 [n], its end included if it came, and the log-probability that each had of being
        drawn, float32 [n], nats.

    Raises:
        LimbeckError: the model cannot write.
    """
    write = writes(module, "the model")
    if not len(prompts):
        return []
    device = next(module.parameters()).device
    longest = max(map(len, prompts))
    ids = torch.full((len(prompts), longest), ends.pad, device=device)
    mask = torch.zeros_like(ids)
    for row, prompt in enumerate(prompts):  # so that all go on at the same place; an encoder's as in training
        place = slice(longest - len(prompt), longest) if ends.begin is None else slice(0, len(prompt))
        ids[row, place], mask[row, place] = prompt.to(device), 1
    start = longest if ends.begin is None else 1
    lots, voice = None if draws is None else draws.to(device), _Voice(mixed, mask) if mixed else None
    hand = _Hand(ends, start, lots, temperature, voice)
    with plain(module), plain(mixed.module) if mixed else quiet():
        found = write(
            input_ids=ids,
            attention_mask=mask,
            max_new_tokens=most,
            do_sample=False,  # whose likeliest token the hand makes the one that it draws
            use_cache=True,
            pad_token_id=ends.pad,
            eos_token_id=list(ends.end) or None,
            decoder_start_token_id=ends.begin,
            logits_processor=library().LogitsProcessorList([hand]),
        )[:, start:]
    logs, kept = torch.stack(hand.logs, 1), until_end(found, ends.end)
    return [(own[there], log[there]) for own, log, there in zip(found, logs, kept, strict=True)]


def writes(module: nn.Module, who: str) -> Any:
    """What makes the model write.

    Raises:
        LimbeckError: it cannot. ``who``: whose model it is.
    """
    write = getattr(module, "generate", None)
    if write is None:
        raise LimbeckError(
            f"{type(module).__name__}, {who}, has no generate(): only models of transformers write texts here."
        )
    return write


class _Hand:
    """Draws the next tokens, as a processor of logits that leaves one token possible."""

    def __init__(
        self, ends: Ends, start: int, draws: Tensor | None, temperature: float, voice: "_Voice | None"
    ) -> None:
        self._ends, self._start, self._draws, self._temperature, self._voice = ends, start, draws, temperature, voice
        self.logs: list[Tensor] = []

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """``scores``: logits [B, V]."""
        log_q = self._softened(scores)
        if self._voice is not None:
            log_q = mixed_log_probs(log_q, self._softened(self._voice(input_ids)), self._voice.share)
        if self._draws is None:
            token = log_q.argmax(-1, keepdim=True)
        else:  # where the sum of probabilities passes the number; one of probability 0 is never passed
            edges = log_q.double().exp().cumsum(-1)
            place = input_ids.shape[1] - self._start
            wanted = self._draws[:, place : place + 1] * edges[:, -1:]
            token = torch.searchsorted(edges, wanted, right=True).clamp_max(log_q.shape[1] - 1)
        self.logs.append(log_q.gather(1, token)[:, 0])
        return torch.full_like(scores, float("-inf")).scatter_(1, token, 0.0)

    def _softened(self, logits: Tensor) -> Tensor:
        """Log-probabilities of the tokens that there are: a vocabulary may be padded."""
        return torch.log_softmax(logits[:, : self._ends.vocabulary].float() / self._temperature, -1)


class _Voice:
    """The other model's logits of the next token; it remembers what it read, if it can."""

    def __init__(self, mixed: Mixed, mask: Tensor) -> None:
        self._module, self.share, self._mask = mixed.module, mixed.share, mask
        self._cache: Any = None
        self._read = 0

    def __call__(self, input_ids: Tensor) -> Tensor:
        mask = torch.cat([self._mask, self._mask.new_ones(len(input_ids), input_ids.shape[1] - self._mask.shape[1])], 1)
        places = (mask.cumsum(-1) - 1).clamp_min(0)
        columns = {"input_ids": input_ids[:, self._read :], "attention_mask": mask}
        if accepts(self._module, "position_ids"):
            columns["position_ids"] = places[:, self._read :]
        output = self._module(**columns, use_cache=True, past_key_values=self._cache)
        if (cache := getattr(output, "past_key_values", None)) is not None:
            self._cache, self._read = cache, input_ids.shape[1]
        return logits_of(output)[:, -1]


@contextmanager
def plain(module: nn.Module) -> Iterator[None]:
    """The model in evaluation mode and without generation settings of its own, both put back; and no chatter."""
    inner = named(bare(module))  # of an adapter's wrapper the model inside writes
    training, own = [part for part in module.modules() if part.training], getattr(inner, "generation_config", None)
    module.eval()
    if own is not None:
        inner.generation_config = library().GenerationConfig()
    try:
        with quiet():
            yield
    finally:
        if own is not None:
            inner.generation_config = own
        for part in training:
            part.training = True

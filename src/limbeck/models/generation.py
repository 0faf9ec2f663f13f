"""Texts that a language model writes, as text."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from limbeck.data.sequences import prompted
from limbeck.data.tokenizers import Tokenizer, loaded, quiet
from limbeck.errors import LimbeckError
from limbeck.models.sampling import Ends, begin_of, continued, drawn, writes


@dataclass(frozen=True)
class Text:
    """What stands after a prompt: ``tokens`` without their end, the same as ``text``, and whether the end came."""

    tokens: tuple[int, ...]
    text: str
    ended: bool

    @classmethod
    def of(cls, tokens: Tensor, known: Tokenizer, ends: Ends) -> "Text":
        """Of tokens [n], their end included if it came."""
        every = tokens.tolist()
        ended = bool(every) and every[-1] in ends.end
        own = tuple(every[: len(every) - ended])
        text = known.tokenizer.decode(list(own), skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return cls(own, str(text), ended)


def generated(
    module: nn.Module, tokenizer: str, prompts: Sequence[str], most: int = 64, temperature: float = 0.0, seed: int = 0
) -> list[str]:
    """What the model writes after each prompt, up to its end or ``most`` tokens.

    A prompt is read as in training before its continuation; with a chat template it is a question of a chat. A model with encoder
    and decoder writes what a prompt is to be turned into. ``temperature``: of sampling from the whole distribution, 0 for the
    likeliest token at every step. The global random state is left as it was.

    Raises:
        LimbeckError: the model cannot write, or ``prompts`` is one text instead of several.
    """
    if isinstance(prompts, str):
        raise LimbeckError("Give a list of prompts, even for a single one.")
    writes(module, "the model")
    known = loaded(tokenizer)
    ends = Ends.of(known, begin_of(module, tokenizer))
    with quiet():
        heads = [
            prompted(known.tokenizer, one) if ends.begin is None else list(known.tokenizer(one)["input_ids"])
            for one in prompts
        ]
    seeds = torch.randint(2**62, (len(heads),), generator=torch.Generator().manual_seed(seed)).tolist()
    draws = drawn(seeds, most) if temperature else None
    found = continued(module, [torch.tensor(one) for one in heads], ends, most, draws, temperature or 1.0)
    return [Text.of(tokens, known, ends).text for tokens, _ in found]

"""Texts that a language model writes."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from limbeck.data.sequences import end_of, prompted
from limbeck.data.tokenizers import begins_with, loaded, quiet
from limbeck.errors import LimbeckError


@torch.inference_mode()
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
    write: Any = getattr(module, "generate", None)
    if write is None:
        raise LimbeckError(f"{type(module).__name__} has no generate(): only models of transformers write texts here.")
    known, device = loaded(tokenizer), next(module.parameters()).device
    turns = bool(getattr(getattr(module, "config", None), "is_encoder_decoder", False))
    read = [_source(known.tokenizer, one) if turns else prompted(known.tokenizer, one) for one in prompts]
    if not read:
        return []
    longest = max(map(len, read))
    ids, mask = (torch.full((len(read), longest), fill, device=device) for fill in (known.pad, 0))
    for row, one in enumerate(read):  # an encoder is padded as in training, what is gone on with on the left
        place = slice(0, len(one)) if turns else slice(longest - len(one), longest)
        ids[row, place], mask[row, place] = torch.tensor(one, device=device), 1
    end = end_of(known.tokenizer)
    sampled: dict[str, Any] = {"do_sample": temperature > 0}
    if turns:  # a summariser may search with beams by its own settings
        sampled |= {"decoder_start_token_id": begins_with(tokenizer), "num_beams": 1}
    if temperature:
        sampled |= {"temperature": temperature, "top_k": 0, "top_p": 1.0}
    training = module.training
    module.eval()
    try:
        with torch.random.fork_rng(), quiet():
            torch.manual_seed(seed)
            found = write(
                input_ids=ids,
                attention_mask=mask,
                max_new_tokens=most,
                pad_token_id=known.pad,
                eos_token_id=end or None,
                **sampled,
            )
    finally:
        module.train(training)
    texts: list[str] = known.tokenizer.batch_decode(
        found if turns else found[:, longest:], skip_special_tokens=True, clean_up_tokenization_spaces=False
    )
    return texts


def _source(tokenizer: Any, text: str) -> list[int]:
    """The tokens of a text that is to be turned into another, as an encoder reads it."""
    return list(tokenizer(text)["input_ids"])

"""Texts that a language model writes."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from limbeck.data.sequences import end_of, prompted
from limbeck.data.tokenizers import loaded, quiet
from limbeck.errors import LimbeckError


@torch.inference_mode()
def generated(
    module: nn.Module, tokenizer: str, prompts: Sequence[str], most: int = 64, temperature: float = 0.0, seed: int = 0
) -> list[str]:
    """What the model writes after each prompt, up to its end or ``most`` tokens.

    A prompt is read as in training before its continuation; with a chat template it is a question of a chat. ``temperature``: of
    sampling from the whole distribution, 0 for the likeliest token at every step. The global random state is left as it was.

    Raises:
        LimbeckError: the model cannot write, or ``prompts`` is one text instead of several.
    """
    if isinstance(prompts, str):
        raise LimbeckError("Give a list of prompts, even for a single one.")
    write: Any = getattr(module, "generate", None)
    if write is None:
        raise LimbeckError(f"{type(module).__name__} has no generate(): only models of transformers write texts here.")
    known, device = loaded(tokenizer), next(module.parameters()).device
    read = [prompted(known.tokenizer, prompt) for prompt in prompts]
    if not read:
        return []
    longest = max(map(len, read))
    ids = torch.tensor([[known.pad] * (longest - len(one)) + one for one in read], device=device)
    mask = torch.tensor([[0] * (longest - len(one)) + [1] * len(one) for one in read], device=device)
    end = end_of(known.tokenizer)
    sampled: dict[str, Any] = {"do_sample": temperature > 0}
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
        found[:, longest:], skip_special_tokens=True, clean_up_tokenization_spaces=False
    )
    return texts

"""A model with only some of the tokens of another one."""

import copy
from collections.abc import Mapping
from typing import Any, Final

import torch
from torch import Tensor, nn

from limbeck.data.batch import DECODED
from limbeck.errors import LimbeckError
from limbeck.models.remade import config_of, remade, shapes
from limbeck.signals.call import call, logits_of

_IDS: Final = "input_ids"
_PROOF: Final = 1e-5  # of the largest logit: the same sums over the same rows, but perhaps by another kernel


def cut_vocabulary(donor: nn.Module, ids: Tensor, columns: Mapping[str, Tensor]) -> nn.Module:
    """A new model of the donor's class whose token i is the donor's token ``ids[i]``.

    Args:
        donor: a transformers model on the CPU, in evaluation mode; it is not altered.
        ids: int64 [tokens], each once.
        columns: inputs for some rows in the new tokens; both models are asked about two of them.

    Raises:
        LimbeckError: the donor has no such tokens, or answers otherwise than the new model.
    """
    config = config_of(donor, "'vocabulary: task'")
    size = getattr(config, "vocab_size", None)
    if not isinstance(size, int) or _IDS not in columns:
        raise LimbeckError(f"'vocabulary: task' is for models of texts, and {type(donor).__name__} reads none.")
    if int(ids.max()) >= size:
        raise LimbeckError(
            f"The teacher's tokenizer has a token {int(ids.max())}, but {type(donor).__name__} has only {size} tokens."
        )
    new = copy.deepcopy(config)
    new.vocab_size = size + 1
    larger, own = shapes(donor, new), donor.state_dict()
    new.vocab_size = len(ids)
    place = {int(old): index for index, old in enumerate(ids.tolist())}
    _renumber(new, place)
    named = {}
    for name, value in own.items():
        named[name] = value
        for axis, length in enumerate(value.shape):
            if larger[name][axis] != length:
                named[name] = named[name].index_select(axis, ids.to(value.device))
    module = remade(donor, new, named).eval()
    if getattr(module, "generation_config", None) is not None:
        _renumber(module.generation_config, place)
    rows = {name: value[:2] for name, value in columns.items()}
    theirs = {name: ids[value] if name in (_IDS, DECODED) else value for name, value in rows.items()}
    if not _same(donor, theirs, module, rows, ids):
        raise LimbeckError(
            f"{type(donor).__name__} answers otherwise once its tokens are renumbered, so they mean more to it than their "
            "vectors: leave out 'vocabulary: task'."
        )
    return module


def _renumber(config: Any, place: Mapping[int, int]) -> None:
    """Special tokens by their new numbers; those that there are no more become None, or leave their list."""
    for name, value in config.to_dict().items():
        if not name.endswith("_token_id"):
            continue
        if isinstance(value, list):
            setattr(config, name, [place[one] for one in value if one in place] or None)
        elif isinstance(value, int):
            setattr(config, name, place.get(value))


@torch.no_grad()
def _same(
    donor: nn.Module, theirs: Mapping[str, Tensor], module: nn.Module, ours: Mapping[str, Tensor], ids: Tensor
) -> bool:
    before = logits_of(call(donor, theirs))
    try:
        after = logits_of(call(module, ours))
    except (IndexError, RuntimeError):  # positions that are counted from a token may lie outside of the table
        return False
    if before.shape[-1] != after.shape[-1]:  # one for each token
        before = before[..., ids]
    return bool((before - after).abs().max() <= _PROOF * before.abs().max())

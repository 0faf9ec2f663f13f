"""Whether a model of texts can read all that it will be given: it fails late, or not at all, where it cannot."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from limbeck.data.text import Reach
from limbeck.errors import LimbeckError
from limbeck.signals.capture import show

_IDS = "input_ids"


def demand_reach(module: nn.Module, reach: Reach, columns: Mapping[str, Tensor], name: str) -> None:
    """Runs the model on one row of the largest token and the most tokens.

    Args:
        module: the model, on any device.
        reach: what it must be able to read.
        columns: its input columns for some rows.
        name: the model's, for errors.

    Raises:
        LimbeckError: it has fewer tokens or positions.
    """
    if _IDS not in columns:
        return
    config: Any = getattr(module, "config", None)
    tokens, positions = (_count(config, key) for key in ("vocab_size", "max_position_embeddings"))
    if tokens is not None and reach.largest >= tokens:
        raise LimbeckError(
            f"The model {name!r} has {tokens} tokens, but the tokenizer gave the data a token {reach.largest}, so it is not "
            "this model's: name the one that it was trained with as data.tokenizer if this is the student, as "
            "teacher.tokenizer if it is the teacher."
        )
    length = reach.longest if positions is None else min(reach.limit, max(reach.longest, positions + 1))
    device = next((parameter.device for parameter in module.parameters()), torch.device("cpu"))
    long = {key: _stretched(value[:1], length).to(device) for key, value in columns.items()}
    try:
        show(module, long)
    except Exception as error:  # each model fails in its own way
        known = f"it has {positions} positions" if positions else "it does not say how many it can"
        raise LimbeckError(
            f"The model {name!r} cannot read {length} tokens, and data.max-length: {reach.limit} lets through so many; {known}. "
            f"Set data.max-length to {positions or columns[_IDS].shape[1]} or less (some models keep two positions to "
            f"themselves), or choose one for longer texts. ({type(error).__name__}: {' '.join(str(error).split())[:160]})"
        ) from error
    room = _made_for(config, positions)
    if room is not None and reach.longest > room:
        raise LimbeckError(
            f"The model {name!r} was made for {room} tokens, and a text has {reach.longest}: with rotary positions it would read "
            f"on without an error, and make little of what follows. Set data.max-length to {room} or less, or choose one for "
            "longer texts."
        )


def _made_for(config: Any, positions: int | None) -> int | None:
    """The longest text of a model; what stretches rotary positions (YaRN and its like) counts."""
    told = getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None)
    if positions is None or not isinstance(told, Mapping):
        return None
    factor, first = told.get("factor"), told.get("original_max_position_embeddings", positions)
    stretched = int(factor * first) if isinstance(factor, int | float) and isinstance(first, int) else 0
    return max(positions, stretched)


def _stretched(column: Tensor, length: int) -> Tensor:
    """Tokens, types or masks of one row, again and again."""
    if column.ndim != 2:
        return column
    return column.repeat(1, -(-length // column.shape[1]))[:, :length]


def _count(config: Any, key: str) -> int | None:
    found = getattr(config, key, None)
    return found if isinstance(found, int) and found > 0 else None

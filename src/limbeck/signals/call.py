"""How any module is called and its logits are found: tensors, tuples, dicts and model outputs alike."""

import inspect
from collections.abc import Hashable, Mapping
from functools import lru_cache
from typing import Any, cast

import torch
from torch import Tensor, nn

from limbeck.errors import SignalError


@lru_cache(maxsize=256)
def _parameters(kind: Hashable) -> tuple[frozenset[str], bool, bool]:
    found = dict(inspect.signature(kind.forward).parameters)  # type: ignore[attr-defined]
    found.pop("self", None)
    named = frozenset(name for name, one in found.items() if one.kind in (one.POSITIONAL_OR_KEYWORD, one.KEYWORD_ONLY))
    by_name_only = all(one.kind in (one.KEYWORD_ONLY, one.VAR_KEYWORD) for one in found.values())
    return named, any(one.kind is one.VAR_KEYWORD for one in found.values()), by_name_only


def accepts(module: nn.Module, name: str) -> bool:
    """Whether the module's ``forward`` takes an argument of this name."""
    return name in _parameters(cast(Hashable, type(module)))[0]


def shows_hidden(module: nn.Module) -> bool:
    """Whether ``output_hidden_states`` may be asked: a parameter or, since transformers 5, any keyword and the config."""
    configured = hasattr(getattr(module, "config", None), "output_hidden_states")
    return accepts(module, "output_hidden_states") or (configured and _parameters(cast(Hashable, type(module)))[1])


def call(module: nn.Module, columns: Mapping[str, Tensor], bare: nn.Module | None = None, **options: Any) -> Any:
    """The module's output for these columns.

    Columns are passed by name where ``forward`` has parameters of those names; a single column of any other name is
    passed as the one positional argument. ``bare`` is the unwrapped module, if ``module`` is wrapped or compiled.

    Raises:
        SignalError: several columns, and ``forward`` does not say which is which.
    """
    named, takes_any, by_name_only = _parameters(cast(Hashable, type(bare or module)))
    by_name = {name: value for name, value in columns.items() if name in named}
    if by_name or (takes_any and (by_name_only or len(columns) > 1)):
        return module(**(by_name or dict(columns)), **options)
    if len(columns) == 1:
        return module(*columns.values(), **options)
    kind = type(bare or module).__name__
    raise SignalError(
        f"{kind}.forward takes {sorted(named) or 'no named argument'}, but the data has the columns {sorted(columns)}: "
        "name the parameters of forward after the columns."
    )


def logits_of(output: Any) -> Tensor:
    """The logits in a module's output.

    They are the output itself, its ``logits``, its ``start_logits`` and ``end_logits`` as [batch, length, 2], the first
    floating tensor of a tuple, or the only one of a mapping.

    Raises:
        SignalError: there is no such tensor, or a mapping holds several and calls none ``logits``.
    """
    if isinstance(output, Tensor):
        return output
    named, start, end = (
        output.get(name) if isinstance(output, Mapping) else getattr(output, name, None)
        for name in ("logits", "start_logits", "end_logits")
    )
    if isinstance(named, Tensor):
        return named
    if isinstance(start, Tensor) and isinstance(end, Tensor):
        return torch.stack([start, end], -1)
    items = dict(output) if isinstance(output, Mapping) else dict(enumerate(output)) if _listed(output) else {}
    found = {name: one for name, one in items.items() if _could_be(one)}
    if isinstance(output, Mapping) and len(found) > 1:
        raise SignalError(
            f"The model's output has several tensors ({', '.join(map(str, found))}) and none is called 'logits': "
            "give the one with the classes that name."
        )
    if found:
        logits: Tensor = next(iter(found.values()))
        return logits
    raise SignalError(
        f"No logits in the model's output ({type(output).__name__}): return a tensor [batch, classes], "
        "a tuple whose first tensor it is, or a mapping with the key 'logits'."
    )


def _listed(output: Any) -> bool:
    return isinstance(output, list | tuple)


def _could_be(item: Any) -> bool:
    return isinstance(item, Tensor) and item.is_floating_point() and item.ndim >= 2

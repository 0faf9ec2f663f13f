"""What happens inside the attention of transformers: maps, queries, keys and values of a layer, by name.

Models of transformers ask `AttentionInterface.get_interface` for the function that attends, at every call. While a
recorder is open, the function they get is the very one they would have got, with a look at its inputs: the output is
the same to the bit, and no config is touched.
"""

import re
import threading
from collections.abc import Callable, Collection
from typing import Any, Self
from weakref import WeakKeyDictionary, WeakSet

import torch
from torch import Tensor, nn

from limbeck.errors import SignalError
from limbeck.signals.layers import attention_layers

KINDS = ("probs", "scores", "query", "key", "value")

_NAME = re.compile(r"attention\.(\d+)\.(\w+)")
_lock = threading.Lock()
_watched: WeakKeyDictionary[nn.Module, "WeakSet[AttentionRecorder]"] = WeakKeyDictionary()
_original: list[Callable[..., Any]] = []  # get_interface as it was, while the watching one stands in its place


def is_attention(name: str) -> bool:
    """Whether a signal has the form ``attention.N.kind``."""
    return _NAME.fullmatch(name) is not None


class AttentionRecorder:
    """Records ``attention.N.kind`` of one model, N = 1 for the first layer: ``attention.N.*`` goes into ``hidden.N``.

    ``scores``, ``probs``: [B, h, L, L], before and after the softmax, before dropout. Masked scores are minus infinity
    and their probabilities zero, as is a whole row that sees no key. ``query``, ``key``, ``value``: [B, L, h * d_head],
    heads concatenated, as the attention sees them, so after rotary embeddings; keys and values that query heads share
    are repeated. Tensors carry the graph that is being recorded.

    Between `start` and `stop` every forward pass is recorded; with gradient checkpointing keep it open until backward
    is done, which runs the layers again.

    Args:
        module: the bare model.
        names: the signals wanted.

    Raises:
        SignalError: the model has no attention of that kind, several stacks of it, or no such layer.
    """

    def __init__(self, module: nn.Module, names: Collection[str]) -> None:
        self.names = frozenset(names)
        self._kind = type(module).__name__
        self._layers: dict[nn.Module, int] = {}
        self._wanted: dict[int, set[str]] = {}
        self._seen: dict[str, Tensor] = {}
        self._checked: set[int] = set()
        layers = attention_layers(module) if self.names else []
        for name in sorted(self.names):
            found = _NAME.fullmatch(name)
            if not found or found[2] not in KINDS:
                raise SignalError(f"{name!r}: an attention signal is attention.N with one of .{', .'.join(KINDS)}.")
            number = int(found[1])
            if not 1 <= number <= len(layers):
                raise SignalError(f"{name!r}: {self._kind} has the layers attention.1 to attention.{len(layers)}.")
            layer = layers[number - 1]
            if layer is None:
                raise SignalError(
                    f"{name!r}: layer {number} of {self._kind} does not attend by transformers' attention interface; "
                    "name a module instead."
                )
            self._layers[layer] = number
            self._wanted.setdefault(number, set()).add(found[2])

    def start(self) -> None:
        """Begins to record."""
        with _lock:
            for layer in self._layers:
                _watched.setdefault(layer, WeakSet()).add(self)
            if self._layers and not _original:
                _install()

    def stop(self) -> None:
        """Ends it and forgets what was seen; stopping twice is no error."""
        with _lock:
            for layer in self._layers:
                _watched.get(layer, WeakSet()).discard(self)
            for layer in [layer for layer, recorders in _watched.items() if not recorders]:
                del _watched[layer]
            if not _watched and _original:
                _uninstall()
        self.clear()

    def clear(self) -> None:
        """Forgets what the last forward pass showed."""
        self._seen.clear()

    def read(self, name: str) -> Tensor:
        """What the latest forward pass showed under this name.

        Raises:
            SignalError: the layer never attended.
        """
        if name not in self._seen:
            raise SignalError(
                f"{name!r}: this layer of {self._kind} did not attend by transformers' attention interface in the last "
                "forward pass (a configuration can lead around it); name a module instead."
            )
        return self._seen[name]

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _keep(
        self,
        layer: nn.Module,
        implementation: str | None,
        inputs: tuple[Tensor, ...],
        mask: Any,
        options: Any,
        given: Any,
    ) -> None:
        number = self._layers[layer]
        wanted = self._wanted[number]
        heads = inputs[0].shape[1]
        query, key, value = (
            one if one.shape[1] == heads else one.repeat_interleave(heads // one.shape[1], 1) for one in inputs
        )
        shown = {}
        if not wanted.isdisjoint(("scores", "probs")):
            try:
                scores = _scores(layer, implementation, query, key, mask, options)
            except SignalError as error:
                raise SignalError(f"attention.{number} of {self._kind}: {error}") from None
            probs = _probs(scores)
            if number not in self._checked and not (layer.training and options.get("dropout")):
                self._check(number, probs, given)
            shown = {"scores": scores, "probs": probs}
        for kind, heads_apart in (("query", query), ("key", key), ("value", value)):
            if kind in wanted:
                shown[kind] = heads_apart.transpose(1, 2).flatten(2)
        self._seen.update({f"attention.{number}.{kind}": one for kind, one in shown.items() if kind in wanted})

    @torch.no_grad()
    def _check(self, number: int, probs: Tensor, given: Any) -> None:
        """Once a layer: where the model shows its probabilities (eager), ours must be those."""
        self._checked.add(number)
        if not isinstance(given, Tensor):
            return
        # wide enough for bfloat16; a term left out is far larger
        same = given.shape == probs.shape and torch.allclose(
            torch.where(probs.sum(-1, keepdim=True) > 0, given.to(probs.dtype), 0.0), probs, rtol=0.02, atol=0.01
        )
        if not same:
            raise SignalError(
                f"attention.{number} of {self._kind}: its probabilities are not softmax(scale q k^T + mask); "
                "name a module instead."
            )


def _scores(
    layer: nn.Module, implementation: str | None, query: Tensor, key: Tensor, mask: Any, options: dict[str, Any]
) -> Tensor:
    if implementation not in (None, "eager", "sdpa") or not (
        mask is None or (isinstance(mask, Tensor) and mask.ndim == 4)
    ):
        raise SignalError(
            f"scores and probabilities are recorded under the implementations eager and sdpa, not {implementation!r}: "
            "build the model with attn_implementation='sdpa'."
        )
    if options.get("s_aux") is not None:
        raise SignalError("it attends to sinks besides the tokens, so no scores are recorded; name a module instead.")
    scale = options.get("scaling")
    scores: Tensor = query @ key.transpose(-1, -2) * (query.shape[-1] ** -0.5 if scale is None else scale)
    cap, bias = options.get("softcap"), options.get("position_bias")
    if cap is not None:
        scores = (scores / cap).tanh() * cap
    if bias is not None:
        scores = scores + bias
    if mask is None:
        causal = options.get("is_causal")
        causal = getattr(layer, "is_causal", True) if causal is None else causal
        if implementation != "sdpa" or not causal or query.shape[2] == 1:
            return scores  # eager masks by what it is given alone
        seen = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()
    elif mask.dtype == torch.bool:
        seen = mask
    else:
        seen = mask > torch.finfo(mask.dtype).min / 2
        scores = scores + torch.where(seen, mask, 0.0)
    return scores.masked_fill(~seen, -torch.inf)


def _probs(scores: Tensor) -> Tensor:
    open_rows = (scores > -torch.inf).any(-1, keepdim=True)
    # before the softmax: a row of minus infinity has nan for a gradient even where it is left out
    exact = torch.float32 if scores.dtype in (torch.float16, torch.bfloat16) else scores.dtype
    return torch.where(open_rows, torch.where(open_rows, scores, 0.0).softmax(-1, dtype=exact), 0.0)


def _install() -> None:
    from transformers import AttentionInterface

    original = getattr(AttentionInterface, "get_interface", None)
    if original is None:
        raise SignalError(
            "Attention is recorded with a newer transformers (AttentionInterface.get_interface): update it."
        )

    def get_interface(self: Any, attn_implementation: str | None, default: Callable[..., Any]) -> Callable[..., Any]:
        function = original(self, attn_implementation, default)

        def attend(
            layer: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Any = None, **options: Any
        ) -> Any:
            given = function(layer, query, key, value, attention_mask, **options)
            for recorder in tuple(_watched.get(layer, ())):
                weights = given[1] if isinstance(given, tuple) and len(given) > 1 else None
                recorder._keep(layer, attn_implementation, (query, key, value), attention_mask, options, weights)
            return given

        return attend

    AttentionInterface.get_interface = get_interface
    _original.append(original)


def _uninstall() -> None:
    from transformers import AttentionInterface

    AttentionInterface.get_interface = _original.pop()

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
from limbeck.signals.attention_maps import AttentionCall, probs_of, scores_of
from limbeck.signals.layers import attention_layers

KINDS = ("probs", "scores", "query", "key", "value")

_OPTIONS = ("scaling", "softcap", "position_bias", "s_aux", "dropout")
_NAME = re.compile(r"attention\.(\d+)\.(\w+)")
_lock = threading.Lock()
_watched: WeakKeyDictionary[nn.Module, "WeakSet[AttentionRecorder]"] = WeakKeyDictionary()
_original: list[Callable[..., Any]] = []  # get_interface as it was, while the watching one stands in its place


def is_attention(name: str) -> bool:
    """Whether a signal has the form ``attention.N.kind``."""
    return _NAME.fullmatch(name) is not None


def token_dimensions(name: str, value: Tensor, length: int | None) -> tuple[int, ...]:
    """Which dimensions of a row of a signal [B, ...] are its tokens, in a batch of this length: of a map the last two."""
    found = re.search(_NAME.pattern + "$", name)  # a member's has a name before it
    if found and found[2] in ("probs", "scores"):
        return (1, 2)
    return (0,) if value.ndim > 2 and value.shape[1] == length else ()


class AttentionRecorder:
    """Records ``attention.N.kind`` of one model, N = 1 for the first layer: ``attention.N.*`` goes into ``hidden.N``.

    ``scores``, ``probs``: [B, h, L, L], before and after the softmax, before dropout. Masked scores are minus infinity
    and their probabilities zero, as is a whole row that sees no key. ``query``, ``key``, ``value``: [B, L, h * d_head],
    heads concatenated, as the attention sees them, so after rotary embeddings; keys and values that query heads share
    are repeated. Tensors carry the graph that is being recorded.

    Between `start` and `stop` every forward pass is seen; the maps are worked out in `read`, outside the model, so that
    gradient checkpointing, which runs layers again, finds them as they were. A model to be compiled is watched before
    its first compiled call.

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
        self._calls: dict[int, AttentionCall] = {}
        self._maps: dict[int, tuple[Tensor, Tensor]] = {}
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

    def start(self) -> None:
        """Begins to record."""
        with _lock:
            if self._layers and not _original:
                _install()
            for layer in self._layers:
                _watched.setdefault(layer, WeakSet()).add(self)

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
        self._calls.clear()
        self._maps.clear()

    def read(self, name: str) -> Tensor:
        """What the latest forward pass showed under this name; call it under the same autograd and autocast modes.

        Raises:
            SignalError: the layer never attended, or its maps are not to be had.
        """
        found = _NAME.fullmatch(name)
        call = self._calls.get(int(found[1])) if found and name in self.names else None
        if not found or call is None:
            raise SignalError(
                f"{name!r}: this layer of {self._kind} did not attend by transformers' attention interface in the last "
                "forward pass (a configuration can do that, or an earlier compilation); name a module instead."
            )
        number, kind = int(found[1]), found[2]
        if kind in ("query", "key", "value"):
            return call.repeated(getattr(call, kind)).transpose(1, 2).flatten(2)
        if number not in self._maps:
            self._maps[number] = self._mapped(number, call)
        return self._maps[number][kind == "probs"]

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _keep(self, layer: nn.Module, call: AttentionCall) -> None:
        number = self._layers[layer]
        self._maps.pop(number, None)
        self._calls[number] = call

    def _mapped(self, number: int, call: AttentionCall) -> tuple[Tensor, Tensor]:
        try:
            scores = scores_of(call)
        except SignalError as error:
            raise SignalError(f"attention.{number} of {self._kind}: {error}") from None
        probs = probs_of(scores)
        if number not in self._checked and not call.options.get("dropout"):
            self._check(number, probs, call.given)
        return scores, probs

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


def _install() -> None:
    from transformers import AttentionInterface

    original = getattr(AttentionInterface, "get_interface", None)
    if original is None:
        raise SignalError(
            "Attention is recorded with a newer transformers (AttentionInterface.get_interface): update it."
        )

    def note(layer: nn.Module, query: Tensor, key: Tensor, value: Tensor, *rest: Any) -> None:
        implementation, mask, options, given = rest
        recorders = tuple(_watched.get(layer, ()))
        if recorders:
            causal = options.get("is_causal")
            causal = getattr(layer, "is_causal", True) if causal is None else causal
            kept = {name: options[name] for name in _OPTIONS if name in options}
            weights = given[1] if isinstance(given, tuple) and len(given) > 1 else None
            call = AttentionCall(implementation, query, key, value, mask, causal, kept, weights)
            for recorder in recorders:
                recorder._keep(layer, call)

    # a compiled layer's code serves the next layer too, which may be watched when that one is not
    note = torch.compiler.disable(note)  # type: ignore[no-untyped-call]

    def get_interface(self: Any, attn_implementation: str | None, default: Callable[..., Any]) -> Callable[..., Any]:
        function = original(self, attn_implementation, default)

        def attend(
            layer: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Any = None, **options: Any
        ) -> Any:
            given = function(layer, query, key, value, attention_mask, **options)
            note(layer, query, key, value, attn_implementation, attention_mask, options, given)
            return given

        return attend

    AttentionInterface.get_interface = get_interface
    _original.append(original)


def _uninstall() -> None:
    from transformers import AttentionInterface

    AttentionInterface.get_interface = _original.pop()

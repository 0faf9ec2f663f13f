"""The head of a language model, read and not run: its logits as hidden states and a weight."""

from typing import Any, Self

import torch
from torch import Tensor, nn

from limbeck.errors import SignalError
from limbeck.signals.call import accepts
from limbeck.signals.logits import Chunked, Head

_KEEP = "logits_to_keep"  # how transformers models are told which positions' logits are wanted
_CLOSE = 1e-2  # of the largest logit: heads that do something else are wrong by far more, half precision by less


class HeadReader:
    """Reads what the last layer gives to the head of a language model, and leaves the head out.

    A causal model is told which positions' logits are wanted; of a model with encoder and decoder the head is given none but
    these. What is taken for the head is compared with the model's own logits on the first batch.

    Args:
        module: the bare model.
        body: what the head reads from; None: the head itself is watched.
        head: the head.
    """

    def __init__(self, module: nn.Module, body: nn.Module | None, head: nn.Module) -> None:
        self._module = module
        self._seen: Tensor | None = None
        self._tried = False
        self._asks, self._awaited = body is not None, False
        watched = body.register_forward_hook(self._keep) if body else head.register_forward_pre_hook(self._spare)
        self._hook = watched

    @classmethod
    def of(cls, module: nn.Module) -> Self | None:
        """The reader of a model; None if the model cannot leave its head out."""
        body, find = getattr(module, "base_model", None), getattr(module, "get_output_embeddings", None)
        turns = bool(getattr(getattr(module, "config", None), "is_encoder_decoder", False))
        leaves = turns or (body is not None and body is not module and accepts(module, _KEEP))
        if not callable(find) or not leaves:
            return None
        found = find()
        return None if found is None or not hasattr(found, "weight") else cls(module, None if turns else body, found)

    def _keep(self, _: nn.Module, __: Any, output: Any) -> None:
        self._seen = output[0]

    def _spare(self, _: nn.Module, given: tuple[Any, ...]) -> tuple[Any, ...]:
        if not self._awaited:  # somebody else runs the model
            return given
        self._seen, self._awaited = given[0], False
        return (given[0][:, :0] if self._tried else given[0][:, -1:], *given[1:])

    @property
    def options(self) -> dict[str, Any]:
        """What the model is called with: the last position's logits at first, to compare, then none."""
        if not self._asks:
            self._awaited = True
            return {}
        if not self._tried:
            return {_KEEP: 1}
        device = next(self._module.parameters()).device
        return {_KEEP: torch.empty(0, dtype=torch.int64, device=device)}

    def read(self, output: Any) -> Chunked:
        """The logits of the batch that just ran, [B, T, V] in all.

        Raises:
            SignalError: the model's own logits are others.
        """
        hidden, self._seen = self._seen, None
        if hidden is None:
            raise SignalError(f"The layers of {type(self._module).__name__} never ran in a forward pass.")
        found = Chunked(hidden, _head(self._module))
        if not self._tried:
            with torch.no_grad():
                own, ours = output.logits[:, -1].detach().float(), found.head(hidden[:, -1].detach()).float()
            if float((own - ours).abs().max()) > _CLOSE * max(1.0, float(own.abs().max())):
                raise SignalError(
                    f"The head of {type(self._module).__name__} does more to the last layer than a product, a scale and a "
                    "softcap, so its logits cannot be made a part at a time: wrap the model in a module whose forward returns "
                    "the logits."
                )
            self._tried = True
        return found

    def close(self) -> None:
        """Takes the hook away."""
        self._hook.remove()


def head_of(module: nn.Module) -> Head | None:
    """What makes logits of the last layer; None if the model cannot leave it out."""
    reader = HeadReader.of(module)
    if reader is None:
        return None
    reader.close()
    return _head(module)


def _head(module: nn.Module) -> Head:
    layer: Any = module.get_output_embeddings()  # type: ignore[operator]
    config: Any = getattr(module, "config", None)
    text = config.get_text_config() if hasattr(config, "get_text_config") else config
    scale = float(getattr(text, "logit_scale", None) or 1.0) / float(getattr(text, "logits_scaling", None) or 1.0)
    softcap = getattr(text, "final_logit_softcapping", None)
    weight, bias = _weight(layer), getattr(layer, "bias", None)
    if isinstance(
        more := getattr(module, "final_logits_bias", None), Tensor
    ):  # BART's and Marian's stands beside the head
        bias = more[0] if bias is None else bias + more[0]
    if not torch.is_grad_enabled():  # parameters would carry a graph into whatever is made of them later
        weight, bias = weight.detach(), None if bias is None else bias.detach()
    return Head(weight, bias, None if softcap is None else float(softcap), scale)


def _weight(layer: Any) -> Tensor:
    """The weight of the head; with adapters on it (LoRA, Hu et al. 2021) their product too.

    Raises:
        SignalError: an adapter drops out inputs, which a product of matrices cannot do.
    """
    base = getattr(layer, "base_layer", None)
    if base is None or not hasattr(layer, "get_delta_weight"):
        found: Tensor = layer.weight
        return found
    weight: Tensor = base.weight
    for name in () if layer.disable_adapters or layer.merged else layer.active_adapters:
        if layer.training and getattr(layer.lora_dropout[name], "p", 0) > 0:
            raise SignalError(
                "The adapter of the head has a dropout: set its lora_dropout to 0, or leave the head out of its targets."
            )
        weight = weight + layer.get_delta_weight(name)
    return weight

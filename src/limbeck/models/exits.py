"""Heads behind the layers of a model: shallow answers, learnt beside its own and taken where they are sure enough."""

from collections.abc import Sequence
from functools import partial
from typing import Any, Self

import torch
from torch import Tensor, nn

from limbeck.errors import LimbeckError
from limbeck.models.conv import Conv
from limbeck.signals.call import call, logits_of


class Exit(nn.Module):
    """A bottleneck from a layer to the form of the deepest one, and a head on its mean (BYOT, Zhang et al. 2019).

    Args:
        layer: shape of the layer's output without the batch: [C, H, W], tokens [L, d] or a vector [d].
        deepest: that of the deepest layer, of the same form.
        outputs: how many logits.
    """

    def __init__(self, layer: Sequence[int], deepest: Sequence[int], outputs: int) -> None:
        super().__init__()
        self.settings = {"layer": list(layer), "deepest": list(deepest), "outputs": outputs}
        if len(layer) == 3:
            self.bottleneck: nn.Module = nn.Sequential(*_maps(layer, deepest))
            wide = deepest[0]
        else:
            wide = deepest[-1]
            self.bottleneck = nn.Sequential(nn.Linear(layer[-1], wide), nn.LayerNorm(wide), nn.GELU())
        self.head = nn.Linear(wide, outputs)

    def forward(self, feature: Tensor, mask: Tensor | None = None) -> Tensor:
        """Logits [B, outputs]. ``mask``: [B, L], tokens that count."""
        found = self.bottleneck(feature)
        if found.ndim == 4:
            return self.head(found.mean((2, 3)))  # type: ignore[no-any-return]
        if found.ndim == 3:
            counts = torch.ones_like(found[..., :1]) if mask is None else mask[..., None].to(found.dtype)
            found = (found * counts).sum(1) / counts.sum(1).clamp_min(1)
        return self.head(found)  # type: ignore[no-any-return]


def _maps(layer: Sequence[int], deepest: Sequence[int]) -> list[nn.Module]:
    """Separable convolutions that halve a map until it is as small as the deepest one, and then have its channels."""
    channels, height, parts = layer[0], layer[1], list[nn.Module]()
    while height > deepest[1] or not parts:
        stride = 2 if height > deepest[1] else 1
        height = -(-height // stride)
        after = deepest[0] if height <= deepest[1] else min(2 * channels, deepest[0])
        parts += [
            Conv(channels, channels, 3, stride, padding=1, groups=channels, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU(),
            Conv(channels, after, 1, bias=False),
            nn.BatchNorm2d(after),
            nn.ReLU(),
        ]
        channels = after
    return parts


class _Settled(Exception):
    """Every row of a batch has its answer."""


class Exits(nn.Module):
    """A model with an exit behind some of its layers. It answers as the model does, unless ``threshold`` is set.

    With a threshold, in evaluation, each row has the answer of the first exit that gives a class at least so much probability,
    and of the model where none does; the layers behind are not computed once no row of the batch needs them, which at a single
    row saves their time.

    Args:
        model: the model.
        paths: the modules behind which exits are, first to last.
        exits: one for each.
        threshold: from 0, the first exit always, to 1.
    """

    def __init__(
        self, model: nn.Module, paths: Sequence[str], exits: Sequence[Exit], threshold: float | None = None
    ) -> None:
        super().__init__()
        self.model, self.paths, self.threshold = model, list(paths), threshold
        self.exits = nn.ModuleList(exits)

    @property
    def settings(self) -> dict[str, Any]:
        """What builds it again around its model."""
        exits: list[Any] = list(self.exits)
        return {"paths": self.paths, "exits": [one.settings for one in exits], "threshold": self.threshold}

    @classmethod
    def of(cls, model: nn.Module, settings: dict[str, Any]) -> Self:
        """Built again."""
        exits = [Exit(**one) for one in settings["exits"]]
        return cls(model, settings["paths"], exits, settings["threshold"])

    def forward(self, **columns: Tensor) -> Tensor:
        """Logits [B, outputs]."""
        answers = _Answers(self, columns.get("attention_mask"))
        hooks = [
            self.model.get_submodule(path).register_forward_hook(partial(answers.passed, place))
            for place, path in enumerate(self.paths)
        ]
        try:
            return answers.last(logits_of(call(self.model, columns)))
        except _Settled:
            assert answers.given is not None
            return answers.given
        finally:
            for hook in hooks:
                hook.remove()


class _Answers:
    """What the exits say in one forward pass."""

    def __init__(self, whole: Exits, mask: Tensor | None) -> None:
        self._exits, self._mask = whole.exits, mask
        self._threshold = None if whole.training else whole.threshold
        self.given: Tensor | None = None
        self._settled: Tensor | None = None

    def passed(self, place: int, layer: nn.Module, inputs: Any, output: Any) -> None:
        """Told what a layer gave.

        Raises:
            _Settled: no row needs more.
        """
        said: Tensor = self._exits[place](output if isinstance(output, Tensor) else output[0], self._mask)
        if self._threshold is None:
            return
        sure = said.softmax(-1).amax(-1) >= self._threshold
        self.given = said if self.given is None or self._settled is None else _chosen(self._settled, self.given, said)
        self._settled = sure if self._settled is None else self._settled | sure
        followed = torch.compiler.is_compiling() or torch.onnx.is_in_onnx_export()  # what is followed must run whole
        if not followed and bool(self._settled.all()):
            raise _Settled

    def last(self, said: Tensor) -> Tensor:
        """The answer, given the model's own."""
        return said if self.given is None or self._settled is None else _chosen(self._settled, self.given, said)


def _chosen(settled: Tensor, given: Tensor, said: Tensor) -> Tensor:
    return torch.where(settled[:, None], given, said)


def exits_for(model: nn.Module, paths: Sequence[str], deepest: str, shown: dict[str, Tensor], outputs: int) -> Exits:
    """Exits behind ``paths`` with weights from the global random state. ``shown``: what these modules and ``deepest`` give.

    Raises:
        LimbeckError: a layer and the deepest one are not of one form, or not of maps, tokens or vectors.
    """
    last = shown[deepest]
    for path in paths:
        layer = shown[path]
        if layer.ndim != last.ndim or layer.ndim not in (2, 3, 4):
            raise LimbeckError(
                f"An exit behind {path!r} would read {list(layer.shape)}, and the deepest layer {deepest!r} gives "
                f"{list(last.shape)}: both must be maps [batch, channels, height, width], tokens [batch, length, size], or "
                "vectors."
            )
    return Exits(model, paths, [Exit(shown[path].shape[1:], last.shape[1:], outputs) for path in paths])

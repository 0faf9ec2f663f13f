"""How logits are stored: exact, as the likeliest classes, as draws, or as the hidden states that they are made of.

A codec turns logits into rows of bytes and back, see `limbeck.teachers.store.frame`. What a codec's settings are stands in the
store's key.
"""

from collections.abc import Mapping
from typing import Any, ClassVar, Literal, Protocol

import torch
from pydantic import TypeAdapter
from torch import Tensor

from limbeck.config import Config, choice
from limbeck.losses.offer import Offer
from limbeck.losses.storages import Head, Storage
from limbeck.teachers.store.frame import Rows
from limbeck.teachers.store.hidden import HiddenCodec
from limbeck.teachers.store.sampled import SampledCodec
from limbeck.teachers.store.top_k import TopKCodec


class Codec(Protocol):
    """Logits as bytes."""

    offers: ClassVar[Offer]

    @property
    def name(self) -> str:
        """By which it is chosen."""
        ...

    def plain(self) -> dict[str, Any]:
        """All that the bytes depend on but the logits, as JSON types."""
        ...

    def encode(self, logits: Storage, rows: Rows) -> Tensor:
        """uint8 [B, longest] on the CPU, zeros after each row. A row that is no distribution (NaN, infinities) has no bytes.

        Raises:
            SignalError: the logits are of another shape, or not known well enough.
        """
        ...

    def decode(self, rows: Tensor, counted: Tensor | None = None, device: torch.device | str = "cpu") -> Storage:
        """What is known of the logits, [B] or [B, L]. ``rows``: uint8 [B, longest]. ``counted``: bool [B, L] on the CPU, the
        positions that must be there, where there are tokens.

        Raises:
            SignalError: they are not there, or the rows are of different shapes.
        """
        ...


class Coding(Protocol):
    """The settings of a codec, as in a recipe."""

    def plain(self) -> dict[str, Any]:
        """As JSON types."""
        ...

    def made(self, head: Head | None = None) -> Codec | None:
        """The codec of one teacher, whose head is given if it has one; None: exact bits.

        Raises:
            SignalError: it needs a head.
        """
        ...


class FullCodec(Config):
    """Every logit, exact: signals are stored as they are."""

    name: Literal["full"] = "full"

    def made(self, head: Head | None = None) -> None:
        """No codec: a store keeps exact bits by itself."""
        return


CodecField = choice(FullCodec, TopKCodec, SampledCodec, HiddenCodec)
"""How a recipe says what is stored of logits."""


def codec_of(plain: Mapping[str, Any], head: Head | None = None) -> Codec:
    """The codec that a store's key names; ``head`` is that of the teacher, for hidden states.

    Raises:
        SignalError: they belong to another head, or to one that is not given.
    """
    settings: Any = TypeAdapter(CodecField).validate_python(
        {key: value for key, value in plain.items() if key != "head"}
    )
    codec: Codec = settings.made(head)
    if (wanted := plain.get("head")) is not None:
        HiddenCodec.demand(wanted, codec.plain()["head"])
    return codec

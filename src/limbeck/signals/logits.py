"""How logits are stored: see `limbeck.losses.storages` and `limbeck.losses.sparse`."""

from limbeck.losses.offer import Offer
from limbeck.losses.sparse import Even, Given, Sampled, TopK
from limbeck.losses.storages import Chunked, Dense, Head, Outcomes, Storage, carrier, stored, whole

__all__ = [
    "Chunked",
    "Dense",
    "Even",
    "Given",
    "Head",
    "Offer",
    "Outcomes",
    "Sampled",
    "Storage",
    "TopK",
    "carrier",
    "stored",
    "whole",
]

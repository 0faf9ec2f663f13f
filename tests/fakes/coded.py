"""Logits of made-up language models for the tests of codecs."""

import numpy as np
import torch
from tests.fakes.rows import Texts, examples

from limbeck.data.batch import REAL, TOKENS
from limbeck.signals.logits import Chunked, Head
from limbeck.teachers.store.frame import Rows
from limbeck.teachers.teacher import Provides

WIDTHS = (2, 3, 63, 64, 255, 256, 257, 65536, 151936)
DATA = examples(40, Texts)


def logits_of(*shape: int, seed: int = 0, scale: float = 3.0, shift: float = 0.0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * scale + shift


def rows_of(count: int, counted=None, labels=None, view: int = 0) -> Rows:
    return Rows(np.arange(count) * 7 + 3, np.full(count, view), counted, labels)


class Talking:
    """A teacher of texts of unequal lengths: logits [B, T, V] are a pure function of id, view and position."""

    provides = Provides()

    def __init__(self, classes: int = 300, fingerprint: str | None = "talking", head: bool = False):
        generator = torch.Generator().manual_seed(classes)
        self.fingerprint, self.classes, self.rows, self.broken = fingerprint, classes, 0, set()
        self.head = Head(torch.randn(classes, 8, generator=generator)) if head else None
        self.states = torch.randn(4096, 8 if head else classes, generator=generator) * (1 if head else 3)

    def observe(self, batch, needs):
        self.rows += int(batch.masks[REAL].sum())
        length = batch.masks[TOKENS].shape[1]
        at = (batch.ids[:, None] * 131 + batch.views[:, None] * 17 + torch.arange(length) * 7) % 4096
        states = self.states[at]
        for row, number in enumerate(batch.ids.tolist()):
            if number in self.broken:
                states[row, 0, 0] = torch.nan
        states = torch.where(batch.masks[TOKENS][..., None], states, torch.nan)  # padding may hold anything
        return {name: Chunked(states, self.head) if self.head else states for name in needs}

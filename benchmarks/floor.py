"""The floor that divergences over large vocabularies are measured against, and the models and batches for it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from limbeck.data.batch import CLASS, REAL, SUPERVISED, TOKENS, Batch
from limbeck.data.language import BYTES


@dataclass(frozen=True)
class Shape:
    """Of a model: its width, layers, attention heads, groups of keys and values, and the width within its feed-forward layers."""

    hidden: int
    layers: int
    heads: int
    groups: int
    inner: int

    def build(self, vocabulary: int) -> Any:
        """A Qwen2-style model with random weights and tied embeddings."""
        from transformers import AutoConfig, AutoModelForCausalLM

        torch.manual_seed(self.hidden)
        config = AutoConfig.for_model(
            "qwen2",
            vocab_size=vocabulary,
            hidden_size=self.hidden,
            intermediate_size=self.inner,
            num_hidden_layers=self.layers,
            num_attention_heads=self.heads,
            num_key_value_heads=self.groups,
            tie_word_embeddings=True,
            bos_token_id=None,
            eos_token_id=None,
        )
        return AutoModelForCausalLM.from_config(config)


def batch_of(vocabulary: int, rows: int, length: int) -> Batch:
    """Random tokens, each of which is to be foreseen but the first of a row."""
    ids = torch.randint(0, vocabulary, (rows, length), generator=torch.Generator().manual_seed(0))
    labels = torch.cat([ids[:, 1:], torch.full((rows, 1), -100)], 1)
    real = torch.ones(rows, dtype=torch.bool)
    return Batch(
        {"input_ids": ids, "attention_mask": torch.ones_like(ids)},
        {CLASS: labels, BYTES: torch.ones_like(ids)},
        {REAL: real, SUPERVISED: real, TOKENS: torch.ones_like(ids, dtype=torch.bool)},
        torch.arange(rows),
        torch.zeros(rows, dtype=torch.int64),
    )


def floor(teacher: Any, student: Any, batch: Batch, chunk: int) -> Callable[[], None]:
    """A step that nobody can do without: the teacher's forward pass with its head, the student's forward and backward pass with a
    cross-entropy of ``chunk`` rows at a time.
    """
    labels = batch.labels[CLASS].flatten()
    kept = (labels >= 0).nonzero()[:, 0]
    labels = labels[kept]

    def step() -> None:
        with torch.no_grad():
            hidden = teacher.model(**batch.inputs)[0].flatten(0, 1)[kept]
            head = teacher.lm_head.weight
            room = hidden.new_empty(chunk, len(head))
            for start in range(0, len(hidden), chunk):
                part = hidden[start : start + chunk]
                torch.mm(part, head.t(), out=room[: len(part)])
        hidden = student.model(**batch.inputs)[0].flatten(0, 1)[kept]
        loss: Tensor = ChunkedCrossEntropy.apply(  # type: ignore[no-untyped-call]
            hidden, student.lm_head.weight, labels, chunk, room
        )
        loss.backward()  # type: ignore[no-untyped-call]
        student.zero_grad(set_to_none=True)

    return step


class ChunkedCrossEntropy(torch.autograd.Function):
    """Cross-entropy with the gradient made in the forward pass, a chunk at a time, in one buffer."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, labels: Tensor, chunk: int, room: Tensor) -> Tensor:
        """The mean over tokens."""
        ctx.hidden, ctx.weight = torch.empty_like(hidden), torch.zeros_like(weight)
        total, each = 0.0, 1 / len(hidden)
        for start in range(0, len(hidden), chunk):
            part, own = hidden[start : start + chunk], labels[start : start + chunk, None]
            logits = torch.mm(part, weight.t(), out=room[: len(part)])
            known = logits.gather(1, own)
            top = logits.amax(1, keepdim=True)
            slope = logits.sub_(top).exp_()
            mass = slope.sum(1, keepdim=True)
            total += float((mass.log() + top - known).sum())
            slope.mul_(each / mass).scatter_add_(1, own, torch.full_like(known, -each))
            torch.mm(slope, weight, out=ctx.hidden[start : start + chunk])
            ctx.weight.addmm_(slope.t(), part)
        return hidden.new_tensor(total * each)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        """What the forward pass made."""
        return ctx.hidden, ctx.weight, None, None, None

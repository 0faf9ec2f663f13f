"""`python -m benchmarks.stored_logits`: bytes a token, speeds and errors of the codecs of logits, on one thread.

Logits are made up, as peaked as text is, unless ``--model FOLDER`` names a causal language model of transformers, whose own
logits of ``--texts FILE`` are taken. Run it on a quiet machine; times are the best of several turns.
"""

import argparse
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from limbeck.losses.divergences import ForwardKl, dense
from limbeck.objective.evaluate import Asked, streamed
from limbeck.signals.logits import Chunked, Dense, Head, Storage
from limbeck.teachers.store.codecs import Codec
from limbeck.teachers.store.frame import Rows
from limbeck.teachers.store.sampled import SampledCodec
from limbeck.teachers.store.top_k import TopKCodec

ROWS, LENGTH, TURNS = 4, 64, 5


def made_up(classes: int) -> Tensor:
    """Zipf's law with noise, a different order at each token: an entropy of some 2 to 4 nats."""
    generator = torch.Generator().manual_seed(0)
    shape = (ROWS, LENGTH, classes)
    ranks = torch.rand(shape, generator=generator).argsort(-1)
    return -1.7 * torch.log1p(ranks) + 0.5 * torch.randn(shape, generator=generator)


def of_model(folder: Path, texts: Path) -> Tensor:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModelForCausalLM.from_pretrained(folder).eval()
    ids = tokenizer(texts.read_text(), return_tensors="pt").input_ids[0, : ROWS * LENGTH].view(-1, LENGTH)
    with torch.no_grad():
        logits: Tensor = model(ids).logits
    return logits.float()


def best(*acts: Callable[[], object]) -> list[float]:
    """The least seconds of each, measured in turns, after one that is not counted."""
    found = [float("inf")] * len(acts)
    for turn in range(TURNS + 1):
        for number, act in enumerate(acts):
            start = time.perf_counter()
            act()
            found[number] = min(found[number], time.perf_counter() - start) if turn else found[number]
    return found


def rows_of(count: int, view: int = 0) -> Rows:
    return Rows(np.arange(count), np.full(count, view))


def learnt(student: Tensor, teacher: Storage) -> tuple[float, Tensor]:
    """The mean forward KL of rows [N, V], and its gradient with respect to the student's logits."""
    hidden = student.clone().requires_grad_(True)
    count, classes = student.shape
    asked = Asked(ForwardKl(), teacher, torch.full((count,), 1 / count))
    value, _ = streamed(Chunked(hidden, Head(torch.eye(classes))), [asked])
    value.backward()  # type: ignore[no-untyped-call]
    assert hidden.grad is not None
    return float(value.detach()), hidden.grad


def errors(codec: Codec, classes: int = 2000) -> tuple[float, float]:
    """Of value and gradient of the forward KL, as shares of the exact ones, over tokens of a smaller vocabulary."""
    teacher = made_up(classes)
    places = torch.arange(ROWS * LENGTH)
    student = (teacher + torch.randn(teacher.shape, generator=torch.Generator().manual_seed(1))).flatten(0, 1)
    value, gradient = learnt(student, Dense(teacher).at(places))
    assert abs(value - float(dense(ForwardKl(), student, teacher.flatten(0, 1)).mean())) < 1e-3
    ours, slope = learnt(student, codec.decode(codec.encode(Dense(teacher), rows_of(ROWS))).at(places))
    return (ours - value) / value, float((slope - gradient).norm() / gradient.norm())


def _top(logits: Tensor, k: int) -> object:
    return torch.topk(torch.log_softmax(logits, -1), k)


def _drawn(logits: Tensor, count: int) -> object:
    return torch.multinomial(torch.softmax(logits, -1), count, replacement=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--classes", type=int, default=151936)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--texts", type=Path)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    logits = of_model(asked.model, asked.texts) if asked.model else made_up(asked.classes)
    count, flat = logits.shape[0] * logits.shape[1], logits.flatten(0, 1)
    print(f"{count} tokens, {logits.shape[-1]} classes")
    print(
        f"{'codec':28}{'B/token':>9}{'encode/s':>10}{'naive/s':>9}{'times':>7}{'decode/s':>11}{'KL':>9}{'gradient':>10}"
    )
    codecs: tuple[TopKCodec | SampledCodec, ...] = (
        *(TopKCodec(k=k) for k in (8, 50, 128)),
        *(SampledCodec(draws=draws, seed=0) for draws in (12, 50, 200)),
        SampledCodec(draws=50, seed=0, entropy=False),
    )
    for codec in codecs:
        budget = codec.k if isinstance(codec, TopKCodec) else codec.draws
        naive = {"top-k": _top, "sampled": _drawn}[codec.name]
        encode = partial(codec.encode, Dense(logits), rows_of(len(logits)))
        encoding, plainly = best(encode, partial(naive, flat, budget))
        rows = encode()
        (decoding,) = best(partial(codec.decode, rows.repeat(32, 1)))  # as a batch of training has them
        value, slope = errors(codec)
        name = f"{codec.name} {budget}" + ("" if getattr(codec, "entropy", True) else " without entropy")
        print(
            f"{name:28}{rows.numel() / count:9.1f}{count / encoding:10,.0f}{count / plainly:9,.0f}{plainly / encoding:7.1f}"
            f"{32 * count / decoding:11,.0f}{value:9.1%}{slope:10.1%}"
        )


if __name__ == "__main__":
    main()

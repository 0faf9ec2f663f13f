"""`python -m benchmarks.stored_logits`: bytes a token, speeds and errors of the codecs of logits, on one thread.

Logits are made up, as peaked as text is, unless ``--model`` names a causal language model, as a recipe does (of a GGUF file
``<path>/<file>``), whose own logits of ``--texts FILE`` are taken. Errors are those of the forward KL of a student: made-up
logits with noise, or the same model without its last third of layers. Run it on a quiet machine; times are the best of several
turns. Both tables are kept in benchmarks/results/stored-logits.md.
"""

import argparse
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from benchmarks.kept import RESULTS
from benchmarks.page import put
from limbeck.data.tokenizers import resolve
from limbeck.losses.divergences import ForwardKl, dense
from limbeck.objective.evaluate import Asked, streamed
from limbeck.run.folder import versions
from limbeck.signals.logits import Dense, Storage
from limbeck.teachers.store.codecs import Codec
from limbeck.teachers.store.frame import Rows
from limbeck.teachers.store.sampled import SampledCodec
from limbeck.teachers.store.top_k import TopKCodec

PAGE = RESULTS / "stored-logits.md"
ROWS, LENGTH, TURNS = 4, 64, 5


def made_up(classes: int) -> Tensor:
    """Zipf's law with noise, a different order at each token: an entropy of some 2 to 4 nats."""
    generator = torch.Generator().manual_seed(0)
    shape = (ROWS, LENGTH, classes)
    ranks = torch.rand(shape, generator=generator).argsort(-1)
    return -1.7 * torch.log1p(ranks) + 0.5 * torch.randn(shape, generator=generator)


def of_model(path: str, texts: Path) -> tuple[Tensor, Tensor, float]:
    """Logits of a model and of the same without its last third of layers, [ROWS, LENGTH, V]; the tokens it reads a second."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    place = resolve(path)
    tokenizer, model = AutoTokenizer.from_pretrained(place), AutoModelForCausalLM.from_pretrained(place).eval()
    ids = tokenizer(texts.read_text(), return_tensors="pt").input_ids[0, : ROWS * LENGTH].view(-1, LENGTH)
    with torch.no_grad():
        (reading,) = best(partial(model, ids))
        logits: Tensor = model(ids).logits.float()
        model.model.layers = model.model.layers[: 2 * len(model.model.layers) // 3]
        shallow: Tensor = model(ids).logits.float()
    return logits, shallow, ids.numel() / reading


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
    asked = Asked(ForwardKl(), teacher, torch.full((len(student),), 1 / len(student)))
    value, _ = streamed(Dense(hidden), [asked])
    value.backward()  # type: ignore[no-untyped-call]
    assert hidden.grad is not None
    return float(value.detach()), hidden.grad


def errors(codec: Codec, teacher: Tensor, student: Tensor) -> tuple[float, float]:
    """Of value and gradient of the forward KL, as shares of the exact ones; logits [B, T, V] of both sides."""
    places, student = torch.arange(ROWS * LENGTH), student.flatten(0, 1)
    value, gradient = learnt(student, Dense(teacher).at(places))
    assert abs(value - float(dense(ForwardKl(), student, teacher.flatten(0, 1)).mean())) < 1e-3
    ours, slope = learnt(student, codec.decode(codec.encode(Dense(teacher), rows_of(ROWS))).at(places))
    return (ours - value) / value, float((slope - gradient).norm() / gradient.norm())


def _top(logits: Tensor, k: int) -> object:
    return torch.topk(torch.log_softmax(logits, -1), k)


def _drawn(logits: Tensor, count: int) -> object:
    return torch.multinomial(torch.softmax(logits, -1), count, replacement=True)


def keep(name: str, lines: Sequence[str]) -> None:
    """Puts a table into the page, with the day and the versions."""
    known = ", ".join(
        [datetime.now(UTC).date().isoformat(), *(f"{library} {version}" for library, version in versions().items())]
    )
    put(PAGE, name, "\n".join(lines) + f"\n\n<sub>{known}</sub>\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--classes", type=int, default=151936)
    parser.add_argument("--model")
    parser.add_argument("--texts", type=Path)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    if asked.model:
        logits, student, reading = of_model(asked.model, asked.texts)
        compared, itself = (logits, student), f"{asked.model}, which reads {reading:,.0f} tokens a second"
    else:
        itself = "made up"
        logits, few = made_up(asked.classes), made_up(2000)  # errors of a smaller vocabulary take less memory
        compared = few, few + torch.randn(few.shape, generator=torch.Generator().manual_seed(1))
    count, flat = logits.shape[0] * logits.shape[1], logits.flatten(0, 1)
    lines = [
        f"{count} tokens, {logits.shape[-1]:,} classes, {itself}, one thread\n",
        "| codec | bytes a token | encoded a second | naively | times | decoded a second | KL off by | gradient off by |",
        "|---|---|---|---|---|---|---|---|",
    ]
    print("\n".join(lines), flush=True)
    codecs: tuple[TopKCodec | SampledCodec, ...] = (
        *(TopKCodec(k=k) for k in (8, 50, 128)),
        *(SampledCodec(draws=draws, seed=0) for draws in (12, 30, 50, 200)),
        SampledCodec(draws=50, seed=0, entropy=False),
        SampledCodec(draws=50, seed=0, log_probabilities=True),
    )
    for codec in codecs:
        budget = codec.k if isinstance(codec, TopKCodec) else codec.draws
        naive = {"top-k": _top, "sampled": _drawn}[codec.name]
        encode = partial(codec.encode, Dense(logits), rows_of(len(logits)))
        encoding, plainly = best(encode, partial(naive, flat, budget))
        rows = encode()
        (decoding,) = best(partial(codec.decode, rows.repeat(32, 1)))  # as a batch of training has them
        value, slope = errors(codec, *compared)
        name = f"{codec.name} {budget}" + ("" if getattr(codec, "entropy", True) else " without entropy")
        name += " with log-probabilities" * getattr(codec, "log_probabilities", False)
        lines.append(
            f"| {name} | {rows.numel() / count:.1f} | {count / encoding:,.0f} | {count / plainly:,.0f} | "
            f"{plainly / encoding:.1f} | {32 * count / decoding:,.0f} | {value:.1%} | {slope:.1%} |"
        )
        print(lines[-1], flush=True)
    keep("model" if asked.model else "made-up", lines)


if __name__ == "__main__":
    main()

"""`python -m benchmarks.tokens [VOCABULARY ...]`: what a divergence over a large vocabulary costs beside its floor.

The floor is a step that nobody can do without: the teacher's forward pass with its head, and the student's forward and backward
pass with a chunked cross-entropy, written by hand, at the best of several chunk sizes. Everything is float32 and runs in
turns in one process; a figure is the median of ratios to the floor beside it. TRL's losses are measured too where it is
installed. Peak memory is of a process of its own, less what it had before the step.
"""

import argparse
import gc
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor

from limbeck.data.batch import CLASS, REAL, SUPERVISED, TOKENS, Batch
from limbeck.data.language import BYTES, NextToken
from limbeck.files import write_json
from limbeck.objective import Labels, Objective
from limbeck.objective.divergence import Diverging
from limbeck.objective.schedules import Fixed
from limbeck.run.folder import versions
from limbeck.signals.capture import Capture
from limbeck.teachers.local import LocalTeacher
from limbeck.training.memory import keep_freed

RESULTS = Path(__file__).parent / "results" / "tokens.json"
ROWS, LENGTH, TURNS = 4, 256, 7
CHUNKS = (64, 128, 256, 512, 1024)
KINDS: dict[str, dict[str, Any]] = {
    "forward-kl": {},
    "reverse-kl": {},
    "skew-kl": {"alpha": 0.1},
    "skew-reverse-kl": {"alpha": 0.1},
    "total-variation": {},
    "jensen-shannon": {"beta": 0.5},
    "continuous-jensen-shannon": {"beta": 0.5},
    "adaptive-kl": {},
    "alpha-beta": {},
}


def model(vocabulary: int, hidden: int, layers: int) -> Any:
    """A Qwen2-style model with tied embeddings."""
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(hidden)
    config = AutoConfig.for_model(
        "qwen2",
        vocab_size=vocabulary,
        hidden_size=hidden,
        intermediate_size=4 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=hidden // 64,
        num_key_value_heads=hidden // 64,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=None,
    )
    return AutoModelForCausalLM.from_config(config)


class Setting:
    """Teacher, student and a batch."""

    def __init__(self, vocabulary: int) -> None:
        self.teacher, self.student = model(vocabulary, 512, 4).eval(), model(vocabulary, 256, 4)
        self.both = self.student, self.teacher
        ids = torch.randint(0, vocabulary, (ROWS, LENGTH), generator=torch.Generator().manual_seed(0))
        labels = torch.cat([ids[:, 1:], torch.full((ROWS, 1), -100)], 1)
        rows = torch.ones(ROWS, dtype=torch.bool)
        self.batch = Batch(
            {"input_ids": ids, "attention_mask": torch.ones_like(ids)},
            {CLASS: labels, BYTES: torch.ones_like(ids)},
            {REAL: rows, SUPERVISED: rows, TOKENS: torch.ones_like(ids, dtype=torch.bool)},
            torch.arange(ROWS),
            torch.zeros(ROWS, dtype=torch.int64),
        )

    def floor(self, chunk: int) -> Callable[[], None]:
        """One step of the floor."""
        labels = self.batch.labels[CLASS].flatten()
        kept = (labels >= 0).nonzero()[:, 0]
        labels = labels[kept]

        def step() -> None:
            with torch.no_grad():
                hidden = self.teacher.model(**self.batch.inputs)[0].flatten(0, 1)[kept]
                head = self.teacher.lm_head.weight
                room = hidden.new_empty(chunk, len(head))
                for start in range(0, len(hidden), chunk):
                    part = hidden[start : start + chunk]
                    torch.mm(part, head.t(), out=room[: len(part)])
            hidden = self.student.model(**self.batch.inputs)[0].flatten(0, 1)[kept]
            loss: Tensor = ChunkedCrossEntropy.apply(  # type: ignore[no-untyped-call]
                hidden, self.student.lm_head.weight, labels, chunk, room
            )
            loss.backward()  # type: ignore[no-untyped-call]
            self.student.zero_grad(set_to_none=True)

        return step

    def ours(self, terms: list[Any]) -> Callable[[], None]:
        """One step of an objective."""
        objective, capture = Objective(terms, NextToken()), Capture(self.student, {"logits"})
        teacher, wanted = LocalTeacher(self.teacher, "teacher"), objective.needs().teacher

        def step() -> None:
            seen = teacher.observe(self.batch, wanted) if wanted else None
            objective(capture(self.batch.columns("student")), seen, self.batch)[0].backward()
            self.student.zero_grad(set_to_none=True)

        return step

    def dense(self) -> Callable[[], None]:
        """One step as it is usually written: both sides' logits whole, by `torch.nn.functional.kl_div`."""

        def step() -> None:
            with torch.no_grad():
                theirs = self.teacher(**self.batch.inputs).logits
            ours = self.student(**self.batch.inputs).logits
            kept = self.batch.labels[CLASS] >= 0
            log_q, log_p = ours[kept].log_softmax(-1), theirs[kept].log_softmax(-1)
            torch.nn.functional.kl_div(log_q, log_p, reduction="batchmean", log_target=True).backward()  # type: ignore[no-untyped-call]
            self.student.zero_grad(set_to_none=True)

        return step

    def theirs(self, beta: float, chunked: bool) -> Callable[[], None]:
        """One step with the loss of TRL's GKD trainer, or of its distillation trainer, called as these call them."""
        from trl.experimental.gkd.gkd_trainer import GKDTrainer
        from trl.trainer.distillation_trainer import _chunked_divergence_loss

        labels = self.batch.labels[CLASS]

        def step() -> None:
            if chunked:
                with torch.no_grad():
                    known = self.teacher.model(**self.batch.inputs)[0]
                hidden, weights = self.student.model(**self.batch.inputs)[0], (one.lm_head.weight for one in self.both)
                loss, _, _ = _chunked_divergence_loss(hidden, known, *weights, labels >= 0, beta)
            else:
                with torch.no_grad():
                    said = self.teacher(**self.batch.inputs).logits
                loss = GKDTrainer.generalized_jsd_loss(self.student(**self.batch.inputs).logits, said, labels, beta)
            loss.backward()
            self.student.zero_grad(set_to_none=True)

        return step

    def variants(self) -> dict[str, Callable[[], None]]:
        """What is compared with the floor."""
        found = {kind: self.ours([Diverging(kind=kind, **own)]) for kind, own in KINDS.items()}  # type: ignore[arg-type]
        both = [Labels(weight=Fixed(value=0.5)), Diverging(weight=Fixed(value=0.5))]
        trl = {
            f"TRL {name}, beta {beta}": self.theirs(beta, chunked)
            for name, chunked in (("GKD", False), ("distillation", True))
            for beta in (0, 0.5, 1)
            if find_spec("trl")
        }
        return {
            "labels": self.ours([Labels()]),
            **found,
            "labels and forward-kl": self.ours(both),
            "dense": self.dense(),
            **trl,
        }


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


def seconds(step: Callable[[], None]) -> float:
    """Of one step."""
    began = time.perf_counter()
    step()
    return time.perf_counter() - began


def ratios(vocabulary: int, turns: int = TURNS, kinds: list[str] | None = None) -> dict[str, Any]:
    """Times over that of the floor."""
    keep_freed()  # as a training does; the floor has it too
    setting = Setting(vocabulary)
    floors = {chunk: setting.floor(chunk) for chunk in CHUNKS}
    best = min(CHUNKS, key=lambda chunk: min(seconds(floors[chunk]) for _ in range(3)))
    variants, taken = setting.variants(), dict[str, list[float]]()
    if vocabulary > 100_000:  # whole logits of both sides would take gigabytes
        variants = {name: one for name, one in variants.items() if name != "dense" and "GKD" not in name}
    variants = {name: one for name, one in variants.items() if not kinds or name in (*kinds, "labels")}
    floor = []
    for turn in range(turns + 1):
        for name, step in variants.items():
            ratio = seconds(step) / (own := seconds(floors[best]))
            if turn:
                taken.setdefault(name, []).append(ratio)
                floor.append(own)
    return {
        "chunk": best,
        "floor seconds": round(median(floor), 4),
        "time": {name: round(median(found), 3) for name, found in taken.items()},
        "spread": {name: [round(min(found), 3), round(max(found), 3)] for name, found in taken.items()},
    }


def peak(vocabulary: int, name: str, chunk: int) -> float:
    """MiB that a step takes at most, in this process."""
    keep_freed()
    setting = Setting(vocabulary)
    step = setting.floor(chunk) if name == "floor" else setting.variants()[name]
    gc.collect()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    step()
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024


def main() -> None:
    """Measures and writes."""
    reader = argparse.ArgumentParser()
    reader.add_argument("vocabulary", nargs="*", type=int)
    reader.add_argument("--peak", nargs=2)
    reader.add_argument("--turns", type=int, default=TURNS)
    reader.add_argument("--kinds", nargs="*", help="which variants; all if left out")
    told = reader.parse_args()
    if told.peak:
        name, chunk = told.peak
        print(peak(told.vocabulary[0], name, int(chunk)))
        return
    found: dict[str, Any] = {}
    for vocabulary in told.vocabulary or (32_000, 151_936):
        one = ratios(vocabulary, told.turns, told.kinds)
        one["peak"] = {}
        for name in ("floor", *one["time"]):
            asked = [sys.executable, "-m", "benchmarks.tokens", str(vocabulary), "--peak", name, str(one["chunk"])]
            one["peak"][name] = round(float(subprocess.run(asked, capture_output=True, check=True, text=True).stdout))
        found[str(vocabulary)] = one
        print(json.dumps({vocabulary: one}, indent=1), flush=True)
    kept = {
        "rows": ROWS,
        "length": LENGTH,
        "turns": told.turns,
        "threads": torch.get_num_threads(),
        "versions": versions(),
    }
    write_json(RESULTS, {**kept, "date": datetime.now(UTC).isoformat(timespec="seconds"), "vocabularies": found})


if __name__ == "__main__":
    main()

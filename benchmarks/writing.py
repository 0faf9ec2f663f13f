"""`python -m benchmarks.writing`: how long transformers and vLLM write as many tokens, the handing over of weights included.

A Llama of SmolLM2-135M's shape with random weights, whose texts do not end. Both draw by seeds and take turns; the first writing
of each is not counted. It runs in the environment of `make vllm`. The table is kept in benchmarks/results/writing.md.
"""

import argparse
import importlib
import time

import torch
import transformers

from limbeck.models import vllm
from limbeck.models.sampling import Ends
from limbeck.models.writers import Transformers, Vllm, Writes
from limbeck.run.folder import versions

PROMPT, TOKENS, TURNS = 32, 64, 3
V = 49_152


def model() -> transformers.PreTrainedModel:
    """The student."""
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=V,
        hidden_size=576,
        intermediate_size=1536,
        num_hidden_layers=30,
        num_attention_heads=9,
        num_key_value_heads=3,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
    )
    return transformers.AutoModelForCausalLM.from_config(config)


def seconds(write: Writes, module: torch.nn.Module, texts: int, turn: int) -> float:
    """Of writing so many texts."""
    draw = torch.Generator().manual_seed(turn)
    prompts = list(torch.randint(V, (texts, PROMPT), generator=draw))
    began = time.perf_counter()
    found = write(module, prompts, range(turn * texts, (turn + 1) * texts), TOKENS)
    spent = time.perf_counter() - began
    assert sum(len(tokens) for tokens, _ in found) == texts * TOKENS
    return spent


def distribution() -> str:
    """Of vLLM."""
    return str(importlib.import_module("vllm").__version__)


def main() -> None:
    """Prints the table."""
    asked = argparse.ArgumentParser()
    asked.add_argument("--texts", type=int, nargs="+", default=[8, 64])
    module, ends, room = model(), Ends(V, (), 0), PROMPT + TOKENS
    writers = {
        "transformers": Transformers().of(module, "the student", ends, room),
        "vLLM": Vllm(eager=True).of(module, "the student", ends, room),
    }
    lines = [
        "| texts at once | transformers, tokens/s | vLLM, tokens/s | ratio of times, least to most |",
        "|---|---|---|---|",
    ]
    for texts in asked.parse_args().texts:
        times: dict[str, list[float]] = {name: [] for name in writers}
        for turn in range(TURNS + 1):
            for name, write in writers.items():
                spent = seconds(write, module, texts, turn)
                if turn:
                    times[name].append(spent)
        ratios = [one / other for one, other in zip(*times.values(), strict=True)]
        rates = " | ".join(f"{texts * TOKENS / sorted(own)[TURNS // 2]:,.0f}" for own in times.values())
        lines.append(f"| {texts} | {rates} | {min(ratios):.2f} to {max(ratios):.2f} |")
    vllm.stop()
    print("\n".join(lines))
    told = ", ".join(f"{name} {version}" for name, version in (versions() | {"vllm": distribution()}).items())
    print(f"\n{torch.get_num_threads()} torch thread(s); {told}")


if __name__ == "__main__":
    main()

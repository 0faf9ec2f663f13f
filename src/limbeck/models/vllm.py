"""vLLM as a writer: a process that holds a model's architecture and is handed its weights whenever they have moved."""

import json
import os
import weakref
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import safetensors.torch
import torch
from torch import Tensor, nn

from limbeck.data.tokenizers import quiet
from limbeck.errors import LimbeckError
from limbeck.extras import imported
from limbeck.models.identity import architecture
from limbeck.models.sampling import Ends, plain
from limbeck.signals.call import logits_of
from limbeck.signals.capture import bare, named

_SHARED: Final = Path("/dev/shm")  # noqa: S108 - memory that looks like a disk
_WEIGHTS: Final = "model.safetensors"
_APART: Final = {torch.float32: 0.01, torch.float64: 0.01}
_APART_HALF: Final = 0.5
"""Nats by which the log-probabilities of vLLM may differ from those of the model, on average over a text. SmolLM2 in bfloat16 is
0.04 from itself in float32, 0.12 in the worst of 64 texts."""
_running: "list[Engine]" = []
"""One at most: it is long in starting, and holds memory of the GPU."""


def engine(module: nn.Module, room: int, memory: float, eager: bool) -> "Engine":
    """The one that runs, if it holds this architecture with this much room; else a new one in its place.

    Raises:
        LimbeckError: vLLM is not installed, or cannot run this model.
    """
    if not (_running and _running[0].fits(module, (room, memory, eager))):
        stop()
        _running.append(Engine(module, room, memory, eager))
    return _running[0]


def stop() -> None:
    """Ends the one that runs."""
    while _running:
        _running.pop().close()


class Engine:
    """A running vLLM.

    Args:
        module: a causal language model of transformers.
        room: the longest text, in tokens.
        memory: the share of a GPU's memory.
        eager: without compiling.

    Raises:
        LimbeckError: see `engine`.
    """

    def __init__(self, module: nn.Module, room: int, memory: float, eager: bool) -> None:
        _demand(module)
        os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
        os.environ.setdefault("VLLM_WORKER_MULTIPROCESSING_METHOD", "spawn")
        self._vllm = imported(
            "vllm", "The writer 'vllm' needs vLLM, in an environment that it shares with limbeck", "vllm"
        )
        self._settings, self._architecture = (room, memory, eager), architecture(named(bare(module)))
        self._handed = weakref.ref(module)
        self._folder = TemporaryDirectory(prefix="limbeck-vllm-", dir=_SHARED if _SHARED.is_dir() else None)
        self._hand_over(module)
        try:
            self._llm = self._vllm.LLM(
                model=self._folder.name,
                skip_tokenizer_init=True,
                dtype=str(_dtype(module)).removeprefix("torch."),
                max_model_len=room,
                gpu_memory_utilization=memory,
                enforce_eager=eager,
                enable_prefix_caching=False,  # what was computed with other weights is not what is wanted
                logprobs_mode="processed_logprobs",
                disable_log_stats=True,
                use_tqdm_on_load=False,
            )
        except Exception as error:  # whatever it was, in its own words
            raise LimbeckError(
                f"vLLM cannot run {type(named(module)).__name__}: {error}. See what it said above; leave 'writer' out to write "
                "by transformers."
            ) from error

    def fits(self, module: nn.Module, settings: tuple[int, float, bool]) -> bool:
        """Whether it can write for this model, once it has its weights."""
        same = self._handed() is module or self._architecture == architecture(named(bare(module)))
        return same and self._settings == settings

    def continued(
        self,
        module: nn.Module,
        prompts: Sequence[Tensor],
        seeds: Sequence[int] | None,
        ends: Ends,
        most: int,
        temperature: float,
    ) -> list[tuple[Tensor, Tensor]]:
        """See `limbeck.models.writers.Writes`.

        Raises:
            LimbeckError: what vLLM says of its texts is not what the model says.
        """
        moves = any(one.requires_grad for one in module.parameters())  # not every optimiser marks what it wrote to
        if moves or self._handed() is not module:
            self._hand_over(module)
            self._llm.collective_rpc("reload_weights", kwargs={"weights_path": self._folder.name})
        rows = int(_config(module)["vocab_size"])
        settings = [
            self._vllm.SamplingParams(
                max_tokens=most,
                temperature=0.0 if seed is None else temperature,
                seed=seed,
                stop_token_ids=list(ends.end),
                ignore_eos=True,  # what ends a text is told, not looked up
                detokenize=False,
                logprobs=0,  # of the token that was drawn alone
                allowed_token_ids=list(range(ends.vocabulary)) if rows > ends.vocabulary else None,
            )
            for seed in (seeds if seeds is not None else [None] * len(prompts))
        ]
        asked = [{"prompt_token_ids": one.tolist()} for one in prompts]
        device, found = next(module.parameters()).device, []
        for answer in self._llm.generate(asked, settings, use_tqdm=False):
            (own,) = answer.outputs
            tokens = list(own.token_ids)
            logs = [one[token].logprob for one, token in zip(own.logprobs, tokens, strict=True)]
            found.append((torch.tensor(tokens, device=device), torch.tensor(logs, device=device)))
        longest = max(range(len(found)), key=lambda place: len(found[place][0]))
        _demand_same(module, prompts[longest], found[longest], ends, temperature if seeds is not None else 1.0)
        return found

    def close(self) -> None:
        """Ends the process."""
        self._llm.llm_engine.engine_core.shutdown()
        self._folder.cleanup()

    def _hand_over(self, module: nn.Module) -> None:
        """Writes the weights where vLLM reads them."""
        inner: Any = named(bare(module))
        folder = Path(self._folder.name)
        with torch.no_grad(), quiet():
            inner.save_pretrained(folder, max_shard_size="1000GB")
        head = getattr(inner, "get_output_embeddings", lambda: None)()
        if _config(module).get("tie_word_embeddings") and head is not None and not next(inner.parameters()).is_cuda:
            # on a processor vLLM packs a tied head once, and would keep it when weights are handed over
            name = next(name for name, part in inner.named_modules() if part is head)
            weights = safetensors.torch.load_file(folder / _WEIGHTS) | {
                f"{name}.weight": head.weight.detach().contiguous()
            }
            safetensors.torch.save_file(weights, folder / _WEIGHTS, {"format": "pt"})
            told = json.loads((folder / "config.json").read_text())
            (folder / "config.json").write_text(json.dumps(told | {"tie_word_embeddings": False}))
        self._handed = weakref.ref(module)


def _config(module: nn.Module) -> dict[str, Any]:
    config: Any = getattr(named(bare(module)), "config", None)
    return dict(config.to_dict()) if hasattr(config, "to_dict") else {}


def _dtype(module: nn.Module) -> torch.dtype:
    """What vLLM computes in: on a GPU its kernels read half precision."""
    own = next(module.parameters())
    return torch.bfloat16 if own.is_cuda and own.dtype == torch.float32 else own.dtype


def _demand(module: nn.Module) -> None:
    """Raises a `LimbeckError` where its weights cannot be handed over."""
    inner = bare(module)
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise LimbeckError("vLLM writes for one process here, and this run has several: leave 'writer' out.")
    if named(inner) is not inner or not hasattr(inner, "save_pretrained"):
        raise LimbeckError(
            f"vLLM takes over the weights of a model of transformers, and this one is {type(inner).__name__}, whose weights are "
            "kept otherwise (an adapter's, say): leave 'writer' out."
        )


@torch.no_grad()
def _demand_same(
    module: nn.Module, prompt: Tensor, found: tuple[Tensor, Tensor], ends: Ends, temperature: float
) -> None:
    """Raises a `LimbeckError` where another model than this one wrote: one text is read again."""
    tokens, told = found
    ids = torch.cat([prompt.to(tokens.device), tokens])
    with plain(module):
        logits = logits_of(module(input_ids=ids[None], attention_mask=torch.ones_like(ids)[None]))[0]
    logs = (logits[len(prompt) - 1 : -1, : ends.vocabulary].float() / temperature).log_softmax(-1)
    apart = float((logs.gather(1, tokens[:, None])[:, 0] - told).abs().mean())
    most = _APART.get(_dtype(module), _APART_HALF)
    if not apart <= most:
        raise LimbeckError(
            f"vLLM does not write as this model does: the log-probabilities of a text's tokens are {apart:.2f} nats apart on "
            f"average, and at most {most} are rounding. Leave 'writer' out, and tell us of the model."
        )

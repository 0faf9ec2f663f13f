"""What limbeck uses of vLLM, by transformers: weights are read from a folder, and nothing is known of the model."""

from types import SimpleNamespace

import torch
from transformers import AutoModelForCausalLM

RUNNING = []
"""Those that were not shut down."""


class SamplingParams(SimpleNamespace):
    pass


class LLM:
    """Reads ``model`` when it is made, and another folder when it is told to."""

    deaf = False  # to new weights

    def __init__(self, model, dtype, max_model_len, **options):
        self.read, self.room, self.options = [model], max_model_len, options
        self._dtype = getattr(torch, dtype)
        self._load(model)
        core = SimpleNamespace(shutdown=lambda: RUNNING.remove(self))
        self.llm_engine = SimpleNamespace(engine_core=core)
        RUNNING.append(self)

    def _load(self, folder):
        self._model = AutoModelForCausalLM.from_pretrained(folder, dtype=self._dtype).eval()

    def collective_rpc(self, method, kwargs):
        assert method == "reload_weights"
        self.read.append(kwargs["weights_path"])
        if not self.deaf:
            self._load(kwargs["weights_path"])

    def generate(self, prompts, settings, use_tqdm):
        return [self._one(one["prompt_token_ids"], how) for one, how in zip(prompts, settings, strict=True)]

    @torch.no_grad()
    def _one(self, prompt, how):
        assert len(prompt) + how.max_tokens <= self.room
        hand, ids, logs = torch.Generator().manual_seed(how.seed or 0), list(prompt), []
        while len(logs) < how.max_tokens:
            scores = self._model(input_ids=torch.tensor([ids])).logits[0, -1].float() / (how.temperature or 1.0)
            if how.allowed_token_ids is not None:
                kept = torch.full_like(scores, -torch.inf)
                kept[how.allowed_token_ids] = scores[how.allowed_token_ids]
                scores = kept
            log_q = scores.log_softmax(-1)
            token = int(torch.multinomial(log_q.exp(), 1, generator=hand)) if how.temperature else int(log_q.argmax())
            ids.append(token)
            logs.append({token: SimpleNamespace(logprob=float(log_q[token]))})
            if token in how.stop_token_ids:
                break
        return SimpleNamespace(outputs=[SimpleNamespace(token_ids=ids[len(prompt) :], logprobs=logs)])

"""`python -m tests.fakes.server_process FOLDER`: serves the model there, with the quirks of real servers, until it is ended.

The first line that it prints is its address. Its answers are vLLM's in form. It is busy, its gateway gives up and a body is cut,
each at the first asking for some texts; entries come in any order, beyond the vocabulary there is padding, minus infinity is a
number, and tokens are not echoed.
"""

import sys
import time
from pathlib import Path

import torch
from tests.fakes import openai_server
from transformers import AutoModelForCausalLM

PADDED = 7
FAILURES = (
    (429, {"Retry-After": "0.01"}, b'{"error": {"message": "busy"}}'),
    (503, {}, b"<html>Bad gateway</html>"),
    (200, {}, b'{"choices": [{"prompt_logp'),
    None,
)


def quirky(seen: set, classes: int, answer: dict):
    """What is sent in place of an answer. Three of four texts fail when they are asked for the first time."""
    (choice,) = answer["choices"]
    text = tuple(choice.pop("prompt_token_ids"))  # older servers do not echo them
    if text not in seen:
        seen.add(text)
        failure = FAILURES[sum(text) % 4]
        if failure is not None:
            return failure
    for place, entries in enumerate(choice["prompt_logprobs"]):
        if entries:
            beyond = {str(classes + PADDED): {"logprob": -9999.0, "rank": 10**4, "decoded_token": ""}}
            choice["prompt_logprobs"][place] = beyond | dict(reversed(entries.items()))
    return answer


if __name__ == "__main__":
    torch.set_num_threads(1)
    module = AutoModelForCausalLM.from_pretrained(Path(sys.argv[1])).eval()
    plain = openai_server.Tiny()
    plain.forward = lambda input_ids, attention_mask=None: module(input_ids=input_ids).logits  # type: ignore[method-assign]
    seen: set = set()
    fake = openai_server.Fake(plain)
    fake.quirk = lambda _, answer: quirky(seen, module.config.vocab_size, answer)
    with openai_server.running(fake) as server:
        print(server.url, flush=True)
        while True:
            time.sleep(60)

"""A server on this machine that answers as vLLM does, with a tiny model's log-probabilities, and misbehaves on demand."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import torch
from torch import nn

V = 40


class Tiny(nn.Module):
    """A causal language model: what it says at a position depends on the tokens up to it, and on their order."""

    def __init__(self, seed: int = 0, classes: int = V):
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.embed = nn.Parameter(torch.randn(classes, 8, generator=generator))
        self.head = nn.Parameter(torch.randn(classes, 8, generator=generator))

    def forward(self, input_ids, attention_mask=None):
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        states = self.embed[input_ids] * mask[..., None]
        seen = states.cumsum(1) / mask.cumsum(1).clamp_min(1)[..., None]
        return (seen + states).tanh() @ self.head.T


class Fake:
    """``quirk``: given the number of the request and the answer, returns what is sent instead: an answer, ``(status, headers,
    body)``, or a function of the handler that writes whatever it likes. ``asked``: the bodies of all requests but for models.
    """

    def __init__(self, model: nn.Module, name: str = "tiny", root: str = "/models/tiny", longest: int | None = 64):
        self.model, self.name, self.root, self.longest = model, name, root, longest
        self.quirk: Callable = lambda number, answer: answer
        self.models: Callable = lambda answer: answer
        self.asked: list[dict] = []
        self.headers: list[dict] = []
        self.billed = 0  # tokens of the answers that were made, sent whole or not
        self.port = 0
        self._lock = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    def listed(self) -> dict:
        entry = {"id": self.name, "object": "model", "root": self.root, "parent": None, "created": time.time_ns()}
        return {"object": "list", "data": [entry | ({"max_model_len": self.longest} if self.longest else {})]}

    def answer(self, path: str, body: dict) -> dict:
        choices, read, written = self._prompted(body) if "prompt_logprobs" in body else self._texts(path, body)
        with self._lock:
            self.billed += read + written
        usage = {"prompt_tokens": read, "completion_tokens": written, "total_tokens": read + written}
        return {"id": "x", "object": "completion", "model": self.name, "choices": choices, "usage": usage}

    def _prompted(self, body):
        prompt = body["prompt"]
        with torch.no_grad():
            logs = torch.log_softmax(self.model(torch.tensor([prompt]))[0].double(), -1)
        given: list[dict | None] = [None]
        for token, row in zip(prompt[1:], logs, strict=False):
            values, ids = row.topk(min(body["prompt_logprobs"], len(row)))
            rank = int((row >= row[token]).sum())
            entry = {token: {"logprob": float(row[token]), "rank": rank, "decoded_token": f"t{token}"}}
            for place, (one, value) in enumerate(zip(ids.tolist(), values.tolist(), strict=True), 1):
                entry[one] = {"logprob": value, "rank": place, "decoded_token": f"t{one}"}
            given.append({str(one): what for one, what in entry.items()})
        choice = {
            "index": 0,
            "text": "!",
            "finish_reason": "length",
            "prompt_logprobs": given,
            "prompt_token_ids": prompt,
        }
        return [choice], len(prompt), 1

    def _texts(self, path, body):
        chat = path.endswith("/chat/completions")
        prompt = body["messages"][-1]["content"] if chat else body["prompt"]
        choices, written = [], 0
        for index in range(body.get("n", 1)):
            words = [f"{word}{index}" for word in prompt.split()]
            kept = words[: body["max_tokens"]]
            written += len(kept)
            finish = "stop" if len(kept) == len(words) else "length"
            text = {"message": {"role": "assistant", "content": " ".join(kept)}} if chat else {"text": " ".join(kept)}
            choices.append({"index": index, "finish_reason": finish, **text})
        return choices, len(prompt.split()), written


@contextmanager
def running(fake: Fake) -> Iterator[Fake]:
    """Serves for the length of the block."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def do_GET(self):
            self.send(fake.models(fake.listed()) if self.path == "/v1/models" else (404, {}, {"detail": "Not Found"}))

        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with fake._lock:
                fake.asked.append(body)
                fake.headers.append(dict(self.headers))
                number = len(fake.asked)
            self.send(fake.quirk(number, fake.answer(self.path, body)))

        def send(self, what):
            if callable(what):
                what(self)
                return
            status, headers, content = what if isinstance(what, tuple) else (200, {}, what)
            content = content if isinstance(content, bytes) else json.dumps(content).encode()
            self.send_response(status)
            for name, value in ({"Content-Length": str(len(content))} | headers).items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_):
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        block_on_close = False
        request_queue_size = 128

        def handle_error(self, *_):  # a client that went away
            pass

    server = Server(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    fake.port = server.server_address[1]
    try:
        yield fake
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class Clock:
    """Time that passes only while somebody sleeps. ``naps``: how long, each time."""

    def __init__(self):
        self.now, self.naps, self._lock = 0.0, [], threading.Lock()

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        with self._lock:
            self.naps.append(seconds)
            self.now += seconds

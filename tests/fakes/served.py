"""A teacher behind HTTP on this machine: a server in a thread, and its client."""

import http.client
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import torch

from limbeck.data.batch import Batch
from limbeck.errors import SignalError
from limbeck.teachers.local import LocalTeacher
from limbeck.teachers.teacher import Provides


def _plain(tensor: torch.Tensor) -> dict:
    return {
        "dtype": str(tensor.dtype).removeprefix("torch."),
        "values": tensor.tolist(),
    }  # repr: every bit of a float32


def _tensor(plain: dict) -> torch.Tensor:
    return torch.tensor(plain["values"], dtype=getattr(torch, plain["dtype"]))


class Served:
    """A client; it keeps one connection. ``asked`` counts rows sent."""

    def __init__(self, port: int):
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
        self.asked = 0
        self.fingerprint = self._post("/fingerprint", {})["fingerprint"]

    @property
    def provides(self) -> Provides:
        return Provides()

    @property
    def module(self) -> None:
        return None

    def _post(self, path: str, body: dict) -> dict:
        self._connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
        answer = self._connection.getresponse()
        content = json.loads(answer.read())
        if answer.status != 200:
            raise SignalError(content["error"])
        return content

    def observe(self, batch: Batch, needs: frozenset[str]):
        self.asked += len(batch)
        columns = {name: _plain(value) for name, value in batch.columns("teacher").items()}
        answer = self._post("/observe", {"columns": columns, "needs": sorted(needs)})
        return {name: _tensor(value).to(batch.ids.device) for name, value in answer.items()}

    def close(self) -> None:
        self._connection.close()


@contextmanager
def serving(teacher: LocalTeacher) -> Iterator[Served]:
    """Serves ``teacher`` for the length of the block and gives a client of it."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            try:
                status, answer = 200, self._answer(body)
            except SignalError as error:
                status, answer = 400, {"error": str(error)}
            content = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def _answer(self, body):
            if self.path == "/fingerprint":
                return {"fingerprint": teacher.fingerprint}
            columns = {name: _tensor(value) for name, value in body["columns"].items()}
            signals = teacher.observe(Batch.of(columns), frozenset(body["needs"]))
            return {name: _plain(value) for name, value in signals.items()}

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    client = Served(server.server_address[1])
    try:
        yield client
    finally:
        client.close()
        server.shutdown()
        server.server_close()
        thread.join()

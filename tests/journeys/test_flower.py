"""A federation over Flower, every client a process: the weights of one process, and nothing but letters (make federated)."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path
from threading import Thread
from types import SimpleNamespace

import pytest
import torch
import yaml

pytestmark = [
    pytest.mark.federated,
    pytest.mark.skipif(find_spec("flwr") is None, reason="Flower is not installed: make federated installs it"),
]
BIN = Path(sys.executable).parent
SGD = {"name": "sgd", "learning-rate": 0.05}
RECIPE = {
    "limbeck": 1,
    "name": "federation",
    "data": {"source": "uci-digits", "limit": 600, "labelled": 400, "validation": 101, "test": 200},
    "student": {"name": "mlp", "hidden": 16},
    "objective": {"labels": 1, "soft-targets": {"weight": 1, "temperature": 1}},
    "training": {"steps": 15, "batch-size": 32, "optimizer": SGD},
    "regime": {"name": "federated", "clients": 2, "rounds": 2, "alpha": 0.5, "weights": "classes"},
    "seeds": 1,
}
TELLING = RECIPE | {
    "regime": {"name": "federated", "clients": 2, "rounds": 2, "models": [{"name": "mlp", "hidden": 12}]}
}


def free() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


class Federation:
    """A SuperLink and its SuperNodes, each with a home of its own."""

    def __init__(self, root: Path, recipe: dict) -> None:
        from limbeck.integrations.flower import write_app

        self.root, self.port, self.running = root, free(), []
        self.recipe = root / "recipe.yaml"
        self.recipe.write_text(yaml.safe_dump(recipe))
        self.app = root / "app"
        write_app(self.app)
        flower = root / "server" / "flower"
        flower.mkdir(parents=True)
        (flower / "config.toml").write_text(
            f'[superlink]\ndefault = "here"\n\n[superlink.here]\naddress = "127.0.0.1:{self.port}"\ninsecure = true\n'
        )

    def env(self, who: str) -> dict[str, str]:
        own = {
            "LIMBECK_HOME": str(self.root / who / "home"),
            "FLWR_HOME": str(self.root / who / "flower"),
            "FLWR_TELEMETRY_ENABLED": "0",
            "FLWR_DISABLE_UPDATE_CHECK": "1",
            "OMP_NUM_THREADS": "1",
            "PATH": f"{BIN}:{os.environ['PATH']}",
        }
        return {**os.environ, **own}

    def start(self, who: str, *command: str) -> subprocess.Popen:
        (self.root / who).mkdir(exist_ok=True)
        log = (self.root / who / "log.txt").open("w")
        one = subprocess.Popen(
            [str(BIN / command[0]), *command[1:]],
            env=self.env(who),
            cwd=self.root,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
        self.running.append(one)
        return one

    def serve(self) -> None:
        without = "--disable-runtime-dependency-installation"
        self.start("server", "flower-superlink", "--insecure", "--port", str(self.port), without)
        until = time.monotonic() + 60
        while time.monotonic() < until:
            with socket.socket() as trying:
                if trying.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            time.sleep(0.2)
        raise AssertionError(self.logs())

    def join(self, number: int) -> subprocess.Popen:
        node = f"client={number} recipe='{self.recipe}'"
        where = ("--insecure", "--superlink", f"127.0.0.1:{self.port}", "--port", str(free()))
        return self.start(f"client-{number}", "flower-supernode", *where, "--node-config", node)

    def run(self, **config) -> dict:
        """A run to its end: what the server wrote."""
        out = self.root / "out"
        told = {"recipe": str(self.recipe), "out": str(out), "patience": 120.0, "gather": 90.0, **config}
        said = " ".join(
            f"{name}='{value}'" if isinstance(value, str) else f"{name}={value}" for name, value in told.items()
        )
        command = [str(BIN / "flwr"), "run", str(self.app), "here", "--stream", "--run-config", said]
        env = self.env("server")
        found = subprocess.run(command, env=env, cwd=self.root, capture_output=True, text=True, timeout=600)
        assert (out / "federation.json").exists(), found.stdout + found.stderr + self.logs()
        return json.loads((out / "federation.json").read_text())

    def logs(self) -> str:
        return "\n".join(f"== {path}\n{path.read_text()[-4000:]}" for path in self.root.glob("*/log.txt"))

    def stop(self) -> None:
        for one in self.running:
            if one.poll() is None:
                os.killpg(one.pid, signal.SIGTERM)
        for one in self.running:
            try:
                one.wait(20)
            except subprocess.TimeoutExpired:
                os.killpg(one.pid, signal.SIGKILL)


@pytest.fixture
def federation(tmp_path):
    found = []

    def made(recipe):
        found.append(Federation(tmp_path, recipe))
        return found[0]

    yield made
    for one in found:
        one.stop()


def alone(recipe: dict, home: Path, monkeypatch):
    """The same in this process."""
    from limbeck.files import home as kept
    from limbeck.recipe import Recipe
    from limbeck.regimes.walk import walk
    from limbeck.run.experiment import from_recipe
    from limbeck.training.workshop import Workshop

    monkeypatch.setenv("LIMBECK_HOME", str(home))
    torch.set_num_threads(1)
    read = Recipe.model_validate_json(json.dumps(recipe))
    plan = from_recipe(read).plan(kept(), 0)
    return plan, read.regime, walk(read.regime.distilled(plan), Workshop(kept()), home / "journal.json")


@pytest.mark.parametrize("recipe", [RECIPE, TELLING], ids=["weights", "logits"])
def test_processes_give_the_weights_of_one_and_send_letters_alone(recipe, federation, tmp_path, monkeypatch):
    from limbeck.models.saved import load_student

    one = federation(recipe)
    one.serve()
    for number in (1, 2):
        one.join(number)
    told = one.run()
    plan, regime, ours = alone(recipe, tmp_path / "alone", monkeypatch)
    theirs = load_student(tmp_path / "out" / "student").module.state_dict()
    for name, value in ours.module().state_dict().items():
        assert torch.equal(value, theirs[name]), name
    assert told["rounds"] == [vars(turn) for turn in ours.turns], "byte for byte"
    letters = b"".join(path.read_bytes() for path in sorted((tmp_path / "out" / "letters").glob("*/*.safetensors")))
    assert len(letters) == sum(turn.up for turn in ours.turns)
    for part in regime.parts(plan):
        inputs = part.batch(part.rows, torch.zeros_like(part.rows)).inputs
        (column,) = inputs.values()
        assert not any(row.contiguous().numpy().tobytes() in letters for row in column)
    server = tmp_path / "server" / "home" / "arms"
    stages = [json.loads(path.read_text()) for path in server.glob("*/*/finished/stage.json")]
    assert [term["name"] for stage in stages for term in stage["terms"]] == ["soft-targets"] * 2, (
        "no label is learnt from there"
    )


def test_a_client_whose_data_are_its_own_has_all_of_their_rows(tmp_path):
    from limbeck.integrations.flower import of_client, of_server
    from limbeck.recipe import Recipe
    from limbeck.run.experiment import from_recipe

    recipe = Recipe.model_validate_json(json.dumps(RECIPE))
    experiment = from_recipe(recipe)
    assert len(of_client(experiment, recipe.regime, 2, 0, whole=True).rows) == 400
    assert sum(len(of_client(experiment, recipe.regime, one, 0, whole=False).rows) for one in (1, 2)) == 400
    known = of_server(experiment, 0).splits.train
    assert len(known) == 200
    assert not len(known.labelled()), "no label of a client is known to the server"


def test_a_client_that_never_comes_is_absent_and_the_rounds_go_on(federation, tmp_path):
    one = federation(RECIPE | {"regime": {"name": "federated", "clients": 2, "rounds": 2}})
    one.serve()
    one.join(1)
    told = one.run(gather=15.0)
    assert [(turn["asked"], turn["answered"]) for turn in told["rounds"]] == [(2, 1), (2, 1)]


def test_a_client_that_is_killed_in_a_round_is_missed_there_and_comes_back(federation, tmp_path):
    """It is lost in the middle of its training; started anew, it takes part in the rounds that follow."""
    long = RECIPE["training"] | {"steps": 2000}
    one = federation(RECIPE | {"training": long, "regime": RECIPE["regime"] | {"rounds": 3}})
    one.serve()
    one.join(1)
    second = one.join(2)

    def kill():
        arms = tmp_path / "client-2" / "home" / "arms"
        until = time.monotonic() + 120
        while time.monotonic() < until and not any(arms.glob("*/*")):
            time.sleep(0.05)
        assert not any(arms.glob("*/*/finished")), "it is in the middle of its training"
        os.killpg(second.pid, signal.SIGKILL)
        one.join(2)

    killing = Thread(target=kill)
    killing.start()
    told = one.run(patience=90.0)
    killing.join()
    assert [(turn["asked"], turn["answered"]) for turn in told["rounds"]] == [(2, 1), (2, 2), (2, 2)]


class Lines:
    """A grid without processes: who is there, and what each would answer."""

    def __init__(self, numbers):
        self.numbers, self.deaf = dict(numbers), set()

    def get_node_ids(self):
        return list(self.numbers)

    def send_and_receive(self, messages, timeout):
        for message in messages:
            node, query = message.metadata.dst_node_id, message.metadata.message_type == "query"
            gone = node not in self.numbers or node in self.deaf
            told = {"turn": self.numbers[node]} if query and not gone else {"content": f"letter of {node}".encode()}
            error = SimpleNamespace(reason="the node is not available")
            yield SimpleNamespace(
                metadata=SimpleNamespace(
                    src_node_id=1 if gone else node
                ),  # as the SuperLink answers for one that is gone
                has_error=lambda gone=gone: gone,
                error=error,
                content={"letter": told},
            )


def test_one_that_is_gone_is_missed_and_another_may_take_its_place_alone(tmp_path, caplog, monkeypatch):
    from limbeck.integrations import flower

    def message(fields, kind, node):  # Flower's own belongs to a run
        return SimpleNamespace(metadata=SimpleNamespace(dst_node_id=node, message_type=kind))

    monkeypatch.setattr(flower, "_message", message)
    lines = Lines({11: 1, 12: 2})
    network = flower.Network(lines, {1: 11, 2: 12}, tmp_path, 1.0)

    def answered():
        return network._exchanged(1, (1, 2), b"to all")

    assert answered() == {1: b"letter of 11", 2: b"letter of 12"}
    lines.numbers[13] = 2
    assert answered() == {1: b"letter of 11", 2: b"letter of 12"}, "who is there is not put out"
    assert "A second node says that it is client 2" in caplog.text
    lines.deaf.add(12)
    assert answered() == {1: b"letter of 11"}
    assert answered() == {1: b"letter of 11", 2: b"letter of 13"}, "it was silent, and another says that it is the one"
    del lines.numbers[13]
    assert answered() == {1: b"letter of 11"}
    lines.numbers[14] = 2
    assert answered() == {1: b"letter of 11", 2: b"letter of 14"}

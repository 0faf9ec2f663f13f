"""The regime `federated` over Flower: a server and clients that are processes of their own, on machines of their own.

`write_app` makes the folder that ``flwr run`` takes. The server reads the rows of validation and test and the public ones; a
client reads its own rows by itself, and sends none. A message is a letter (`limbeck.federation.letters`) and the number of a
round; both sides check every letter against what the recipe lets cross, and nothing else of a message is read.
"""

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

import torch
from accelerate import PartialState

from limbeck.config import digest
from limbeck.data.examples import Splits
from limbeck.errors import LimbeckError
from limbeck.extras import imported
from limbeck.federation.letters import Letter
from limbeck.files import home, whole_folder, write_json, write_text
from limbeck.models.saved import save_student
from limbeck.recipe import Recipe
from limbeck.recipe.reading import read
from limbeck.regimes.clients import Answers, Client, Own, Received, private
from limbeck.regimes.federated import Federated
from limbeck.regimes.plan import Plan
from limbeck.regimes.public import public_of
from limbeck.regimes.pupils import metrics_of
from limbeck.regimes.regime import Regime, make
from limbeck.regimes.walk import walk
from limbeck.run.experiment import Experiment, from_recipe
from limbeck.training.workshop import Trained, Workshop

_app = imported("flwr.app", "The regime 'federated' over a network needs Flower", "federated")
_clientapp = imported("flwr.clientapp", "The regime 'federated' over a network needs Flower", "federated")
_serverapp = imported("flwr.serverapp", "The regime 'federated' over a network needs Flower", "federated")
_log = logging.getLogger(__name__)

LETTER: Final = "letter"
"""The only record of a message."""
_KEPT: Final = ".safetensors"
_POLL: Final = 0.5  # seconds between looks at who is there
_PROJECT: Final = """\
[project]
name = "limbeck-federated"
version = "1.0.0"

[tool.flwr.app]
publisher = "limbeck"

[tool.flwr.app.components]
serverapp = "federation:server"
clientapp = "federation:client"

[tool.flwr.app.config]
recipe = "federated"  # a file, or the name of a bundled recipe; as the server finds it
out = "runs/federated"  # where the student is written
seed = 0
patience = 600.0  # seconds that a round waits for answers
gather = 600.0  # seconds to wait for clients before the first round
"""
_MODULE: Final = '''\
"""What Flower runs: limbeck's own server and client."""

from limbeck.integrations.flower import client, server

__all__ = ["client", "server"]
'''


def write_app(folder: Path) -> None:
    """The app that ``flwr run`` takes: its settings, and a file that names limbeck's server and client. No data, no recipe.

    Raises:
        LimbeckError: there is something else of that name.
    """
    if folder.exists() and any(folder.iterdir()):
        raise LimbeckError(f"{folder} is not empty: name a new folder for the app.")
    write_text(folder / "pyproject.toml", _PROJECT)
    write_text(folder / "federation.py", _MODULE)


@dataclass(frozen=True)
class Network:
    """Letters over Flower. What came in a round is kept, so that a server that was stopped asks nobody twice.

    ``nodes``: the clients' nodes by number; a client that was lost and is started anew comes back as another node.
    ``patience``: seconds that a round waits; who is later is not counted in it.
    """

    grid: Any
    nodes: dict[int, int]
    folder: Path
    patience: float
    silent: set[int] = field(default_factory=set)
    """Who did not answer when last asked."""

    def answers(self, turn: int, asked: Sequence[int], content: bytes) -> Regime[Answers]:
        """See `limbeck.regimes.clients.Post.answers`."""
        told = {"turn": turn, "asked": tuple(asked), "content": content}
        letters = yield from make(f"letters of round {turn}", self._letters, **told)
        return Answers(letters)

    def _letters(self, turn: int, asked: tuple[int, ...], content: bytes) -> dict[int, bytes]:
        kept = self.folder / f"{turn}-{digest([content.hex(), list(asked)])[:16]}"
        if not kept.exists():
            found = self._exchanged(turn, asked, content)
            with whole_folder(kept) as draft:
                for number, letter in found.items():
                    (draft / f"{number}.safetensors").write_bytes(letter)
        return {int(path.stem): path.read_bytes() for path in kept.glob("*.safetensors")}

    def _exchanged(self, turn: int, asked: Sequence[int], content: bytes) -> dict[int, bytes]:
        self._welcome()
        by_node = {self.nodes[number]: number for number in asked if number in self.nodes}
        messages = [_message({"content": content, "turn": turn}, "train", node) for node in by_node]
        found = dict[int, bytes]()
        for reply in self.grid.send_and_receive(messages, timeout=self.patience):
            number = by_node.get(reply.metadata.src_node_id)  # of one that is gone the SuperLink says so
            if reply.has_error():
                who = "A client that is gone" if number is None else f"Client {number}"
                _log.warning("%s could not answer in round %d: %s", who, turn, reply.error.reason)
            elif number is not None:
                found[number] = bytes(reply.content[LETTER]["content"])
        self.silent.difference_update(found)
        self.silent.update(number for number in asked if number not in found)
        sent, came = len(content) * len(asked), sum(map(len, found.values()))
        told = (turn, len(found), len(asked), sent, came)
        _log.warning("Round %d: %d of %d clients answered; %d bytes to them, %d from them", *told)
        return found

    def _welcome(self) -> None:
        """Nodes that are new take the place of clients that are not there, or were silent, if they say that they are these."""
        there = set(self.grid.get_node_ids())
        strangers = sorted(there - set(self.nodes.values()))
        for number, node in _named(self.grid, strangers, self.patience) if strangers else ():
            if self.nodes.get(number) in there and number not in self.silent:
                _log.warning("A second node says that it is client %d, who is there: it is not asked.", number)
            else:
                self.nodes[number] = node


def _named(grid: Any, nodes: Sequence[int], patience: float) -> Iterator[tuple[int, int]]:
    """The numbers that these nodes say they have, each with its node."""
    for reply in grid.send_and_receive([_message({"turn": 0}, "query", node) for node in nodes], timeout=patience):
        if reply.has_error():
            _log.warning("A client does not say which it is: %s", reply.error.reason)
        else:
            yield int(reply.content[LETTER]["turn"]), reply.metadata.src_node_id


def _message(fields: dict[str, Any], kind: str, node: int) -> Any:
    record = _app.RecordDict({LETTER: _app.ConfigRecord(fields)})
    return _app.Message(content=record, message_type=kind, dst_node_id=node)


def _gathered(grid: Any, clients: int, seconds: float, patience: float) -> dict[int, int]:
    """The nodes of the clients by their numbers, when all are there.

    Raises:
        LimbeckError: two have one number, or nobody is there in time. Of some, the rest counts as absent.
    """
    until, nodes = time.monotonic() + seconds, list[int]()
    while time.monotonic() < until and len(nodes := list(grid.get_node_ids())) < clients:
        time.sleep(_POLL)
    found = dict[int, int]()
    for number, node in _named(grid, nodes, patience):
        if number in found or not 1 <= number <= clients:
            raise LimbeckError(
                f"A client says that it is number {number}, and "
                + ("another says so too" if number in found else f"the recipe has {clients}")
                + ": start each with a number of its own, --node-config 'client=1'."
            )
        found[number] = node
    if not found:
        raise LimbeckError(
            f"No client was there and answered in {seconds + patience:g} seconds: start flower-supernode."
        )
    return found


def _federated(recipe: Recipe) -> Federated:
    regime: Any = recipe.regime
    if regime.name != Federated().name:
        raise LimbeckError(f"Over Flower the regime must be 'federated', and {recipe.name!r} has {regime.name!r}.")
    if recipe.training.steps is None:
        raise LimbeckError(
            "Over Flower nobody knows how many rows all clients have together, so 'training' needs 'steps' in place of 'epochs'."
        )
    found: Federated = regime
    return found


def of_server(experiment: Experiment, seed: int) -> Plan:
    """What the server knows: no row with a label but those of validation and test."""
    whole = experiment.splits
    public = public_of(experiment.plan(home(), seed))
    known = public if len(public) else replace(whole.validation, supervised=torch.zeros_like(whole.train.supervised))
    return replace(experiment, splits=replace(whole, train=known)).plan(home(), seed)


def of_client(experiment: Experiment, regime: Federated, number: int, seed: int, whole: bool) -> Own:
    """What a client knows: its part of the labelled rows, or ``whole``, all of them, if the recipe's data are its own."""
    plan = experiment.plan(home(), seed)
    rows = plan.splits.train.labelled() if whole else regime.parts(plan)[number - 1]
    return regime.own(private(plan, rows.rows), number)


def serve(grid: Any, context: Any) -> None:
    """Flower's server: asks the clients, round by round, and writes the student and ``federation.json`` into ``out``.

    Raises:
        LimbeckError: the recipe is none of this regime, or no client is there.
    """
    config = context.run_config
    recipe, out, seed = read(str(config["recipe"])), Path(str(config["out"])), int(config["seed"])
    regime, experiment = _federated(recipe), from_recipe(recipe)
    plan = of_server(experiment, seed)
    patience = float(config["patience"])
    nodes = _gathered(grid, regime.clients, float(config["gather"]), patience)
    post = Network(grid, nodes, out / "letters", patience)
    last: Trained = walk(regime.served(plan, post), Workshop(home()), out / "journal.json")
    splits: Splits = experiment.splits
    about = {"recipe_hash": recipe.hash, "name": recipe.name, "validation": last.metrics}
    save_student(out / "student", last.module(), None, splits.reader, splits.classes, about, splits.task)
    told = {
        "recipe_hash": recipe.hash,
        "seed": seed,
        "validation": last.metrics,
        "test": metrics_of(last, splits.test, str(PartialState().device)),
        "rounds": [vars(one) for one in last.turns],
    }
    write_json(out / "federation.json", told)


def tell(message: Any, context: Any) -> Any:
    """Flower's client, asked who it is."""
    fields = {"turn": int(context.node_config["client"])}
    return _app.Message(content=_app.RecordDict({LETTER: _app.ConfigRecord(fields)}), reply_to=message)


def learn(message: Any, context: Any) -> Any:
    """Flower's client, asked to train on its own rows: the server's letter comes, and its own goes.

    Raises:
        LimbeckError: the server's letter is not what the recipe lets cross.
    """
    node, asked = context.node_config, message.content[LETTER]
    number, turn, content = int(node["client"]), int(asked["turn"]), bytes(asked["content"])
    seed, whole = int(node.get("seed", 0)), bool(node.get("whole", False))
    experiment, regime = _read(str(node["recipe"]))
    own = of_client(experiment, regime, number, seed, whole)
    client = regime.member(own, public_of(experiment.plan(home(), seed)))
    mine = home() / "federation" / f"{message.metadata.run_id}-{number}"  # on the disk: the process may be killed
    client.kept = before = _own_model(client, mine, number, turn)
    journal = home() / "federation" / f"{digest([content.hex(), number])[:16]}.json"
    answer, trained = walk(client.answer(turn, content), Workshop(home()), journal)
    with whole_folder(mine) as draft:
        state = Letter("weights", turn, number, trained.module().state_dict()).encoded()
        (draft / f"{turn}{_KEPT}").write_bytes(state)
        if before:  # should this round be asked again
            (draft / f"{before.turn}{_KEPT}").write_bytes(before.content)
    record = _app.RecordDict({LETTER: _app.ConfigRecord({"content": answer})})
    return _app.Message(content=record, reply_to=message)


def _own_model(client: Client, folder: Path, number: int, turn: int) -> Received | None:
    """A client's own model as the last round before this one left it; None if it has answered in none of this run."""
    rounds = [before for path in folder.glob(f"*{_KEPT}") if (before := int(path.name.removesuffix(_KEPT))) < turn]
    if not rounds:
        return None
    return Received(client.begin, (folder / f"{max(rounds)}{_KEPT}").read_bytes(), max(rounds), number)


@lru_cache(maxsize=1)
def _read(source: str) -> tuple[Experiment, Federated]:
    recipe = read(source)
    return from_recipe(recipe), _federated(recipe)


def _registered(register: Callable[[Any], Any], function: Callable[..., Any]) -> None:
    register(function)


server = _serverapp.ServerApp()
"""What ``serverapp`` names."""
client = _clientapp.ClientApp()
"""What ``clientapp`` names."""
_registered(server.main(), serve)
_registered(client.query(), tell)
_registered(client.train(), learn)

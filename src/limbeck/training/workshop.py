"""`Workshop`: trains stages, each one once. A trained arm is kept under the digest of all that determines it."""

import json
import logging
import shutil
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self

import safetensors.torch
from accelerate import PartialState
from torch import Tensor, nn

from limbeck.config import digest
from limbeck.data.examples import Examples
from limbeck.data.fingerprint import file
from limbeck.errors import LimbeckError
from limbeck.federation.letters import Turn
from limbeck.files import held, whole_folder
from limbeck.teachers.local import LocalTeacher
from limbeck.teachers.precision import Asking
from limbeck.training.loop import Watch, train
from limbeck.training.stage import Origin, Stage, Together

_log = logging.getLogger(__name__)
_KEPT = "kept.safetensors"


@dataclass(frozen=True)
class Trained:
    """What a stage gave; the weights stay on the disk until they are asked for.

    ``metrics``: validation metrics of the delivered weights. ``points``: the learning curve. ``reused``: it was trained
    before, by this run or another. ``examples``: what it learnt from. ``kept``: a file of what was made anew in it, to be shown,
    if anything was. ``before``: the trainings of the same arm that came before it, in order. ``path``: of the module that is
    meant, where that is a part of what was trained. ``beside``: other models that answer with it, as one. ``of``: trainings that
    it was put together from, one beside the other, and ``turns``: what crossed between them and it, round by round. ``making``:
    the seconds in which what it learnt from was made before it began, such as pictures or a teacher's texts.
    """

    key: str
    name: str
    start: Origin = field(repr=False)
    weights: Path
    fingerprint: str
    metrics: dict[str, float]
    points: list[dict[str, Any]] = field(repr=False)
    seconds: float
    reused: bool
    examples: Examples | None = field(default=None, repr=False)
    kept: Path | None = field(default=None, repr=False)
    before: "tuple[Trained, ...]" = field(default=(), repr=False)
    path: str = ""
    beside: Together | None = field(default=None, repr=False)
    of: "tuple[Trained, ...]" = field(default=(), repr=False)
    turns: tuple[Turn, ...] = ()
    making: float = 0.0

    @property
    def whole_seconds(self) -> float:
        """The time of all trainings of its arm, and of making what they learnt from."""
        return sum(one.making + one.seconds for one in (*self.before, *self.of, self))

    def module(self) -> nn.Module:
        """The trained model, in evaluation mode."""
        module = self.start.module()
        module.load_state_dict(safetensors.torch.load_file(self.weights))
        own = module.get_submodule(self.path)
        return (self.beside.module(own) if self.beside else own).eval()

    def untrained(self) -> nn.Module:
        """One like it, as it was before."""
        own = self.start.module().get_submodule(self.path)
        return self.beside.module(own) if self.beside else own

    def part(self, path: str) -> Self:
        """One of its modules in its place; curve and metrics stay those of the whole."""
        key, fingerprint = digest([self.key, path]), digest([self.fingerprint, path])
        return replace(self, path=f"{self.path}.{path}".strip("."), key=key, fingerprint=fingerprint)

    def as_teacher(self, asking: Asking | None = None) -> LocalTeacher:
        """A frozen copy that teaches, run as ``asking`` says."""
        return LocalTeacher(self.module().requires_grad_(False), self.fingerprint, asking)


class Workshop:
    """Where stages are trained.

    Args:
        root: the folder that keeps trained arms; safe to share between recipes and processes.
        watch: makes what observes a training, such as a progress line.
    """

    def __init__(self, root: Path, watch: Watch = lambda stage, curve: ()) -> None:
        self.root, self._watch = root, watch

    def folder(self, stage: Stage) -> Path:
        """Where the stage's arm is kept."""
        return self._folder(digest(stage.identity(stage.start.module())))

    def _folder(self, key: str) -> Path:
        return self.root / "arms" / key[:2] / key

    def train(self, stage: Stage) -> Trained:
        """The trained arm: loaded if it is there, else trained, going on from its checkpoint if there is one.

        Raises:
            LimbeckError: see `limbeck.training.loop.train`.
        """
        identity = stage.identity(stage.start.module())
        key = digest(identity)
        folder, state = self._folder(key), PartialState()
        with held(folder, "it trains the same arm", wait=True) if state.is_main_process else nullcontext():
            if state.is_main_process:
                shutil.rmtree(folder / "finished.damaged", ignore_errors=True)
            found = self._finished(folder, key, stage, reused=True)
            state.wait_for_everyone()
            if found:
                return found
            outcome = train(stage, folder / "checkpoints", self._watch)
            if state.is_main_process:
                self._keep(
                    folder,
                    identity,
                    outcome.weights,
                    {
                        "metrics": outcome.metrics,
                        "points": outcome.points,
                        "seconds": outcome.seconds,
                    },
                    outcome.kept,
                )
            state.wait_for_everyone()
            trained = self._finished(folder, key, stage, reused=False)
        assert trained is not None
        return trained

    @staticmethod
    def _keep(
        folder: Path, identity: dict[str, Any], weights: dict[str, Any], result: dict[str, Any], kept: dict[str, Tensor]
    ) -> None:
        try:
            with whole_folder(folder / "finished") as draft:
                if kept:
                    safetensors.torch.save_file(kept, draft / _KEPT)
                safetensors.torch.save_file(weights, draft / "model.safetensors")
                result["sha256"] = file(draft / "model.safetensors")
                result["checksum"] = digest(result)
                (draft / "result.json").write_text(json.dumps(result))
                (draft / "stage.json").write_text(json.dumps(identity, indent=2))
        except (OSError, safetensors.SafetensorError) as error:
            raise LimbeckError(f"Cannot keep the trained model in {folder}: {error}.") from error
        shutil.rmtree(folder / "checkpoints", ignore_errors=True)

    @staticmethod
    def _finished(folder: Path, key: str, stage: Stage, reused: bool) -> Trained | None:
        """The arm, if it is whole; a damaged one is set aside, to be trained again."""
        path = folder / "finished"
        if not path.exists():
            return None
        try:
            result = json.loads((path / "result.json").read_bytes())
            sound = digest({name: value for name, value in result.items() if name != "checksum"}) == result["checksum"]
            if not sound or file(path / "model.safetensors") != result["sha256"]:
                raise ValueError
        except (OSError, ValueError, KeyError):
            _log.warning("The trained arm %s is damaged: it is trained again.", path)
            path.rename(folder / "finished.damaged")
            return None
        return Trained(
            key,
            stage.name,
            stage.start,
            path / "model.safetensors",
            result["sha256"],
            result["metrics"],
            result["points"],
            result["seconds"],
            reused,
            stage.examples,
            path / _KEPT if (path / _KEPT).exists() else None,
        )

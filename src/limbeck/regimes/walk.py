"""Walking a regime: stages are trained, or loaded if they were; a regime that decides otherwise on replay is an error."""

import json
import logging
from pathlib import Path
from typing import TypeVar

from limbeck.config import digest
from limbeck.errors import LimbeckError
from limbeck.files import write_json
from limbeck.regimes.regime import Make, Regime
from limbeck.training.stage import Stage
from limbeck.training.workshop import Trained, Workshop

T = TypeVar("T")
_log = logging.getLogger(__name__)


def walk(regime: Regime[T], workshop: Workshop, journal: Path) -> T:
    """Walks the regime to its end and returns what it returns.

    Args:
        regime: the generator.
        workshop: trains the stages; one that was trained before is loaded.
        journal: a JSON file with the stages done so far; on replay each must come again.

    Raises:
        LimbeckError: a stage differs from the one that stood at its place before the run was interrupted.
    """
    done = _read(journal)
    answer, place = None, 0
    while True:
        try:
            step = regime.send(answer)
        except StopIteration as end:
            return end.value  # type: ignore[no-any-return]
        answer, mark = _do(step, workshop)
        if place < len(done) and done[place] != [step.name, mark]:
            raise LimbeckError(
                f"On replay step {place + 1} is {step.name!r}, but it was {done[place][0]!r} before, or was trained from "
                f"something else: code, data or machine changed since the run began. Choose a new output folder. ({journal})"
            )
        if place >= len(done):
            done.append([step.name, mark])
            write_json(journal, done)
        place += 1


def _read(journal: Path) -> list[list[str]]:
    """The stages done so far; none if the journal is damaged, as trained arms are found by their content anyway."""
    try:
        found = json.loads(journal.read_text())
        return [[str(name), str(mark)] for name, mark in found]
    except FileNotFoundError:
        return []
    except (OSError, ValueError, TypeError):
        _log.warning("The journal %s is damaged: begun anew.", journal)
        return []


def _do(step: Stage | Make, workshop: Workshop) -> tuple[object, str]:
    if isinstance(step, Stage):
        trained: Trained = workshop.train(step)
        return trained, trained.key
    made = step.function(**step.arguments)
    return made, digest(step.name)

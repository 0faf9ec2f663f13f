"""Models that are put together from what clients sent, kept as trained ones are, and what the sending took."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from hashlib import sha256

import safetensors.torch

from limbeck.config import digest
from limbeck.data.fingerprint import file
from limbeck.errors import LimbeckError
from limbeck.federation.averaging import averaged
from limbeck.federation.letters import Letter, Turn
from limbeck.files import home, write_bytes
from limbeck.regimes.clients import Answers
from limbeck.regimes.plan import Plan
from limbeck.regimes.pupils import metrics_of
from limbeck.training.workshop import Trained


@dataclass
class Ledger:
    """What crossed, round by round, and the trainings of the clients, where they were done here."""

    turns: list[Turn] = field(default_factory=list)
    trained: list[Trained] = field(default_factory=list)

    def add(self, asked: int, content: bytes, found: Answers) -> None:
        """One round: the letter to ``asked`` clients, and what came back."""
        up = sum(len(one) for one in found.letters.values())
        self.turns.append(Turn(asked, len(found.letters), asked * len(content), up))
        self.trained.extend(found.trained)

    def refuse(self) -> None:
        """One of the letters of the last round was refused: it was no answer, though its bytes came."""
        self.turns[-1] = replace(self.turns[-1], answered=self.turns[-1].answered - 1)

    def closed(self, last: Trained | None, regime: str) -> Trained:
        """What the rounds came to, with all that stands here.

        Raises:
            LimbeckError: nobody ever answered.
        """
        if last is None:
            raise LimbeckError(
                f"In the regime {regime!r} no client answered in any of {len(self.turns)} rounds, so nothing was learnt: lower "
                "'absent', or raise 'share' or 'rounds'."
            )
        return replace(last, of=tuple(self.trained), turns=tuple(self.turns))


def average(plan: Plan, letters: Sequence[Letter], called: str, steps: int) -> Trained:
    """The mean of the clients' weights as a trained model, kept under its own fingerprint; ``steps``: what all of them took."""
    state = averaged([one.tensors for one in letters], [one.rows for one in letters])
    content = safetensors.torch.save(state)
    fingerprint = sha256(content).hexdigest()
    path = home() / "averages" / fingerprint[:2] / f"{fingerprint}.safetensors"
    if not path.exists() or file(path) != fingerprint:
        write_bytes(path, content)
    whole = Trained(digest(["average", fingerprint]), called, plan.start, path, fingerprint, {}, [], 0.0, False)
    metrics = metrics_of(whole, plan.splits.validation, plan.device)
    point = {"step": steps, "loss": metrics[plan.splits.task.cost], "parts": {}, **metrics}
    return replace(whole, metrics=metrics, points=[point])

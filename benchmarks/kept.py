"""What is kept of every training of a gallery: enough for all its tables, and small enough to be committed.

So a gallery of many hours goes on where it stopped on another machine, and anyone can work out its intervals again without
training anything.
"""

import json
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from limbeck.training.workshop import Trained

_ROUNDED = 1e-3  # of the answers of the same weights, which another machine may round to another class
RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True, eq=False)
class Arm:
    """One training: its accuracy on validation, and which test examples it has right, [N].

    ``cka``: how like the teacher's its layers became, by the teacher's layer.
    """

    validation: float
    right: NDArray[np.bool_]
    seconds: float = 0.0
    cka: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def of(cls, trained: Trained, right: NDArray[np.bool_], cka: Mapping[str, float] | None = None) -> "Arm":
        """What is kept of a training."""
        return cls(trained.metrics["accuracy"], right, round(trained.seconds, 1), cka or {})


class Kept:
    """The arms of one stage, a line of JSON each, in ``results/arms/NAME.jsonl``."""

    def __init__(self, name: str) -> None:
        self.path = RESULTS / "arms" / f"{name}.jsonl"
        lines = self.path.read_text().splitlines() if self.path.exists() else []
        self._arms = {found["key"]: _arm(found) for found in map(json.loads, lines)}

    def arm(self, key: str, make: Callable[[], Arm]) -> Arm:
        """The arm of this key; made and written down where there is none yet."""
        if key not in self._arms:
            made = make()
        if key not in self._arms:  # making one may have noted it already
            self._arms[key] = made
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("a") as file:
                file.write(json.dumps({"key": key, **_line(made)}) + "\n")
        return self._arms[key]

    def teacher(self, make: Callable[[], Arm]) -> Arm:
        """The teacher's arm, which is never asked anew."""
        return self.arm("teacher", make)

    def taught_by(self, right: NDArray[np.bool_]) -> None:
        """Refuses to add students of another teacher to those that are kept."""
        kept = self.teacher(lambda: Arm(float("nan"), right))
        if np.mean(kept.right != right) > _ROUNDED:
            raise SystemExit(
                f"{self.path} has students of a teacher with {100 * kept.right.mean():.2f} % of the test part right; trained "
                f"here it has {100 * right.mean():.2f} %, so theirs cannot be compared. Remove the file to begin anew."
            )


def _line(arm: Arm) -> dict[str, Any]:
    return {
        "validation": arm.validation,
        "seconds": arm.seconds,
        "cka": dict(arm.cka),
        "count": len(arm.right),
        "right": zlib.compress(np.packbits(arm.right).tobytes(), 9).hex(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "torch": str(torch.__version__),
    }


def _arm(line: Mapping[str, Any]) -> Arm:
    bits = np.frombuffer(zlib.decompress(bytes.fromhex(line["right"])), np.uint8)
    return Arm(line["validation"], np.unpackbits(bits, count=line["count"]).astype(bool), line["seconds"], line["cka"])

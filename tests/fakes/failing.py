"""A run to which something happens in its fourth step, as the environment's ``FAULT`` says: alone, or as one of two processes."""

import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

from limbeck.cli.main import main
from limbeck.training import ahead, loop, order

RECIPE = """
limbeck: 1
name: tiny
data: {source: mnist-5k, limit: 200, validation: 60, test: 60}
teacher: {model: {name: mlp, hidden: 24}, training: {steps: 40, batch-size: 24, workers: WORKERS}}
student: {name: mlp, hidden: 16}
training: {steps: 8, batch-size: 24}
seeds: 1
"""
CAUSE = "the roof fell in"
STEP = 4
FOLDER = Path(sys.argv[1]) if len(sys.argv) > 1 else Path()


def _now(act: Callable[[], object]) -> None:
    (FOLDER / "when").write_text(str(time.time()))
    act()


def _raises() -> None:
    raise RuntimeError(CAUSE)


FAULTS: dict[str, Callable[[], object]] = {
    "raises": _raises,
    "dies": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "stalls": lambda: time.sleep(3600),
}


def _in_a_step(act: Callable[[], object]) -> None:
    """In the process that trains, where the others wait for its gradients."""
    real, left = loop._step, [STEP]

    def step(*arguments: object) -> object:
        left[0] -= 1
        if left[0] == 0:
            _now(act)
        return real(*arguments)

    loop._step = step


def _in_a_worker(act: Callable[[], object]) -> None:
    """In the process that reads ahead."""
    real = order.Steps.__getitem__

    def item(self: order.Steps, step: int) -> object:
        if step == STEP and torch.utils.data.get_worker_info():
            _now(act)
        return real(self, step)

    order.Steps.__getitem__ = item


def begin() -> None:
    """``FAULT`` is such as "1 step dies": which process, where in it, and what; ``PATIENCE``: with a loader, in seconds."""
    rank, where, what = os.environ["FAULT"].split()
    ahead.PATIENCE = float(os.environ.get("PATIENCE", ahead.PATIENCE))
    if rank == os.environ.get("RANK", "0"):
        {"step": _in_a_step, "worker": _in_a_worker}[where](FAULTS[what])
    recipe = FOLDER / f"recipe-{os.environ.get('RANK', '0')}.yaml"
    recipe.write_text(RECIPE.replace("WORKERS", "2" if where == "worker" else "0"))
    main(["run", str(recipe), "--out", str(FOLDER / "out")])


if __name__ == "__main__":
    begin()

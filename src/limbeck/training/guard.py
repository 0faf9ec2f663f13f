"""What may end a training from outside: Ctrl-C, and memory that runs out."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, Final, Self

import torch

from limbeck.errors import LimbeckError
from limbeck.training.settings import Training

_PARTED: Final = ("Connection closed by peer", "Connection reset by peer", "remote process exited")
"""How the libraries that processes talk by say that one is gone: Gloo twice, and NCCL."""


class Interrupt:
    """Turns the first Ctrl-C (or SIGTERM) into a wish, which the loop reads between steps; the second one is at once."""

    def __init__(self) -> None:
        self.asked = False
        self._before: dict[int, Any] = {}

    def _ask(self, number: int, _: FrameType | None) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():  # elsewhere Python forbids handlers
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._ask)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)


@contextmanager
def explained(training: Training) -> Iterator[None]:
    """Says what to do when memory runs out, a process is gone, or weights that were divided among processes are not there.

    Raises:
        LimbeckError: in place of the library's own error.
    """
    try:
        yield
    except (torch.cuda.OutOfMemoryError, MemoryError, RuntimeError) as error:
        if "mixed torch.Tensor and DTensor" in str(error):
            raise LimbeckError(
                "With FSDP a module of the student is used without being called, so its weights are not there: name layers in "
                "fsdp_transformer_layer_cls_to_wrap, or set fsdp_auto_wrap_policy: NO_WRAP, which gathers all weights at once."
            ) from error
        if "DataLoader worker" in str(error):
            raise LimbeckError(
                f"A process that reads data ahead was ended from outside ({' '.join(str(error).split())[:200]}), often for want "
                "of memory: a lower training.workers or batch-size needs less. The same command goes on from the last checkpoint."
            ) from error
        if any(words in str(error) for words in _PARTED):
            raise LimbeckError(
                "Another process of this run has ended, and this one cannot go on without it. The cause is what that one said "
                "last; if it said nothing, it was killed. The same command goes on from the last checkpoint."
            ) from error
        said = any(words in str(error) for words in ("out of memory", "can't allocate memory"))
        if said or isinstance(error, torch.cuda.OutOfMemoryError | MemoryError):
            raise LimbeckError(
                f"Out of memory with batch-size {training.batch_size} in {training.accumulate} micro-batch(es). "
                f"Set training.accumulate to {training.accumulate * 2}, which needs less and trains the same, "
                "or training.precision to bf16, or choose a smaller batch-size."
            ) from error
        raise

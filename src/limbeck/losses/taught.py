"""Whether the teacher's side of a loss is a constant. It is, unless somebody follows the gradient to the teacher."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from torch import Tensor

_followed: ContextVar[bool] = ContextVar("followed", default=False)


def constant(teacher: Tensor) -> Tensor:
    """The teacher's side as a loss reads it: detached, or as it is within `followed`."""
    return teacher if _followed.get() else teacher.detach()


@contextmanager
def followed() -> Iterator[None]:
    """Within the block losses between logits have a gradient to the teacher's logits too: for a teacher that learns to teach."""
    before = _followed.set(True)
    try:
        yield
    finally:
        _followed.reset(before)

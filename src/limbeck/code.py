"""The user's own code, named in a recipe: imported and called where the user allows it, and nowhere else."""

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Final

from limbeck.errors import LimbeckError

TARGET: Final = r"^[A-Za-z_][\w.]*:[A-Za-z_][\w.]*$"
"""``module:callable``."""
code_allowed: ContextVar[bool] = ContextVar("limbeck_code_allowed", default=False)


@contextmanager
def allow_code(allowed: bool = True) -> Iterator[None]:
    """Within the block, recipes may name Python functions to import and call."""
    token = code_allowed.set(allowed)
    try:
        yield
    finally:
        code_allowed.reset(token)


def called(what: str, target: str, *arguments: Any, **settings: Any) -> Any:
    """What ``module:callable`` returns. ``what`` it is to be: ``model``.

    Raises:
        LimbeckError: code is not allowed, or the callable is not found or fails.
    """
    if not code_allowed.get():
        raise LimbeckError(
            f"The {what} {target!r} is code that would be imported and run, which is not allowed unless you "
            "say so: --allow-code on the command line, limbeck.code.allow_code() in Python."
        )
    where, _, path = target.partition(":")
    try:
        found: Any = importlib.import_module(where)
        for part in path.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError) as error:
        raise LimbeckError(f"The {what} {target!r} was not found: {error}.") from error
    except (Exception, SystemExit) as error:  # the user's module may fail in any way, or end the program
        raise LimbeckError(f"The {what} {target!r} could not be imported: {type(error).__name__}: {error}") from error
    try:
        return found(*arguments, **settings)
    except (Exception, SystemExit) as error:  # the user's code may fail in any way, or end the program
        raise LimbeckError(f"The {what} {target!r} failed: {type(error).__name__}: {error}") from error

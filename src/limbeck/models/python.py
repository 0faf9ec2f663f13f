"""A model made by the user's own function, where the user allows code to be run."""

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Literal

from pydantic import Field
from torch import nn

from limbeck.errors import LimbeckError
from limbeck.models.spec import BuildContext, Spec

code_allowed: ContextVar[bool] = ContextVar("limbeck_code_allowed", default=False)


@contextmanager
def allow_code(allowed: bool = True) -> Iterator[None]:
    """Within the block, recipes may name Python functions to import and call."""
    token = code_allowed.set(allowed)
    try:
        yield
    finally:
        code_allowed.reset(token)


class Python(Spec):
    """``module:callable`` called with ``arguments``, and nothing else. Refused unless the user allows code."""

    name: Literal["python"] = "python"
    target: str = Field(pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_][\w.]*$")
    """``module:callable``, such as ``my_models.nets:tiny``."""
    arguments: dict[str, Any] = Field(default_factory=dict)
    """Its keyword arguments: JSON values."""

    def create(self, context: BuildContext) -> nn.Module:
        """What the callable returns.

        Raises:
            LimbeckError: code is not allowed, the callable is not found or fails, or it returns no `nn.Module`.
        """
        if not code_allowed.get():
            raise LimbeckError(
                f"The model {self.target!r} is code that would be imported and run, which is not allowed unless you "
                "say so: --allow-code on the command line, limbeck.models.specs.allow_code() in Python."
            )
        where, _, path = self.target.partition(":")
        try:
            found: Any = importlib.import_module(where)
            for part in path.split("."):
                found = getattr(found, part)
        except (ImportError, AttributeError) as error:
            raise LimbeckError(f"The model {self.target!r} was not found: {error}.") from error
        except (Exception, SystemExit) as error:  # the user's module may fail in any way, or end the program
            raise LimbeckError(
                f"The model {self.target!r} could not be imported: {type(error).__name__}: {error}"
            ) from error
        try:
            module = found(**self.arguments)
        except (Exception, SystemExit) as error:  # the user's code may fail in any way, or end the program
            raise LimbeckError(f"The model {self.target!r} failed: {type(error).__name__}: {error}") from error
        if not isinstance(module, nn.Module):
            raise LimbeckError(f"The model {self.target!r} returned {type(module).__name__}, not an nn.Module.")
        return module

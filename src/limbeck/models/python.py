"""A model made by the user's own function, where the user allows code to be run."""

from typing import Any, Literal

from pydantic import Field
from torch import nn

from limbeck.code import TARGET, called
from limbeck.errors import LimbeckError
from limbeck.models.spec import BuildContext, Spec


class Python(Spec):
    """``module:callable`` called with ``arguments``, and nothing else. Refused unless the user allows code."""

    name: Literal["python"] = "python"
    target: str = Field(pattern=TARGET)
    """``module:callable``, such as ``my_models.nets:tiny``."""
    arguments: dict[str, Any] = Field(default_factory=dict)
    """Its keyword arguments: JSON values."""

    def create(self, context: BuildContext) -> nn.Module:
        """What the callable returns.

        Raises:
            LimbeckError: code is not allowed, the callable is not found or fails, or it returns no `nn.Module`.
        """
        module = called("model", self.target, **self.arguments)
        if not isinstance(module, nn.Module):
            raise LimbeckError(f"The model {self.target!r} returned {type(module).__name__}, not an nn.Module.")
        return module

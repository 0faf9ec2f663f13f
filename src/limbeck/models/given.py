"""A model that is in memory already: for Python, never for a recipe."""

import copy
from collections.abc import Callable
from typing import Any, Literal

from pydantic import PrivateAttr, computed_field
from torch import nn

from limbeck.errors import LimbeckError
from limbeck.models.spec import BuildContext, Spec


class Given(Spec):
    """A module, which is copied and never altered, or a function without arguments that makes one."""

    name: Literal["given"] = "given"
    _source: nn.Module | Callable[[], nn.Module] = PrivateAttr()

    def __init__(self, source: nn.Module | Callable[[], nn.Module], **fields: Any) -> None:
        super().__init__(**fields)
        if not callable(source):
            raise LimbeckError(f"A model in memory is an nn.Module or a function that makes one, not {source!r}.")
        self._source = source

    @computed_field  # type: ignore[prop-decorator]
    @property
    def fingerprint(self) -> str:
        """Names code and weights as they are now; a function is called under the seed 0 to see what it makes."""
        from limbeck.models.identity import of_module
        from limbeck.models.seeded import seeded

        if isinstance(self._source, nn.Module):
            return of_module(self._source)
        with seeded(0):
            return of_module(self._made(self._source))

    def create(self, context: BuildContext) -> nn.Module:
        """A deep copy of the module, or what the function makes."""
        return copy.deepcopy(self._source) if isinstance(self._source, nn.Module) else self._made(self._source)

    @staticmethod
    def _made(factory: Callable[[], nn.Module]) -> nn.Module:
        try:
            module = factory()
        except LimbeckError:
            raise
        except Exception as error:  # the user's code may fail in any way
            raise LimbeckError(f"The function given as a model failed: {type(error).__name__}: {error}") from error
        if not isinstance(module, nn.Module):
            raise LimbeckError(f"The function given as a model returned {type(module).__name__}, not an nn.Module.")
        return module

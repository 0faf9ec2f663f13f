"""Libraries that come with an extra: imported when they are first needed."""

import importlib
from typing import Any

from limbeck.errors import LimbeckError


def imported(name: str, why: str, extra: str, error: type[LimbeckError] = LimbeckError) -> Any:
    """The module of this name.

    Args:
        name: of the module, with dots.
        why: how the message begins, such as "Adapters need peft".
        extra: what brings it.
        error: what is raised.

    Raises:
        LimbeckError: it is not installed, or something that it needs.
    """
    try:
        return importlib.import_module(name)
    except ImportError as missing:
        raise error(f'{why} ({missing}): pip install "limbeck[{extra}]"') from missing

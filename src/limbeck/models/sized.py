"""Models of one architecture in other sizes."""

from math import ceil, log

import torch

from limbeck.errors import LimbeckError
from limbeck.models.spec import BuildContext, Spec

_WIDEST, _TRIES = 4096.0, 16  # a width is found to a thousandth


def parameters(spec: Spec, context: BuildContext) -> int:
    """How many parameters the model has."""
    with torch.device("meta"):  # shapes without numbers
        return sum(one.numel() for one in spec.create(context).parameters())


def sized(spec: Spec, context: BuildContext, wanted: int) -> Spec:
    """The model of ``spec`` at the widths, no smaller than its own, that give it at least ``wanted`` parameters and few more.

    Raises:
        LimbeckError: it is not known what makes it wider, or no width is enough.
    """
    name = getattr(spec, "name", type(spec).__name__)

    def wider(factor: float) -> tuple[Spec, int]:
        found = spec.widened(factor)
        if found is None:
            raise LimbeckError(
                f"What makes the model {name!r} larger is not known, so models between it and its teacher cannot be found: name "
                "them with 'chain'."
            )
        return found, parameters(found, context)

    low, high = 1.0, 1.0
    while wider(high)[1] < wanted:
        low, high = high, 2 * high
        if high > _WIDEST:
            raise LimbeckError(
                f"The model {name!r} cannot be made so wide that it has {wanted:,} parameters: name a 'chain'."
            )
    for _ in range(_TRIES if high > 1 else 0):
        middle = (low * high) ** 0.5
        low, high = (low, middle) if wider(middle)[1] >= wanted else (middle, high)
    return wider(high)[0]


def between(spec: Spec, context: BuildContext, largest: int, ratio: float) -> tuple[Spec, ...]:
    """Wider models of this architecture, the largest first: none has more than about ``ratio`` times the parameters of the next.

    They stand evenly, by the logarithm of their size, between a model of ``largest`` parameters and that of ``spec``, neither of
    which is among them; they are as few as will do.
    """
    smallest = parameters(spec, context)
    gap = largest / smallest
    steps = max(1, ceil(log(max(1.0, gap)) / log(ratio) - 1e-9))
    places = range(steps - 1, 0, -1)
    return tuple(sized(spec, context, round(smallest * gap ** (place / steps))) for place in places)

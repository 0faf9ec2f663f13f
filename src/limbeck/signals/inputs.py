"""A model's input as something to differentiate by: its floating column, or for token ids what its embeddings give."""

from collections.abc import Mapping

from torch import Tensor, nn

from limbeck.errors import SignalError


def floating(columns: Mapping[str, Tensor]) -> str | None:
    """The name of the one floating column; None if there are none, or several."""
    names = [name for name, value in columns.items() if value.is_floating_point()]
    return names[0] if len(names) == 1 else None


def followed(value: Tensor) -> Tensor:
    """The value, or a detached one that requires a gradient, if it does not."""
    return value if value.requires_grad else value.detach().requires_grad_()


def embeddings(bare: nn.Module, signal: str) -> nn.Module:
    """The module that turns token ids into vectors.

    Raises:
        SignalError: the model does not say which it is; ``signal`` needs it.
    """
    get = getattr(bare, "get_input_embeddings", None)
    found = get() if callable(get) else None
    if not isinstance(found, nn.Module):
        raise SignalError(
            f"{signal!r}: {type(bare).__name__} has neither one floating input column nor get_input_embeddings: there is "
            "nothing to differentiate by."
        )
    return found

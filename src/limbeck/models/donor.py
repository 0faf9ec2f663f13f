"""The trained model that a student is made out of."""

import copy

from torch import nn

from limbeck.errors import LimbeckError
from limbeck.models.adapters import merged
from limbeck.models.factorised import multiplied
from limbeck.models.remade import remade
from limbeck.models.spec import BuildContext
from limbeck.signals.capture import bare


def donor_of(context: BuildContext, name: str) -> nn.Module:
    """The donor, for a model of this name.

    Raises:
        LimbeckError: there is none.
    """
    if context.donor is None:
        raise LimbeckError(f"The model {name!r} is made out of a trained model, but there is none here.")
    return context.donor


def copied(donor: nn.Module) -> nn.Module:
    """A copy on the CPU, without hooks and with a plain table of tokens, where that can be had."""
    donor = multiplied(merged(bare(donor)))
    if hasattr(getattr(donor, "config", None), "num_hidden_layers"):
        return remade(donor, copy.deepcopy(donor.config), donor.state_dict())
    return copy.deepcopy(donor).requires_grad_(True)

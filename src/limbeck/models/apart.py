"""Models of a task each, side by side: what one model of all tasks is compared with."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from limbeck.signals.call import call, logits_of


class Apart(nn.Module):
    """Models that share nothing; it gives their logits side by side, as one model with a head for each would.

    Args:
        models: in the order of the tasks, each of the classes of its own.
    """

    def __init__(self, models: Sequence[nn.Module]) -> None:
        super().__init__()
        self.models = nn.ModuleList(models)

    @property
    def clipped_apart(self) -> tuple[str, ...]:
        """See `limbeck.training.optimizers.groups`."""
        return tuple(f"models.{place}" for place in range(len(self.models)))

    def forward(self, **columns: Tensor) -> Tensor:
        """Logits [B, sum of classes]."""
        return torch.cat([logits_of(call(one, columns)) for one in self.models], -1)

"""Models side by side, trained as one and asked as one."""

from collections.abc import Iterable
from math import log

import torch
from torch import Tensor, nn

from limbeck.signals.call import call, logits_of


class Peers(nn.Module):
    """Models of the same answers; it gives the mean of their probabilities, or of the numbers that they give.

    Args:
        peers: the models.
        numbers: whether their answers are numbers, and not logits of classes.
    """

    def __init__(self, peers: Iterable[nn.Module], numbers: bool = False) -> None:
        super().__init__()
        self.peers, self.numbers = nn.ModuleList(peers), numbers

    @property
    def clipped_apart(self) -> tuple[str, ...]:
        """See `limbeck.training.optimizers.groups`."""
        return tuple(f"peers.{place}" for place in range(len(self.peers)))

    def forward(self, **columns: Tensor) -> Tensor:
        """Log-probabilities [B, classes], or numbers [B, outputs]."""
        said = torch.stack([logits_of(call(peer, columns)) for peer in self.peers])
        return said.mean(0) if self.numbers else torch.logsumexp(said.log_softmax(-1), 0) - log(len(self.peers))

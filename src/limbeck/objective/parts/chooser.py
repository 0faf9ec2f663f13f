"""Which of the teacher's layers each of the student's learns from, example by example."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from limbeck.objective.pairs import pooled

Feature = tuple[Tensor, Tensor | None]
"""A layer's feature, and its tokens that count."""
_FAINT = 0.01  # without anything the keys would have no gradient


class Chooser(nn.Module):
    """Shares of K layers for each of L others, by the products of queries and keys, and what joins each pair of them.

    Both are linear maps of features that are averaged over positions and standardised. Shares begin all but equal.
    Of one layer there is nothing to choose. ``joints``: of every pair, those of the first of the L layers first.
    """

    def __init__(
        self, ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor], width: int, joints: Sequence[nn.Module | None]
    ) -> None:
        super().__init__()
        self.names = tuple(f"{a}<-{b}" for a in ours for b in theirs)
        chosen = len(theirs) > 1
        self.queries = nn.ModuleList(nn.Linear(pooled(one).shape[1], width) for one in ours.values() if chosen)
        self.keys = nn.ModuleList(nn.Linear(pooled(one).shape[1], width) for one in theirs.values() if chosen)
        for query in self.queries.parameters():
            nn.init.normal_(query, std=_FAINT)
        self.joints = nn.ModuleList(one for one in joints if one is not None)
        self._seen: Tensor | None = None

    def forward(self, ours: Sequence[Feature], theirs: Sequence[Feature]) -> Tensor:
        """The logarithms of shares [B, L, K]; those of one example and one of the L layers sum to 1."""
        if not self.keys:
            return ours[0][0].new_zeros(len(ours[0][0]), len(ours), 1)
        queries, keys = _mapped(self.queries, ours), _mapped(self.keys, theirs)
        shares = torch.log_softmax(queries @ keys.mT / queries.shape[-1] ** 0.5, -1)
        self._seen = shares.detach().exp()
        return shares

    def told(self) -> dict[str, Tensor]:
        """The shares of what was seen last, [B], each under ``OURS<-THEIRS``."""
        return {} if self._seen is None else dict(zip(self.names, self._seen.flatten(1).unbind(1), strict=True))


def _mapped(maps: nn.ModuleList, features: Sequence[Feature]) -> Tensor:
    vectors = [pooled(value, mask) for value, mask in features]
    return torch.stack(
        [own(F.layer_norm(one, one.shape[1:])) for own, one in zip(maps, vectors, strict=True)], 1
    )  # [B, layers, width]

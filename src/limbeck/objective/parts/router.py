"""Which teachers an example is learnt from."""

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from limbeck.objective.pairs import pooled


class Router(nn.Module):
    """A share for each of several teachers, from a feature of the student: the softmax of a linear map of it, standardised.

    It begins with equal shares, whatever it sees.
    """

    def __init__(self, feature: Tensor, names: Sequence[str]) -> None:
        super().__init__()
        self.names = tuple(names)
        self.linear = nn.Linear(pooled(feature).shape[1], len(names))
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)
        self._seen: Tensor | None = None

    def forward(self, feature: Tensor) -> Tensor:
        """[B, ...] to the logarithms of shares [B, K], each row's shares sum to 1."""
        vector = pooled(feature)
        shares = torch.log_softmax(self.linear(F.layer_norm(vector, vector.shape[1:])), -1)
        self._seen = shares.detach().exp()
        return shares

    def told(self) -> dict[str, Tensor]:
        """What each got of the examples that were seen last, [B]."""
        return {} if self._seen is None else dict(zip(self.names, self._seen.unbind(1), strict=True))


class Routes(nn.Module):
    """The gate, None where there is one teacher, and for each teacher what joins the layers of its paths."""

    def __init__(self, router: Router | None, joints: Sequence[Sequence[nn.Module | None]]) -> None:
        super().__init__()
        self.router = router
        self.joints = nn.ModuleList(nn.ModuleList(joint for joint in own if joint is not None) for own in joints)

    def of(self, number: int) -> list[nn.Module]:
        """What joins the layers of one teacher's paths."""
        return list(cast(nn.ModuleList, self.joints[number]))

    def told(self) -> dict[str, Tensor]:
        """See `Router.told`."""
        return {} if self.router is None else self.router.told()

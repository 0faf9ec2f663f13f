"""Rows divided among clients: all alike, or with classes of their own (Dirichlet)."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from limbeck.data.draw import shuffled, uniforms
from limbeck.errors import LimbeckError

_PLACES, _SHARES = 41, 42  # salts
_ATTEMPTS = 100


def divided(rows: Tensor, strata: Tensor, clients: int, alpha: float | None, seed: int) -> tuple[Tensor, ...]:
    """The rows of each client, int64, ascending; every row is somebody's, and nobody has none.

    Args:
        rows: int64 [n].
        strata: int64 [n], the class of each.
        clients: how many.
        alpha: of the Dirichlet distribution from which each class draws its shares of the clients (Hsu et al. 2019,
            arXiv:1909.06335): small is far apart, 100 nearly alike; None: the rows of each class are dealt out in turn.
        seed: of the draw; a pure function of it.

    Raises:
        LimbeckError: there are fewer rows than clients, or a client has none however often it is drawn.
    """
    if len(rows) < clients:
        raise LimbeckError(
            f"regime.clients is {clients}, and {len(rows)} training rows have a label: each client needs one of its own."
        )
    order = np.lexsort((shuffled(_PLACES, seed, rows).numpy(), strata.numpy()))
    if alpha is None:
        dealt = [rows[torch.from_numpy(order[client::clients].copy())] for client in range(clients)]
        return tuple(part.sort().values for part in dealt)
    _, counts = np.unique(strata.numpy(), return_counts=True)
    for attempt in range(_ATTEMPTS):
        ends = np.cumsum(shares(clients, len(counts), alpha, seed, attempt), 0)[:-1]  # [clients - 1, classes]
        found: list[list[Tensor]] = [[] for _ in range(clients)]
        for place, (own, count) in enumerate(zip(np.split(order, np.cumsum(counts)[:-1]), counts, strict=True)):
            cuts = np.round(ends[:, place] * count).astype(np.int64)
            for client, part in enumerate(np.split(own, cuts)):
                found[client].append(rows[torch.from_numpy(part.copy())])
        parts = [torch.cat(own) for own in found]
        if all(len(part) for part in parts):
            return tuple(part.sort().values for part in parts)
    raise LimbeckError(
        f"With regime.alpha {alpha:g} some of the {clients} clients had no row in any of {_ATTEMPTS} draws: raise alpha, or take "
        "fewer clients."
    )


def shares(clients: int, classes: int, alpha: float, seed: int, attempt: int = 0) -> NDArray[np.float64]:
    """Draws from a symmetric Dirichlet distribution, one a class: float64 [clients, classes], columns of sum 1.

    A gamma variable of shape ``alpha`` is one of shape ``alpha + 1`` times u^(1/alpha); in logarithms, so that shares of small
    ``alpha`` do not all vanish.
    """
    from scipy.stats import gamma

    who, what = torch.arange(clients).repeat_interleave(classes), torch.arange(classes).repeat(clients)
    drawn = uniforms(_SHARES, who + (seed % 2**31) * 2**20, what + attempt * 2**20, 2) + 2.0**-54
    logs = np.log(gamma.ppf(drawn[:, 0], alpha + 1)) + np.log(drawn[:, 1]) / alpha
    logs = logs.reshape(clients, classes)
    logs -= logs.max(0)
    weights: NDArray[np.float64] = np.exp(logs)
    found: NDArray[np.float64] = weights / weights.sum(0)
    return found

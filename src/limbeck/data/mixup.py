"""Mixup: each row averaged with another (Zhang et al. 2018, arXiv:1710.09412)."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

import torch
from torch import Tensor
from torch.nn import functional as F

from limbeck.data.batch import NO_LABEL
from limbeck.data.draw import uniforms
from limbeck.errors import DataError

if TYPE_CHECKING:
    from limbeck.data.examples import Examples

_PARTNER: Final = 4  # what a random number is for, see `limbeck.data.augment`
_SHARE: Final = 5


def partners(examples: "Examples", ids: Tensor, views: Tensor) -> tuple[Tensor, Tensor]:
    """Whom each row is mixed with, int64 [B], and the share it keeps, float32 [B] in [0, 1]; 1 under view 0.

    Partners are rows of ``examples`` of the row's own part, supervised or not; shares are from Beta(mixup, mixup).
    """
    from scipy.special import betaincinv

    share = betaincinv(examples.mixup, examples.mixup, uniforms(_SHARE, ids, views)[:, 0])
    share = torch.from_numpy(share).float().where(views > 0, 1.0)
    place = torch.from_numpy(uniforms(_PARTNER, ids, views)[:, 0])
    supervised, partner = examples.supervised[examples.rows], ids.clone()
    for part in (True, False):
        mine = examples.supervised[ids] == part
        pool = examples.rows[supervised == part]
        if len(pool):
            partner[mine] = pool[(place[mine] * len(pool)).long()]
    return partner, share


def mixed(
    examples: "Examples", ids: Tensor, views: Tensor, inputs: Mapping[str, Tensor], labels: Tensor
) -> tuple[dict[str, Tensor], Tensor]:
    """Inputs and labels mixed with those of a partner (mixup, Zhang et al. 2018).

    ``inputs``: what the table gives for (ids, views). ``labels``: int64 [B], ``NO_LABEL`` where unseen.
    The partner is seen under the same view. Gives the inputs and probabilities, float32 [B, classes]: one-hot under
    view 0, all zero for rows that are not supervised.

    Raises:
        DataError: a column is not of floating point, as tokens are not.
    """
    for name, value in inputs.items():
        if not value.is_floating_point():
            raise DataError(
                f"mixup {examples.mixup:g} cannot mix the column {name!r}, which holds {value.dtype} numbers: it "
                "averages images, and tokens have no average. Set mixup to 0 for this data."
            )
    partner, share = partners(examples, ids, views)
    others = examples.table.read(partner, views)
    mixing = share < 1
    result = {}
    for name, value in inputs.items():
        shape = (-1, *[1] * (value.ndim - 1))
        keep = share.view(shape)
        result[name] = torch.where(mixing.view(shape), keep * value + (1 - keep) * others[name], value)

    def one_hot(classes: Tensor) -> Tensor:
        known = classes != NO_LABEL
        return F.one_hot(classes.where(known, 0), len(examples.classes)).float() * known[:, None]

    theirs = torch.where(labels != NO_LABEL, examples.labels[partner], NO_LABEL)
    keep = share[:, None]
    return result, keep * one_hot(labels) + (1 - keep) * one_hot(theirs)

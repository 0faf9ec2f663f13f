"""What a written token is credited with: the rewards of all that came after it (MiniLLM, Gu et al. 2024, arXiv:2306.08543)."""

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from limbeck.config import Config
from limbeck.data.batch import CLASS, Batch
from limbeck.data.language import SAMPLED, TEXT
from limbeck.losses.onpolicy import minillm_returns, policy_gradient_loss
from limbeck.losses.storages import Storage, judged


class Returns(Config):
    """The part of the reverse KL of whole texts that one token's own divergence misses, by policy gradient.

    The reverse KL at a token stands for its own reward, in expectation and exactly; the returns are of the rewards ``log p - log
    q`` of the tokens after it. Texts are learnt from once, so that the ratio to what drew them is 1 but for other temperatures
    and mixtures.
    """

    gamma: Annotated[float, Field(ge=0, le=1)] = 1.0
    """What a reward is worth one token earlier; 1 in the paper, 0.95 in its released code."""
    length_normalised: bool = True
    """Whether a return is divided by how many rewards it sums: otherwise short texts win."""
    reward_clip: Annotated[float, Field(gt=0)] = 100.0
    """The largest size of a single reward, nats."""
    ratio_clip: Annotated[float, Field(gt=0, lt=1)] | None = 0.2
    """How far the ratio to what drew a token may be from 1 before the token is left out (PPO); null: as far as it is."""

    def __call__(self, student: Storage, teacher: Storage, rows: Batch) -> Tensor:
        """The weight of each token's cross-entropy, [N]; its gradient is that of `policy_gradient_loss`."""
        tokens = rows.labels[CLASS]
        ours, theirs = (judged(one, tokens)[:, 0] for one in (student, teacher))
        drawn = rows.labels.get(SAMPLED, ours)
        by_text = _Texts(rows.labels[TEXT])
        mask, (q, p, sampler) = by_text.mask, map(by_text.apart, (ours, theirs, drawn))
        returns = minillm_returns(
            q, p, mask, self.gamma, length_normalised=self.length_normalised, single_step=True, clip=self.reward_clip
        )
        with torch.enable_grad():
            leaf = q.detach().requires_grad_()
            loss = policy_gradient_loss(leaf, sampler, returns, mask, self.ratio_clip).sum()
            (slope,) = torch.autograd.grad(loss, leaf)
        return -by_text.together(slope)


class _Texts:
    """Tokens [N] as texts [B, T], filled up behind, and back. ``text``: int64 [N], ascending, whose each token is."""

    def __init__(self, text: Tensor) -> None:
        _, self._row, counts = torch.unique_consecutive(text, return_inverse=True, return_counts=True)
        begins = counts.cumsum(0) - counts
        self._place = torch.arange(len(text), device=text.device) - begins[self._row]
        self.mask = torch.arange(int(counts.max()), device=text.device) < counts[:, None]

    def apart(self, values: Tensor) -> Tensor:
        found = values.new_zeros(self.mask.shape)
        found[self._row, self._place] = values
        return found

    def together(self, values: Tensor) -> Tensor:
        return values[self._row, self._place]

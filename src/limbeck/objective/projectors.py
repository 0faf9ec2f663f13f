"""Projectors: what carries a student's feature into the shape of the teacher's, chosen from their shapes."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from limbeck.errors import SignalError

_KINDS = {
    2: "vector [batch, features]",
    3: "tokens [batch, length, features]",
    4: "map [batch, channels, height, width]",
}


class Projector(nn.Module):
    """Joins two features of the same kind, or reduces the richer one to a vector first.

    Maps are averaged to the smaller of the two heights and widths; maps and tokens (those that count) are averaged to
    vectors where the other side is one; then a bias-carrying linear map (1 x 1 for maps) takes the student's width to
    the teacher's. With equal widths and ``always`` False there is no linear map, so the loss is zero at a match.

    Raises:
        SignalError: the shapes cannot be joined.
    """

    def __init__(self, student: Tensor, teacher: Tensor, always: bool = False) -> None:
        super().__init__()
        kinds = student.ndim, teacher.ndim
        if not set(kinds) <= _KINDS.keys() or (kinds[0] != kinds[1] and 2 not in kinds):
            found = " and ".join(_KINDS.get(value.ndim, str(list(value.shape))) for value in (student, teacher))
            raise SignalError(f"No projector joins {found}; name modules that give features of one kind.")
        if kinds == (3, 3) and student.shape[1] != teacher.shape[1]:
            raise SignalError(
                f"The student's feature has {student.shape[1]} tokens and the teacher's {teacher.shape[1]}: "
                "hints between tokens need the same tokenizer and length."
            )
        self.rank = min(kinds)
        channel = 1 if self.rank == 4 else -1
        ours, theirs = self._reduced(student).shape[channel], self._reduced(teacher).shape[channel]
        self.linear: nn.Module = nn.Identity()
        if ours != theirs or always:
            self.linear = nn.Conv2d(ours, theirs, 1) if self.rank == 4 else nn.Linear(ours, theirs)
            nn.init.orthogonal_(self.linear.weight)
            nn.init.zeros_(self.linear.get_parameter("bias"))

    def _reduced(self, value: Tensor, mask: Tensor | None = None) -> Tensor:
        if mask is not None:  # what stands in the padding is not the same live and from a store
            value = torch.where(mask.unsqueeze(-1), value, 0.0)
        if value.ndim == self.rank:
            return value
        if value.ndim == 4:
            return value.mean((2, 3))
        return value.mean(1) if mask is None else value.sum(1) / mask.sum(1, keepdim=True).clamp_min(1)

    def forward(
        self, student: Tensor, teacher: Tensor, seen: Tensor | None = None, shown: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Both features in one shape, the student's projected; ``seen`` and ``shown``: each side's tokens that count."""
        student, teacher = self._reduced(student, seen), self._reduced(teacher, shown)
        if self.rank == 4:
            size = min(student.shape[2], teacher.shape[2]), min(student.shape[3], teacher.shape[3])
            student, teacher = F.adaptive_avg_pool2d(student, size), F.adaptive_avg_pool2d(teacher, size)
        return self.linear(student), teacher


def normalised(value: Tensor, mask: Tensor | None = None) -> Tensor:
    """Each example's feature divided by its root mean square, so that layers of any scale can be matched.

    ``mask``: boolean [B, L] for tokens [B, L, d]: the mean is taken over those that count; the others become zero.
    """
    if mask is None:
        mean = value.flatten(1).square().mean(1)
    else:
        value = torch.where(mask.unsqueeze(-1), value, 0.0)
        mean = value.square().mean(2).sum(1) / mask.sum(1).clamp_min(1)
    return value * torch.rsqrt(mean + 1e-6).reshape(-1, *[1] * (value.ndim - 1))

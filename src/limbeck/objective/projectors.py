"""Projectors: what carries a student's feature into the shape of the teacher's, chosen from their shapes."""

from math import isqrt

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from limbeck.errors import SignalError
from limbeck.objective.pairs import pooled

_KINDS = {
    2: "vector [batch, features]",
    3: "tokens [batch, length, features]",
    4: "map [batch, channels, height, width]",
}


class Projector(nn.Module):
    """Joins two features of any kinds; the poorer kind decides.

    Where one side is a vector, the other's positions (those that count) are averaged. Where one is a map, the other's
    tokens are put on their grid: all of them, or all but one or two leading ones (class and distillation tokens), in
    the map's proportions or a square. Maps are averaged to the smaller of the two heights and widths. Tokens of
    different lengths are averaged likewise, on their grids if both have one, else along the sequence to the shorter;
    not so tokens of which some are padding, for positions of two tokenizers do not correspond. Then a bias-carrying
    linear map (1 x 1 for maps) takes the student's width to the teacher's. With equal widths and ``always`` False, or
    with ``linear`` False, there is none, so equal features stay equal.

    Raises:
        SignalError: the shapes cannot be joined; from the forward pass too, for lengths and masks change.
    """

    def __init__(self, student: Tensor, teacher: Tensor, always: bool = False, linear: bool = True) -> None:
        super().__init__()
        kinds = {student.ndim, teacher.ndim}
        if not kinds <= _KINDS.keys():
            raise _apart(student, teacher, "a feature is " + ", ".join(_KINDS.values()))
        self.rank = 4 if kinds == {3, 4} else min(kinds)
        ours, theirs = self._joined(student, teacher, None, None)
        channel = 1 if self.rank == 4 else -1
        before, after = ours.shape[channel], theirs.shape[channel]
        self.linear: nn.Module = nn.Identity()
        if linear and (before != after or always):
            self.linear = nn.Conv2d(before, after, 1) if self.rank == 4 else nn.Linear(before, after)
            nn.init.orthogonal_(self.linear.weight)
            nn.init.zeros_(self.linear.get_parameter("bias"))

    def forward(
        self, student: Tensor, teacher: Tensor, seen: Tensor | None = None, shown: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Both features in one shape, the student's projected; ``seen``, ``shown``: each side's tokens that count."""
        student, teacher = self._joined(student, teacher, seen, shown)
        return self.linear(student), teacher

    def _joined(
        self, student: Tensor, teacher: Tensor, seen: Tensor | None, shown: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        if self.rank == 2:
            return pooled(student, seen), pooled(teacher, shown)
        if self.rank == 3 and student.shape[1] == teacher.shape[1]:
            return _filled(student, seen), _filled(teacher, shown)
        if seen is not None or shown is not None:
            raise _apart(
                student,
                teacher,
                "tokens of which some are padding are joined to as many tokens of the same tokenizer, or to a vector",
            )
        maps = _maps(student, teacher)
        if maps is None and self.rank == 4:
            tokens = student if student.ndim == 3 else teacher
            raise _apart(
                student,
                teacher,
                f"{tokens.shape[1]} tokens, or all but the first one or two, fill neither a square nor the map's "
                "proportions; name modules that give features of one kind, or a vector",
            )
        if maps is None:
            length = min(student.shape[1], teacher.shape[1])
            ours, theirs = (F.adaptive_avg_pool1d(side.mT, length).mT for side in (student, teacher))
            return ours, theirs
        a, b = maps
        size = min(a.shape[2], b.shape[2]), min(a.shape[3], b.shape[3])
        ours, theirs = (F.adaptive_avg_pool2d(side, size) for side in maps)
        return (ours, theirs) if self.rank == 4 else (ours.flatten(2).mT, theirs.flatten(2).mT)


def _apart(student: Tensor, teacher: Tensor, why: str) -> SignalError:
    shapes = f"the student's feature {list(student.shape)} and the teacher's {list(teacher.shape)}"
    return SignalError(f"No projector joins {shapes}: {why}.")


def _filled(tokens: Tensor, mask: Tensor | None) -> Tensor:
    """Zero in the padding: what stands there is not the same live and from a store."""
    return tokens if mask is None else torch.where(mask.unsqueeze(-1), tokens, 0.0)


def _maps(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor] | None:
    """Both sides as maps, tokens on their grids; None if a side has none."""
    forms = [(side.shape[2], side.shape[3]) for side in (student, teacher) if side.ndim == 4]
    found = []
    for side in (student, teacher):
        grid = (side.shape[2], side.shape[3]) if side.ndim == 4 else _grid(side.shape[1], [*forms, (1, 1)])
        if grid is None:
            return None
        patches = side if side.ndim == 4 else side[:, -grid[0] * grid[1] :].mT
        found.append(patches.reshape(*patches.shape[:2], *grid))
    return found[0], found[1]


def _grid(length: int, forms: list[tuple[int, int]]) -> tuple[int, int] | None:
    """Height and width of the grid that ``length`` tokens fill, in the first of the proportions that fits."""
    for height, width in forms:
        for leading in (0, 1, 2):
            count = length - leading
            if leading and count < 4:  # a class token beside a single patch is no image
                break
            high = isqrt(count * height // width)
            if high and count % high == 0 and high * width == count // high * height:
                return high, count // high
    return None


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

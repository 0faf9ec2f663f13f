"""Embeddings of every example, kept from batch to batch: where contrastive distillation draws its negatives."""

import math

import torch
from torch import Tensor, nn

from limbeck.losses.contrastive import crd, unit

_UNSEEN = -1


class ContrastMemory(nn.Module):
    """Contrastive representation distillation (Tian, Krishnan & Isola 2020, arXiv:1910.10699) with memories.

    Two linear maps, both trained, embed the student's and the teacher's feature as unit vectors; each is an anchor
    once, with this batch's embedding of the other side as its positive (the reference implementation takes the
    memory's, of an epoch ago) and negatives from the other side's memory. Z, one a direction, is N times the mean of
    the first batch's exponentiated scores, kept from then on. `limbeck.losses.contrastive.crd` has the formula.

    Everything it keeps is a buffer: 2 x rows x width numbers, Z and the classes seen. In training mode a call moves the
    memories of its rows; in evaluation mode it changes nothing. Negatives are drawn, with replacement, from the global
    CPU generator. Memories are each process's own: nothing here gathers them, and a wrapper that broadcasts buffers
    leaves the first process's.

    Args:
        student_width: of the student's feature.
        teacher_width: of the teacher's feature.
        rows: how many examples the data set has.
        width: of both embeddings.
        negatives: how many for each anchor; at most ``rows - 1``.
        temperature: what cosines are divided by.
        momentum: the share of a memory that stays when its row is seen.

    Raises:
        ValueError: fewer than 2 rows, or no negatives.
    """

    constants: Tensor
    student_memory: Tensor
    teacher_memory: Tensor
    classes: Tensor

    def __init__(
        self,
        student_width: int,
        teacher_width: int,
        rows: int,
        width: int = 128,
        negatives: int = 4096,
        temperature: float = 0.07,
        momentum: float = 0.5,
    ) -> None:
        super().__init__()
        if rows < 2 or negatives < 1:
            raise ValueError(f"Contrast needs at least 2 rows and 1 negative, not {rows} and {negatives}.")
        self.rows, self.negatives = rows, min(negatives, rows - 1)
        self.temperature, self.momentum = temperature, momentum
        self.student, self.teacher = nn.Linear(student_width, width), nn.Linear(teacher_width, width)
        limit = 1 / math.sqrt(width / 3)
        for name in ("student_memory", "teacher_memory"):
            self.register_buffer(name, unit(torch.empty(rows, width).uniform_(-limit, limit)))
        self.register_buffer("constants", torch.zeros(2))  # 0: not yet set
        self.register_buffer("classes", torch.full((rows,), _UNSEEN))

    def forward(self, student: Tensor, teacher: Tensor, ids: Tensor, labels: Tensor | None = None) -> Tensor:
        """Both directions summed: [B, student_width] and [B, teacher_width] to values [B], nats. The teacher's detached.

        Args:
            student: the student's feature.
            teacher: the teacher's feature.
            ids: int64 [B], the row numbers of the examples.
            labels: int64 [B]: negatives are then of other classes than the anchor's, as far as rows were seen ("exact"
                in the paper's code); rows not seen, and negative labels, are of no class. An anchor whose class is all
                there is has a value of 0.

        Raises:
            ValueError: the shapes do not fit.
            IndexError: an id is not among ``rows``.
        """
        self._check(student, teacher, ids, labels)
        ours, theirs = unit(self.student(student)), unit(self.teacher(teacher.detach()))
        if not len(ids):
            return ours.sum(1) + theirs.sum(1)
        classes = self.classes if labels is None else self.classes.scatter(0, ids, labels.clamp_min(_UNSEEN))
        drawn, found = self._draw(ids, None if labels is None else classes)
        # indexing copies, so that moving the memories below leaves the graph alone
        pairs = (ours, theirs, self.teacher_memory[drawn]), (theirs, ours, self.student_memory[drawn])
        constants = self.constants
        if not bool(constants.all()):
            constants = torch.stack([self._constant(*sides) for sides in pairs])
        value = sum(
            (crd(*sides, z, self.rows, self.temperature) for sides, z in zip(pairs, constants, strict=True)),
            start=ours.new_zeros(len(ids)),
        )
        if self.training:
            with torch.no_grad():
                self.constants.copy_(constants)
                self.classes.copy_(classes)
                self._move(ids, ours, theirs)
        return value if found is None else torch.where(found, value, 0.0)

    def _check(self, student: Tensor, teacher: Tensor, ids: Tensor, labels: Tensor | None) -> None:
        widths = self.student.in_features, self.teacher.in_features
        if student.shape != (len(ids), widths[0]) or teacher.shape != (len(ids), widths[1]):
            raise ValueError(
                f"The student's feature must be [batch, {widths[0]}] and the teacher's [batch, {widths[1]}] for "
                f"{len(ids)} ids, not {list(student.shape)} and {list(teacher.shape)}."
            )
        if labels is not None and labels.shape != ids.shape:
            raise ValueError(f"Labels {list(labels.shape)} must be one an id, and ids are {list(ids.shape)}.")
        if bool(((ids < 0) | (ids >= self.rows)).any()):
            raise IndexError(
                f"Ids from {int(ids.min())} to {int(ids.max())} do not fit memories of {self.rows} rows (0 to "
                f"{self.rows - 1})."
            )

    def _draw(self, ids: Tensor, classes: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Row numbers [B, K], uniform over all rows but the anchor's own or its class's; and who has any, [B]."""
        order: Tensor | None = None
        found: Tensor | None = None
        first, length = ids, torch.ones_like(ids)
        if classes is not None:  # with rows in the order of their classes, what an anchor leaves out is one block
            ordered, order = classes.sort(stable=True)
            place = torch.empty_like(order).scatter_(0, order, torch.arange(self.rows, device=ids.device))
            own = classes[ids]
            begin, end = (torch.searchsorted(ordered, own, right=right) for right in (False, True))
            known = own != _UNSEEN
            first, length = torch.where(known, begin, place[ids]), torch.where(known, end - begin, 1)
            found = length < self.rows
        room = (self.rows - length).clamp_min(1)
        # the remainder of a number this large is uniform to some rows / 2^53
        drawn = torch.randint(2**53, (len(ids), self.negatives)).to(ids.device) % room[:, None]
        drawn = drawn + torch.where(drawn >= first[:, None], length[:, None], 0)
        drawn = drawn.clamp_max(self.rows - 1)  # moves those alone that have no room
        return drawn if order is None else order[drawn], found

    def _constant(self, anchor: Tensor, positive: Tensor, negatives: Tensor) -> Tensor:
        """Z that makes the mean of these scores ``1 / rows``."""
        with torch.no_grad():
            near, far = (anchor * positive).sum(1, keepdim=True), torch.einsum("bd,bkd->bk", anchor, negatives)
            scores = torch.cat([near, far], 1).flatten() / self.temperature
            log_constant = scores.logsumexp(0) + math.log(self.rows / len(scores))
            # float32 must hold it at any temperature, and above 0
            return log_constant.clamp(-80, 80).exp()

    def _move(self, ids: Tensor, ours: Tensor, theirs: Tensor) -> None:
        """Blends the memories with this batch; of several rows of one id, the first counts."""
        again = (ids[:, None] == ids).tril(-1).any(1)
        ids = ids[~again]
        for memory, fresh in ((self.student_memory, ours), (self.teacher_memory, theirs)):
            old = memory[ids]
            new = unit(self.momentum * old + (1 - self.momentum) * fresh[~again])
            memory[ids] = torch.where((new == 0).all(1, keepdim=True), old, new)  # opposites may cancel

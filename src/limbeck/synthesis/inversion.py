"""Inversion: pictures that a frozen classifier takes for what it was trained on (DeepInversion, Yin et al. 2020)."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from limbeck.config import Config
from limbeck.data.draw import words
from limbeck.data.images import PIXELS
from limbeck.losses.responses import cross_entropy
from limbeck.signals.capture import Capture
from limbeck.synthesis import priors
from limbeck.synthesis.norms import norms_of, remembered
from limbeck.synthesis.space import InputSpace

_JITTER = 29  # salt

Weight = Annotated[float, Field(ge=0, le=1e6)]


class Pictures(Config):
    """How pictures are made of a teacher, and how many."""

    count: Annotated[int, Field(ge=1)] = 1024
    """How many, of all classes alike."""
    batch_size: Annotated[int, Field(ge=2)] = 128
    """How many are made together: it is their statistics that are to be like those of the teacher's data. 256 in the paper."""
    steps: Annotated[int, Field(ge=1)] = 100
    """Steps for each batch; in the paper 2,000 for pictures of 32 pixels."""
    learning_rate: Annotated[float, Field(gt=0)] = 0.2
    """Of Adam, with the paper's betas of 0.5 and 0.9; in the paper 0.05, for more steps."""
    prior: Literal["statistics", "entropy"] = "statistics"
    """What a picture is held to beside its class: the ``statistics`` that the teacher's BatchNorm layers keep of real pictures;
    or, with ``entropy``, nothing: the teacher is to be sure of its answer, which shows what the statistics are for."""
    statistics: Weight = 3.0
    """Weight of the distance of statistics, summed over layers; in the paper 10 for pictures of 32 pixels."""
    variation: Weight = 2.5e-5
    """Weight of the total variation: how much neighbours differ."""
    norm: Weight = 3e-8
    """Weight of the pictures' length."""
    competition: Weight = 1.0
    """From the second round on: weight of ``1 - JS`` between student and teacher, so that pictures show where they differ."""
    jitter: Annotated[int, Field(ge=0)] = 2
    """In each step all pictures are moved by up to so many pixels, each way, around the edge."""

    def loss(
        self,
        pictures: Tensor,
        shown: Mapping[str, Tensor],
        targets: Tensor,
        norms: Mapping[str, Any],
        other: Tensor | None,
    ) -> Tensor:
        """What is made small: a scalar.

        Args:
            pictures: [B, C, H, W].
            shown: what the teacher shows of them: logits, and what each BatchNorm layer reads.
            targets: the classes that they are to be of, int64 [B].
            norms: the BatchNorm layers, by the name of what they read.
            other: the student's logits, [B, classes]; None: nobody competes.
        """
        loss = cross_entropy(shown["logits"], targets).mean()
        if self.prior == "entropy":
            return loss
        loss = loss + self.statistics * remembered(norms, shown)
        loss = loss + self.variation * priors.total_variation(pictures).mean()
        loss = loss + self.norm * priors.length(pictures).mean()
        if other is not None and self.competition:
            loss = loss + self.competition * priors.competition(other, shown["logits"]).mean()
        return loss


def invert(
    teacher: nn.Module,
    space: InputSpace,
    targets: Tensor,
    ids: Tensor,
    settings: Pictures,
    student: nn.Module | None = None,
) -> Tensor:
    """A batch of pictures, in the numbers that the model reads, float32 [B, C, H, W], within black and white.

    Nothing is drawn: the same arguments give the same pictures. Teacher and student are in evaluation mode, and stay as they are.

    Args:
        teacher: a classifier, and where ``settings`` ask for statistics, with BatchNorm.
        space: the pictures' size, and what is black and white.
        targets: the class of each, int64 [B].
        ids: their numbers, int64 [B], which say what noise they begin as.
        settings: what is asked of them.
        student: what they are to tell from its teacher.
    """
    device = next(teacher.parameters()).device
    low, high = space.ends(device)
    pictures, targets = space.noise(ids).to(device).requires_grad_(), targets.to(device)
    optimiser = torch.optim.Adam([pictures], lr=settings.learning_rate, betas=(0.5, 0.9))
    norms = norms_of(teacher) if settings.prior == "statistics" else {}
    with Capture(teacher, {"logits", *norms}) as shows, torch.enable_grad():
        for step in range(settings.steps):
            moved = torch.roll(pictures, _moved(settings.jitter, ids, step), (2, 3))
            shown = shows({PIXELS: moved})
            other = None
            if student is not None:
                with Capture(student, {"logits"}) as theirs:
                    other = theirs({PIXELS: moved})["logits"]
            loss = settings.loss(moved, shown, targets, norms, other)
            (pictures.grad,) = torch.autograd.grad(loss, [pictures])
            optimiser.step()
            with torch.no_grad():
                pictures.clamp_(low, high)
    return pictures.detach()


def _moved(most: int, ids: Tensor, step: int) -> tuple[int, int]:
    """By how many pixels a batch is moved along and across in one step."""
    drawn = words(_JITTER, ids[:1], torch.full_like(ids[:1], step), 2)[0]
    along, across = (int(one % (2 * most + 1)) - most for one in drawn.tolist())
    return along, across

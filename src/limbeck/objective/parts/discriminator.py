"""A discriminator of features, and both players' losses in one backward."""

from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import spectral_norm

from limbeck.losses.adversarial import discriminator_loss, generator_loss

Layer = tuple[Tensor, Tensor]


class Discriminator(nn.Module):
    """Tells the teacher's features from the student's: two hidden layers, LeakyReLU 0.2, to one score an example.

    Every matrix is divided by its largest singular value (Miyato et al. 2018, arXiv:1802.05957), so scores change by
    at most the distance of the features. The estimates of those values are buffers, moved once for each pass in
    training mode.

    Args:
        features: how many numbers an example's feature has.
        width: of the hidden layers.
    """

    def __init__(self, features: int, width: int = 128) -> None:
        super().__init__()
        self.features = features
        sizes = pairwise([features, width, width, 1])
        self.layers = nn.ModuleList(spectral_norm(nn.Linear(before, after)) for before, after in sizes)

    def weights(self) -> list[Layer]:
        """Each layer's normalised matrix and bias, with one power iteration in training mode."""
        found: list[Layer] = []
        for layer in self.layers:
            assert isinstance(layer, nn.Linear)
            found.append((layer.weight, layer.bias))
        return found

    def forward(self, features: Tensor, weights: Sequence[Layer] | None = None) -> Tensor:
        """Scores [B] of features [B, ...], which are flattened; ``weights``: those of an earlier call.

        Raises:
            ValueError: an example's feature has another size.
        """
        value = features.flatten(1)
        if value.shape[1] != self.features:
            raise ValueError(
                f"The discriminator takes features of {self.features} numbers an example, not {list(features.shape)}."
            )
        *hidden, last = self.weights() if weights is None else weights
        for weight, bias in hidden:
            value = F.leaky_relu(F.linear(value, weight, bias), 0.2)
        return F.linear(value, *last).squeeze(1)


def adversarial_values(discriminator: Discriminator, student: Tensor, teacher: Tensor) -> Tensor:
    """The losses of both players, summed: features [B, ...] of both sides to values [B], nats.

    One backward serves both: the discriminator sees detached features (`discriminator_loss`), the student detached
    weights (`generator_loss`), so neither's gradient holds any of the other's. ``3 log 2`` where the sides cannot be
    told apart. Distributions are matched, not examples: to be paired with a loss that compares examples.

    Raises:
        ValueError: the shapes differ from each other, or from what the discriminator takes.
    """
    if student.shape != teacher.shape:
        raise ValueError(
            "A discriminator compares features of one shape, "
            f"not the student's {list(student.shape)} with the teacher's {list(teacher.shape)}."
        )
    weights = discriminator.weights()  # once: a second call would move the power iteration, and with it the weights
    frozen = [(weight.detach(), bias.detach()) for weight, bias in weights]
    fooled = generator_loss(discriminator(student, frozen))
    ours, theirs = discriminator(student.detach(), weights), discriminator(teacher.detach(), weights)
    return fooled + discriminator_loss(ours, theirs)

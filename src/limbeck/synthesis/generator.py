"""A network that turns noise into pictures, trained by what a frozen teacher says of them."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from limbeck.data.draw import normals
from limbeck.data.images import PIXELS
from limbeck.models.seeded import seeded
from limbeck.signals.capture import Capture
from limbeck.synthesis.games import Game
from limbeck.synthesis.norms import norms_of, remembered
from limbeck.synthesis.space import InputSpace


class Generator(nn.Module):
    """Noise [B, latent] to pictures [B, C, H, W]: a quarter of the size, doubled twice.

    The network of DAFL and of ZSKT, after DCGAN (Radford et al. 2015, arXiv:1511.06434). In the end each channel of a batch has
    mean 0 and variance 1, as normalised pictures have over all of them; nothing keeps them between black and white.
    """

    def __init__(self, space: InputSpace, latent: int, width: int) -> None:
        super().__init__()
        channels, *size = space.shape
        self.sizes = [[-(-side // part) for side in size] for part in (4, 2, 1)]
        self.wide = nn.Linear(latent, 2 * width * self.sizes[0][0] * self.sizes[0][1])
        self.norm0 = nn.BatchNorm2d(2 * width)
        self.conv1 = nn.Conv2d(2 * width, 2 * width, 3, padding=1)
        self.norm1 = nn.BatchNorm2d(2 * width)
        self.conv2 = nn.Conv2d(2 * width, width, 3, padding=1)
        self.norm2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, channels, 3, padding=1)
        self.norm3 = nn.BatchNorm2d(channels, affine=False)

    def forward(self, noise: Tensor) -> Tensor:
        """Pictures in the numbers that the teacher reads."""
        quarter, half, whole = self.sizes
        x = self.norm0(self.wide(noise).view(len(noise), -1, *quarter))
        x = F.leaky_relu(self.norm1(self.conv1(F.interpolate(x, half))), 0.2)
        x = F.leaky_relu(self.norm2(self.conv2(F.interpolate(x, whole))), 0.2)
        pictures: Tensor = self.norm3(torch.tanh(self.conv3(x)))
        return pictures


class Playing:
    """A generator with its optimiser, in a game with a teacher, which stays as it is.

    Args:
        game: what it is after.
        teacher: a classifier, in evaluation mode whenever it is asked.
        space: what the teacher reads.
        seed: of its initial weights and of all its noise.
        latent: numbers of noise for each picture.
        width: its channels in the end; twice as many before.
        learning_rate: of Adam.
        device: where it lives.
    """

    def __init__(
        self,
        game: Game,
        teacher: nn.Module,
        space: InputSpace,
        seed: int,
        latent: int,
        width: int,
        learning_rate: float,
        device: torch.device | str = "cpu",
    ) -> None:
        with seeded(seed):
            self.network = Generator(space, latent, width)
        self.network.to(device).train()
        self._game, self._teacher, self._seed, self._latent = game, teacher.to(device).eval(), seed, latent
        self._optimiser = torch.optim.Adam(self.network.parameters(), lr=learning_rate)
        self._norms = norms_of(teacher) if game.statistics else {}
        self._reads = game.reads(teacher)
        self._device = device

    def pictures(self, count: int, step: int, student: Callable[[Tensor], Tensor]) -> tuple[Tensor, dict[str, float]]:
        """The pictures of one step of the student, without a graph, and what the generator made small, if it learnt.

        It learns from them if it is its turn; they are as they were before. Noise is a function of seed and step.

        ``student``: its logits of pictures, with a graph to them; asked only where the game does.
        """
        drawn = normals(self._seed, torch.arange(count), torch.full((count,), step), self._latent).to(self._device)
        if step % self._game.every:
            with torch.no_grad():
                return self.network(drawn), {}
        with torch.enable_grad(), Capture(self._teacher.eval(), self._reads | self._norms.keys()) as shows:
            made = self.network(drawn)
            shown = shows({PIXELS: made})
            parts = self._game.parts({name: shown[name] for name in self._reads}, lambda: student(made))
            if self._norms:
                parts["statistics"] = self._game.statistics * remembered(self._norms, shown)
            weights = list(self.network.parameters())
            loss = torch.stack(list(parts.values())).sum()
            for one, gradient in zip(weights, torch.autograd.grad(loss, weights), strict=True):
                one.grad = gradient
        self._optimiser.step()
        self._optimiser.zero_grad(set_to_none=True)
        return made.detach(), {name: float(value.detach()) for name, value in parts.items()}

    def state_dict(self) -> dict[str, Any]:
        """Network and optimiser."""
        return {"network": dict(self.network.state_dict()), "optimiser": self._optimiser.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Puts them back."""
        self.network.load_state_dict(state["network"])
        self._optimiser.load_state_dict(state["optimiser"])

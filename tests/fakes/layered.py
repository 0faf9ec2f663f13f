"""Models of many forms, the layers that a person would name of each, and random features."""

import torch
from torch import nn
from torch.nn import functional as F

from limbeck.models import light, nets

IMAGES = {"x": torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(1))}
IDS = {"input_ids": torch.arange(18).reshape(3, 6), "attention_mask": torch.arange(6) < torch.tensor([[6], [3], [1]])}


def conv(before, after, stride=1):
    return nn.Sequential(nn.Conv2d(before, after, 3, stride, 1), nn.BatchNorm2d(after), nn.ReLU(inplace=True))


def blocks(width, count):
    return nn.Sequential(*(nets.ResidualBlock(width, width, 1) for _ in range(count)))


def head(width):
    return nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 4)


def encoder():
    return nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)


class Stages(nn.Module):
    """As torchvision writes ResNet: stages with names of their own."""

    def __init__(self, *depths):
        super().__init__()
        self.stem, self.count = conv(3, 4), len(depths)
        for place, depth in enumerate(depths):
            down = nets.ResidualBlock(4, 4, 1 if place == 0 else 2)
            setattr(self, f"layer{place + 1}", nn.Sequential(down, *blocks(4, depth - 1)))
        self.fc = nn.Linear(4, 4)

    def forward(self, x):
        x = self.stem(x)
        for place in range(self.count):
            x = getattr(self, f"layer{place + 1}")(x)
        return self.fc(x.mean((2, 3)))


class Vgg(nn.Module):
    def __init__(self):
        super().__init__()
        first = nn.Conv2d(3, 4, 3, 1, 1), nn.ReLU(inplace=True), nn.Conv2d(4, 4, 3, 1, 1), nn.ReLU(inplace=True)
        self.features = nn.Sequential(*first, nn.MaxPool2d(2), nn.Conv2d(4, 8, 3, 1, 1), nn.ReLU(), nn.MaxPool2d(2))
        self.classifier = nn.Sequential(nn.Linear(8, 7), nn.ReLU(), nn.Dropout(), nn.Linear(7, 4))

    def forward(self, x):
        return self.classifier(self.features(x).mean((2, 3)))


class LeNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1, self.conv2, self.pool = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 6, 3), nn.MaxPool2d(2)
        self.fc1, self.fc2 = nn.Linear(54, 5), nn.Linear(5, 4)

    def forward(self, x):
        x = self.pool(F.relu(self.conv1(x)))
        x = self.pool(F.relu(self.conv2(x)))
        return F.log_softmax(self.fc2(F.relu(self.fc1(x.flatten(1)))), 1)


class Vit(nn.Module):
    def __init__(self, form):
        super().__init__()
        self.patch = nn.Sequential(conv(3, 8, 2), nn.Sequential(conv(8, 8, 2))) if form == "stem" else conv(3, 8, 4)
        self.first, self.form = nn.Parameter(torch.zeros(1, 1, 8)), form
        made = [encoder() for _ in range(3)]
        if form == "named":
            self.one, self.two, self.three = made
        else:
            self.blocks = nn.ModuleList(made) if form == "list" else nn.Sequential(*made)
        self.norm, self.head = nn.LayerNorm(8), nn.Linear(8, 4)

    def forward(self, x):
        x = self.patch(x).flatten(2).mT
        x = torch.cat([self.first.expand(len(x), 1, 8), x], 1)
        for block in (self.one, self.two, self.three) if self.form == "named" else self.blocks:
            x = block(x)
        return self.head(self.norm(x)[:, 0])


class Pairs(nn.Module):
    """Layers that are lists themselves, of attention and the rest, with what is never run and what runs twice."""

    def __init__(self):
        super().__init__()
        self.embed, self.unused = nn.Linear(16, 8), nn.ModuleList([encoder()])
        part = nn.Sequential(nn.LayerNorm(8), nn.Linear(8, 8))
        self.layers = nn.ModuleList(
            nn.ModuleList([nn.Sequential(nn.LayerNorm(8), nn.Linear(8, 8)) for _ in range(2)]) for _ in range(3)
        )
        self.again, self.head = nn.ModuleList([part]), nn.Linear(8, 4)

    def forward(self, x):
        x = self.embed(x.mean(1))
        for attend, forward in self.layers:
            x = x + forward(x + attend(x))
        return {"logits": self.head(self.again[0](self.again[0](x)).mean(1))}


class Tagger(nn.Module):
    def __init__(self):
        super().__init__()
        self.words, self.one = nn.Embedding(20, 8), nn.LSTM(8, 8, batch_first=True)
        self.two, self.head = nn.LSTM(8, 6, batch_first=True), nn.Linear(6, 4)

    def forward(self, input_ids, attention_mask):
        return self.head(self.two(self.one(self.words(input_ids))[0])[0][:, -1])


class Named(nn.Module):
    def __init__(self):
        super().__init__()
        self.one, self.two = encoder(), encoder()

    def forward(self, x):
        return self.two(self.one(x))


class Tokens(nn.Module):
    def __init__(self, body):
        super().__init__()
        self.words, self.body, self.head = nn.Embedding(20, 8), body, nn.Linear(8, 4)

    def forward(self, input_ids, attention_mask):
        x = self.words(input_ids)
        for part in self.body if isinstance(self.body, nn.ModuleList) else [self.body]:
            x = part(x)
        return self.head(x.mean(1, keepdim=True)).squeeze(1)


class Gated(nn.Module):
    """A residual block that weighs its channels by their means (Hu et al. 2018)."""

    def __init__(self, width):
        super().__init__()
        self.conv, self.gate = nn.Conv2d(width, width, 3, padding=1), nn.Conv2d(width, width, 1)

    def forward(self, x):
        x = self.conv(x)
        return x * self.gate(x.mean((2, 3), keepdim=True)).sigmoid()


class Named2d(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.gated, self.head = nn.Conv2d(3, 4, 1), Gated(4), nn.Linear(4, 4)

    def forward(self, x):
        return self.head(self.gated(self.stem(x)).mean((2, 3)))


def plain(inplace):
    act = nn.ReLU(inplace)
    wide = nn.Sequential(nn.Linear(768, 8), nn.BatchNorm1d(8), nn.ReLU(inplace), nn.Dropout(0.5), nn.Linear(8, 8))
    return nn.Sequential(nn.Flatten(), *wide, act, nn.Linear(8, 4), nn.LogSoftmax(1))


def bert(layers=3, width=8, seed=0):
    from transformers import BertConfig, BertForSequenceClassification

    torch.manual_seed(seed)
    config = BertConfig(
        vocab_size=20,
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=2,
        intermediate_size=8,
        num_labels=4,
    )
    return BertForSequenceClassification(config)


MODELS = {
    "small-cnn": (lambda: nets.SmallCnn(3, 4, 3, 4), ["blocks.0", "blocks.1", "blocks.2"]),
    "one block": (lambda: nets.SmallCnn(3, 4, 1, 4), ["blocks.0"]),
    "small-resnet": (lambda: nets.SmallResnet(3, 4, 2, 3, 4), ["stages.0", "stages.1", "stages.2"]),
    "mobile-cnn": (lambda: light.InvertedCnn(3, 4, 2, 3, 2, False, 4), ["stages.0", "stages.1", "stages.2"]),
    "efficient-cnn": (lambda: light.InvertedCnn(3, 4, 1, 3, 2, True, 4), ["stages.0", "stages.1", "stages.2"]),
    "shuffle-cnn": (lambda: light.ShuffleCnn(3, 4, 2, 3, 2, 4), ["stages.0", "stages.1", "stages.2"]),
    "one stage": (lambda: nets.SmallResnet(3, 4, 3, 1, 4), ["stages.0.0", "stages.0.1", "stages.0.2"]),
    "mlp": (lambda: nets.Mlp(768, (8, 9), 0.1, 4), ["blocks.0", "blocks.1"]),
    "one hidden layer": (lambda: nets.Mlp(768, (8,), 0.1, 4), ["blocks.0"]),
    "plain": (lambda: plain(False), ["3", "6"]),
    "plain, in place": (lambda: plain(True), ["3", "6"]),
    "named stages": (lambda: Stages(2, 3, 2), ["layer1", "layer2", "layer3"]),
    "named stages of one": (lambda: Stages(1, 1, 1), ["layer1", "layer2", "layer3"]),
    "two containers": (lambda: Stages(2, 2), ["layer1.0", "layer1.1", "layer2.0", "layer2.1"]),
    "stem, body, head": (lambda: nn.Sequential(conv(3, 4), blocks(4, 3), *head(4)), ["1.0", "1.1", "1.2"]),
    "body in one": (lambda: nn.Sequential(nets.SmallCnn(3, 4, 2, 4), nn.Identity()), ["0.blocks.0", "0.blocks.1"]),
    "vgg": (Vgg, ["features.3", "features.6"]),
    "lenet": (LeNet, ["conv1", "conv2"]),
    "vit": (lambda: Vit("list"), ["blocks.0", "blocks.1", "blocks.2"]),
    "vit, stem in blocks": (lambda: Vit("stem"), ["blocks.0", "blocks.1", "blocks.2"]),
    "vit, named blocks": (lambda: Vit("named"), ["one", "two", "three"]),
    "one token block": (lambda: Tokens(nn.ModuleList([encoder()])), ["body.0"]),
    "one named token block": (lambda: Tokens(encoder()), ["body"]),
    "token blocks in one": (lambda: Tokens(Named()), ["body.one", "body.two"]),
    "lists of lists": (Pairs, ["layers.0.1", "layers.1.1", "layers.2.1"]),
    "recurrent": (Tagger, ["one", "two"]),
    "one stage with names": (Named2d, ["gated"]),
    "bert": (bert, ["hidden.1", "hidden.2", "hidden.3"]),
    "linear": (lambda: nn.Sequential(nn.Flatten(), nn.Linear(768, 4)), []),
}


def columns_of(name):
    return IDS if name in ("bert", "recurrent") or "token block" in name else IMAGES


def normal(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)

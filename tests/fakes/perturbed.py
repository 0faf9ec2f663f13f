"""Models whose answers at a step away are known, and the columns that they read."""

import torch
from torch import nn
from torch.nn import functional as F

X = torch.randn(4, 3, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
TEXT = {
    "input_ids": torch.arange(10).reshape(2, 5),
    "attention_mask": torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]]),
}
CLOSE = {"rtol": 0, "atol": 1e-11}  # float64, sums of some ten terms of size 1


def linear():
    torch.manual_seed(0)
    return nn.Linear(3, 4).double()


def net(*, drop=0.0):
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(3, 6), nn.Tanh(), nn.Dropout(drop), nn.Linear(6, 4)).double()


def images():
    torch.manual_seed(0)
    body = [nn.Conv2d(1, 3, 3, padding=1), nn.GELU(), nn.Flatten(), nn.Linear(48, 5)]
    return nn.Sequential(*body).double().eval(), {"pixel_values": torch.randn(3, 1, 4, 4, dtype=torch.float64)}


class Words(nn.Module):
    """Token ids to logits [B, C], or [B, L, C] where ``each``; a text is the mean of the tokens that count."""

    def __init__(self, *, each=False):
        super().__init__()
        torch.manual_seed(3)
        self.words, self.mix, self.head = nn.Embedding(20, 6), nn.Linear(6, 6), nn.Linear(6, 4)
        self.each = each
        self.double()

    def get_input_embeddings(self):
        return self.words

    def forward(self, input_ids, attention_mask):
        seen = attention_mask.unsqueeze(-1).double()
        words = self.words(input_ids)
        whole = (seen * words).sum(1, keepdim=True) / seen.sum(1, keepdim=True)
        states = self.mix(words + 2 * whole).tanh()
        return self.head(states if self.each else (seen * states).sum(1))


def bert(tags=False, **more):
    from transformers import BertConfig, BertForSequenceClassification, BertForTokenClassification

    torch.manual_seed(0)
    sizes = {"vocab_size": 20, "hidden_size": 8, "num_attention_heads": 2, "intermediate_size": 8, "num_labels": 3}
    kind = BertForTokenClassification if tags else BertForSequenceClassification
    model = kind(BertConfig(num_hidden_layers=2, **sizes, **more)).double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(8)  # answers that are sure, gradients that are not small
    return model


def own_cross_entropy(logits, own):
    return F.cross_entropy(logits.flatten(0, -2), own.flatten(), reduction="none")

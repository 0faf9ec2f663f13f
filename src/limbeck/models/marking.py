"""What another language model makes of texts that a model wrote itself: where the writer goes wrong by its own words."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite

import torch
from torch import Tensor, nn

from limbeck.models.sampling import Ends, plain
from limbeck.signals.call import logits_of

_BATCH = 4  # texts at a time: logits over the whole vocabulary are held of both models


@dataclass(frozen=True)
class Marks:
    """Means over all tokens of all texts, ends included, in nats."""

    nll: float
    """The reader's negative log-likelihood of what was written."""
    kl: float | None
    """KL(writer || reader) of the next token; None where no model wrote. Of texts drawn from the writer it is, times their
    tokens, the reverse KL of whole texts."""


@torch.no_grad()
def marked(
    writer: nn.Module | None, reader: nn.Module, prompts: Sequence[Tensor], texts: Sequence[Sequence[int]], ends: Ends
) -> Marks | None:
    """What ``reader`` makes of ``texts``, tokens with their ends, that ``writer`` wrote after ``prompts``, int64 [P] each.

    ``writer``: None where texts are nobody's here.

    Both models read the same tokens, in evaluation mode, each where it is. None where no text has a token, or a model gives a
    token no probability at all.

    The mean KL at drawn tokens less that at tokens of the data is what the student errs more for its own errors' sake (exposure
    bias, Arora et al. 2022, arXiv:2204.01171).
    """
    told = [(prompt, torch.tensor(list(text))) for prompt, text in zip(prompts, texts, strict=True) if len(text)]
    told.sort(key=lambda pair: len(pair[0]) + len(pair[1]))
    nll, kl, count = 0.0, 0.0, sum(len(text) for _, text in told)
    for start in range(0, len(told), _BATCH):
        part = told[start : start + _BATCH]
        theirs = _followed(reader, part, ends)
        ours = theirs if writer is None else _followed(writer, part, ends)
        for (_, text), own, other in zip(part, ours, theirs, strict=True):
            nll -= float(other.gather(1, text.to(other.device)[:, None]).double().sum())
            kl += float((own.exp() * (own - other.to(own.device))).double().sum())
    if not count or not isfinite(nll + kl):
        return None
    return Marks(nll / count, None if writer is None else kl / count)


def _followed(module: nn.Module, part: Sequence[tuple[Tensor, Tensor]], ends: Ends) -> list[Tensor]:
    """The log-probabilities of each text's next tokens, float32 [tokens, V]."""
    device = next(module.parameters()).device
    if ends.begin is None:
        columns = _padded([torch.cat([prompt, text[:-1]]) for prompt, text in part], ends.pad, device)
        starts = [len(prompt) - 1 for prompt, _ in part]
    else:
        columns = _padded([prompt for prompt, _ in part], ends.pad, device)
        told = _padded([torch.cat([torch.tensor([ends.begin]), text[:-1]]) for _, text in part], ends.pad, device)
        columns |= {f"decoder_{name}": column for name, column in told.items()}
        starts = [0] * len(part)
    with plain(module):
        logits = logits_of(module(**columns))
    return [
        torch.log_softmax(own[start : start + len(text), : ends.vocabulary].float(), -1)
        for own, start, (_, text) in zip(logits, starts, part, strict=True)
    ]


def _padded(rows: Sequence[Tensor], pad: int, device: torch.device) -> dict[str, Tensor]:
    ids = nn.utils.rnn.pad_sequence(list(rows), batch_first=True, padding_value=pad)
    mask = nn.utils.rnn.pad_sequence([torch.ones_like(row) for row in rows], batch_first=True)
    return {"input_ids": ids.to(device), "attention_mask": mask.to(device)}

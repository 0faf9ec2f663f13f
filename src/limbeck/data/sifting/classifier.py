"""Filters by a model: what a text classifier finds."""

from collections.abc import Sequence
from typing import Annotated, Any, Final, Literal

import torch
from pydantic import Field

from limbeck.config import Config
from limbeck.data.tokenizers import quiet
from limbeck.data.writing.models import Loaded, loaded, ready
from limbeck.errors import DataError, nearest

_TOGETHER: Final = 32  # texts in one forward


class Classifier(Config):
    """Texts of which a transformers text classifier says one of these labels, each surer than ``above``."""

    name: Literal["classifier"] = "classifier"
    model: str
    """A folder, a name on the hub, or ``package:<name>/<folder>``: a model with a head for classes of texts."""
    labels: Annotated[tuple[str, ...], Field(min_length=1)]
    """The labels that are rejected, as the model's config names them."""
    above: Annotated[float, Field(ge=0, lt=1)] = 0.5
    """How probable a label must be for that."""

    def reasons(self, texts: Sequence[str]) -> list[str | None]:
        """See `Filter.reasons`. Texts longer than the model are judged by their beginning.

        Raises:
            DataError: there is no such model, it was not trained to classify, or knows no such label.
        """
        model = ready(loaded(self.model, "AutoModelForSequenceClassification"))
        known = {str(name): int(place) for place, name in model.model.config.id2label.items()}
        if unknown := [label for label in self.labels if label not in known]:
            hint = nearest(unknown[0], list(known)) or f"it has {', '.join(list(known)[:12])}."
            raise DataError(f"The classifier {self.model!r} of a filter has no label {unknown[0]!r}: {hint}")
        order = sorted(range(len(texts)), key=lambda place: len(texts[place]))  # alike in length: little padding
        found: list[str | None] = [None] * len(texts)
        for start in range(0, len(order), _TOGETHER):
            places = order[start : start + _TOGETHER]
            for place, shares in zip(places, _shares(model, [texts[place] for place in places]), strict=True):
                label = max(self.labels, key=lambda name: shares[known[name]])
                if shares[known[label]] > self.above:
                    found[place] = f"is {label}, {100 * shares[known[label]]:.0f} %"
        return found


@torch.no_grad()
def _shares(model: Loaded, texts: list[str]) -> Any:
    """How probable each label is, [B][labels]: among all, or each by itself where a text may have several."""
    with quiet():
        tokens = model.tokenizer(texts, truncation=True, max_length=model.longest, padding=True, return_tensors="pt")
    logits = model.model(**{name: column.to(model.device) for name, column in tokens.items()}).logits.float()
    several = model.model.config.problem_type == "multi_label_classification" or logits.shape[-1] == 1
    return (logits.sigmoid() if several else logits.softmax(-1)).cpu().tolist()

"""Models that help to write: loaded once, asked without a gradient, named by their weights."""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import torch
from torch.utils.data import get_worker_info

from limbeck.config import digest
from limbeck.data import fingerprint
from limbeck.data.text_reader import TextReader
from limbeck.data.tokenizers import library, missed, quiet, resolve, tokenizer_of, unreachable
from limbeck.data.trust import demand_safetensors, own_code
from limbeck.errors import DataError

Kind = Literal["AutoModelForMaskedLM", "AutoModelForSeq2SeqLM", "AutoModelForSequenceClassification", "AutoModel"]
_TASKS: dict[Kind, str] = {
    "AutoModelForMaskedLM": "predict masked words",
    "AutoModelForSeq2SeqLM": "translate",
    "AutoModelForSequenceClassification": "classify texts",
    "AutoModel": "compare sentences",
}


@dataclass(frozen=True, eq=False)
class Loaded:
    """A model with its tokenizer. ``fingerprint``: of weights, settings, tokens, libraries and the kind of device, as what a
    model writes may hang on each of them.
    """

    name: str
    model: Any
    tokenizer: Any
    fingerprint: str
    device: torch.device

    @property
    def longest(self) -> int:
        """The most tokens that the model takes, as far as its settings tell; 512 if they do not."""
        return int(getattr(self.model.config, "max_position_embeddings", None) or 512)


@lru_cache(maxsize=8)
def loaded(name: str, kind: Kind) -> Loaded:
    """A transformers model from a folder, an installed package or the hub, in float32 and evaluation mode.

    Raises:
        DataError: there is none, it is damaged, or it has no trained weights for this task.
    """
    place = resolve(name)
    here = Path(place).is_dir()
    options = {} if here or not unreachable() else {"local_files_only": True}
    auto = getattr(library(), kind)
    demand_safetensors(name, place)
    try:
        with quiet():
            model, info = auto.from_pretrained(
                place,
                trust_remote_code=False,
                use_safetensors=True,
                dtype=torch.float32,
                output_loading_info=True,
                **options,
            )
    except Exception as error:  # the libraries below raise many kinds
        if code := own_code(name, error):
            raise DataError(code) from error
        if not here:
            raise DataError(missed(name, error)) from error
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise DataError(f"The model {name!r}, which is to {_TASKS[kind]}, could not be read: {reason}") from error
    if kind != "AutoModel" and info["missing_keys"]:  # a new head would write at random
        new = ", ".join(sorted(info["missing_keys"])[:3])
        raise DataError(
            f"The model {name!r} was not trained to {_TASKS[kind]}: it has no weights for {new}. Name another."
        )
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    settings = {key: value for key, value in model.config.to_diff_dict().items() if not key.startswith("_")}
    named = [
        kind,
        repr(model),
        repr(sorted(settings.items(), key=lambda item: item[0])),
        fingerprint.tensors(model.state_dict()),
        TextReader(tokenizer=name).fingerprint,
        [torch.__version__, library().__version__, device.type],
    ]
    return Loaded(name, model.eval(), tokenizer_of(name), digest(named), device)


def ready(model: Loaded) -> Loaded:
    """The model on its device.

    Raises:
        DataError: this is a worker process, which cannot use the GPU of the one that started it.
    """
    if model.device.type != "cpu" and get_worker_info() is not None:
        raise DataError(
            "Texts are written by a model on the GPU, which a worker process cannot use: set training.workers to 0, or "
            "`limbeck label` the recipe first; what is written is kept."
        )
    model.model.to(model.device)
    return model

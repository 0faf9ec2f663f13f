"""Low-rank adapters: a model that stays as it is, with a small product of matrices beside its linear maps.

LoRA, Hu et al. 2021 (arXiv:2106.09685). A map W x becomes W x + (alpha / rank) B A x; A is drawn, B begins at zero, so the
student begins as the model that it stands on. Adapters come from the library peft; what is delivered is the plain model, the
products added to its weights.
"""

import re
from typing import TYPE_CHECKING, Annotated, Final, Literal

from pydantic import Field
from torch import nn

from limbeck.config import Tuple, choice
from limbeck.data.task import Task
from limbeck.data.tokenizers import quiet
from limbeck.errors import LimbeckError, nearest
from limbeck.models.adapters import library
from limbeck.models.from_config import FromConfig
from limbeck.models.huggingface import HuggingFace
from limbeck.models.shared import Shared
from limbeck.models.shrink import Shrunk
from limbeck.models.spec import BuildContext, Spec

if TYPE_CHECKING:
    Adaptable = HuggingFace | Shrunk | FromConfig | Shared
else:
    Adaptable = choice(HuggingFace, Shrunk, FromConfig, Shared)

_LAYERS: Final = re.compile(r"\.\d+\.")  # a module in a list of layers
_POOLER: Final = "pooler"


class Lora(Spec):
    """A transformers model of which only low-rank adapters are trained, and a head that is new for the task."""

    name: Literal["lora"] = "lora"
    of: Adaptable
    """The model that the adapters stand on: any transformers model, the shrunk teacher among them. ``teacher``: the teacher's own
    weights, in memory once; the teacher is the student with its adapters switched off."""
    rank: Annotated[int, Field(ge=1)] = 8
    """Of the two matrices of an adapter."""
    alpha: Annotated[float, Field(gt=0)] = 16.0
    """What an adapter's product is multiplied with, times the rank."""
    targets: Literal["auto"] | Annotated[tuple[str, ...], Tuple, Field(min_length=1)] = "auto"
    """Which linear maps have one: by how their paths end, such as ``q_proj``; ``auto``: all in the layers."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """The share of an adapter's inputs that is dropped while training."""
    keep_adapters: bool = False
    """Whether the delivered student has its adapters beside it too, in the folder ``adapters``, as peft writes them."""

    @property
    def tokenizer(self) -> str | None:
        """That of the model."""
        return self.of.tokenizer

    def finished(self, task: Task) -> Spec:
        """The same, its model finished."""
        return self.model_copy(update={"of": self.of.finished(task)})

    def create(self, context: BuildContext) -> nn.Module:
        """The model inside one of peft, which has ``disable_adapter()``: within it, the model is as it was.

        Raises:
            LimbeckError: peft is not installed, or ``targets`` fit no linear map.
        """
        peft = library()
        base = self.of.build(context)
        new = _heads(base) if context.task.new_head else []
        chosen = [path for path in _targets(base, self.targets) if not _inside(path, new)]
        config = peft.LoraConfig(
            r=self.rank,
            lora_alpha=self.alpha,
            lora_dropout=self.dropout,
            target_modules=chosen,
            modules_to_save=new or None,
        )
        with quiet():
            module: nn.Module = peft.get_peft_model(base, config)
        return module


def _linear(part: nn.Module) -> bool:
    return isinstance(part, nn.Linear) or type(part).__name__ == "Conv1D"  # GPT-2 has maps of its own


def _targets(base: nn.Module, asked: Literal["auto"] | tuple[str, ...]) -> list[str]:
    """The paths of the maps that get an adapter."""
    maps = [path for path, part in base.named_modules() if _linear(part)]
    if asked == "auto":
        found = [path for path in maps if _LAYERS.search(path)]
        if not found:
            raise LimbeckError(f"{type(base).__name__} has no linear map in a list of layers: name some in 'targets'.")
        return found
    found = []
    for name in asked:
        fitting = [path for path in maps if path == name or path.endswith(f".{name}")]
        if not fitting:
            ends = sorted({path.rpartition(".")[2] for path in maps})
            hint = nearest(name, ends) or f"it has {', '.join(ends[:8])}."
            raise LimbeckError(f"'targets: {name}' fits no linear map of {type(base).__name__}: {hint}")
        found += fitting
    return list(dict.fromkeys(found))


def _heads(base: nn.Module) -> list[str]:
    """The modules of a model with a new head that are no part of its layers: the head, and what pools for it."""
    body = str(getattr(base, "base_model_prefix", ""))
    outer = [name for name, part in base.named_children() if name != body and any(True for _ in part.parameters())]
    pooler = getattr(getattr(base, body, None), _POOLER, None)
    return outer + ([f"{body}.{_POOLER}"] if isinstance(pooler, nn.Module) else [])


def _inside(path: str, modules: list[str]) -> bool:
    return any(path == one or path.startswith(f"{one}.") for one in modules)

"""The models that a recipe can name, and how one is built."""

from typing import Any

import torch
from torch import nn

from limbeck.config import choice
from limbeck.data.batch import DECODED
from limbeck.data.tokenizers import resolve
from limbeck.errors import LimbeckError
from limbeck.models.causal import demand_causal, demand_decoder
from limbeck.models.compact import EfficientCnn, MobileCnn, ShuffleCnn
from limbeck.models.from_config import FromConfig
from limbeck.models.given import Given
from limbeck.models.grow import Grown
from limbeck.models.huggingface import HuggingFace
from limbeck.models.lora import Lora
from limbeck.models.patches import MlpMixer, Vit
from limbeck.models.python import Python
from limbeck.models.reach import demand_reach
from limbeck.models.seeded import everything_loaded, seeded
from limbeck.models.shrink import Shrunk
from limbeck.models.small import Mlp, SmallCnn, SmallResnet, SmallTransformer
from limbeck.models.spec import BuildContext, Spec
from limbeck.signals.capture import show

__all__ = [
    "SPECS",
    "BuildContext",
    "EfficientCnn",
    "FromConfig",
    "Given",
    "Grown",
    "HuggingFace",
    "Lora",
    "Mlp",
    "MlpMixer",
    "MobileCnn",
    "ModelSpec",
    "Python",
    "Shrunk",
    "ShuffleCnn",
    "SmallCnn",
    "SmallResnet",
    "SmallTransformer",
    "Spec",
    "Vit",
    "build",
    "check",
    "resolve",
]

SPECS: tuple[type[Spec], ...] = (
    Mlp,
    SmallCnn,
    SmallResnet,
    MobileCnn,
    ShuffleCnn,
    EfficientCnn,
    MlpMixer,
    Vit,
    SmallTransformer,
    HuggingFace,
    Shrunk,
    Grown,
    FromConfig,
    Lora,
    Python,
)
"""What a recipe can name; `Given` is for Python only."""

ModelSpec: Any = choice(*SPECS)
"""The type of a recipe's field that names a model."""


def build(spec: Spec, context: BuildContext, seed: int) -> nn.Module:
    """The model, in training mode, on the CPU unless it was given elsewhere. A pure function of its arguments.

    Torch, NumPy and Python draw from ``seed`` while it is built and go on afterwards as if nothing had been drawn.

    Raises:
        LimbeckError: it cannot be built, does not take the data's columns, or gives another number of logits.
    """
    with seeded(seed), everything_loaded():
        module = spec.build(context)
        check(module, context, spec.called)
    return module.train()


def check(module: nn.Module, context: BuildContext, name: str) -> None:
    """Runs the model on two rows of the sample, and on as many tokens as it may be given.

    Raises:
        LimbeckError: it fails, its logits are not of the shape that the task asks for, or they see what they are to tell.
    """
    rows = {column: value[:2] for column, value in context.sample.items()}
    count = len(next(iter(rows.values())))
    shapes = {column: list(value.shape) for column, value in rows.items()}
    device = next((parameter.device for parameter in module.parameters()), torch.device("cpu"))
    try:
        if context.task.reads == "sources":
            demand_decoder(module, rows, name)
        if context.task.causal:
            demand_causal(module, rows, name)
        logits = show(module, {column: value.to(device) for column, value in rows.items()})["logits"]
    except LimbeckError:
        raise
    except Exception as error:  # any model may fail in any way on the wrong input
        if context.reach:
            demand_reach(module, context.reach, rows, name)
        reason = " ".join(str(error).split())[:300]
        raise LimbeckError(
            f"The model {name!r} ({type(module).__name__}) fails on the data, columns {shapes}: "
            f"{type(error).__name__}: {reason}"
        ) from error
    if context.reach:
        demand_reach(module, context.reach, rows, name)
    told = rows.get(DECODED, rows.get("input_ids"))
    length = 0 if told is None else told.shape[1]
    expected, outputs = context.task.shape(count, length, context.classes), context.task.outputs or "outputs"
    fits = len(logits.shape) == len(expected) and all(
        size in (-1, own) for size, own in zip(expected, logits.shape, strict=True)
    )
    if not fits:
        raise LimbeckError(
            f"The model {name!r} ({type(module).__name__}) gives {logits.shape[-1] if logits.ndim else 0} logits an "
            f"example (shape {list(logits.shape)}), but the data has {context.classes} {outputs}: "
            f"{list(context.names)[:12]}. The task {context.task.name!r} needs {list(expected)} here."
        )

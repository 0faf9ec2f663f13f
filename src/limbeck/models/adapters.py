"""Adapters of the library peft: merged into the model that they stand on, or written by themselves."""

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from torch import Tensor, nn

from limbeck.data.tokenizers import quiet
from limbeck.errors import LimbeckError
from limbeck.extras import imported
from limbeck.losses.storages import whole
from limbeck.signals.capture import bare, show

ADAPTERS: Final = "adapters"
"""The folder beside a delivered student that holds them, where that was asked for."""
_ROUNDING: Final = 1e-4  # of the largest logit: (W + B A) x and W x + B A x add in another order, in every layer


def library() -> Any:
    """The library peft, imported when it is first needed.

    Raises:
        LimbeckError: it is not installed.
    """
    return imported("peft", "Adapters need peft", "lora")


def adapted(module: nn.Module) -> bool:
    """Whether a module has adapters that can be merged into it."""
    return hasattr(module, "merge_and_unload") and hasattr(module, "disable_adapter")


def merged(module: nn.Module, columns: Mapping[str, Tensor] | None = None) -> nn.Module:
    """A copy of the model that adapters stand on, their products added to its weights; any other module as it is.

    ``columns``: real inputs, on the module's device, on which both must answer alike.

    Raises:
        LimbeckError: they do not.
    """
    inner = bare(module)
    if not adapted(inner):
        return module
    copied: Any = copy.deepcopy(inner)
    with quiet():
        plain: nn.Module = copied.merge_and_unload()
    plain.requires_grad_(True).train(inner.training)
    if columns is not None:
        ours, theirs = (whole(show(one, columns)["logits"]).float() for one in (plain, inner))
        apart, allowed = float((ours - theirs).abs().max()), _ROUNDING * max(1.0, float(theirs.abs().max()))
        if not apart <= allowed:  # not >: a difference that is not a number is no proof either
            raise LimbeckError(
                f"With its adapters merged the student answers otherwise: its logits differ by {apart:.2g}, where {allowed:.2g} "
                "is allowed. In half precision the sum of both is too coarse: build the model in float32."
            )
    return plain


def write_adapters(module: nn.Module, folder: Path) -> None:
    """The adapters alone, as peft reads them (``PeftModel.from_pretrained``)."""
    whole_model: Any = bare(module)
    with quiet():
        whole_model.save_pretrained(folder, safe_serialization=True)
    for file in folder.glob("*.safetensors"):
        file.chmod(0o644)  # it is written for its owner alone
    (folder / "README.md").unlink(missing_ok=True)  # a form that nobody filled in

"""What ``accelerate launch`` asks for."""

import os
from typing import Final

import torch
from accelerate import Accelerator, PartialState
from accelerate.state import AcceleratorState

from limbeck.errors import LimbeckError

_ASKED: Final = "ACCELERATE_USE_FSDP"


def asked() -> bool:
    """Whether the launcher asked for FSDP, and there are several processes to share the weights."""
    return os.environ.get(_ASKED, "").lower() == "true" and int(os.environ.get("WORLD_SIZE", "1")) > 1


def accelerator(precision: str) -> Accelerator:
    """The accelerator of one training. It places and reduces; where weights are divided, `limbeck.training.sharding` does that.

    Raises:
        LimbeckError: the launcher asks for what cannot be done here.
    """
    demand_launch(precision)
    AcceleratorState._reset_state()  # another stage of this process may have used another precision
    before = os.environ.pop(_ASKED, None)
    try:
        return Accelerator(mixed_precision=precision)
    finally:
        if before is not None:
            os.environ[_ASKED] = before


def join() -> None:
    """Makes the launched processes know of each other; the first thing that a run does.

    `accelerate launch` starts them, and does not say on a machine without an accelerator that they are to meet on its CPUs.

    Raises:
        LimbeckError: as `demand_launch`.
    """
    demand_launch()
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and not torch.accelerator.is_available():
        os.environ["ACCELERATE_USE_CPU"] = "true"
        PartialState(cpu=True)


def demand_launch(precision: str = "no") -> None:
    """Refuses settings of the launcher that this training does not obey.

    Raises:
        LimbeckError: such as DeepSpeed, FSDP of version 1, or FSDP with fp16.
    """
    if os.environ.get("ACCELERATE_USE_DEEPSPEED", "").lower() == "true":
        raise LimbeckError(
            "The launcher asks for DeepSpeed, whose engine takes the optimiser step and the clipping out of the loop, so it is "
            "not supported: use FSDP, which divides the same things as ZeRO-3 (distributed_type: FSDP, fsdp_version: 2), or "
            "distributed_type: MULTI_GPU."
        )
    if not asked():
        return
    version = os.environ.get("FSDP_VERSION") or "1"
    refused = {
        f"fsdp_version: {version}": version != "2" and "write fsdp_version: 2, which keeps parameters apart",
        "fsdp_offload_params: true": says("OFFLOAD_PARAMS") and "leave it out; more processes need less memory each",
        "fsdp_activation_checkpointing: true": says("ACTIVATION_CHECKPOINTING")
        and "leave it out, and raise training.accumulate, which needs less memory and trains the same",
        "precision fp16": precision == "fp16" and "use training.precision: bf16, which needs no scaling of the loss",
    }
    for what, instead in refused.items():
        if instead:
            raise LimbeckError(f"FSDP with {what} is not supported here: {instead}.")


def says(name: str, value: str = "true") -> bool:
    """Whether the launcher's file gives a setting of FSDP this value."""
    return os.environ.get(f"FSDP_{name}", "").lower() == value

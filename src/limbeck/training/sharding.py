"""Training with weights, gradients and the optimiser's states divided among the processes: FSDP (Zhao et al. 2023,
arXiv:2304.11277) in its second form, `torch.distributed.fsdp.fully_shard`.

What is divided and when it is put together again is said where Accelerate says it, in the file of ``accelerate launch
--config_file``. The objective is whole in every process: it is small, and may train single numbers. So is everything that is
saved: a checkpoint holds whole tensors.
"""

import logging
import os
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, Final

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import distributed as dist
from torch import nn

from limbeck.errors import LimbeckError, SignalError
from limbeck.objective import Objective
from limbeck.signals.capture import bare
from limbeck.signals.gradient import GRADIENT
from limbeck.signals.perturbed import step_of
from limbeck.training.launch import says
from limbeck.training.moments import MOMENTS

_MANY: Final = 10**8
_log = logging.getLogger(__name__)


def demand(
    student: nn.Module,
    objective: Objective,
    writes: bool,
    past: bool = False,
    keeping: Sequence[object] = (),
    averaged: bool = False,
) -> None:
    """Refuses what cannot be trained with divided weights. ``writes``: whether the student writes what it learns from; ``past``:
    whether its own past teaches it; ``keeping``: what changes its gradients; ``averaged``: whether their average is delivered.

    Raises:
        LimbeckError: a parameter is a single number, the model changes as training goes on, or it writes texts.
        SignalError: a term follows the gradient through the student within the forward pass.
    """
    if hasattr(student, MOMENTS):
        raise LimbeckError(
            "With FSDP a student must stay as it is, and this one changes as training goes on (the regime 'theseus'): use "
            "distributed_type: MULTI_GPU."
        )
    if writes:
        raise LimbeckError(
            "With FSDP nothing can be made of the student before its steps (the regimes 'on-policy', 'generator' and "
            "'meta-distil'): each process would need its weights at other moments. Use distributed_type: MULTI_GPU."
        )
    if past or averaged:
        raise LimbeckError(
            f"With FSDP {'a student cannot be taught by its own past (the regime ema)' if past else 'training.average cannot be'}"
            ", which would need the student's whole weights at every step: use distributed_type: MULTI_GPU."
        )
    if keeping:
        raise LimbeckError(
            "With FSDP a student's gradients cannot be changed before its steps (the regimes 'continual' with ewc or projection "
            "and 'fine-tuned' with elastic), as no process has the whole of one: use distributed_type: MULTI_GPU."
        )
    for name, parameter in student.named_parameters():
        if parameter.ndim == 0:
            raise LimbeckError(
                f"FSDP cannot divide the student's parameter {name!r}, a single number: give it the shape [1], or use "
                "distributed_type: MULTI_GPU."
            )
    within = sorted(one for one in objective.needs().student if one == GRADIENT or step_of(one) is not None)
    if within:
        raise SignalError(
            f"A term reads {within[0]!r} of the student, which takes a backward pass within the forward pass, and with FSDP the "
            "weights are not there for it: use distributed_type: MULTI_GPU."
        )


def divided(
    accelerator: Accelerator, engine: nn.Module, optimiser: Callable[[], torch.optim.Optimizer]
) -> tuple[nn.Module, Any]:
    """Divides ``engine.student`` among the processes, and prepares the optimiser, which is made of what each one then holds.

    Layers are gathered one at a time, as the launcher's wrap policy says. What they share with others, and the head of a
    language model, which is read and not run, belong to the engine, and are there for the whole of a step.

    Raises:
        LimbeckError: the processes begin with different weights.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method

    engine.to(accelerator.device)
    _demand_alike(engine)
    student, objective = engine.student, engine.objective
    assert isinstance(student, nn.Module)
    assert isinstance(objective, nn.Module)
    mesh = init_device_mesh(accelerator.device.type, (accelerator.num_processes,))
    for unit in _units(student):
        fully_shard(unit, mesh=mesh, reshard_after_forward=not says("RESHARD_AFTER_FORWARD", "false"))
    fully_shard(engine, mesh=mesh, reshard_after_forward=False, ignored_params=set(objective.parameters()))
    register_fsdp_forward_method(engine, "during")
    return engine, accelerator.prepare(optimiser())


def _units(student: nn.Module) -> list[nn.Module]:
    """What is gathered by itself, inner modules first: never what shares a parameter with others, nor the head."""
    inner = bare(student)
    find = getattr(inner, "get_output_embeddings", None)
    head = find() if callable(find) else None
    read = set() if head is None else set(map(id, head.parameters()))
    everywhere, fits = _uses(inner), _policy(inner)

    def apart(module: nn.Module) -> bool:
        uses = _uses(module)
        return bool(uses) and not read & uses.keys() and all(everywhere[key] == count for key, count in uses.items())

    modules = [module for name, module in inner.named_modules() if name]
    called = [module for module in modules if not isinstance(module, nn.ModuleList | nn.ModuleDict)]
    return [module for module in reversed(called) if fits(module) and apart(module)]


def _uses(module: nn.Module) -> Counter[int]:
    """How often each parameter stands in a module, tied ones more than once."""
    return Counter(id(parameter) for _, parameter in module.named_parameters(remove_duplicate=False))


def _policy(student: nn.Module) -> Callable[[nn.Module], bool]:
    """Whether the launcher wants a module gathered by itself. Layers that it names and the student lacks (one command may train a
    teacher, too) are replaced by those that a transformers model names itself.
    """
    how = os.environ.get("FSDP_AUTO_WRAP_POLICY", "").upper()
    if how == "SIZE_BASED_WRAP":
        least = int(os.environ.get("FSDP_MIN_NUM_PARAMS") or 0) or _MANY
        return lambda module: sum(parameter.numel() for parameter in module.parameters()) >= least
    wanted = {name.strip() for name in os.environ.get("FSDP_TRANSFORMER_CLS_TO_WRAP", "").split(",")}
    there = {type(module).__name__ for module in student.modules()}
    names = wanted & there or set(getattr(student, "_no_split_modules", None) or ()) & there
    if how != "TRANSFORMER_BASED_WRAP":
        names = set()
    elif not names:
        _log.warning(
            "FSDP: %s has no layer to gather by itself, so its weights are gathered at once.", type(student).__name__
        )
    return lambda module: type(module).__name__ in names


def _demand_alike(engine: nn.Module) -> None:
    """Each process gives its part of the weights, so they must all have begun with the same ones."""
    sums = [float(one.detach().double().sum()) for one in engine.parameters()]
    if any(other != sums for other in gather_object([sums])):
        raise LimbeckError(
            "The processes begin with different weights, and FSDP would take a part from each: is a model read from a folder "
            "that is not the same on all machines?"
        )


def settle(engine: nn.Module) -> None:
    """After the last backward pass of a step: the objective's gradients become the mean over the processes, as the student's
    are, and statistics such as those of a batch normalisation become those of the first process, as with DDP.
    """
    objective = engine.objective
    assert isinstance(objective, nn.Module)
    for parameter in objective.parameters():
        if parameter.grad is not None:
            dist.all_reduce(parameter.grad)
            parameter.grad /= dist.get_world_size()
    for buffer in engine.buffers():  # not every backend sends truth values
        dist.broadcast(buffer.view(torch.uint8) if buffer.dtype == torch.bool else buffer, 0)


def is_divided(module: nn.Module) -> bool:
    """Whether `divided` made it."""
    from torch.distributed.fsdp import FSDPModule

    return isinstance(module, FSDPModule)

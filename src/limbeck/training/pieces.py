"""Tensors that may be divided among processes, made whole and divided again; without FSDP all of this changes nothing."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn


def local(value: Tensor) -> Tensor:
    """What this process holds of a tensor that may be divided."""
    return value.to_local() if hasattr(value, "to_local") else value


def whole(value: Tensor) -> Tensor:
    """All of a tensor that may be divided; every process must ask for it."""
    return value.full_tensor() if hasattr(value, "full_tensor") else value


def gathered(tree: Any) -> Any:
    """A nest of dicts, lists and tuples with every divided tensor whole and on the CPU; every process must ask for it."""
    if isinstance(tree, Tensor):
        return tree.full_tensor().cpu() if hasattr(tree, "full_tensor") else tree
    if isinstance(tree, dict):
        return {key: gathered(value) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        return type(tree)(gathered(value) for value in tree)
    return tree


def parted(value: Tensor, like: Tensor) -> Tensor:
    """A whole tensor, divided as ``like`` is."""
    if not hasattr(like, "device_mesh") or value.shape != like.shape:
        return value
    from torch.distributed.tensor import distribute_tensor

    placements: Any = getattr(like, "placements", None)
    # every process read the same checkpoint, so nothing is sent
    return distribute_tensor(value.to(like.device), like.device_mesh, placements, src_data_rank=None)


def parted_weights(state: Mapping[str, Tensor], engine: nn.Module) -> dict[str, Tensor]:
    """A whole state dict, divided as the engine's own is."""
    own = engine.state_dict()
    return {name: parted(value, own[name]) if name in own else value for name, value in state.items()}


def parted_optimiser(state: Mapping[str, Any], groups: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """A whole state of an optimiser, divided as the parameters in ``groups`` are."""
    parameters = [parameter for group in groups for parameter in group["params"]]
    each = {
        place: {
            name: parted(value, parameters[place]) if isinstance(value, Tensor) else value
            for name, value in one.items()
        }
        for place, one in state["state"].items()
    }
    return {**state, "state": each}

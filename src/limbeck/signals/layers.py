"""Which modules of a model are the attention of its layers."""

import inspect
from collections.abc import Iterator

from torch import nn

from limbeck.errors import SignalError


def attention_layers(model: nn.Module) -> list[nn.Module | None]:
    """The self-attention of each layer of the model's one stack, in order; None for a layer without."""
    modules = dict(model.named_modules())
    stacks: dict[str, dict[int, nn.Module]] = {}
    for path, module in modules.items():
        if not _attends(module):
            continue
        around = list(_lists(path, modules))
        if around:
            # the first of a layer is its self-attention; cross-attention comes after it
            stacks.setdefault(around[0][0], {}).setdefault(around[0][1], module)
    if len(stacks) > 1 and all(len(found) == 1 and any(_lists(path, modules)) for path, found in stacks.items()):
        stacks = _outer(stacks, modules)
    kind = type(model).__name__
    if not stacks:
        raise SignalError(
            f"{kind} does not attend by transformers' attention interface: name a module instead of attention.N."
        )
    if len(stacks) > 1:
        raise SignalError(
            f"{kind} has several stacks of layers that attend ({', '.join(list(stacks)[:3])}), so attention.N could be "
            "any of them: name a module instead."
        )
    ((path, found),) = stacks.items()
    length, layers = len(list(modules[path].children())), _depth(path, modules)
    if layers is not None and layers > length:
        raise SignalError(f"{kind} runs its {length} layers more than once (for {layers}): name a module instead.")
    return [found.get(place) for place in range(layers or length)]


def _outer(stacks: dict[str, dict[int, nn.Module]], modules: dict[str, nn.Module]) -> dict[str, dict[int, nn.Module]]:
    """Layers that are lists themselves, with one attention each (T5): the list of those lists is the stack."""
    grown: dict[str, dict[int, nn.Module]] = {}
    for path, found in stacks.items():
        above, place = next(_lists(path, modules))
        grown.setdefault(above, {})[place] = next(iter(found.values()))
    return grown


def _attends(module: nn.Module) -> bool:
    """Whether the class's ``forward`` asks the attention interface."""
    code = getattr(inspect.unwrap(type(module).forward), "__code__", None)
    return code is not None and "ALL_ATTENTION_FUNCTIONS" in code.co_names


def _lists(path: str, modules: dict[str, nn.Module]) -> Iterator[tuple[str, int]]:
    """The module lists that a path lies in, innermost first, and its place in each."""
    parts = path.split(".")
    for end in range(len(parts) - 1, 0, -1):
        above = ".".join(parts[:end])
        if isinstance(modules[above], nn.ModuleList):
            yield above, int(parts[end])


def _depth(path: str, modules: dict[str, nn.Module]) -> int | None:
    """The number of layers by the config of the nearest module above the list."""
    parts = path.split(".")
    for end in range(len(parts) - 1, -1, -1):
        config = getattr(modules[".".join(parts[:end])], "config", None)
        layers = getattr(config, "num_hidden_layers", None)
        if isinstance(layers, int):
            return layers
    return None

"""The layers of a model that can be matched with another's, found by running it once."""

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from limbeck.signals.call import call, logits_of, shows_hidden
from limbeck.signals.capture import bare

Shapes = dict[str, torch.Size]
"""Outputs by their module's path, in the order in which the modules ended."""


@torch.no_grad()
def layers_of(module: nn.Module, columns: Mapping[str, Tensor]) -> list[str]:
    """The names of a model's layers, from shallow to deep, as `Capture` takes them; none where none are found.

    ``hidden.1`` to ``hidden.N`` where the model shows hidden states. Else what its modules give for two rows of
    ``columns``: the blocks, which are numbered in an `nn.ModuleList` or `nn.Sequential` and give tokens or maps (the
    stages, where several such containers follow each other); for convolutions one by one, the last module before each
    change of resolution; for modules of other names, the outermost that give tokens; for vectors, each hidden
    layer behind its activation. The logits, and modules that run never, more than once, or are altered in place
    afterwards, are no layers.
    """
    outer = bare(module)
    base = getattr(outer, "get_base_model", None)  # PEFT: names are those of the model inside
    inner: nn.Module = base() if callable(base) else outer
    device = next((one.device for one in inner.parameters()), None)
    rows = {name: value[:2].to(device) for name, value in columns.items()}
    modules, training = dict(inner.named_modules()), [part for part in outer.modules() if part.training]
    watch = _Watch(modules)
    outer.eval()
    try:
        output = call(outer, rows, inner, **({"output_hidden_states": True} if shows_hidden(inner) else {}))
    finally:
        watch.close()
        for part in training:
            part.training = True
    states = getattr(output, "hidden_states", None) if shows_hidden(inner) else None
    if isinstance(states, list | tuple) and len(states) > 1:
        return [f"hidden.{number}" for number in range(1, len(states))]
    return _layers(modules, watch.shapes(logits_of(output), len(next(iter(rows.values())))))


class _Watch:
    """Keeps what every module gives, while it is open."""

    def __init__(self, modules: dict[str, nn.Module]) -> None:
        self._modules = modules
        self._calls = Counter[str]()
        self._given: dict[str, tuple[Tensor, int]] = {}
        self._hooks = [one.register_forward_hook(self._keeper(path)) for path, one in modules.items() if path]

    def _keeper(self, path: str) -> Callable[[nn.Module, Any, Any], None]:
        def keep(_: nn.Module, __: Any, output: Any) -> None:
            self._calls[path] += 1
            given = output.values() if isinstance(output, Mapping) else output
            first = next((one for one in given if isinstance(one, Tensor)), None) if _many(given) else given
            if isinstance(first, Tensor) and not first.is_nested:
                self._given[path] = first, _version(first)

        return keep

    def close(self) -> None:
        for hook in self._hooks:
            hook.remove()

    def shapes(self, logits: Tensor, rows: int) -> Shapes:
        """The shapes of what may be a layer: floating, [rows, ...], given once and not altered, before the logits."""
        paths = list(self._given)
        last = next((path for path in reversed(paths) if _plain(self._modules[path])), None)
        if last is not None and self._given[last][0].shape == logits.shape:
            paths = paths[: paths.index(last)]  # what follows the head only rescales or reshapes the logits
        found = {}
        for path in paths:
            given, version = self._given[path]
            same = given.data_ptr() == logits.data_ptr() and given.numel() == logits.numel()
            batched = given.ndim in (2, 3, 4) and len(given) == rows and given.is_floating_point()
            if batched and not same and self._calls[path] == 1 and _version(given) == version:
                found[path] = given.shape
        return found


def _many(value: Any) -> bool:
    return isinstance(value, list | tuple) or (not isinstance(value, Tensor) and hasattr(value, "__iter__"))


def _version(value: Tensor) -> int:
    return 0 if value.is_inference() else value._version


def _parts(module: nn.Module) -> bool:
    """Whether a module consists of others; what computes its own weights is none of them."""
    return any(name != "parametrizations" for name, _ in module.named_children())


def _weighted(module: nn.Module) -> bool:
    """Whether it multiplies with a matrix: a norm has vectors only, and an embedding looks up."""
    return not isinstance(module, nn.Embedding | nn.EmbeddingBag) and any(one.ndim > 1 for one in module.parameters())


def _plain(module: nn.Module) -> bool:
    return _weighted(module) and not _parts(module)


def _layers(modules: dict[str, nn.Module], shapes: Shapes) -> list[str]:
    """The first way of looking at the model that shows two layers or more; else the first that shows one."""
    maps, tokens, vectors = ({path: one for path, one in shapes.items() if len(one) == axes} for axes in (4, 3, 2))
    ways = (
        lambda: _blocks(modules, {path: one for path, one in shapes.items() if len(one) > 2}),
        lambda: _opened(modules, maps, lambda level: _stages(modules, level)),
        lambda: _opened(modules, tokens, lambda level: [path for path in level if _weighted(modules[path])]),
        lambda: _blocks(modules, vectors),
        lambda: _units(modules, vectors),
    )
    found = [way() for way in ways]
    return next((one for one in found if len(one) > 1), next((one for one in found if one), []))


def _above(path: str) -> str:
    return path.rpartition(".")[0]


def _within(path: str, above: str) -> bool:
    return path != above and (not above or path.startswith(above + "."))


def _outermost(paths: Mapping[str, Any]) -> list[str]:
    return [path for path in paths if not any(_within(path, other) for other in paths)]


def _blocks(modules: dict[str, nn.Module], shapes: Shapes) -> list[str]:
    """The numbered blocks of the outermost containers, or these themselves where they are stages."""
    holders: dict[str, list[str]] = {}
    for path in shapes:
        container, block = modules[_above(path)], modules[path]
        listed = isinstance(container, nn.ModuleList) or (isinstance(container, nn.Sequential) and _parts(block))
        if listed and path.rpartition(".")[2].isdigit() and _weighted(block):
            holders.setdefault(_above(path), []).append(path)
    # a list of containers is an outline: they hold the blocks, and what stands beside them is stem or head
    outlines = {_above(path) for path in holders if path}
    holders = {path: blocks for path, blocks in holders.items() if path not in outlines}
    outer = _outermost(holders)
    while len(holders) > 1 and sum(len(holders[path]) for path in outer) == 1:  # one block that holds the others
        del holders[outer[0]]
        outer = _outermost(holders)
    beside = len({_above(path) for path in outer}) == 1 and isinstance(modules[_above(outer[0])], _LISTS)
    if len(outer) > 1 and (beside or (len(outer) > 2 and all(len(shapes[holders[path][-1]]) == 4 for path in outer))):
        chosen = {path if path in shapes else holders[path][-1] for path in outer}
    else:
        chosen = {block for path in outer for block in holders[path]}
    return [path for path in shapes if path in chosen]


_LISTS = nn.ModuleList | nn.Sequential


def _opened(modules: dict[str, nn.Module], shapes: Shapes, chosen: Callable[[Shapes], list[str]]) -> list[str]:
    """What is chosen of the outermost modules; where that is fewer than two, of those inside them, and so on."""
    left, first = dict(shapes), list[str]()
    while left:
        level = _outermost(left)
        found = chosen({path: shapes[path] for path in left if path in level})
        if len(found) > 1:
            return found
        first = first or found
        inside = {path: one for path, one in left.items() if path not in level or not _parts(modules[path])}
        if len(inside) == len(left):
            break
        left = inside
    return first


def _stages(modules: dict[str, nn.Module], level: Shapes) -> list[str]:
    """The last module of each run of one resolution that has weights in it."""
    runs: list[list[str]] = []
    for path, shape in level.items():
        if not runs or level[runs[-1][-1]][2:] != shape[2:]:
            runs.append([])
        runs[-1].append(path)
    return [_end(modules, run) for run in runs if any(_weighted(modules[path]) for path in run)]


def _units(modules: dict[str, nn.Module], vectors: Shapes) -> list[str]:
    """Each hidden layer of a plain network of vectors: what follows its weights, up to the next ones."""
    runs: list[list[str]] = []
    for path in vectors:
        if _plain(modules[path]):
            runs.append([])
        if runs and not _parts(modules[path]):
            runs[-1].append(path)
    return [_end(modules, run) for run in runs]


def _end(modules: dict[str, nn.Module], run: list[str]) -> str:
    """The last module of a run; what drops out at random in training is none."""
    return next(path for path in reversed(run) if not isinstance(modules[path], nn.modules.dropout._DropoutNd))

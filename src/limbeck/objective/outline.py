"""The layers of a model that can be matched with another's, found by running it once."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from limbeck.signals.call import call, logits_of, shows_hidden
from limbeck.signals.capture import bare

_LISTS = nn.ModuleList | nn.Sequential


@torch.no_grad()
def layers_of(module: nn.Module, columns: Mapping[str, Tensor]) -> list[str]:
    """The names of a model's layers, from shallow to deep, as `Capture` takes them; none where none are found.

    ``hidden.1`` to ``hidden.N`` where the model shows hidden states. Else what its modules give for two rows of
    ``columns``: the blocks, which are numbered in an `nn.ModuleList` or `nn.Sequential` and give tokens or maps (the
    stages, where several such containers follow each other); for convolutions one by one, the last module before each
    change of resolution; for blocks with names of their own, the outermost that give tokens; for vectors, each hidden
    layer behind its activation. The logits, and modules that run never, more than once, or are altered in place
    afterwards, are no layers.
    """
    outer = bare(module)
    base = getattr(outer, "get_base_model", None)  # PEFT: names are those of the model inside
    inner: nn.Module = base() if callable(base) else outer
    device = next((one.device for one in inner.parameters()), None)
    rows = {name: value[:2].to(device) for name, value in columns.items()}
    outline, training = Outline(inner), [part for part in outer.modules() if part.training]
    asked = shows_hidden(inner)
    outer.eval()
    try:
        output = call(outer, rows, inner, **({"output_hidden_states": True} if asked else {}))
    finally:
        outline.close()
        for part in training:
            part.training = True
    states = getattr(output, "hidden_states", None) if asked else None
    if isinstance(states, list | tuple) and len(states) > 1:
        return [f"hidden.{number}" for number in range(1, len(states))]
    outline.settle(logits_of(output), len(next(iter(rows.values()))))
    return outline.layers()


class Outline:
    """What the modules of a model gave in one forward pass, in the order in which they ended."""

    def __init__(self, module: nn.Module) -> None:
        every = dict(module.named_modules())
        adapters = {path for path, one in every.items() if _adapted(one) is not one}
        self.modules = {
            path: _adapted(one) for path, one in every.items() if not any(above in adapters for above in _around(path))
        }
        """By path; an adapter stands as the one module that it adapts."""
        self.shapes: dict[str, torch.Size] = {}
        """Outputs [B, ...] of what may be a layer or a part of one."""
        self.altered: set[str] = set()
        """Those of them that a later module wrote over."""
        self._calls = Counter[str]()
        self._given: dict[str, tuple[Tensor, int]] = {}
        self._hooks = [every[path].register_forward_hook(self._keeper(path)) for path in self.modules if path]

    def _keeper(self, path: str) -> Callable[[nn.Module, Any, Any], None]:
        def keep(_: nn.Module, __: Any, output: Any) -> None:
            self._calls[path] += 1
            many = output.values() if isinstance(output, Mapping) else output
            items = many if isinstance(output, Mapping | list | tuple) else (output,)
            first = next((one for one in items if isinstance(one, Tensor)), None)
            if first is not None and not first.is_nested:
                self._given[path] = first, _version(first)

        return keep

    def close(self) -> None:
        """Takes the hooks away."""
        for hook in self._hooks:
            hook.remove()

    def settle(self, logits: Tensor, rows: int) -> None:
        """Keeps the shapes of what ran once and before the logits, for ``rows`` rows, and lets the tensors go."""
        paths = list(self._given)
        head = next((path for path in reversed(paths) if self._plain(path)), None)
        if head is not None and self._given[head][0].shape == logits.shape:
            paths = paths[: paths.index(head)]  # what follows only rescales or reshapes the logits
        for path in paths:
            given, version = self._given[path]
            same = given.data_ptr() == logits.data_ptr() and given.numel() == logits.numel()
            batched = given.ndim in (2, 3, 4) and len(given) == rows and given.is_floating_point()
            if batched and not same and self._calls[path] == 1:
                self.shapes[path] = given.shape
                if _version(given) != version:
                    self.altered.add(path)
        self._given = {}

    def layers(self) -> list[str]:
        """Blocks of maps or tokens; else what there is more of, stages of maps or modules of tokens; else vectors."""
        if blocks := self._blocks(3, 4):
            return blocks
        maps, tokens = self._opened(4, self._stages), self._opened(3, self._repeated)
        return max(maps, tokens, key=len) or self._blocks(2) or self._units()

    def _blocks(self, *axes: int) -> list[str]:
        """The numbered blocks of the outermost containers, or these themselves where they are stages."""
        seen = [path for path, shape in self.shapes.items() if len(shape) in axes and self._whole(path)]
        holders: dict[str, list[str]] = {}
        for path in seen:
            container = self.modules[_above(path)]
            # leaves of a Sequential are operations, not blocks
            listed = isinstance(container, nn.ModuleList) or (
                isinstance(container, nn.Sequential) and self._parts(path)
            )
            if listed and path.rpartition(".")[2].isdigit():
                holders.setdefault(_above(path), []).append(path)
        # a list of containers is an outline: they hold the blocks, and what stands beside them is stem or head
        outlines = {_above(path) for path in holders if path}
        holders = {path: blocks for path, blocks in holders.items() if path not in outlines}
        outer = _outermost(holders)
        while len(holders) > 1 and sum(len(holders[path]) for path in outer) == 1:  # one block that holds the others
            del holders[outer[0]]
            outer = _outermost(holders)
        above = {_above(path) for path in outer}
        beside = len(outer) > 1 and len(above) == 1 and isinstance(self.modules[above.pop()], _LISTS)
        if not beside:  # a stem of maps in front of blocks of tokens is none of them
            kinds = Counter(len(self.shapes[block]) for path in outer for block in holders[path])
            most = max(kinds, key=lambda kind: (kinds[kind], kind == 3), default=0)
            outer = [path for path in outer if len(self.shapes[holders[path][0]]) == most]
        if beside or (len(outer) > 2 and most == 4):
            chosen = {path if path in seen else holders[path][-1] for path in outer}
        else:
            chosen = {block for path in outer for block in holders[path]}
        return [path for path in seen if path in chosen]

    def _opened(self, axes: int, chosen: Callable[[list[str], bool], list[str]]) -> list[str]:
        """What is chosen of the outermost modules; where that is fewer than two, of those inside them, and so on."""
        left, first = [path for path, shape in self.shapes.items() if len(shape) == axes], list[str]()
        while left:
            level = _outermost(left)
            found = chosen(level, bool(first))
            if len(found) > 1:
                return found
            first = first or found
            opened = [path for path in left if path not in level or not self._parts(path)]
            if opened == left:
                break
            left = opened
        return first

    def _stages(self, level: list[str], inside: bool) -> list[str]:
        """The end of each run of one resolution that has weights in it; 1 x 1 is a gate or a head."""
        level = [path for path in level if self.shapes[path][2:] != (1, 1)] or level
        runs: list[list[str]] = []
        for path in level:
            if not runs or self.shapes[runs[-1][-1]][2:] != self.shapes[path][2:]:
                runs.append([])
            runs[-1].append(path)
        return self._ends(run for run in runs if any(self._weighted(path) for path in run))

    def _repeated(self, level: list[str], inside: bool) -> list[str]:
        """Those with weights; inside another, the parts of a block are none, and blocks are of one class."""
        found = [path for path in level if self._whole(path)]
        if not inside:
            return found
        classes = Counter(type(self.modules[path]) for path in found if self._parts(path))
        return [path for path in found if classes[type(self.modules[path])] > 1]

    def _units(self) -> list[str]:
        """Each hidden layer of a plain network of vectors: from its weights up to the next ones."""
        runs: list[list[str]] = []
        for path, shape in self.shapes.items():
            if len(shape) != 2 or self._parts(path):
                continue
            if self._plain(path):
                runs.append([])
            if runs:
                runs[-1].append(path)
        return self._ends(runs)

    def _ends(self, runs: Iterable[list[str]]) -> list[str]:
        """The last module of each that can be captured and draws nothing at random in training."""
        dropout = nn.modules.dropout._DropoutNd
        usable = (
            [path for path in run if path not in self.altered and not isinstance(self.modules[path], dropout)]
            for run in runs
        )
        return [run[-1] for run in usable if run]

    def _whole(self, path: str) -> bool:
        return path not in self.altered and self._weighted(path)

    def _weighted(self, path: str) -> bool:
        """Whether it multiplies with a matrix: a norm has vectors only, and an embedding looks up."""
        module = self.modules[path]
        looks_up = isinstance(module, nn.Embedding | nn.EmbeddingBag)
        return not looks_up and any(one.ndim > 1 for one in module.parameters())

    def _parts(self, path: str) -> bool:
        """Whether it consists of others; what computes its own weights is none of them."""
        return any(name != "parametrizations" for name, _ in self.modules[path].named_children())

    def _plain(self, path: str) -> bool:
        return self._weighted(path) and not self._parts(path)


def _adapted(module: nn.Module) -> nn.Module:
    """The module in an adapter or a trained copy of PEFT, which are known by their parts; any other module itself."""
    while hasattr(type(module), "active_adapters"):
        inside = (module._modules.get(name) for name in ("base_layer", "original_module", "token_adapter"))
        inner = next((one for one in inside if one is not None), module)
        if inner is module:
            break
        module = inner
    return module


def _version(value: Tensor) -> int:
    return 0 if value.is_inference() else value._version


def _above(path: str) -> str:
    return path.rpartition(".")[0]


def _outermost(paths: Iterable[str]) -> list[str]:
    """Those that lie in none of the others; the model itself is the empty path."""
    known = set(paths)
    return [path for path in paths if not any(above in known for above in _around(path))]


def _around(path: str) -> list[str]:
    parts = path.split(".") if path else []
    return [".".join(parts[:end]) for end in range(len(parts))]

"""Fewer layers: those of a larger model, copied (as in DistilBERT, Sanh et al. 2019, arXiv:1910.01108)."""

import copy
from contextlib import suppress
from typing import Any, Literal

from torch import Tensor, nn

from limbeck.errors import LimbeckError, nearest
from limbeck.models.remade import config_of, demand_readable, remade, shapes
from limbeck.signals.capture import bare

Spread = Literal["uniform", "last", "first"]
Choose = Literal["uniform", "last", "first", "important"]


def which(count: int, of: int, choose: Spread) -> tuple[int, ...]:
    """The indices of ``count`` layers out of ``of``.

    ``uniform`` includes the first and the last: i (of - 1) / (count - 1), halves rounded up. 6 of 12 are 0, 2, 4, 7, 9, 11,
    as in DistilBERT; 3 of 12 are 0, 6, 11 and 1 of 12 is 0, as in DistilBART (Shleifer and Rush 2020, arXiv:2010.13002),
    whose tables for other counts were made by hand.

    Raises:
        LimbeckError: there are not so many.
    """
    _demand_so_many(count, of)
    if choose == "last":
        return tuple(range(of - count, of))
    if choose == "first" or count == 1:
        return tuple(range(count))
    return tuple((2 * index * (of - 1) + count - 1) // (2 * (count - 1)) for index in range(count))


def important(count: int, worth: Tensor) -> tuple[int, ...]:
    """The indices of the ``count`` layers that are worth most, in their order; of equal ones the first. ``worth``: [layers].

    Raises:
        LimbeckError: there are not so many.
    """
    _demand_so_many(count, len(worth))
    return tuple(sorted(worth.argsort(descending=True, stable=True)[:count].tolist()))


def depth(donor: nn.Module, at: str | None = None) -> int:
    """How many layers there are to choose from.

    Raises:
        LimbeckError: no such place, or it is not clear which list is meant.
    """
    return len(stack_of(donor, at))


def stack_of(donor: nn.Module, at: str | None = None) -> Any:
    """The list of layers to choose from; see `depth`."""
    donor = bare(donor)
    return _stack(donor, at if at is not None else longest(donor))


def stack_path(donor: nn.Module, side: str) -> str:
    """The path of the layers of a model's ``encoder`` or ``decoder``.

    Raises:
        LimbeckError: it has none.
    """
    whole: Any = bare(donor)
    both = bool(getattr(getattr(whole, "config", None), "is_encoder_decoder", False))
    part = getattr(whole, f"get_{side}", lambda: None)() if both else None
    path = next((path for path, one in whole.named_modules() if one is part), None) if part is not None else None
    if part is None or not path:
        raise LimbeckError(
            f"{type(whole).__name__} has no {side} of its own: write a number of 'layers', or their numbers."
        )
    return f"{path}.{longest(part)}"


def take_layers(donor: nn.Module, layers: tuple[int, ...], at: str | None = None) -> nn.Module:
    """A new module with the ``layers`` of ``donor``; what it copies is bit-equal. ``donor`` is not altered.

    Args:
        donor: any module with an `nn.ModuleList` or `nn.Sequential` of layers.
        layers: indices into it, each once, in the new order.
        at: its path; the longest list of layers of one class if None.

    Raises:
        LimbeckError: no such place, an index out of range or named twice, or a model whose layers cannot be taken out.
    """
    donor = bare(donor)
    path = at if at is not None else longest(donor)
    stack = _stack(donor, path)
    wrong = sorted(index for index in set(layers) if not 0 <= index < len(stack))
    if wrong or not layers or len(set(layers)) != len(layers):
        what = f"There are no layers {wrong}" if wrong else f"Each layer once, and at least one, not {list(layers)}"
        raise LimbeckError(f"{what}: {type(donor).__name__} has the layers 0 to {len(stack) - 1} at {path!r}.")
    if hasattr(getattr(donor, "config", None), "num_hidden_layers"):
        return arranged(donor, path, layers)
    module = copy.deepcopy(donor)
    chosen = [_stack(module, path)[index] for index in layers]
    parent, _, name = path.rpartition(".")
    kind = nn.ModuleList if isinstance(stack, nn.ModuleList) else nn.Sequential
    setattr(module.get_submodule(parent), name, kind(chosen) if kind is nn.ModuleList else kind(*chosen))
    # Remembered so that a delivered student can be built again from the settings of its donor.
    module.taken_layers = [*getattr(donor, "taken_layers", []), [path, list(layers)]]  # type: ignore[assignment]
    return module.requires_grad_(True)


def longest(module: nn.Module) -> str:
    """The path of the longest list of at least two layers of one class.

    Raises:
        LimbeckError: there is none, or two are equally long.
    """
    sizes: dict[str, int] = {
        path: len(part)
        for path, part in module.named_modules()
        if path and isinstance(part, nn.ModuleList | nn.Sequential) and len({type(layer) for layer in part}) == 1
    }
    lists = {path: size for path, size in sizes.items() if isinstance(module.get_submodule(path), nn.ModuleList)}
    found = lists or sizes
    top = max(found.values(), default=0)
    paths = [path for path, size in found.items() if size == top]
    if top < 2 or len(paths) > 1:
        why = f"{paths} are equally long" if top >= 2 else "there is no list of equal layers"
        raise LimbeckError(f"Which layers of {type(module).__name__} to copy is not clear: {why}; name one with 'at'.")
    return paths[0]


def _stack(module: nn.Module, path: str) -> Any:
    known = {name: part for name, part in module.named_modules() if isinstance(part, nn.ModuleList | nn.Sequential)}
    if not path or path not in known:
        hint = nearest(path, list(known)) or f"its lists are {sorted(known)[:6]}."
        raise LimbeckError(f"{type(module).__name__} has no list of layers at {path!r}: {hint}")
    return known[path]


def arranged(donor: nn.Module, path: str, layers: tuple[int, ...]) -> nn.Module:
    """A transformers model with the ``layers`` of ``donor`` at ``path``, in this order; one may come again.

    Raises:
        LimbeckError: its config does not say how many layers there are.
    """
    # Built anew, not cut: a layer of such a model may know its own index.
    config, count = copy.deepcopy(config_of(donor, "'layers'")), len(_stack(donor, path))
    setattr(config, _count_of(donor, path, count), len(layers))
    for name, value in vars(config).items():
        if "layer" in name and isinstance(value, list) and len(value) == count:  # what each of them is
            setattr(config, name, [value[index] for index in layers])
    demand_readable(donor, config)
    own = donor.state_dict()
    named = {name: value for name, value in own.items() if not name.startswith(path + ".")}
    for new, old in enumerate(layers):
        before = f"{path}.{old}."
        named |= {f"{path}.{new}.{name[len(before) :]}": own[name] for name in own if name.startswith(before)}
    return remade(donor, config, named)


def _count_of(donor: nn.Module, path: str, count: int) -> str:
    """What the config calls the number of layers at ``path``: with one less, just the last of them is gone."""
    last, own, whole = f"{path}.{count - 1}.", donor.state_dict().keys(), config_of(donor, "'layers'")
    settings: set[str] = {name for name, value in whole.to_dict().items() if "layer" in name and value == count}
    for name in ("num_hidden_layers", *sorted(settings)):
        fewer = copy.deepcopy(whole)
        setattr(fewer, name, count - 1)
        with suppress(LimbeckError):
            if shapes(donor, fewer).keys() == {one for one in own if not one.startswith(last)}:
                return name
    raise LimbeckError(
        f"The config of {type(donor).__name__} has no setting for the number of its layers at {path!r}, so none can be taken out."
    )


def _demand_so_many(count: int, of: int) -> None:
    if count > of:
        raise LimbeckError(f"'layers: {count}' is more than the teacher has: it has {of}.")

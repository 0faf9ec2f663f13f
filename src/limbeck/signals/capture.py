"""Capture: names are resolved once, on the bare model, to module objects, and hooks are placed there."""

import sys
from collections.abc import Collection, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Self, TypeAlias, cast

import torch
from torch import Tensor, nn

from limbeck.errors import SignalError, nearest
from limbeck.signals.attention import AttentionRecorder, is_attention
from limbeck.signals.call import call, logits_of, shows_hidden
from limbeck.signals.gradient import GRADIENT, InputGradient
from limbeck.signals.head import HeadReader
from limbeck.signals.perturbed import Perturbation, step_of

Signals: TypeAlias = Mapping[str, Tensor]
"""What a model shows for one batch: tensors by name, first dimension B. ``logits``; ``hidden.N`` (0 = embeddings) of
models with ``output_hidden_states``; ``attention.N.probs`` and the like (see `AttentionRecorder`); ``gradient`` of the
logits with respect to the input (see `InputGradient`); ``perturbed.E``, the logits a step of length E away from the input
(see `Perturbation`); any module path (its output), or ``path:in`` (its first input)."""


def bare(module: nn.Module) -> nn.Module:
    """The module inside DataParallel, DistributedDataParallel and torch.compile wrappers."""
    while (inner := _inside(module)) is not None:
        module = inner
    return module


def _inside(module: nn.Module) -> nn.Module | None:
    """What a wrapper wraps; nothing is in the bare module."""
    name = "module" if isinstance(module, nn.DataParallel | nn.parallel.DistributedDataParallel) else "_orig_mod"
    inner = getattr(module, name, None)
    return inner if isinstance(inner, nn.Module) else None


def _divided(module: nn.Module) -> bool:
    """Whether copies of the model run at once, each on a part of the batch."""
    inner: nn.Module | None = module
    while inner is not None:
        if isinstance(inner, nn.DataParallel) and len(inner.device_ids) > 1:
            return True
        inner = _inside(inner)
    return False


def named(module: nn.Module) -> nn.Module:
    """The module whose names are meant: a PEFT model hangs its adapters on the modules of the model inside it."""
    inner = getattr(module, "get_base_model", None)
    return inner() if callable(inner) else module


def _first_tensor(value: Any) -> Tensor | None:
    if isinstance(value, Tensor):
        return value
    items = value.values() if isinstance(value, Mapping) else value if isinstance(value, list | tuple) else ()
    return next((item for item in items if isinstance(item, Tensor)), None)


class Capture:
    """Shows named signals of one model. Hooks live until `close`, or the end of a ``with`` block.

    Args:
        module: the model, wrapped or not; hooks go onto the bare one, so place a capture before the first compiled call.
        names: which signals `__call__` returns.

    Raises:
        SignalError: the model has no signal of a name.
    """

    def __init__(self, module: nn.Module, names: Collection[str]) -> None:
        self.module = module
        self.names = frozenset(names)
        self._bare = named(bare(module))
        self._seen: dict[str, tuple[Tensor, int]] = {}
        shows, modules = shows_hidden(self._bare), dict(self._bare.named_modules())
        self._hidden = {  # a model that shows none may have a module of that name: a list of layers called `hidden`
            name: int(name[7:]) for name in self.names if _is_hidden(name) and (shows or name not in modules)
        }
        if self._hidden and not shows:
            raise SignalError(
                f"{sorted(self._hidden)[0]!r}: {type(self._bare).__name__} does not take output_hidden_states; "
                "name a module instead, such as " + _examples(self._bare)
            )
        attention = frozenset(name for name in self.names if is_attention(name) and name not in modules)
        self._attention = AttentionRecorder(self._bare, attention) if attention else None
        own = {"logits"} | ({GRADIENT} if GRADIENT not in modules else set())
        self._gradient = GRADIENT in self.names and GRADIENT not in modules
        steps = {name: step_of(name) for name in sorted(self.names - modules.keys())}
        self._steps = {name: step for name, step in steps.items() if step is not None}
        moved = self._gradient or bool(self._steps)  # these follow the logits themselves
        self._head = HeadReader.of(self._bare) if "logits" in self.names and not moved else None
        self._hooks: list[Any] = []
        try:
            for name in sorted(self.names - self._hidden.keys() - self._steps.keys() - own - attention):
                self._hooks.append(self._place(name))
        except SignalError:
            self.close()
            raise

    def _place(self, name: str) -> Any:
        path, _, side = name.partition(":")
        known = dict(self._bare.named_modules())
        if not path or path not in known or side not in ("", "in"):
            hint = nearest(path, [one for one in known if one]) or "its modules are " + _examples(self._bare)
            raise SignalError(f"{type(self._bare).__name__} has no module {path!r}: {hint}")

        def keep(_: nn.Module, inputs: Any, output: Any = None) -> None:
            found = _first_tensor(inputs if side else output)
            if found is not None:
                self._seen[name] = (found, _version(found))

        target = known[path]
        return target.register_forward_pre_hook(keep) if side else target.register_forward_hook(keep)

    def __call__(
        self, columns: Mapping[str, Tensor], module: nn.Module | None = None, keys: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Runs the model once and returns the named signals, with whatever graph is being recorded.

        ``keys``: int64 [B], what tells one input from another; only ``gradient`` reads them. For each ``perturbed.E`` the model
        runs once more, after everything else is read.

        Raises:
            SignalError: a module never ran, or what it gave was altered in place afterwards; or `torch.nn.DataParallel`
                divides the batch, and a signal is not in what the model returns.
        """
        self._seen.clear()
        module = self.module if module is None else module  # a compiled one may have no truth value
        options: dict[str, Any] = {"output_hidden_states": True} if self._hidden else {}
        if self._head:
            options |= self._head.options
        graph = torch.is_grad_enabled()
        gradient = InputGradient(self._bare, columns) if self._gradient else None
        followed = gradient.columns if gradient else columns
        moving = Perturbation(self._bare, followed) if self._steps else None
        hooked = self._hooks or self._attention or self._head or any(one.hooked for one in (gradient, moving) if one)
        if hooked and _divided(module):
            raise SignalError(
                "nn.DataParallel runs a copy of the model on each device, and what happens inside them is not put together: "
                "use one device or DistributedDataParallel, or only signals of the whole such as logits and hidden.N."
            )
        with self._attention or nullcontext():
            with (
                gradient.watching() if gradient else nullcontext(),
                moving.watching() if moving else nullcontext(),
                _hooks_minded(),
            ):
                output = call(module, moving.columns if moving else followed, self._bare, **options)
            shown = {name: self._attention.read(name) for name in self._attention.names} if self._attention else {}
        if "logits" in self.names:
            shown["logits"] = cast(Tensor, self._head.read(output)) if self._head else logits_of(output)
        if gradient:
            rows = torch.zeros(len(next(iter(columns.values()))), dtype=torch.int64) if keys is None else keys
            shown[GRADIENT] = gradient.read(logits_of(output), rows, graph)
        for name, index in self._hidden.items():
            shown[name] = self._state(output, name, index)
        for name in self.names - shown.keys() - self._steps.keys():
            shown[name] = self._captured(name)
        if moving:
            with torch.enable_grad():  # logits may be put together from several
                moving.aim(logits_of(output))
            for name, step in self._steps.items():
                with moving.moved(step) as changed, _hooks_minded():
                    shown[name] = logits_of(call(module, {**columns, **changed}, self._bare))
        self._seen.clear()
        return shown if graph or not (gradient or moving) else {name: one.detach() for name, one in shown.items()}

    def _state(self, output: Any, name: str, index: int) -> Tensor:
        states = getattr(output, "hidden_states", None)
        if states is None:
            raise SignalError(f"{name!r}: {type(self._bare).__name__} was asked for hidden states and gave none.")
        if index >= len(states):
            raise SignalError(f"{name!r}: the model shows hidden.0 to hidden.{len(states) - 1}.")
        found: Tensor = states[index]
        return found

    def _captured(self, name: str) -> Tensor:
        if name not in self._seen:
            ran = [path for path in (other.partition(":")[0] for other in self._seen) if path]
            own = name.partition(":")[0]
            near = nearest(own, [path for path, _ in self._bare.named_modules() if path and path != own])
            raise SignalError(
                f"The module {name!r} of {type(self._bare).__name__} never ran in a forward pass"
                + (f" ({', '.join(ran)} did)" if ran else "")
                + (f": {near}" if near else ".")
            )
        value, version = self._seen[name]
        if _version(value) != version:
            raise SignalError(
                f"What the module {name!r} gave was altered in place by a later one (ReLU(inplace=True) does that): "
                "name the later module, or build the model without in-place operations."
            )
        return value

    def close(self) -> None:
        """Takes the hooks away."""
        for hook in self._hooks:
            hook.remove()
        self._hooks = []
        if self._head:
            self._head.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _hooks_minded() -> AbstractContextManager[Any]:
    """While the model runs: code that torch.compile made for one layer is not reused for another that has a hook."""
    dynamo: Any = sys.modules.get("torch._dynamo")  # slow to import, and absent where nothing was compiled
    return nullcontext() if dynamo is None else dynamo.config.patch(skip_nnmodule_hook_guards=False)


def _version(value: Tensor) -> int:
    return 0 if value.is_inference() else value._version  # inference tensors do not count their changes


def _is_hidden(name: str) -> bool:
    return name.startswith("hidden.") and name[7:].isdigit()


def _examples(module: nn.Module) -> str:
    names = [name for name, _ in module.named_modules() if name]
    return ", ".join(names[:6]) + (", ..." if len(names) > 6 else "")


@torch.no_grad()
def show(
    module: nn.Module,
    columns: Mapping[str, Tensor],
    names: Collection[str] = ("logits",),
    keys: Tensor | None = None,
) -> dict[str, Tensor]:
    """The named signals once, in evaluation mode, without a graph; the module's mode is put back."""
    with evaluating(module), Capture(module, names) as capture:
        return capture(columns, keys=keys)


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Within the block the module is in evaluation mode; afterwards each of its parts is in the mode it was in."""
    training = [part for part in module.modules() if part.training]
    module.eval()
    try:
        yield
    finally:
        for part in training:
            part.training = True

"""Weights from a file into a module: every name and every shape, or an error that says which."""

import warnings
from collections.abc import Collection, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from limbeck.errors import LimbeckError

_CONVERT = "Convert it once where it is trusted: safetensors.torch.save_file(model.state_dict(), 'model.safetensors')."


def load(module: nn.Module, path: str | Path) -> None:
    """Loads a .safetensors file, or a .pt or .pth file that holds nothing but tensors by name.

    Raises:
        LimbeckError: no such file, a pickle that would run code, or names or shapes that do not fit.
    """
    fill(module, read(Path(path).expanduser()), str(path))


def read(path: Path) -> dict[str, Tensor]:
    """The named tensors of a file, on the CPU.

    Raises:
        LimbeckError: no such file, damaged, of another kind, or a pickle that would run code.
    """
    if not path.is_file():
        raise LimbeckError(f"There is no file of weights at '{path}'.")
    if path.suffix == ".safetensors":
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            return dict(load_file(path))
        except SafetensorError as error:
            raise LimbeckError(f"'{path}' is damaged or no safetensors file: {error}.") from error
    if path.suffix not in (".pt", ".pth", ".bin"):
        raise LimbeckError(
            f"'{path}' is no file of weights: .safetensors is read, and plain state dicts in .pt or .pth."
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about the pickle's protocol; what cannot be read is said below
            found = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a pickle that would run code, or no torch file at all
        raise LimbeckError(
            f"'{path}' is a pickle that holds more than tensors (or is damaged); reading it could run any code, so it "
            f"is not read. {_CONVERT}"
        ) from error
    if not isinstance(found, Mapping) or not all(
        isinstance(name, str) and isinstance(value, Tensor) for name, value in found.items()
    ):
        raise LimbeckError(f"'{path}' does not hold tensors by name. {_CONVERT}")
    return dict(found)


def fill(module: nn.Module, named: Mapping[str, Tensor], origin: str) -> None:
    """Copies named tensors into a module; of tied weights one name is enough.

    Raises:
        LimbeckError: names are missing or unexpected, or shapes differ.
    """
    own = module.state_dict(keep_vars=True)
    given = dict(named)
    by_memory: dict[int, list[str]] = {}
    for name, value in own.items():
        by_memory.setdefault(id(value), []).append(name)
    for tied in by_memory.values():
        known = next((name for name in tied if name in given), None)
        if known is not None:
            given |= {name: given[known] for name in tied if name not in given}
    problems = [
        _some("missing", own.keys() - given.keys()),
        _some("unexpected", given.keys() - own.keys()),
        _some(
            "of another shape",
            [
                f"{name} {list(given[name].shape)} instead of {list(own[name].shape)}"
                for name in own.keys() & given.keys()
                if own[name].shape != given[name].shape
            ],
        ),
    ]
    if any(problems):
        what = "; ".join(problem for problem in problems if problem)
        raise LimbeckError(f"The weights of '{origin}' do not fit {type(module).__name__}: {what}.")
    module.load_state_dict(given)


def _some(what: str, names: Collection[str]) -> str:
    shown = sorted(names)
    return f"{len(shown)} {what} ({', '.join(shown[:4])}{', ...' if len(shown) > 4 else ''})" if shown else ""

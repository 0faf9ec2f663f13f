"""Checkpoints: whole or absent, verified when read, and holding all that the next step depends on.

Tensors go to safetensors, everything else to JSON; nothing is pickled. A checkpoint that does not verify is passed
over for the one before it.
"""

import hashlib
import json
import logging
import random
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from torch import Tensor

from limbeck.errors import LimbeckError
from limbeck.files import sync, whole_folder

_log = logging.getLogger(__name__)
_KEPT = 2


def flatten(tree: Any, path: str = "", tensors: dict[str, Tensor] | None = None) -> tuple[Any, dict[str, Tensor]]:
    """A nest of dicts, lists, tuples, tensors and scalars as JSON and named tensors; `unflatten` gives it back.

    Raises:
        TypeError: something in it is of another type.
    """
    found = {} if tensors is None else tensors
    if isinstance(tree, Tensor):
        name = f"{len(found)}{path}"  # numbered: the keys 1 and "1" make one path
        found[name] = tree.detach().to("cpu", copy=True).contiguous()  # copied: safetensors refuses tied weights
        return {"tensor": name}, found
    if isinstance(tree, dict):  # keys of other types than str are kept, so pairs instead of an object
        pairs = [[key, flatten(value, f"{path}/{key}", found)[0]] for key, value in tree.items()]
        return {"dict": pairs}, found
    if isinstance(tree, list | tuple):
        kind = "list" if isinstance(tree, list) else "tuple"
        return {kind: [flatten(value, f"{path}/{i}", found)[0] for i, value in enumerate(tree)]}, found
    if tree is None or isinstance(tree, bool | int | float | str):
        return tree, found
    raise TypeError(f"{path}: a checkpoint holds tensors and plain values, not {type(tree).__name__}")


def unflatten(plain: Any, tensors: dict[str, Tensor]) -> Any:
    """What `flatten` took apart."""
    if not isinstance(plain, dict):
        return plain
    (kind, value), *_ = plain.items()
    if kind == "tensor":
        return tensors[value]
    if kind == "dict":
        return {key: unflatten(item, tensors) for key, item in value}
    items = [unflatten(item, tensors) for item in value]
    return items if kind == "list" else tuple(items)


def random_state() -> dict[str, Any]:
    """The states of torch's, NumPy's and Python's global generators, and of each CUDA device's."""
    version, internal, gauss = random.getstate()
    kind, keys, position, has_gauss, cached = np.random.get_state()
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        "numpy": [
            str(kind),
            torch.from_numpy(np.asarray(keys).astype(np.int64)),
            int(position),
            int(has_gauss),
            float(cached),
        ],
        "python": [version, torch.tensor(internal), gauss],
    }


def restore_random_state(state: dict[str, Any]) -> None:
    """Puts back what `random_state` gave."""
    torch.set_rng_state(state["torch"])
    if state["cuda"]:
        torch.cuda.set_rng_state_all(state["cuda"])
    kind, keys, position, has_gauss, cached = state["numpy"]
    np.random.set_state((kind, keys.numpy().astype(np.uint32), position, has_gauss, cached))
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal.tolist()), gauss))


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def save(folder: Path, step: int, tree: Any) -> Path:
    """Writes ``folder/step-...`` and drops all but the newest two; those go only after the new one is durable.

    Raises:
        LimbeckError: the disk is full or the folder cannot be written; the earlier checkpoints are untouched.
    """
    plain, tensors = flatten(tree)
    path = folder / f"step-{step:09d}"
    try:
        with whole_folder(path) as draft:
            safetensors.torch.save_file(tensors, draft / "tensors.safetensors")
            (draft / "state.json").write_text(json.dumps(plain))
            sums = {name: _sha256(draft / name) for name in ("tensors.safetensors", "state.json")}
            (draft / "checksums.json").write_text(json.dumps(sums))
    except (OSError, safetensors.SafetensorError) as error:
        raise LimbeckError(
            f"Cannot write the checkpoint {path}: {error}. Free some space or choose another place with LIMBECK_HOME; "
            "the earlier checkpoint is intact, and the same command goes on from it."
        ) from error
    # a later one is damaged, for training went on from before it: were it kept, it would push out a good one
    kept = [one for one in _all(folder) if one.name <= path.name][-_KEPT:]
    for old in set(_all(folder)) - set(kept):
        shutil.rmtree(old, ignore_errors=True)
    sync(folder)
    return path


def _all(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("step-*") if re.fullmatch(r"step-\d{9}", path.name))


def verified(path: Path) -> Any | None:
    """The tree of one checkpoint, or None if any byte of it is not as it was written."""
    try:
        sums = json.loads((path / "checksums.json").read_bytes())
        raw = {name: (path / name).read_bytes() for name in ("tensors.safetensors", "state.json")}
        if any(hashlib.sha256(content).hexdigest() != sums[name] for name, content in raw.items()):
            return None
        return unflatten(json.loads(raw["state.json"]), safetensors.torch.load(raw["tensors.safetensors"]))
    except (OSError, ValueError, KeyError, TypeError, safetensors.SafetensorError):
        return None


def latest(folder: Path) -> Any | None:
    """The newest checkpoint that verifies, or None."""
    for path in reversed(_all(folder)):
        tree = verified(path)
        if tree is not None:
            return tree
        _log.warning("The checkpoint %s is damaged: passed over for the one before it.", path)
    return None

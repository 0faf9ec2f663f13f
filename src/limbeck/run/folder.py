"""The run folder: the resolved recipe and its hash, a journal of every arm, evidence, report, student."""

import errno
import json
import platform
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from limbeck.errors import LimbeckError
from limbeck.files import whole_folder, write_json
from limbeck.training.checkpoint import flatten, unflatten

RECIPE, EVIDENCE, REPORT, STUDENT = "recipe.json", "evidence.json", "report.html", "student"
REJECTED = "rejected.jsonl"  # rows that filters left out
SHOWN, INPUTS = "shown", "inputs"  # what the report shows; real inputs that exports are proven on
_PACKAGES = ("limbeck", "torch", "accelerate", "numpy", "transformers", "datasets", "liger-kernel")


_DISK = {errno.ENOSPC, errno.EFBIG, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EEXIST, errno.ENOTDIR}


@contextmanager
def writable(folder: Path) -> Iterator[None]:
    """Says that the disk is full, or that ``folder`` cannot be written.

    Raises:
        LimbeckError: in place of the system's own error.
    """
    try:
        yield
    except (OSError, SafetensorError) as error:
        if isinstance(error, OSError) and error.errno not in _DISK:
            raise
        raise LimbeckError(
            f"Cannot write to {folder}: {error}. Free some space or choose another --out; what is done already is kept, "
            "and the same command goes on from it."
        ) from error


def claim(folder: Path, settings: Mapping[str, Any], recipe_hash: str) -> None:
    """Writes the resolved recipe into a new run folder, or makes sure that it is that of an old one.

    Raises:
        LimbeckError: the folder holds a run of another recipe, or something that is no run.
    """
    path = folder / RECIPE
    if path.exists():
        known = read(folder)
        begun = any(item.name not in (RECIPE, ".lock") for item in folder.iterdir())
        if known["hash"] != recipe_hash and not begun:
            path.unlink()  # its preflight failed, and the recipe was mended
        elif known["hash"] != recipe_hash:
            changed = _changed(known["recipe"], dict(settings))
            raise LimbeckError(
                f"{folder} holds a run of another recipe (hash {known['hash'][:12]}, this one is {recipe_hash[:12]}; "
                f"what differs: {', '.join(changed) or 'data or models in memory'}). Choose another --out, or delete it."
            )
        else:
            return
    strangers = [item.name for item in folder.iterdir() if item.name != ".lock"] if folder.exists() else []
    if strangers:
        raise LimbeckError(f"{folder} is not empty and holds no run (it has {strangers[0]!r}): choose another --out.")
    write_json(
        path, {"hash": recipe_hash, "began": datetime.now(UTC).isoformat(timespec="seconds"), "recipe": dict(settings)}
    )


def read(folder: Path) -> dict[str, Any]:
    """What `claim` wrote.

    Raises:
        LimbeckError: there is no run.
    """
    try:
        found: dict[str, Any] = json.loads((folder / RECIPE).read_text())
        found["hash"], found["recipe"]
    except OSError:
        raise LimbeckError(f"{folder} is not a run: it has no {RECIPE}. `limbeck runs` lists runs.") from None
    except (ValueError, KeyError, TypeError):
        raise LimbeckError(f"{folder / RECIPE} is damaged.") from None
    return found


def keep(folder: Path, name: str, tree: Any) -> None:
    """Keeps a nest of plain values and tensors in the run folder."""
    plain, tensors = flatten(tree)
    with whole_folder(folder / name) as draft:
        save_file(tensors, draft / "tensors.safetensors")
        (draft / "plain.json").write_text(json.dumps(plain))


def kept(folder: Path, name: str) -> Any:
    """What `keep` kept.

    Raises:
        LimbeckError: it is not there: the run is not finished.
    """
    try:
        plain = json.loads((folder / name / "plain.json").read_text())
        return unflatten(plain, load_file(folder / name / "tensors.safetensors"))
    except OSError:
        raise LimbeckError(
            f"{folder} has no {name}: the run is not finished. The same `limbeck run` goes on with it."
        ) from None
    except (ValueError, KeyError, TypeError, IndexError, AttributeError, SafetensorError):
        raise LimbeckError(
            f"{folder / name} is damaged. The same `limbeck run` writes it again, and trains nothing that is trained."
        ) from None


def image(content: Any) -> Any:
    """An image as the report takes it, from a kept tensor; a text as it is."""
    return content.numpy() if isinstance(content, Tensor) else content


def _changed(old: Any, new: Any, path: str = "") -> list[str]:
    if isinstance(old, dict) and isinstance(new, dict):
        keys = [*old, *(key for key in new if key not in old)]
        return [
            one for key in keys for one in _changed(old.get(key), new.get(key), f"{path}.{key}" if path else str(key))
        ]
    return [] if old == new else [path]


def versions() -> dict[str, str]:
    """Versions of Python and of the libraries that the numbers depend on."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found

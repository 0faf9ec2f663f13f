"""The delivered student's folder: weights, architecture, preprocessing and classes, with a checksum of each file."""

import json
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path, PurePath
from typing import Any, Final

from pydantic import TypeAdapter
from torch import Tensor, nn

from limbeck.config import choice, digest
from limbeck.data import fingerprint
from limbeck.data.reader import Reader
from limbeck.data.task import Task
from limbeck.data.tasks import CLASSES, TASKS
from limbeck.errors import LimbeckError
from limbeck.files import whole_folder, write_json
from limbeck.models.adapters import merged
from limbeck.models.architecture import describe, rebuild
from limbeck.models.readers import load_reader, save_reader
from limbeck.models.seeded import seeded
from limbeck.models.spec import Spec
from limbeck.models.student import Student
from limbeck.models.weights import fill, read
from limbeck.signals.capture import bare

WEIGHTS: Final = "model.safetensors"
ABOUT: Final = "student.json"
_FORMAT: Final = 1
_TASK: Final = TypeAdapter(choice(*TASKS))


def save_student(
    folder: Path,
    module: nn.Module,
    spec: Spec | None,
    reader: Reader,
    class_names: tuple[str, ...],
    metadata: Mapping[str, Any] | None = None,
    task: Task = CLASSES,
) -> None:
    """Writes a folder that `load_student` reads; whole or not at all, in place of an older one.

    Args:
        folder: where.
        module: the student, wrapped or not; tied weights are written once, adapters merged into the weights.
        spec: what it was built from, for the record; None leaves no trace of where it came from.
        reader: its preprocessing; a tokenizer is written into the folder.
        class_names: in the order of its logits.
        metadata: JSON values to keep with it, such as the recipe's hash and the results.
        task: what is asked of it.
    """
    module = merged(bare(module))
    with whole_folder(folder) as draft:
        about = {
            "format": _FORMAT,
            "limbeck": version("limbeck"),
            "architecture": describe(module, spec, draft),
            "spec": spec.plain() if spec else None,
            "reader": save_reader(reader, draft),
            "classes": list(class_names),
            "task": task.name,
            "metadata": dict(metadata or {}),
        }
        write_weights(draft / WEIGHTS, module)
        write_about(draft / ABOUT, about)


def load_student(folder: Path | str, module: nn.Module | None = None, reader: Reader | None = None) -> Student:
    """The student that `save_student` wrote, in evaluation mode on the CPU.

    Args:
        folder: where it is.
        module: one like it, if it was given in memory; it is copied, its weights do not matter.
        reader: its preprocessing, if that was an object in memory.

    Raises:
        LimbeckError: a file is missing or altered, or something that was in memory is needed.
    """
    folder = Path(folder)
    about = read_about(folder / ABOUT)
    if about.get("format") != _FORMAT:
        theirs, ours = about.get("limbeck"), version("limbeck")
        raise LimbeckError(f"'{folder}' was written by limbeck {theirs} in a form that limbeck {ours} does not read.")
    with seeded(0):  # the weights drawn here are all replaced
        built = rebuild(about["architecture"], folder, module)
    named = read(folder / WEIGHTS)
    kinds = {value.dtype for value in named.values() if value.is_floating_point()}
    if len(kinds) == 1:
        built = built.to(kinds.pop())
    fill(built, named, str(folder / WEIGHTS))
    known = load_reader(about["reader"], folder, reader)
    return Student(built.eval(), known, tuple(about["classes"]), about["metadata"], _task(about))


def _task(about: Mapping[str, Any]) -> Task:
    """What is asked of a student; folders that do not say so are of classes."""
    found: Task = _TASK.validate_python(about.get("task", CLASSES.name))
    return found.asking(about["classes"])


def write_weights(path: Path, module: nn.Module) -> None:
    """Writes the state of ``module`` to a safetensors file; tensors that are one object under several names once."""
    from safetensors.torch import save_file

    kept: dict[str, Tensor] = {}
    objects, memory = set(), set()
    for name, value in module.state_dict(keep_vars=True).items():
        if id(value) in objects:
            continue
        objects.add(id(value))
        plain = value.detach().cpu().contiguous()
        # Views of one block of memory are written apart.
        kept[name] = plain.clone() if plain.untyped_storage().data_ptr() in memory else plain
        memory.add(plain.untyped_storage().data_ptr())
    save_file(kept, path)
    path.chmod(0o644)


def write_about(path: Path, about: Mapping[str, Any]) -> None:
    """Writes what is known of the folder of ``path``, with the SHA-256 of every other file in it and of itself."""
    files = {
        item.relative_to(path.parent).as_posix(): fingerprint.file(item)
        for item in sorted(path.parent.rglob("*"))
        if item.is_file()
    }
    content = {**about, "files": files}
    write_json(path, {**content, "checksum": digest(content)})


def read_about(path: Path) -> dict[str, Any]:
    """What `write_about` wrote, once every file has been found unaltered.

    Raises:
        LimbeckError: it is not there, or a file is missing or altered.
    """
    try:
        about: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        checksum = about.pop("checksum")
        files: dict[str, str] = about["files"]
    except (FileNotFoundError, NotADirectoryError):
        raise LimbeckError(f"There is no {path.name} in '{path.parent}': it holds no student.") from None
    except (ValueError, KeyError, TypeError, AttributeError):
        raise LimbeckError(f"'{path}' is damaged: copy the folder again, or train again.") from None
    if digest(about) != checksum:
        raise LimbeckError(f"'{path}' was altered after it was written: copy the folder again, or train again.")
    if strange := [name for name in files if PurePath(name).is_absolute() or ".." in PurePath(name).parts]:
        raise LimbeckError(
            f"'{path}' names files outside its folder ({', '.join(strange)}), which no student that limbeck wrote does: nothing "
            "was read of them. Ask whoever gave it to you for a whole one."
        )
    bad = [
        name
        for name, known in files.items()
        if not (path.parent / name).is_file() or fingerprint.file(path.parent / name) != known
    ]
    if bad:
        raise LimbeckError(
            f"In '{path.parent}' these files are missing or were altered after they were written: {', '.join(bad)}. "
            "Copy the folder again, or train again."
        )
    return about

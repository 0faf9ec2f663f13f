"""Files that are whole or absent, and folders with one owner."""

import ctypes
import fcntl
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

from limbeck.errors import Busy

_OLD: Final = ".new-old-"
_HERE, _EXCHANGE = -100, 2  # AT_FDCWD and RENAME_EXCHANGE of Linux


def home() -> Path:
    """Where trained arms and stored teacher outputs are kept: ``$LIMBECK_HOME``, else ``~/.cache/limbeck``."""
    return Path(os.environ.get("LIMBECK_HOME") or Path.home() / ".cache" / "limbeck").expanduser().absolute()


def sync(path: Path) -> None:
    """Makes a file or folder durable."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_bytes(path: Path, content: bytes) -> None:
    """Writes ``path`` whole or not at all, durably."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        os.chmod(name, 0o644)  # noqa: PTH101 - mkstemp gave it 0600
        os.replace(name, path)  # noqa: PTH105
    except BaseException:
        with suppress(FileNotFoundError):
            os.unlink(name)  # noqa: PTH108
        raise
    sync(path.parent)


def write_text(path: Path, content: str) -> None:
    """Writes text in UTF-8, whole or not at all."""
    write_bytes(path, content.encode())


def write_json(path: Path, value: Any) -> None:
    """Writes readable JSON, whole or not at all; NaN is refused."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False, ensure_ascii=False) + "\n")


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """A new folder that appears at ``path`` only when the block ends well, with everything in it durable.

    A folder that was there before is replaced. What a killed process left behind is removed by the next one.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    _put_back(path)
    for stale in path.parent.glob(f".{path.name}.new-*"):
        shutil.rmtree(stale, ignore_errors=True)
    draft = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}.new-"))
    try:
        yield draft
        for item in draft.rglob("*"):
            item.chmod(0o644 if item.is_file() else 0o755)  # some libraries make files that only their owner reads
            sync(item)
        draft.chmod(0o755)
        sync(draft)
        if path.exists():
            _replace(path, draft)
        else:
            draft.rename(path)
        sync(path.parent)
        shutil.rmtree(draft, ignore_errors=True)  # what was there before, if the two were exchanged
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)
        raise


def _replace(path: Path, draft: Path) -> None:
    """Puts ``draft`` in the place of the folder ``path``; where the system can, at once, and ``draft`` is then the old one."""
    if _exchanged(path, draft):
        return
    old = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}{_OLD}"))
    path.rename(old / "old")  # killed from here on, `_put_back` finds it
    draft.rename(path)
    shutil.rmtree(old, ignore_errors=True)


def _exchanged(one: Path, other: Path) -> bool:
    """Whether the two folders have changed places, in one step: Linux can on most file systems."""
    try:
        rename = ctypes.CDLL(None, use_errno=True).renameat2
    except (AttributeError, OSError, TypeError):
        return False
    return bool(rename(_HERE, os.fsencode(one), _HERE, os.fsencode(other), _EXCHANGE) == 0)


def _put_back(path: Path) -> None:
    """A folder that a killed process had moved away and not replaced yet."""
    if not path.exists():
        for old in path.parent.glob(f".{path.name}{_OLD}*/old"):
            old.rename(path)
            return


@contextmanager
def held(folder: Path, why: str, wait: bool = False) -> Iterator[None]:
    """Holds ``folder`` for this process. The system frees it when the process ends, however it ends.

    Raises:
        Busy: another process holds it and ``wait`` is False.
    """
    folder.mkdir(parents=True, exist_ok=True)
    handle = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT, 0o644)
    _locks.add(handle)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            raise Busy(
                f"{folder} is in use by another process ({why}): wait for it to end, or choose another."
            ) from None
        yield
    finally:
        if handle in _locks:
            _locks.remove(handle)
            os.close(handle)


_locks: set[int] = set()


def _forked() -> None:
    """A worker lets go at once: else it would hold the folder for as long as it outlives a parent that was killed."""
    while _locks:
        os.close(_locks.pop())


os.register_at_fork(after_in_child=_forked)

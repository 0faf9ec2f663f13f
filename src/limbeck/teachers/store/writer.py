"""A writer owns one folder of shards and holds its lock; the system frees the lock when the process ends."""

import fcntl
import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from limbeck.config import digest
from limbeck.errors import LimbeckError
from limbeck.files import held, sync, write_bytes, write_json
from limbeck.teachers.store.shard import SUFFIX

KEY = "key.json"
_LOCK = ".lock"


class Writer:
    """Commits shards into a folder of its own, made at the first commit."""

    def __init__(self, store: Path, key: Mapping[str, Any]) -> None:
        self.folder = store / f"w-{secrets.token_hex(8)}"
        self.process = os.getpid()  # a forked child must not go on with its parent's folder
        self._store, self._key = store, key
        self._lock: IO[str] | None = None
        self._next = 0

    def commit(self, content: bytes) -> Path:
        """Writes one shard, whole and durable, or nothing.

        Raises:
            LimbeckError: the disk is full, or the folder cannot be written.
        """
        path = self.folder / f"{self._next:05d}-{hashlib.sha256(content).hexdigest()}{SUFFIX}"
        try:
            if self._lock is None:
                self._open()
            write_bytes(path, content)
        except OSError as error:
            raise LimbeckError(
                f"Teacher outputs cannot be written to {path} ({error.strerror}): make room or choose another folder. "
                "What was committed before is intact, and the same command goes on from there."
            ) from error
        self._next += 1
        return path

    def _open(self) -> None:
        with held(self._store, "a writer is starting", wait=True):  # so that nobody sweeps a folder not yet locked
            sweep(self._store)
            if not _holds(self._store / KEY, self._key):
                write_json(self._store / KEY, {"key": dict(self._key), "digest": digest(self._key)})
            self.folder.mkdir(exist_ok=True)
            stream = (self.folder / _LOCK).open("a")
            fcntl.flock(stream, fcntl.LOCK_EX)
            self._lock = stream
        sync(self._store)

    def close(self) -> None:
        """Frees the lock."""
        if self._lock is not None and self.process == os.getpid():
            self._lock.close()
        self._lock = None


def read_key(path: Path) -> dict[str, Any]:
    """The key that is written in a store.

    Raises:
        LimbeckError: there is none, or it is damaged.
    """
    try:
        kept = json.loads(path.read_bytes())
        if digest(kept["key"]) == kept["digest"]:
            return dict(kept["key"])
        why = "has a wrong checksum"
    except (OSError, ValueError, KeyError, TypeError) as error:
        why = f"cannot be read ({error})"
    raise LimbeckError(f"{path.parent} holds no stored teacher outputs: {path.name} {why}.")


def _holds(path: Path, key: Mapping[str, Any]) -> bool:
    with suppress(LimbeckError):
        return read_key(path) == dict(key)
    return False


def sweep(store: Path) -> None:
    """Removes what killed writers left half written: only in folders whose lock is free. The store must be held."""
    for draft in store.glob(f".{KEY}.*"):
        draft.unlink(missing_ok=True)
    for folder in writers(store):
        with left(folder) as free, suppress(OSError):
            for draft in folder.glob(f".*{SUFFIX}.*") if free else ():
                draft.unlink(missing_ok=True)
            if free and not any(folder.glob(f"*{SUFFIX}")):
                shutil.rmtree(folder, ignore_errors=True)


def writers(store: Path) -> list[Path]:
    """Those of a store's writers.

    Raises:
        LimbeckError: one is a link.
    """
    found = sorted(store.glob("w-*"))
    for folder in found:
        if folder.is_symlink():
            raise a_link(folder)
    return found


def a_link(folder: Path) -> LimbeckError:
    """Damaged files are moved and small ones written anew: what a link leads to is not the store's to do that with."""
    return LimbeckError(
        f"{folder} is a link, and a store of teacher outputs holds its files itself: copy what it leads to in its place, or "
        "remove it. Nothing behind it was touched."
    )


@contextmanager
def left(folder: Path) -> Iterator[bool]:
    """Whether nobody writes into a writer's folder any more; it is held until the block ends, so that nobody else clears it."""
    with ExitStack() as stack:
        free = False
        with suppress(OSError):  # a writer has it, or it may not be altered
            fcntl.flock(stack.enter_context((folder / _LOCK).open("a")), fcntl.LOCK_EX | fcntl.LOCK_NB)
            free = True
        yield free

"""Answers that were paid for, each durable before the next is waited for."""

import hashlib
import logging
import sqlite3
from pathlib import Path
from threading import Lock
from typing import Final

from limbeck.errors import LimbeckError

FILE: Final = "answers.sqlite"
_log = logging.getLogger(__name__)


class Answers:
    """Bytes by key, in ``folder``; None: nothing is kept. The file may be deleted: what is needed is asked again.

    Raises:
        LimbeckError: the file is not one of these, or cannot be written.
    """

    def __init__(self, folder: Path | None) -> None:
        self._lock = Lock()
        self._base: sqlite3.Connection | None = None
        self._path = folder and folder / FILE
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
            try:
                base = sqlite3.connect(folder / FILE, check_same_thread=False, isolation_level=None, timeout=30)
                base.execute("PRAGMA journal_mode = WAL")
                base.execute("PRAGMA synchronous = FULL")  # else a kept answer may be lost with the power
                base.execute("CREATE TABLE IF NOT EXISTS answers (key TEXT PRIMARY KEY, digest BLOB, value BLOB)")
            except sqlite3.Error as error:
                raise self._trouble(error) from None
            self._base = base

    def find(self, key: str) -> bytes | None:
        """What was kept; None if there is nothing, or it was damaged since."""
        if self._base is None:
            return None
        try:
            with self._lock:
                found = self._base.execute("SELECT digest, value FROM answers WHERE key = ?", (key,)).fetchone()
        except sqlite3.Error as error:
            raise self._trouble(error) from None
        if found is None:
            return None
        if found[0] != _digest(key, found[1]):
            _log.warning("An answer in %s was damaged; it is asked for again.", self._path)
            return None
        return bytes(found[1])

    def keep(self, key: str, value: bytes) -> None:
        """Durable when this returns."""
        if self._base is not None:
            try:
                with self._lock:
                    row = (key, _digest(key, value), value)
                    self._base.execute("INSERT OR REPLACE INTO answers VALUES (?, ?, ?)", row)
            except sqlite3.Error as error:
                raise self._trouble(error) from None

    def close(self) -> None:
        """Ends reading and writing."""
        base, self._base = self._base, None
        if base is not None:
            base.close()

    def _trouble(self, error: sqlite3.Error) -> LimbeckError:
        return LimbeckError(
            f"{self._path}, where answers of the served model are kept, cannot be used: {error}. Make room on the disk, or move "
            "the file away if it is damaged; what it held is asked for again."
        )


def _digest(key: str, value: bytes) -> bytes:
    return hashlib.sha256(key.encode() + b"\0" + value).digest()

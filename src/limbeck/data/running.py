"""Running text: files of any text, cut into passages, without labels."""

import re
from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import Field

from limbeck.config import Config
from limbeck.data.raw import Raw
from limbeck.data.task import Task
from limbeck.data.tasks import CLASSES
from limbeck.errors import DataError

_PARAGRAPH: Final = re.compile(r"\n[ \t]*%?[ \t]*\n")  # an empty line, or what parts the sayings of `fortune`
_MOST: Final = 2**28  # bytes in all


class RunningText(Config):
    """Paragraphs of text files, for a training that needs no labels: a student learns from what its teacher shows of them.

    A paragraph ends at an empty line; one that is longer than ``words`` is cut into passages. Equal passages count once.
    """

    name: Literal["running-text"] = "running-text"
    """The kind of source."""
    path: Annotated[str, Field(min_length=1)]
    """A file, a folder (every file in it without a suffix or with .txt), or a pattern such as ``books/*.txt``."""
    words: Annotated[int, Field(ge=4)] = 48
    """The longest passage, in words; where words are not parted by spaces, in 4 characters each."""
    shortest: Annotated[int, Field(ge=1)] = 20
    """The shortest passage, in characters."""
    limit: Annotated[int, Field(ge=1)] | None = None
    """How many passages at most, evenly from all of them; null: all."""
    encoding: str = "utf-8"
    """How the files' letters are encoded; what is no letter in it is dropped."""

    def load(self, task: Task = CLASSES) -> Raw:
        """The passages; nobody knows their class, whatever the ``task``.

        Raises:
            DataError: there is no such file, the files are too large to read at once, or have no passage.
        """
        found: dict[str, None] = {}
        files = self._files()
        if sum(file.stat().st_size for file in files) > _MOST:
            raise DataError(f"{self.path}: more than {_MOST >> 20} MiB of text: name fewer files.")
        for file in files:
            try:
                text = file.read_bytes().decode(self.encoding, errors="ignore")
            except (OSError, LookupError) as error:
                raise DataError(f"{file} cannot be read: {error}.") from error
            for paragraph in _PARAGRAPH.split(text.replace("\r\n", "\n")):
                found.update(dict.fromkeys(self._passages(paragraph)))
        passages = list(found)
        if not passages:
            raise DataError(f"{self.path}: no passage of {self.shortest} characters or more in {len(files)} files.")
        if self.limit is not None and self.limit < len(passages):
            passages = [passages[place * len(passages) // self.limit] for place in range(self.limit)]
        return Raw(
            "texts",
            passages,
            task.without_labels(len(passages)),
            (),
            name=self.path,
            task=task if task.gives == "tokens" else CLASSES,
        )

    def _passages(self, paragraph: str) -> list[str]:
        words = [
            piece
            for word in paragraph.split()
            for piece in (word[start : start + 4 * self.words] for start in range(0, len(word), 4 * self.words))
        ]
        passages, held, size = [], list[str](), 0.0
        for word in words:
            share = max(1.0, len(word) / 4) if not word.isascii() else 1.0
            if held and size + share > self.words:
                passages.append(" ".join(held))
                held, size = [], 0.0
            held.append(word)
            size += share
        passages.append(" ".join(held))
        return [passage for passage in passages if len(passage) >= self.shortest]

    def _files(self) -> list[Path]:
        path = Path(self.path).expanduser()
        if path.is_dir():
            files = [file for file in sorted(path.iterdir()) if file.is_file() and file.suffix in ("", ".txt")]
        elif path.is_file():
            files = [path]
        else:
            files = [file for file in sorted(path.parent.glob(path.name)) if file.is_file()]
        if not files:
            raise DataError(f"There is no text at {self.path!r}: name a file, a folder of .txt files, or a pattern.")
        return files

"""Data sets of the Hugging Face library: from the hub or a folder that it saved."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from limbeck.config import Config
from limbeck.data.columns import label_of, library, questions_of, raw_of
from limbeck.data.labels import log
from limbeck.data.raw import Raw, Side
from limbeck.data.task import Task
from limbeck.data.tasks import CLASSES
from limbeck.errors import DataError, nearest


class HuggingFace(Config):
    """A data set of images or texts with labels, or of questions (columns as SQuAD's). Code from the hub is never run."""

    name: Literal["huggingface"] = "huggingface"
    """The kind of source."""
    path: str
    """A name on the hub, or a folder written by ``save_to_disk``."""
    configuration: str | None = None
    """Which configuration, where the data set has several."""
    revision: str | None = None
    """The commit, branch or tag on the hub."""
    input: str | None = None
    """The column of images, texts or, in the task ``tags``, lists of words; null: the only one of its kind."""
    pair: str | None = None
    """The column of a second text, for questions about two."""
    label: str | Annotated[tuple[str, ...], Field(min_length=1)] | None = None
    """The column of labels, or several: a class of each task in ``multi-task``, a 0 or 1 in each in ``multi-label``, or a number
    in each; null: the only one of classes, else ``label``."""
    train: str = "train"
    """The split to train on."""
    validation: str | None = None
    """The split to choose by; null: ``validation`` if there is one with labels, else some rows of the training split."""
    test: str | None = None
    """The split to judge by; null: ``test`` if there is one with labels, else some rows of the training split."""
    size: Side | tuple[Side, Side] | None = None
    """Side in pixels, or [height, width], to which images are resized; null: the commonest size of the data."""
    channels: Literal[1, 3] | None = None
    """1 for grey, 3 for colour; null: grey if all images are."""

    def load(self, task: Task = CLASSES) -> Raw:
        """The rows.

        Raises:
            DataError: the library, the data set, a split or a column is missing, or it is not what the task asks for.
        """
        if task.gives == "vectors":
            raise DataError(
                f"{self.path}: pairs of texts for the task {task.name!r} are read from a table so far: write its two columns to "
                "a .jsonl or .parquet file, and name the source 'table'."
            )
        found = self._found()
        if not isinstance(found, Mapping):
            found = {self.train: found}
        train = self._part(found, self.train)
        labels = self._labels(train.features, task)
        parts = [train, *(self._other(found, name, usual, labels[0]) for name, usual in self._others())]
        if task.reads == "questions":
            return questions_of(parts, self.path, task)
        return raw_of(parts, self.input, labels, self.path, self.size, self.channels, self.pair, task)

    def _labels(self, features: Mapping[str, Any], task: Task) -> tuple[str, ...]:
        if self.label is None:
            return ("answers",) if task.reads == "questions" else (label_of(features),)
        return (self.label,) if isinstance(self.label, str) else self.label

    def _others(self) -> tuple[tuple[str | None, str], ...]:
        return (self.validation, "validation"), (self.test, "test")

    def _found(self) -> Any:
        datasets = library()
        folder = Path(self.path).expanduser()
        try:
            if (folder / "dataset_dict.json").is_file() or (folder / "state.json").is_file():
                return datasets.load_from_disk(str(folder))
            return datasets.load_dataset(self.path, self.configuration, revision=self.revision)
        except Exception as error:  # the library raises many kinds
            said = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise DataError(
                f"The data set {self.path!r} cannot be loaded ({said}). Check the name and the network; a folder must be "
                "one written by save_to_disk. Files of texts are for the source 'table', images in folders for "
                "'image-folder'."
            ) from error

    def _part(self, found: Mapping[str, Any], name: str) -> Any:
        if name not in found:
            hint = nearest(name, list(found))
            there = ", ".join(map(repr, found))
            raise DataError(f"{self.path} has no split {name!r}{'; ' + hint if hint else '.'} Its splits: {there}.")
        return found[name]

    def _other(self, found: Mapping[str, Any], name: str | None, usual: str, label: str) -> Any:
        if name is not None:
            return self._part(found, name)
        part = found.get(usual) if usual != self.train else None
        if part is None or not len(part):
            return None
        hidden = label not in part.column_names or all(one in (-1, None) for one in part[label])
        if hidden:  # benchmarks hide the labels of their tests
            log.warning(
                "%s: the split %r has no labels and is not used; rows of %r serve", self.path, usual, self.train
            )
            return None
        return part

"""Data sets of the Hugging Face library: from the hub or a folder that it saved."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from limbeck.config import Config
from limbeck.data.raw import Raw, Side, images_of, log, named, rows_of, whole_texts
from limbeck.errors import DataError, nearest


class HuggingFace(Config):
    """A data set of images or texts with one label a row. Code from the hub is never run."""

    name: Literal["huggingface"] = "huggingface"
    """The kind of source."""
    path: str
    """A name on the hub, or a folder written by ``save_to_disk``."""
    configuration: str | None = None
    """Which configuration, where the data set has several."""
    revision: str | None = None
    """The commit, branch or tag on the hub."""
    input: str | None = None
    """The column of images or texts; null: the only one of its kind."""
    label: str | None = None
    """The column of labels; null: the only one of classes, else ``label``."""
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

    def load(self) -> Raw:
        """The rows.

        Raises:
            DataError: the library, the data set, a split or a column is missing, or it is neither images nor texts.
        """
        found = self._found()
        if not isinstance(found, Mapping):
            found = {self.train: found}
        train = self._part(found, self.train)
        label = self.label or _label_of(train.features)
        others = [self._other(found, name, usual, label) for name, usual in self._others()]
        return raw_of([train, *others], self.input, label, self.path, size=self.size, channels=self.channels)

    def _others(self) -> tuple[tuple[str | None, str], ...]:
        return (self.validation, "validation"), (self.test, "test")

    def _found(self) -> Any:
        library = _library()
        folder = Path(self.path).expanduser()
        try:
            if (folder / "dataset_dict.json").is_file() or (folder / "state.json").is_file():
                return library.load_from_disk(str(folder))
            return library.load_dataset(self.path, self.configuration, revision=self.revision)
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
        if label not in part.column_names or set(part[label]) <= {
            -1,
            None,
        }:  # benchmarks hide the labels of their tests
            log.warning(
                "%s: the split %r has no labels and is not used; rows of %r serve", self.path, usual, self.train
            )
            return None
        return part


def raw_of(
    parts: Sequence[Any],
    column: str | None,
    label: str | None,
    name: str,
    classes: Sequence[str] | None = None,
    size: int | tuple[int, int] | None = None,
    channels: int | None = None,
) -> Raw:
    """Train, validation and test as datasets of the library, the latter two or None, in one.

    ``column``: of images or texts; ``label``: of labels; None: the only one that it can be. ``classes``: their names, if
    the column of labels does not know them. ``size``, ``channels``: see `images_of`. ``name``: for errors.

    Raises:
        DataError: a column is missing, or it is neither images nor texts.
    """
    library = _library()
    features = parts[0].features
    label = label or _label_of(features)
    present = [part for part in parts if part is not None]
    fitting = [key for key, kind in features.items() if key != label and (_is_image(kind) or _is_text(kind))]
    chosen = column or (fitting[0] if len(fitting) == 1 else None)
    if chosen is None:
        raise DataError(
            f"{name} has {len(fitting)} columns of images or texts, not one: name it, 'input: "
            f"{' or '.join(fitting) or '...'}'. Its columns: {', '.join(features)}."
        )
    for key in (chosen, label):
        if any(key not in part.column_names for part in present):
            hint = nearest(key, list(features))
            raise DataError(
                f"{name} has no column {key!r}{'; ' + hint if hint else '.'} Its columns: {', '.join(features)}."
            )
    if not (_is_image(features[chosen]) or _is_text(features[chosen])):
        raise DataError(f"{name}: the column {chosen!r} holds {features[chosen]}, neither images nor texts.")
    known = features[label].names if hasattr(features[label], "names") else classes
    labels = [list(part[label]) for part in present]
    images = _is_image(features[chosen])
    items: Any = []
    if images:
        encoded = [part.cast_column(chosen, library.Image(decode=False)) for part in present]
        items = images_of(_Encoded(encoded, chosen), size, channels)
    else:
        pairs = [whole_texts(list(part[chosen]), theirs, name) for part, theirs in zip(present, labels, strict=True)]
        labels = [theirs for _, theirs in pairs]
        items = [text for texts, _ in pairs for text in texts]
    numbers, names = named([one for theirs in labels for one in theirs], name, known)
    rows = iter(rows_of([len(theirs) for theirs in labels]))
    _, validation, test = (next(rows) if part is not None else None for part in parts)
    return Raw("images" if images else "texts", items, numbers, names, validation, test, name)


def _label_of(features: Mapping[str, Any]) -> str:
    classes = [key for key, kind in features.items() if hasattr(kind, "names")]
    return classes[0] if len(classes) == 1 else "label"


def _is_image(kind: Any) -> bool:
    return type(kind).__name__ == "Image"


def _is_text(kind: Any) -> bool:
    return getattr(kind, "dtype", None) in ("string", "large_string")


class _Encoded(Sequence[Any]):
    """The encoded images of several datasets, one after the other, read on demand."""

    def __init__(self, parts: Sequence[Any], column: str) -> None:
        self.parts = parts
        self.column = column

    def __len__(self) -> int:
        return sum(len(part) for part in self.parts)

    def __getitem__(self, row: Any) -> Any:
        for part in self.parts:
            if row < len(part):
                return part[row][self.column]
            row -= len(part)
        raise IndexError(row)


def _library() -> Any:
    try:
        import datasets
    except ImportError as error:
        raise DataError(f'This needs the library datasets ({error}): pip install "limbeck[datasets]"') from error
    logging.getLogger("datasets").setLevel(logging.ERROR)
    return datasets

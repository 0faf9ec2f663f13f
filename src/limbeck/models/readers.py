"""The reader of a delivered student: written into its folder and read from there."""

import importlib
import json
from pathlib import Path
from typing import Any, Final

from limbeck.config import Config
from limbeck.data.reader import Reader
from limbeck.data.tokenizers import tokenizer_of
from limbeck.errors import LimbeckError
from limbeck.models.huggingface import reading

_KNOWN: Final = {
    "images": "limbeck.data.images:ImageReader",
    "text": "limbeck.data.text:TextReader",
    "tensors": "limbeck.data.tensors:TensorReader",
}
_HERE: Final = "."  # as a tokenizer's path: the folder itself


def save_reader(reader: Reader, folder: Path) -> dict[str, Any]:
    """The reader as JSON values; a tokenizer's files are written into ``folder``."""
    if not isinstance(reader, Config) or getattr(reader, "name", None) not in _KNOWN:
        return {"kind": "in-memory", "class": type(reader).__qualname__, "fingerprint": reader.fingerprint}
    value = reader.plain()
    if "tokenizer" in value:
        with reading(value["tokenizer"]):
            tokenizer = tokenizer_of(value["tokenizer"])
            tokenizer.init_kwargs.pop("name_or_path", None)  # where it came from is not delivered
            tokenizer.name_or_path = ""
            tokenizer.save_pretrained(folder)
        value["tokenizer"] = _HERE
    return {"kind": "config", "value": value}


def load_reader(told: dict[str, Any], folder: Path, reader: Reader | None) -> Reader:
    """The reader that `save_reader` told of; ``reader`` if it was in memory.

    Raises:
        LimbeckError: it was in memory, and none was passed or another one; or its tokenizer is somewhere else.
    """
    if told["kind"] == "config":
        value = dict(told["value"])
        if "tokenizer" in value:
            if value["tokenizer"] != _HERE:
                raise LimbeckError(
                    f"The student in '{folder}' names a tokenizer that is not in its folder ({value['tokenizer']!r}), which no "
                    "student that limbeck wrote does: nothing was read. Ask whoever gave it to you for a whole one."
                )
            value["tokenizer"] = str(folder.absolute())
        module, _, name = _KNOWN[value["name"]].partition(":")
        kind: Any = getattr(importlib.import_module(module), name)
        known: Reader = kind.model_validate_json(json.dumps(value))
        return known
    if reader is None:
        raise LimbeckError(
            f"The student in '{folder}' reads its inputs with a {told['class']} that was in memory when it was "
            "trained: pass one like it, load_student(folder, reader=...)."
        )
    if reader.fingerprint != told["fingerprint"]:
        raise LimbeckError(f"The reader passed for '{folder}' prepares its inputs otherwise than the saved one.")
    return reader

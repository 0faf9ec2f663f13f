"""The export that the transformers library reads."""

import copy
import json
import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from limbeck.config import Config
from limbeck.data.tokenizers import quiet
from limbeck.errors import LimbeckError
from limbeck.export.about import write_sidecar
from limbeck.export.proof import Proof, difference
from limbeck.export.sentences import write_sentences
from limbeck.files import write_json
from limbeck.models.architecture import is_transformers
from limbeck.models.factorised import multiplied
from limbeck.models.huggingface import auto_class, forget_origin, head_of
from limbeck.models.pooled import Pooled
from limbeck.models.readers import load_reader
from limbeck.models.spec import BuildContext
from limbeck.models.student import Student

log = logging.getLogger(__name__)
_TOKENIZER: Final = "tokenizer_config.json"
_ROUNDING: Final = 1e-4  # float32 sums in another order, through all layers; as for ONNX


def write(student: Student, folder: Path, samples: Sequence[Any], seconds: float) -> Proof:
    """Writes model, tokenizer and class names, and reads them with the Auto classes; see `limbeck.export.export`.

    Factorised embeddings are multiplied out, which is exact to rounding, and the log says so.

    Raises:
        LimbeckError: the student is not a model of the transformers library.
    """
    module: Any = multiplied(student.module)
    pool = module.pool if isinstance(module, Pooled) else None
    model: Any = module.encoder if isinstance(module, Pooled) else module
    if not is_transformers(model):
        raise LimbeckError(
            f"The student is a {type(model).__qualname__}, which the transformers library does not know: "
            "export it as safetensors or onnx."
        )
    columns = student.reader.encode(samples[:1])
    given = student.logits(samples)
    context = BuildContext(len(student.classes), columns, student.classes, task=student.task)
    auto, most = auto_class(context), getattr(student.reader, "max_length", None)
    forget_origin(model)
    model.config = copy.deepcopy(model.config)
    for key, value in head_of(context).items():
        setattr(model.config, key, value)
    with quiet():
        model.save_pretrained(folder)
        for file in folder.glob("*.safetensors"):
            file.chmod(0o644)  # it is written for its owner alone
        if pool:
            write_sentences(folder, given.shape[-1], pool, most)
        told = write_sidecar(student, folder, columns, {})
        if most is not None and (folder / _TOKENIZER).is_file():
            _tell_length(folder / _TOKENIZER, most)
        # The same attention kernel, or equal weights would not give equal bits.
        again = auto.from_pretrained(
            folder,
            local_files_only=True,
            attn_implementation=model.config._attn_implementation,
            dtype=model.dtype,
        )
        again = Pooled(again, pool) if pool else again
    reader = load_reader(told["reader"], folder, None if isinstance(student.reader, Config) else student.reader)
    loaded = replace(student, module=again.eval(), reader=reader)
    allowed = 0.0
    if module is not student.module:
        log.warning("The two factors of the embeddings were multiplied out: transformers has no model with factors.")
        allowed = _ROUNDING * max(1.0, float(given.abs().max()))
    return Proof(difference(loaded.logits(samples), given), allowed, {})


def _tell_length(path: Path, max_length: int) -> None:
    """A tokenizer's own settings cut texts where the student's reader does, for who asks for ``truncation=True``."""
    settings = json.loads(path.read_text(encoding="utf-8"))
    write_json(path, settings | {"model_max_length": max_length, "truncation_side": "right"})

"""The three small files by which sentence-transformers reads an encoder as a model of vectors."""

from pathlib import Path
from typing import Final

from limbeck.files import write_json
from limbeck.models.pooled import Pool

_MODULES: Final = "sentence_transformers.models"


def write_sentences(folder: Path, width: int, pool: Pool, max_length: int | None) -> None:
    """Writes them beside a model of transformers.

    ``width``: of a vector. ``max_length``: tokens after which a text is cut, if that is known.
    """
    modules = [("", "Transformer"), ("1_Pooling", "Pooling")]
    listed = [
        {"idx": place, "name": str(place), "path": path, "type": f"{_MODULES}.{kind}"}
        for place, (path, kind) in enumerate(modules)
    ]
    (folder / "1_Pooling").mkdir()
    write_json(folder / "modules.json", listed)
    write_json(folder / "sentence_bert_config.json", {"max_seq_length": max_length, "do_lower_case": False})
    pooling = {"word_embedding_dimension": width, "pooling_mode_cls_token": pool == "first"}
    write_json(folder / "1_Pooling" / "config.json", pooling | {"pooling_mode_mean_tokens": pool == "mean"})

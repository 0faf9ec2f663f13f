"""Models from elsewhere are read, never run: no pickles, no code that comes with them."""

from pathlib import Path

from limbeck.errors import DataError


def demand_safetensors(name: str, place: str) -> None:
    """The model ``name`` in the folder ``place`` has weights that can be read without running anything.

    Raises:
        DataError: it has them in a pickle alone.
    """
    pickles = sorted(Path(place).glob("pytorch_model*.bin"))
    if not pickles or any(Path(place).glob("*.safetensors")):
        return
    raise DataError(
        f"{name!r} has its weights in a pickle ({pickles[0].name}), which could run any code when it is read, so it is not. "
        "Convert it once, in that folder; this reads nothing but tensors: python -c "
        '"import torch; from safetensors.torch import save_file; '
        f"save_file({{name: value.clone() for name, value in torch.load('{pickles[0].name}', weights_only=True).items()}}, "
        "'model.safetensors', {'format': 'pt'})\""
    )


def own_code(name: str, error: Exception) -> str | None:
    """That ``name`` cannot be read without code that comes with it, if that is what ``error`` says."""
    if "trust_remote_code" not in str(error):
        return None
    return (
        f"{name!r} comes with code of its own, which is never run here: choose a model of an architecture that transformers "
        "has, or load it yourself, where you trust it, and give it to limbeck.distill in Python."
    )

"""How a delivered module is built again, without its teacher, the network, or the files that it started from."""

import copy
from pathlib import Path
from typing import Any, cast

from torch import nn

from limbeck.config import digest
from limbeck.data.tokenizers import library, quiet
from limbeck.errors import LimbeckError
from limbeck.models import factorised, identity
from limbeck.models.adapters import merged
from limbeck.models.depth import take_layers
from limbeck.models.exits import Exits
from limbeck.models.huggingface import forget_origin
from limbeck.models.nets import NETS, again
from limbeck.models.peers import Peers
from limbeck.models.pooled import Pooled
from limbeck.models.python import Python
from limbeck.models.spec import BuildContext, Spec

CONFIG = "config.json"
GENERATION = "generation_config.json"


def is_transformers(module: nn.Module) -> bool:
    """Whether the class of the module is one of the transformers library itself."""
    return type(module).__module__.startswith("transformers.") and hasattr(module, "save_pretrained")


def describe(module: nn.Module, spec: Spec | None, folder: Path) -> dict[str, Any]:
    """The architecture as JSON values; a transformers model's config is written into ``folder``."""
    kind = next((name for name, net in NETS.items() if type(module) is net), None)
    if kind:
        return {"kind": "net", "net": kind, "settings": module.settings, "taken": getattr(module, "taken_layers", [])}
    if is_transformers(module):
        config: Any = copy.deepcopy(module.config)
        config._name_or_path = ""
        config.architectures = [type(module).__name__]
        config.save_pretrained(folder)
        if getattr(module, "generation_config", None) is not None:  # how it writes is not all in the config
            settings: Any = module.generation_config
            settings.to_json_file(folder / GENERATION)
        return {"kind": "transformers", "class": type(module).__name__, "embedding-rank": factorised.rank_of(module)}
    if isinstance(module, Pooled):
        return {"kind": "pooled", "pool": module.pool, "encoder": describe(module.encoder, None, folder)}
    if isinstance(module, Peers):
        several = [describe(peer, spec, folder / f"peer-{place}") for place, peer in enumerate(module.peers)]
        return {"kind": "peers", "peers": several, "numbers": module.numbers}
    if isinstance(module, Exits):
        inner = describe(module.model, spec, folder / "model")
        return {"kind": "exits", "model": inner, "settings": module.settings}
    if isinstance(spec, Python):
        return {"kind": "python", "target": spec.target, "arguments": spec.arguments}
    return {"kind": "given", "class": type(module).__qualname__, "seen": _seen(module)}


def rebuild(told: dict[str, Any], folder: Path, module: nn.Module | None) -> nn.Module:
    """The module that `describe` told of, with any weights; a copy of ``module`` if one is passed.

    Raises:
        LimbeckError: it can only be built by its owner and no ``module`` was passed, or it is another architecture.
    """
    if module is not None:
        module = merged(module)
        if told["kind"] == "given" and told["seen"] != _seen(module):
            raise LimbeckError(
                f"The module passed for '{folder}' ({type(module).__qualname__}) is built otherwise than the saved one "
                f"({told['class']}): its layers or settings differ."
            )
        return copy.deepcopy(module)
    if told["kind"] == "net":
        net = again(told["net"], told["settings"])
        for path, layers in told["taken"]:
            net = take_layers(net, tuple(layers), path)
        return net
    if told["kind"] == "transformers":
        kind: Any = getattr(library(), told["class"], None)
        if not (isinstance(kind, type) and issubclass(kind, library().PreTrainedModel)):
            raise LimbeckError(f"The installed transformers library has no model class {told['class']!r}.")
        with quiet():
            model: Any = kind(library().AutoConfig.from_pretrained(folder, trust_remote_code=False))
            if (folder / GENERATION).is_file():
                model.generation_config = library().GenerationConfig.from_pretrained(folder)
        forget_origin(model)
        rank, found = told.get("embedding-rank"), cast(nn.Module, model)
        return factorised.again(found, rank) if rank else found
    if told["kind"] == "pooled":
        return Pooled(rebuild(told["encoder"], folder, None), told["pool"])
    if told["kind"] == "peers":
        several = [rebuild(one, folder / f"peer-{place}", None) for place, one in enumerate(told["peers"])]
        return Peers(several, told["numbers"])
    if told["kind"] == "exits":
        return Exits.of(rebuild(told["model"], folder / "model", None), told["settings"])
    if told["kind"] == "python":
        return Python(target=told["target"], arguments=told["arguments"]).create(BuildContext(0, {}))
    raise LimbeckError(
        f"The student in '{folder}' is a {told['class']} that was in memory when it was trained, so its code is not in "
        "the folder: pass one like it, limbeck.load(folder, module=...)."
    )


def _seen(module: nn.Module) -> str:
    shown, _, settings, config = identity.architecture(module)
    return digest([shown, settings, config])

"""What a module is: a fingerprint of its code, settings and weights, and its size."""

import ast
import hashlib
import inspect
import json
import textwrap
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from torch import nn

from limbeck.config import digest
from limbeck.data.fingerprint import tensors
from limbeck.signals.capture import bare

# Where a transformers model came from and who wrote it does not change what it computes. Saving writes down "dtype",
# which the weights say themselves.
_ORIGIN = frozenset({"_name_or_path", "name_or_path", "transformers_version", "architectures", "dtype"})


def of_module(module: nn.Module) -> str:
    """The fingerprint of a module: 64 hexadecimal digits, the same before and after saving.

    It covers the printed architecture, the code of every class that is not torch's own, plain settings such as a number
    of heads, the config of a transformers model, and every parameter and buffer. The mode (train or eval), the device
    and ``requires_grad`` do not enter.
    """
    module = bare(module)
    weights = dict(module.named_parameters(remove_duplicate=False)) | dict(module.named_buffers(remove_duplicate=False))
    return digest([*architecture(module), tensors(weights)])


def architecture(module: nn.Module) -> list[Any]:
    """The printed form, code and settings of a module as JSON values: all that a fingerprint covers but the weights."""
    kinds: set[Any] = {type(part) for part in module.modules()}
    codes = {f"{kind.__module__}.{kind.__qualname__}": _code(kind) for kind in kinds if not _torch(kind)}
    settings = {path: _settings(part) for path, part in module.named_modules()}
    config: Any = getattr(module, "config", None)
    written = config.to_dict() if hasattr(config, "to_dict") else {}
    kept = {key: value for key, value in written.items() if key not in _ORIGIN}
    # Reading a config again may change the order of its entries.
    kept = json.loads(json.dumps(kept, default=repr)) if kept else {}
    return [repr(module), codes, {path: own for path, own in settings.items() if own}, kept]


def parameters(module: nn.Module) -> int:
    """How many numbers are learnt; tied weights count once."""
    return sum(parameter.numel() for parameter in module.parameters())


def _torch(kind: type) -> bool:
    return kind.__module__.partition(".")[0] == "torch"


@lru_cache(maxsize=512)
def _code(kind: Any) -> str:
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(kind)))
        return hashlib.sha256(ast.unparse(tree).encode()).hexdigest()  # unparsed: comments and layout do not matter
    except (OSError, TypeError, SyntaxError):  # typed into a prompt: no source
        code = getattr(kind.forward, "__code__", None)
        return f"{code.co_code.hex()} {code.co_names}" if code else ""


def _settings(part: nn.Module) -> Mapping[str, Any]:
    def plain(value: Any) -> bool:
        return isinstance(value, bool | int | float | str) or (
            isinstance(value, tuple | list) and all(isinstance(item, bool | int | float | str) for item in value)
        )

    hidden, own = _ORIGIN | {"training"}, vars(part)
    found = {key: repr(value) for key, value in own.items() if key[0] != "_" and key not in hidden and plain(value)}
    if isinstance(own.get("scaling"), dict):  # what an adapter's product is multiplied with, by the adapter's name
        found["scaling"] = repr(own["scaling"])
    return found

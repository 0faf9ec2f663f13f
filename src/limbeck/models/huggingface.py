"""Models of the transformers library, from a folder, an installed package or the hub."""

import importlib.util
import logging
import os
import socket
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from torch import nn

from limbeck.errors import LimbeckError
from limbeck.models.spec import BuildContext, Spec

PACKAGE = "package:"


class HuggingFace(Spec):
    """A transformers model with its weights. Images or text follow from the data; code from the hub is never run."""

    name: Literal["huggingface"] = "huggingface"
    path: str
    """A folder, a name on the hub, or ``package:<name>/<folder>`` inside an installed package."""
    revision: str | None = None
    """The commit, branch or tag on the hub."""
    trained_head: bool = False
    """Whether the checkpoint must hold a classifier of exactly these classes; else a head that does not fit is new."""

    @property
    def tokenizer(self) -> str:
        """The model's own."""
        return self.path

    def create(self, context: BuildContext) -> nn.Module:
        """The classifier; its head is new if the checkpoint has none of this size.

        Raises:
            LimbeckError: not found, or no network; or ``trained_head`` and the head is not that of these classes.
        """
        place, auto = resolve(self.path), auto_class(context)
        options: dict[str, Any] = {"revision": self.revision} if self.revision else {}
        with reading(self.path):
            if not Path(place).is_dir() and _unreachable():
                options["local_files_only"] = True  # else the hub client waits for half a minute
            config = library().AutoConfig.from_pretrained(place, trust_remote_code=False, **options)
            written = dict(getattr(config, "id2label", None) or {})
            module, info = auto.from_pretrained(
                place,
                trust_remote_code=False,
                ignore_mismatched_sizes=True,
                output_loading_info=True,
                **labels(context.names),
                **options,
            )
        if self.trained_head:
            _demand_head(self.path, info, written, context.names)
        forget_origin(module)
        return module  # type: ignore[no-any-return]


def resolve(path: str) -> str:
    """A model's or tokenizer's folder or hub name; ``package:<name>/<folder>`` is found without importing the package.

    Raises:
        LimbeckError: the package is not installed, or the folder does not exist.
    """
    if path.startswith(PACKAGE):
        package, _, inside = path[len(PACKAGE) :].partition("/")
        spec = importlib.util.find_spec(package) if package.isidentifier() else None
        if spec is None or not spec.submodule_search_locations:
            command = f"pip install {package.replace('_', '-')}"
            raise LimbeckError(f"{path!r}: the package {package!r} is not installed. Install it with: {command}")
        folder = Path(next(iter(spec.submodule_search_locations))) / inside
        if not folder.is_dir():
            raise LimbeckError(f"{path!r}: the package {package!r} has no folder {inside!r}.")
        return str(folder)
    folder = Path(path).expanduser()
    if folder.is_dir():
        return str(folder)
    if path.startswith((".", "/", "~")) or path.count("/") > 1:
        raise LimbeckError(f"There is no folder {path!r} to read a model from.")
    return path


def library() -> Any:
    """The transformers library, imported when it is first needed.

    Raises:
        LimbeckError: it is not installed.
    """
    try:
        import transformers
    except ImportError as error:
        raise LimbeckError(f'This needs transformers ({error}): pip install "limbeck[text]"') from error
    return transformers


def auto_class(context: BuildContext) -> Any:
    """The transformers class for the columns: images or text.

    Raises:
        LimbeckError: the columns are of neither kind.
    """
    if "pixel_values" in context.sample:
        return library().AutoModelForImageClassification
    if "input_ids" in context.sample:
        return library().AutoModelForSequenceClassification
    raise LimbeckError(
        f"A transformers model reads 'pixel_values' or 'input_ids', but the data has {sorted(context.sample)}."
    )


def labels(names: tuple[str, ...]) -> dict[str, Any]:
    """What a transformers config says about classes."""
    return {
        "num_labels": len(names),
        "id2label": dict(enumerate(names)),
        "label2id": {name: index for index, name in enumerate(names)},
    }


def forget_origin(module: nn.Module) -> None:
    """Drops the folder or hub name that a transformers model remembers: it would be delivered with the model."""
    config: Any = getattr(module, "config", None)
    if hasattr(config, "_name_or_path"):
        config._name_or_path = ""
    if hasattr(module, "name_or_path"):
        module.name_or_path = ""  # type: ignore[assignment]


@contextmanager
def quiet() -> Iterator[None]:
    """No progress bars, loading reports or warnings from transformers and the hub client; put back afterwards."""
    transformers = library()
    hub = logging.getLogger("huggingface_hub")
    level, bars, before = (
        transformers.logging.get_verbosity(),
        transformers.logging.is_progress_bar_enabled(),
        hub.level,
    )
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    hub.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        transformers.logging.set_verbosity(level)
        hub.setLevel(before)
        if bars:
            transformers.logging.enable_progress_bar()


@contextmanager
def reading(path: str) -> Iterator[None]:
    """Quiet reading of ``path``; what goes wrong becomes one paragraph that names it."""
    with quiet():
        try:
            yield
        except (OSError, ValueError, KeyError, RuntimeError) as error:
            reason = " ".join(str(error).split()) or type(error).__name__
            advice = (
                ""
                if path.startswith(PACKAGE) or Path(path).expanduser().is_dir()
                else (
                    " It was looked for on the Hugging Face hub, since there is no such folder: check the name and the "
                    "network, or name a folder."
                )
            )
            raise LimbeckError(f"The model {path!r} could not be read: {reason[:400]}{advice}") from error


def _unreachable() -> bool:
    if any(os.environ.get(name) for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy")):
        return False
    address = os.environ.get("HF_ENDPOINT", "https://huggingface.co")
    host = address.partition("://")[2].partition("/")[0].partition(":")[0]
    try:
        socket.getaddrinfo(host, None)
    except OSError:
        return True
    return False


def _demand_head(path: str, info: dict[str, Any], written: dict[int, str], names: tuple[str, ...]) -> None:
    new = sorted({*info["missing_keys"], *(str(item[0]) for item in info["mismatched_keys"])})
    if new:
        raise LimbeckError(
            f"The model {path!r} has no trained classifier for {len(names)} classes ({', '.join(new[:4])} would be "
            f"new): train it first, or leave out 'trained-head'."
        )
    order = tuple(written[index] for index in sorted(written))
    if order != names and sorted(order) == sorted(names):
        raise LimbeckError(
            f"The model {path!r} has its classes in the order {list(order)}, the data in the order {list(names)}: "
            "its logits would be read for the wrong classes."
        )

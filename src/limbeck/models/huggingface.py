"""Models of the transformers library, from a folder, an installed package or the hub."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from torch import nn

from limbeck.data.text import PACKAGE, library, missed, quiet, resolve, unreachable
from limbeck.errors import LimbeckError
from limbeck.models.spec import BuildContext, Spec


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
            if not Path(place).is_dir() and unreachable():
                options["local_files_only"] = True  # else the hub client waits for half a minute
            config = library().AutoConfig.from_pretrained(place, trust_remote_code=False, **options)
            written = dict(getattr(config, "id2label", None) or {})
            module, info = auto.from_pretrained(
                place,
                trust_remote_code=False,
                ignore_mismatched_sizes=True,
                output_loading_info=True,
                **labels(context.names),
                **context.task.head(),
                **options,
            )
        if self.trained_head:
            _demand_head(self.path, info, written, context.names)
        forget_origin(module)
        return module  # type: ignore[no-any-return]


def auto_class(context: BuildContext) -> Any:
    """The transformers class for the columns, images or text, and the task.

    Raises:
        LimbeckError: the columns are of neither kind, or the task is asked of texts only.
    """
    if "pixel_values" in context.sample:
        if context.task.reads != "texts":
            raise LimbeckError(f"The task {context.task.name!r} is asked of texts, but the data holds images.")
        return library().AutoModelForImageClassification
    if "input_ids" in context.sample:
        return getattr(library(), context.task.auto)
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
def reading(path: str) -> Iterator[None]:
    """Quiet reading of ``path``; what goes wrong becomes one paragraph that names it."""
    with quiet():
        try:
            yield
        except LimbeckError:
            raise
        except Exception as error:  # the libraries below raise many kinds
            if not (path.startswith(PACKAGE) or Path(path).expanduser().is_dir()):
                raise LimbeckError(missed(path, error)) from error
            reason = " ".join(str(error).split()) or type(error).__name__
            raise LimbeckError(f"{path!r} could not be read: {reason[:400]}") from error


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

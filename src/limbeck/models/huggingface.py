"""Models of the transformers library, from a folder, an installed package or the hub."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import model_validator
from torch import nn

from limbeck.data.task import Task
from limbeck.data.tokenizers import PACKAGE, library, missed, quiet, resolve, unreachable
from limbeck.data.trust import demand_safetensors, own_code
from limbeck.errors import LimbeckError
from limbeck.models.pooled import Pool, fitted_for
from limbeck.models.spec import BuildContext, Spec


class HuggingFace(Spec):
    """A transformers model with its weights. Images or text follow from the data; code from the hub is never run."""

    name: Literal["huggingface"] = "huggingface"
    path: str
    """A folder, a name on the hub, or ``package:<name>/<folder>`` inside an installed package."""
    gguf: str | None = None
    """A GGUF file in that folder or package: a language model of llama.cpp, read with its own tokenizer, dequantised to float32,
    and kept so under the limbeck home. The tokenizer's name elsewhere is ``<path>/<gguf>``."""
    revision: str | None = None
    """The commit, branch or tag on the hub."""
    trained_head: bool = False
    """Whether the checkpoint must hold a classifier of exactly these classes; else a head that does not fit is new."""
    pool: Pool | None = None
    """In the task ``vectors`` what a text's vector is made of: the ``mean`` of its tokens, or the ``first`` one, which some
    models (BGE, say) were trained for; ``mean`` if left out."""

    @model_validator(mode="after")
    def _settings_have_a_meaning(self) -> Self:
        if self.gguf is not None and not self.gguf.endswith(".gguf"):
            raise ValueError(f"'gguf' names a GGUF file, and {self.gguf!r} does not end in .gguf")
        if self.gguf is not None and self.revision is not None:
            raise ValueError(
                "'revision' is for the hub, and a GGUF file is read from a folder or a package: leave it out"
            )
        return self

    @property
    def called(self) -> str:
        """Its place."""
        return self.tokenizer

    @property
    def tokenizer(self) -> str:
        """The model's own."""
        return f"{self.path.rstrip('/')}/{self.gguf}" if self.gguf else self.path

    def finished(self, task: Task) -> Spec:
        """With ``trained_head``, if there is a head of the task."""
        return self.model_copy(update={"trained_head": True}) if task.new_head else self

    def create(self, context: BuildContext) -> nn.Module:
        """The model with the task's head, which is new if the checkpoint has none of this size; else with what it has.

        For vectors that is the encoder and its pooling, for next tokens the output over its vocabulary.

        Raises:
            LimbeckError: not found, or no network; or ``trained_head`` and the head is not that of these classes; or a setting
                that says nothing here.
        """
        idle = [
            ("pool", self.pool, context.task.gives == "vectors"),
            ("trained-head", self.trained_head, context.task.new_head),
        ]
        for what in (name for name, said, matters in idle if said and not matters):
            raise LimbeckError(f"'{what}' says nothing in the task {context.task.name!r}: leave it out.")
        place, auto = resolve(self.tokenizer), auto_class(context)
        options: dict[str, Any] = {"revision": self.revision} if self.revision else {}
        with reading(self.path):
            if not Path(place).is_dir() and unreachable():
                options["local_files_only"] = True  # else the hub client waits for half a minute
            config = library().AutoConfig.from_pretrained(place, trust_remote_code=False, **options)
            written = dict(getattr(config, "id2label", None) or {})
            if context.task.reads == "sources" and type(config) not in auto._model_mapping:
                raise LimbeckError(
                    f"The model {self.path!r} cannot turn a text into another: a {config.model_type!r} is no encoder with a "
                    "decoder, as bart, t5 and marian are. Write 'task: next-token' for a model that goes on with a text."
                )
            demand_safetensors(self.path, place)
            module, info = auto.from_pretrained(
                place,
                trust_remote_code=False,
                use_safetensors=True,
                ignore_mismatched_sizes=True,
                output_loading_info=True,
                **head_of(context),
                **options,
            )
        _demand_weights(self.path, module, info, context.task.new_head)
        if self.trained_head:
            _demand_head(self.path, info, written, context.names)
        forget_origin(module)
        return fitted_for(module, context, self.pool or "mean")


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


def head_of(context: BuildContext) -> dict[str, Any]:
    """What a transformers config says about the task."""
    return labels(context.names) | context.task.head() if context.task.new_head else context.task.head()


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
            if code := own_code(path, error):
                raise LimbeckError(code) from error
            if not (path.startswith(PACKAGE) or Path(path).expanduser().is_dir()):
                raise LimbeckError(missed(path, error)) from error
            reason = " ".join(str(error).split()) or type(error).__name__
            raise LimbeckError(f"{path!r} could not be read: {reason[:400]}") from error


def _demand_weights(path: str, module: nn.Module, info: dict[str, Any], new_head: bool) -> None:
    """The checkpoint has all but a new head: what it lacks would be random, and nobody would see it."""
    own = {name for name, _ in module.named_parameters()}
    body = f"{getattr(module, 'base_model_prefix', '')}."
    if not (new_head and any(name.startswith(body) for name in own)):  # there is nothing but the body
        body = ""
    lacking = {*info["missing_keys"], *(str(item[0]) for item in info["mismatched_keys"])} & own
    if new := sorted(name for name in lacking if name.startswith(body) and "pooler" not in name):
        raise LimbeckError(
            f"The weights in {path!r} are not those of the model that its config.json describes: {len(new)} are missing or of "
            f"another shape ({', '.join(new[:3])}{', ...' if len(new) > 3 else ''}), and would be random. Are config.json and "
            "weights of one checkpoint?"
        )


def _demand_head(path: str, info: dict[str, Any], written: dict[int, str], names: tuple[str, ...]) -> None:
    new = sorted({*info["missing_keys"], *(str(item[0]) for item in info["mismatched_keys"])})
    if new:
        other = (
            f"its own is for {len(written)} ({_some(written.values())})" if info["mismatched_keys"] else "it has none"
        )
        raise LimbeckError(
            f"The model {path!r} has no trained classifier for the data's {len(names)} classes ({_some(names)}): {other}, and "
            f"{', '.join(new[:4])} would be new. Train it on these classes first (in a recipe teacher.training)."
        )
    order = tuple(written[index] for index in sorted(written))
    if order != names and sorted(order) == sorted(names):
        raise LimbeckError(
            f"The model {path!r} has its classes in the order {list(order)}, the data in the order {list(names)}: "
            "its logits would be read for the wrong classes. Write the model's own numbers into the data's column of labels "
            "(0 for its first class, 1 for the next), or train its head anew."
        )


def _some(names: Iterable[str]) -> str:
    first = list(islice(names, 7))
    return ", ".join(map(repr, first[:6])) + (", ..." if len(first) > 6 else "")

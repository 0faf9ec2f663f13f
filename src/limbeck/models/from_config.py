"""Any architecture of the transformers library, with random weights."""

from collections.abc import Mapping
from typing import Any, Final, Literal

from pydantic import Field
from torch import Tensor, nn

from limbeck.data.batch import DECODED
from limbeck.data.tokenizers import library, quiet
from limbeck.errors import LimbeckError, nearest
from limbeck.models.huggingface import auto_class, head_of
from limbeck.models.pooled import fitted_for
from limbeck.models.spec import BuildContext, Spec

_SPECIAL: Final = tuple(f"{kind}_token_id" for kind in ("pad", "bos", "eos", "cls", "sep"))


class FromConfig(Spec):
    """A transformers model by its type and settings, with random weights: a classifier of images or texts, as the data is.

    ``{name: from-config, model-type: mobilebert, settings: {num_hidden_layers: 4}}``. What follows from the data (classes,
    number of tokens and the padding one, size and channels of images) is filled in, unless ``settings`` says otherwise.
    """

    name: Literal["from-config"] = "from-config"
    model_type: str
    """What transformers calls the architecture, such as ``mobilebert``."""
    settings: dict[str, Any] = Field(default_factory=dict)
    """Settings of its config, by the names that the config gives them; its defaults for the others."""

    def create(self, context: BuildContext) -> nn.Module:
        """The classifier.

        Raises:
            LimbeckError: no such type or setting, a type that does not classify what the data holds, or sizes that do not
                fit each other or the data.
        """
        auto = auto_class(context)
        known = library().models.auto.configuration_auto.CONFIG_MAPPING
        if self.model_type not in known:
            hint = nearest(self.model_type, list(known)) or f"there are {len(known)}, such as bert, mobilebert or vit."
            raise LimbeckError(f"transformers knows no model type {self.model_type!r}: {hint}")
        kind = known[self.model_type]
        if kind not in auto._model_mapping:
            able = sorted(one.model_type for one in auto._model_mapping)
            hint = nearest(self.model_type, able) or f"such as {', '.join(able[:6])}."
            what = "images" if "pixel_values" in context.sample else "texts"
            verb = {"sources": "turn", "sequences": "go on with"}.get(context.task.reads, "classify")
            what = "texts into others" if context.task.reads == "sources" else what
            raise LimbeckError(f"The model type {self.model_type!r} does not {verb} {what}; others do: {hint}")
        usual = kind()
        names = {*usual.to_dict(), *kind.attribute_map}
        if unknown := sorted(set(self.settings) - names):
            hint = nearest(unknown[0], sorted(names)) or f"it has {', '.join(sorted(vars(usual))[:8])}, ..."
            raise LimbeckError(f"The config of {self.model_type!r} has no setting {unknown[0]!r}: {hint}")
        given = {**_of_data(usual, context), **self.settings, **head_of(context)}
        try:
            with quiet():
                config = kind(**given)
                _demand_room(self.model_type, config, context)
                module: nn.Module = auto.from_config(config, trust_remote_code=False)
        except LimbeckError:
            raise
        except Exception as error:  # each config and model checks its sizes in its own way
            reason = " ".join(str(error).split())[:300] or type(error).__name__
            raise LimbeckError(f"A {self.model_type!r} cannot have these settings: {reason}") from error
        return fitted_for(module, context)


def _of_data(usual: Any, context: BuildContext) -> dict[str, Any]:
    """The settings that follow from the data, of those that the config has."""
    found: dict[str, Any] = {}
    if "pixel_values" in context.sample:
        _, channels, height, width = context.sample["pixel_values"].shape
        found = {"num_channels": channels, "image_size": height if height == width else (height, width)}
    elif context.vocabulary is not None:
        found["vocab_size"] = context.vocabulary
        for name in _SPECIAL:
            if (getattr(usual, name, None) or 0) >= context.vocabulary:
                found[name] = None  # of a larger vocabulary; a classifier has no use for it
        mask = context.sample.get("attention_mask")
        if mask is not None and (mask == 0).any():  # some models count positions by it
            found["pad_token_id"] = int(context.sample["input_ids"][mask == 0][0])
    own = {name: value for name, value in found.items() if hasattr(usual, name)}
    if DECODED in context.sample:  # which not every config says anything of, though every model of the kind asks it
        own["decoder_start_token_id"] = int(context.sample[DECODED][0, 0])
        own["eos_token_id"] = own["forced_eos_token_id"] = _end_of(context.sample)
    return own


def _end_of(sample: Mapping[str, Tensor]) -> int | None:
    """The token that every source ends with, if there is one."""
    ids, mask = sample["input_ids"], sample["attention_mask"]
    last = ids.gather(1, mask.sum(1, keepdim=True) - 1)
    return int(last[0]) if bool((last == last[0]).all()) else None


def _demand_room(name: str, config: Any, context: BuildContext) -> None:
    """Raises a `LimbeckError` where the data has tokens or lengths that the model has no vectors for."""
    ids = context.sample.get("input_ids")
    if ids is None:
        return
    tokens, positions = getattr(config, "vocab_size", None), getattr(config, "max_position_embeddings", None)
    largest, length = int(ids.max()), ids.shape[1]
    if (isinstance(tokens, int) and largest >= tokens) or (isinstance(positions, int) and length > positions > 0):
        raise LimbeckError(
            f"The {name!r} of these settings has {tokens} tokens and {positions} positions, but the data has a token "
            f"{largest} and texts of {length} tokens: raise 'vocab_size' or 'max_position_embeddings'."
        )

"""What a recipe's ``augment`` may be: how images vary, or one of the ways of writing texts anew."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Final

from pydantic import Discriminator, Tag

from limbeck.data.augment import Augment
from limbeck.data.writing.facts import Facts
from limbeck.data.writing.masked import MaskedWords
from limbeck.data.writing.rules import Rules
from limbeck.data.writing.translation import BackTranslation

_IMAGES: Final = "images"
_OWN: Final = frozenset(info.alias or name for name, info in Rules.model_fields.items())


def _kind(value: Any) -> str:
    """Which one is meant: by its name, else by the keys, as those of images and of rules are no others'."""
    if not isinstance(value, Mapping):
        return str(getattr(value, "name", _IMAGES))
    default = "rules" if _OWN & {str(key).replace("_", "-") for key in value} else _IMAGES
    return str(value.get("name", default))


if TYPE_CHECKING:
    Varied = Augment | Rules | Facts | MaskedWords | BackTranslation
else:
    Varied = Annotated[
        Annotated[Augment, Tag(_IMAGES)]
        | Annotated[Rules, Tag("rules")]
        | Annotated[Facts, Tag("facts")]
        | Annotated[MaskedWords, Tag("masked-words")]
        | Annotated[BackTranslation, Tag("back-translation")],
        Discriminator(_kind),
    ]

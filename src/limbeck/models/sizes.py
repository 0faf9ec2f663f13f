"""The sizes of a transformers model by its config: read, and set in a copy."""

import copy
from dataclasses import dataclass, replace
from typing import Any, Final

from torch import nn

from limbeck.errors import LimbeckError
from limbeck.models.remade import config_of, shapes

_INNER: Final = ("intermediate_size", "hidden_dim", "ffn_dim", "n_inner", "d_ff", "encoder_ffn_dim")
# Of some models as large as the hidden size, and tied to it.
_SAME: Final = ("embedding_size", "pooler_hidden_size", "word_embed_proj_dim")
_SHARED: Final = "num_key_value_heads"
_HEAD: Final = "head_dim"


@dataclass(frozen=True)
class Sizes:
    """What a model's layers are made of.

    ``hidden``: residual channels. ``heads``: query heads, of ``head`` channels each, of which ``shared`` share a key head.
    ``inner``: neurons of a feed-forward part. ``apart``: whether the number of heads can change while ``hidden`` does not.
    """

    hidden: int
    heads: int
    head: int
    shared: int
    inner: int
    apart: bool

    @property
    def units(self) -> int:
        """Heads that can be taken out: key heads, with the query heads that share them."""
        return self.heads // self.shared

    def parts(self, width: int) -> tuple[int, ...]:
        """What a map gives that gives ``width`` channels for each unit: queries, keys, values, or several of these."""
        queries = self.shared * self.head
        for parts in ((queries,), (self.head,), (queries, self.head, self.head), (self.head, self.head)):
            if sum(parts) == width:
                return parts
        return (width,)


def sizes_of(donor: nn.Module) -> Sizes:
    """The sizes of a transformers model.

    Raises:
        LimbeckError: its config has no hidden size, heads or inner size.
    """
    config = config_of(donor, "'hidden', 'heads' and 'intermediate'")
    for name in ("hidden_size", "num_attention_heads"):
        if not isinstance(getattr(config, name, None), int):
            raise LimbeckError(f"{type(config).__name__} has no number {name!r}, so its layers cannot be narrowed.")
    hidden, heads = config.hidden_size, config.num_attention_heads
    head = getattr(config, _HEAD, None) or hidden // heads
    shared = heads // (getattr(config, _SHARED, None) or heads)
    plain = Sizes(hidden, heads, head, shared, _inner(donor, config), apart=True)
    return plain if _apart(donor, plain) else replace(plain, head=hidden // heads, apart=False)


def resized(donor: nn.Module, sizes: Sizes, hidden: int, heads: int, inner: int) -> Any:
    """A copy of the donor's config with other sizes; a head keeps its size."""
    config: Any = donor.config
    changed = copy.deepcopy(config)
    for name in _SAME:
        if getattr(config, name, None) == sizes.hidden:
            setattr(changed, name, hidden)
    changed.hidden_size, changed.num_attention_heads = hidden, heads
    if sizes.apart and hidden != heads * sizes.head:
        changed.head_dim = sizes.head
    if getattr(config, _SHARED, None):
        changed.num_key_value_heads = heads // sizes.shared
    if (hidden, inner) != (sizes.hidden, sizes.inner):  # where it was left open it would follow the hidden size
        setattr(changed, inner_name(config), inner)
    return changed


def _apart(donor: nn.Module, sizes: Sizes) -> bool:
    """Whether one more key head makes nothing but the axes over heads larger, by their share."""
    try:
        more = shapes(donor, resized(donor, sizes, sizes.hidden, sizes.heads + sizes.shared, sizes.inner))
    except LimbeckError:  # such a model refuses: its hidden size is that of its heads
        return False
    own = donor.state_dict()
    if own.keys() != more.keys():
        return False
    pairs = [
        pair for name, value in own.items() for pair in zip(value.shape, more[name], strict=True) if len(set(pair)) > 1
    ]
    return bool(pairs) and all(before == (after - before) * sizes.units for before, after in pairs)


def inner_name(config: Any) -> str:
    """What the config calls the inner size of the feed-forward parts.

    Raises:
        LimbeckError: it has no such setting.
    """
    own = [name for name in _INNER if hasattr(config, name)]
    for name in (*(name for name in own if isinstance(getattr(config, name), int)), *own):
        return name
    raise LimbeckError(f"{type(config).__name__} has no inner size of feed-forward parts ({', '.join(_INNER)}).")


def _inner(donor: nn.Module, config: Any) -> int:
    """The inner size; where the config leaves it open, four times the hidden size, if that is what the model has."""
    name = inner_name(config)
    found: int | None = getattr(config, name)
    if found is not None:
        return found
    told, usual = copy.deepcopy(config), 4 * int(config.hidden_size)
    setattr(told, name, usual)
    if shapes(donor, told) != {key: tuple(value.shape) for key, value in donor.state_dict().items()}:
        raise LimbeckError(f"The config of {type(donor).__name__} does not say its inner size: set its {name!r}.")
    return usual

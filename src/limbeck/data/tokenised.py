"""The tokens of texts, by what a reader reads."""

from collections.abc import Sequence

from limbeck.data import items
from limbeck.data.items import Item
from limbeck.data.sequences import Sequences
from limbeck.data.text_settings import TextSettings
from limbeck.data.tokens import Apart, Tokens
from limbeck.data.turned import Turned


def tokenised(texts: Sequence[Item], reader: TextSettings) -> Tokens | Apart | Sequences | Turned:
    """The tokens of ``texts`` as ``reader`` reads them: of `items.Item` each whole, two texts by themselves, sequences, or texts
    that are to be turned into others.
    """
    if reader.reads == "sources":
        checked = [items.checked(text, row, "sources") for row, text in enumerate(texts)]
        plain = reader.model_copy(update={"reads": "texts"})
        return Turned(Tokens([source for source, _ in checked], plain), [target for _, target in checked], reader)
    if reader.reads == "sequences":
        return Sequences(texts, reader)
    return Apart(texts, reader) if reader.reads == "pairs" else Tokens(texts, reader)

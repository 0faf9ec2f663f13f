"""How texts become tokens: settings alone."""

import json
from typing import Literal

from pydantic import Field

from limbeck.config import Config, digest
from limbeck.data.task import Reads
from limbeck.data.tokenizers import begins_with, loaded


class TextSettings(Config):
    """How texts become tokens, by a tokenizer of the transformers library; code from the hub is never run."""

    name: Literal["text"] = "text"
    """The kind of reader."""
    tokenizer: str
    """A folder, a name on the hub, or ``package:<name>/<folder>`` inside an installed package."""
    max_length: int = Field(default=128, ge=2)
    """Tokens after which a text is cut, special ones included; of a pair of texts the longer one."""
    reads: Reads = "texts"
    """What an input is: a text or a pair of ``texts``; the ``words`` of one; of ``questions``, a question and a text, of
    which only the text is cut; of ``pairs``, two texts, each read by itself, or one; ``sequences``, what a language model
    goes on with; ``sources``, a text and what it is to be turned into."""

    @property
    def fingerprint(self) -> str:
        """Names the tokenizer's content and the length, wherever the tokenizer lies; of sequences, how it writes a chat and
        which token ends a text, too.

        Raises:
            DataError: there is no such tokenizer.
        """
        reads: list[str | int] = [] if self.reads == "texts" else [self.reads]
        if self.reads == "sources":
            reads.append(begins_with(self.tokenizer))
        known = loaded(self.tokenizer)
        if self.reads == "sequences":
            end, chat = known.tokenizer.eos_token_id, known.tokenizer.chat_template
            reads += [] if end in (None, known.pad) else [end]  # else it is named by the content
            reads += [] if chat is None else [json.dumps(chat), "to its end"]  # there may be several, by name
        return digest(["text", known.content, self.max_length, *reads])

    @property
    def vocabulary(self) -> int:
        """How many tokens there are, added ones included."""
        return len(loaded(self.tokenizer).tokenizer)

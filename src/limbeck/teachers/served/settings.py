"""What a recipe says of a served model: where it is, what it costs, and how fast it may be asked."""

import re
from typing import Annotated, Literal, Self
from urllib.parse import urlsplit

from pydantic import Field, field_validator, model_validator

from limbeck.config import Config

Price = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Above = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1)]


class Prices(Config):
    """What a million tokens cost, in any one currency."""

    input: Price
    """A million tokens that are sent."""
    output: Price
    """A million tokens that are written."""


class Limit(Config):
    """What may be spent in all, over every run that counts in the same folder. Nothing is sent that might pass it."""

    money: Above | None = None
    """In the currency of the prices; null: no limit."""
    tokens: Count | None = None
    """Sent and written; null: no limit."""


class Rate(Config):
    """What may be asked in any minute."""

    requests: Count | None = None
    """null: as many as the server takes."""
    tokens: Count | None = None
    """Sent, and at most to be written; null: as many as the server takes."""


class Manner(Config):
    """How a served model is asked for texts, in the regime ``sequence-level``."""

    by: Literal["chat", "completions"] = "chat"
    """A turn of a chat, in the model's own template, or what follows on the prompt as it is."""
    system: str | None = None
    """What a chat begins with; null: whatever the template says."""
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Tokens are drawn from the likeliest that have this much probability."""

    @model_validator(mode="after")
    def _system_in_a_chat(self) -> Self:
        if self.by == "completions" and self.system is not None:
            raise ValueError("'system' is said in a chat, and these texts are written by completions: leave it out")
        return self


class Served(Config):
    """A model behind the OpenAI-compatible protocol."""

    name: Literal["served"] = "served"
    """Chooses this teacher."""
    url: str
    """Where the protocol begins, such as http://127.0.0.1:8000/v1."""
    model: Annotated[str, Field(min_length=1)]
    """The model's name at the server."""
    revision: str = ""
    """Tells this model from others that a server gives the same name; change it whenever the weights behind the name do."""
    key_from: Annotated[str, Field(min_length=1)] | None = None
    """The environment variable that has the key, such as OPENAI_API_KEY; null: no key is sent."""
    logprobs: Literal["prompt", "written", "none"] = "prompt"
    """What it tells of its probabilities: those of every token of a text that it is sent (``prompt``, as vLLM does); of every
    token that it writes itself (``written``, as many do, in the regime ``sequence-level``); or nothing (``none``): then it
    writes texts alone, and its tokenizer may be any."""
    writes: Manner = Manner()
    """How it is asked for texts."""
    top: Count = 20
    """How many of the likeliest tokens are asked for at each position. vLLM gives 20, or what its --max-logprobs says."""
    least: Count = 1
    """A position with fewer of them than this is refused."""
    prices: Prices | None = None
    """What tokens cost; needed where money is limited."""
    limit: Limit = Limit()
    """What may be spent."""
    rate: Rate = Rate()
    """How fast the server may be asked."""
    concurrency: Annotated[int, Field(ge=1, le=256)] = 8
    """Requests at a time."""
    timeout: Above = 120.0
    """Seconds for one request, from its first byte to the answer's last."""
    retries: Annotated[int, Field(ge=0, le=20)] = 6
    """How often a request is sent again after an answer that may be better the next time."""

    @field_validator("url")
    @classmethod
    def _plain_address(cls, url: str) -> str:
        try:
            parts = urlsplit(url)
            sound = (
                parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
            )  # a port may not parse
        except ValueError:
            sound = False
        if not sound or any(letter.isspace() or not letter.isprintable() for letter in url):
            raise ValueError("allowed: an address such as http://127.0.0.1:8000/v1")
        return url.rstrip("/")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        parts = urlsplit(self.url)
        if parts.username or parts.password or parts.query or parts.fragment:  # here, where the address is not repeated
            raise ValueError("'url' must have no user, password, query or fragment; name a key by 'key-from'")
        if self.key_from is not None and not re.fullmatch("[A-Za-z_][A-Za-z0-9_]*", self.key_from):
            raise ValueError(
                "'key-from' names an environment variable, such as OPENAI_API_KEY; it is not the key itself"
            )
        if self.limit.money is not None and self.prices is None:
            raise ValueError("a limit in money needs 'prices': what a million input and output tokens cost")
        if self.least > self.top:
            raise ValueError(f"'least: {self.least}' is more than 'top: {self.top}' asks for")
        return self

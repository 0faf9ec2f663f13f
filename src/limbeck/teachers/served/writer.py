"""Texts that a served model writes: what a student learns from where a teacher shows nothing else."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Final, Literal, Self, cast

from pydantic import Field

from limbeck.config import Config, digest
from limbeck.errors import LimbeckError
from limbeck.teachers.served.answers import Answers
from limbeck.teachers.served.client import Client, Json, Unanswered
from limbeck.teachers.served.ledger import Ledger, Tokens
from limbeck.teachers.served.settings import Served

_AROUND: Final = 512  # tokens that a chat template may add
_LETTER, _ROOM = 16, 2**20  # bytes of a written token at most, and of the rest of an answer
_STOP: Final = "stop"


class Sampling(Config):
    """How texts are written."""

    by: Literal["chat", "completions"] = "chat"
    """A turn of a chat, in the model's own template, or what follows on the prompt as it is."""
    system: str | None = None
    """What a chat begins with; null: whatever the template says."""
    max_tokens: Annotated[int, Field(ge=1)] = 512
    """Tokens of a text at most."""
    samples: Annotated[int, Field(ge=1, le=128)] = 1
    """Texts for each prompt."""
    temperature: Annotated[float, Field(ge=0, le=2)] = 1.0
    """0 takes the likeliest token each time."""
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Tokens are drawn from the likeliest that have this much probability."""
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    """Given to the server, which may or may not honour it."""


@dataclass(frozen=True, slots=True)
class Written:
    """A text, and why it ended: ``stop``, ``length``, ``content_filter``, or what else the server says."""

    text: str
    finish: str

    @property
    def whole(self) -> bool:
        """Whether the model ended it: one that was cut or withheld teaches a wrong end, and is to be dropped."""
        return self.finish == _STOP


class ServedWriter:
    """A served model that writes. Prompts that are alike are asked once, and kept answers are not asked again.

    Args:
        served: which model, and how.
        sampling: how it writes.
        folder: where answers are kept and spending is counted; None: neither outlives the process.
        client: asks; by default one over ``served``.

    Raises:
        LimbeckError, Busy: as `ServedTeacher`.
    """

    def __init__(
        self, served: Served, sampling: Sampling, folder: Path | None = None, *, client: Client | None = None
    ) -> None:
        if sampling.by == "completions" and sampling.system is not None:
            raise LimbeckError("'system' is said in a chat, and these texts are written by completions: leave it out.")
        if sampling.samples > 1 and sampling.temperature == 0:
            raise LimbeckError(
                "At temperature 0 all samples are the same: raise 'temperature', or leave 'samples' out."
            )
        self._owned = Ledger(folder, served.limit, served.prices) if client is None else None
        try:
            self.client = client or Client(served, cast(Ledger, self._owned))
            said = self.client.described()
            self.fingerprint = digest(
                ["served", served.model, served.revision, said.get("root"), said.get("parent"), sampling]
            )
            self._answers = Answers(folder)
        except BaseException:
            if self._owned is not None:
                self._owned.close()
            raise
        self.sampling = sampling

    def write(self, prompts: Sequence[str]) -> list[list[Written]]:
        """For each prompt its samples.

        Raises:
            LimbeckError: as `Client.post`.
        """
        distinct = list(dict.fromkeys(prompts))
        written = self.client.each([partial(self._written, prompt) for prompt in distinct])
        by_prompt = dict(zip(distinct, written, strict=True))
        return [by_prompt[prompt] for prompt in prompts]

    def close(self) -> None:
        """Ends what it opened."""
        self._answers.close()
        if self._owned is not None:
            self._owned.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _written(self, prompt: str) -> list[Written]:
        key = digest([self.fingerprint, prompt])
        if (kept := self._answers.find(key)) is not None:
            return [Written(**one) for one in json.loads(kept)]
        own, chat = self.sampling, self.sampling.by == "chat"
        system = [] if own.system is None else [{"role": "system", "content": own.system}]
        asks = {"messages": [*system, {"role": "user", "content": prompt}]} if chat else {"prompt": prompt}
        body = {
            **asks,
            "max_tokens": own.max_tokens,
            "n": own.samples,
            "temperature": own.temperature,
            "top_p": own.top_p,
            "seed": own.seed,
        }

        def accept(answer: Json) -> list[Written]:
            texts = _texts(answer, own)
            self._answers.keep(key, json.dumps([asdict(one) for one in texts]).encode())
            return texts

        # A token is a byte at least, so a text has no more tokens than bytes.
        most_read = len(((own.system or "") + prompt).encode()) + _AROUND
        worst = Tokens(most_read, own.max_tokens * own.samples)
        path = "/chat/completions" if chat else "/completions"
        return self.client.post(path, body, worst, accept, _ROOM + worst.output * _LETTER * 6)


def _texts(answer: Json, sampling: Sampling) -> list[Written]:
    choices = answer.get("choices")
    if not isinstance(choices, list) or not choices:
        raise Unanswered("an answer without choices")
    found = []
    for choice in choices:
        try:
            text = choice["message"]["content"] if sampling.by == "chat" else choice["text"]
            found.append(Written("" if text is None else str(text), str(choice["finish_reason"])))
        except (KeyError, TypeError):
            raise Unanswered("a choice without a text and the reason of its end") from None
    if len(found) < sampling.samples:
        raise LimbeckError(
            f"The served model wrote {len(found)} of the {sampling.samples} texts that one request asked for: the server takes "
            "no number of samples. Ask for one, under several seeds."
        )
    return found[: sampling.samples]

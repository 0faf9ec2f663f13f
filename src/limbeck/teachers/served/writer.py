"""Texts that a served model writes: what a student learns from where a teacher shows nothing else."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, Final

from pydantic import Field

from limbeck.config import digest
from limbeck.errors import LimbeckError
from limbeck.teachers.author import Step
from limbeck.teachers.served import steps
from limbeck.teachers.served.account import Account
from limbeck.teachers.served.client import Json, Unanswered
from limbeck.teachers.served.ledger import Tokens
from limbeck.teachers.served.settings import Manner

_AROUND: Final = 512  # tokens that a chat template may add
_LETTER, _ENTRY, _ROOM = (
    16,
    256,
    2**20,
)  # bytes of a token, and of its log-probability, at most; of the rest of an answer
MOST_SAMPLES: Final = 128
WARMEST: Final = 2.0
_STOP: Final = "stop"


class Sampling(Manner):
    """How texts are written, and how many."""

    max_tokens: Annotated[int, Field(ge=1)] = 512
    """Tokens of a text at most."""
    samples: Annotated[int, Field(ge=1, le=MOST_SAMPLES)] = 1
    """Texts for each prompt."""
    temperature: Annotated[float, Field(ge=0, le=WARMEST)] = 1.0
    """0 takes the likeliest token each time."""
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    """Given to the server, which may or may not honour it."""


@dataclass(frozen=True, slots=True)
class Written:
    """A text, and why it ended: ``stop``, ``length``, ``content_filter``, or what else the server says. ``steps``: if asked."""

    text: str
    finish: str
    steps: tuple[Step, ...] = ()

    @property
    def whole(self) -> bool:
        """Whether the model ended it: one that was cut or withheld teaches a wrong end, and is to be dropped."""
        return self.finish == _STOP

    def plain(self) -> dict[str, Any]:
        """As JSON."""
        told = {"steps": steps.packed(self.steps)} if self.steps else {}
        return {"text": self.text, "finish": self.finish, **told}

    @classmethod
    def of(cls, content: Mapping[str, Any]) -> "Written":
        """What `plain` made JSON of."""
        return cls(content["text"], content["finish"], steps.unpacked(content.get("steps", ())))


class ServedWriter:
    """A served model that writes. Prompts that are alike are asked once, and kept answers are not asked again.

    Args:
        account: with the model.
        sampling: how it writes.
        top: of how many of the likeliest tokens it tells the log-probabilities, at each that it writes; 0: of none.
    """

    def __init__(self, account: Account, sampling: Sampling, top: int = 0) -> None:
        if sampling.samples > 1 and sampling.temperature == 0:
            raise LimbeckError(
                "At temperature 0 all samples are the same: raise 'temperature', or leave 'samples' out."
            )
        served, said, told = account.served, account.said, [top] * (top > 0)
        self.fingerprint = digest(
            ["served", served.model, served.revision, said.get("root"), said.get("parent"), sampling, *told]
        )
        self._account, self.sampling, self._top = account, sampling, top

    def write(self, prompts: Sequence[str]) -> list[list[Written]]:
        """For each prompt its samples.

        Raises:
            LimbeckError: as `Client.post`.
            SignalError: it does not tell the log-probabilities that it is asked for, or they are not sound.
        """
        distinct = list(dict.fromkeys(prompts))
        written = self._account.client.each([partial(self._written, prompt) for prompt in distinct])
        by_prompt = dict(zip(distinct, written, strict=True))
        return [by_prompt[prompt] for prompt in prompts]

    def missing(self, prompts: Sequence[str]) -> list[str]:
        """Those, each once, whose answers are not kept."""
        return [one for one in dict.fromkeys(prompts) if self._account.answers.find(self._key(one)) is None]

    def most(self, prompt: str) -> Tokens:
        """What one request takes at most."""
        own = self.sampling
        # A token is a byte at least, so a text has no more tokens than bytes.
        return Tokens(len(((own.system or "") + prompt).encode()) + _AROUND, own.max_tokens * own.samples)

    def _written(self, prompt: str) -> list[Written]:
        answers, key = self._account.answers, self._key(prompt)
        if (kept := answers.find(key)) is not None:
            return [Written.of(one) for one in json.loads(kept)]
        own, worst = self.sampling, self.most(prompt)
        body = {
            **self._asks(prompt),
            "max_tokens": own.max_tokens,
            "n": own.samples,
            "temperature": own.temperature,
            "top_p": own.top_p,
            "seed": own.seed,
        }

        def accept(answer: Json) -> list[Written]:
            texts = self._texts(answer)
            answers.keep(key, json.dumps([one.plain() for one in texts]).encode())
            return texts

        path = "/chat/completions" if own.by == "chat" else "/completions"
        room = _LETTER * 6 + _ENTRY * (self._top + 1) * (self._top > 0)
        return self._account.client.post(path, body, worst, accept, _ROOM + worst.output * room)

    def _asks(self, prompt: str) -> dict[str, Any]:
        own = self.sampling
        if own.by == "completions":
            return {"prompt": prompt} | ({"logprobs": self._top} if self._top else {})
        system = [] if own.system is None else [{"role": "system", "content": own.system}]
        messages = [*system, {"role": "user", "content": prompt}]
        return {"messages": messages} | ({"logprobs": True, "top_logprobs": self._top} if self._top else {})

    def _key(self, prompt: str) -> str:
        return digest([self.fingerprint, prompt])

    def _texts(self, answer: Json) -> list[Written]:
        own = self.sampling
        chat, choices = own.by == "chat", answer.get("choices")
        if not isinstance(choices, list) or not choices:
            raise Unanswered("an answer without choices")
        found = []
        for choice in choices:
            try:
                text = choice["message"]["content"] if chat else choice["text"]
                finish = str(choice["finish_reason"])
            except (KeyError, TypeError):
                raise Unanswered("a choice without a text and the reason of its end") from None
            told = steps.read(choice, chat, self._top) if self._top and text is not None else ()
            found.append(Written("" if text is None else str(text), finish, told))
        if len(found) < own.samples:
            raise LimbeckError(
                f"The served model wrote {len(found)} of the {own.samples} texts that one request asked for: the server takes "
                "no number of samples. Ask for one, under several seeds."
            )
        return found[: own.samples]

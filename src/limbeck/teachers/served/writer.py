"""Texts that a served model writes: what a student learns from where a teacher shows nothing else."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Final, Self, cast

from pydantic import Field

from limbeck.config import digest
from limbeck.errors import LimbeckError
from limbeck.teachers.served.answers import Answers
from limbeck.teachers.served.client import Client, Json, Unanswered
from limbeck.teachers.served.ledger import Ledger, Tokens
from limbeck.teachers.served.settings import Manner, Served

_AROUND: Final = 512  # tokens that a chat template may add
_LETTER, _ROOM = 16, 2**20  # bytes of a written token at most, and of the rest of an answer
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
        answers: where answers are kept, in place of ``folder``.

    Raises:
        LimbeckError, Busy: as `ServedTeacher`.
    """

    def __init__(
        self,
        served: Served,
        sampling: Sampling,
        folder: Path | None = None,
        *,
        client: Client | None = None,
        answers: Answers | None = None,
    ) -> None:
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
            self._answers = answers or Answers(folder)
            self._lent = answers is not None
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

    def worst(self, prompts: Sequence[str]) -> Tokens:
        """What writing may take at most, of each prompt once that has no kept answer. Nothing is sent."""
        missing = [one for one in dict.fromkeys(prompts) if self._answers.find(self._key(one)) is None]
        each = [self._most(one) for one in missing]
        return Tokens(sum(one.input for one in each), sum(one.output for one in each))

    def close(self) -> None:
        """Ends what it opened."""
        if not self._lent:
            self._answers.close()
        if self._owned is not None:
            self._owned.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _written(self, prompt: str) -> list[Written]:
        key = self._key(prompt)
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

        worst = self._most(prompt)
        path = "/chat/completions" if chat else "/completions"
        return self.client.post(path, body, worst, accept, _ROOM + worst.output * _LETTER * 6)

    def _key(self, prompt: str) -> str:
        return digest([self.fingerprint, prompt])

    def _most(self, prompt: str) -> Tokens:
        own = self.sampling
        # A token is a byte at least, so a text has no more tokens than bytes.
        return Tokens(len(((own.system or "") + prompt).encode()) + _AROUND, own.max_tokens * own.samples)


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

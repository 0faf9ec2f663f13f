"""A teacher behind HTTP: it writes texts, and tells the likeliest tokens at every position of given ones, as vLLM does."""

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Self, cast

import numpy as np
import torch

from limbeck.config import digest
from limbeck.data.batch import REAL, Batch
from limbeck.errors import LimbeckError, SignalError
from limbeck.signals.capture import Signals
from limbeck.signals.logits import Offer, TopK
from limbeck.teachers.author import Wanted
from limbeck.teachers.served.answers import Answers
from limbeck.teachers.served.client import Client, Json
from limbeck.teachers.served.ledger import Ledger, Tokens
from limbeck.teachers.served.reading import NO_CLASS, Row, read
from limbeck.teachers.served.settings import Served
from limbeck.teachers.served.writer import MOST_SAMPLES, WARMEST, Sampling, ServedWriter
from limbeck.teachers.teacher import Provides

LOGITS = frozenset({"logits"})
_ENTRY, _ROOM = 256, 2**20  # bytes of one log-probability at most, and of the rest of an answer
_log = logging.getLogger(__name__)
# Neutral, whatever the model's own generation settings are: older servers apply them to the prompt's logits too.
_NEUTRAL = {"temperature": 1.0, "top_p": 1.0, "top_k": -1, "min_p": 0.0, "repetition_penalty": 1.0}


@dataclass(frozen=True)
class Outstanding:
    """What is still to be asked, and what that takes. ``beyond``: what the limit leaves, if that is less; else empty.

    Money is 0 where no price was given (``priced``).
    """

    requests: int
    input: int
    output: int
    money: float
    priced: bool
    spent_money: float
    beyond: str


class ServedTeacher:
    """A served language model, and an `Author`. Its logits are `TopK`; at a text's last token, and at padding, there are none.

    Args:
        served: which model, and how.
        classes: V of the tokenizer that the texts are read by.
        folder: where answers are kept and spending is counted; None: neither outlives the process.
        client: asks; by default one over ``served``.

    Raises:
        LimbeckError: the server cannot be reached or does not have the model, or the key is not there.
        Busy: another process counts in ``folder``.
    """

    def __init__(
        self, served: Served, classes: int, folder: Path | None = None, *, client: Client | None = None
    ) -> None:
        self._owned = Ledger(folder, served.limit, served.prices) if client is None else None
        try:
            self.client = client or Client(served, cast(Ledger, self._owned))
            self.served, self.classes = served, classes
            said = self.client.described()
            self._longest = _length(said)
            self._fingerprint = digest(["served", served.model, served.revision, _identity(said), served.top, classes])
            self._answers = Answers(folder)
        except BaseException:
            if self._owned is not None:
                self._owned.close()
            raise
        self._said = False

    @property
    def fingerprint(self) -> str:
        """Names the model, by what the server and ``revision`` say of it, and how much is asked; not where it is served."""
        return self._fingerprint

    @property
    def provides(self) -> Provides:
        """The likeliest tokens and their tail, for any text; nothing if it tells nothing of its probabilities."""
        if self.served.logprobs == "none":
            return Provides(frozenset(), Offer.EXPECTATIONS, unseen=False)
        return Provides(LOGITS, Offer.OUTCOMES, self.classes)

    @property
    def module(self) -> None:
        """None: it is elsewhere."""
        return None

    def observe(self, batch: Batch, needs: frozenset[str]) -> Signals:
        """The needed signals; see `Teacher.observe`. Texts that are alike are asked once, and kept answers are not asked again.

        Raises:
            SignalError: another signal than the logits is needed, a text cannot be asked, or an answer is not sound.
            LimbeckError: as `Client.post`.
        """
        if needs and self.served.logprobs == "none":
            raise SignalError(
                "'logprobs' of the served model is 'none', so it writes texts and shows nothing: learn from them by the "
                "objective's 'labels', in the regime 'sequence-level'."
            )
        if lacking := needs - LOGITS:
            raise SignalError(
                f"A served model shows its logits alone, not {', '.join(map(repr, sorted(lacking)))}: load the teacher here for "
                "that."
            )
        columns = batch.columns("teacher")
        if "input_ids" not in columns or columns["input_ids"].ndim != 2:
            raise SignalError(
                "A served model reads token ids, and the data has no 'input_ids' of the shape [rows, length]."
            )
        ids = columns["input_ids"].cpu()
        mask = columns.get("attention_mask", torch.ones_like(ids)).cpu().bool() & batch.masks[REAL].cpu()[:, None]
        prompts = [tuple(tokens[own].tolist()) for tokens, own in zip(ids, mask, strict=True)]
        for prompt, row in zip(prompts, batch.ids.tolist(), strict=True):
            self._demand_readable(prompt, row)
        distinct = [prompt for prompt in dict.fromkeys(prompts) if len(prompt) > 1]
        asked = self.client.each([partial(self._row, prompt) for prompt in distinct])
        rows = dict(zip(distinct, asked, strict=True))
        width = min(self.served.top, self.classes)
        every = Row.empty(ids.numel(), width)
        shown = every.ids.reshape(*ids.shape, width), every.logs.reshape(*ids.shape, width)
        for place, prompt in enumerate(prompts):
            if prompt in rows:
                where = np.flatnonzero(mask[place].numpy())
                shown[0][place, where] = np.maximum(rows[prompt].ids, NO_CLASS)
                shown[1][place, where] = rows[prompt].logs
        device = batch.ids.device
        storage = TopK(torch.from_numpy(shown[0]).to(device), torch.from_numpy(shown[1]).to(device), self.classes)
        return cast(Signals, {"logits": storage})

    def outstanding(self, prompts: Iterable[tuple[int, ...]]) -> Outstanding:
        """What `observe` would still send for these texts: each once, and none whose answer is kept. Nothing is sent."""
        missing = [
            prompt
            for prompt in dict.fromkeys(prompts)
            if len(prompt) > 1 and self._answers.find(self._key(prompt)) is None
        ]
        ledger, limit = self.client.ledger, self.served.limit
        tokens = Tokens(sum(map(len, missing)), len(missing))
        cost, spent = ledger.cost(tokens), ledger.spent
        left = []
        if limit.money is not None and spent.money + cost.money > limit.money:
            left.append(f"{max(0.0, limit.money - spent.money):.4g} of {limit.money:.4g} in money")
        if limit.tokens is not None and spent.tokens + cost.tokens > limit.tokens:
            left.append(f"{max(0, limit.tokens - spent.tokens):,} of {limit.tokens:,} tokens")
        return Outstanding(
            requests=len(missing),
            input=tokens.input,
            output=tokens.output,
            money=cost.money,
            priced=self.served.prices is not None,
            spent_money=spent.money,
            beyond=" and ".join(left),
        )

    @property
    def manner(self) -> str:
        """See `Author.manner`."""
        return digest(self.served.writes)

    def write(self, prompts: Sequence[str], wanted: Wanted) -> list[list[tuple[str, bool]]]:
        """See `Author.write`. Prompts that are alike are asked once, and kept answers are not asked again.

        Raises:
            LimbeckError: as `Client.post`; or no server writes at such a temperature, or so many samples.
        """
        found = self._writer(wanted).write(prompts)
        return [[(one.text, one.whole) for one in texts] for texts in found]

    def worth(self, prompts: Sequence[str], wanted: Wanted) -> tuple[int, int]:
        """See `Author.worth`."""
        found = self._writer(wanted).worst(prompts)
        return found.input, found.output

    def _writer(self, wanted: Wanted) -> ServedWriter:
        if wanted.temperature > WARMEST or wanted.samples > MOST_SAMPLES:
            raise LimbeckError(
                f"A served model writes at temperatures up to {WARMEST}, and up to {MOST_SAMPLES} samples a prompt: lower "
                "regime.temperature or regime.samples."
            )
        sampling = Sampling(
            **self.served.writes.model_dump(),
            max_tokens=wanted.most,
            samples=wanted.samples,
            temperature=wanted.temperature,
        )
        return ServedWriter(self.served, sampling, client=self.client, answers=self._answers)

    def close(self) -> None:
        """Ends what it opened."""
        self._answers.close()
        if self._owned is not None:
            self._owned.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _row(self, prompt: tuple[int, ...]) -> Row:
        key = self._key(prompt)
        if (kept := self._answers.find(key)) is not None:
            return self._demand_enough(Row.unpacked(kept))
        top = min(self.served.top, self.classes)
        body = {
            "prompt": list(prompt),
            "max_tokens": 1,  # vLLM takes no 0
            "prompt_logprobs": top,
            "add_special_tokens": False,
            "return_token_ids": True,
            **_NEUTRAL,
        }

        def accept(answer: Json) -> Row:
            row = self._demand_enough(read(answer, prompt, top, self.classes))
            self._answers.keep(key, row.packed())
            return row

        most = _ROOM + len(prompt) * (top + 1) * _ENTRY
        return self.client.post("/completions", body, Tokens(len(prompt), 1), accept, most)

    def _key(self, prompt: tuple[int, ...]) -> str:
        return digest([self._fingerprint, prompt])

    def _demand_readable(self, prompt: Sequence[int], row: int) -> None:
        if prompt and not (min(prompt) >= 0 and max(prompt) < self.classes):
            raise SignalError(
                f"Row {row} has tokens outside 0 to {self.classes - 1}, the vocabulary of the served model."
            )
        if self._longest is not None and len(prompt) >= self._longest:
            raise SignalError(
                f"Row {row} has {len(prompt)} tokens, and the served model reads {self._longest}, of which one is written: lower "
                f"'max-length' to {self._longest - 1}, or start the server with a longer context."
            )

    def _demand_enough(self, row: Row) -> Row:
        least, fewest = min(self.served.least, self.classes), row.fewest
        if fewest < least:
            raise SignalError(
                f"The served model gave {fewest} log-probabilities at some position, and 'least' is {least}: start vLLM with "
                f"--max-logprobs {self.served.top}, or lower 'least'."
            )
        if fewest < min(self.served.top, self.classes) and not self._said:
            self._said = True
            _log.warning(
                "The served model was asked for %d log-probabilities and gave %d: the rest of each distribution counts as one "
                "tail. vLLM gives more if it is started with --max-logprobs.",
                self.served.top,
                fewest,
            )
        return row


def _identity(said: Json) -> list[object]:
    """What of a model's description changes its answers. When it was listed (``created``) and by whom does not."""
    return [said.get("id"), said.get("root"), said.get("parent")]


def _length(said: Json) -> int | None:
    length = said.get("max_model_len")
    if length is None:
        return None
    if isinstance(length, bool) or not isinstance(length, int) or length < 2:
        raise LimbeckError(
            "The server says how many tokens its model reads (max_model_len), and that is no length of a text."
        )
    return length

"""A teacher behind HTTP: it writes texts, and tells the likeliest tokens at every position of given ones, as vLLM does."""

import logging
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Self, cast

import torch

from limbeck.config import digest
from limbeck.data.batch import REAL, Batch
from limbeck.errors import LimbeckError, SignalError
from limbeck.signals.capture import Signals
from limbeck.signals.logits import Offer
from limbeck.teachers.author import Text, Wanted
from limbeck.teachers.expense import Expense
from limbeck.teachers.likeliest import Row, at_tokens
from limbeck.teachers.served.account import Account
from limbeck.teachers.served.client import Client, Json
from limbeck.teachers.served.ledger import Tokens
from limbeck.teachers.served.reading import read
from limbeck.teachers.served.settings import Served
from limbeck.teachers.served.writer import MOST_SAMPLES, WARMEST, Sampling, ServedWriter
from limbeck.teachers.teacher import Provides

LOGITS = frozenset({"logits"})
_ENTRY, _ROOM = 256, 2**20  # bytes of one log-probability at most, and of the rest of an answer
_PROBED = 8  # prompts, until one is gone on with
_log = logging.getLogger(__name__)
# Neutral, whatever the model's own generation settings are: older servers apply them to the prompt's logits too.
_NEUTRAL = {"temperature": 1.0, "top_p": 1.0, "top_k": -1, "min_p": 0.0, "repetition_penalty": 1.0}


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
        self._account = Account(served, folder, client=client)
        said = self._account.said
        self.served, self.classes = served, classes
        try:
            self._longest = _length(said)
        except BaseException:
            self._account.close()
            raise
        self._fingerprint = digest(["served", served.model, served.revision, _identity(said), served.top, classes])
        self._said = self._own = False

    @property
    def fingerprint(self) -> str:
        """Names the model, by what the server and ``revision`` say of it, and how much is asked; not where it is served."""
        return self._fingerprint

    @property
    def provides(self) -> Provides:
        """The likeliest tokens and their tail, for any text, or for its own alone; or nothing, as ``logprobs`` says."""
        if self.served.logprobs == "none":
            return Provides(frozenset(), Offer.EXPECTATIONS, unseen=False)
        return Provides(LOGITS, Offer.OUTCOMES, self.classes, unseen=self.served.logprobs == "prompt")

    @property
    def module(self) -> None:
        """None: it is elsewhere."""
        return None

    @property
    def client(self) -> Client:
        """What asks."""
        return self._account.client

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
        if needs and self.served.logprobs == "written":
            raise SignalError(
                "'logprobs' of the served model is 'written', so it shows its logits of texts that it writes itself, and of no "
                "others: choose the regime 'sequence-level'."
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
        width, told = min(self.served.top, self.classes), [rows.get(prompt) for prompt in prompts]
        return cast(Signals, {"logits": at_tokens(told, mask, width, self.classes, batch.ids.device)})

    def marking(self, texts: Iterable[tuple[int, ...]]) -> Expense:
        """See `Charged.marking`."""
        find = self._account.answers.find
        missing = [text for text in dict.fromkeys(texts) if len(text) > 1 and find(self._key(text)) is None]
        return self._account.expense(len(missing), Tokens(sum(map(len, missing)), len(missing)))

    def writing(self, prompts: Sequence[str], wanted: Wanted, marked: bool) -> Expense:
        """See `Charged.writing`. A written text is sent back as a whole to be marked, and its prompt with it."""
        writer = self._writer(wanted)
        each = [writer.most(one) for one in dict.fromkeys(prompts)]
        new = [writer.most(one) for one in writer.missing(prompts)]
        for probe in self._probes(wanted):
            new += [probe.most(one) for one in probe.missing(prompts[:_PROBED])]
        again = wanted.samples * len(each) * (marked and self.served.logprobs == "prompt")
        sent = sum(one.input for one in new)
        if again:
            sent += wanted.samples * sum(one.input + wanted.most for one in each)
        return self._account.expense(len(new) + again, Tokens(sent, sum(one.output for one in new) + again))

    @property
    def manner(self) -> str:
        """See `Author.manner`."""
        return digest([self.served.writes, self._told]) if self._told else digest(self.served.writes)

    def write(self, prompts: Sequence[str], wanted: Wanted) -> list[list[Text]]:
        """See `Author.write`. Prompts that are alike are asked once, and kept answers are not asked again.

        Raises:
            LimbeckError: as `Client.post`; or no server writes at such a temperature, or so many samples.
            SignalError: it does not tell the log-probabilities that it is asked for, or they are not sound.
        """
        writer = self._writer(wanted)
        self._demand_own(prompts, wanted)
        found = writer.write(prompts)
        counts = [len(step) - 1 for texts in found for one in texts for step in one.steps]
        if counts:
            self._demand_enough(min(counts))
        return [[Text(one.text, one.whole, one.steps) for one in texts] for texts in found]

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
        return ServedWriter(self._account, sampling, self._told)

    def _demand_own(self, prompts: Sequence[str], wanted: Wanted) -> None:
        """What it tells are its own log-probabilities; servers exist that tell those that a text is drawn by instead.

        They are compared with those at temperature 1, of one token.
        """
        probes = () if self._own else self._probes(wanted)
        for prompt in prompts[: _PROBED if probes else 0]:
            at_one, drawn = (probe.write([prompt])[0][0].steps for probe in probes)
            if not (at_one and drawn):
                continue
            before, after = dict(at_one[0][1:]), dict(drawn[0][1:])
            both = [name for name in before if name in after]
            gap, now = (told[both[0]] - told[both[-1]] if both else 0.0 for told in (before, after))
            if abs(now - gap / wanted.temperature) < abs(now - gap):
                raise SignalError(
                    f"The served model tells the log-probabilities that its texts are drawn by, at temperature "
                    f"{wanted.temperature:g}, and not its own: write regime.temperature: 1 or 0, or have the server tell "
                    "them as they are (vLLM: --logprobs-mode raw_logprobs; SGLang: RETURN_ORIGINAL_LOGPROB=1)."
                )
            self._own = True
            return

    def _probes(self, wanted: Wanted) -> tuple[ServedWriter, ...]:
        """What writes one token at temperature 1, and at the one that is wanted; none where both are sure to be told alike."""
        if not self._told or wanted.temperature in (0, 1):
            return ()
        one = replace(wanted, most=1, samples=1)
        return tuple(self._writer(replace(one, temperature=warmth)) for warmth in (1.0, wanted.temperature))

    @property
    def _told(self) -> int:
        """How many of the likeliest tokens it tells of while it writes."""
        return min(self.served.top, self.classes) if self.served.logprobs == "written" else 0

    def close(self) -> None:
        """Ends what it opened."""
        self._account.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _row(self, prompt: tuple[int, ...]) -> Row:
        key = self._key(prompt)
        if (kept := self._account.answers.find(key)) is not None:
            row = Row.unpacked(kept)
            self._demand_enough(row.fewest)
            return row
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
            row = read(answer, prompt, top, self.classes)
            self._demand_enough(row.fewest)
            self._account.answers.keep(key, row.packed())
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

    def _demand_enough(self, fewest: int) -> None:
        least = min(self.served.least, self.classes)
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

"""What writes the texts of a training: some rows of a step become what the student, as it is then, or the teacher writes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import inf
from typing import TYPE_CHECKING, Any, Final, cast

import torch
from torch import Tensor, nn

from limbeck.data.batch import CLASS, GIVEN, NO_LABEL, REAL, SUPERVISED, TOKENS, WRITTEN, Batch
from limbeck.data.language import BYTES, SAMPLED
from limbeck.data.packed import padded_length
from limbeck.data.text_reader import TextReader
from limbeck.data.tokenizers import loaded
from limbeck.errors import LimbeckError, SignalError
from limbeck.models.sampling import Ends, Mixed, drawn
from limbeck.models.writers import Transformers
from limbeck.objective.schedules import Place
from limbeck.training.order import derived
from limbeck.training.stage import Stage

if TYPE_CHECKING:
    from limbeck.regimes.on_policy import OnPolicy

READ, STUDENT, TEACHER = 0, 1, 2
"""Who wrote a row: it is read from the data, or one of the two wrote it."""
_GRAM: Final = 4
_COLUMNS: Final = {"input_ids", "attention_mask"}


@dataclass
class Tally:
    """What the student wrote since it was last told: sums over texts."""

    texts: int = 0
    tokens: int = 0
    ended: int = 0
    repeated: int = 0
    grams: int = 0

    def add(self, tokens: Sequence[int], ended: bool) -> None:
        """One text."""
        grams = list(zip(*(tokens[start:] for start in range(_GRAM)), strict=False))
        self.texts, self.tokens, self.ended = self.texts + 1, self.tokens + len(tokens), self.ended + ended
        self.repeated, self.grams = self.repeated + len(grams) - len(set(grams)), self.grams + len(grams)

    def told(self) -> dict[str, float]:
        """Tokens of a text, the share that came to its end, and the share of 4-grams that stood in the text before."""
        if not self.texts:
            return {}
        shares = {"written.tokens": self.tokens / self.texts, "written.ended": self.ended / self.texts}
        return shares | {"written.repeated": self.repeated / max(1, self.grams)}


class TextPen:
    """Writes for one training; see `limbeck.training.stage.Pen`. Who writes and what is drawn depend on seed, step and row alone.

    Raises:
        LimbeckError: a model that is to write cannot, or has too few positions, or the data is no texts of one tokenizer.
        SignalError: the teacher answers for texts that it knows beforehand alone.
    """

    def __init__(self, settings: "OnPolicy", stage: Stage, student: nn.Module) -> None:
        self._settings, self._seed, self._teacher = settings, stage.seed, stage.teacher
        _demand_texts(stage)
        reader = cast(TextReader, stage.examples.table.reader)
        self._ends = Ends.of(loaded(reader.tokenizer))
        if stage.teacher is not None and not stage.teacher.provides.unseen:
            raise SignalError(
                "In the regime 'on-policy' the teacher is asked about texts that the student has just written, and stored "
                "outputs say nothing of them: give teacher.model or teacher.served in place of teacher.stored."
            )
        room = _longest(settings, stage) + settings.max_new_tokens
        self._writers = {STUDENT: settings.writer.of(student, "the student", self._ends, room)}
        _demand_room(student, "the student", settings, room)
        if settings.teacher_share.turns != (0.0,) or settings.mixed:
            self._writers[TEACHER] = Transformers().of(_module(stage), "the teacher", self._ends, room)
            _demand_room(_module(stage), "the teacher", settings, room)
        self._tally = Tally()

    def written(self, student: nn.Module, micros: Sequence[Batch], place: Place) -> list[Batch]:
        """See `limbeck.training.stage.Pen`; the student writes for all micro-batches at once."""
        settings = self._settings
        authors = [self._authors(batch, place) for batch in micros]
        texts: dict[tuple[int, int], tuple[Tensor, Tensor]] = {}
        for author in (STUDENT, TEACHER):
            rows = [(at, row) for at, who in enumerate(authors) for row in (who == author).nonzero()[:, 0].tolist()]
            if not rows:
                continue
            own = author == STUDENT
            module = student if own else cast(nn.Module, cast(Any, self._teacher).module).to(micros[0].ids.device)
            seeds = [derived(self._seed, "writing", place.step, *_name(micros[at], row)) for at, row in rows]
            found = self._writers[author](
                module,
                [self._prompt(micros[at], row) for at, row in rows],
                seeds,
                settings.max_new_tokens,
                settings.temperature,
                self._mixed(micros[0]) if own else None,
            )
            texts.update(zip(rows, found, strict=True))
            for tokens, _ in found if own else ():
                self._tally.add(tokens.tolist(), int(tokens[-1]) in self._ends.end)
        return [
            self._rewritten(batch, who, {row: text for (of, row), text in texts.items() if of == at})
            for at, (batch, who) in enumerate(zip(micros, authors, strict=True))
        ]

    def told(self) -> dict[str, float]:
        """Length, ends and repetition of what the student wrote since this was last asked."""
        told, self._tally = self._tally.told(), Tally()
        return told

    def kept(self) -> dict[str, Tensor]:
        """Nothing: what is shown of writing is written at the end."""
        return {}

    def state_dict(self) -> dict[str, Any]:
        """What it has not told yet."""
        return dict(vars(self._tally))

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Puts it back."""
        self._tally = Tally(**state)

    def _authors(self, batch: Batch, place: Place) -> Tensor:
        """Who writes each row, int64 [B] on the CPU; rows that do not count are read."""
        settings = self._settings
        ours, theirs = settings.share.at(place), settings.teacher_share.at(place)
        names = [_name(batch, row) if settings.each == "text" else () for row in range(len(batch))]
        lots = drawn([derived(self._seed, "author", place.step, *name) for name in names], 1)[:, 0]
        authors = torch.where(lots < ours, STUDENT, torch.where(lots < ours + theirs, TEACHER, READ))
        return torch.where(batch.masks[REAL].cpu(), authors, READ)

    def _prompt(self, batch: Batch, row: int) -> Tensor:
        """What a text goes on from: all that is known beforehand, and the first tokens of a text of which nothing is."""
        known = int((batch.labels[CLASS][row] != NO_LABEL).nonzero()[0]) + 1
        ids = batch.inputs["input_ids"][row][batch.inputs["attention_mask"][row].bool()]
        return ids[: min(max(known, self._settings.opening), len(ids) - 1)]

    def _mixed(self, batch: Batch) -> Mixed | None:
        if not self._settings.mixed:
            return None
        module = cast(nn.Module, cast(Any, self._teacher).module)
        return Mixed(module.to(batch.ids.device), self._settings.mixed)

    def _rewritten(self, batch: Batch, authors: Tensor, texts: Mapping[int, tuple[Tensor, Tensor]]) -> Batch:
        """The batch with these rows in place of its own, padded on the right."""
        device = batch.ids.device
        written = (authors == STUDENT).to(device)
        masks = {**batch.masks, WRITTEN: written, GIVEN: ~written}
        if not texts:
            return Batch(batch.inputs, batch.labels, masks, batch.ids, batch.views)
        prompts = {row: self._prompt(batch, row) for row in texts}
        whole = {row: torch.cat([prompts[row], tokens]) for row, (tokens, _) in texts.items()}
        kept = [row for row in range(len(batch)) if row not in texts]
        lengths = batch.inputs["attention_mask"].sum(1)
        longest = max([int(lengths[row]) for row in kept] + [len(one) for one in whole.values()])
        width = padded_length(longest)

        def fitted(column: Tensor, fill: float) -> Tensor:
            """As wide as is needed now, and empty where a row is new."""
            found = column.new_full((len(batch), width), fill)
            some = min(width, column.shape[1])
            found[kept, :some] = column[kept, :some]
            return found

        ids, mask = (
            fitted(batch.inputs[name], fill) for name, fill in (("input_ids", self._ends.pad), ("attention_mask", 0))
        )
        labels, sizes = fitted(batch.labels[CLASS], NO_LABEL), fitted(batch.labels[BYTES], 0)
        sampled = torch.zeros(ids.shape, device=device)
        for row, (tokens, logs) in texts.items():
            begin, end = len(prompts[row]), len(whole[row])
            ids[row, :end], mask[row, :end] = whole[row], 1
            labels[row, begin - 1 : end - 1], sampled[row, begin - 1 : end - 1] = tokens, logs
        supervised = batch.masks[SUPERVISED] & ~written | (authors == TEACHER).to(device)
        return Batch(
            {"input_ids": ids, "attention_mask": mask},
            {CLASS: labels, BYTES: sizes, SAMPLED: sampled},
            {**masks, SUPERVISED: supervised, TOKENS: mask.bool()},
            batch.ids,
            batch.views,
        )


def _name(batch: Batch, row: int) -> tuple[int, int]:
    return int(batch.ids[row]), int(batch.views[row])


def _module(stage: Stage) -> nn.Module:
    module = stage.teacher.module if stage.teacher else None
    if module is None:
        raise LimbeckError(
            "'teacher-share' and 'mixed' let the teacher write here, token by token, and this teacher is no model in memory: "
            "leave them out, or give teacher.model."
        )
    return module


def _demand_texts(stage: Stage) -> None:
    """Raises a `LimbeckError` where there is nothing to be gone on with, or not by tokens that both sides read."""
    sample, task = stage.examples.batch(stage.examples.rows[:1], torch.zeros(1, dtype=torch.int64)), stage.examples.task
    if task.reads != "sequences" or "input_ids" not in sample.inputs:
        raise LimbeckError(
            f"In the regime 'on-policy' the student goes on with texts, and the task here is {task.name!r}: write 'task: "
            "next-token', or choose another regime."
        )
    if others := sorted(set(sample.inputs) - _COLUMNS):
        raise LimbeckError(
            "In the regime 'on-policy' the teacher reads what the student writes, token by token, and this data has "
            f"{others[0]!r} beside the student's tokens: give both the same tokenizer (leave out data.tokenizer, or name the "
            "teacher's)."
        )


def _longest(settings: "OnPolicy", stage: Stage) -> int:
    """Tokens of the longest prompt."""
    following = stage.examples.labels[stage.examples.rows][..., 0]
    known = int((following != NO_LABEL).byte().argmax(1).max()) + 1
    return max(known, settings.opening)


def _demand_room(module: nn.Module, who: str, settings: "OnPolicy", room: int) -> None:
    """Raises a `LimbeckError` where the longest prompt and all that may be written are more than the model can read."""
    config: Any = getattr(module, "config", None)
    config = config.get_text_config() if hasattr(config, "get_text_config") else config
    most = getattr(config, "max_position_embeddings", None) or inf
    longest = room - settings.max_new_tokens
    if room > most:
        raise LimbeckError(
            f"The longest prompt has {longest} tokens and 'max-new-tokens' is {settings.max_new_tokens}, but {who} reads "
            f"{most} at most: set 'max-new-tokens' to {int(most) - longest} or less, or leave out long prompts."
        )

"""Sequence-level distillation: what the teacher writes are the student's labels (Kim & Rush 2016, arXiv:1606.07947)."""

import json
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Annotated, Final, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from limbeck.config import digest
from limbeck.data.examples import Examples
from limbeck.data.sequences import prompted
from limbeck.data.sifting import Filters, sifted, told, write_rejected
from limbeck.data.tokenizers import loaded, quiet
from limbeck.errors import LimbeckError
from limbeck.files import home, write_json
from limbeck.models.generation import Text
from limbeck.models.sampling import Ends
from limbeck.models.writers import Transformers, Writer, Writes
from limbeck.regimes.offline import Offline
from limbeck.regimes.plan import Plan
from limbeck.regimes.regime import Common, Regime, make_timed, train
from limbeck.teachers.author import Author, Wanted
from limbeck.teachers.teacher import Teacher
from limbeck.training.order import derived
from limbeck.training.stage import Stage
from limbeck.training.workshop import Trained

log = logging.getLogger(__name__)
_BATCH: Final = 32  # prompts that are gone on with at once; so many are kept at a time


class SequenceLevel(Common):
    """The teacher goes on with the prompts of the training rows, and the student learns that in place of what stands there.

    Tokenizers may differ: it is the text that is handed over. What is learnt from it is the objective's: ``labels``, and whatever
    else it has, of which the teacher is asked as in the offline regime. Texts are written once and kept; one that did not end
    by itself is left out, for it would teach a wrong end. A served teacher writes where it is, as ``teacher.served.writes`` says.
    """

    name: Literal["sequence-level"] = "sequence-level"
    max_new_tokens: Annotated[int, Field(ge=1)] = 128
    """How many of the teacher's tokens a text may have."""
    temperature: Annotated[float, Field(ge=0)] = 0.0
    """Of drawing from the whole distribution; 0 takes the likeliest token each time."""
    samples: Annotated[int, Field(ge=1)] = 1
    """Texts for each prompt; more than one are drawn, at a temperature above 0."""
    writer: Writer = Transformers()
    """Who writes for the teacher: ``transformers``, or ``vllm`` (see `limbeck.models.writers.Vllm`)."""
    filter: Filters = ()
    """Which of the teacher's texts are not learnt from, see ``data.filter``. ``rejected.jsonl``, beside what was written, lists
    them."""

    @property
    def wanted(self) -> Wanted:
        """What the teacher is to write after each prompt."""
        return Wanted(self.max_new_tokens, self.samples, self.temperature)

    def arms(self, plan: Plan) -> dict[str, Callable[[Plan], Regime[Trained]]]:
        """The control, on what stands in the data, and the distilled student, on what the teacher wrote."""
        return {"control": self.control, "distilled": self.distilled}

    def stages(self, plan: Plan) -> tuple[Stage, ...]:
        """The one training, on the texts of the data: nothing is written yet.

        Raises:
            LimbeckError: rows are no prompts with continuations, or the teacher cannot write.
        """
        demand(plan.splits.train, plan.teacher, self)
        return (plan.stage("student", teacher=plan.teacher),)

    def control(self, plan: Plan) -> Regime[Trained]:
        """The offline regime's: labels of the data, as many steps."""
        return (yield from Offline().control(plan))

    def distilled(self, plan: Plan) -> Regime[Trained]:
        """The student that the recipe is about."""
        plan = yield from plan.taught()
        examples = yield from make_timed(
            "write",
            written,
            examples=plan.splits.train,
            teacher=plan.teacher,
            settings=self,
            root=home() / "written",
            device=plan.device,
            on_progress=plan.on_label,
        )
        plan = replace(plan, splits=replace(plan.splits, train=examples))
        asked = any(term.needs().teacher for term in plan.terms)
        teacher = (yield from plan.labelled()) if asked else None
        return (yield from train(plan.stage("distilled", teacher=teacher)))


def demand(examples: Examples, teacher: Teacher | None, settings: SequenceLevel) -> None:
    """The rows can be gone on with, by this teacher.

    Raises:
        LimbeckError: they cannot.
    """
    texts = examples.table.texts
    if examples.task.reads != "sequences" or texts is None:
        raise LimbeckError(
            f"In the regime 'sequence-level' the teacher goes on with texts, and the task here is {examples.task.name!r}: write "
            "'task: next-token', or choose another regime."
        )
    whole = [row for row in examples.rows.tolist() if isinstance(texts.raw(row), str)]
    if whole:
        raise LimbeckError(
            f"In the regime 'sequence-level' rows are prompts with what follows them, and {len(whole)} of {len(examples)} "
            f"training rows are running text (row {whole[0]}): give prompts by a table ('text' and 'pair'), or choose 'regime: "
            "on-policy' with teacher-share: 1, which goes on with the first tokens of any text."
        )
    if settings.samples > 1 and settings.temperature == 0:
        raise LimbeckError(
            "'samples' of the regime 'sequence-level' is above 1, and at temperature 0 all are the same: raise "
            "regime.temperature, or leave samples out."
        )
    if isinstance(teacher, Author):
        if settings.writer != Transformers():
            raise LimbeckError(
                "'writer' says who writes for a model that is here, and this teacher writes itself: leave it out."
            )
    elif teacher is not None and (teacher.module is None or not hasattr(teacher.module, "generate")):
        raise LimbeckError(
            "In the regime 'sequence-level' the teacher writes texts, and this one cannot: a transformers model that is here "
            "writes, and a served one; stored answers, ONNX files and ensembles do not."
        )


def written(
    examples: Examples,
    teacher: Teacher,
    settings: SequenceLevel,
    root: Path,
    device: str = "cpu",
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> tuple[Examples, float]:
    """The examples with what the teacher wrote after each prompt, every one supervised; and the seconds of writing, whenever.

    What was written before is read.

    Texts are kept under ``root`` by the teacher's fingerprint, the prompts and the settings, some at a time.

    Raises:
        LimbeckError: see `demand`; or no text ended by itself.
    """
    demand(examples, teacher, settings)
    texts = examples.table.texts
    assert texts is not None
    reader = texts.teacher or texts.reader
    tokenizer = str(getattr(reader, "tokenizer", ""))
    prompts = [str(texts.raw(row)[0]) for row in examples.rows.tolist()]
    asked = settings.model_copy(update={"filter": ()})  # other filters judge the same texts
    manner = [teacher.manner] if isinstance(teacher, Author) else []
    key = digest([teacher.fingerprint, reader.fingerprint, prompts, asked, *manner])
    folder = root / key[:2] / key
    rows: list[tuple[str, str]] = []
    origins: list[int] = []
    seconds, write = 0.0, _pen(teacher, tokenizer, prompts, settings, device)
    for start in range(0, len(prompts), _BATCH):
        some = prompts[start : start + _BATCH]
        batch = _kept(folder / f"{start}.json", len(some) * settings.samples)
        if batch is None:
            began = time.perf_counter()
            said = write(some, start)
            batch = said, time.perf_counter() - began
            folder.mkdir(parents=True, exist_ok=True)
            write_json(folder / f"{start}.json", {"texts": said, "seconds": batch[1]})
        seconds += batch[1]
        for place, (text, ended) in enumerate(batch[0]):
            if text.strip() and ended:
                rows.append((some[place % len(some)], text))
                origins.append(start + place % len(some))
        on_progress(min(start + _BATCH, len(prompts)), len(prompts))
    lost = len(prompts) * settings.samples - len(rows)
    if settings.filter and rows:
        kept, rejected = sifted(
            settings.filter, examples.rows[torch.tensor(origins)].tolist(), [(text,) for _, text in rows]
        )
        write_rejected(folder / "rejected.jsonl", rejected)
        if rejected:
            log.warning("%s See %s.", told(rejected, len(rows), "texts of the teacher"), folder / "rejected.jsonl")
        if not kept:
            raise LimbeckError(
                f"The filters reject all {len(rows)} texts that the teacher wrote; the first one because it {rejected[0].reason}."
            )
        rows, origins = [rows[place] for place in kept], [origins[place] for place in kept]
    if not rows:
        raise LimbeckError(
            f"None of the {lost} texts that the teacher wrote has letters and an end within regime.max-new-tokens: "
            f"{settings.max_new_tokens}: raise it, or take a teacher that was trained to end its answers."
        )
    if lost:
        log.warning(
            "%d of %d texts that the teacher wrote are left out: they are empty, or have no end within %d tokens.",
            *(lost, lost + len(rows), settings.max_new_tokens),
        )
    table, count = texts.over(rows), len(rows)
    domains = examples.domains
    new = replace(
        examples,
        table=table,
        rows=torch.arange(count),
        labels=table.placed(torch.zeros(count, dtype=torch.int64), examples.task),
        supervised=torch.ones(count, dtype=torch.bool),
        domains=None if domains is None else replace(domains, rows=domains.rows[examples.rows[torch.tensor(origins)]]),
    )
    return new, seconds


def _kept(path: Path, count: int) -> tuple[list[tuple[str, bool]], float] | None:
    """What an earlier call wrote there and how long it took, if it is whole."""
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))
        found = [(str(text), bool(ended)) for text, ended in kept["texts"]]
        return (found, float(kept["seconds"])) if len(found) == count else None
    except (OSError, ValueError, TypeError, KeyError):
        return None


def _pen(
    teacher: Teacher, tokenizer: str, prompts: Sequence[str], settings: SequenceLevel, device: str
) -> Callable[[Sequence[str], int], list[tuple[str, bool]]]:
    """Who goes on with some of the prompts, of which the first has that place: all of a first sample, then of the next."""
    if isinstance(teacher, Author):
        author = teacher

        def elsewhere(some: Sequence[str], start: int) -> list[tuple[str, bool]]:
            found = author.write(some, settings.wanted)
            return [one for sample in zip(*found, strict=True) for one in sample]

        return elsewhere
    module = teacher.module
    assert module is not None
    writes = cache(lambda: _writer(module, tokenizer, prompts, settings))  # vLLM is not started for what is kept
    return lambda some, start: _wrote(writes(), module.to(device), tokenizer, some, settings, start)


def _writer(module: nn.Module, tokenizer: str, prompts: Sequence[str], settings: SequenceLevel) -> Writes:
    """Who writes after all of these prompts."""
    longest = max(map(len, _heads(tokenizer, prompts)), default=0)
    return settings.writer.of(module, "the teacher", Ends.of(loaded(tokenizer)), longest + settings.max_new_tokens)


def _heads(tokenizer: str, prompts: Sequence[str]) -> list[Tensor]:
    """The prompts' tokens."""
    known = loaded(tokenizer)
    with quiet():
        return [torch.tensor(prompted(known.tokenizer, one)) for one in prompts]


def _wrote(
    write: Writes, module: nn.Module, tokenizer: str, prompts: Sequence[str], settings: SequenceLevel, start: int
) -> list[tuple[str, bool]]:
    """What the model writes after each prompt, as often as the settings say, and whether it ended by itself."""
    known, heads = loaded(tokenizer), _heads(tokenizer, prompts)
    ends, found = Ends.of(known), []
    for sample in range(settings.samples):
        seeds = [derived(sample, "sequence-level", start + place) for place in range(len(heads))]
        given = (seeds if settings.temperature else None, settings.max_new_tokens, settings.temperature or 1.0)
        for tokens, _ in write(module, heads, *given):
            wrote = Text.of(tokens, known, ends)
            found.append((wrote.text, wrote.ended))
    return found

"""What a teacher writes after the prompts of the data, kept, as rows to learn from."""

import json
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Final

import torch
from torch import Tensor, nn

from limbeck.config import digest
from limbeck.data.examples import Examples
from limbeck.data.forms import Forms
from limbeck.data.sequences import prompted
from limbeck.data.sifting import sifted, told, write_rejected
from limbeck.data.tokenizers import loaded, quiet
from limbeck.errors import LimbeckError
from limbeck.files import write_json
from limbeck.models.generation import Text as Finished
from limbeck.models.sampling import Ends
from limbeck.models.writers import Transformers, Writes
from limbeck.teachers.author import Author, Text
from limbeck.teachers.recalled import recalled
from limbeck.teachers.teacher import Teacher
from limbeck.training.order import derived

if TYPE_CHECKING:
    from limbeck.regimes.sequence_level import SequenceLevel

log = logging.getLogger(__name__)
_BATCH: Final = 32  # prompts that are gone on with at once; so many are kept at a time


def demand(examples: Examples, teacher: Teacher | None, settings: "SequenceLevel") -> None:
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
    settings: "SequenceLevel",
    root: Path,
    device: str = "cpu",
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> tuple[tuple[Examples, Teacher], float]:
    """The examples with what the teacher wrote after each prompt, every one supervised; and the seconds of writing, whenever.

    With them comes who teaches by signals there: the teacher, or what it told of these texts, if it shows nothing of others.

    What was written before is read. Texts are kept under ``root`` by the teacher's fingerprint, the prompts and the settings,
    some at a time; an `Author` keeps its own.

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
    found: list[tuple[int, Text]] = []
    seconds, write = 0.0, _pen(teacher, tokenizer, prompts, settings, device)
    for start in range(0, len(prompts), _BATCH):
        some = prompts[start : start + _BATCH]
        said, took = _kept(folder / f"{start}.json", len(some) * settings.samples) or ([], 0.0)
        if not said or isinstance(teacher, Author):
            began, before = time.perf_counter(), said
            said = write(some, start)
            if _plain(said) != _plain(before):
                took = time.perf_counter() - began
                folder.mkdir(parents=True, exist_ok=True)
                write_json(folder / f"{start}.json", {"texts": _plain(said), "seconds": took})
        seconds += took
        found += [(start + place % len(some), one) for place, one in enumerate(said) if one.text.strip() and one.ended]
        on_progress(min(start + _BATCH, len(prompts)), len(prompts))
    _demand_some(len(prompts) * settings.samples, len(found), settings)
    found = _filtered(found, examples, settings, folder)
    table, count = texts.over([(prompts[row], one.text) for row, one in found]), len(found)
    domains, origins = examples.domains, torch.tensor([row for row, _ in found])
    new = replace(
        examples,
        table=table,
        rows=torch.arange(count),
        labels=table.placed(torch.zeros(count, dtype=torch.int64), examples.task),
        supervised=torch.ones(count, dtype=torch.bool),
        domains=None if domains is None else replace(domains, rows=domains.rows[examples.rows[origins]]),
    )
    steps = [one.steps for _, one in found]
    if any(steps):
        forms, author = Forms(loaded(tokenizer).tokenizer), digest([teacher.fingerprint, *manner])
        return (new, recalled(author, new, steps, forms, teacher.provides.classes)), seconds
    return (new, teacher), seconds


def _demand_some(asked: int, ended: int, settings: "SequenceLevel") -> None:
    """Some of the texts ended by themselves; of the others it is told that they are left out."""
    if not ended:
        raise LimbeckError(
            f"None of the {asked} texts that the teacher wrote has letters and an end within regime.max-new-tokens: "
            f"{settings.max_new_tokens}: raise it, or take a teacher that was trained to end its answers."
        )
    if ended < asked:
        log.warning(
            "%d of %d texts that the teacher wrote are left out: they are empty, or have no end within %d tokens.",
            *(asked - ended, asked, settings.max_new_tokens),
        )


def _filtered(
    found: list[tuple[int, Text]], examples: Examples, settings: "SequenceLevel", folder: Path
) -> list[tuple[int, Text]]:
    """Without what the filters reject, which is listed in ``folder``."""
    if not settings.filter:
        return found
    rows = examples.rows[torch.tensor([row for row, _ in found])].tolist()
    kept, rejected = sifted(settings.filter, rows, [(one.text,) for _, one in found])
    write_rejected(folder / "rejected.jsonl", rejected)
    if rejected:
        log.warning("%s See %s.", told(rejected, len(found), "texts of the teacher"), folder / "rejected.jsonl")
    if not kept:
        raise LimbeckError(
            f"The filters reject all {len(found)} texts that the teacher wrote; the first one because it {rejected[0].reason}."
        )
    return [found[place] for place in kept]


def _plain(texts: Sequence[Text]) -> list[tuple[str, bool]]:
    return [(one.text, one.ended) for one in texts]


def _kept(path: Path, count: int) -> tuple[list[Text], float] | None:
    """What an earlier call wrote there and how long it took, if it is whole."""
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))
        found = [Text(str(text), bool(ended)) for text, ended in kept["texts"]]
        return (found, float(kept["seconds"])) if len(found) == count else None
    except (OSError, ValueError, TypeError, KeyError):
        return None


def _pen(
    teacher: Teacher, tokenizer: str, prompts: Sequence[str], settings: "SequenceLevel", device: str
) -> Callable[[Sequence[str], int], list[Text]]:
    """Who goes on with some of the prompts, of which the first has that place: all of a first sample, then of the next."""
    if isinstance(teacher, Author):
        author = teacher

        def elsewhere(some: Sequence[str], start: int) -> list[Text]:
            found = author.write(some, settings.wanted)
            return [one for sample in zip(*found, strict=True) for one in sample]

        return elsewhere
    module = teacher.module
    assert module is not None
    writes = cache(lambda: _writer(module, tokenizer, prompts, settings))  # vLLM is not started for what is kept
    return lambda some, start: _wrote(writes(), module.to(device), tokenizer, some, settings, start)


def _writer(module: nn.Module, tokenizer: str, prompts: Sequence[str], settings: "SequenceLevel") -> Writes:
    """Who writes after all of these prompts."""
    longest = max(map(len, _heads(tokenizer, prompts)), default=0)
    return settings.writer.of(module, "the teacher", Ends.of(loaded(tokenizer)), longest + settings.max_new_tokens)


def _heads(tokenizer: str, prompts: Sequence[str]) -> list[Tensor]:
    """The prompts' tokens."""
    known = loaded(tokenizer)
    with quiet():
        return [torch.tensor(prompted(known.tokenizer, one)) for one in prompts]


def _wrote(
    write: Writes, module: nn.Module, tokenizer: str, prompts: Sequence[str], settings: "SequenceLevel", start: int
) -> list[Text]:
    """What the model writes after each prompt, as often as the settings say, and whether it ended by itself."""
    known, heads = loaded(tokenizer), _heads(tokenizer, prompts)
    ends, found = Ends.of(known), []
    for sample in range(settings.samples):
        seeds = [derived(sample, "sequence-level", start + place) for place in range(len(heads))]
        given = (seeds if settings.temperature else None, settings.max_new_tokens, settings.temperature or 1.0)
        for tokens, _ in write(module, heads, *given):
            wrote = Finished.of(tokens, known, ends)
            found.append(Text(wrote.text, wrote.ended))
    return found

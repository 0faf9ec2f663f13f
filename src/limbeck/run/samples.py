"""What the teacher and every trained arm write after prompts of the test part."""

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import torch
from torch import Tensor, nn

from limbeck.data.batch import CLASS, NO_LABEL
from limbeck.data.examples import Examples
from limbeck.data.sequences import end_of, prompted
from limbeck.data.tokenizers import Tokenizer, loaded
from limbeck.errors import LimbeckError
from limbeck.evidence.besides import Samples, Writing
from limbeck.evidence.report import Sample
from limbeck.evidence.samples import Wrote, told
from limbeck.models.generation import Text
from limbeck.models.marking import marked
from limbeck.models.sampling import Ends, begin_of, continued, drawn
from limbeck.regimes.plan import Plan
from limbeck.run.experiment import Experiment
from limbeck.training.order import derived
from limbeck.training.workshop import Trained

log = logging.getLogger("limbeck.run")

SHOWN: Final = 4  # prompts whose texts are in the report
TEMPERATURE: Final = 1.0
_SEED: Final = 0
_BATCH: Final = 16  # texts at a time; what is written does not depend on it


@dataclass(frozen=True)
class Prompt:
    """The beginning of a test row. ``whole``: the continuation is the only right one, and there is room for all of it."""

    row: int
    ids: Tensor
    following: Tensor
    whole: bool


def samples_of(
    experiment: Experiment, plan: Plan, trained: Mapping[str, Sequence[Trained]]
) -> tuple[Samples | None, tuple[Sample, ...]]:
    """Numbers and a few texts, of the first seed's students; None where the task is no language model's, or nobody asks.

    A running text is gone on with after its first third, a prompt after its end. Who cannot write is left out and said to be.
    """
    test = experiment.splits.test
    texts = test.table.texts
    if test.task.gives != "tokens" or not experiment.samples or texts is None:
        return None, ()
    modules: dict[str, nn.Module] = {name: arms[0].module() for name, arms in trained.items()}
    if plan.teacher is not None and plan.teacher.module is not None:
        modules["teacher"] = plan.teacher.module
    reader: Any = experiment.splits.reader
    known = loaded(reader.tokenizer)
    most = min([experiment.new_tokens, *(room // 2 for room in _rooms(modules.values()))])
    room = min(_rooms(modules.values()), default=None)
    prompts = prompts_of(test, experiment.samples, most, room)
    if not prompts:
        return None, ()
    left, wrote = dict[str, str](), dict[str, tuple[Wrote, Wrote]]()
    marking = None if texts.teacher is not None else modules.get("teacher")  # it must read the same tokens
    if marking is not None:
        marking.to(plan.device)
    if plan.teacher is not None and plan.teacher.module is None:
        left["teacher"] = "it is no model here"
    for name, module in modules.items():
        reads: Any = texts.teacher if name == "teacher" and texts.teacher is not None else reader
        own, begin = loaded(reads.tokenizer), begin_of(module, reads.tokenizer)
        module.to(plan.device)
        heads = [one.ids if reads is reader else _read(own, known, test, one) for one in prompts]
        try:
            both = [writings(module, heads, own, most, prompts, sample, begin) for sample in (False, True)]
        except LimbeckError as error:
            left[name] = str(error)
        except Exception as error:  # each model fails in its own way, and the other evidence is not to be lost for it
            left[name] = f"it failed ({type(error).__name__}: {' '.join(str(error).split())[:160]})"
        else:
            ends = Ends.of(own, begin)
            wrote[name] = _marked(module, marking, heads, both[0], ends), _marked(module, marking, heads, both[1], ends)
    if texts.teacher is not None and "teacher" in wrote:
        likeliest, draws = wrote["teacher"]
        wrote["teacher"] = _recounted(known, likeliest), _recounted(known, draws)
    strange = known.tokenizer.unk_token_id  # which is no part of a text that is read back
    right = [
        Text.of(one.following, known, Ends.of(known)) if one.whole and strange not in one.following.tolist() else None
        for one in prompts
    ]
    references, watch, form = reference(known, prompts, most), experiment.watch, experiment.exact_match
    if marking is not None:
        ends = Ends.of(known, begin_of(marking, reader.tokenizer))
        references = _marked(None, marking, [one.ids for one in prompts], references, ends)
    found = Samples(
        prompts=len(prompts),
        new_tokens=most,
        temperature=TEMPERATURE,
        seed=_SEED,
        compared=form,
        reference=told(references, watch=watch),
        arms={
            name: Writing(likeliest=told(one, right, watch, form), drawn=told(two, right, watch, form))
            for name, (one, two) in wrote.items()
        },
        left_out=left,
    )
    shown = tuple(
        Sample(
            prompt=_asked(known, test, one),
            reference=references.texts[place],
            likeliest={name: both[0].texts[place] for name, both in wrote.items()},
            drawn={name: both[1].texts[place] for name, both in wrote.items()},
        )
        for place, one in enumerate(prompts[:SHOWN])
    )
    return found, shown


def writing_passes(experiment: Experiment) -> int:
    """How many times each model is run to write, likeliest and drawn, a token of some texts at a time."""
    return 2 * -(-experiment.samples // _BATCH) * experiment.new_tokens


def prompts_of(test: Examples, count: int, most: int, room: int | None = None) -> list[Prompt]:
    """The first ``count`` test rows that can be gone on with by ``most`` tokens, within ``room`` positions."""
    found: list[Prompt] = []
    for row in test.rows.tolist():
        ids = torch.tensor([row])
        batch = test.batch(ids, torch.zeros_like(ids))
        own = batch.inputs["input_ids"][0][batch.inputs["attention_mask"][0].bool()]
        labels = batch.labels[CLASS][0]
        foreseen = (labels != NO_LABEL).nonzero()
        if test.task.reads == "sources":
            target = labels[labels != NO_LABEL]
            found.append(Prompt(row, own, target, len(target) <= most))
            if len(found) == count:
                break
            continue
        begin = int(foreseen[0]) + 1 if len(foreseen) else len(own)
        single = isinstance(test.table.raw(row), str)
        if single:
            begin = max(begin, len(own) // 3)
            begin = min(begin, room - most) if room else begin
        if begin >= len(own) or begin < 1 or (room is not None and begin + most > room):
            continue
        found.append(Prompt(row, own[:begin], own[begin:], not single and len(own) - begin <= most))
        if len(found) == count:
            break
    return found


def writings(
    module: nn.Module,
    heads: Sequence[Tensor],
    known: Tokenizer,
    most: int,
    prompts: Sequence[Prompt],
    sample: bool,
    begin: int | None = None,
) -> Wrote:
    """What the model writes after ``heads``, or turns them into: its likeliest tokens, or draws that hang on the test row alone.

    ``begin``: see `Ends`.

    Raises:
        LimbeckError: it cannot write.
    """
    ends = Ends.of(known, begin)
    order = sorted(range(len(heads)), key=lambda place: len(heads[place]))
    tokens: list[Tensor] = [torch.empty(0)] * len(heads)
    for start in range(0, len(order), _BATCH):
        part = order[start : start + _BATCH]
        draws = drawn([derived(_SEED, "samples", prompts[place].row) for place in part], most) if sample else None
        for place, (own, _) in zip(
            part, continued(module, [heads[place] for place in part], ends, most, draws, TEMPERATURE), strict=True
        ):
            tokens[place] = own.cpu()
    return _wrote([Text.of(one, known, ends) for one in tokens])


def reference(known: Tokenizer, prompts: Sequence[Prompt], most: int) -> Wrote:
    """What stands after the prompts in the data, as far as the models may write."""
    ends = Ends.of(known)
    return _wrote([Text.of(one.following[:most], known, ends) for one in prompts])


def _wrote(texts: Sequence[Text]) -> Wrote:
    return Wrote([one.tokens for one in texts], [one.text for one in texts], [one.ended for one in texts])


def _marked(
    writer: nn.Module | None, teacher: nn.Module | None, heads: Sequence[Tensor], wrote: Wrote, ends: Ends
) -> Wrote:
    """With what the teacher makes of it."""
    if teacher is None:
        return wrote
    whole = [(*own, *ends.end[:ended]) for own, ended in zip(wrote.tokens, wrote.ended, strict=True)]
    try:
        return replace(wrote, marks=marked(writer, teacher, heads, whole, ends))
    except Exception as error:  # as above: the texts themselves are not to be lost for it
        log.warning("What the teacher makes of the texts written is not told: %s: %s", type(error).__name__, error)
        return wrote


def _recounted(known: Tokenizer, wrote: Wrote) -> Wrote:
    """In the tokens of another tokenizer, so that numbers of two models may be compared."""
    read: Any = known.tokenizer
    return Wrote([read(text, add_special_tokens=False)["input_ids"] for text in wrote.texts], wrote.texts, wrote.ended)


def _read(own: Tokenizer, known: Tokenizer, test: Examples, prompt: Prompt) -> Tensor:
    """The prompt in the tokens of the teacher, where they are others."""
    raw = test.table.raw(prompt.row)
    if isinstance(raw, str):
        found = list(own.tokenizer(_decoded(known, prompt.ids))["input_ids"])
        return torch.tensor(found[:-1] if found[-1:] == end_of(own.tokenizer) else found)
    if test.task.reads == "sources":
        return torch.tensor(own.tokenizer(raw[0])["input_ids"])
    return torch.tensor(prompted(own.tokenizer, raw[0]))


def _asked(known: Tokenizer, test: Examples, prompt: Prompt) -> str:
    """The prompt for a person: without what a chat puts around it."""
    raw = test.table.raw(prompt.row)
    return _decoded(known, prompt.ids) if isinstance(raw, str) else str(raw[0])


def _decoded(known: Tokenizer, ids: Tensor) -> str:
    text: str = known.tokenizer.decode(ids.tolist(), skip_special_tokens=True, clean_up_tokenization_spaces=False)
    return text


def _rooms(modules: Iterable[nn.Module]) -> list[int]:
    """The positions of the models that count them."""
    told = (getattr(getattr(module, "config", None), "max_position_embeddings", None) for module in modules)
    return [one for one in told if isinstance(one, int) and one > 1]

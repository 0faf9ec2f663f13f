"""What the teacher and every trained arm write after prompts of the test part."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor, nn

from limbeck.data.batch import CLASS, NO_LABEL
from limbeck.data.examples import Examples
from limbeck.data.sequences import end_of, prompted
from limbeck.data.tokenizers import Tokenizer, loaded
from limbeck.errors import LimbeckError
from limbeck.evidence.report import Sample
from limbeck.evidence.samples import Wrote, told
from limbeck.evidence.schema import Samples, Writing
from limbeck.models.generation import generated
from limbeck.models.sampling import Ends, continued, drawn
from limbeck.regimes.plan import Plan
from limbeck.run.experiment import Experiment
from limbeck.training.order import derived
from limbeck.training.workshop import Trained

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
    other = loaded(texts.teacher.tokenizer) if texts.teacher is not None else None
    most = min([experiment.new_tokens, *(room // 2 for room in _rooms(modules.values()))])
    prompts = prompts_of(test, experiment.samples, most, min(_rooms(modules.values()), default=None))
    if not prompts:
        return None, ()
    left, wrote = dict[str, str](), dict[str, tuple[Wrote, Wrote]]()
    if plan.teacher is not None and plan.teacher.module is None:
        left["teacher"] = "it is no model here"
    for name, module in modules.items():
        own = other if name == "teacher" else None
        module.to(plan.device)
        heads = [_read(own, known, test, one) for one in prompts] if own else [one.ids for one in prompts]
        name_of = texts.teacher.tokenizer if own and texts.teacher else reader.tokenizer
        try:
            both = [
                turned(module, name_of, test, prompts, most, sample)
                if test.task.reads == "sources"
                else writings(module, heads, own or known, most, prompts, sample)
                for sample in (False, True)
            ]
        except LimbeckError as error:
            left[name] = str(error)
        except Exception as error:  # each model fails in its own way, and the other evidence is not to be lost for it
            left[name] = f"it failed ({type(error).__name__}: {' '.join(str(error).split())[:160]})"
        else:
            wrote[name] = both[0], both[1]
    if other is not None and "teacher" in wrote:
        likeliest, draws = wrote["teacher"]
        wrote["teacher"] = _recounted(known, likeliest), _recounted(known, draws)
    strange = known.tokenizer.unk_token_id  # which is no part of a text that is read back
    right = [
        _decoded(known, one.following) if one.whole and strange not in one.following.tolist() else None
        for one in prompts
    ]
    references = reference(known, prompts, most)
    found = Samples(
        prompts=len(prompts),
        new_tokens=most,
        temperature=TEMPERATURE,
        seed=_SEED,
        reference=told(references),
        arms={name: Writing(likeliest=told(one, right), drawn=told(two, right)) for name, (one, two) in wrote.items()},
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
    module: nn.Module, heads: Sequence[Tensor], known: Tokenizer, most: int, prompts: Sequence[Prompt], sample: bool
) -> Wrote:
    """What the model writes after ``heads``: its likeliest tokens, or draws that hang on the test row alone.

    Raises:
        LimbeckError: it cannot write.
    """
    end = tuple(end_of(known.tokenizer))
    ends = Ends(len(known.tokenizer), end, known.pad)
    order = sorted(range(len(heads)), key=lambda place: len(heads[place]))
    tokens: list[Tensor] = [torch.empty(0)] * len(heads)
    for start in range(0, len(order), _BATCH):
        part = order[start : start + _BATCH]
        draws = drawn([derived(_SEED, "samples", prompts[place].row) for place in part], most) if sample else None
        for place, (own, _) in zip(
            part, continued(module, [heads[place] for place in part], ends, most, draws, TEMPERATURE), strict=True
        ):
            tokens[place] = own.cpu()
    return _wrote(known, tokens)


def turned(
    module: nn.Module, tokenizer: str, test: Examples, prompts: Sequence[Prompt], most: int, sample: bool
) -> Wrote:
    """What a model with encoder and decoder turns the texts into; one that fills all the room counts as cut.

    Raises:
        LimbeckError: it cannot write.
    """
    texts = [test.table.raw(one.row)[0] for one in prompts]
    if sample:
        seeds = [derived(_SEED, "samples", one.row) for one in prompts]
        said = [
            generated(module, tokenizer, [one], most, TEMPERATURE, seed)[0]
            for one, seed in zip(texts, seeds, strict=True)
        ]
    else:
        parts = [texts[start : start + _BATCH] for start in range(0, len(texts), _BATCH)]
        said = [one for part in parts for one in generated(module, tokenizer, part, most)]
    read: Any = loaded(tokenizer).tokenizer
    tokens = [read(one, add_special_tokens=False)["input_ids"] for one in said]
    return Wrote(tokens, said, [len(one) < most for one in tokens])


def reference(known: Tokenizer, prompts: Sequence[Prompt], most: int) -> Wrote:
    """What stands after the prompts in the data, as far as the models may write."""
    return _wrote(known, [one.following[:most] for one in prompts])


def _wrote(known: Tokenizer, tokens: Sequence[Tensor]) -> Wrote:
    end = end_of(known.tokenizer)
    ended = [bool(end) and one[-1:].tolist() == end for one in tokens]
    bare = [one[: len(one) - over] for one, over in zip(tokens, ended, strict=True)]
    return Wrote([one.tolist() for one in bare], [_decoded(known, one) for one in bare], ended)


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

"""Pictures that were made for a student without data, for a person to look at."""

from collections.abc import Mapping, Sequence
from typing import Final

import safetensors.torch
import torch

from limbeck.evidence.report import Made
from limbeck.regimes.imagined import WITH_DATA
from limbeck.regimes.plan import Plan
from limbeck.synthesis.space import InputSpace
from limbeck.training.workshop import Trained

SHOWN: Final = 20


def made_of(plan: Plan, trained: Mapping[str, Sequence[Trained]]) -> tuple[Made, ...]:
    """Some of the pictures that the first distilled student learnt from, with the teacher's answers; none where it had data."""
    first = trained["distilled"][0]
    if WITH_DATA not in trained or plan.teacher is None or first.examples is None:
        return ()
    examples = first.examples
    if first.kept is not None:  # pictures of the last step, in place of what stood for them
        levels = safetensors.torch.load_file(first.kept)["pictures"]
        examples = InputSpace.of(examples, first.name).examples(levels, examples)
    rows = examples.rows[:SHOWN]
    batch = examples.batch(rows, torch.zeros_like(rows)).to(plan.device)
    answers = plan.teacher.observe(batch, frozenset({"logits"}))["logits"].float().softmax(-1).cpu()
    return tuple(
        Made(examples.table.show(row), examples.classes[int(one.argmax())], float(one.max()))
        for row, one in zip(rows.tolist(), answers, strict=True)
    )

"""`python -m benchmarks.capacity`: how well students fit the very images that they learn from, with all labels.

A student that is hardly better there than on new images does not lack examples or better answers to them, but size.
"""

from dataclasses import replace
from datetime import UTC, datetime

import torch
from torch import nn

from benchmarks.kept import RESULTS
from benchmarks.methods import STAGES, Bench, chosen
from limbeck.data.examples import Examples
from limbeck.files import write_json
from limbeck.run.folder import versions
from limbeck.run.measure import answers_of
from limbeck.training.progress import Watcher

STAGE, ROWS, SEEDS = "all-folds", 10_000, (0, 1, 2)


def main() -> None:
    """Trains what has not been trained, and writes the accuracies on both parts."""
    with Watcher() as watcher:
        school = Bench(STAGE, STAGES[STAGE], watcher).school
    train, test = school.plan.splits.train, school.plan.splits.test
    some = torch.randperm(len(train), generator=torch.Generator().manual_seed(0))[:ROWS]
    parts = {"learnt from": replace(train, rows=train.rows[some]), "test": test}

    def accuracies(module: nn.Module) -> dict[str, float]:
        return {name: _accuracy(module, part) for name, part in parts.items()}

    objectives = {"control": {"labels": 1.0}, **chosen(STAGES[STAGE])}
    found = {"teacher of all labels": [accuracies(school.taught)]}
    for name in ("control", "soft-targets", "dist"):
        found[name] = [accuracies(school.trained(objectives[name], seed).module()) for seed in SEEDS]
    date = datetime.now(UTC).isoformat(timespec="seconds")
    write_json(
        RESULTS / "capacity.json",
        {"stage": STAGE, "rows": ROWS, "seeds": SEEDS, "accuracy": found, "date": date, "versions": versions()},
    )


def _accuracy(module: nn.Module, part: Examples) -> float:
    answers = answers_of(module, part, "student", "cpu").logits.argmax(-1)
    return float((answers == part.labels[part.rows]).float().mean())


if __name__ == "__main__":
    main()

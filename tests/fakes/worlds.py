"""Arms of every task: a teacher and students that have come more or less of its way."""

from dataclasses import dataclass

import numpy as np

from limbeck.data.task import NEVER, Task
from limbeck.data.tasks import Classes, MultiLabel, MultiTask, Numbers, Spans, Tags
from limbeck.evidence.results import ArmResult, ArmResults
from limbeck.evidence.schema import Counts, Evidence
from limbeck.evidence.weigh import weigh

NAMES = {
    "classes": ("cat", "dog", "owl", "fox"),
    "multi-label": ("sport", "politics", "science", "weather", "art"),
    "multi-task": ("meal: bread", "meal: tea", "town: oslo", "town: rome", "town: lima"),
    "tags": ("O", "B-PER", "I-PER", "B-LOC", "I-LOC"),
    "spans": ("first", "last"),
    "numbers": ("value",),
}
TASKS: tuple[Task, ...] = (
    Classes(),
    MultiLabel(),
    MultiTask().asking(NAMES["multi-task"]),
    Tags(),
    Spans(),
    Numbers(),
)
SKILL = {"teacher": 3.5, "control": 1.6, "pseudo_labels": 2.0, "distilled": 2.6}


@dataclass(frozen=True)
class World:
    """Results of all arms, and what they were asked."""

    task: Task
    arms: ArmResults
    labels: np.ndarray
    example: np.ndarray
    names: tuple[str, ...]
    examples: int

    def weighed(self, **options) -> Evidence:
        counts = Counts(test=self.examples, classes=len(self.names), outputs=self.task.outputs)
        given = {"resamples": 300, "data": counts, "task": self.task, "example": self.example, **options}
        return weigh(self.arms, self.labels, self.names, **given)


def truth(task: Task, examples: int, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray, int]:
    """Labels, whose they are, and how many choices there are."""
    names = NAMES[task.name]
    if task.gives == "numbers":
        return generator.normal(3.0, 2.0, (examples, 1)), np.arange(examples), 0
    each = {"classes": 1, "multi-label": len(names), "multi-task": 2, "spans": 2}.get(task.name)
    count = generator.integers(3, 14, examples) if each is None else np.full(examples, each)
    example = np.repeat(np.arange(examples), count)
    if task.name == "multi-label":
        return (generator.random(len(example)) < 0.3).astype(np.int64), example, 2
    if task.heads:  # every fifth example has a label of the first task alone
        both = np.stack([generator.integers(0, 2, examples), generator.integers(2, 5, examples)], 1)
        kept = np.ones((examples, 2), dtype=bool)
        kept[::5, 1] = False
        return both[kept], np.repeat(np.arange(examples), 2).reshape(-1, 2)[kept], 5
    if task.name == "spans":
        first = generator.integers(4, 20, examples) * (generator.random(examples) < 0.8)
        last = first + generator.integers(0, 4, examples) * (first > 0)
        return np.stack([first, last], 1).reshape(-1), example, 32
    return generator.integers(0, len(names), len(example)), example, len(names)


def world(task: Task, examples: int = 240, seeds: int = 3, seed: int = 0) -> World:
    """Answers that are the nearer to the truth, the more skill an arm has."""
    generator = np.random.default_rng(seed)
    labels, example, width = truth(task, examples, generator)
    hard = generator.normal(size=(len(labels), max(1, width)))

    def answers(skill: float) -> np.ndarray:
        noise = generator.normal(size=hard.shape)
        if task.gives == "numbers":
            return (labels + (0.7 * hard + 0.7 * noise) * 2.5 / skill).astype(np.float32)
        found = (skill * np.eye(width)[labels] + 0.7 * hard + 0.7 * noise).astype(np.float32)
        for one in task.heads.values():
            mine = (labels >= one.start) & (labels < one.stop)
            found[np.ix_(mine, [place for place in range(width) if not one.start <= place < one.stop])] = NEVER
        return found

    def curve(skill: float) -> list[dict]:
        top = 1 - 0.5 / skill
        found = [top - (2.0 if task.gives == "numbers" else 0.5) * np.exp(-step / 200) for step in range(50, 1001, 50)]
        return [
            {"step": 50 * (place + 1), "loss": 1.0, "parts": {}, "validation": {task.measure: value}}
            for place, value in enumerate(found)
        ]

    def arm(name: str) -> ArmResult:
        skill, one = SKILL[name], name == "teacher"
        runs = [answers(skill) for _ in range(1 if one else seeds)]
        return ArmResult(runs, () if one else range(seeds), [curve(skill)] * len(runs), [12.0] * len(runs))

    arms = ArmResults(**{name: arm(name) for name in SKILL})
    return World(task, arms, labels, example, NAMES[task.name], examples)

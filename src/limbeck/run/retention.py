"""What students that learn tasks one after another know of each task after each training."""

from collections.abc import Mapping, Sequence

import numpy as np

from limbeck.data.examples import Examples
from limbeck.evidence.besides import Retention
from limbeck.evidence.retention import retained
from limbeck.regimes.plan import Plan
from limbeck.run.experiment import Experiment
from limbeck.run.measure import answers_of
from limbeck.training.workshop import Trained


def retention_of(experiment: Experiment, plan: Plan, trained: Mapping[str, Sequence[Trained]]) -> Retention | None:
    """Of each arm that has a training for each part; None where the regime has no parts."""
    exams = experiment.regime.exams(plan)
    if not exams:
        return None
    found = {}
    for name, seeds in trained.items():
        if all(len(one.before) == len(exams) - 1 for one in seeds):
            found[name] = retained([_matrix(one, exams, plan.device) for one in seeds])
    return Retention(tasks=tuple(exams), arms=found)


def _matrix(
    last: Trained, exams: Mapping[str, Examples], device: str
) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    """The score on each part after each training."""
    rows = []
    for one in (*last.before, last):
        module = one.module()
        answers = [(part.task, answers_of(module, part, "student", device)) for part in exams.values()]
        rows.append([float(task.scores(found).mean()) for task, found in answers])
    return np.array(rows, dtype=np.float64)

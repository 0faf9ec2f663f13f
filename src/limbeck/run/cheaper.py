"""How far a teacher that is run in another precision is from itself."""

from dataclasses import replace

import torch

from limbeck.advice.preflight import answers_by
from limbeck.data.task import Answered, Task
from limbeck.run.experiment import Experiment
from limbeck.teachers.local import LocalTeacher
from limbeck.teachers.precision import Asking

_ROWS = 64


def agreement(experiment: Experiment, device: str) -> list[tuple[str, str]]:
    """What a preflight says of it, on some rows of the validation part; nothing, where the teacher is run as it is."""
    teacher, asking = experiment.teacher, experiment.asking or Asking()
    if teacher is None or teacher.module is None or asking.precision is None:
        return []
    rows = replace(experiment.splits.validation, rows=experiment.splits.validation.rows[:_ROWS])
    ours = answers_by(teacher, rows, device)
    home = next((one.device for one in teacher.module.parameters()), torch.device("cpu"))
    theirs = answers_by(LocalTeacher(teacher.module, "as it is"), rows, device)
    teacher.module.to(home)
    return [("teacher's precision", f"{asking.precision}: {_alike(rows.task, ours, theirs)}")]


def _alike(task: Task, ours: Answered, theirs: Answered) -> str:
    if (
        task.gives == "tokens"
    ):  # see `losses.storages.judged`: the likeliest token, and the log-probability of the right one
        same, nats = (
            (ours.logits[:, 3] == theirs.logits[:, 3]).float().mean(),
            (ours.logits - theirs.logits)[:, 0].abs(),
        )
        return (
            f"the likeliest token is the same as in its own for {100 * float(same):.1f} % of {len(nats):,}, and the right one "
            f"{float(nats.mean()):.2g} nats apart"
        )
    if task.gives == "choices":
        same = (ours.logits.argmax(-1) == theirs.logits.argmax(-1)).float().mean()
        apart = (ours.logits.softmax(-1) - theirs.logits.softmax(-1)).abs().max()
        return (
            f"the answer is the same as in its own for {100 * float(same):.1f} % of {len(ours.logits):,}, probabilities are up "
            f"to {float(apart):.2g} apart"
        )
    apart = torch.linalg.norm(ours.logits - theirs.logits) / torch.linalg.norm(theirs.logits).clamp_min(1e-12)
    return f"{100 * float(apart):.2g} % from its own answers"

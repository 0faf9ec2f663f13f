"""Which layer of the student learns from which of the teacher: rules, and the terms they are applied to.

Rules give pairs of places, counted from 0, that rise on both sides, so no layer is in two of them.
"""

import re
from collections.abc import Callable, Iterable, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from limbeck.data.batch import REAL, Batch
from limbeck.errors import SignalError
from limbeck.losses.similarity import unit_kernel
from limbeck.objective.outline import layers_of
from limbeck.objective.pairs import pooled, tokens_that_count
from limbeck.objective.term import Layers, Term
from limbeck.signals.attention import is_attention
from limbeck.signals.capture import Signals, bare, show
from limbeck.signals.gradient import GRADIENT
from limbeck.teachers.teacher import Teacher

__all__ = ["last", "layers_of", "matched", "similar", "uniform"]

Pairs = list[tuple[int, int]]


def uniform(students: int, teachers: int) -> Pairs:
    """Evenly spaced, the last to the last: of N <= M layers the m-th, from 1, to ``round(m M / N)``, halves up.

    Where the student has more layers, as many as the teacher has, spaced likewise.
    """
    if students > teachers:
        return [(a, b) for b, a in uniform(teachers, students)]
    return [(m - 1, (2 * m * teachers + students) // (2 * students) - 1) for m in range(1, students + 1)]


def last(students: int, teachers: int) -> Pairs:
    """The last layers of both, end to end, as many as the shallower has."""
    count = min(students, teachers)
    return [(students - count + place, teachers - count + place) for place in range(count)]


def similar(cka: Tensor) -> Pairs:
    """The min(N, M) pairs, rising on both sides, with the largest sum of ``cka`` [N, M]; of equal ones the deepest.

    Raises:
        ValueError: it is no matrix of finite numbers.
    """
    if cka.ndim != 2 or not bool(cka.isfinite().all()):
        raise ValueError(f"similarities are finite numbers [N, M], not {list(cka.shape)} with others")
    if cka.shape[0] > cka.shape[1]:
        return [(a, b) for b, a in similar(cka.T)]
    rows = cka.tolist()
    # best[i][j]: the largest sum of the first i rows within the first j columns
    best = [[0.0] * (cka.shape[1] + 1)]
    for row in rows:
        sums = [-torch.inf]
        for j, value in enumerate(row):
            sums.append(max(sums[j], best[-1][j] + value))
        best.append(sums)
    found, j = [], cka.shape[1]
    for i in range(len(rows), 0, -1):
        while best[i - 1][j - 1] + rows[i - 1][j - 1] != best[i][j]:
            j -= 1
        j -= 1
        found.append((i - 1, j))
    return found[::-1]


def matched(
    terms: Iterable[Term], student: nn.Module, teacher: Teacher | None, batches: Sequence[Batch], side: str = "student"
) -> tuple[Term, ...]:
    """The terms with their layers found. Nothing is run unless a term's ``layers`` is a rule.

    Args:
        terms: as in a recipe.
        student: the student; its mode is left as it was.
        teacher: a model in memory, or stored layers: those that are stored, in the order of their names and numbers.
        batches: a few; the first shows the layers, and ``similarity`` measures all their examples.
        side: whose columns the student reads.

    Raises:
        SignalError: a side shows no layers, or ``similarity`` has too few examples.
    """
    found = _Found(student, teacher, batches, "teacher" if side == "teacher" else "student")
    return tuple(one for term in terms for one in term.resolved(found.pairs))


class _Found:
    """The layers of both sides, and what the rules make of them, found when asked for."""

    def __init__(
        self,
        student: nn.Module,
        teacher: Teacher | None,
        batches: Sequence[Batch],
        side: Literal["student", "teacher"],
    ) -> None:
        self._student, self._teacher, self._batches, self._side = student, teacher, batches, side
        self._known: dict[Layers, list[tuple[str, str]]] = {}

    def pairs(self, rule: Layers) -> list[tuple[str, str]]:
        """The names of the layers that a rule pairs."""
        if rule not in self._known:
            teacher = self._teacher
            if teacher is None:
                raise SignalError(f"The layers {rule!r} are paired with a teacher's, and there is none.")
            if not self._batches:
                raise SignalError(f"The layers {rule!r} are found by running the models, and there are no examples.")
            ours = layers_of(self._student, self._batches[0].columns(self._side))
            theirs = _taught(teacher, self._batches[0])
            for who, layers, shown in (
                ("student", ours, _modules(self._student)),
                ("teacher", theirs, _modules(teacher.module, teacher.provides.names)),
            ):
                if not layers:
                    raise SignalError(
                        f"The {who} shows no layers that can be matched: name them with layers: {{student: teacher}}. "
                        f"It has {shown}."
                    )
            if rule == "similarity":
                places = similar(self._cka(teacher, ours, theirs))
            else:
                places = {"uniform": uniform, "last": last}[rule](len(ours), len(theirs))
            self._known[rule] = [(ours[a], theirs[b]) for a, b in places]
        return self._known[rule]

    def _cka(self, teacher: Teacher, ours: list[str], theirs: list[str]) -> Tensor:
        device = next((one.device for one in self._student.parameters()), None)

        def seen(batch: Batch) -> Signals:
            columns = {name: value.to(device) for name, value in batch.columns(self._side).items()}
            return show(self._student, columns, frozenset(ours))

        left = self._kernels("student", seen, ours, self._side)
        right = self._kernels("teacher", lambda batch: teacher.observe(batch, frozenset(theirs)), theirs, "teacher")
        return torch.stack([torch.stack([(a * b).sum() for b in right]) for a in left])

    def _kernels(
        self, who: str, shown: Callable[[Batch], Signals], names: list[str], side: Literal["student", "teacher"]
    ) -> list[Tensor]:
        """Each layer's kernel of all examples, its positions that count averaged."""
        vectors: dict[str, list[Tensor]] = {name: [] for name in names}
        for batch in self._batches:
            signals, real = shown(batch), batch.masks[REAL].cpu()
            for name in names:
                value = signals[name].detach()
                mask = tokens_that_count(batch, side, value)
                mask = mask if mask is None else mask.to(value.device)
                vectors[name].append(pooled(value.double(), mask).cpu()[real])
        examples = sum(map(len, vectors[names[0]]))
        if examples < 4:
            raise SignalError(f"Layers are paired by similarity on at least 4 examples, and there are {examples}.")
        if wrong := [name for name in names if not all(bool(one.isfinite().all()) for one in vectors[name])]:
            raise SignalError(
                f"The {who}'s layer {wrong[0]!r} gives numbers that are not finite: nothing is like them."
            )
        return [unit_kernel(torch.cat(vectors[name])) for name in names]


def _taught(teacher: Teacher, batch: Batch) -> list[str]:
    """The layers that a teacher can be asked for."""
    if teacher.module is not None:
        layers = layers_of(teacher.module, batch.columns("teacher"))
        return [name for name in layers if not teacher.provides.lacking({name})]
    stored = teacher.provides.names or frozenset()
    inner = [name for name in stored if name not in ("logits", GRADIENT) and not is_attention(name) and ":" not in name]
    hidden = [name for name in inner if re.fullmatch(r"hidden\.\d+", name)]
    layers = [name for name in hidden or inner if name != "hidden.0"]
    return sorted(layers, key=lambda name: [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name)])


def _modules(module: nn.Module | None, stored: frozenset[str] | None = None) -> str:
    """What a side has, in words."""
    if module is None:
        return "stored " + (", ".join(map(repr, sorted(stored or ()))) or "nothing")
    names = [name for name, _ in bare(module).named_modules() if name]
    return f"the modules {', '.join(names[:6])}{', ...' if len(names) > 6 else ''}" if names else "no modules inside"

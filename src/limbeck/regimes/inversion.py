"""Without data: the student learns from pictures that its teacher is made to remember (Yin et al. 2020, arXiv:1912.08795)."""

import time
from collections.abc import Callable
from typing import Annotated, Final, Literal, Self

import torch
from pydantic import Field

from limbeck.files import home
from limbeck.regimes.budget import Arm
from limbeck.regimes.imagined import arms_beside, demand, on, unmade
from limbeck.regimes.plan import Plan, hard_labels
from limbeck.regimes.regime import Common, Regime, make, make_timed, train
from limbeck.synthesis.inversion import Pictures, invert
from limbeck.synthesis.kept import made
from limbeck.synthesis.norms import demand_norms
from limbeck.synthesis.space import InputSpace
from limbeck.training.settings import Training
from limbeck.training.stage import Stage
from limbeck.training.workshop import Trained

_TRIED: Final = 2


class Inversion(Common):
    """Pictures are made of a teacher that knows its classes; the student learns from them, and from no training row.

    In rounds: pictures are made, the student is trained on all that there are, is evaluated, and so on. From the second round on
    they are made to show where the student is not yet like its teacher, and it goes on from where it was. The teacher labels
    them. Validation and test rows are the recipe's.
    """

    name: Literal["inversion"] = "inversion"
    pictures: Pictures = Pictures()
    """How pictures are made, and how many in each round."""
    rounds: Annotated[int, Field(ge=1, le=20)] = 1
    """How often that is done; every round trains for the recipe's steps."""
    enough: Annotated[float, Field(gt=0, le=1)] | None = None
    """The accuracy on validation after which no further round is begun."""

    def arms(self, plan: Plan) -> dict[str, Arm]:
        """``control`` and ``with_data``, students of the recipe's data; and the distilled student, which sees none of it."""
        return {**arms_beside(self), "distilled": self.distilled}

    def budgeted(self, change: Callable[[Training], Training]) -> Self:
        """With other steps for the pictures, too."""
        steps = change(Training(steps=self.pictures.steps)).total
        return self.model_copy(update={"pictures": self.pictures.model_copy(update={"steps": steps})})

    def stages(self, plan: Plan) -> tuple[Stage, ...]:
        """A training for each round, on noise in place of pictures that are not made yet."""
        space = self._demand(plan)
        return tuple(
            on(plan, unmade(plan, space, turn * self.pictures.count, labelled=True)).stage(
                "student" if turn == self.rounds else f"round {turn}", teacher=plan.teacher
            )
            for turn in range(1, self.rounds + 1)
        )

    def making_seconds(self, plan: Plan, seeds: int) -> float:
        """From two steps of one batch, as if nothing were made yet; the first round is made once for all seeds."""
        space, own = self._demand(plan), self.pictures
        assert plan.teacher is not None
        assert plan.teacher.module is not None
        ids = torch.arange(min(own.count, own.batch_size))
        module, targets = plan.teacher.module.to(plan.device).eval(), ids % len(plan.splits.classes)
        times = []
        for _ in range(_TRIED):  # the first step pays for what is done once
            began = time.perf_counter()
            invert(module, space, targets, ids, own.model_copy(update={"steps": 1}))
            times.append(time.perf_counter() - began)
        return min(times) * own.steps * own.count / len(ids) * (1 + (self.rounds - 1) * seeds)

    def distilled(self, plan: Plan) -> Regime[Trained]:
        """The student that the recipe is about."""
        plan = yield from plan.taught()
        space = self._demand(plan)
        assert plan.teacher is not None
        trained: Trained | None = None
        levels = torch.empty(0, *space.shape, dtype=torch.uint8)
        for turn in range(1, self.rounds + 1):
            new = yield from make_timed(
                f"pictures of round {turn}",
                made,
                teacher=plan.teacher,
                space=space,
                classes=len(plan.splits.classes),
                settings=self.pictures,
                root=home() / "pictures",
                first=(turn - 1) * self.pictures.count,
                student=trained.as_teacher() if trained is not None else None,
                device=plan.device,
                on_progress=plan.on_label,
            )
            levels = torch.cat([levels, new])
            unlabelled = space.examples(levels, plan.splits.train)
            labels = yield from make(
                "labels", hard_labels, examples=unlabelled, teacher=plan.teacher, device=plan.device
            )
            own = on(plan, unlabelled.relabelled(labels))
            teacher = yield from own.labelled()
            name = "distilled" if turn == self.rounds else f"round {turn}"
            trained = yield from train(own.stage(name, teacher=teacher, start=trained))
            if self.enough is not None and trained.metrics[plan.splits.task.measure] >= self.enough:
                break
        assert trained is not None
        return trained

    def _demand(self, plan: Plan) -> InputSpace:
        module, space = demand(plan, self.name)
        if self.pictures.prior == "statistics":
            demand_norms(module, self.name, "'regime: generator', which does without them")
        return space

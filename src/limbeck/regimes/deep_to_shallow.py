"""A student's deepest layer teaches its shallow ones (be your own teacher, Zhang et al. 2019, arXiv:1905.08094)."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, model_validator
from torch import nn

from limbeck.config import Tuple, digest
from limbeck.data.examples import Examples
from limbeck.errors import LimbeckError
from limbeck.models.depth import longest
from limbeck.models.exits import exits_for
from limbeck.models.seeded import seeded
from limbeck.models.spec import BuildContext
from limbeck.objective import Term
from limbeck.objective.within import Within
from limbeck.regimes.offline import Offline
from limbeck.regimes.plan import Plan
from limbeck.regimes.pupils import PART, demand_alone, demand_apart, metrics_of
from limbeck.regimes.regime import Common, Regime, make, train
from limbeck.signals.capture import bare, show
from limbeck.training.order import derived
from limbeck.training.stage import Origin, Stage
from limbeck.training.workshop import Trained

Paths = Annotated[tuple[str, ...], Field(min_length=1), Tuple]


@dataclass(frozen=True)
class WithExits:
    """A student with exits behind these modules; None: behind every layer of its longest list but the last."""

    start: Origin = field(repr=False)
    paths: tuple[str, ...] | None
    context: BuildContext = field(repr=False)
    seed: int

    def module(self) -> nn.Module:
        """A new module; see `Exits`."""
        model = bare(self.start.module())
        paths, deepest = self._places(model)
        columns = {name: value[:2] for name, value in self.context.sample.items()}
        shown = show(model, columns, {*paths, deepest, "logits"})
        with seeded(self.seed):
            return exits_for(model, paths, deepest, shown, shown["logits"].shape[-1]).train()

    def _places(self, model: nn.Module) -> tuple[tuple[str, ...], str]:
        try:
            stack = longest(model)
        except LimbeckError as error:
            raise LimbeckError(
                f"Where {type(model).__name__} has its layers is not clear, so exits cannot be put behind them. {error}"
            ) from error
        layers = [f"{stack}.{place}" for place in range(len(model.get_submodule(stack)))]  # type: ignore[arg-type]
        return self.paths or tuple(layers[:-1]), layers[-1]


@dataclass(frozen=True)
class Settling:
    """A student with exits that answers where one is sure enough."""

    start: Origin = field(repr=False)
    threshold: float

    def module(self) -> nn.Module:
        """A new module."""
        module: Any = self.start.module()
        module.threshold = self.threshold
        return module  # type: ignore[no-any-return]


class DeepToShallow(Common):
    """Shallow exits of the student learn from labels, and from the deepest answer as it is at that step, without a gradient.

    The objective is the exits'; the deepest answer learns from labels alone. A term between layers is read once, by the names
    that modules have here: the student is ``model``, the exits ``exits.0`` and on, each with a ``bottleneck`` of the form of the
    deepest layer. In the paper an exit's labels weigh 0.7, its soft targets 0.3 at temperature 3, and its hints 0.03.
    """

    taught: ClassVar[bool] = False

    name: Literal["deep-to-shallow"] = "deep-to-shallow"
    exits: Paths | None = None
    """The modules behind which there are exits, such as ``blocks.0``; null: every layer but the last."""
    deliver: Literal["deepest", "exits"] = "deepest"
    """The student without its exits; or with them, answering at the first that is sure enough."""
    threshold: Annotated[float, Field(ge=0, le=1)] | None = None
    """With ``deliver: exits``: the probability that an exit must give its answer; 0.9 if left out."""

    @model_validator(mode="after")
    def _threshold_is_used(self) -> Self:
        if self.threshold is not None and self.deliver != "exits":
            raise ValueError(
                "threshold says when an exit answers, and 'deliver: deepest' drops the exits: leave it out"
            )
        return self

    def arms(self, plan: Plan) -> dict[str, Callable[[Plan], Regime[Trained]]]:
        """The control, which has no exits, and the distilled student."""
        return {"control": Offline().control, "distilled": self.distilled}

    def stages(self, plan: Plan) -> tuple[Stage, ...]:
        """The one training."""
        return (self._stage(plan, "student"),)

    def distilled(self, plan: Plan) -> Regime[Trained]:
        """The student that the recipe is about."""
        stage = self._stage(plan, "distilled")
        whole = yield from train(stage)
        threshold = (0.9 if self.threshold is None else self.threshold) if self.deliver == "exits" else None
        told = {"threshold": threshold, "validation": plan.splits.validation, "device": plan.device}
        return (yield from make(f"exits of {stage.name}", delivered, whole=whole, **told))

    def _stage(self, plan: Plan, name: str) -> Stage:
        demand_alone(plan, self.name)
        demand_apart(plan, self.name, layers=True)
        if self.deliver == "exits" and plan.splits.task.gives != "choices":
            raise LimbeckError(
                f"'deliver: exits' takes an answer when its probability is high, and the task {plan.splits.task.name!r} has none."
            )
        start = WithExits(plan.start, self.exits, plan.context, derived(plan.seed, "exits"))
        count = len(list(start.module().get_submodule("exits").children()))
        terms: list[Term] = [Within(term, "logits", None, "the deepest") for term in plan.without_teacher]
        for term in plan.terms:
            if (term.needs().student | term.needs().teacher) - {"logits"}:
                terms.append(Within(term, "logits", "logits", "layers"))
                continue
            taught = "logits" if term.needs().teacher else None
            terms += [Within(term, f"exits.{place}", taught, f"exit {place + 1}") for place in range(count)]
        return plan.stage(name, tuple(terms), examples=plan.read(plan.terms), start=start)


def delivered(whole: Trained, threshold: float | None, validation: Examples, device: str) -> Trained:
    """The student without its exits; with a ``threshold``, answering at the first that is so sure. Its metrics tell of each."""
    count, task = len(list(whole.module().get_submodule("exits").children())), validation.task
    each = [metrics_of(whole, validation, device, f"exits.{place}")[task.measure] for place in range(count)]
    told = {f"{PART}exit {place + 1}": value for place, value in enumerate(each)}
    deepest = whole.part("model")
    told[f"{PART}the deepest"] = metrics_of(deepest, validation, device)[task.measure]
    if threshold is None:
        return replace(deepest, metrics=deepest.metrics | told)
    key, fingerprint = digest([whole.key, threshold]), digest([whole.fingerprint, threshold])
    start = Settling(whole.start, threshold)
    found = replace(whole, start=start, fingerprint=fingerprint, key=key)
    return replace(found, metrics=metrics_of(found, validation, device) | told)

"""How a model is trained: optimiser, budget, evaluation. Frozen values, part of what names a trained arm."""

from typing import TYPE_CHECKING, Annotated, Literal, Self

from pydantic import Field, model_validator

from limbeck.config import Config, choice

Positive = Annotated[float, Field(gt=0)]
Share = Annotated[float, Field(ge=0, le=1)]
Rate = Annotated[float, Field(ge=0, lt=1)]


class AdamW(Config):
    """Adam with decoupled weight decay (Loshchilov & Hutter 2019, arXiv:1711.05101)."""

    name: Literal["adamw"] = "adamw"
    learning_rate: Positive = 1e-3
    """The peak, after warm-up."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    """Not applied to biases and normalisation weights."""
    betas: tuple[Rate, Rate] = (0.9, 0.999)
    """Decay rates of the two moments."""
    eps: Positive = 1e-8
    """Added to the denominator."""


class Sgd(Config):
    """Stochastic gradient descent with momentum."""

    name: Literal["sgd"]
    learning_rate: Positive = 0.05
    """The peak, after warm-up."""
    weight_decay: Annotated[float, Field(ge=0)] = 5e-4
    """Not applied to biases and normalisation weights."""
    momentum: Share = 0.9
    """0 for none."""
    nesterov: bool = False
    """Nesterov's form."""


if TYPE_CHECKING:
    Optimizer = AdamW | Sgd
else:
    Optimizer = choice(AdamW, Sgd)


_LATER = ("max-norm", "average", "group-by-length")


class Training(Config):
    """Budget, optimiser and evaluation of one arm. The control has the same ones as the distilled student."""

    steps: Annotated[int, Field(ge=1)] | None = None
    """Optimiser steps; this or ``epochs``."""
    epochs: Positive | None = None
    """Passes over all training examples; this or ``steps``. It is turned into steps, the same for every student."""
    batch_size: Annotated[int, Field(ge=1)] = 64
    """Examples an optimiser step, over all processes and micro-batches."""
    accumulate: Annotated[int, Field(ge=1)] = 1
    """Micro-batches a step: less memory, the same gradient."""
    group_by_length: bool = False
    """Whether texts of like lengths share a step, so that little of it is padding. Which do is drawn anew in every epoch."""
    optimizer: Optimizer = AdamW()
    """``adamw`` or ``sgd``, with its settings."""
    warmup: Share = 0.05
    """The share of the steps in which the learning rate rises from 0."""
    decay: Literal["cosine", "linear", "none"] = "cosine"
    """How the learning rate falls to 0 after warm-up."""
    clip: Positive | None = 1.0
    """Largest gradient norm, for each parameter group by itself; null for none."""
    max_norm: Positive | None = None
    """Largest Euclidean norm of the weights that lead to one unit or channel, after every step (Srivastava et al. 2014), 3 to 4
    there; null for none."""
    average: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Judge and deliver the moving average of the weights, which keeps this share of itself in a step, 0.999 say, and less at
    first (Polyak & Juditsky 1992; Tarvainen & Valpola 2017, arXiv:1703.01780); null: the weights themselves."""
    precision: Literal["no", "bf16", "fp16"] = "no"
    """Mixed precision of the forward pass; losses are always computed in float32."""
    evaluate_every: Annotated[int, Field(ge=1)] | None = None
    """Steps between evaluations on the validation part; by default 10 evaluations in all."""
    patience: Annotated[int, Field(ge=1)] | None = None
    """Stop after this many evaluations without improvement; null: never."""
    keep: Literal["best", "last"] = "best"
    """Which weights are delivered: those best on validation (accuracy, then NLL), or the last."""
    workers: Annotated[int, Field(ge=0)] = 0
    """Processes that read data ahead."""
    checkpoint_every: Annotated[int, Field(ge=1)] | None = None
    """Steps between checkpoints; by default one every 30 seconds."""

    @model_validator(mode="after")
    def _one_budget(self) -> Self:
        if (self.steps is None) == (self.epochs is None):
            raise ValueError("give either steps or epochs" + (", not both" if self.steps else ""))
        if self.accumulate > self.batch_size:
            raise ValueError(f"accumulate ({self.accumulate}) is larger than batch-size ({self.batch_size})")
        return self

    def resolved(self, examples: int) -> Self:
        """The same settings with ``epochs`` turned into steps over this many examples."""
        if self.epochs is None:
            return self
        return self.model_copy(
            update={"steps": max(1, round(self.epochs * examples / self.batch_size)), "epochs": None}
        )

    def scaled(self, share: float, least: int = 20) -> Self:
        """The same settings with a share of the budget, but no fewer than ``least`` steps if it is in steps."""
        if self.steps is not None:
            update = {"steps": min(self.steps, max(least, round(self.steps * share)))}
        else:
            assert self.epochs is not None
            update = {"epochs": self.epochs * share}  # type: ignore[dict-item]
        return self.model_copy(update=update)

    @property
    def total(self) -> int:
        """Optimiser steps in all."""
        assert self.steps is not None, "resolve epochs first"
        return self.steps

    @property
    def between_evaluations(self) -> int:
        """Steps between two evaluations."""
        return self.evaluate_every or max(1, self.total // 10)

    def identity(self) -> dict[str, object]:
        """What determines the trained weights: all but the number of workers and the rhythm of checkpoints, and nothing that
        is not set where it came later.
        """
        plain = self.plain()
        left_out = ("workers", "checkpoint-every", *(name for name in _LATER if not plain[name]))
        return {name: value for name, value in plain.items() if name not in left_out}

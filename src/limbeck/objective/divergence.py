"""Learning from the teacher's distribution over a large vocabulary, by any divergence."""

from collections.abc import Callable
from typing import Annotated, ClassVar, Final, Literal

from pydantic import Field, model_validator
from torch import Tensor, nn

from limbeck.data.batch import GIVEN, REAL, WRITTEN, Batch
from limbeck.data.task import Gives
from limbeck.losses import divergences
from limbeck.losses.divergences import Divergence, ForwardKl, dense
from limbeck.losses.offer import Offer
from limbeck.losses.sparse import Given
from limbeck.losses.storages import Storage
from limbeck.objective.pairs import Answers
from limbeck.objective.returns import Returns
from limbeck.objective.schedules import Fixed, Place
from limbeck.objective.temperatures import Scheduled
from limbeck.objective.term import About, Over
from limbeck.signals.capture import Signals

Kind = Literal[
    "forward-kl",
    "reverse-kl",
    "jensen-shannon",
    "continuous-jensen-shannon",
    "skew-kl",
    "skew-reverse-kl",
    "total-variation",
    "adaptive-kl",
    "alpha-beta",
]
_MADE: Final[dict[Kind, Callable[..., Divergence]]] = {
    "forward-kl": divergences.ForwardKl,
    "reverse-kl": divergences.ReverseKl,
    "jensen-shannon": divergences.JensenShannon,
    "continuous-jensen-shannon": divergences.ContinuousJensenShannon,
    "skew-kl": divergences.SkewKl,
    "skew-reverse-kl": divergences.SkewReverseKl,
    "total-variation": divergences.TotalVariation,
    "adaptive-kl": divergences.AdaptiveKl,
    "alpha-beta": divergences.AlphaBeta,
}


class Diverging(Answers):
    """A divergence between both sides' distributions, token by token where the task is ``next-token``.

    The vocabulary is never held whole for all tokens, so it may be as large as it is. On the student's own texts, of the regime
    ``on-policy``, it is GKD; ``skew-kl`` on given texts and ``skew-reverse-kl`` on written ones are DistiLLM-2; ``reverse-kl``
    on written ones with ``returns`` is MiniLLM.
    """

    about: ClassVar[About] = About(
        "responses",
        "Agarwal et al. 2024, arXiv:2306.13649; Ko et al. 2024, arXiv:2402.03898",
        "sum over classes, mean over examples or tokens",
        "language models: forward-kl to cover all that the teacher says, reverse or skewed where the student is too small for it",
    )
    zero_at_match: ClassVar[bool] = True

    name: Literal["divergence"] = "divergence"
    kind: Kind = "forward-kl"
    """Which one; see `limbeck.losses.sequences`."""
    alpha: float | None = None
    """The share of mixing of ``skew-kl`` and ``skew-reverse-kl`` (0.1), or alpha of ``alpha-beta`` (0.2)."""
    beta: float | None = None
    """Of both kinds of ``jensen-shannon`` (0.5), or beta of ``alpha-beta`` (0.7)."""
    mass: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Of ``adaptive-kl``: how much the teacher's likeliest tokens hold (0.5)."""
    temperature: Scheduled = Fixed(value=1.0)
    """T of both sides; the value carries the factor T^2."""
    texts: Annotated[Literal["all", "written", "given"], Field(exclude_if=lambda texts: texts == "all")] = "all"
    """Of the regime ``on-policy``: all texts of a step, those that the student ``written`` itself, or the others, which are
    ``given`` by the data or the teacher."""
    returns: Annotated[Returns | None, Field(exclude_if=lambda returns: returns is None)] = None
    """Of ``reverse-kl`` on ``written`` texts: a token also answers for what it leads to, as in MiniLLM."""

    @model_validator(mode="after")
    def _settings_belong_to_the_kind(self) -> "Diverging":
        try:
            self.divergence  # noqa: B018 - it is made
        except TypeError:
            own = {"alpha": ("skew-kl", "skew-reverse-kl", "alpha-beta"), "mass": ("adaptive-kl",)}
            own["beta"] = ("jensen-shannon", "continuous-jensen-shannon", "alpha-beta")
            wrong = next(name for name in self._given if self.kind not in own[name])
            raise ValueError(f"{wrong} is a setting of {', '.join(own[wrong])}, and kind is {self.kind}") from None
        return self

    @model_validator(mode="after")
    def _returns_are_of_written_texts(self) -> "Diverging":
        plain = self.temperature.turns == (1.0,)
        if self.returns is not None and (self.kind != "reverse-kl" or self.texts != "written" or not plain):
            raise ValueError("returns belong to kind: reverse-kl with texts: written, at temperature 1")
        return self

    @property
    def _given(self) -> dict[str, float]:
        return {name: one for name in ("alpha", "beta", "mass") if (one := getattr(self, name)) is not None}

    @property
    def divergence(self) -> Divergence:
        """The definition."""
        return _MADE[self.kind](**self._given)

    @property
    def reads(self) -> Offer:  # type: ignore[override]
        """As the definition says; at another temperature than 1, and of any token that may be written, every class."""
        softened = any(turn != 1 for turn in self.temperature.turns)
        every = softened or self.returns is not None
        return max(self.divergence.reads, Offer.ROWS if every else Offer.EXPECTATIONS)

    @property
    def mask(self) -> str:  # type: ignore[override]
        """Real rows, or those that ``texts`` names."""
        return {"all": REAL, "written": WRITTEN, "given": GIVEN}[self.texts]

    @property
    def takes(self) -> frozenset[Gives]:
        """Choices, and tokens; nothing else is written."""
        return frozenset({"tokens"} if self.texts != "all" else {"choices", "tokens"})

    def values(self, student: Signals, teacher: Signals, batch: Batch, place: Place, part: nn.Module | None) -> Tensor:
        """See `limbeck.losses.divergences.dense`."""
        t = self.temperature.at(place)
        return t**2 * dense(self.divergence, student["logits"] / t, teacher["logits"] / t)

    def over(self, teacher: Storage | None, labels: Tensor, classes: int, place: Place) -> tuple[Over, ...]:
        """See `Weighted.over`."""
        assert teacher is not None
        t = self.temperature.at(place)
        now = Over(self.divergence, teacher, t**2, t)
        if self.returns is None:
            return (now,)
        return now, Over(ForwardKl(), Given(labels, classes), credit=self.returns)

"""A recipe: data, teacher, student, objective, training, regime and evidence, as typed values."""

from typing import TYPE_CHECKING, Annotated, Final, Literal, Self

from pydantic import Field, model_validator

from limbeck.config import Config, choice, digest
from limbeck.data.sifting import Watch
from limbeck.data.sources import Data
from limbeck.evidence.besides import Form
from limbeck.evidence.verdict import SMALLEST_EFFECT
from limbeck.models.specs import ModelSpec, Spec
from limbeck.objective import Labels, SoftTargets, Terms
from limbeck.recipe.teacher import TeacherPart
from limbeck.regimes.assistants import Assistants
from limbeck.regimes.born_again import BornAgain
from limbeck.regimes.continual import Continual
from limbeck.regimes.deep_to_shallow import DeepToShallow
from limbeck.regimes.ema import Ema
from limbeck.regimes.federated import Federated
from limbeck.regimes.fine_tuned import FineTuned
from limbeck.regimes.generator import Generator
from limbeck.regimes.inversion import Inversion
from limbeck.regimes.meta_distil import MetaDistil
from limbeck.regimes.mutual import Mutual
from limbeck.regimes.offline import Offline
from limbeck.regimes.on_policy import OnPolicy
from limbeck.regimes.regime import Teaching
from limbeck.regimes.sequence_level import SequenceLevel
from limbeck.regimes.snapshot import Snapshot
from limbeck.regimes.staged import Staged
from limbeck.regimes.theseus import Theseus
from limbeck.training.settings import Training

if TYPE_CHECKING:
    ModelChoice = Spec
    Regimes = Teaching
else:
    ModelChoice = ModelSpec
    Regimes = choice(
        *(Offline, Assistants, BornAgain, Continual, DeepToShallow, Ema, Federated, FineTuned, Generator, Inversion),
        *(MetaDistil, Mutual, OnPolicy, SequenceLevel, Snapshot, Staged, Theseus),
    )


NAME: Final = r"^[^\W_][\w .-]{0,63}$"
"""What an experiment may be called."""


class EvidencePart(Config):
    """What is measured and when it counts."""

    metrics: tuple[str, ...] = ()
    """Further metrics by name, such as ``f1-macro``."""
    smallest_effect: Annotated[float, Field(ge=0, lt=1)] = SMALLEST_EFFECT
    """The smallest gain in accuracy that would matter; a gain that is surely smaller counts as no help."""
    margin: Annotated[float, Field(ge=0, lt=1)] = 0.02
    """How much accuracy the student may lose against the teacher and still be called as good."""
    equal_compute: bool = False
    """Whether there is a second control, trained for as many steps as take the compute of the distilled student's training, the
    teacher's passes included."""
    ceiling: bool = False
    """Whether there is a student that sees the labels which are hidden from the others (``data.labelled``): what share of the way
    from the teacher to it the distilled student has come is the performance gap recovered."""
    apart: bool = False
    """Of several tasks: whether there is also a student for each, taught alike, which tells whether sharing helps."""
    samples: Annotated[int, Field(ge=0, le=4096)] = 32
    """Of language models: after how many prompts of the test part the report tells what they write; 0 for none."""
    new_tokens: Annotated[int, Field(ge=1, le=1024)] = 48
    """Of language models: how many tokens they write after each at most."""
    exact_match: Annotated[Form, Field(exclude_if=lambda form: form == "text")] = "text"
    """Of language models: when what they write is the reference. ``text``: but for white space. ``folded``: but for case, width
    and stops at the end too, for any language. ``squad``: but for case, ASCII punctuation, articles and white space, for
    English (Rajpurkar et al. 2016)."""
    watch: Watch = Field(default_factory=dict)
    """Of language models: what to look for in what they write, by names such as ``refusals``: filters, see ``data.filter``."""


class Recipe(Config):
    """One experiment: who teaches whom what, on which data, and how it is judged."""

    limbeck: Literal[1]
    """The version of the recipe format."""
    name: Annotated[str, Field(pattern=NAME)]
    """What reports call it."""
    data: Data
    """What is learnt from."""
    teacher: TeacherPart | None = None
    """Who teaches. Regimes in which the student teaches itself do without."""
    student: ModelChoice
    """Who learns: a model by its name, or a mapping with its settings."""
    objective: Terms = (Labels(weight=0.1), SoftTargets(weight=0.9))  # type: ignore[arg-type]
    """What the student learns: terms by name with their weights."""
    training: Training
    """How every student is trained, with or without the teacher."""
    regime: Regimes = Offline()
    """Who teaches whom, and when."""
    seeds: Annotated[int, Field(ge=1, le=100)] = 3
    """How many times each student is trained, from other initial weights and orders of data."""
    evidence: EvidencePart = EvidencePart()
    """How it is judged."""
    trackers: tuple[str, ...] = ()
    """Experiment trackers known to Accelerate, such as ``tensorboard``."""

    @model_validator(mode="after")
    def _somebody_teaches(self) -> Self:
        if self.teacher is None and self.regime.taught:
            raise ValueError(
                f"the regime {self.regime.name!r} needs a teacher: give 'teacher', or a regime in which a student teaches "
                "itself, such as born-again"
            )
        return self

    @property
    def hash(self) -> str:
        """Names the recipe: every setting with its default, but not its name nor its trackers."""
        return digest({key: value for key, value in self.plain().items() if key not in ("name", "trackers")})

"""A recipe: data, teacher, student, objective, training, regime and evidence, as typed values."""

from typing import TYPE_CHECKING, Annotated, Final, Literal, Self

from pydantic import Field, model_validator

from limbeck.config import Config, choice, digest
from limbeck.data.sources import Data
from limbeck.evidence.verdict import SMALLEST_EFFECT
from limbeck.models.specs import ModelSpec, Spec
from limbeck.objective import Labels, SoftTargets, Terms
from limbeck.regimes.offline import Offline
from limbeck.regimes.staged import Staged
from limbeck.regimes.theseus import Theseus
from limbeck.teachers.served.settings import Served
from limbeck.teachers.store.codecs import CodecField, FullCodec
from limbeck.teachers.store.hidden import HiddenCodec
from limbeck.teachers.store.sampled import SampledCodec
from limbeck.teachers.store.top_k import TopKCodec
from limbeck.training.settings import Training

if TYPE_CHECKING:
    ModelChoice = Spec
    Regimes = Offline | Staged | Theseus
    Stored = bool | FullCodec | TopKCodec | SampledCodec | HiddenCodec
else:
    Stored = bool | CodecField
    ModelChoice = ModelSpec
    Regimes = choice(Offline, Staged, Theseus)


NAME: Final = r"^[A-Za-z0-9][A-Za-z0-9._ -]{0,63}$"
"""What an experiment may be called."""


class TeacherPart(Config):
    """Who teaches."""

    model: ModelChoice | None = None
    """The teacher's model; its weights are as the model gives them, or trained here if ``training`` is given."""
    training: Training | None = None
    """How the teacher is trained on the labelled rows; null if it knows the classes already."""
    smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Label smoothing while the teacher is trained."""
    stored: str | None = None
    """A folder of stored teacher outputs (see ``limbeck label``), in place of a model."""
    served: Served | None = None
    """A language model behind the OpenAI-compatible protocol, in place of a model here: its likeliest tokens are learnt from."""
    store: Stored = True
    """How its outputs are kept in a store before the student is trained, and read from there. ``true``: exactly, and a language
    model is asked live; ``top-k``, ``sampled`` or ``hidden``: that of a language model's logits; ``false``: asked live."""

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        given = [name for name in ("model", "stored", "served") if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(
                "give model, stored or served" + (f", and one of them, not {' and '.join(given)}" if given else "")
            )
        if self.served is not None and self.training is not None:
            raise ValueError("a served model is not trained here: leave training out")
        if self.stored is not None and self.training is not None:
            raise ValueError("stored outputs cannot be trained: leave training out")
        return self


class EvidencePart(Config):
    """What is measured and when it counts."""

    metrics: tuple[str, ...] = ()
    """Further metrics by name, such as ``f1-macro``."""
    smallest_effect: Annotated[float, Field(ge=0, lt=1)] = SMALLEST_EFFECT
    """The smallest gain in accuracy that would matter; a gain that is surely smaller counts as no help."""
    margin: Annotated[float, Field(ge=0, lt=1)] = 0.02
    """How much accuracy the student may lose against the teacher and still be called as good."""


class Recipe(Config):
    """One experiment: who teaches whom what, on which data, and how it is judged."""

    limbeck: Literal[1]
    """The version of the recipe format."""
    name: Annotated[str, Field(pattern=NAME)]
    """What reports call it."""
    data: Data
    """What is learnt from."""
    teacher: TeacherPart
    """Who teaches."""
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

    @property
    def hash(self) -> str:
        """Names the recipe: every setting with its default, but not its name nor its trackers."""
        return digest({key: value for key, value in self.plain().items() if key not in ("name", "trackers")})

"""What a recipe says of its teacher: one model or several, here or elsewhere."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from limbeck.config import Config, Tuple
from limbeck.data.sight import Sees
from limbeck.losses.mixed import Combine
from limbeck.models.seeing import Seeing
from limbeck.models.specs import ModelSpec, Spec
from limbeck.teachers.onnx.settings import Onnx
from limbeck.teachers.precision import Asking, Precision
from limbeck.teachers.served.settings import Served
from limbeck.teachers.store.codecs import CodecField, FullCodec
from limbeck.teachers.store.hidden import HiddenCodec
from limbeck.teachers.store.sampled import SampledCodec
from limbeck.teachers.store.top_k import TopKCodec
from limbeck.training.settings import Training

if TYPE_CHECKING:
    ModelChoice = Spec
    Stored = bool | FullCodec | TopKCodec | SampledCodec | HiddenCodec
else:
    Stored = bool | CodecField
    ModelChoice = ModelSpec

Weight = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Heard = Literal["confidence", "correctness"]
Weights = Annotated[tuple[Weight, ...], Tuple]
OnnxFile = Annotated[Onnx, BeforeValidator(lambda value: {"path": value} if isinstance(value, str) else value)]


class Member(Config):
    """One of several teachers."""

    name: Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]*$", max_length=40)] | None = None
    """What its signals are called by, as in ``NAME.logits``; null: the name of its model, or ``onnx``, ``served``, ``stored``."""
    task: Annotated[str, Field(min_length=1)] | None = None
    """In the task ``multi-task``: the only one that it knows, by its name; it is trained on the labels of that one. Null: all."""
    classes: Annotated[tuple[str, ...] | None, Field(min_length=1, exclude_if=lambda classes: classes is None)] = None
    """Of a teacher that is trained here the only classes that it learns, by their names; null: all."""
    model: ModelChoice | None = None
    """A model, with its weights, or trained here if ``training`` is given."""
    sees: Annotated[Sees | None, Field(exclude_if=lambda sees: sees is None)] = None
    """Images as its model was trained on them, where that is not as the student reads them; null: as the student."""
    training: Training | None = None
    """How it is trained on the labelled rows; null if it knows the answers already. Members of one architecture differ by their
    initial weights and the order of their examples."""
    smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Label smoothing while it is trained."""
    temperature: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1.0
    """What its logits are divided by: above 1 for one that is too sure."""
    onnx: OnnxFile | None = None
    """An ONNX file, or a mapping with its settings."""
    served: Served | None = None
    """A language model behind the OpenAI-compatible protocol."""
    stored: str | None = None
    """A folder of stored teacher outputs."""
    precision: Precision = None
    """Of a model's weights, see ``teacher.precision``."""
    compile: bool = False
    """Whether torch.compile makes code for a model."""

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        _demand_one(self, ("model", "onnx", "served", "stored"))
        if self.training is not None and self.model is None:
            raise ValueError("only a model is trained here: leave training out")
        if self.smoothing and self.training is None:
            raise ValueError("smoothing is for the training of a teacher: give 'training', or leave it out")
        if self.classes and self.training is None:
            raise ValueError("classes are those that a teacher is trained on: give 'training', or leave them out")
        return self

    @property
    def called(self) -> str:
        """Its name, or what it is."""
        kind = next(name for name in ("model", "onnx", "served", "stored") if getattr(self, name) is not None)
        return self.name or (self.model.plain()["name"] if self.model is not None else kind)

    @property
    def spec(self) -> Spec | None:
        """The model, with what it sees."""
        return _seeing(self)

    @property
    def asking(self) -> Asking:
        """How a model is run."""
        return Asking(precision=self.precision, compile=self.compile)


class Ensemble(Config):
    """Several teachers as one: the mean of what they say."""

    members: Annotated[tuple[Member, ...], Field(min_length=1)]
    """The teachers; all know the same classes in the same order, or those of their ``task``. Language models have one
    tokenizer."""
    weights: Weights | dict[str, Weights] | Heard | None = None
    """What each teacher counts: a list, or one for each domain, by its name (see ``domain`` of the source); ``confidence``: in
    each row more the surer it is; ``correctness``: in each row with a label more the better it knows it; null: all alike."""
    combine: Combine = "probabilities"
    """What the mean is of. That of ``logits`` favours what all find likely."""

    @model_validator(mode="after")
    def _a_weight_each(self) -> Self:
        given = [one.name for one in self.members if one.name is not None]
        if twice := sorted({name for name in given if given.count(name) > 1}):
            raise ValueError(f"two teachers are called {twice[0]!r}: give each a name of its own")
        if isinstance(self.weights, str):
            return self
        named = self.weights if isinstance(self.weights, dict) else {"": self.weights}
        for name, weights in named.items():
            if weights is None:
                continue
            where = f" for {name!r}" if name else ""
            if len(weights) != len(self.members):
                raise ValueError(
                    f"there are {len(self.members)} teachers and {len(weights)} weights{where}: give each its own"
                )
            if not sum(weights):
                raise ValueError(f"all weights{where} are 0: some teacher must count")
        return self

    @property
    def by_task(self) -> bool:
        """Whether some know one of several tasks alone."""
        return any(one.task is not None for one in self.members)

    def of(self, places: Sequence[int]) -> Self:
        """Of some members, with their weights; all alike where theirs are 0."""

        def left(weights: Weights | None) -> Weights | None:
            kept = tuple(weights[place] for place in places) if weights else ()
            return kept if any(kept) else None

        weights: Any = self.weights
        if isinstance(weights, dict):
            weights = {name: left(one) or (1.0,) * len(places) for name, one in weights.items()}
        elif isinstance(weights, tuple):
            weights = left(weights)
        return self.model_copy(update={"members": tuple(self.members[place] for place in places), "weights": weights})

    @property
    def names(self) -> tuple[str, ...]:
        """What the members are called; the second of one name that nobody gave has a number, and so on."""
        given, found = {one.name for one in self.members}, list[str]()
        for one in self.members:
            own, number = one.called, 1
            while one.name is None and (own in found or own in given):
                number += 1
                own = f"{one.called}-{number}"
            found.append(own)
        return tuple(found)


def _ensemble(value: Any) -> Any:
    return {"members": value} if isinstance(value, list | tuple) else value


class TeacherPart(Config):
    """Who teaches."""

    model: ModelChoice | None = None
    """The teacher's model; its weights are as the model gives them, or trained here if ``training`` is given."""
    sees: Annotated[Sees | None, Field(exclude_if=lambda sees: sees is None)] = None
    """Images as the model was trained on them, where that is not as the student reads them; null: as the student."""
    training: Training | None = None
    """How the teacher is trained on the labelled rows; null if it knows the classes already."""
    smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Label smoothing while the teacher is trained."""
    folds: Annotated[int | None, Field(ge=2, le=20, exclude_if=lambda folds: folds is None)] = None
    """Cross-fitting: so many teachers, each trained on the labelled rows but a share of its own; of these rows it alone answers,
    of all others their mean. Null: one teacher, who has seen the rows that it answers."""
    stored: str | None = None
    """A folder of stored teacher outputs (see ``limbeck label``), in place of a model."""
    served: Served | None = None
    """A language model behind the OpenAI-compatible protocol, in place of a model here: its likeliest tokens are learnt from."""
    onnx: OnnxFile | None = None
    """An ONNX file in place of a model, whoever made it, or a mapping with its settings: its logits are learnt from."""
    ensemble: Annotated[Ensemble, BeforeValidator(_ensemble)] | None = None
    """Several teachers in place of one: their list, or a mapping with ``members`` and weights. Their mean is learnt from."""
    precision: Precision = None
    """Of the model's weights when it is asked: ``bf16``; ``int8``, those of linear layers, by torchao; ``fp32``; null: as they
    are. A student made of its layers takes them as they are."""
    compile: bool = False
    """Whether torch.compile makes code for the model: where it is asked often."""
    store: Stored = True
    """How its outputs are kept in a store before the student is trained, and read from there. ``true``: exactly, and a language
    model is asked live; ``top-k``, ``sampled`` or ``hidden``: that of a language model's logits; ``false``: asked live."""

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        _demand_one(self, ("model", "stored", "served", "onnx", "ensemble"))
        if self.served is not None and self.training is not None:
            raise ValueError("a served model is not trained here: leave training out")
        if self.stored is not None and self.training is not None:
            raise ValueError("stored outputs cannot be trained: leave training out")
        if self.onnx is not None and self.training is not None:
            raise ValueError("an ONNX file is not trained here: leave training out")
        if self.folds is not None and self.training is None:
            raise ValueError("folds are of the rows that a teacher is trained on: give training, or leave folds out")
        if self.ensemble is not None and self.training is not None:
            raise ValueError(
                "the teachers of an ensemble train each by itself: give its members 'training', and leave it out here"
            )
        return self

    def budgeted(self, change: Callable[[Training], Training]) -> Self:
        """With other budgets for all that is trained here before the student."""
        if self.training is not None:
            return self.model_copy(update={"training": change(self.training)})
        if self.ensemble is None:
            return self
        members = tuple(
            one.model_copy(update={"training": one.training and change(one.training)}) for one in self.ensemble.members
        )
        return self.model_copy(update={"ensemble": self.ensemble.model_copy(update={"members": members})})

    @property
    def trainings(self) -> tuple[tuple[str, Training], ...]:
        """All that is trained here before the student, and who it is."""
        if self.ensemble is None:
            who = "the teacher" if self.folds is None else "each teacher"
            return ((who, self.training),) if self.training is not None else ()
        each = zip(self.ensemble.names, self.ensemble.members, strict=True)
        return tuple((f"the teacher {name}", one.training) for name, one in each if one.training is not None)

    @property
    def tasks(self) -> frozenset[str] | None:
        """In the task ``multi-task``: those that somebody knows; None: all."""
        named = [one.task for one in self.ensemble.members] if self.ensemble else [None]
        return None if None in named else frozenset(one for one in named if one is not None)

    @property
    def spec(self) -> Spec | None:
        """The model, with what it sees."""
        return _seeing(self)

    @property
    def asking(self) -> Asking:
        """How the model is run."""
        return Asking(precision=self.precision, compile=self.compile)

    @property
    def tokenizer(self) -> str | None:
        """That of the model, the ONNX file, or the first member that brings one."""
        several = self.ensemble.members if self.ensemble else (self,)
        return next((found for one in several if (found := tokenizer_of(one)) is not None), None)


def tokenizer_of(one: Member | TeacherPart) -> str | None:
    """The tokenizer that one teacher brings; None if any will do."""
    if one.model is not None:
        return one.model.tokenizer
    return one.onnx.tokenizer if one.onnx is not None else None


def _seeing(part: Member | TeacherPart) -> Spec | None:
    return part.model if part.model is None or part.sees is None else Seeing(of=part.model, sees=part.sees)


def _demand_one(part: Member | TeacherPart, names: tuple[str, ...]) -> None:
    given = [name for name in names if getattr(part, name) is not None]
    if len(given) != 1:
        choices = f"{', '.join(names[:-1])} or {names[-1]}"
        raise ValueError(f"give {choices}" + (f", and one of them, not {' and '.join(given)}" if given else ""))
    if part.model is None and (part.precision is not None or part.compile):
        raise ValueError("precision and compile say how a model here is run: give a model, or leave them out")
    if part.model is None and part.sees is not None:
        raise ValueError("'sees' is of a model here; of an ONNX file write size, channels and scale beside its path")

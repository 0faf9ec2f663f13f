"""What every model spec is, and what it is built from."""

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Annotated, Self

from torch import Tensor, nn

from limbeck.config import Config, Tuple
from limbeck.data.sight import Normalised
from limbeck.data.task import Task
from limbeck.data.tasks import CLASSES
from limbeck.data.text import Reach
from limbeck.errors import LimbeckError

Integers = Annotated[tuple[int, ...], Tuple]


@dataclass(frozen=True)
class BuildContext:
    """What the data and the recipe say about the model to build.

    ``classes``: how many. ``sample``: the model's input columns of some real rows (a run gives up to 64), at least one.
    ``class_names``: in the order of the classes. ``donor``: a trained model whose layers may be copied.
    ``vocabulary``: how many tokens the tokenizer has, if the data is text. ``donor_tokens``: of each of them the donor's
    token, int64 [vocabulary], -1 where it has none; None if both read the same columns. ``task``: what is asked of a row.
    ``reach``: of texts, what else the model must be able to read. ``normalised``: of images, mean and deviation of each channel
    that they were normalised by.
    """

    classes: int
    sample: Mapping[str, Tensor]
    class_names: tuple[str, ...] = ()
    donor: nn.Module | None = field(default=None, repr=False)
    vocabulary: int | None = None
    donor_tokens: Tensor | None = field(default=None, repr=False)
    task: Task = CLASSES
    reach: Reach | None = None
    normalised: Normalised | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the classes, ``0, 1, ...`` where none were given."""
        return self.class_names or tuple(str(index) for index in range(self.classes))

    def about(self, task: Task, names: tuple[str, ...]) -> Self:
        """The same for a model of another task with these outputs, such as one of several tasks."""
        return replace(self, classes=len(names), class_names=names, task=task)

    def only_column(self, who: str) -> Tensor:
        """The one input column.

        Raises:
            LimbeckError: there are several.
        """
        if len(self.sample) != 1:
            raise LimbeckError(f"{who} reads one input column, but the data has {sorted(self.sample)}.")
        return next(iter(self.sample.values()))


class Spec(Config):
    """A model as a recipe names it. `limbeck.models.specs.build` builds it; nobody else has to."""

    weights: str | None = None
    """A file of weights to start from, .safetensors or a plain state dict in .pt; every name and shape must fit."""

    @property
    def called(self) -> str:
        """What errors call the model."""
        return str(getattr(self, "name", type(self).__name__))

    @property
    def tokenizer(self) -> str | None:
        """The folder or name of the tokenizer that the model was trained with; None if any will do."""
        return None

    @property
    def known(self) -> bool:
        """Whether it says where its weights come from."""
        return self.weights is not None or self.tokenizer is not None

    def widened(self, factor: float) -> Self | None:
        """The same architecture with widths ``factor`` times its own (1 or more), rounded up; None: they are not known."""
        return None

    def finished(self, task: Task) -> "Spec":
        """The same model where it must know the task already: its head is not to be a new one."""
        return self

    @abstractmethod
    def create(self, context: BuildContext) -> nn.Module:
        """The module without the weights of ``weights``, from the global random state."""

    def build(self, context: BuildContext) -> nn.Module:
        """The module, from the global random state; `limbeck.models.specs.build` seeds and checks it."""
        module = self.create(context)
        if self.weights is not None:
            from limbeck.models.weights import load

            load(module, self.weights)
        return module

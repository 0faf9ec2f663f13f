"""The trials of a search in an Optuna study, which several processes and machines may share, and go on with."""

import json
import socket
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from math import isfinite
from pathlib import Path
from typing import Any, Final

from limbeck.data.task import Task
from limbeck.data.tasks import CLASSES
from limbeck.errors import LimbeckError
from limbeck.search.fields import Field, Method, Settings

STALE: Final = 3600.0  # seconds without a sign of life after which another machine's trial is taken over
ETA: Final = 3  # of successive halving: one in three goes on, after 1, 3 and 9 of the usual 10 evaluations
_RANDOM: Final = 8  # trials before the sampler learns from them
_STEP: Final = 1e-9  # between scores that are not counts of examples
_EXTRA: Final = ("optuna", "matplotlib")


def demand_installed() -> None:
    """Raises:
    LimbeckError: what a search needs is not installed.
    """
    if missing := [name for name in _EXTRA if find_spec(name) is None]:
        raise LimbeckError(f"A search needs {' and '.join(missing)}: pip install 'limbeck[search]'.")


def score(metrics: Mapping[str, float], examples: int, task: Task = CLASSES) -> float:
    """One number with the order of `rank`: the task's score on validation, less a little by its cost.

    The little is at most half of the smallest step in which scores come: half an example's worth where an example is right or
    wrong, next to nothing elsewhere.
    """
    cost = metrics[task.cost]
    share = cost / (1 + cost) if isfinite(cost) and cost >= 0 else 1.0
    step = 1 / examples if task.single and task.gives == "choices" else _STEP
    return metrics[task.measure] - 0.5 * step * share


class Study:
    """The trials that were begun, and the next one.

    Args:
        storage: an Optuna storage URL, a journal file (``journal:PATH`` or ``PATH.journal``), or None for SQLite in ``out``.
        out: the search folder of this process, which holds it.
        name: of the study.
        identity: all that a trial depends on beside its settings; equal for everyone who shares the study.
        fields: what is searched.
        points: settings that are tried first of all, each once.
        method: ``grid`` tries nothing else.
    """

    def __init__(
        self,
        storage: str | None,
        out: Path,
        name: str,
        identity: Mapping[str, Any],
        fields: Sequence[Field],
        points: Sequence[Settings],
        method: Method,
    ) -> None:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self._fields, self._method, self._points = fields, method, points
        self._worker = f"{socket.gethostname()}:{out.resolve()}"
        self._private = storage is None
        self._study = _opened(storage or f"sqlite:///{out.resolve() / 'search.db'}", name)
        known = self._study.user_attrs.get("search")
        if known is not None and known != dict(identity):
            raise LimbeckError(
                f"The storage {storage or out / 'search.db'} holds another search called {name!r} (what differs: "
                f"{', '.join(changed(known, identity))}). Choose another --storage, or another name with --set name=..."
            )
        if known is None:
            self._study.set_user_attr("search", dict(identity))
        there = {_key(trial) for trial in self._all()}
        for point in points:
            if _canonical(point) not in there:
                self._study.enqueue_trial(dict(point))

    def _all(self) -> list[Any]:
        return list(self._study.get_trials(deepcopy=False))

    def begun(self) -> list[Any]:
        """Optuna's records of all trials but those that wait, in their order."""
        states = ("COMPLETE", "PRUNED", "RUNNING")
        return [trial for trial in self._all() if trial.state.name in states]

    def next(self, trials: int) -> "Trial | None":
        """One that was interrupted, or else the next one; None if there are ``trials`` already, or the grid is done."""
        import optuna

        begun = self.begun()
        for old in begun:
            if old.state.name == "RUNNING" and self._abandoned(old):
                self._study.sampler = _sampler(old.number)
                return self._trial(optuna.trial.Trial(self._study, old._trial_id), set(old.intermediate_values))
        waiting = [one for one in self._all() if one.state.name == "WAITING"]
        if (self._method == "grid" and not waiting) or (self._method == "bayes" and len(begun) >= trials):
            return None
        number = waiting[0].number if waiting else len(self._all())
        self._study.sampler = _sampler(number)  # a fresh one each time, so that a resumed search draws the same
        trial = self._study.ask()
        twins = [
            one for one in self._all() if one.number < trial.number and _key(one) == _key(self._all()[trial.number])
        ]
        if twins and self._method == "grid":  # two machines began at once, and both wrote the grid down
            self._study.tell(trial, state=optuna.trial.TrialState.FAIL)
            return self.next(trials)
        return self._trial(trial, set())

    def _trial(self, trial: Any, told: set[int]) -> "Trial":
        trial.set_user_attr("worker", self._worker)
        trial.set_user_attr("seen", time.time())
        return Trial(trial, self._study, _settings(trial, self._fields, self._method), told)

    def _abandoned(self, trial: Any) -> bool:
        """Whether nobody works on it: this folder has one process, others give signs of life."""
        worker = trial.user_attrs.get("worker")
        if worker is None and self._private:
            return True
        began = trial.datetime_start.timestamp() if trial.datetime_start else 0.0
        return bool(worker == self._worker or time.time() - trial.user_attrs.get("seen", began) > STALE)


class Trial:
    """One trial: told what its evaluations find, it says whether to go on."""

    def __init__(self, trial: Any, study: Any, settings: Settings, told: set[int]) -> None:
        self._trial, self._study, self._told = trial, study, told
        self.settings = settings
        self.number = int(trial.number)

    def hopeless(self, value: float, place: int) -> bool:
        """Whether successive halving ends it after evaluation ``place``, counted from 1, with this score.

        What was told before the search was interrupted is not asked again.
        """
        if place in self._told:
            return False
        self._told.add(place)
        self._trial.set_user_attr("seen", time.time())
        self._trial.report(value, place)
        return bool(self._trial.should_prune())

    def finish(self, record: Mapping[str, Any], value: float | None) -> None:
        """Ends it; without a ``value`` it was given up."""
        from optuna.trial import TrialState

        self._trial.set_user_attr("record", dict(record))
        if value is None:
            self._study.tell(self._trial, state=TrialState.PRUNED)
        else:
            self._study.tell(self._trial, value)


def settings_of(trial: Any, chosen: Sequence[Field], method: Method) -> dict[str, Any]:
    """The settings of an Optuna record."""
    return {
        field.path: _written(field, trial.params[field.path], method) for field in chosen if field.path in trial.params
    }


def changed(old: Any, new: Any, path: str = "") -> list[str]:
    """The paths at which two nests of mappings differ."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        keys = [*old, *(key for key in new if key not in old)]
        return [
            one for key in keys for one in changed(old.get(key), new.get(key), f"{path}.{key}" if path else str(key))
        ]
    return [] if old == new else [path]


def _settings(trial: Any, chosen: Sequence[Field], method: Method) -> dict[str, Any]:
    for field in chosen:
        if field.values or method == "grid":
            trial.suggest_categorical(field.path, field.points())
        elif field.whole:
            trial.suggest_int(field.path, int(field.low), int(field.high), log=field.log)
        else:
            trial.suggest_float(field.path, field.low, field.high, log=field.log)
    return settings_of(trial, chosen, method)


def _written(field: Field, value: Any, method: Method) -> Any:
    return value if field.values or method == "grid" else field.rounded(value)


def _canonical(settings: Settings) -> str:
    return json.dumps(dict(settings), sort_keys=True)


def _key(trial: Any) -> str:
    return _canonical(trial.system_attrs.get("fixed_params", trial.params))


def _sampler(number: int) -> Any:
    import optuna

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        # jointly: temperature and weight are coupled through T^2
        return optuna.samplers.TPESampler(seed=number, n_startup_trials=_RANDOM, multivariate=True)


def _opened(storage: str, name: str) -> Any:
    import optuna

    # one third is kept at each rung; the first evaluation is the first rung
    pruner = optuna.pruners.SuccessiveHalvingPruner(min_resource=1, reduction_factor=ETA)
    with explained(storage):
        return optuna.create_study(
            storage=_backend(storage), study_name=name, direction="maximize", pruner=pruner, load_if_exists=True
        )


def _backend(storage: str) -> Any:
    from optuna import storages
    from optuna.storages.journal import JournalFileBackend

    if storage.startswith("journal:") or storage.endswith(".journal"):
        path = Path(storage.removeprefix("journal:")).expanduser()
        path.parent.mkdir(parents=True, exist_ok=True)
        return storages.JournalStorage(JournalFileBackend(str(path)))
    if "://" not in storage:
        raise LimbeckError(
            f"--storage {storage!r} is neither an Optuna storage URL, such as sqlite:///search.db, nor a journal file, "
            "such as journal:search.journal."
        )
    return storages.RDBStorage(
        storage, engine_kwargs={"connect_args": {"timeout": 60}} if "sqlite" in storage else None
    )


@contextmanager
def explained(storage: str | None) -> Iterator[None]:
    """Says that a storage cannot be used.

    Raises:
        LimbeckError: in place of Optuna's or the database's own error.
    """
    try:
        yield
    except LimbeckError:
        raise
    except Exception as error:
        if type(error).__module__.partition(".")[0] not in ("optuna", "sqlalchemy", "sqlite3", "alembic") and not (
            isinstance(error, ImportError)
        ):
            raise
        reason = " ".join(str(error).split())[:200].rstrip(".")
        raise LimbeckError(f"The storage {storage or 'search.db'} of the search cannot be used: {reason}.") from error

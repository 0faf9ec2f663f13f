"""Switches off one protection at a time and looks whether the tests notice: ``python -m benchmarks.mutants [NAME or Q ...]``.

Each is taken out of a copy of ``src``, which stands before the installed package on the path of the tests and of all that they
start. It is noticed if a test fails; one that cannot be imported, or does not end, says nothing and counts as broken.
Results go to ``benchmarks/results/mutants.json`` and into ``docs/reliability.md``; those of protections not named are kept.
"""

import json
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, NamedTuple

import torch

from benchmarks.kept import RESULTS
from benchmarks.page import put

ROOT: Final = Path(__file__).parents[1]
KEPT: Final = RESULTS / "mutants.json"
PAGE: Final = ROOT / "docs" / "reliability.md"
_FAILED: Final = re.compile(r"^FAILED (tests/.+?)(?: - (.*))?$", re.MULTILINE)
_CANNOT: Final = (
    "ImportError",
    "ModuleNotFoundError",
    "SyntaxError",
    "IndentationError",
    "NameError",
    "UnboundLocalError",
)

TABLE: Final = Path(__file__).with_name("protections.txt")
"""Three lines each: Q, what is protected, and where under src/limbeck; what stands there once => what is put in its place, a new
line as a backslash and n; the tests that must notice."""


class Mutant(NamedTuple):
    """``old`` in ``file`` becomes ``new``, and ``tests`` must notice."""

    q: str
    name: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]


def mutants() -> list[Mutant]:
    lines = TABLE.read_text().strip().split("\n")
    found = []
    for head, change, tests in zip(lines[::3], lines[1::3], lines[2::3], strict=True):
        q, name, file = head.split(" | ")
        old, new = change.strip().replace("\\n", "\n").split(" => ")
        found.append(Mutant(q, name, file, old, new, tuple(f"tests/{test}" for test in tests.split())))
    return found


@contextmanager
def copied(file: str = "", old: str = "", new: str = "") -> Iterator[dict[str, str]]:
    """An environment in which ``limbeck`` is a copy with this change; ValueError where the text does not stand there once."""
    with tempfile.TemporaryDirectory(prefix="mutant-") as folder:
        copy = Path(folder) / "src"
        shutil.copytree(ROOT / "src", copy, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
        if file:
            path = copy / "limbeck" / file
            if (count := path.read_text().count(old)) != 1:
                raise ValueError(f"what is replaced stands {count} times in {file}")
            path.write_text(path.read_text().replace(old, new))
            if path.suffix == ".py":
                compile(path.read_text(), file, "exec")
        own = {"PYTHONPATH": str(copy), "TMPDIR": folder, "HF_MODULES_CACHE": f"{folder}/modules"}
        yield {**os.environ, **own, "OMP_NUM_THREADS": "1", "COLUMNS": "300"}


def demand_seen() -> None:
    """The copy is what is imported, and what the installed command runs."""
    with copied("__init__.py", '__version__ = "', '__version__ = "copied ') as env:
        asked = [sys.executable, "-c", "import limbeck; print(limbeck.__file__, limbeck.__version__)"]
        for command in (asked, [str(Path(sys.executable).with_name("limbeck")), "--version"]):
            said = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True).stdout
            assert " copied " in said, f"{command[0]} does not see the copy: {said}"
            assert command is not asked or said.startswith(env["PYTHONPATH"])


def tested(tests: Sequence[str], env: Mapping[str, str], seconds: float, *options: str) -> tuple[int | None, str]:
    """How pytest ended, None if it did not in time, and what it said."""
    command = [sys.executable, "-m", "pytest", "-q", "-rf", "-p", "no:cacheprovider", *options, *tests]
    with tempfile.TemporaryFile("w+") as said:
        process = subprocess.Popen(command, cwd=ROOT, env=env, stdout=said, stderr=said, start_new_session=True)
        code = None
        try:
            with suppress(subprocess.TimeoutExpired):
                code = process.wait(seconds)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # it, and what tests left running
            process.wait()
        said.seek(0)
        return code, said.read()


def tried(mutant: Mutant) -> dict[str, Any]:
    """What became of one."""
    began, by, trouble = time.monotonic(), None, ""
    try:
        with copied(mutant.file, mutant.old, mutant.new) as env:
            code, said = tested(mutant.tests, env, 300.0, "-x")
        failed = _FAILED.search(said)
        if code == 1 and failed and not (failed[2] or "").startswith(_CANNOT):
            by = failed[1]
        elif code != 0:
            trouble = "it did not end" if code is None else " ".join(said.split())[-300:]
    except (ValueError, SyntaxError) as error:
        trouble = str(error)
    return {
        "protection": mutant.name,
        "q": mutant.q,
        "file": f"src/limbeck/{mutant.file}",
        "noticed_by": by,
        **({"broken": trouble} if trouble else {}),
        "seconds": round(time.monotonic() - began),
        "date": datetime.now(UTC).isoformat(timespec="minutes"),
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
    }


def page(results: Sequence[Mapping[str, Any]]) -> str:
    """The results as Markdown."""
    lines = ["| | protection | switched off in | noticed by |", "|---|---|---|---|"]
    for one in results:
        by = f"`{one['noticed_by'].removeprefix('tests/').replace('|', '/')}`" if one["noticed_by"] else "**nothing**"
        lines.append(f"| {one['q']} | {one['protection']} | `{one['file'].removeprefix('src/limbeck/')}` | {by} |")
    return "\n".join(lines) + "\n"


def main(names: Sequence[str]) -> int:
    every = mutants()
    if unknown := set(names) - {name for one in every for name in (one.name, one.q)}:
        raise SystemExit(f"There is no protection {unknown.pop()!r}.")
    chosen = [one for one in every if not names or one.name in names or one.q in names]
    demand_seen()
    with copied() as env:
        code, said = tested(sorted({test for one in chosen for test in one.tests}), env, 3600.0)
    if code != 0:
        raise SystemExit(f"The tests fail with every protection in place:\n{said[-3000:]}")
    found = {one["protection"]: one for one in (json.loads(KEPT.read_text()) if KEPT.exists() else [])}
    for mutant in chosen:
        one = found[mutant.name] = tried(mutant)
        print(f"{one['q']:4}{mutant.name}: {one['noticed_by'] or one.get('broken', 'NOT NOTICED')}", flush=True)
        KEPT.write_text(json.dumps([found[own.name] for own in every if own.name in found], indent=1) + "\n")
    put(PAGE, "mutants", page([found[own.name] for own in every if own.name in found]))
    missed = [one.name for one in chosen if not found[one.name]["noticed_by"]]
    print(f"{len(chosen) - len(missed)} of {len(chosen)} were noticed.")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""`python -m benchmarks.routes [--beside N] [NAME ...]`: each route for text encoders from its recipe, with one seed.

`--beside 1` says that another run was going on, which is kept beside the minutes; what was run of the same recipe is kept.
The table stands in docs/routes.md; differences over three seeds are in the gallery.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.kept import RESULTS
from benchmarks.page import put
from limbeck.evidence.schema import Evidence
from limbeck.files import write_json
from limbeck.recipe.reading import read
from limbeck.run import run

ROUTES = ("distilbert", "patient", "minilm", "tinybert", "mobilebert", "theseus", "intents")
PAGE, KEPT = Path(__file__).parent.parent / "docs" / "routes.md", RESULTS / "routes.json"
RUNS = Path("runs") / "routes"
USUAL = (1, 1)
"""Threads of a run and other runs beside it, where a row says nothing else."""
_SHOWN = ("control", "pseudo_labels", "soft_targets", "distilled", "teacher")


def told(found: Evidence, beside: int) -> dict[str, Any]:
    """What is kept of a run that had so many others beside it."""
    arms, origin = found.arms.present(), found.provenance
    student, teacher = (arms[name].efficiency for name in ("distilled", "teacher"))
    assert student, "a run measures what it delivers"
    assert teacher, "a route has a teacher in memory"
    assert student.latency
    assert teacher.latency
    return {
        "accuracy": {name: round(arm.mean.score, 4) for name, arm in arms.items()},
        "seconds": {name: round(sum(arm.training_seconds)) for name, arm in arms.items() if arm.training_seconds},
        "smaller": round(teacher.parameters / student.parameters, 1),
        "faster": round(teacher.latency.p50_ms / student.latency.p50_ms, 1),
        "test": found.data.test,
        "date": origin.date,
        "threads": origin.threads,
        "beside": beside,
        "recipe": str(origin.recipe_hash)[:16],
        "versions": dict(origin.versions),
    }


def _how(row: dict[str, Any]) -> str:
    threads, beside = row["threads"], row["beside"]
    return "" if (threads, beside) == USUAL else f", {threads} threads, {beside or 'no'} other run"


def table(found: dict[str, dict[str, Any]]) -> str:
    """Of the routes that were run."""
    lines = [
        "| recipe | smaller | faster | control | pseudo-labels | soft targets | distilled | teacher | minutes of training |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name in (one for one in ROUTES if one in found):
        row = found[name]
        scores = [f"{100 * row['accuracy'][one]:.1f} %" if one in row["accuracy"] else "" for one in _SHOWN]
        minutes = sum(seconds for one, seconds in row["seconds"].items() if one != "teacher") / 60
        own = row["seconds"].get("teacher", 0) / 60
        lines.append(
            f"| `{name}` | {row['smaller']:g}× | {row['faster']:g}× | {' | '.join(scores)} | {minutes:.0f}"
            f"{f' and the teacher {own:.0f}' if own else ''}{_how(row)} |"
        )
    last = found[max(found, key=lambda name: found[name]["date"])]
    versions = ", ".join(f"{name} {version}" for name, version in last["versions"].items())
    hashes = ", ".join(f"{name} {row['recipe']}" for name, row in found.items())
    how = f"{last['date'][:10]}, one torch thread and another run beside it where nothing else is said"
    return "\n".join(lines) + f"\n\n<sub>`limbeck run NAME --set seeds=1`, {how}; recipes {hashes}; {versions}</sub>\n"


def main(names: Sequence[str]) -> None:
    """Runs those of these names, or all, and writes the table."""
    found: dict[str, dict[str, Any]] = json.loads(KEPT.read_text()) if KEPT.exists() else {}
    parser = argparse.ArgumentParser(prog="python -m benchmarks.routes", description="The routes, each once.")
    parser.add_argument("names", nargs="*", metavar="NAME")
    parser.add_argument("--beside", type=int, default=0, metavar="N", help="other runs that go on meanwhile")
    asked = parser.parse_args(names)
    for name in asked.names or ROUTES:
        recipe = read(name, ["seeds=1"])
        if found.get(name, {}).get("recipe") != recipe.hash[:16]:
            command = f"limbeck run {name} --set seeds=1"
            found[name] = told(run(recipe, RUNS / name, command=command).evidence, asked.beside)
        write_json(KEPT, found)
        put(PAGE, "routes", table(found))


if __name__ == "__main__":
    main(sys.argv[1:])

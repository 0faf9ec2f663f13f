"""The methods gallery as a page: a table for each stage that `python -m benchmarks.methods` has results of."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.comparisons import holm
from limbeck.data.measure import ACCURACY


def stage(path: Path) -> str:
    """One stage's results with their provenance."""
    found = json.loads(path.read_text())
    rows: dict[str, Any] = found["rows"]
    teacher, control = (float(np.mean(rows[name]["test"])) for name in ("teacher", "control"))
    tested = [name for name in rows if name not in ("teacher", "control")]
    sure = holm({name: rows[name]["against"]["control"]["p"] for name in tested})
    others = [name for name in tested if name not in ("soft-targets", "label smoothing", "hard pseudo-labels")]
    beyond = holm({name: rows[name]["against"]["soft-targets"]["p"] for name in others})
    order = sorted(tested, key=lambda name: -np.mean(rows[name]["test"]))
    lines = [
        "| method | test accuracy | gap closed | against control | p (Holm) | against soft targets | p (Holm) | CKA | weight |",
        "|---|---|---|---|---|---|---|---|---|",
        f"| teacher | {100 * teacher:.2f} % | | | | | | | |",
        f"| control | {_accuracy(rows['control'])} | 0 % | | | | | {_cka('control', rows)} | |",
    ]
    for name in order:
        row = rows[name]
        share = (float(np.mean(row["test"])) - control) / (teacher - control)
        again = row["against"].get("soft-targets")
        lines.append(
            f"| {name} | {_accuracy(row)} | {_share(share)} | {gain(row['against']['control'])} | {sure[name]:.3f} | "
            f"{gain(again) if again else ''} | {f'{beyond[name]:.3f}' if name in beyond else ''} | {_cka(name, rows)} | "
            f"{_factor(row)} |"
        )
    versions = ", ".join(f"{name} {version}" for name, version in found["versions"].items())
    return (
        f"### {found['title']}\n\n" + "\n".join(lines).replace("0.000 |", "< 0.001 |") + "\n\n<details><summary>Recipe"
        f"</summary>\n\n```yaml\n{found['recipe']}```\n\n</details>\n\n<sub>recipe {found['hash']}, seeds {found['seeds']}, "
        f"{found['date']}, cpu, {found['threads']} torch thread(s); {versions}</sub>\n"
    )


def put(path: Path, name: str, told: str) -> None:
    """Writes what stands in a document between ``<!-- NAME -->`` and ``<!-- /NAME -->``."""
    before, rest = path.read_text().split(f"<!-- {name} -->\n")
    _, after = rest.split(f"<!-- /{name} -->")
    path.write_text(f"{before}<!-- {name} -->\n{told}<!-- /{name} -->{after}")


def _share(share: float) -> str:
    """In percent, with a true minus, and no minus before nothing."""
    return f"{round(100 * share) + 0:.0f} %".replace("-", "\N{MINUS SIGN}")


def texts(path: Path) -> str:
    """One stage of `python -m benchmarks.texts` with its provenance."""
    found = json.loads(path.read_text())
    rows: dict[str, Any] = found["rows"]
    teacher = float(np.mean(rows["teacher"]["test"]))
    tested = [name for name in rows if name not in ("teacher", "control")]
    sure = holm({name: rows[name]["against"]["control"]["p"] for name in tested})
    others = [name for name in tested if "soft targets" in rows[name]["against"]]
    beyond = holm({name: rows[name]["against"]["soft targets"]["p"] for name in others})
    chance = found["chance"]
    lines = [
        "| route | test accuracy | above chance | against control | p (Holm) | against soft targets | p (Holm) |",
        "|---|---|---|---|---|---|---|",
        f"| teacher | {100 * teacher:.2f} % | | | | | |",
    ]
    for name in ("control", *sorted(tested, key=lambda name: -np.mean(rows[name]["test"]))):
        row = rows[name]
        share = (float(np.mean(row["test"])) - chance) / (teacher - chance)
        first, again = row["against"].get("control"), row["against"].get("soft targets") if name in beyond else None
        lines.append(
            f"| {name} | {_accuracy(row)} | {_share(share)} | {gain(first) if first else ''} | "
            f"{f'{sure[name]:.3f}' if name in sure else ''} | {gain(again) if again else ''} | "
            f"{f'{beyond[name]:.3f}' if again else ''} |"
        )
    sizes = found["costs"]["parameters"]
    versions = ", ".join(f"{name} {version}" for name, version in found["versions"].items())
    return (
        f"### {found['title']}\n\n{sizes['student']:,} parameters, the teacher {sizes['teacher']:,} "
        f"({sizes['teacher'] / sizes['student']:.1f} times as many).\n\n{_speed(found['costs']['latency_ms'])}\n\n"
        + "\n".join(lines).replace("0.000 |", "< 0.001 |")
        + f"\n\n<details><summary>Recipe</summary>\n\n```yaml\n{found['recipe']}```\n\n</details>\n\n<sub>seeds "
        f"{found['seeds']}, {found['steps']} steps in all, {found['date']}, cpu, {found['threads']} torch thread(s); "
        f"{versions}</sub>\n"
    )


def _speed(latency: dict[str, dict[str, float]]) -> str:
    """How long a text takes, alone and among 32."""
    lines = ["| ms a text | student | teacher | ratio |", "|---|---|---|---|"]
    for count, times in latency.items():
        for engine, name in (("torch", "PyTorch"), ("onnxruntime", "ONNX Runtime")):
            ours, theirs = (times[f"{who}, {engine}"] / int(count) for who in ("student", "teacher"))
            lines.append(f"| {name}, {count} at a time | {ours:.2f} | {theirs:.2f} | {theirs / ours:.1f} |")
    return "\n".join(lines)


def _accuracy(row: dict[str, Any]) -> str:
    return f"{100 * np.mean(row['test']):.2f} % ± {100 * np.std(row['test'], ddof=1):.2f}"


def gain(against: dict[str, Any]) -> str:
    """A difference of accuracies with its interval over seeds, in points."""
    low, high = against["seeds"]
    return f"{ACCURACY.points(against['mean'], digits=2)} ({ACCURACY.points(low, digits=2)} to {ACCURACY.points(high, digits=2)})"


def _cka(name: str, rows: dict[str, Any]) -> str:
    if name not in ("control", "soft-targets") and not any(map(_inner, (rows[name]["objective"] or {}).values())):
        return ""
    return f"{rows[name]['cka']['stages.2']:.2f}"


def _inner(term: Any) -> bool:
    """Whether a term reads an inner layer: only there does it matter how like the teacher's the layers became."""
    return isinstance(term, dict) and ("layers" in term or term.get("student", "logits") != "logits")


def _factor(row: dict[str, Any]) -> str:
    """The weights that validation chose, of all but the labels."""
    tried = row["tried"]
    if not tried:
        return ""
    chosen = {
        name: one["weight"] for name, one in row["objective"].items() if isinstance(one, dict) and "weight" in one
    }
    added = {name: value for name, value in chosen.items() if name != "soft-targets"} or chosen
    return ", ".join(f"{value:.3g}" for value in added.values())

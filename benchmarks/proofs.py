"""`make faults` writes what its tests tried to a file; this writes it as a table into docs/reliability.md, and prints it.

`python -m benchmarks.proofs [FILE]`, by default the file in benchmarks/results.
"""

import json
import sys
from pathlib import Path
from typing import Any, Final

from benchmarks.kept import RESULTS
from benchmarks.page import put

PAGE: Final = Path(__file__).parent.parent / "docs" / "reliability.md"
PROOFS: Final = {
    "Q1": (
        "A run is ended by SIGKILL at random moments and inside saves, two and more times an epoch, with dropout, shuffling "
        "and 0 or 2 loader workers, and begun again each time.",
        "The weights and the evidence are those of the run that was never killed, bit for bit.",
    ),
    "Q2": (
        "A save of a checkpoint, file, folder or store is killed before each of its system calls.",
        "What was there is there, whole, or what was to come is.",
    ),
    "Q3": (
        "No file may grow beyond so many bytes, or the disk is as small as that.",
        "An error names the place; the last checkpoint loads; no committed row of a store is lost; with room it goes on.",
    ),
    "Q4": (
        "Bits are flipped in, and ends cut off, checkpoints with their random states, stores, and delivered students.",
        "Every damage is found; the checkpoint before is taken, and only the rows of that shard are asked for again.",
    ),
    "Q5": (
        "Labelling is killed, with a teacher here and with one that is paid for by the request.",
        "No committed row is lost or asked for again; paid requests are at most the rows and those in flight.",
    ),
    "Q6": (
        "One thing that labels depend on is changed: the teacher's weights, revision or endpoint, the tokenizer, its chat "
        "template or end of text, the data, a prompt, the temperature, top-k.",
        "The labels are asked for anew, or an error names it; no old label is shown.",
    ),
    "Q7": (
        "Rows of unequal length are read from a store in shuffled batches; rows of a store are shifted or permuted on purpose.",
        "Each row is the teacher's own; shift and permutation are caught.",
    ),
    "Q8": (
        "A served teacher answers with 429, 500, not in time, cut, with truncated JSON, HTML, no choices, NaN, positive or "
        "missing log-probabilities, as another model, or to another text.",
        "No bad row is kept or shown; a request is sent a bounded number of times, by one layer.",
    ),
    "Q9": (
        "64 requests at a time, many of which fail and are sent again, under a limit of tokens or money.",
        "What the server could charge is never above the limit.",
    ),
    "Q10": (
        "2 to 8 processes with clocks a day apart write one store, and some are killed and replaced.",
        "No row is lost, torn or there twice; a killed writer's lock holds nobody up.",
    ),
    "Q11": (
        "NaN or an infinity in the loss, the gradient, the teacher's answers or the weights, at each step.",
        "Training stops in that step, and neither a checkpoint nor a model that is marked good has it.",
    ),
    "Q12": (
        "Of two processes one fails or is killed; a process that reads ahead fails, is killed or stalls.",
        "Every process is gone within 60 seconds, and the first cause is shown.",
    ),
    "Q13": (
        "Files that would run code if they were trusted: pickles, YAML tags, models with code, templates.",
        "Nothing is run; each is refused in a paragraph or read as data.",
    ),
    "Q14": (
        "Texts that would run in a report, paths that lead outside, and a key that a server, a recipe and the environment know.",
        "No text is a node of the page, nothing outside is read, and the key is nowhere but in its header.",
    ),
    "Q15": (
        "Recipes, data files, stored answers and those of a server are altered at random.",
        "Each is read or refused in one paragraph, in less than 5 seconds, and never with a traceback.",
    ),
}
"""Of each what is done, and what must hold."""


def main() -> None:
    """Writes the table and prints it."""
    found = json.loads(Path(sys.argv[1] if len(sys.argv) > 1 else RESULTS / "proofs.json").read_text())
    table = page(found)
    put(PAGE, "proofs", table)
    print(table)
    missing = [name for name in PROOFS if name not in found["proofs"]]
    if missing:
        sys.exit(f"Not tried: {', '.join(missing)}.")


def page(found: dict[str, Any]) -> str:
    """The table, and when and with what it was made."""
    lines = ["| | what is done | what must hold | tried | failures |", "|---|---|---|---|---|"]
    for name, (done, holds) in PROOFS.items():
        own = found["proofs"].get(name)
        lines.append(f"| {name} | {done} | {holds} | {_tried(own)} | {own['failed'] if own else 'not tried'} |")
    made = ", ".join(f"{name} {found[name]}" for name in ("python", "torch"))
    how = f"`pytest -m '{found['marked']}'`"
    return "\n".join(lines) + f"\n\n<sub>{how}, {found['date']}; {made}</sub>\n"


def _tried(own: dict[str, Any] | None) -> str:
    if own is None:
        return ""
    counts = [f"{count:,} {what.replace('_', ' ')}" for what, count in own["tried"].items()]
    skipped = [f"{own['skipped']} of {own['tests']} tests could not run there"] if own["skipped"] else []
    return ", ".join([*counts, *skipped])


if __name__ == "__main__":
    main()

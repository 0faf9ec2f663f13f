"""`python -m benchmarks.effects`: writes what the methods gallery measured into the tables of docs/methods.md."""

import json
import re
from pathlib import Path
from typing import Any

from benchmarks.page import gain

DOCS, RESULTS = Path("docs/methods.md"), Path(__file__).parent / "results"
SCREENS = {"scarce": "with 1,000 labels", "all": "with all"}
PLAIN = ("labels", "soft-targets")


def effects() -> dict[str, str]:
    """What each term added, by its name."""
    found: dict[str, list[str]] = {}
    for screen, told in SCREENS.items():
        paths = (RESULTS / f"methods-{screen}{more}.json" for more in ("", "-later"))
        for row in (row for path in paths if path.exists() for row in json.loads(path.read_text())["rows"].values()):
            against: dict[str, Any] = row.get("against", {})
            added = [term for term in row.get("objective") or {} if term not in PLAIN]
            for term in added if "soft-targets" in against else ():
                beside = (
                    f" with {', '.join(f'`{other}`' for other in added if other != term)}" if len(added) > 1 else ""
                )
                found.setdefault(term, []).append(f"{gain(against['soft-targets'])} {told}{beside}")
    return {
        term: f"Fashion-MNIST, against soft targets: {'; '.join(several)}; [gallery](gallery.md#methods-on-fashion-mnist)"
        for term, several in found.items()
    }


def main() -> None:
    """Rewrites the last cell of each row that was measured."""
    text = DOCS.read_text()
    for term, effect in effects().items():
        text = re.sub(rf"^(\| `{term}` \|.*\| )[^|]*( \|)$", rf"\g<1>{effect}\g<2>", text, count=1, flags=re.MULTILINE)
    DOCS.write_text(text)


if __name__ == "__main__":
    main()

"""The `Filter` contract: which texts are rejected, and the list of those that were."""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

from limbeck.files import write_text


@runtime_checkable
class Filter(Protocol):
    """What stands between texts and whoever would learn from them. A frozen config."""

    @property
    def name(self) -> str:
        """As it is written in a recipe."""
        ...

    def reasons(self, texts: Sequence[str]) -> list[str | None]:
        """Of each text why it is rejected, a short phrase; None: it is not. It hangs on that text alone.

        Raises:
            LimbeckError: it cannot be told.
        """
        ...


@dataclass(frozen=True)
class Rejected:
    """A row that is left out: ``row`` of the data, the first ``filter`` that rejected it and why, and its ``texts``."""

    row: int
    filter: str
    reason: str
    texts: tuple[str, ...]


def sifted(
    filters: Sequence[Filter], rows: Sequence[int], texts: Sequence[Sequence[str]]
) -> tuple[list[int], tuple[Rejected, ...]]:
    """The places in ``rows`` that pass every filter, and the others. A row is rejected for any of its ``texts``.

    Raises:
        LimbeckError: see `Filter.reasons`.
    """
    left, rejected = list(range(len(rows))), list[Rejected]()
    for one in filters:
        flat = [text for place in left for text in texts[place]]
        reasons, kept = iter(one.reasons(flat)), list[int]()
        for place in left:
            why = [reason for _ in texts[place] if (reason := next(reasons)) is not None]
            if why:
                rejected.append(Rejected(rows[place], one.name, why[0], tuple(texts[place])))
            else:
                kept.append(place)
        left = kept
    return left, tuple(sorted(rejected, key=lambda one: one.row))


def told(rejected: Sequence[Rejected], total: int, what: str) -> str:
    """How many were rejected, by which filters, in a sentence."""
    counts = Counter(one.filter for one in rejected).most_common()
    by = ", ".join(f"{count:,} by {name!r}" for name, count in counts)
    return f"{len(rejected):,} of {total:,} {what} were rejected by filters ({by}) and are not learnt from."


def write_rejected(path: Path, rejected: Sequence[Rejected]) -> None:
    """The list, a JSON object a line: row, filter, reason, texts."""
    write_text(path, "".join(json.dumps(asdict(one), ensure_ascii=False) + "\n" for one in rejected))

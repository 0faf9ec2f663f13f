"""What crossed between clients and their server, for the report."""

from typing import Any

from limbeck.evidence.figures import percent, size
from limbeck.evidence.schema import Evidence


def shown_traffic(evidence: Evidence) -> dict[str, Any] | None:
    """A row for each arm with clients, and what they had."""
    found = evidence.traffic
    if found is None:
        return None
    arms = [
        {
            "name": name,
            "rounds": len(turns),
            "asked": sum(one.asked for one in turns),
            "answered": sum(one.answered for one in turns),
            "down": size(sum(one.down for one in turns)),
            "up": size(sum(one.up for one in turns)),
        }
        for name in evidence.arms.present()
        if (turns := found.arms.get(name))
    ]
    least, most = min(found.rows), max(found.rows)
    spread = f"{most:,}" if least == most else f"{least:,} to {most:,}"
    lead = f"{len(found.rows):,} clients have {spread} labelled rows each, and nobody else sees them."
    if found.commonest is not None:
        lead += f" Of a client's rows {percent(found.commonest)} are of its commonest class, on average."
    if found.public:
        lead += f" {found.public:,} rows without a label are public."
    note = (
        "Letters of the first seed, counted in bytes as they cross: weights, or logits about public rows, and counts of rows. A "
        "letter that holds anything else is refused. What was learnt from a row may still be read from weights and logits: this "
        "is no differential privacy."
    )
    return {"lead": lead, "arms": arms, "note": note}

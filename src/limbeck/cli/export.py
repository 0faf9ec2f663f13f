"""``limbeck export``."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from limbeck.cli import options, tell


def export(
    run: options.RunFolder,
    to: Annotated[
        Literal["safetensors", "hf", "onnx"],
        typer.Option(help="safetensors; hf, a folder for transformers; or onnx.", show_default=False),
    ],
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="The folder to write.", show_default="in the run")
    ] = None,
) -> None:
    """Deliver the student in another format, proven to answer as it does."""
    from limbeck.evidence.figures import short, size
    from limbeck.run import export_run

    made = export_run(run, to, out)
    same = "bit-equal" if made.max_difference == 0 else f"differs by {made.max_difference:.1e} at most"
    rows = [
        ("folder", str(made.path)),
        ("size", size(made.bytes)),
        ("proven", f"{same}, on {made.compared} real inputs (allowed: {made.tolerance:.1e})"),
        *((name, f"{short(time.p50_ms)} ms for one example") for name, time in made.latency.items()),
    ]
    tell.pairs(rows)

"""``limbeck evaluate``."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from limbeck.cli import options, tell

if TYPE_CHECKING:
    from limbeck.data.sources import Data


def evaluate(
    run: options.RunFolder,
    data: Annotated[
        Path | None,
        typer.Option(
            help="Other data of the same classes, every labelled row of it.", show_default="the run's test part"
        ),
    ] = None,
    text: Annotated[str | None, typer.Option(help="The column of texts of a table.", show_default="guessed")] = None,
    label: Annotated[str | None, typer.Option(help="The column of labels of a table.", show_default="guessed")] = None,
) -> None:
    """Measure a run's student, on other data if you like."""
    from limbeck.run import evaluate as measure

    found = measure(run, None if data is None else _data(run, data, text, label))
    several = found.answers is not None and found.answers != found.examples
    costs = (("NLL", found.nll), ("ECE", found.ece), ("Brier", found.brier), ("squared error", found.mse))
    rows = [
        ("examples", f"{found.examples:,}"),
        (found.measure.name, found.measure.value(found.score)),
        *([("answers", f"{found.answers:,}")] if several else []),
        *([("right answers", f"{100 * found.accuracy:.1f} %")] if several and found.accuracy is not None else []),
        *((name, f"{value:.3f}") for name, value in costs if value is not None),
        *((name, "–" if value is None else f"{value:.3f}") for name, value in found.metrics.items()),
    ]
    tell.pairs(rows)
    if note := _note(run, data):
        tell.note(note, *(("warning", "bold yellow") if data else ()))
    if found.per_class:
        tell.raw("")
        shares = [(name, "–" if value is None else f"{100 * value:.1f} %") for name, value in found.per_class.items()]
        tell.table(("", "accuracy") if several else ("class", "accuracy"), shares, right=(1,))


def _note(run: Path, data: Path | None) -> str | None:
    """What must be known to read the figures beside those of the report."""
    from limbeck.run.folder import read

    recipe = read(run)["recipe"]
    if data is None:
        seeds = recipe.get("seeds", 1)
        return (
            None
            if seeds == 1
            else (
                f"This is the delivered student, of the {seeds} seeds the one that was best on validation; the report's figures "
                f"are means over all {seeds}."
            )
        )
    source = recipe.get("data", {}).get("source", {})
    own = source.get("path") if isinstance(source, dict) else None
    if own and data.expanduser().resolve() == Path(own).expanduser().resolve():
        return (
            f"{data} is what the run was trained on: most of these rows were seen in training, so the figures are too good. "
            "Without --data the run's test part is used, which was not."
        )
    return None


def _data(run: Path, path: Path, text: str | None, label: str | None) -> "Data":
    """The data at ``path``; what cannot be seen from it (columns, encoding) is taken from the run's own source."""
    from pydantic import ValidationError

    from limbeck.data.sources import Data
    from limbeck.errors import LimbeckError
    from limbeck.recipe.looking import look
    from limbeck.run.folder import read

    own = read(run)["recipe"].get("data", {})
    known = own.get("source", {})
    if known.get("name") in ("table", "image-folder", "tagged", "questions"):
        source = {**known, "path": str(path)}
        for other in ("validation", "test"):  # files of the run's own
            source.pop(other, None)
    else:
        source = look(path).source
    if source["name"] == "table":
        source |= {key: value for key, value in (("text", text), ("label", label)) if value is not None}
    elif text or label:
        raise LimbeckError(f"{path} is no table: --text and --label name columns of a table.")
    try:
        return Data.model_validate({"source": source, **{key: own[key] for key in ("task",) if key in own}})
    except ValidationError as error:
        raise LimbeckError(f"{path} cannot be read like the run's own data: {error.errors()[0]['msg']}.") from None

"""What a recipe says of an ONNX file that teaches."""

from typing import Annotated, Literal

from pydantic import Field

from limbeck.data.sight import Sees

Meaning = Literal["auto", "logits", "probabilities", "log-probabilities"]


class Onnx(Sees):
    """A model in an ONNX file: of scikit-learn, Keras, or any other that writes one. Images as it was trained on them."""

    path: str
    """The file. Weights that it keeps outside must lie in its folder."""
    tokenizer: str | None = None
    """Of texts: the tokenizer that it was trained with; null: that of the data."""
    inputs: Annotated[dict[str, str], Field(default_factory=dict)]
    """Which column of the data each input of the model reads, as ``{input: column}``, where their names differ."""
    output_name: str | None = None
    """The output that answers; null: the only one of numbers, or the one called logits or probabilities."""
    outputs: Meaning = "auto"
    """What it gives. ``auto``: probabilities if they are none below 0 and sum to 1 in every row, which is then said; else logits.
    Log-probabilities are logits too."""
    floor: Annotated[float, Field(gt=0, lt=0.1)] = 1e-6
    """Probabilities below this count as this: trees give zeros, which have no logarithm, and a temperature above 1 lifts it."""

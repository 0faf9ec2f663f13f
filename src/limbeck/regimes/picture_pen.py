"""What makes the pictures of a training without data: a generator that learns beside the student."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

import torch
from accelerate import PartialState
from torch import Tensor, nn

from limbeck.data.batch import Batch
from limbeck.data.images import PIXELS
from limbeck.errors import LimbeckError
from limbeck.objective.schedules import Place
from limbeck.signals.call import call, logits_of
from limbeck.signals.capture import evaluating
from limbeck.synthesis.generator import Playing
from limbeck.synthesis.space import InputSpace
from limbeck.training.order import derived
from limbeck.training.stage import Stage

if TYPE_CHECKING:
    from limbeck.regimes.generator import Generator

SHOWN: Final = 20
"""Pictures that are kept to be shown."""


class PicturePen:
    """Makes the pictures of one training; see `limbeck.training.stage.Pen`. They depend on seed and step alone.

    Raises:
        LimbeckError: several processes train, each of which would have a generator of its own.
    """

    def __init__(self, settings: "Generator", stage: Stage) -> None:
        state = PartialState()
        if state.num_processes > 1:
            raise LimbeckError(
                "In the regime 'generator' one process trains: a generator learns from a whole step's pictures. Start it "
                "without several processes, or choose 'regime: inversion'."
            )
        assert stage.teacher is not None
        assert stage.teacher.module is not None
        self._space = InputSpace.of(stage.examples, "The regime 'generator'")
        self._playing = Playing(
            settings.game,
            stage.teacher.module,
            self._space,
            derived(stage.seed, "generator"),
            settings.latent,
            settings.width,
            settings.learning_rate,
            state.device,
        )
        self._last: Tensor | None = None
        self._sums: dict[str, float] = {}
        self._steps = 0

    def written(self, student: nn.Module, micros: Sequence[Batch], place: Place) -> list[Batch]:
        """See `limbeck.training.stage.Pen`: every row is a picture that was just made."""

        def logits(pictures: Tensor) -> Tensor:
            with evaluating(student):
                return logits_of(call(student, {PIXELS: pictures}))

        pictures, parts = self._playing.pictures(sum(map(len, micros)), place.step, logits)
        for name, value in parts.items():
            self._sums[name] = self._sums.get(name, 0.0) + value
        self._steps += bool(parts)
        self._last = self._space.levels(pictures[:SHOWN])
        own = torch.split(pictures.to(micros[0].ids.device), [len(batch) for batch in micros])
        return [
            Batch({PIXELS: some}, batch.labels, batch.masks, batch.ids, batch.views)
            for some, batch in zip(own, micros, strict=True)
        ]

    def told(self) -> dict[str, float]:
        """What the generator made small since this was last asked, part by part: means over its steps."""
        told = {f"generator.{name}": value / self._steps for name, value in self._sums.items()}
        self._sums, self._steps = {}, 0
        return told

    def kept(self) -> dict[str, Tensor]:
        """The first pictures of the last step, uint8 [n, C, H, W]."""
        return {} if self._last is None else {"pictures": self._last}

    def state_dict(self) -> dict[str, Any]:
        """The generator, its last pictures, and what it has not told yet."""
        return {"playing": self._playing.state_dict(), "sums": self._sums, "steps": self._steps, "last": self._last}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Puts them back."""
        self._playing.load_state_dict(state["playing"])
        self._sums, self._steps, self._last = dict(state["sums"]), state["steps"], state["last"]

"""`Data`: the data of a recipe, from a source to its three parts."""

from typing import Any, Literal, cast

from pydantic import Field
from torch import Tensor

from limbeck.config import Config
from limbeck.data.augment import Augment
from limbeck.data.examples import Examples, Splits, Table
from limbeck.data.images import ImageFiles, ImageReader, ImageTable, brightness, image_keys
from limbeck.data.memory import MapTable
from limbeck.data.pixels import decoded, shape_of
from limbeck.data.raw import Raw
from limbeck.data.sources import InMemory, Source
from limbeck.data.splits import split
from limbeck.data.text import TextReader, TextTable
from limbeck.errors import DataError


class ImageOptions(Config):
    """How images are read."""

    size: int | tuple[int, int] | None = None
    """Side in pixels, or [height, width]; the commonest size of the data if left out."""
    channels: Literal["auto", 1, 3] = "auto"
    """1 for grey, 3 for colour; ``auto``: grey if all images are."""
    mean: Literal["auto"] | tuple[float, ...] = "auto"
    """What is subtracted from each channel (black 0, white 1); ``auto``: the mean of the training rows."""
    std: Literal["auto"] | tuple[float, ...] = "auto"
    """What each channel is divided by; ``auto``: the deviation of the training rows."""
    memory: float = Field(default=2.0, ge=0)
    """Gibibytes that decoded images may take; larger data is decoded whenever it is read."""


class TextOptions(Config):
    """How texts are read."""

    tokenizer: str | None = None
    """A folder, a name on the hub, or ``package:<name>/<folder>``; the student's if left out."""
    max_length: int = Field(default=128, ge=2)
    """Tokens after which a text is cut."""


class Data(Config):
    """What is learnt from."""

    source: Source
    """Where the rows come from."""
    labelled: int | Literal["all"] = "all"
    """How many training rows keep their label, in the proportion of the classes; the others are used without it."""
    validation: int | float = 0.1
    """Rows to choose by: a number, or a share of the labelled rows. Ignored if the source has its own."""
    test: int | float = 0.2
    """Rows to judge by: a number, or a share of the labelled rows. Ignored if the source has its own."""
    seed: int = 0
    """Decides which row goes into which part, and nothing else."""
    augment: Augment = Augment()
    """How training images are varied."""
    mixup: float = Field(default=0.0, ge=0)
    """Parameter of the Beta distribution by which training images are mixed in pairs; 0 for none."""
    views: int | None = Field(default=None, ge=1)
    """How many different views of a row there are, so that a teacher's answers can be stored; unlimited if left out."""
    image: ImageOptions = ImageOptions()
    """How images are read."""
    text: TextOptions = TextOptions()
    """How texts are read."""

    def load(
        self, tokenizer: str | None = None, teacher_tokenizer: str | None = None, raw: Raw | None = None
    ) -> Splits:
        """The three parts.

        ``tokenizer``: the student's, for texts without one of their own. ``teacher_tokenizer``: the teacher's; if it is
        another, the teacher has columns of its own. ``raw``: rows in memory, see `in_memory`, instead of ``source``.

        Raises:
            DataError: the data is not there, damaged, or cannot be learnt from; says what to do.
        """
        raw = self.source.load() if raw is None else raw
        if not len(raw):
            raise DataError(f"{raw.where} has no rows.")
        content, keys = self._content(raw)
        parts = split(raw, keys, self.validation, self.test, self.labelled, self.seed)
        table = self._table(raw, content, parts.train, tokenizer, teacher_tokenizer)

        def examples(rows: Tensor, mixup: float = 0.0) -> Examples:
            return Examples(table, rows, raw.labels, parts.supervised, raw.classes, mixup)

        return Splits(examples(parts.train, self.mixup), examples(parts.validation), examples(parts.test))

    def _content(self, raw: Raw) -> tuple[Any, list[Any]]:
        """What a table is made of, and one key a row by which equal inputs are known."""
        if raw.kind == "images":
            pixels = self._pixels(raw.content)
            return pixels, image_keys(pixels)
        if raw.kind == "texts":
            if not self.augment.empty or self.mixup:
                raise DataError(f"'augment' and 'mixup' alter images, but {raw.where} is text: leave them out.")
            return raw.content, raw.content
        return raw.content, raw.content.keys

    def _pixels(self, content: Any) -> Tensor | ImageFiles:
        """uint8 [N, C, H, W], or the same decoded on demand where it would take too much memory."""
        stored = isinstance(content, Tensor)
        channels, height, width = content.shape[1:] if stored else (0, 0, 0)
        if not stored:
            height, width, channels = shape_of(content)
        if self.image.size is not None:
            height, width = self.image.size if isinstance(self.image.size, tuple) else (self.image.size,) * 2
        if self.image.channels != "auto":
            channels = self.image.channels
        if stored and content.shape[1:] == (channels, height, width):
            return cast(Tensor, content)
        if len(content) * channels * height * width > self.image.memory * 2**30:
            return ImageFiles(content, height, width, channels)
        return decoded(content, height, width, channels)

    def _table(
        self, raw: Raw, content: Any, train: Tensor, tokenizer: str | None, teacher_tokenizer: str | None
    ) -> Table:
        if raw.kind == "images":
            return self._images(content, train)
        if raw.kind == "tensors":
            return cast(MapTable, content).augmented(self.augment)
        name = self.text.tokenizer or tokenizer
        if name is None:
            raise DataError(f"{raw.where} is text, which needs a tokenizer: name one in 'data: text: tokenizer'.")
        reader = TextReader(tokenizer=name, max_length=self.text.max_length)
        teachers = teacher_tokenizer and TextReader(tokenizer=teacher_tokenizer, max_length=self.text.max_length)
        return TextTable(content, reader, teachers or None)

    def _images(self, pixels: Tensor | ImageFiles, train: Tensor) -> ImageTable:
        mean, std = brightness(pixels, train)
        mean = mean if self.image.mean == "auto" else self.image.mean
        std = std if self.image.std == "auto" else self.image.std
        _, channels, height, width = (int(length) for length in pixels.shape)
        if len(mean) != channels or len(std) != channels or min(std) <= 0:
            raise DataError(
                f"the images have {channels} channels, so 'mean' and 'std' of 'data: image' need {channels} numbers "
                f"each, those of 'std' above 0; found {list(mean)} and {list(std)}."
            )
        reader = ImageReader(height=height, width=width, channels=cast(Any, channels), mean=mean, std=std)
        return ImageTable(pixels, reader, self.augment)

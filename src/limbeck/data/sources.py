"""`Data`: the data of a recipe, from a source to its three parts. `Source` is any of the sources."""

from typing import TYPE_CHECKING, Annotated, Any, Literal, cast

from pydantic import Field

from limbeck.config import Config, choice
from limbeck.data.augment import Augment
from limbeck.data.digits import Mnist5k
from limbeck.data.examples import Splits, Table
from limbeck.data.folders import ImageFolder
from limbeck.data.hub import HuggingFace
from limbeck.data.idx import FashionMnist, Idx
from limbeck.data.images import ImageReader, ImageTable, brightness, image_keys
from limbeck.data.movies import MovieSentences
from limbeck.data.raw import Raw
from limbeck.data.splits import Parts, examples, split
from limbeck.data.tabular import TextFile
from limbeck.data.text import TextReader, TextTable, fitted
from limbeck.data.words import WORDS
from limbeck.errors import DataError

if TYPE_CHECKING:
    Source = Mnist5k | FashionMnist | Idx | ImageFolder | TextFile | HuggingFace | MovieSentences
else:
    Source = choice(Mnist5k, FashionMnist, Idx, ImageFolder, TextFile, HuggingFace, MovieSentences)

Size = Annotated[int, Field(ge=0)] | Annotated[float, Field(ge=0, lt=1)]


class Data(Config):
    """What is learnt from."""

    source: Source
    """Where the rows come from: a source by its name, or a mapping with its settings."""
    labelled: Annotated[int, Field(ge=1)] | Literal["all"] = "all"
    """How many training rows keep their label, in the proportion of the classes; the others are used without it."""
    validation: Size = 0.1
    """Rows to choose by: a number, or a share of the labelled rows. Ignored if the source has its own."""
    test: Size = 0.2
    """Rows to judge by: a number, or a share of the labelled rows. Ignored if the source has its own."""
    limit: Annotated[int, Field(ge=1)] | None = None
    """How many training rows are used at most; null: all."""
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    """Decides which row goes into which part and which labels are kept, and nothing else."""
    augment: Augment = Augment()
    """How training images are varied."""
    mixup: Literal[0] | Annotated[float, Field(ge=0.01, le=100)] = 0
    """Parameter of the Beta distribution by which training images are mixed in pairs, at least 0.01; 0 for none."""
    views: Annotated[int, Field(ge=1)] | None = None
    """How many different varied views of a row there are; null: new ones each epoch."""
    tokenizer: str | None = None
    """Of texts: a folder, a name on the hub, ``package:<name>/<folder>``, or ``words``, which is fitted on the training
    texts; null: the student's, else the teacher's, else ``words``."""
    max_length: Annotated[int, Field(ge=2)] = 128
    """Tokens after which a text is cut."""

    @property
    def looks(self) -> int | None:
        """How many views above 0 a training row has: 0 if it always looks the same, None if there is no end of them."""
        return self.views if self.mixup or not self.augment.empty else 0

    def load(self, tokenizer: str | None = None, teacher_tokenizer: str | None = None) -> Splits:
        """The three parts.

        ``tokenizer``: the student's, for texts where ``self.tokenizer`` is not set; `WORDS` if None.
        ``teacher_tokenizer``: the teacher's; if it is another, the teacher reads columns of its own.

        Raises:
            DataError: the data is not there, damaged, or cannot be learnt from; says what to do.
        """
        raw = self.source.load()
        if not len(raw):
            raise DataError(f"{raw.name} has no rows.")
        if raw.kind == "texts" and (self.mixup or not self.augment.empty):
            raise DataError(f"'augment' and 'mixup' alter images, but {raw.name} is text: leave them out.")
        name = self.tokenizer or tokenizer or WORDS
        own = {part: rows for part, rows in (("validation", raw.validation), ("test", raw.test)) if rows is not None}
        parts = split(
            raw.labels,
            raw.classes,
            image_keys(cast(Any, raw.items)) if raw.kind == "images" else cast(Any, raw.items),
            own=own,
            validation=self.validation,
            test=self.test,
            labelled=self.labelled,
            limit=self.limit,
            seed=self.seed,
            name=raw.name,
        )
        table = self._images(raw, parts) if raw.kind == "images" else self._texts(raw, parts, name, teacher_tokenizer)
        return examples(table, raw.labels, raw.classes, parts, self.mixup)

    def _texts(self, raw: Raw, parts: Parts, tokenizer: str, teacher_tokenizer: str | None) -> Table:
        if tokenizer == WORDS:
            tokenizer = fitted([cast(str, raw.items[row]) for row in parts.train.tolist()])
        reader = TextReader(tokenizer=tokenizer, max_length=self.max_length)
        teacher = TextReader(tokenizer=teacher_tokenizer, max_length=self.max_length) if teacher_tokenizer else None
        return cast(Table, TextTable(cast(Any, raw.items), reader, teacher))

    def _images(self, raw: Raw, parts: Parts) -> Table:
        pixels = cast(Any, raw.items)
        mean, std = brightness(pixels, parts.train)
        _, channels, height, width = (int(length) for length in pixels.shape)
        reader = ImageReader(height=height, width=width, channels=cast(Any, channels), mean=mean, std=std)
        return cast(Table, ImageTable(pixels, reader, self.augment))

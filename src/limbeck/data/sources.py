"""`Data`: the data of a recipe, from a source to its three parts. `Source` is any of the sources."""

from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self, cast

import torch
from pydantic import Field, model_validator

from limbeck.config import Config, choice
from limbeck.data.across import Across
from limbeck.data.augment import Augment
from limbeck.data.byte_pairs import BPE
from limbeck.data.examples import Domains, Splits
from limbeck.data.images import ImageReader, ImageTable, brightness, image_keys
from limbeck.data.items import parts_of
from limbeck.data.kinds import SOURCES, Loaded
from limbeck.data.raw import Raw
from limbeck.data.reduced import reduced
from limbeck.data.sifting import Filters, Rejected, sifted
from limbeck.data.splits import Parts, examples, split
from limbeck.data.table import Table
from limbeck.data.task import Task
from limbeck.data.tasks import CLASSES, TASKS
from limbeck.data.text import TextTable
from limbeck.data.text_reader import TextReader
from limbeck.data.tokenizers import TASK, fitted, fitted_pairs
from limbeck.data.union import Union
from limbeck.data.words import WORDS
from limbeck.data.writing.choice import Varied
from limbeck.errors import DataError

if TYPE_CHECKING:
    Source = Loaded
    Asked = Task
else:
    Asked = choice(*TASKS)
    Source = choice(*SOURCES, Across, Union)

Size = Annotated[int, Field(ge=0)] | Annotated[float, Field(ge=0, lt=1)]


class Data(Config):
    """What is learnt from."""

    source: Source
    """Where the rows come from: a source by its name, or a mapping with its settings."""
    task: Asked = CLASSES
    """What is asked of a row: one of ``classes``; ``multi-label``, any number of them; ``multi-task``, a class of each of
    several tasks; ``numbers``; ``tags``, a class for each word; ``spans``, where the answer to a question stands in a text;
    ``vectors``, a vector for each text of a pair; ``next-token``, which token follows each; ``text-to-text``, which tokens a
    text is turned into."""
    labelled: Annotated[int, Field(ge=1)] | Literal["all"] = "all"
    """How many training rows keep their label, in the proportion of the classes; the others are used without it."""
    labelled_share: Annotated[float, Field(gt=0, lt=1)] | None = None
    """About which share of a batch has its label, where rows without one are learnt from too: rows with a label are repeated
    until they are so many, each time under their next view; null: all rows come once an epoch."""
    validation: Size = 0.1
    """Rows to choose by: a number, or a share of the labelled rows. Ignored if the source has its own."""
    test: Size = 0.2
    """Rows to judge by: a number, or a share of the labelled rows. Ignored if the source has its own."""
    limit: Annotated[int, Field(ge=1)] | None = None
    """How many training rows are used at most; null: all."""
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    """Decides which row goes into which part and which labels are kept, and nothing else."""
    filter: Filters = ()
    """Which training texts nobody learns from: a list of ``words``, ``pattern``, ``length``, ``classifier``, ``python``. A row is
    left out if one of them rejects one of its texts. Validation and test are as they are."""
    augment: Varied = Augment()
    """How training images are varied (``shift``, ``flip``, ...), or training texts are written anew: ``rules``, ``facts``,
    ``masked-words`` or ``back-translation``."""
    mixup: Literal[0] | Annotated[float, Field(ge=0.01, le=100)] = 0
    """Parameter of the Beta distribution by which training images are mixed in pairs, at least 0.01; 0 for none."""
    views: Annotated[int, Field(ge=1)] | None = None
    """How many different varied views of a row there are; null: new ones each epoch."""
    tokenizer: str | None = None
    """Of texts: a folder, a name on the hub, ``package:<name>/<folder>``, ``words`` or ``bpe`` (byte pairs), which are fitted
    on the training texts, or ``task``, the teacher's reduced to them; null: the student's, else the teacher's, else ``words``."""
    max_length: Annotated[int, Field(ge=2)] = 128
    """Tokens after which a text is cut."""

    @model_validator(mode="after")
    def _what_is_mixed(self) -> Self:
        if self.mixup and self.task != CLASSES:
            raise ValueError(f"'mixup' mixes the classes of images, and the task is {self.task.name!r}: leave it out")
        if self.mixup and self.labelled_share is not None:
            raise ValueError(
                "'mixup' mixes each row with any other, which 'labelled-share' would repeat: leave one of them out"
            )
        return self

    @property
    def looks(self) -> int | None:
        """How many views above 0 a training row has: 0 if it always looks the same, None if there is no end of them."""
        return self.views if self.mixup or not self.augment.empty else 0

    @property
    def _augments(self) -> tuple[Augment, Any]:
        """How images vary, and who writes texts: one of the two does nothing."""
        return (self.augment, None) if isinstance(self.augment, Augment) else (Augment(), self.augment)

    def load(self, tokenizer: str | None = None, teacher_tokenizer: str | None = None) -> Splits:
        """The three parts.

        ``tokenizer``: the student's, for texts where ``self.tokenizer`` is not set; `WORDS` if None.
        ``teacher_tokenizer``: the teacher's; if it is another, the teacher reads columns of its own.

        Raises:
            DataError: the data is not there, damaged, or cannot be learnt from; says what to do.
        """
        raw = self.source.load(self.task)
        if not len(raw):
            raise DataError(f"{raw.name} has no rows.")
        if raw.task != self.task:
            raise DataError(
                f"{raw.name} has what the task {raw.task.name!r} asks for, but 'data.task' says {self.task.name!r}: write "
                f"'task: {raw.task.name}', or choose another source."
            )
        task = self.task.asking(raw.classes)
        pictures, writer = self._augments
        if raw.kind == "texts" and (self.mixup or not pictures.empty):
            raise DataError(
                f"'augment' and 'mixup' alter images, but {raw.name} is text: leave them out, or write texts anew, such as "
                "'augment: {synonyms: 0.1, swap: 0.1}'."
            )
        if raw.kind == "images" and writer is not None:
            raise DataError(
                f"'augment: {{name: {writer.name}}}' writes texts anew, but {raw.name} holds images: these are varied by "
                f"{', '.join(Augment.model_fields)}."
            )
        if writer is not None and not isinstance(cast(Any, raw.items)[0], str):
            raise DataError(
                f"'augment' writes single texts anew, but the rows of {raw.name} have parts (pairs, words, or questions): "
                "leave it out."
            )
        name = TASK if TASK in (tokenizer, self.tokenizer) else self.tokenizer or tokenizer or WORDS
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
            task=task,
        )
        parts, rejected = self._sifted(raw, parts)
        if raw.kind == "images":
            table, labels = self._images(raw, parts), raw.labels
        else:
            texts = self._texts(raw, parts, name, teacher_tokenizer)
            table, labels = cast(Table, texts), texts.placed(raw.labels, task)
        found = examples(table, labels, raw.classes, parts, self.mixup, task)
        if raw.domains is not None:
            found = found.of(Domains.of(raw.domains))
        keep = writer is None or writer.keep_labels
        return replace(found, train=replace(found.train, keep_labels=keep), rejected=rejected)

    def _sifted(self, raw: Raw, parts: Parts) -> tuple[Parts, tuple[Rejected, ...]]:
        """The parts without training rows that a filter rejects, and those."""
        if not self.filter:
            return parts, ()
        if raw.kind == "images":
            raise DataError(f"'filter' reads texts, and {raw.name} holds images: leave it out.")
        rows, items = parts.train.tolist(), cast(Any, raw.items)
        kept, rejected = sifted(self.filter, rows, [list(parts_of([items[row]])) for row in rows])
        if not kept:
            raise DataError(
                f"The filters reject all {len(rows):,} training rows of {raw.name}; the first one, because it "
                f"{rejected[0].reason}."
            )
        return replace(parts, train=parts.train[torch.tensor(kept)]), rejected

    def _texts(self, raw: Raw, parts: Parts, tokenizer: str, teacher_tokenizer: str | None) -> TextTable:
        train, others = (
            [cast(Any, raw.items)[row] for row in part.tolist()] for part in (parts.train, parts.validation)
        )
        if tokenizer == WORDS:
            tokenizer = fitted(train, self.task.reads)
        if tokenizer == BPE:
            tokenizer = fitted_pairs(train)
        if tokenizer == TASK:
            teacher_tokenizer = self._whole(teacher_tokenizer)
            tokenizer = reduced(list(parts_of(train)), teacher_tokenizer, list(parts_of(others)))
        reader = TextReader(tokenizer=tokenizer, max_length=self.max_length, reads=self.task.reads)
        teacher = reader.model_copy(update={"tokenizer": teacher_tokenizer}) if teacher_tokenizer else None
        return TextTable(cast(Any, raw.items), reader, teacher, self._augments[1])

    def _whole(self, teacher_tokenizer: str | None) -> str:
        """The tokenizer that is reduced for the student: the teacher's."""
        named = self.tokenizer if self.tokenizer != TASK else None
        if named and teacher_tokenizer:
            raise DataError(
                f"The student reads the teacher's tokenizer, reduced to the training texts (vocabulary: {TASK}), but "
                f"data.tokenizer says {named!r}: leave one of the two out."
            )
        whole = teacher_tokenizer or named
        if whole is None or whole in (WORDS, BPE):
            raise DataError(
                f"The tokenizer {TASK!r} is the teacher's, reduced to the training texts, but this teacher brings none: "
                "choose a pretrained teacher, or name the teacher's in data.tokenizer."
            )
        return whole

    def _images(self, raw: Raw, parts: Parts) -> Table:
        pixels = cast(Any, raw.items)
        mean, std = brightness(pixels, parts.train)
        _, channels, height, width = (int(length) for length in pixels.shape)
        reader = ImageReader(height=height, width=width, channels=cast(Any, channels), mean=mean, std=std)
        return cast(Table, ImageTable(pixels, reader, self._augments[0]))

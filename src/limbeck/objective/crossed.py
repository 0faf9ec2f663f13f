"""Learning from a teacher with another tokenizer: of sorted probabilities, of the tokens that both have, of chunks of text."""

from collections.abc import Sequence
from typing import Annotated, ClassVar, Final, Literal, cast

import torch
from pydantic import Field
from torch import Tensor, nn

from limbeck.data.batch import REAL, Batch
from limbeck.data.examples import Examples
from limbeck.data.task import Gives
from limbeck.errors import SignalError
from limbeck.losses.crossed import alm, binary_kl_limit, chunk_log_likelihoods, overlap, uld
from limbeck.losses.divergences import log_probabilities
from limbeck.losses.offer import Offer
from limbeck.losses.pieces import in_pieces, known, known_at, said
from limbeck.losses.storages import Chunked, Dense, Storage, stored
from limbeck.objective.balance import Weight
from limbeck.objective.chunks import SIDES, Side, chunks_of, openings, places
from limbeck.objective.divergence import Diverging, Kind
from limbeck.objective.schedules import Fixed, Place
from limbeck.objective.temperatures import Scheduled
from limbeck.objective.term import About, Needs, Scope, Term, Weighted
from limbeck.signals.capture import Signals

VOCABULARY: Final = "vocabulary"
"""What `Objective.build` may be given beside the teacher's signals: its token that spells the same, for each of the student's,
int64 [V], -1: none. Without it both have one vocabulary."""


def vocabularies(terms: Sequence[Term], examples: Examples) -> Signals:
    """What terms between two tokenizers are told of them beside the teacher's signals; nothing where there are none of either.

    Raises:
        DataError: the two do not suit the texts.
    """
    texts = examples.table.texts
    if texts is None or texts.aligned is None or all(term.scope != "token" for term in terms):
        return {}
    texts.aligned.demand()
    return {VOCABULARY: texts.aligned.vocabulary}


class Crossed(Weighted):
    """A term between logits that has a value for each chunk of text that both sides foresee; see `limbeck.data.aligned`.

    No more than a piece of either side's logits is held at once, forward or backward.
    """

    looks_at: ClassVar[str] = "the logits of both sides"
    scope: ClassVar[Scope] = "token"
    mask: ClassVar[str] = REAL
    reads: ClassVar[Offer] = Offer.ROWS
    zero_at_match: ClassVar[bool] = True
    whole: ClassVar[bool] = True

    @property
    def takes(self) -> frozenset[Gives]:
        """Tokens."""
        return frozenset({"tokens"})

    def needs(self) -> Needs:
        """Both sides' logits."""
        return Needs(frozenset({"logits"}), frozenset({"logits"}))

    def build(self, student: Signals, teacher: Signals, examples: int) -> nn.Module | None:
        """Nothing."""
        return None


class Uld(Crossed):
    """Sorted probabilities where both sides stand at the same place: how sure the teacher is, and not of what (ULD)."""

    about: ClassVar[About] = About(
        "responses",
        "Boizard et al. 2025, arXiv:2402.12030",
        "sum over sorted probabilities, mean over chunks",
        "a teacher of another tokenizer, with labels beside it: it knows no tokens",
    )

    name: Literal["uld"] = "uld"
    weight: Weight = Fixed(value=1.5)
    """A number or a schedule."""
    top: Annotated[int, Field(ge=1)] | None = None
    """How many of the largest probabilities are sorted, the rest counting as one; null: all of the smaller vocabulary."""
    temperature: Scheduled = Fixed(value=1.0)
    """T of both sides; there is no factor T^2."""

    def values(self, student: Signals, teacher: Signals, batch: Batch, place: Place, part: nn.Module | None) -> Tensor:
        """See `limbeck.losses.crossed.uld`, [chunks]."""
        ours, theirs = _beginning(student, teacher, batch)
        t = self.temperature.at(place)

        def each(logits: Tensor, start: int, stop: int) -> Tensor:
            logs = log_probabilities(logits / t)  # as the teacher's, so that rounding has no slope
            return uld(logs, known_at(theirs, start, stop, t), self.top)

        return in_pieces(each, ours, theirs.classes)


class SharedVocabulary(Crossed):
    """A divergence over the tokens that both vocabularies have and one bucket a side for all others, where both stand at the same
    place.

    Tokens are shared that spell the same bytes. If the student has no others, the teacher's are left out, and its shared ones add
    up to 1.
    """

    about: ClassVar[About] = About(
        "responses",
        "Patiño et al. 2025 (GOLD)",
        "sum over shared tokens and the rest, mean over chunks",
        "a teacher of another tokenizer that shares many tokens, as those of bytes and subwords mostly do",
    )

    name: Literal["shared-vocabulary"] = "shared-vocabulary"
    kind: Kind = "forward-kl"
    """Which divergence, as of ``divergence``. Where the student has tokens that the teacher lacks, those that read the teacher's
    log-probabilities (reverse-kl) are large as long as it uses them."""
    temperature: Scheduled = Fixed(value=1.0)
    """T of both sides; the value carries the factor T^2."""

    def build(self, student: Signals, teacher: Signals, examples: int) -> nn.Module | None:
        """The teacher's token for each of the student's: of ``vocabulary`` beside its signals; else one vocabulary.

        Raises:
            SignalError: both have no token in common.
        """
        return _Vocabulary(student["logits"].shape[-1], teacher["logits"].shape[-1], teacher.get(VOCABULARY))

    def values(self, student: Signals, teacher: Signals, batch: Batch, place: Place, part: nn.Module | None) -> Tensor:
        """See `limbeck.losses.crossed.overlap`, [chunks]."""
        assert isinstance(part, _Vocabulary)
        if not part.told and "teacher.input_ids" in batch.inputs:
            raise SignalError(
                "'shared-vocabulary' must be told which tokens of two vocabularies spell the same: give objective.build the "
                "mapping of limbeck.data.alignment.shared_tokens beside the teacher's signals, as 'vocabulary'."
            )
        ours, theirs = _beginning(student, teacher, batch)
        divergence, t = Diverging(kind=self.kind).divergence, self.temperature.at(place)
        shared, only = part.shared, part.only

        def each(logits: Tensor, start: int, stop: int) -> Tensor:
            logs = known_at(theirs, start, stop, t)
            logs = logs if only is None else logs[:, only]
            return t**2 * overlap(logits / t, logs, shared, divergence)

        return in_pieces(each, ours, theirs.classes)


class Alm(Crossed):
    """How likely both find each chunk of the text, as the odds of a coin: said, or not said (ALM)."""

    about: ClassVar[About] = About(
        "responses",
        "Minixhofer, Vulić & Ponti 2025, arXiv:2503.20083",
        "KL of two coins times the temperature, mean over chunks",
        "any two tokenizers; it looks at what the text says and at no other token",
    )
    reads: ClassVar[Offer] = Offer.OUTCOMES

    name: Literal["alm"] = "alm"
    temperature: Annotated[float, Field(gt=0)] | None = 100.0
    """What log-likelihoods are divided by; the value carries it as a factor. null: the limit for large ones."""

    def values(self, student: Signals, teacher: Signals, batch: Batch, place: Place, part: nn.Module | None) -> Tensor:
        """See `limbeck.losses.crossed.alm`, [chunks]."""
        chunks, theirs = (chunks_of(batch, side) for side in SIDES)
        count = int(openings(chunks).sum())
        at, there = places(chunks >= 0), places(theirs >= 0)
        q = said(_student(student).at(at), _next(batch, "student", at))
        p = known(stored(teacher["logits"]).at(there), _next(batch, "teacher", there)).to(q)
        likely, known_likely = (
            chunk_log_likelihoods(logs[None], own.flatten()[some][None], count)[0]
            for logs, own, some in ((q, chunks, at), (p, theirs, there))
        )
        if self.temperature is None:
            return binary_kl_limit(likely, known_likely)
        return self.temperature * alm(likely, known_likely, self.temperature)


class _Vocabulary(nn.Module):
    """``shared``: the teacher's token for each of the student's, int64 [V_s], -1: none. ``only``: the teacher's tokens that are
    looked at, in which ``shared`` counts then; None: all. ``told``: whether the mapping was given.
    """

    shared: Tensor
    only: Tensor | None

    def __init__(self, ours: int, theirs: int, given: Tensor | None) -> None:
        super().__init__()
        self.told = given is not None
        found = torch.arange(min(ours, theirs)) if given is None else given[:ours].cpu()
        found = torch.cat([found, torch.full((ours - len(found),), -1)])  # a vocabulary may be padded
        found = torch.where(found < theirs, found, -1)
        if not bool((found >= 0).any()):
            raise SignalError(
                "Student and teacher have no token in common, so 'shared-vocabulary' compares nothing: use uld or alm."
            )
        alone = bool((found >= 0).all()) and len(found) < theirs
        self.register_buffer("shared", torch.arange(ours) if alone else found, persistent=False)
        self.register_buffer("only", found if alone else None, persistent=False)


def _student(signals: Signals) -> Chunked | Dense:
    return cast(Chunked | Dense, stored(signals["logits"]))


def _beginning(student: Signals, teacher: Signals, batch: Batch) -> tuple[Chunked | Dense, Storage]:
    """What both sides say where a chunk begins, [chunks, V_s] and [chunks, V_t]."""
    at, there = (places(openings(chunks_of(batch, side))) for side in SIDES)
    return _student(student).at(at), stored(teacher["logits"]).at(there)


def _next(batch: Batch, side: Side, at: Tensor) -> Tensor:
    """The token that follows each of the places, int64 [N]."""
    return batch.columns(side)["input_ids"].roll(-1, 1).flatten()[at]

"""Learning where the teacher's transformer layers attend, and how their tokens relate."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field
from torch import Tensor, nn

from limbeck import losses
from limbeck.data.batch import TOKENS, Batch
from limbeck.errors import SignalError
from limbeck.objective.pairs import Paired, demand_the_same_tokens
from limbeck.objective.schedules import Place
from limbeck.objective.term import About, Needs
from limbeck.signals.capture import Signals

_Relations = tuple[Literal["query", "key", "value"], ...]


class Attending(Paired):
    """A term between the attention of a layer of the student and of one of the teacher: ``attention.N``, the first is 1.

    A rule for ``layers`` pairs ``hidden.N``; what leads to ``hidden.N`` is ``attention.N``.
    """

    looks_at: ClassVar[str] = "the attention of one transformer layer of each side"
    zero_at_match: ClassVar[bool] = True

    student: str | None = None
    """The student's layer: ``attention.N``, the first is 1."""
    teacher: str | None = None
    """The teacher's, likewise."""

    def numbers(self) -> tuple[int, int]:
        """The two layers' numbers.

        Raises:
            SignalError: a name is neither ``attention.N`` nor ``hidden.N``.
        """
        found = []
        for name in self.pair:
            kind, _, number = name.partition(".")
            if kind not in ("attention", "hidden") or not number.isdigit() or number == "0":
                raise SignalError(f"{name!r}: the term {self.name!r} takes layers as attention.1, attention.2, ...")  # type: ignore[attr-defined]
            found.append(int(number))
        return found[0], found[1]

    def read(self, kinds: tuple[str, ...]) -> Needs:
        """The signals of these kinds."""
        ours, theirs = self.numbers()
        return Needs(
            frozenset(f"attention.{ours}.{kind}" for kind in kinds),
            frozenset(f"attention.{theirs}.{kind}" for kind in kinds),
        )


class AttentionMaps(Attending):
    """Attention maps of transformers, as probabilities or as scores; head counts may differ."""

    about: ClassVar[About] = About(
        "attention",
        "Wang et al. 2020, arXiv:2002.10957 (kl); Jiao et al. 2020, arXiv:1909.10351 (mse)",
        "mean over heads, queries (`mse`: and keys) that count, mean over examples",
        "transformers with the same tokens; heads are averaged where their numbers differ",
    )
    name: Literal["attention-maps"] = "attention-maps"
    form: Literal["kl", "mse"] = "kl"
    """``kl`` of probabilities, or ``mse`` of scores before the softmax (TinyBERT)."""

    def needs(self) -> Needs:
        """Probabilities or scores of one layer a side."""
        return self.read(("probs",) if self.form == "kl" else ("scores",))

    def build(self, student: Signals, teacher: Signals, examples: int) -> nn.Module | None:
        """Nothing; only checks that both sides see the same tokens."""
        (ours,), (theirs,) = self.needs().student, self.needs().teacher
        if student[ours].shape[2:] != teacher[theirs].shape[2:]:
            raise SignalError(
                f"{ours!r} of the student is between {list(student[ours].shape[2:])} tokens and {theirs!r} of the teacher "
                f"between {list(teacher[theirs].shape[2:])}: attention can be compared between the same tokens only."
            )
        return None

    def values(self, student: Signals, teacher: Signals, batch: Batch, place: Place, part: nn.Module | None) -> Tensor:
        """See `limbeck.losses.attention_kl` and `attention_mse`."""
        (ours,), (theirs,) = self.needs().student, self.needs().teacher
        demand_the_same_tokens(batch, self.name)
        loss = losses.attention_kl if self.form == "kl" else losses.attention_mse
        return loss(student[ours], teacher[theirs], batch.masks.get(TOKENS))


class MiniLm(Attending):
    """Relations among queries, among keys and among values (MiniLMv2, Wang et al. 2021); widths and heads may differ."""

    about: ClassVar[About] = About(
        "attention",
        "Wang et al. 2021, arXiv:2012.15828",
        "sum over the relations, mean over relation heads and queries that count, mean over examples",
        "a small transformer of any width, from one layer of a large one: the last student layer, an upper teacher layer",
    )
    name: Literal["minilm"] = "minilm"
    heads: Annotated[int, Field(ge=1)] = 12
    """Relation heads; they must divide both widths."""
    relations: Annotated[_Relations, Field(min_length=1)] = ("query", "key", "value")
    """Which of queries, keys and values."""

    def needs(self) -> Needs:
        """Queries, keys and values of one layer a side."""
        return self.read(self.relations)

    def build(self, student: Signals, teacher: Signals, examples: int) -> nn.Module | None:
        """Nothing; only checks the widths."""
        for side, signals, names in (
            ("student", student, self.needs().student),
            ("teacher", teacher, self.needs().teacher),
        ):
            width = signals[min(names)].shape[-1]
            if width % self.heads:
                raise SignalError(
                    f"The {side}'s width {width} cannot be split into {self.heads} relation heads: set heads to a number "
                    "that divides the widths of both sides."
                )
        return None

    def values(self, student: Signals, teacher: Signals, batch: Batch, place: Place, part: nn.Module | None) -> Tensor:
        """See `limbeck.losses.minilm_relation`."""
        demand_the_same_tokens(batch, self.name)
        ours, theirs = self.numbers()
        mask = batch.masks.get(TOKENS)
        total = student[f"attention.{ours}.{self.relations[0]}"].new_zeros(len(batch))
        for kind in self.relations:
            sides = student[f"attention.{ours}.{kind}"], teacher[f"attention.{theirs}.{kind}"]
            total = total + losses.minilm_relation(*sides, self.heads, mask)
        return total

"""What language models write after the prompts of the test part, in numbers."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

import numpy as np

from limbeck.data.sifting import Filter
from limbeck.evidence.besides import Form, Written
from limbeck.evidence.generations import (
    distinct_n,
    ended_share,
    exact_match,
    folded,
    lengths,
    longest_loop,
    repetition,
    rouge_l,
    squad,
)
from limbeck.models.generation import Text
from limbeck.models.marking import Marks


@dataclass(frozen=True)
class Wrote:
    """What stands after each prompt, in the order of the prompts: ``tokens`` without their end, and the same as ``texts``.

    ``ended``: whether the end came within the tokens that there was room for.
    """

    tokens: Sequence[Sequence[int]]
    texts: Sequence[str]
    ended: Sequence[bool]
    marks: Marks | None = None
    """What the teacher makes of it."""


def plain(text: str) -> str:
    """With single spaces, and none at the ends."""
    return " ".join(text.split())


FORMS: Final[Mapping[Form, Callable[[str], str]]] = {"text": plain, "folded": folded, "squad": squad}
"""By what a text is its reference."""


def told(
    wrote: Wrote,
    right: Sequence[Text | None] = (),
    watch: Mapping[str, Filter] = MappingProxyType({}),
    form: Form = "text",
) -> Written:
    """The numbers of it. ``right``: the only right text after each prompt, None where there is no such; all if empty.
    ``watch``: what to look for, by name. ``form``: in which a text is compared with the right one.

    Raises:
        LimbeckError: see `Filter.reasons`.
    """
    known = [
        (said, tokens, one)
        for said, tokens, one in zip(wrote.texts, wrote.tokens, right, strict=bool(right))
        if one is not None
    ]
    equal = exact_match([said for said, *_ in known], [one.text for *_, one in known], FORMS[form])
    repeated = [share for one in wrote.tokens if (share := repetition(one)) is not None]
    size = lengths(wrote.tokens)
    return Written(
        texts=len(wrote.texts),
        distinct_1=distinct_n(wrote.tokens, 1),
        distinct_2=distinct_n(wrote.tokens, 2),
        repetition=float(np.mean(repeated)) if repeated else None,
        looping=float(np.mean([longest_loop(one) > 0 for one in wrote.tokens])) if wrote.tokens else None,
        mean_length=size.mean if size else None,
        ended=ended_share([[flag] for flag in wrote.ended], [True]),
        exact_match=float(equal.mean()) if known else None,
        rouge_l=float(np.mean([rouge_l(tokens, one.tokens) for _, tokens, one in known])) if known else None,
        teacher_nll=wrote.marks.nll if wrote.marks else None,
        teacher_kl=wrote.marks.kl if wrote.marks else None,
        watched={
            name: float(np.mean([reason is not None for reason in one.reasons(wrote.texts)]))
            for name, one in watch.items()
            if wrote.texts
        },
    )

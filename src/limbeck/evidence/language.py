"""How well language models predict held-out texts. Lower is better for all of it.

An NLL is a sum over the tokens of a text, in nats, and the bytes are those of the text that these tokens spell: count what was
scored, after the cut at the longest length, and not what the file holds.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from limbeck.errors import DataError, LimbeckError
from limbeck.evidence.exam import Floats, Ints
from limbeck.evidence.records import Bootstrap
from limbeck.evidence.resample import RESAMPLES, percentile_interval, resample

ROUNDING = 0.01  # nats: what a few thousand certain tokens, each -1e-6 off in float32, may come to


def utf8_bytes(texts: Sequence[str]) -> Ints:
    """How many bytes each text is in UTF-8, int64 [N].

    Raises:
        DataError: a text holds half a surrogate pair, which UTF-8 has no bytes for.
    """
    counts = []
    for place, text in enumerate(texts):
        try:
            counts.append(len(text.encode()))
        except UnicodeEncodeError as error:
            raise DataError(f"Text {place} is no valid Unicode ({error.reason}): leave it out or mend it.") from error
    return np.array(counts, dtype=np.int64)


def bits_per_byte(nats: Any, sizes: Any) -> float:
    """``sum(nats) / (ln 2 sum(sizes))``, of the NLL [N] and the `utf8_bytes` [N] of the same texts.

    Models with different tokenizers may be compared by it, on the same texts. Scripts of several bytes a letter have fewer
    bits a byte, so languages may not. A tokenizer that spells a text in several ways gives an upper bound: one way is scored.

    Raises:
        LimbeckError: see `bits_per_byte_of_each`.
    """
    total, size = _checked(nats, sizes)
    return float(total.sum() / size.sum() / np.log(2))


def bits_per_byte_of_each(nats: Any, sizes: Any) -> Floats:
    """Bits per byte of each text, float64 [N]. Their mean weighs short texts more and is not `bits_per_byte`.

    Raises:
        LimbeckError: shapes differ, an NLL is negative or not finite, or a text has no bytes.
    """
    total, size = _checked(nats, sizes)
    each: Floats = total / size / np.log(2)
    return each


def perplexity(nats: Any, tokens: Any) -> float:
    """``exp(sum(nats) / sum(tokens))`` of the NLL [N] and the number of predicted tokens [N]; infinite if too large.

    Only models with the same tokenizer may be compared by it: longer tokens are harder to predict.

    Raises:
        LimbeckError: see `bits_per_byte_of_each`, of tokens.
    """
    total, count = _checked(nats, tokens, "tokens")
    with np.errstate(over="ignore"):
        return float(np.exp(total.sum() / count.sum()))


def compare_bits(a: Any, b: Any, sizes: Any, resamples: int = RESAMPLES, seed: int = 0) -> Bootstrap:
    """Bits per byte of ``a`` minus those of ``b``, with an interval over texts; below 0, ``a`` predicts better.

    ``a`` [S, N] and ``b`` [S', N]: the NLL of each text, a row a seed, or [N] of one; each is averaged over its seeds.
    ``sizes``: their `utf8_bytes` [N]. A draw of texts takes their NLL and their bytes together, for the ratio of sums is no
    mean over texts. Windows of one document are not independent: give the document as one text. An NLL has no highest value,
    so no exact bound stands behind the interval where few texts differ, and of fewer than some 20 texts it is too narrow. For
    the interval over seeds see `difference`.

    Raises:
        LimbeckError: see `bits_per_byte_of_each`; or there is one text.
    """
    ours, theirs = (
        np.stack([_checked(row, sizes)[0] for row in np.atleast_2d(np.asarray(one, dtype=np.float64))])
        for one in (a, b)
    )
    size = np.asarray(sizes, dtype=np.float64)
    if len(size) < 2:
        raise LimbeckError("There is one text to compare on: an interval over texts needs at least two.")
    bits = (ours.mean(0) - theirs.mean(0)) / np.log(2)
    draws = resample(np.stack([bits, size], axis=1), resamples, seed)
    return Bootstrap(
        mean=float(bits.sum() / size.sum()),
        ci95=percentile_interval(draws[:, 0] / draws[:, 1]),
        resamples=resamples,
        examples=len(size),
        seed=seed,
        telling=int(np.count_nonzero(bits.round(12))),
    )


def _checked(nats: Any, counts: Any, of: str = "bytes") -> tuple[Floats, Floats]:
    total, size = np.asarray(nats, dtype=np.float64), np.asarray(counts, dtype=np.float64)
    if total.ndim != 1 or total.shape != size.shape or not total.size:
        raise LimbeckError(
            f"The NLL has shape {list(total.shape)} and the number of {of} {list(size.shape)}: expected one of each for "
            "every text, [N] and [N], and at least one text."
        )
    if not np.isfinite(total).all():
        at = int(np.flatnonzero(~np.isfinite(total))[0])
        raise LimbeckError(
            f"The NLL of text {at} is {total[at]}: the model gives NaN, or gives a token no probability at all. Look at its "
            "logits there, and take the logarithm of its softmax in float32."
        )
    if (total < -ROUNDING).any():
        at = int(np.flatnonzero(total < -ROUNDING)[0])
        raise LimbeckError(
            f"The NLL of text {at} is {total[at]:.4g}, below 0: give the negative log-likelihood, summed over the tokens."
        )
    if not (size > 0).all():  # NaN is refused as well
        at = int(np.flatnonzero(~(size > 0))[0])
        raise LimbeckError(f"Text {at} has {size[at]:g} {of}: leave out texts of which nothing was predicted.")
    return total, size

"""A tokenizer reduced to the tokens that the training texts use.

Exact on covered text: a text of which every token is kept, and none unknown, is cut into the same pieces as before. WordPiece
takes the longest piece that fits, Unigram the best path and BPE the earliest merge, and the choice that was made is still
there, among fewer others. What they fall back on stays: special tokens and all pieces of a single character or byte.
"""

import json
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from limbeck.config import digest
from limbeck.data.labels import log
from limbeck.data.tokenizers import TASK, enrol, quiet, tokenizer_of
from limbeck.data.words import sound
from limbeck.errors import DataError

_CHUNK = 4096  # texts tokenised at once


@dataclass(frozen=True)
class Coverage:
    """What a reduced tokenizer makes of other texts.

    ``tokens``: how many it has, of ``of``. ``uncovered``: the share of the whole tokenizer's tokens in these texts that it
    lacks. ``unknown``: the share of its own tokens in them that are the unknown one.
    """

    tokens: int
    of: int
    uncovered: float
    unknown: float

    def __str__(self) -> str:
        """One sentence."""
        return (
            f"{self.tokens:,} of {self.of:,} tokens are kept; of the validation texts' tokens {100 * self.uncovered:.2g} % are "
            f"not among them and are cut into smaller pieces, {100 * self.unknown:.2g} % are unknown"
        )


def reduced(texts: Sequence[str], whole: str, others: Sequence[str] = ()) -> str:
    """The name of the tokenizer ``whole`` reduced to ``texts``, for a `TextReader` of this process.

    The same texts give the same name and the same tokens. What it covers of ``others`` is logged.

    Raises:
        DataError: it is not of a kind that can be reduced.
    """
    known = tokenizer_of(whole)
    if not getattr(known, "is_fast", False):
        raise DataError(f"The tokenizer {whole!r} is not one of the tokenizers library, so it cannot be reduced.")
    with quiet():
        used = {token for ids in _ids(known, texts) for token in ids}
        told = keep(known.backend_tokenizer.to_str(), set(known.convert_ids_to_tokens(sorted(used))))
    settings = {name: str(token) for name, token in known.special_tokens_map.items() if isinstance(token, str)}
    make = partial(_made, told, tuple(known.model_input_names), settings)
    name = enrol(f"{TASK}:{digest([told, settings, list(known.model_input_names)])[:16]}", make)
    if others:
        log.warning("vocabulary: task: %s", coverage(name, whole, others))
    return name


def coverage(name: str, whole: str, texts: Sequence[str]) -> Coverage:
    """What the reduced tokenizer ``name`` makes of ``texts``, beside the ``whole`` one."""
    small, large = tokenizer_of(name), tokenizer_of(whole)
    ids, unknown = large.get_vocab(), small.unk_token_id
    kept = {ids[piece] for piece in small.get_vocab()}
    with quiet():
        before = [token for ids in _ids(large, texts) for token in ids]
        after = [token for ids in _ids(small, texts) for token in ids]
    return Coverage(
        len(small),
        len(large),
        sum(token not in kept for token in before) / max(1, len(before)),
        sum(token == unknown for token in after) / max(1, len(after)),
    )


def keep(told: str, used: Collection[str]) -> str:
    """A tokenizer of the tokenizers library (JSON) with only the pieces ``used`` and those that it cannot do without.

    Raises:
        DataError: it is neither WordPiece, Unigram nor BPE.
    """
    whole = json.loads(told)
    model, added = whole["model"], {one["content"]: one["id"] for one in whole["added_tokens"]}
    if model.get("type") not in ("WordPiece", "Unigram", "BPE"):
        raise DataError(
            f"A tokenizer of the kind {model.get('type')} cannot be reduced: only WordPiece, Unigram and BPE."
        )
    listed = model["type"] == "Unigram"
    ids = {piece: index for index, (piece, _) in enumerate(model["vocab"])} if listed else model["vocab"]
    unknown = model["vocab"][model["unk_id"]][0] if listed and model["unk_id"] is not None else model.get("unk_token")
    special = {*added, unknown, *(piece for one in _processors(whole["post_processor"]) for piece in _named(one))}
    kept = {piece for piece in ids if piece in used or piece in special or _single(piece, model)}
    if listed:
        kept.add(min(model["vocab"], key=lambda one: one[1])[0])  # what is unknown scores below the least of them
    if model["type"] == "BPE":
        pairs: list[list[str]] = [one.split(" ", 1) if isinstance(one, str) else one for one in model["merges"]]
        kept |= _ancestors(kept, pairs, model)
        model["merges"] = [pair for pair in pairs if {*pair, _joined(pair, model)} <= kept]  # in the same order
    order = [*sorted(kept, key=ids.__getitem__), *sorted(added.keys() - ids.keys(), key=added.__getitem__)]
    new = {piece: index for index, piece in enumerate(order)}
    if listed:
        model["vocab"] = [one for index, one in enumerate(model["vocab"]) if one[0] in kept and ids[one[0]] == index]
        model["unk_id"] = None if unknown is None else new[unknown]
    else:
        model["vocab"] = {piece: new[piece] for piece in order if piece in kept}
    for one in whole["added_tokens"]:
        one["id"] = new[one["content"]]
    whole["added_tokens"].sort(key=lambda one: one["id"])
    for one in _processors(whole["post_processor"]):
        for side in ("sep", "cls"):
            if side in one:
                one[side][1] = new[one[side][0]]
        for entry in one.get("special_tokens", {}).values():
            entry["ids"] = [new[piece] for piece in entry["tokens"]]
    whole["truncation"] = whole["padding"] = None  # calls set these
    return json.dumps(whole, ensure_ascii=False)


def _single(piece: str, model: dict[str, Any]) -> bool:
    """Whether it is one character, or one byte of one."""
    plain = piece.removeprefix(model.get("continuing_subword_prefix") or "")
    plain = plain.removesuffix(model.get("end_of_word_suffix") or "")
    return len(plain) == 1 or (len(piece) == 6 and piece.startswith("<0x") and piece.endswith(">"))


def _joined(pair: list[str], model: dict[str, Any]) -> str:
    return pair[0] + pair[1].removeprefix(model.get("continuing_subword_prefix") or "")


def _ancestors(kept: Iterable[str], pairs: Iterable[list[str]], model: dict[str, Any]) -> set[str]:
    """All that ``kept`` pieces may have been merged from."""
    makers: dict[str, list[str]] = {}
    for pair in pairs:
        makers.setdefault(_joined(pair, model), []).extend(pair)
    found, todo = set[str](), list(kept)
    while todo:
        for parent in makers.pop(todo.pop(), ()):
            found.add(parent)
            todo.append(parent)
    return found


def _processors(one: dict[str, Any] | None) -> Iterator[dict[str, Any]]:
    if one is not None:
        yield one
        for inner in one.get("processors", ()):
            yield from _processors(inner)


def _named(processor: dict[str, Any]) -> Iterator[str]:
    """The pieces that a post-processor adds."""
    yield from (processor[side][0] for side in ("sep", "cls") if side in processor)
    yield from (piece for entry in processor.get("special_tokens", {}).values() for piece in entry["tokens"])


def _ids(tokenizer: Any, texts: Sequence[str]) -> Iterator[list[int]]:
    """The tokens of the texts that can be read, without special ones; the others are refused by row later."""
    for start in range(0, len(texts), _CHUNK):
        chunk = [text for text in texts[start : start + _CHUNK] if sound(text)]
        if chunk:
            yield from tokenizer(chunk, add_special_tokens=False, truncation=False, padding=False, verbose=False)[
                "input_ids"
            ]


def _made(told: str, columns: tuple[str, ...], settings: dict[str, str]) -> Any:
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(told), model_input_names=list(columns), **settings
    )

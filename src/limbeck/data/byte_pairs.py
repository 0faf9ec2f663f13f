"""A tokenizer of byte pairs, fitted on the training texts: for language models that bring none of their own."""

from collections.abc import Iterable
from typing import Any, Final

from limbeck.data.words import library, sound

BPE: Final = "bpe"
"""What a recipe calls it."""
_MOST: Final = 4_096  # tokens; more would only make the embedding of a small model larger
_OFTEN: Final = 2  # a pair that occurs once in training teaches nothing
_END: Final = "<|end|>"


def fit(texts: Iterable[str]) -> str:
    """A tokenizer as the tokenizers library writes it (JSON): the 256 bytes, and the commonest pairs of what is there already
    (Sennrich, Haddow & Birch 2016, arXiv:1508.07909; over bytes as in GPT-2). It spells any text as it is.

    Raises:
        DataError: the library is not installed.
    """
    tokenizers = library()
    backend = tokenizers.Tokenizer(tokenizers.models.BPE())
    backend.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=_MOST,
        min_frequency=_OFTEN,
        special_tokens=[_END],
        initial_alphabet=sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    backend.train_from_iterator((text for text in texts if sound(text)), trainer)
    told: str = backend.to_str()
    return told


def made(told: str) -> Any:
    """A tokenizer of the transformers library from what `fit` gave; one token ends a text and fills up."""
    from transformers import PreTrainedTokenizerFast

    backend = library().Tokenizer.from_str(told)
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token=_END, pad_token=_END)

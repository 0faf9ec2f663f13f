"""A tokenizer of words, fitted on the training texts: for models that bring none of their own."""

from collections.abc import Iterable
from typing import Any, Final

from limbeck.errors import DataError
from limbeck.extras import imported

WORDS: Final = "words"
"""What a recipe calls it."""
_MOST: Final = 8_000  # words; more would only make the student's embedding larger
_OFTEN: Final = 2  # a word that occurs once in training teaches nothing
_SPECIAL: Final = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")
# Scripts without spaces between words, beside the Chinese characters that the normaliser sets apart: kana, Thai, Lao,
# Tibetan, Burmese, Khmer. Each letter is a word there.
_UNSPACED: Final = "[\u3040-\u30ff\u0e00-\u0eff\u0f00-\u0fff\u1000-\u109f\u1780-\u17ff]"


def fit(texts: Iterable[str], pairs: bool = False) -> str:
    """A tokenizer as the tokenizers library writes it (JSON): the commonest words, in small letters, and punctuation.

    The same texts give the same tokenizer, whatever their order. ``pairs``: whether it is asked about pairs of texts.

    Raises:
        DataError: the library is not installed.
    """
    tokenizers = library()
    backend = tokenizers.Tokenizer(tokenizers.models.WordLevel({}, unk_token="[UNK]"))  # noqa: S106 - no password
    backend.normalizer = tokenizers.normalizers.Sequence(
        [
            tokenizers.normalizers.NFKC(),
            tokenizers.normalizers.BertNormalizer(lowercase=True, strip_accents=False, handle_chinese_chars=True),
        ]
    )
    backend.pre_tokenizer = tokenizers.pre_tokenizers.Sequence(
        [
            tokenizers.pre_tokenizers.BertPreTokenizer(),
            tokenizers.pre_tokenizers.Split(tokenizers.Regex(_UNSPACED), "isolated"),
        ]
    )
    trainer = tokenizers.trainers.WordLevelTrainer(
        vocab_size=_MOST, min_frequency=_OFTEN, show_progress=False, special_tokens=list(_SPECIAL)
    )
    backend.train_from_iterator((text for text in texts if sound(text)), trainer)
    backend.post_processor = tokenizers.processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        **({"pair": "[CLS] $A [SEP] $B:1 [SEP]:1"} if pairs else {}),
        special_tokens=[(name, backend.token_to_id(name)) for name in ("[CLS]", "[SEP]")],
    )
    told: str = backend.to_str()
    return told


def made(told: str, pairs: bool = False) -> Any:
    """A tokenizer of the transformers library from what `fit` gave; of ``pairs`` it tells one text from the other."""
    from transformers import PreTrainedTokenizerFast

    names = dict(zip(("pad_token", "unk_token", "cls_token", "sep_token"), _SPECIAL, strict=True))
    return PreTrainedTokenizerFast(
        tokenizer_object=library().Tokenizer.from_str(told),
        model_input_names=["input_ids", *(["token_type_ids"] if pairs else []), "attention_mask"],
        **names,
    )


def sound(text: object) -> bool:
    """Whether the library can read it; what it cannot is refused, by row, when the texts are tokenised."""
    return isinstance(text, str) and not any("\ud800" <= letter <= "\udfff" for letter in text)


def library() -> Any:
    """The tokenizers library.

    Raises:
        DataError: it is not installed.
    """
    return imported("tokenizers", "Texts need tokenizers", "text", DataError)

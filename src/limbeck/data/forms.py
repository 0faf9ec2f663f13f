"""Which token is meant by what it is written as: servers name tokens by their letters or bytes, and seldom by their numbers."""

from typing import Any, Final

from limbeck.data.spelling import Kind, Spelling, Token, spelling

_SEVERAL: Final = -1


class Forms:
    """The tokens of a vocabulary by what they may be written as.

    A token is written as its bytes; as its letters, with U+FFFD for what is none by itself; or as the tokenizer decodes it where
    it stands alone, which leaves out a space before it in some. Special tokens are written as their names.

    Raises:
        DataError: the tokenizer does not tell, see `limbeck.data.spelling`.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._spelling: Spelling = spelling(tokenizer)
        numbers = [number for number, token in enumerate(self._spelling.tokens) if token.kind != Kind.MISSING]
        self._alone = dict(zip(numbers, self._decoded(numbers), strict=True))
        self._tokens: dict[bytes, int] = {}
        for number in numbers:
            for form in self._of(number):
                self._tokens[form] = number if form not in self._tokens else _SEVERAL

    @property
    def classes(self) -> int:
        """V of the vocabulary."""
        return len(self._spelling.tokens)

    def token(self, name: bytes | int) -> int | None:
        """The one token that is written so, or has that number; None: there is none, or there are several."""
        found = name if isinstance(name, int) else self._tokens.get(name, _SEVERAL)
        return found if found in self._alone else None

    def may_be(self, name: bytes | int, token: int) -> bool:
        """Whether ``token`` may be written so, or has that number."""
        return name == token if isinstance(name, int) else token in self._alone and name in self._of(token)

    def _of(self, number: int) -> set[bytes]:
        token: Token = self._spelling.tokens[number]
        return {token.content, token.content.decode(errors="replace").encode(), self._alone[number].encode()}

    def _decoded(self, numbers: list[int]) -> list[str]:
        found: list[str] = self._tokenizer.batch_decode(
            [[number] for number in numbers], skip_special_tokens=False, clean_up_tokenization_spaces=False
        )
        return found

"""Filters: which texts nobody is to learn from, and why; each one that is left out is kept in a list that can be read."""

from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from limbeck.config import choice
from limbeck.data.sifting.classifier import Classifier
from limbeck.data.sifting.code import Python
from limbeck.data.sifting.filter import Filter, Rejected, sifted, told, write_rejected
from limbeck.data.sifting.rules import Length, Pattern, Words

if TYPE_CHECKING:
    Filters = tuple[Filter, ...]
    Watch = dict[str, Filter]
else:
    _ANY = choice(Classifier, Length, Pattern, Python, Words)
    Filters = Annotated[tuple[_ANY, ...], Field(exclude_if=lambda filters: not filters)]
    Watch = Annotated[
        dict[Annotated[str, Field(min_length=1, max_length=40)], _ANY], Field(exclude_if=lambda watch: not watch)
    ]

__all__ = [
    "Classifier",
    "Filter",
    "Filters",
    "Length",
    "Pattern",
    "Python",
    "Rejected",
    "Watch",
    "Words",
    "sifted",
    "told",
    "write_rejected",
]

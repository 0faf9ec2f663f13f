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
else:
    Filters = Annotated[
        tuple[choice(Classifier, Length, Pattern, Python, Words), ...], Field(exclude_if=lambda filters: not filters)
    ]

__all__ = [
    "Classifier",
    "Filter",
    "Filters",
    "Length",
    "Pattern",
    "Python",
    "Rejected",
    "Words",
    "sifted",
    "told",
    "write_rejected",
]

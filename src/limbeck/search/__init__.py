"""Finding the settings of a recipe that do best on validation."""

from limbeck.search.seek import Found, search

__all__ = ["Found", "search"]

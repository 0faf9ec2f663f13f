"""What is delivered: a student in other formats, each proven to answer as the student does."""

from limbeck.export.card import Story
from limbeck.export.deliver import FORMATS, Exported, export

__all__ = ["FORMATS", "Exported", "Story", "export"]

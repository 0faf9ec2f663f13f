"""`Found`: data on disk as a recipe would name it."""

from dataclasses import dataclass
from typing import Any, Final, Literal

TRAIN: Final = ("train", "training")
PARTS: Final = {"validation": ("validation", "val", "valid"), "test": ("test",)}


@dataclass(frozen=True)
class Found:
    """``rows`` of the training part or of the whole, estimated where the file is long. ``side``: of the images looked at,
    the longest in pixels. ``own``: the parts that the data has already and that are not cut from ``rows``.
    ``unread``: of a table, the columns that the source leaves out; ``second``: the first of these that holds texts.
    ``latin``: whether most of its letters are Latin ones.
    """

    source: dict[str, Any]
    kind: Literal["images", "texts"]
    rows: int
    classes: int
    told: str
    side: int | None = None
    own: frozenset[str] = frozenset()
    unread: tuple[str, ...] = ()
    second: str | None = None
    latin: bool = True

"""A finished data set: rows, each with views."""

from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from torch import Tensor

from limbeck.data.reader import Reader

if TYPE_CHECKING:
    from limbeck.data.text import TextTable


@runtime_checkable
class Table(Protocol):
    """A finished data set: rows 0..len-1, each with any number of views; view 0 is the row as it is."""

    reader: Reader

    @property
    def texts(self) -> "TextTable | None":
        """What is known of the tokens of its texts; None: it holds none."""
        ...

    @property
    def fingerprint(self) -> str:
        """Names content, preprocessing and augmentation: if any byte of them changes, so does this."""
        ...

    def __len__(self) -> int: ...

    def read(self, ids: Tensor, views: Tensor) -> dict[str, Tensor]:
        """Input columns for rows ``ids`` seen under ``views``: the same pair always gives the same input."""
        ...

    def altered(self, ids: Tensor, views: Tensor) -> Tensor:
        """Which of these rows were written anew, so that their labels may not hold, bool [B]. No image ever is."""
        ...

    def raw(self, row: int) -> Any:
        """The row as the reader takes it: ``reader.encode([raw(row)])`` is what ``read`` gives under view 0.

        Plain values and tensors only: a text, an image (uint8 tensor [channels, height, width]), columns by name.
        """
        ...

    def show(self, row: int) -> Any:
        """The row for a person: a text, or an image array (uint8, [height, width] or [height, width, 3])."""
        ...

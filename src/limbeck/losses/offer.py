"""What a storage of logits offers, and what a divergence reads; nobody asks for kinds."""

from enum import IntEnum


class Offer(IntEnum):
    """How much of a distribution a storage gives; each level gives all that the lower ones do."""

    EXPECTATIONS = 1  # sampled classes: unbiased means under the teacher
    OUTCOMES = 2  # some classes exactly, the rest as one tail
    ROWS = 3  # every class, a block of rows at a time
    MATRIX = 4  # every class of every row at once

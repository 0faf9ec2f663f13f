"""How much memory something takes."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_SELF = Path("/proc/self")
GIGABYTE = 2**30


def _bytes(of: str) -> int:
    line = next(line for line in (_SELF / "status").read_text().splitlines() if line.startswith(of))
    return 1024 * int(line.split()[1])


@contextmanager
def at_most(most: int) -> Iterator[None]:
    """Fails where the process ever has ``most`` bytes more in memory than it began with; without a /proc it cannot."""
    reset = False
    with suppress(OSError):
        (_SELF / "clear_refs").write_text("5")  # the peak is counted from here
        reset = True
    before = _bytes("VmRSS") if reset else 0
    yield
    if reset:
        grown = _bytes("VmHWM") - before
        assert grown < most, f"{grown / 2**20:,.0f} MB were taken"

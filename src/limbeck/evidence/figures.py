"""Figures as the report, the card and the command line write them."""

from limbeck.data.measure import ACCURACY


def number(value: float, digits: int = 3) -> str:
    """A number with a fixed count of decimals and a true minus sign."""
    return f"{value:,.{digits}f}".replace("-", "\N{MINUS SIGN}")


def short(value: float) -> str:
    """Three figures or so, with thousands: ``0.42``, ``9.81``, ``1,240``, ``66.4 M``."""
    for unit_size, unit in ((1e9, "G"), (1e6, "M")):
        if value >= unit_size:
            return f"{value / unit_size:,.{1 if value >= 10 * unit_size else 2}f}\N{NO-BREAK SPACE}{unit}"
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.2f}" if value < 10 else f"{value:.1f}"


def percent(value: float) -> str:
    """A share: ``97.2 %``."""
    return ACCURACY.value(value)


def share(value: float | None) -> str | None:
    """`percent`, or None."""
    return None if value is None else percent(value)


def lasting(seconds: float) -> str:
    """A time: ``41.3 s``, ``2.5 min``."""
    return f"{seconds / 60:.1f}\N{NO-BREAK SPACE}min" if seconds >= 120 else f"{seconds:.1f}\N{NO-BREAK SPACE}s"


def size(count: int) -> str:
    """Bytes in decimal units."""
    for power, unit in ((9, "GB"), (6, "MB"), (3, "kB")):
        if count >= 10**power:
            return f"{count / 10**power:.3g}\N{NO-BREAK SPACE}{unit}"
    return f"{count}\N{NO-BREAK SPACE}B"


def compute(flops: float) -> str:
    """Floating-point operations: ``66.4 TFLOP``."""
    for power, unit in ((18, "E"), (15, "P"), (12, "T"), (9, "G"), (6, "M")):
        if flops >= 10**power:
            return f"{flops / 10**power:.3g}\N{NO-BREAK SPACE}{unit}FLOP"
    return f"{flops:,.0f}\N{NO-BREAK SPACE}FLOP"

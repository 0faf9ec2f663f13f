"""What the command line prints: paragraphs and tables, for a terminal and for a pipe."""

import os
import re
import shutil
import sys
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

_WIDEST: Final = 100  # longer lines are hard to read
_ENDLESS: Final = 10_000  # columns of a pipe


def console(error: bool = False) -> "Console":
    """Standard output, or standard error. Numbers and paths keep their colour: what is emphasised is chosen.

    Of several processes that run one command the first says what came out.
    """
    from rich.console import Console

    silent = not error and os.environ.get("RANK", "0") != "0"
    return Console(stderr=error, highlight=False, markup=False, emoji=False, quiet=silent)


def width() -> int:
    """Columns of a paragraph."""
    return max(20, min(shutil.get_terminal_size().columns, _WIDEST))


def clean(text: object) -> str:
    """Text that is safe to print: no control characters, and plain spaces."""
    spaced = str(text).replace("\N{NO-BREAK SPACE}", " ")
    return "".join(
        letter if letter.isprintable() or letter in "\n" else "\N{REPLACEMENT CHARACTER}" for letter in spaced
    )


def wrapped(text: str, less: int = 0) -> str:
    """One paragraph; words such as paths are never broken. ``less``: columns that it may not use."""
    # filled first: a number and its unit are joined by a space that is no place to break
    return clean(textwrap.fill(text, width() - less, break_long_words=False, break_on_hyphens=False))


def sentence(text: str) -> str:
    """The first one of a text, which may run over several lines."""
    return re.split(r"(?<=[.!?])\s+(?=[A-Z])", " ".join(text.split()))[0]


def say(text: str, style: str = "") -> None:
    """A paragraph on standard output."""
    console().print(wrapped(text), style=style, soft_wrap=True)


def note(text: str, label: str = "", style: str = "") -> None:
    """A paragraph on standard error, after a coloured label."""
    from rich.text import Text

    shown = Text(wrapped(f"{label}: {text}" if label else text))
    shown.stylize(style, 0, len(label) + 1 if label else None)
    console(error=True).print(shown, soft_wrap=True)


def table(columns: Sequence[str], rows: Sequence[Sequence[str | None]], right: Sequence[int] = ()) -> None:
    """A table on standard output; ``right``: columns of numbers. In a pipe it has no lines and no colours."""
    from rich import box
    from rich.table import Table

    terminal = console().is_terminal
    shown = Table(box=box.SIMPLE_HEAD if terminal else None, pad_edge=False, header_style="bold")
    for index, name in enumerate(columns):
        shown.add_column(clean(name), justify="right" if index in right else "left", overflow="fold")
    for row in rows:
        shown.add_row(*(clean(cell) if cell is not None else "–" for cell in row))
    _print(shown)


def pairs(rows: Sequence[tuple[str, str]], indent: int = 0) -> None:
    """Names and what they are, one a line, the long ones wrapped beside their name; paths are never broken."""
    from rich.text import Text

    here = console()
    column = indent + max((len(name) for name, _ in rows), default=0) + 2
    for name, value in rows:
        shown = textwrap.indent(wrapped(value, column), " " * column)[column:]
        label = f"{' ' * indent}{clean(name)}".ljust(column)
        here.print(Text.assemble((label, "cyan" if indent else "bold"), shown), soft_wrap=True)


def heading(name: str, text: str) -> None:
    """A name, and below it what it is."""
    console().print(clean(name), style="bold")
    console().print(textwrap.indent(wrapped(text, less=2), "  "), soft_wrap=True)


def _print(shown: "RenderableType") -> None:
    here = console()
    if here.is_terminal:
        here.print(shown)
        return
    here.width = _ENDLESS  # another program, or a person who copies a path, wants a row in one line
    with here.capture() as captured:  # without the spaces that fill a line up
        here.print(shown)
    raw("\n".join(line.rstrip() for line in captured.get().splitlines()))


def raw(text: str) -> None:
    """Text for another program, unchanged, on standard output."""
    sys.stdout.write(text if text.endswith("\n") else text + "\n")

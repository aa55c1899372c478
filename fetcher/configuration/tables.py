"""Rows of text set as a table, one line after the other, for a terminal or for a pipe.

Owns which columns fit, how wide each is, cutting, padding and colour. Foreign text is made
safe here and nowhere else on its way to a person. Streams: the first rows decide the
widths, so a million rows take no more memory than a hundred. Knows nothing of what the
columns mean, and writes nothing itself.
"""

from __future__ import annotations

import codecs
import os
from itertools import chain, islice
from typing import TYPE_CHECKING, TextIO

from fetcher.core.text import fit, isolate, printable, width
from fetcher.frozen import frozen

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

_GAP = "  "
_MEASURED_ROWS = 200  # enough to know the usual width, few enough to come at once
_COLOURS = {"good": "32", "bad": "31", "busy": "36", "odd": "33", "dim": "2", "bold": "1"}


@frozen
class Screen:
    """What a table is shown on; `columns` is None for a pipe or a file, where nothing is cut."""

    columns: int | None = None
    is_coloured: bool = False
    encoding: str = "utf-8"

    @classmethod
    def of(cls, stream: TextIO, environ: Mapping[str, str]) -> Screen:
        """Return what is behind that stream. Colour is the terminal's unless NO_COLOR is set."""
        encoding = codecs.lookup(getattr(stream, "encoding", None) or "utf-8").name
        try:
            if not stream.isatty():
                return cls(encoding=encoding)
            columns = os.get_terminal_size(stream.fileno()).columns or 80
        except (OSError, ValueError):  # no terminal after all
            return cls(encoding=encoding)
        is_coloured = not environ.get("NO_COLOR") and environ.get("TERM") != "dumb"
        return cls(columns, is_coloured, encoding)

    def paint(self, text: str, colour: str) -> str:
        """Return `text` in that colour where there are colours; "" is none."""
        if not colour or not self.is_coloured or not text:
            return text
        return f"\x1b[{_COLOURS[colour]}m{text}\x1b[0m"

    def safe(self, text: str) -> str:
        """Return foreign text as one line that can be shown here."""
        shown = printable(text)
        if self.encoding.startswith("utf") or shown.isascii():
            return shown
        return shown.encode(self.encoding, "replace").decode(self.encoding)

    def quote(self, text: str) -> str:
        """Return foreign text for a sentence: safe, and unable to move what stands beside it."""
        shown = self.safe(text)
        is_read_by_terminal = self.columns is not None and self.encoding.startswith("utf")
        return isolate(shown) if is_read_by_terminal else shown


@frozen
class Column:
    """One column.

    `least`: the width below which it says nothing. `most`: what it takes where there is room;
    it is given no more than its first rows need. `rank`: of two columns, the lower one is
    left out first where a terminal is narrow; None: never left out.
    """

    title: str
    least: int
    most: int
    rank: int | None = None
    is_right: bool = False


@frozen
class Cell:
    """What stands in one column of one row; `colour` is a word such as `good` or `bad`."""

    text: str
    colour: str = ""


def lines(
    columns: Sequence[Column], rows: Iterable[Sequence[Cell]], screen: Screen
) -> Iterator[str]:
    """Yield the table's lines, the titles first; nothing where there are no rows."""
    coming = iter(rows)
    first = list(islice(coming, _MEASURED_ROWS))
    if not first:
        return
    needs = [
        max(width(columns[n].title), *(width(screen.safe(row[n].text)) for row in first))
        for n in range(len(columns))
    ]
    widths = settle(columns, needs, screen.columns)
    yield _line(columns, widths, [Cell(one.title, "bold") for one in columns], screen)
    for row in chain(first, coming):
        yield _line(columns, widths, row, screen)


def settle(columns: Sequence[Column], needs: Sequence[int], room: int | None) -> list[int]:
    """Return the width of each column, 0 for one that is left out.

    `needs`: what each would take uncut. `room`: of the whole line; None: there is no edge.
    """
    wanted = [min(need, one.most) for one, need in zip(columns, needs, strict=True)]
    if room is None:
        return wanted
    least = [min(one.least, want) for one, want in zip(columns, wanted, strict=True)]
    kept = set(range(len(columns)))
    droppable = sorted((one.rank, n) for n, one in enumerate(columns) if one.rank is not None)
    for _, n in droppable:
        if _total(least, kept) <= room:
            break
        kept.discard(n)
    spare = room - _total(least, kept)
    widths = [least[n] if n in kept else 0 for n in range(len(columns))]
    for n in sorted(kept, key=lambda n: wanted[n] - least[n]):  # who asks for little gets all
        greedy = sum(1 for m in kept if wanted[m] > widths[m])
        if spare > 0 and greedy:
            given = min(wanted[n] - widths[n], spare // greedy)
            widths[n] += given
            spare -= given
    if spare < 0:  # narrower than the narrowest table: its last column gives way
        last = max(kept)
        widths[last] = max(1, widths[last] + spare)
    return widths


def _total(widths: Sequence[int], kept: set[int]) -> int:
    return sum(widths[n] for n in kept) + len(_GAP) * (len(kept) - 1)


def _line(
    columns: Sequence[Column], widths: Sequence[int], row: Sequence[Cell], screen: Screen
) -> str:
    last = max(n for n, wide in enumerate(widths) if wide)
    cells = []
    for n, (column, wide, cell) in enumerate(zip(columns, widths, row, strict=True)):
        if wide:
            text = screen.safe(cell.text)
            if screen.columns is not None:
                text = _cut(text, wide, screen)
            filled = " " * max(0, wide - width(text))
            shown = screen.paint(screen.quote(text), cell.colour)
            if column.is_right:
                cells.append(filled + shown)
            else:
                cells.append(shown if n == last else shown + filled)
    return _GAP.join(cells).rstrip()


def _cut(text: str, columns: int, screen: Screen) -> str:
    cut = fit(text, columns)
    return cut if screen.encoding.startswith("utf") else cut.replace("…", "~")

"""A folder as a tree of lines, as `tree` draws one: what a person has on disk now.

Owns the drawing and its bounds. Only looks: no link is followed and nothing is opened.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from fetcher.core.text import fit
from fetcher.frozen import frozen
from fetcher.report.units import human_bytes, human_count

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from fetcher.configuration.tables import Screen

_MOST_LINES = 60
_WIDEST_NAME = 60
_STATE_FOLDER = ".fetcher"


@frozen
class _Strokes:
    middle: str
    last: str
    through: str
    ellipsis: str


_LINES = _Strokes("├── ", "└── ", "│   ", "…")
_ASCII = _Strokes("|-- ", "`-- ", "|   ", "...")


def draw(root: Path, screen: Screen, *, most_lines: int = _MOST_LINES) -> Iterator[str]:
    """Yield the lines of the tree below `root`, sorted by name, without fetcher's own folder.

    Beyond `most_lines` the last line says how many more there are.
    """
    strokes = _LINES if screen.encoding.startswith("utf") else _ASCII
    shown = hidden = 0
    for line in _below(root, "", screen, strokes):
        if shown < most_lines:
            shown += 1
            yield line
        else:
            hidden += 1
    if hidden:
        yield f"{strokes.ellipsis} and {human_count(hidden)} more lines"


def _below(folder: Path, indent: str, screen: Screen, strokes: _Strokes) -> Iterator[str]:
    try:
        with os.scandir(folder) as found:
            entries = sorted((one for one in found if one.name != _STATE_FOLDER), key=_by_name)
    except OSError:  # gone meanwhile, or not ours to read
        return
    for number, entry in enumerate(entries, start=1):
        is_last = number == len(entries)
        is_folder = entry.is_dir(follow_symlinks=False)
        name = screen.quote(fit(screen.safe(entry.name), _WIDEST_NAME))
        note = "/" if is_folder else f"  {screen.paint(_size(entry), 'dim')}"
        yield f"{indent}{strokes.last if is_last else strokes.middle}{name}{note}".rstrip()
        if is_folder:
            deeper = "    " if is_last else strokes.through
            yield from _below(folder / entry.name, indent + deeper, screen, strokes)


def _by_name(entry: os.DirEntry[str]) -> str:
    return entry.name


def _size(entry: os.DirEntry[str]) -> str:
    try:
        return human_bytes(entry.stat(follow_symlinks=False).st_size)
    except OSError:
        return ""

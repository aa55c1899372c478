"""Who gets which path: first come, first served, and nobody gets another's. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

Wanted = tuple[int, "Sequence[tuple[str, str]]"]
"""A row of the manifest with the (path, key) pairs that its file may take, best first."""


def assign(
    wanted: Sequence[Wanted], owners: Mapping[str, int]
) -> tuple[list[str | None], list[tuple[str, str, int]]]:
    """Give each file, in order, the first of its candidates that is nobody else's.

    `owners`: the rows that these keys belong to so far. Returns the path of each file, None
    where every one belongs to another, and what has to be recorded for it: (path, key, row)
    where a row gets a path that it did not have. A row that gets one lets go of its old one.
    """
    now = dict(owners)
    held = {seq: key for key, seq in owners.items()}
    given: list[str | None] = []
    taken: list[tuple[str, str, int]] = []
    for seq, candidates in wanted:
        free = ((path, key) for path, key in candidates if now.get(key, seq) == seq)
        path, key = next(free, (None, ""))
        given.append(path)
        if path is not None and key not in now:
            now.pop(held.get(seq, ""), None)
            now[key], held[seq] = seq, key
            taken.append((path, key, seq))
    return given, taken

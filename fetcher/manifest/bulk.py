"""Statements that change many rows of `entry` at once.

SQLite lets go of Python's lock at every row of `executemany`, and waits for it again while
the event loop is busy: 0.3 ms a row where files are recorded, and twice the time of
everything else where a page of history is taken in.
"""

from __future__ import annotations

from functools import cache
from itertools import chain
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterator, Sequence

T = TypeVar("T")
Row = tuple[Any, ...]

_MOST_VALUES = 999  # that SQLite binds in its oldest builds


def insert(db: sqlite3.Connection, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Add rows, their values in the order of `columns`."""
    for some in portions(rows, _MOST_VALUES // len(columns)):
        db.execute(
            f"INSERT INTO entry ({', '.join(columns)}) VALUES {_slots(len(some), len(columns))}",
            list(chain.from_iterable(some)),
        )


def update_from(
    db: sqlite3.Connection, changes: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]
) -> None:
    """Change rows as `changes` says, from values that it calls `new.COLUMN`; one is `seq`."""
    for some in portions(rows, _MOST_VALUES // len(columns)):
        db.execute(
            f"UPDATE entry SET {changes} FROM {_new(columns, len(some))} WHERE entry.seq = new.seq",
            list(chain.from_iterable(some)),
        )


def select_where(
    db: sqlite3.Connection, wanted: str, where: str, columns: Sequence[str], rows: Sequence[Row]
) -> list[Row]:
    """Return `wanted` of the rows that `where` is true of, beside values as in `update_from`."""
    found: list[Row] = []
    for some in portions(rows, _MOST_VALUES // len(columns)):
        found += db.execute(
            f"SELECT {wanted} FROM entry, {_new(columns, len(some))} "
            f"WHERE entry.seq = new.seq AND {where}",
            list(chain.from_iterable(some)),
        )
    return found


def set_state(db: sqlite3.Connection, state: str, seqs: Sequence[int]) -> None:
    """Give rows a state."""
    for some in portions(seqs, _MOST_VALUES - 1):
        slots = ", ".join("?" * len(some))
        db.execute(f"UPDATE entry SET state = ? WHERE seq IN ({slots})", (state, *some))


def portions(rows: Sequence[T], most: int) -> Iterator[Sequence[T]]:
    """Yield the rows, at most so many at a time."""
    for start in range(0, len(rows), most):
        yield rows[start : start + most]


def _new(columns: Sequence[str], rows: int) -> str:
    names = ", ".join(f"column{n} AS {name}" for n, name in enumerate(columns, start=1))
    return f"(SELECT {names} FROM (VALUES {_slots(rows, len(columns))})) AS new"


@cache
def _slots(rows: int, columns: int) -> str:
    return ", ".join([f"({', '.join('?' * columns)})"] * rows)

"""Reading a manifest that somebody may begin to write at any moment.

A manifest without a write-ahead log beside it is opened as immutable, so that reading leaves
no trace; SQLite then reads without any lock. What it gives is therefore believed only if the
file has not changed meanwhile. Otherwise the manifest is opened again, beside its writer's
log and with locks, and the query goes on where it was.
"""

from __future__ import annotations

import contextlib
import sqlite3
from typing import TYPE_CHECKING, Any, TypeVar

from fetcher.core.filters import fits
from fetcher.errors import FetcherError
from fetcher.manifest import schema

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

T = TypeVar("T")
Row = tuple[Any, ...]

_ROWS_AT_ONCE = 500
_MOST_OPENINGS = 20  # of one manifest that changes whenever it is opened


class _ChangedError(Exception):
    """The file has changed since it was opened: what came last cannot be believed."""


class View:
    """A read-only connection that is renewed where it has to be.

    Raises sqlite3.Error, which the caller translates; ManifestError, StorageError on opening.
    `fits(text, glob)` can be used in queries.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._open()

    def close(self) -> None:
        """Close the connection."""
        self._db.close()

    def rows(self, sql: str, values: Sequence[Any] = ()) -> list[Row]:
        """Return all rows of a query."""
        return self.ask(lambda db: db.execute(sql, values).fetchall())

    def ask(self, question: Callable[[sqlite3.Connection], T]) -> T:
        """Return the answer that `question` finds; it may be asked more than once."""
        while True:
            try:
                return self._checked(lambda: question(self._db))
            except _ChangedError:
                self._reopen()

    def stream(
        self, sql: str, values: Sequence[Any], position: Callable[[Row], Any] | None = None
    ) -> Iterator[Row]:
        """Yield the rows of a query, a few in memory at a time.

        `position` gives what grows from row to row, by which the query goes on after the
        file has changed; without one, as many rows are passed over as came before.
        """
        given = 0
        last: Row | None = None
        while True:
            passed = 0
            after = position(last) if position is not None and last is not None else None
            try:
                for row in self._batches(sql, values):
                    passed += 1
                    if position is None and passed <= given:
                        continue
                    if position is not None and after is not None and position(row) <= after:
                        continue
                    given, last = given + 1, row
                    yield row
            except _ChangedError:
                self._reopen()
            else:
                return

    def _batches(self, sql: str, values: Sequence[Any]) -> Iterator[Row]:
        rows = self._checked(lambda: self._db.execute(sql, values))
        while some := self._checked(lambda: rows.fetchmany(_ROWS_AT_ONCE)):
            yield from some

    def _checked(self, call: Callable[[], T]) -> T:
        """Return what `call` returns; raises _ChangedError where that may be torn."""
        try:
            result = call()
        except (sqlite3.Error, FetcherError):
            if self._has_changed():
                raise _ChangedError from None
            raise
        if self._has_changed():
            raise _ChangedError
        return result

    def _has_changed(self) -> bool:
        return self._mark is not None and self._mark != _mark(self._path)

    def _open(self) -> None:
        for _ in range(_MOST_OPENINGS):
            self._mark = _mark(self._path)
            with contextlib.suppress(_ChangedError):
                self._db = self._checked(
                    lambda: _connect(self._path, is_quiet=self._mark is not None)
                )
                return
        self._mark = None
        self._db = _connect(self._path, is_quiet=False)

    def _reopen(self) -> None:
        self._db.close()
        self._open()


def _connect(path: Path, *, is_quiet: bool) -> sqlite3.Connection:
    is_there = schema.exists(path)
    db = schema.open_readonly(path, is_quiet=is_quiet) if is_there else schema.nothing()
    db.create_function("fits", 2, fits, deterministic=True)
    return db


def _mark(path: Path) -> tuple[int, int, int] | None:
    """Return what changes with a manifest that is read without locks.

    None for one that has a writer's log beside it, or that is not there.
    """
    try:
        if schema.has_log(path):
            return None
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns

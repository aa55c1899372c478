"""The one connection that writes the manifest: transactions, facts about the whole, records.

What `queue`, `files` and `store` build on.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from fetcher.manifest import schema

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterable, Iterator
    from pathlib import Path

# The original of a job needs its record as well as the clean file.
_DROP_RECORD = (
    "DELETE FROM record WHERE id = (SELECT id FROM entry WHERE seq = ?) AND NOT EXISTS "
    "(SELECT 1 FROM entry WHERE entry.id = record.id "
    "AND state IN ('waiting', 'queued', 'partial', 'failed'))"
)
PUT = "INSERT OR REPLACE INTO meta VALUES (?, ?)"


class Writing:
    """A manifest that is open for writing."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._db = schema.open_writable(path)
        try:
            with schema.translated(path):
                has_records = self._db.execute("SELECT EXISTS (SELECT 1 FROM record)").fetchone()
        except BaseException:
            self._db.close()  # so that nothing is left beside the file
            raise
        self._has_records = bool(has_records[0])  # without any, none is looked for

    def close(self) -> None:
        """Close the file; the write-ahead log is folded in."""
        with schema.translated(self.path):
            self._db.close()

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        db = self._db
        with schema.translated(self.path):
            db.execute("BEGIN IMMEDIATE")
            try:
                yield db
            except BaseException:
                if db.in_transaction:
                    db.execute("ROLLBACK")
                raise
            db.execute("COMMIT")

    def get(self, key: str) -> str | None:
        """Return a fact about the whole manifest."""
        with schema.translated(self.path):
            row = self._db.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
        return None if row is None else str(row[0])

    def put(self, facts: dict[str, str]) -> None:
        """Record facts about the whole manifest."""
        with self._transaction() as db:
            db.executemany(PUT, facts.items())

    def _drop_records(self, seqs: Iterable[int]) -> None:
        """Let go of the records of these rows' jobs where nothing of them is still to come."""
        if self._has_records:
            self._db.executemany(_DROP_RECORD, [(seq,) for seq in seqs])

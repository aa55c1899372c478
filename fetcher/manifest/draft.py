"""What a dry run has decided so far: as a manifest would hold it, and never kept.

A temporary database, which spills to disk: nothing in memory grows with the history.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Self

from fetcher.core.plan import Action
from fetcher.errors import StorageError
from fetcher.manifest import schema

if TYPE_CHECKING:
    from fetcher.models import JobId, Variant

_PLACE = Path("a temporary file")
_TABLES = """
    CREATE TABLE file (
        id TEXT, variant TEXT, action TEXT NOT NULL, PRIMARY KEY (id, variant)
    ) WITHOUT ROWID;
    CREATE TABLE claim (path_key TEXT PRIMARY KEY, id TEXT NOT NULL) WITHOUT ROWID;
"""
# A job counts by its clean file, but as failed where its original is; see `Account`.
_COUNTS = """
    SELECT action, count(*) FROM (
        SELECT iif(
            max(action = 'fail'), 'fail', max(iif(variant = 'denoised', action, NULL))
        ) AS action FROM file GROUP BY id
    ) WHERE action IS NOT NULL GROUP BY action
"""


class Draft:
    """The actions and the paths of one plan. Every method raises StorageError."""

    def __init__(self) -> None:
        with schema.translated(_PLACE):
            self._db = sqlite3.connect("", check_same_thread=False)
            self._db.executescript(_TABLES)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        with contextlib.suppress(StorageError), schema.translated(_PLACE):
            self._db.close()

    def has(self, job_id: JobId, variant: Variant) -> bool:
        """Return whether it is decided what is to be done with that file."""
        sql = "SELECT 1 FROM file WHERE id = ? AND variant = ?"
        with schema.translated(_PLACE):
            return self._db.execute(sql, (job_id, str(variant))).fetchone() is not None

    def note(self, job_id: JobId, variant: Variant, action: Action) -> None:
        """Keep what is to be done with a file; what was decided first stays."""
        with schema.translated(_PLACE):
            self._db.execute(
                "INSERT OR IGNORE INTO file VALUES (?, ?, ?)", (job_id, str(variant), str(action))
            )

    def counts(self) -> Counter[Action]:
        """Return how many jobs there are by what is to be done with them."""
        with schema.translated(_PLACE):
            rows = self._db.execute(_COUNTS).fetchall()
        return Counter({Action(action): jobs for action, jobs in rows})

    def claim(self, path_key: str, job_id: JobId) -> None:
        """Give a path to a job."""
        with schema.translated(_PLACE):
            self._db.execute("INSERT OR REPLACE INTO claim VALUES (?, ?)", (path_key, job_id))

    def owner(self, path_key: str) -> JobId | None:
        """Return the job that was given that path, None when nobody was."""
        sql = "SELECT id FROM claim WHERE path_key = ?"
        with schema.translated(_PLACE):
            row = self._db.execute(sql, (path_key,)).fetchone()
        return row[0] if row else None

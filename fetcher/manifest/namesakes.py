"""Files of jobs whose ids begin alike, so that their short ids are one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fetcher.core.names import SHORT_ID_CHARACTERS
from fetcher.manifest.rows import ENTRY_COLUMNS, to_entry

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterable

    from fetcher.models import Entry, JobId

LAST_CHARACTER = "\U0010ffff"


def namesakes(db: sqlite3.Connection, ids: Iterable[JobId]) -> list[Entry]:
    """Return the files that are not complete of all jobs whose ids begin like one of these."""
    sql = f"SELECT {ENTRY_COLUMNS} FROM entry WHERE id >= ? AND id < ? AND state <> 'complete'"
    beginnings = {job_id[:SHORT_ID_CHARACTERS] for job_id in ids}
    return [
        to_entry(row)
        for beginning in sorted(beginnings)
        for row in db.execute(sql, (beginning, beginning + LAST_CHARACTER))
    ]

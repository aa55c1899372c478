"""The manifest as `list`, `status`, `export` and a dry run read it, at any time.

Never writes, takes no lock, and streams: a million rows pass through in constant memory.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any, Self

from fetcher.errors import StorageError
from fetcher.manifest import schema
from fetcher.manifest.rows import ENTRY_COLUMNS, to_entry, to_us
from fetcher.models import State, Variant

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from datetime import datetime
    from pathlib import Path

    from fetcher.models import Entry, JobId
    from fetcher.plan import Known

_ROWS_AT_ONCE = 500
_LAST_CHARACTER = "\U0010ffff"


@dataclass(frozen=True, slots=True)
class Selection:
    """Which rows to read; the defaults select every file of every job.

    `since` and `until` are inclusive, of `created_at`, aware UTC; `match`: any of
    these globs fits `file_name`.
    """

    states: tuple[State, ...] = ()
    since: datetime | None = None
    until: datetime | None = None
    variant: Variant | None = None
    match: tuple[str, ...] = ()

    def where(self) -> tuple[str, list[Any]]:
        """Return the SQL condition and its values."""
        parts: list[str] = ["1"]
        values: list[Any] = []
        if self.states:
            parts.append(f"state IN ({', '.join('?' * len(self.states))})")
            values += [str(state) for state in self.states]
        if self.since is not None:
            parts.append("created_us >= ?")
            values.append(to_us(self.since))
        if self.until is not None:
            parts.append("created_us <= ?")
            values.append(to_us(self.until))
        if self.variant is not None:
            parts.append("variant = ?")
            values.append(str(self.variant))
        if self.match:
            parts.append(f"({' OR '.join(['fits(file_name, ?)'] * len(self.match))})")
            values += self.match
        return " AND ".join(parts), values


@dataclass(frozen=True, slots=True)
class StateTally:
    """How many files of one variant are in one state, and the bytes of those stored."""

    variant: Variant
    state: State
    files: int
    bytes_stored: int


@dataclass(frozen=True, slots=True)
class Rejected:
    """A job that the service failed; how many share its reason, and their audio in seconds."""

    entry: Entry
    sharing_jobs: int
    sharing_s: float


class Reader:
    """A read-only view. Every method raises ManifestError or StorageError."""

    def __init__(self, path: Path) -> None:
        """Open the manifest at `path`; without one, everything is empty."""
        self.path = path
        self._db = schema.open_readonly(path) if schema.exists(path) else schema.nothing()
        with schema.translated(path):
            self._db.execute("CREATE TEMP TABLE seen (id TEXT PRIMARY KEY) WITHOUT ROWID")
            self._db.create_function("fits", 2, fnmatchcase, deterministic=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        with contextlib.suppress(StorageError), schema.translated(self.path):
            self._db.close()

    def get(self, key: str) -> str | None:
        """Return a fact about the whole manifest."""
        with schema.translated(self.path):
            row = self._db.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
        return None if row is None else str(row[0])

    def entries(self, selection: Selection | None = None) -> Iterator[Entry]:
        """Yield rows, newest job first, its denoised file before the original."""
        where, values = (selection or Selection()).where()
        with schema.translated(self.path):
            rows = self._db.execute(
                f"SELECT {ENTRY_COLUMNS} FROM entry WHERE {where} "
                "ORDER BY created_us DESC, id, variant",
                values,
            )
            while some := rows.fetchmany(_ROWS_AT_ONCE):
                yield from map(to_entry, some)

    def rejected(self, selection: Selection) -> Iterator[Rejected]:
        """Yield the jobs that the service failed, the commonest reason first, then the newest."""
        where, values = replace(
            selection, states=(State.REJECTED,), variant=Variant.DENOISED
        ).where()
        with schema.translated(self.path):
            rows = self._db.execute(
                f"SELECT count(*) OVER alike AS jobs, total(audio_duration_s) OVER alike, "
                f"{ENTRY_COLUMNS} FROM entry WHERE {where} WINDOW alike AS (PARTITION BY error) "
                "ORDER BY jobs DESC, error, created_us DESC, id",
                values,
            )
            for jobs, seconds, *row in rows:
                yield Rejected(to_entry(row), jobs, seconds)

    def stored(self, after: tuple[str, str], limit: int) -> list[Entry]:
        """Return files that were complete once, by id and variant, the next ones after `after`.

        Also those that are to be fetched again: their digest is what tells them.
        """
        with schema.translated(self.path):
            rows = self._db.execute(
                f"SELECT {ENTRY_COLUMNS} FROM entry WHERE (id, variant) > (?, ?) "
                "AND sha256 IS NOT NULL AND path IS NOT NULL ORDER BY id, variant LIMIT ?",
                (*after, limit),
            ).fetchall()
        return [to_entry(row) for row in rows]

    def reasons(self, limit: int) -> list[tuple[str, int]]:
        """Return why files were given up, and how many for that reason, the commonest first."""
        with schema.translated(self.path):
            rows = self._db.execute(
                "SELECT coalesce(last_error, ''), count(*) AS files FROM entry "
                "WHERE state = 'failed' GROUP BY 1 ORDER BY files DESC, 1 LIMIT ?",
                (limit,),
            ).fetchall()
        return [(reason, files) for reason, files in rows]

    def ids_from(self, beginning: str, limit: int) -> list[JobId]:
        """Return known ids that begin so, at most `limit` of them."""
        with schema.translated(self.path):
            rows = self._db.execute(
                "SELECT DISTINCT id FROM entry WHERE id >= ? AND id < ? ORDER BY id LIMIT ?",
                (beginning, beginning + _LAST_CHARACTER, limit),
            ).fetchall()
        return [job_id for (job_id,) in rows]

    def tallies(self) -> list[StateTally]:
        """Return counts and bytes by variant and state, from an index alone."""
        with schema.translated(self.path):
            rows = self._db.execute(
                "SELECT variant, state, count(*), coalesce(sum(bytes_stored), 0) FROM entry "
                "GROUP BY state, variant"
            ).fetchall()
        return [StateTally(Variant(v), State(s), files, size) for v, s, files, size in rows]

    def look_up(self, ids: Sequence[JobId]) -> dict[JobId, Known]:
        """Return what is known of these jobs' denoised files."""
        with schema.translated(self.path):
            return schema.known(self._db, list(ids), Variant.DENOISED)

    def owner(self, path_key: str) -> JobId | None:
        """Return the job whose file has that path, None when nobody's has."""
        with schema.translated(self.path):
            row = self._db.execute(
                "SELECT id FROM entry WHERE path_key = ?", (path_key,)
            ).fetchone()
        return None if row is None else row[0]

    def is_empty(self) -> bool:
        """Return whether no job is known."""
        with schema.translated(self.path):
            return self._db.execute("SELECT 1 FROM entry LIMIT 1").fetchone() is None

    def first_seen(self, job_id: JobId) -> bool:
        """Return whether this reader is asked about the job for the first time.

        Kept in a temporary table, which spills to disk: nothing grows with the history.
        """
        with schema.translated(self.path):
            done = self._db.execute("INSERT OR IGNORE INTO temp.seen VALUES (?)", (job_id,))
        return done.rowcount == 1

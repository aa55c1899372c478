"""The manifest as `list`, `status`, `export` and a dry run read it, at any time.

Never writes, and streams: a million rows pass through in constant memory.
"""

from __future__ import annotations

import contextlib
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Self

from fetcher.errors import StorageError
from fetcher.frozen import frozen
from fetcher.manifest import schema
from fetcher.manifest.namesakes import LAST_CHARACTER, namesakes
from fetcher.manifest.rows import (
    ENTRY_COLUMNS,
    place_in_list,
    to_entry,
    to_state,
    to_us,
    to_variant,
)
from fetcher.manifest.view import View
from fetcher.models import State, Variant

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from datetime import datetime
    from pathlib import Path

    from fetcher.core.plan import Known
    from fetcher.models import Entry, JobId


@frozen
class Selection:
    """Which rows to read; the defaults select every file of every job.

    `since` and `until` are inclusive, of `created_at`, aware UTC; a job without one is selected
    whatever they are, as by the filters of a run. `match`: any of these globs fits `file_name`.
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
            parts.append("(created_us IS NULL OR created_us >= ?)")
            values.append(to_us(self.since))
        if self.until is not None:
            parts.append("(created_us IS NULL OR created_us <= ?)")
            values.append(to_us(self.until))
        if self.variant is not None:
            parts.append("variant = ?")
            values.append(str(self.variant))
        if self.match:
            parts.append(f"({' OR '.join(['fits(file_name, ?)'] * len(self.match))})")
            values += self.match
        return " AND ".join(parts), values


@frozen
class StateTally:
    """How many files of one variant are in one state, and the bytes of those stored."""

    variant: Variant
    state: State
    files: int
    bytes_stored: int


@frozen
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
        with schema.translated(path):
            self._view = View(path)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        with contextlib.suppress(StorageError), schema.translated(self.path):
            self._view.close()

    def get(self, key: str) -> str | None:
        """Return a fact about the whole manifest."""
        with schema.translated(self.path):
            rows = self._view.rows("SELECT value FROM meta WHERE key = ?", (key,))
        return str(rows[0][0]) if rows else None

    def entries(self, selection: Selection | None = None) -> Iterator[Entry]:
        """Yield rows, newest job first, its denoised file before the original."""
        where, values = (selection or Selection()).where()
        with schema.translated(self.path):
            rows = self._view.stream(
                f"SELECT {ENTRY_COLUMNS} FROM entry WHERE {where} "
                "ORDER BY created_us DESC, id, variant",
                values,
                place_in_list,
            )
            yield from map(to_entry, rows)

    def rejected(self, selection: Selection) -> Iterator[Rejected]:
        """Yield the jobs that the service failed, the commonest reason first, then the newest."""
        where, values = replace(
            selection, states=(State.REJECTED,), variant=Variant.DENOISED
        ).where()
        with schema.translated(self.path):
            rows = self._view.stream(
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
            rows = self._view.rows(
                f"SELECT {ENTRY_COLUMNS} FROM entry WHERE (id, variant) > (?, ?) "
                "AND sha256 IS NOT NULL AND path IS NOT NULL ORDER BY id, variant LIMIT ?",
                (*after, limit),
            )
            return [to_entry(row) for row in rows]

    def reasons(self, limit: int) -> list[tuple[str, int]]:
        """Return why files were given up, and how many for that reason, the commonest first."""
        with schema.translated(self.path):
            rows = self._view.rows(
                "SELECT coalesce(last_error, ''), count(*) AS files FROM entry "
                "WHERE state = 'failed' GROUP BY 1 ORDER BY files DESC, 1 LIMIT ?",
                (limit,),
            )
        return [(reason, files) for reason, files in rows]

    def ids_from(self, beginning: str, limit: int) -> list[JobId]:
        """Return known ids that begin so, at most `limit` of them."""
        with schema.translated(self.path):
            rows = self._view.rows(
                "SELECT DISTINCT id FROM entry WHERE id >= ? AND id < ? ORDER BY id LIMIT ?",
                (beginning, beginning + LAST_CHARACTER, limit),
            )
        return [job_id for (job_id,) in rows]

    def tallies(self) -> list[StateTally]:
        """Return counts and bytes by variant and state, from an index alone."""
        with schema.translated(self.path):
            rows = self._view.rows(
                "SELECT variant, state, count(*), coalesce(sum(bytes_stored), 0) FROM entry "
                "GROUP BY state, variant"
            )
            return [StateTally(to_variant(v), to_state(s), n, size) for v, s, n, size in rows]

    def look_up(
        self, ids: Sequence[JobId], variant: Variant = Variant.DENOISED
    ) -> dict[JobId, Known]:
        """Return what is known of one file of each of these jobs."""
        with schema.translated(self.path):
            return self._view.ask(lambda db: schema.known(db, list(ids), variant))

    def entry(self, job_id: JobId, variant: Variant) -> Entry | None:
        """Return the row of one file, None when it is not known."""
        with schema.translated(self.path):
            rows = self._view.rows(
                f"SELECT {ENTRY_COLUMNS} FROM entry WHERE id = ? AND variant = ?",
                (job_id, str(variant)),
            )
            return to_entry(rows[0]) if rows else None

    def left(self, after: tuple[int, int], limit: int) -> list[tuple[int, Entry]]:
        """Return what is to be fetched as (ticket, row), the next ones after (ticket, seq).

        What was given up for good has a ticket below 0 (`Files.fail`).
        """
        with schema.translated(self.path):
            rows = self._view.rows(
                f"SELECT ticket, {ENTRY_COLUMNS} FROM {schema.TODO} "
                "AND (ticket, seq) > (?, ?) ORDER BY ticket, seq LIMIT ?",
                (*after, limit),
            )
            return [(row[0], to_entry(row[1:])) for row in rows]

    def owner(self, path_key: str) -> JobId | None:
        """Return the job whose file has that path, None when nobody's has."""
        with schema.translated(self.path):
            rows = self._view.rows("SELECT id FROM entry WHERE path_key = ?", (path_key,))
        return rows[0][0] if rows else None

    def namesakes(self, job_id: JobId) -> list[Entry]:
        """Return the files that are not complete of jobs whose ids begin like that one."""
        with schema.translated(self.path):
            return self._view.ask(lambda db: namesakes(db, [job_id]))

    def is_empty(self) -> bool:
        """Return whether no job is known."""
        with schema.translated(self.path):
            return not self._view.rows("SELECT 1 FROM entry LIMIT 1")

"""What a run reads from and writes to the manifest: short transactions, one thread.

Synchronous: `manifest.Manifest` calls it from its one thread. Here is what is listed, a page
of history in one transaction; `queue` and `files` are the rest of it.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING

from fetcher.core.plan import TODO, Known
from fetcher.manifest import bulk, schema
from fetcher.manifest.files import Files
from fetcher.manifest.listing import Absorbed, Intake, Listed, PageChanges, Restamp, distinct
from fetcher.manifest.queue import Queue
from fetcher.manifest.rows import (
    ENTRY_COLUMNS,
    JOB_COLUMNS,
    from_us,
    to_entry,
    to_job,
    to_us,
)
from fetcher.manifest.writing import PUT
from fetcher.models import JobId, State, Status, Variant

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterable, Mapping, Sequence
    from datetime import datetime
    from pathlib import Path

    from fetcher.models import Job

_JOB_SLOTS = ", ".join("?" * (JOB_COLUMNS.count(",") + 1))
_INSERTED = (*JOB_COLUMNS.split(", "), "variant", "state", "ticket", "seq")
_KEEP_RECORD = (
    "INSERT INTO record VALUES (?, ?) "
    "ON CONFLICT (id) DO UPDATE SET body = excluded.body WHERE body <> excluded.body"
)
_UPDATE = f"UPDATE entry SET ({JOB_COLUMNS}) = ({_JOB_SLOTS}), state = ?, ticket = ? WHERE seq = ?"


_NO_RECORDS: Mapping[JobId, bytes] = MappingProxyType({})


class Store(Queue, Files):
    """The writing side. Every method raises ManifestError or StorageError."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        try:
            with schema.translated(path):
                top = self._db.execute("SELECT max(seq) FROM entry").fetchone()[0]
        except BaseException:
            self._db.close()
            raise
        self._last_seq = top or 0

    # ---- the listing ----

    def absorb(
        self,
        jobs: Sequence[Job],
        intake: Intake,
        facts_if_new: dict[str, str],
        records: Mapping[JobId, bytes] = _NO_RECORDS,
    ) -> Absorbed:
        """Record one page of history in one transaction.

        `facts_if_new` goes to `meta` along with jobs that were not known. Unchanged jobs
        cost a look-up and no write. A job that stands twice in the page counts once: the
        one that is further along wins. `records`: the page's as they were sent, which are
        kept until the files of their jobs are complete.
        """
        unique = distinct(jobs)
        known = self._known(unique, Variant.DENOISED)
        page = PageChanges(intake, self._last_seq, self.sync_tickets())
        for job in unique.values():
            page.add(job, known.get(job.id))
        if intake.originals:
            for job_id, found in self._known(unique, Variant.ORIGINAL).items():
                page.known_originals[job_id] = found
            page.add_originals()
        restamped: list[Restamp | None] = []
        kept = {one: records[one] for one in page.to_come() if one in records} if records else {}
        if page.inserts or page.updates or page.newer or kept:
            with self._transaction() as db:
                bulk.insert(db, _INSERTED, page.inserts)
                db.executemany(_UPDATE, page.updates)
                if page.inserts:
                    db.executemany(PUT, facts_if_new.items())
                restamped = [_restamp(db, known, at) for known, at in page.newer]
                if self._has_records:
                    self._drop_records(page.dropped())
                if kept:
                    db.executemany(_KEEP_RECORD, kept.items())
                    self._has_records = True
        self._last_seq, self.last_ticket = page.last_seq, page.last_ticket
        return Absorbed(page.listed, page.queued, [one for one in restamped if one])

    def _known(self, ids: Iterable[JobId], variant: Variant) -> dict[JobId, Known]:
        with schema.translated(self.path):
            return schema.known(self._db, list(ids), variant)

    def look_up(self, ids: Sequence[JobId]) -> dict[JobId, Known]:
        """Return what is known of these jobs' denoised files."""
        return self._known(ids, Variant.DENOISED)

    def records(self, ids: Sequence[JobId]) -> dict[JobId, bytes]:
        """Return the records of these jobs as they were sent, those that are not kept left out."""
        if not self._has_records:
            return {}
        sql = "SELECT id, body FROM record WHERE id = ?"
        with schema.translated(self.path):
            rows = [self._db.execute(sql, (one,)).fetchone() for one in set(ids)]
        return {JobId(row[0]): bytes(row[1]) for row in rows if row is not None}

    def announce_done(self, job_id: JobId, url: str, intake: Intake) -> Listed | None:
        """Queue a job that an event stream called done with a link, whatever the list says.

        Its status stays the list's: should the file not be there yet, the job is still
        pending. None when there is nothing to queue: unknown, complete, queued already, or
        left out by a filter.
        """
        with schema.translated(self.path):
            row = self._db.execute(
                f"SELECT {ENTRY_COLUMNS} FROM entry WHERE id = ? AND variant = 'denoised'",
                (job_id,),
            ).fetchone()
            entry = None if row is None else to_entry(row)
        if entry is None or entry.state is State.COMPLETE or entry.state in TODO:
            return None
        done = entry.job._replace(status=Status.SUCCESS, audio_url=url, error=None)
        absorbed = self.absorb([done], intake, {})
        queued = next((one for one in absorbed.listed if one.after in TODO), None)
        if queued is not None:
            with self._transaction() as db:
                db.execute(
                    "UPDATE entry SET status = ?, error = ? WHERE id = ? AND state <> 'complete'",
                    (str(entry.job.status), entry.job.error, job_id),
                )
        return queued

    # ---- what a poll needs to know ----

    def waiting(self) -> list[Job]:
        """Return the jobs that the service has not finished, oldest first."""
        with schema.translated(self.path):
            rows = self._db.execute(
                f"SELECT {JOB_COLUMNS} FROM entry WHERE state = 'waiting' "
                "AND variant = 'denoised' ORDER BY created_us"
            ).fetchall()
            return [to_job(row) for row in rows]

    def count_newer(self, created_at: datetime) -> int:
        """Return how many known jobs were created after that instant."""
        with schema.translated(self.path):
            row = self._db.execute(
                "SELECT count(*) FROM entry WHERE created_us > ? AND variant = 'denoised'",
                (to_us(created_at),),
            ).fetchone()
        return int(row[0])

    def is_empty(self) -> bool:
        """Return whether no job is known."""
        with schema.translated(self.path):
            return self._db.execute("SELECT 1 FROM entry LIMIT 1").fetchone() is None

    def count(self, state: State | None = None) -> int:
        """Return how many jobs are known, or how many of them are in that state."""
        sql = "SELECT count(*) FROM entry WHERE variant = 'denoised'"
        with schema.translated(self.path):
            if state is None:
                return int(self._db.execute(sql).fetchone()[0])
            return int(self._db.execute(f"{sql} AND state = ?", (str(state),)).fetchone()[0])


def _restamp(db: sqlite3.Connection, known: Known, updated_at: datetime) -> Restamp | None:
    row = db.execute(
        "UPDATE entry SET updated_us = ? WHERE seq = ? RETURNING path, created_us",
        (to_us(updated_at), known.seq),
    ).fetchone()
    if row is None or row[0] is None:
        return None
    path, created_us = row
    before = created_us if known.updated_us is None else known.updated_us
    return Restamp(path, from_us(before), updated_at)

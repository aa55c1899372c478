"""The queue of files to be fetched, which is the manifest itself.

A file that is to be fetched gets a ticket, and `take` hands out tickets in order, so a crash
loses nothing that was queued.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from fetcher.manifest import schema
from fetcher.manifest.namesakes import namesakes
from fetcher.manifest.rows import ENTRY_COLUMNS, to_entry
from fetcher.manifest.writing import Writing
from fetcher.models import Status, Variant

if TYPE_CHECKING:
    from collections.abc import Container, Iterable, Sequence
    from pathlib import Path

    from fetcher.models import Entry, Job, JobId


class Queue(Writing):
    """The part of the store that knows what is to be fetched, and in which order."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.last_ticket = 0
        try:
            self.sync_tickets()
        except BaseException:
            self._db.close()
            raise

    def take(self, after_ticket: int, limit: int) -> list[tuple[int, Entry]]:
        """Return the next files to be fetched as (ticket, entry), in the order of tickets.

        Those that failed since they got their ticket are left alone. Their jobs are
        finished, also those that are still listed as pending.
        """
        with schema.translated(self.path):
            rows = self._db.execute(
                f"SELECT ticket, {ENTRY_COLUMNS} FROM {schema.TODO} AND ticket > ? "
                "AND state <> 'failed' ORDER BY ticket LIMIT ?",
                (after_ticket, limit),
            ).fetchall()
            return [(row[0], _finished(to_entry(row[1:]))) for row in rows]

    def requeue(self, run_base: int, *, originals: bool) -> list[tuple[int, int]]:
        """Give a ticket to whatever earlier runs left to be fetched, but what is over for good.

        `originals` only where they are wanted now. Returns each as (row, row of the clean
        file of its job).
        """
        with self._transaction() as db:
            rows: list[tuple[int, int]] = db.execute(
                "SELECT seq, (SELECT clean.seq FROM entry AS clean "
                "WHERE clean.id = entry.id AND clean.variant = 'denoised') "
                f"FROM {schema.TODO} AND ticket BETWEEN 0 AND ? AND (? OR variant = 'denoised') "
                "ORDER BY ticket",
                (run_base, originals),
            ).fetchall()
            newest = self.sync_tickets()
            db.executemany(
                "UPDATE entry SET state = iif(state = 'failed', 'queued', state), ticket = ? "
                "WHERE seq = ?",
                [(newest + n, seq) for n, (seq, _) in enumerate(rows, start=1)],
            )
        self.last_ticket = newest + len(rows)
        return rows

    def sync_tickets(self) -> int:
        """Return the newest ticket, other processes' (`retry`) included."""
        with schema.translated(self.path):
            newest = self._db.execute(f"SELECT max(ticket) FROM {schema.TODO}").fetchone()[0]
        self.last_ticket = max(self.last_ticket, newest or 0)
        return self.last_ticket

    def retry(self, ids: Container[JobId] | None) -> list[JobId]:
        """Make failed files eligible at once; all of them without `ids`. Return their jobs."""
        with self._transaction() as db:
            rows = db.execute(
                "SELECT seq, id FROM entry WHERE state = 'failed' ORDER BY ticket"
            ).fetchall()
            chosen = [row for row in rows if ids is None or row[1] in ids]
            newest = db.execute("SELECT coalesce(max(ticket), 0) FROM entry").fetchone()[0]
            db.executemany(
                "UPDATE entry SET state = 'queued', attempts = 0, ticket = ? WHERE seq = ?",
                [(newest + n, seq) for n, (seq, _) in enumerate(chosen, start=1)],
            )
        return [job_id for _, job_id in chosen]

    def reopen(self, jobs: Sequence[Job], seqs: Container[int]) -> list[int]:
        """Queue files of these jobs that were complete once, to be fetched again; return them.

        Only rows that are among `seqs`, with the link that the job brings. Path, digest and
        length stay: they tell that what stands at the path was ours and may be replaced.
        """
        reopened: list[tuple[str | None, str | None, int, int]] = []
        ids = [job.id for job in jobs]
        with self._transaction() as db:
            ticket = db.execute("SELECT coalesce(max(ticket), 0) FROM entry").fetchone()[0]
            for variant in Variant:
                known = schema.known(db, ids, variant)
                for job in jobs:
                    found = known.get(job.id)
                    usable = job.status is Status.SUCCESS and job.url(variant) is not None
                    if found is not None and found.seq in seqs and usable:
                        ticket += 1
                        urls = (job.audio_url, job.original_audio_url)
                        reopened.append((*urls, ticket, found.seq))
            db.executemany(
                "UPDATE entry SET state = 'queued', attempts = 0, last_error = NULL, "
                "audio_url = ?, original_audio_url = ?, ticket = ? WHERE seq = ?",
                reopened,
            )
        self.last_ticket = max(self.last_ticket, ticket)
        return [row[-1] for row in reopened]

    def pick(self, seqs: Sequence[int]) -> list[Entry]:
        """Return these rows, as far as they exist."""
        with schema.translated(self.path):
            rows = [
                self._db.execute(
                    f"SELECT {ENTRY_COLUMNS} FROM entry WHERE seq = ?", (seq,)
                ).fetchone()
                for seq in seqs
            ]
            return [to_entry(row) for row in rows if row is not None]

    def namesakes(self, ids: Iterable[JobId]) -> list[Entry]:
        """Return the files that are not complete of jobs whose ids begin like one of these."""
        with schema.translated(self.path):
            return namesakes(self._db, ids)

    def unfinished(self) -> set[int]:
        """Return the rows that are still to be fetched."""
        with schema.translated(self.path):
            rows = self._db.execute(f"SELECT seq FROM {schema.TODO}").fetchall()
        return {seq for (seq,) in rows}


def _finished(entry: Entry) -> Entry:
    if entry.job.status is Status.SUCCESS:
        return entry
    return entry._replace(job=entry.job._replace(status=Status.SUCCESS, error=None))

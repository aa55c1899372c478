"""What a run reads from and writes to the manifest: short transactions, one thread.

Synchronous: `manifest.Manifest` calls it from its one thread. A page of history is one
transaction. The queue is the manifest itself: a file that is to be fetched gets a ticket,
and `take` hands out tickets in order, so a crash loses nothing that was queued.
"""

from __future__ import annotations

import contextlib
from types import MappingProxyType
from typing import TYPE_CHECKING

from fetcher.core.plan import TODO, Known
from fetcher.frozen import frozen
from fetcher.manifest import bulk, schema
from fetcher.manifest.claims import assign
from fetcher.manifest.listing import Absorbed, Intake, Listed, PageChanges, Restamp, distinct
from fetcher.manifest.rows import (
    ENTRY_COLUMNS,
    JOB_COLUMNS,
    from_us,
    to_entry,
    to_job,
    to_us,
)
from fetcher.models import JobId, State, Status, Variant

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
    from datetime import datetime
    from pathlib import Path

    from fetcher.models import Entry, Job

# Left to itself, SQLite reads all rows of those states instead and sorts them.
_TODO = "entry INDEXED BY entry_todo WHERE state IN ('queued', 'partial', 'failed')"
_JOB_SLOTS = ", ".join("?" * (JOB_COLUMNS.count(",") + 1))
_INSERTED = (*JOB_COLUMNS.split(", "), "variant", "state", "ticket", "seq")
_KEEP_RECORD = (
    "INSERT INTO record VALUES (?, ?) "
    "ON CONFLICT (id) DO UPDATE SET body = excluded.body WHERE body <> excluded.body"
)
# The original of a job needs its record as well as the clean file.
_DROP_RECORD = (
    "DELETE FROM record WHERE id = (SELECT id FROM entry WHERE seq = ?) AND NOT EXISTS "
    "(SELECT 1 FROM entry WHERE entry.id = record.id "
    "AND state IN ('waiting', 'queued', 'partial', 'failed'))"
)
_PUT = "INSERT OR REPLACE INTO meta VALUES (?, ?)"
_UPDATE = f"UPDATE entry SET ({JOB_COLUMNS}) = ({_JOB_SLOTS}), state = ?, ticket = ? WHERE seq = ?"


_NO_RECORDS: Mapping[JobId, bytes] = MappingProxyType({})


@frozen
class Stored:
    """A file that is in place and durable, to be recorded as complete."""

    seq: int
    path: str
    path_key: str
    bytes_stored: int
    sha256: str
    completed_at: datetime


class Store:
    """The writing side. Every method raises ManifestError or StorageError."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._db = schema.open_writable(path)
        self._last_seq = self.last_ticket = 0
        try:
            with schema.translated(path):
                top = self._db.execute("SELECT max(seq) FROM entry").fetchone()[0]
                has_records = self._db.execute("SELECT EXISTS (SELECT 1 FROM record)").fetchone()
            self._has_records = bool(has_records[0])  # without any, none is looked for
            self._last_seq = top or 0
            self.sync_tickets()
        except BaseException:
            self._db.close()  # so that nothing is left beside the file
            raise

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

    # ---- meta ----

    def get(self, key: str) -> str | None:
        """Return a fact about the whole manifest."""
        with schema.translated(self.path):
            row = self._db.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
        return None if row is None else str(row[0])

    def put(self, facts: dict[str, str]) -> None:
        """Record facts about the whole manifest."""
        with self._transaction() as db:
            db.executemany(_PUT, facts.items())

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
                    db.executemany(_PUT, facts_if_new.items())
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

    def _drop_records(self, seqs: Iterable[int]) -> None:
        """Let go of the records of these rows' jobs where nothing of them is still to come."""
        if self._has_records:
            self._db.executemany(_DROP_RECORD, [(seq,) for seq in seqs])

    # ---- the queue ----

    def take(self, after_ticket: int, limit: int) -> list[tuple[int, Entry]]:
        """Return the next files to be fetched as (ticket, entry), in the order of tickets.

        Those that failed since they got their ticket are left alone.
        """
        with schema.translated(self.path):
            rows = self._db.execute(
                f"SELECT ticket, {ENTRY_COLUMNS} FROM {_TODO} AND ticket > ? "
                "AND state <> 'failed' ORDER BY ticket LIMIT ?",
                (after_ticket, limit),
            ).fetchall()
            return [(row[0], to_entry(row[1:])) for row in rows]

    def requeue(self, run_base: int) -> int:
        """Give a ticket to whatever earlier runs left to be fetched; return how many."""
        with self._transaction() as db:
            rows = db.execute(
                f"SELECT seq FROM {_TODO} AND ticket <= ? ORDER BY ticket",
                (run_base,),
            ).fetchall()
            newest = self.sync_tickets()
            db.executemany(
                "UPDATE entry SET state = iif(state = 'failed', 'queued', state), ticket = ? "
                "WHERE seq = ?",
                [(newest + n, seq) for n, (seq,) in enumerate(rows, start=1)],
            )
        self.last_ticket = newest + len(rows)
        return len(rows)

    def sync_tickets(self) -> int:
        """Return the newest ticket, other processes' (`retry`) included."""
        with schema.translated(self.path):
            newest = self._db.execute(f"SELECT max(ticket) FROM {_TODO}").fetchone()[0]
        self.last_ticket = max(self.last_ticket, newest or 0)
        return self.last_ticket

    def retry(self, ids: Sequence[JobId] | None) -> list[JobId]:
        """Make failed files eligible at once; all of them without `ids`. Return their jobs."""
        with self._transaction() as db:
            rows = db.execute(
                "SELECT seq, id FROM entry WHERE state = 'failed' ORDER BY ticket"
            ).fetchall()
            chosen = [row for row in rows if ids is None or row[1] in set(ids)]
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

    def unfinished(self) -> set[int]:
        """Return the rows that are still to be fetched."""
        with schema.translated(self.path):
            rows = self._db.execute(f"SELECT seq FROM {_TODO}").fetchall()
        return {seq for (seq,) in rows}

    def announce_done(self, job_id: JobId, url: str, intake: Intake) -> Listed | None:
        """Queue a job that an event stream called done with a link, whatever the list says.

        None when there is nothing to queue: unknown, complete, queued already, or left out
        by a filter.
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
        return next((one for one in absorbed.listed if one.after in TODO), None)

    # ---- one file ----

    def claim(self, wanted: Sequence[tuple[int, Sequence[tuple[str, str]]]]) -> list[str | None]:
        """Give each file the first of its (path, key) candidates that is nobody else's.

        `wanted` pairs a row with its candidates. None where every one belongs to another.
        """
        keys = {key for _, candidates in wanted for _, key in candidates}
        with self._transaction() as db:
            owners = schema.owners(db, list(keys))
            given, taken = assign(wanted, owners)
            # One statement, unless a path goes from row to row: then their order counts.
            is_swap = any(key in owners for _, key, _ in taken)
            for some in [[one] for one in taken] if is_swap else [taken]:
                # A length says that what stands at this very path was ours.
                bulk.update_from(
                    db,
                    "bytes_stored = CASE entry.path WHEN new.path THEN entry.bytes_stored END, "
                    "path = new.path, path_key = new.path_key",
                    ("path", "path_key", "seq"),
                    some,
                )
        return given

    def relocate(self, moved: Sequence[tuple[int, str, str]]) -> list[bool]:
        """Record where complete files are now, as (row, path, key); return whether each was.

        A path that belongs to another row is not given to a second one.
        """
        with self._transaction() as db:
            return [
                db.execute(
                    "UPDATE OR IGNORE entry SET path = ?, path_key = ? "
                    "WHERE seq = ? AND state = 'complete'",
                    (path, key, seq),
                ).rowcount
                == 1
                for seq, path, key in moved
            ]

    def forget_paths(self) -> None:
        """Let the paths of unfinished files be decided anew (the template has changed)."""
        with self._transaction() as db:
            db.execute(
                "UPDATE entry SET path = NULL, path_key = NULL "
                "WHERE path_key IS NOT NULL AND state <> 'complete' AND sha256 IS NULL"
            )

    def complete(self, batch: Sequence[Stored]) -> None:
        """Record files that are in place; their links are forgotten."""
        with self._transaction() as db:
            bulk.update_from(
                db,
                "state = 'complete', path = new.path, path_key = new.path_key, "
                "bytes_stored = new.bytes, bytes_total = new.bytes, sha256 = new.sha256, "
                "completed_us = new.completed_us, last_error = NULL, audio_url = NULL, "
                "original_audio_url = NULL",
                ("path", "path_key", "bytes", "sha256", "completed_us", "seq"),
                [
                    (
                        one.path,
                        one.path_key,
                        one.bytes_stored,
                        one.sha256,
                        to_us(one.completed_at),
                        one.seq,
                    )
                    for one in batch
                ],
            )
            self._drop_records(one.seq for one in batch)

    def fail(self, seq: int, reason: str, attempts: int) -> None:
        """Record that the file was given up for now."""
        with self._transaction() as db:
            db.execute(
                "UPDATE entry SET state = 'failed', last_error = ?, attempts = attempts + ? "
                "WHERE seq = ?",
                (reason, attempts, seq),
            )

    def set_state(self, seqs: Sequence[int], state: State) -> None:
        """Record a state that has no other facts."""
        with self._transaction() as db:
            bulk.set_state(db, str(state), seqs)
            self._drop_records(seqs)

    def set_total(self, seq: int, bytes_total: int | None, state: State) -> None:
        """Record the announced length of a file that is under way or left out."""
        with self._transaction() as db:
            db.execute(
                "UPDATE entry SET bytes_total = ?, state = ? WHERE seq = ?",
                (bytes_total, str(state), seq),
            )
            self._drop_records([seq])

    def set_url(self, seq: int, variant: Variant, url: str) -> None:
        """Record a fresh link."""
        column = "audio_url" if variant is Variant.DENOISED else "original_audio_url"
        with self._transaction() as db:
            db.execute(f"UPDATE entry SET {column} = ? WHERE seq = ?", (url, seq))

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
        "UPDATE entry SET updated_us = ? WHERE seq = ? RETURNING path",
        (to_us(updated_at), known.seq),
    ).fetchone()
    if row is None or row[0] is None:
        return None
    return Restamp(row[0], from_us(known.updated_us), updated_at)

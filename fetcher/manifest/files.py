"""What becomes of single files: their paths, and how each of them ended."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fetcher.frozen import frozen
from fetcher.manifest import bulk, schema
from fetcher.manifest.claims import assign
from fetcher.manifest.listing import Restamp
from fetcher.manifest.rows import from_us, since_us, to_state, to_us
from fetcher.manifest.writing import Writing
from fetcher.models import State, Variant

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

_GIVEN_UP = (
    "CASE iif(? OR variant <> 'denoised', '', status) "
    "WHEN 'pending' THEN 'waiting' WHEN 'failed' THEN 'rejected' ELSE 'failed' END"
)


@frozen
class Stored:
    """A file that is in place and durable, to be recorded as complete.

    `marked_at`: the time that it bears for its job, None where that had none.
    """

    seq: int
    path: str
    path_key: str
    bytes_stored: int
    sha256: str
    completed_at: datetime
    marked_at: datetime | None = None


class Files(Writing):
    """The part of the store that records paths and ends of files."""

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

    def complete(self, batch: Sequence[Stored]) -> list[Restamp]:
        """Record files that are in place; their links are forgotten.

        Returns those whose jobs have another time than they had when the files were begun.
        """
        with self._transaction() as db:
            bulk.update_from(
                db,
                "state = 'complete', status = 'success', path = new.path, "
                "path_key = new.path_key, "
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
            changed = bulk.select_where(
                db,
                "entry.path, new.marked_us, coalesce(updated_us, created_us)",
                "coalesce(updated_us, created_us, new.marked_us) IS NOT new.marked_us",
                ("marked_us", "seq"),
                [(to_us(one.marked_at), one.seq) for one in batch],
            )
        return [Restamp(path, from_us(before), since_us(after)) for path, before, after in changed]

    def fail(self, seq: int, reason: str, attempts: int, *, for_good: bool = False) -> State:
        """Record that the file was given up for now; return the state that it has then.

        `for_good`: until its job is listed again, or somebody asks for it (`retry`). The clean
        file of a job that is listed as pending or failed, though an event stream called it
        done, has not failed: its job is what the list says.
        """
        with self._transaction() as db:
            row = db.execute(
                f"UPDATE entry SET state = {_GIVEN_UP}, last_error = ?, "
                "attempts = attempts + ?, ticket = iif(?, -1, ticket) "
                "WHERE seq = ? RETURNING state",
                (for_good, reason, attempts, for_good, seq),
            ).fetchone()
            self._drop_records([seq])
        return State.FAILED if row is None else to_state(row[0])

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

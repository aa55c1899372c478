"""Opening, creating and migrating the manifest's file; SQLite's errors in our words.

A damaged or newer manifest is never changed: it is judged through a read-only connection
before anything opens it for writing. A new one is made under another name and renamed,
so an empty or half-made file is never ours.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import stat
from typing import TYPE_CHECKING

from fetcher.core.plan import Known
from fetcher.errors import FetcherError, ManifestError, StorageError
from fetcher.manifest.rows import to_state

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from fetcher.models import JobId, Variant

FILE_NAME = "manifest.db"
APPLICATION_ID = 0x66746368  # "ftch"
BUSY_TIMEOUT_S = 3.0  # a run that is asked to stop meanwhile has 5 s for it (contract 5.8)
CHECKED_BYTES = 8 << 20  # quick_check reads 8 MiB in about 20 ms; `doctor` checks larger ones
_IDS_AT_ONCE = 500  # SQLite binds up to 999 values in its oldest builds
_MAGIC = b"SQLite format 3\0"
_HEAD_BYTES = 100


# Each step is carried out once, all of its statements in one transaction.
MIGRATIONS: tuple[tuple[str, ...], ...] = (
    (
        """
        CREATE TABLE entry (
            seq INTEGER PRIMARY KEY,
            id TEXT NOT NULL,
            variant TEXT NOT NULL,
            status TEXT NOT NULL,
            file_name TEXT NOT NULL,
            created_us INTEGER,
            updated_us INTEGER,
            source_type TEXT NOT NULL,
            audio_format TEXT NOT NULL,
            audio_duration_s REAL,
            audio_size_bytes INTEGER,
            user_id TEXT NOT NULL,
            transaction_id TEXT,
            error TEXT,
            audio_url TEXT,
            original_audio_url TEXT,
            state TEXT NOT NULL,
            ticket INTEGER NOT NULL DEFAULT 0,
            path TEXT,
            path_key TEXT,
            bytes_total INTEGER,
            bytes_stored INTEGER,
            sha256 TEXT,
            attempts INTEGER NOT NULL DEFAULT 0,
            last_error TEXT,
            completed_us INTEGER,
            UNIQUE (id, variant)
        )
        """,
        "CREATE UNIQUE INDEX entry_path ON entry (path_key) WHERE path_key IS NOT NULL",
        """
        CREATE INDEX entry_todo ON entry (ticket)
            WHERE state IN ('queued', 'partial', 'failed')
        """,
        "CREATE INDEX entry_state ON entry (state, variant, bytes_stored)",
        "CREATE INDEX entry_created ON entry (created_us)",
        "CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID",
    ),
    # Records as the API sent them, of jobs whose files are still to come (--write-record).
    ("CREATE TABLE record (id TEXT PRIMARY KEY, body BLOB NOT NULL)",),
)
VERSION = len(MIGRATIONS)
# Left to itself, SQLite reads all rows of those states instead and sorts them.
TODO = "entry INDEXED BY entry_todo WHERE state IN ('queued', 'partial', 'failed')"


@contextlib.contextmanager
def translated(path: Path) -> Iterator[None]:
    """Raise ManifestError or StorageError for what SQLite says about the file at `path`."""
    try:
        yield
    except sqlite3.Error as error:
        raise _translate(error, path) from error
    except UnicodeDecodeError as error:  # raised in the place of SQLite's own error for it
        raise damaged(path, "text in it is not UTF-8") from error


def _translate(error: sqlite3.Error, path: Path) -> FetcherError:
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    if code == sqlite3.SQLITE_FULL:
        return StorageError(f"The disk is full: {path} cannot grow. Free space and run again.")
    if code in {sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_IOERR}:
        return StorageError(f"The manifest {path} cannot be written ({error}).")
    if code in {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}:
        return StorageError(f"The manifest {path} is held by another program ({error}).")
    return damaged(path, str(error))


def damaged(path: Path, why: str) -> ManifestError:
    """Return the error for a manifest that cannot be trusted, with the way to go on."""
    return ManifestError(
        f"The manifest {path} is damaged ({why}) and was left as it is. To go on, move it "
        f"away (mv '{path}' '{path}.damaged') and run backfill: files already in place are "
        "recognised and not fetched again."
    )


def exists(path: Path) -> bool:
    """Return whether there is a manifest; raises StorageError where nobody may look."""
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        raise StorageError(f"The manifest {path} cannot be read ({error.strerror}).") from error
    return True


def has_log(path: Path) -> bool:
    """Return whether a write-ahead log is beside the manifest: somebody writes, or was killed."""
    return path.with_name(path.name + "-wal").exists()


def open_readonly(path: Path, *, is_quiet: bool) -> sqlite3.Connection:
    """Return a read-only connection to a judged manifest.

    `is_quiet`: nobody is writing. The file is then opened as immutable, which leaves no
    trace beside it. Raises ManifestError, StorageError.
    """
    _judge_header(path)
    with translated(path):
        db = _connect_readonly(path, immutable=is_quiet)
        try:
            _judge(db, path)
        except BaseException:
            db.close()
            raise
    return db


def open_writable(path: Path) -> sqlite3.Connection:
    """Return the one writing connection, creating or migrating the manifest as needed.

    Raises ManifestError for a damaged or newer file, which is then untouched.
    """
    if exists(path):
        open_readonly(path, is_quiet=not has_log(path)).close()
    else:
        _create(path)
    with translated(path):
        db = _connect(path)
        try:
            _migrate(db)
        except BaseException:
            db.close()
            raise
    return db


def nothing() -> sqlite3.Connection:
    """Return a connection to an empty manifest that is in memory only."""
    db = sqlite3.connect(":memory:", check_same_thread=False)
    _migrate(db)
    return db


def known(db: sqlite3.Connection, ids: Sequence[JobId], variant: Variant) -> dict[JobId, Known]:
    """Return what the manifest says of one variant of these jobs."""
    found: dict[JobId, Known] = {}
    for start in range(0, len(ids), _IDS_AT_ONCE):
        some = ids[start : start + _IDS_AT_ONCE]
        rows = db.execute(
            "SELECT id, seq, status, updated_us, state, ticket, bytes_total FROM entry "
            f"WHERE variant = ? AND id IN ({', '.join('?' * len(some))})",
            (str(variant), *some),
        )
        for job_id, seq, status, updated_us, state, ticket, total in rows:
            found[job_id] = Known(seq, status, updated_us, to_state(state), ticket, total)
    return found


def owners(db: sqlite3.Connection, keys: Sequence[str]) -> dict[str, int]:
    """Return which row each of these paths belongs to, those of nobody left out."""
    found: dict[str, int] = {}
    for start in range(0, len(keys), _IDS_AT_ONCE):
        some = keys[start : start + _IDS_AT_ONCE]
        slots = ", ".join("?" * len(some))
        sql = f"SELECT path_key, seq FROM entry WHERE path_key IN ({slots})"
        found.update(db.execute(sql, some).fetchall())
    return found


def check_whole(path: Path) -> str | None:
    """Return what a full integrity check finds wrong, None when all is well."""
    with translated(path):
        db = open_readonly(path, is_quiet=not has_log(path))
        try:
            verdict = str(db.execute("PRAGMA integrity_check(1)").fetchone()[0])
            return _lacking(db) if verdict == "ok" else verdict
        finally:
            db.close()


def _lacking(db: sqlite3.Connection) -> str | None:
    """Return which table or index is not there, None where all of this format are."""
    if _version(db) < VERSION:
        return None
    with contextlib.closing(nothing()) as whole:
        gone = _parts_of(whole) - _parts_of(db)
    return f"{min(gone)} is missing" if gone else None


def _parts_of(db: sqlite3.Connection) -> set[str]:
    return {
        f"the {kind} {name}" for kind, name in db.execute("SELECT type, name FROM sqlite_master")
    }


def _connect_readonly(path: Path, *, immutable: bool) -> sqlite3.Connection:
    mode = "mode=ro&immutable=1" if immutable else "mode=ro"
    uri = f"{path.absolute().as_uri()}?{mode}"
    return sqlite3.connect(uri, uri=True, timeout=BUSY_TIMEOUT_S, check_same_thread=False)


def _connect(path: Path) -> sqlite3.Connection:
    # isolation_level None: transactions are begun and ended by name, never by surprise.
    db = sqlite3.connect(
        path, timeout=BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False
    )
    # NORMAL: a commit may be lost in a power cut, never torn; what it said is found again
    # on disk (adopted), so the cheaper mode loses nothing. The log may grow to 128 MB (4 is
    # SQLite's own bound): ids are random, so every page of the history changes the same
    # pages of their index, and each is written back once a log. Of a first listing of 600,000
    # records, with its 33 us of CPU a record, 32 MB cost 2.7 more.
    db.executescript(
        "PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL; PRAGMA cache_size = -16000;"
        "PRAGMA wal_autocheckpoint = 32000;"
    )
    return db


def _create(path: Path) -> None:
    fresh = path.with_name(path.name + ".new")
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        for leftover in (fresh, *(fresh.with_name(fresh.name + end) for end in ("-wal", "-shm"))):
            leftover.unlink(missing_ok=True)
        fresh.touch(mode=0o600)
        with translated(fresh):
            db = _connect(fresh)
            _migrate(db)
            db.close()
        fresh.replace(path)
    except OSError as error:
        raise StorageError(f"The manifest {path} cannot be made ({error.strerror}).") from error


def _migrate(db: sqlite3.Connection) -> None:
    """Bring the format up to date, wholly or not at all; another process may be about to."""
    if _version(db) >= VERSION:
        return
    db.execute("BEGIN IMMEDIATE")
    for number, statements in enumerate(MIGRATIONS[_version(db) :], start=_version(db) + 1):
        for statement in statements:
            db.execute(statement)
        db.execute(f"PRAGMA user_version = {number}")
        db.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    db.execute("COMMIT")


def _version(db: sqlite3.Connection) -> int:
    return int(db.execute("PRAGMA user_version").fetchone()[0])


def _judge_header(path: Path) -> None:
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # to open a named pipe would wait for ever
            raise StorageError(f"The manifest {path} cannot be read (it is no regular file).")
        with path.open("rb") as file:
            head = file.read(_HEAD_BYTES)
            size = file.seek(0, os.SEEK_END)
    except OSError as error:
        raise StorageError(f"The manifest {path} cannot be read ({error.strerror}).") from error
    if not head.startswith(_MAGIC):
        raise damaged(path, "it is empty" if not head else "it is no SQLite file")
    page_bytes = int.from_bytes(head[16:18], "big")  # sqlite.org/fileformat2.html, 1.3.2
    if page_bytes > 1 and size % page_bytes:
        raise damaged(path, "it was cut short")


def _judge(db: sqlite3.Connection, path: Path) -> None:
    if db.execute("PRAGMA application_id").fetchone()[0] != APPLICATION_ID:
        raise damaged(path, "it was not written by fetcher")
    version = db.execute("PRAGMA user_version").fetchone()[0]
    if version > VERSION:
        raise ManifestError(
            f"The manifest {path} was written by a newer fetcher (format {version}, this one "
            f"reads up to {VERSION}) and was left as it is. Update fetcher and run again."
        )
    if path.stat().st_size <= CHECKED_BYTES:
        verdict = db.execute("PRAGMA quick_check(1)").fetchone()[0]
        if verdict != "ok":
            raise damaged(path, str(verdict))

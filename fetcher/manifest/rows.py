"""Rows of the manifest as values and back. Times are stored as microseconds since 1970 UTC.

A row that no fetcher has written is SQLite's kind of error: the manifest is damaged.
"""

from __future__ import annotations

import sqlite3
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from types import NoneType
from typing import TYPE_CHECKING, Any

from fetcher.models import Entry, Job, State, Status, Variant

if TYPE_CHECKING:
    from collections.abc import Sequence

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_UNREADABLE = (KeyError, ValueError, TypeError, OverflowError)
# A look-up takes a quarter of the time of `State(text)`.
_STATUSES = {str(one): one for one in Status}
_STATES = {str(one): one for one in State}
_VARIANTS = {str(one): one for one in Variant}

JOB_COLUMNS = (
    "id, status, file_name, created_us, updated_us, source_type, audio_format, "
    "audio_duration_s, audio_size_bytes, user_id, transaction_id, error, audio_url, "
    "original_audio_url"
)
ENTRY_COLUMNS = (
    f"{JOB_COLUMNS}, seq, variant, state, path, bytes_total, bytes_stored, sha256, attempts, "
    "last_error, completed_us"
)
_JOB_WIDTH = JOB_COLUMNS.count(",") + 1
_COLUMNS = ENTRY_COLUMNS.split(", ")
_NOT_NULL = frozenset(
    {"id", "status", "file_name", "source_type", "audio_format", "user_id", "seq", "variant"}
    | {"state", "attempts"}
)
_NUMBERS = frozenset({"seq", "attempts", "audio_size_bytes", "bytes_total", "bytes_stored"})
_NUMBERS |= {"created_us", "updated_us", "completed_us"}
_SHAPES = 1024  # far more than there are ways to leave values out in a history


def to_us(at: datetime | None) -> int | None:
    """Return the instant as microseconds since 1970 UTC."""
    if at is None:
        return None
    since = at - _EPOCH  # a division by a timedelta would take three times as long
    return (since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds


def from_us(us: int | None) -> datetime | None:
    """Return the instant as an aware UTC datetime."""
    return None if us is None else since_us(us)


def since_us(us: int) -> datetime:
    """Return the instant so many microseconds after 1970 UTC."""
    return _EPOCH + timedelta(microseconds=us)


def job_values(job: Job) -> tuple[Any, ...]:
    """Return the job's values in the order of JOB_COLUMNS."""
    return (
        job.id,
        str(job.status),
        job.file_name,
        to_us(job.created_at),
        to_us(job.updated_at),
        job.source_type,
        job.audio_format,
        job.audio_duration_s,
        job.audio_size_bytes,
        job.user_id,
        job.transaction_id,
        job.error,
        job.audio_url,
        job.original_audio_url,
    )


def _refuse_odd(values: Sequence[Any], first: int) -> None:
    """Raise TypeError where a value is of no type that its column has; `first`: of the columns.

    SQLite keeps any value in any column. Told by the types of them all, 1 us a row.
    """
    odd = _odd_column(tuple(map(type, values)), first)
    if odd is not None:
        raise TypeError(f"{odd} is of a wrong type")


@lru_cache(_SHAPES)
def _odd_column(types: tuple[type, ...], first: int) -> str | None:
    for name, kind in zip(_COLUMNS[first:], types, strict=False):
        if kind not in _kinds(name):
            return name
    return None


def _kinds(column: str) -> set[type]:
    """Return the types that values of that column have."""
    kinds: set[type] = {int} if column in _NUMBERS else {str}
    if column == "audio_duration_s":
        kinds = {float, int}
    return kinds if column in _NOT_NULL else kinds | {NoneType}


def to_job(row: Sequence[Any]) -> Job:
    """Return the job of a row that begins with JOB_COLUMNS; raises sqlite3.DataError."""
    try:
        _refuse_odd(row[:_JOB_WIDTH], 0)
        return Job(
            id=row[0],
            status=_STATUSES[row[1]],
            file_name=row[2],
            created_at=from_us(row[3]),
            updated_at=from_us(row[4]),
            source_type=row[5],
            audio_format=row[6],
            audio_duration_s=row[7],
            audio_size_bytes=row[8],
            user_id=row[9],
            transaction_id=row[10],
            error=row[11],
            audio_url=row[12],
            original_audio_url=row[13],
        )
    except _UNREADABLE as error:
        raise sqlite3.DataError(f"a row cannot be read: {error}") from error


def to_entry(row: Sequence[Any]) -> Entry:
    """Return the entry of a row of ENTRY_COLUMNS; raises sqlite3.DataError."""
    own = row[_JOB_WIDTH:]
    seq, variant, state, path, total, stored, sha256, attempts, error, completed = own
    job = to_job(row)
    try:
        _refuse_odd(own, _JOB_WIDTH)
        return Entry(
            seq=seq,
            job=job,
            variant=_VARIANTS[variant],
            state=_STATES[state],
            path=path,
            bytes_total=total,
            bytes_stored=stored,
            sha256=sha256,
            attempts=attempts,
            last_error=error,
            completed_at=from_us(completed),
        )
    except _UNREADABLE as trouble:
        raise sqlite3.DataError(f"a row cannot be read: {trouble}") from trouble


def to_state(text: str) -> State:
    """Return the state that a row holds; raises sqlite3.DataError."""
    try:
        return _STATES[text]
    except KeyError as error:
        raise sqlite3.DataError(f"a row cannot be read: {error}") from error


def to_variant(text: str) -> Variant:
    """Return the variant that a row holds; raises sqlite3.DataError."""
    try:
        return _VARIANTS[text]
    except KeyError as error:
        raise sqlite3.DataError(f"a row cannot be read: {error}") from error


def place_in_list(row: Sequence[Any]) -> tuple[bool, int, str, str]:
    """Return what grows from row to row of ENTRY_COLUMNS, newest job first, undated ones last."""
    created_us = row[3]
    return created_us is None, -(created_us or 0), row[0], row[_JOB_WIDTH + 1]

"""The frozen values that flow inside fetcher.

Named tuples without behaviour beyond derived facts: a million of them pass through one
listing, and a frozen dataclass takes four times as long to make. No pydantic here (`wire`
reads what the API sends), no clock, files or sockets, so that `status` and `list` start fast.
"""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, NamedTuple, NewType

if TYPE_CHECKING:
    from datetime import datetime

JobId = NewType("JobId", str)


class Status(StrEnum):
    """What the service says of a job."""

    PENDING = "pending"
    SUCCESS = "success"
    FAILED = "failed"


class State(StrEnum):
    """What fetcher knows of one file of a job (contract 6)."""

    WAITING = "waiting"  # not finished by the service
    QUEUED = "queued"
    PARTIAL = "partial"
    COMPLETE = "complete"
    FAILED = "failed"  # given up for now; a later run tries again
    REJECTED = "rejected"  # the service's own `failed`
    FILTERED = "filtered"


class Variant(StrEnum):
    """Which file of a job: the clean result, or the upload it was made from."""

    DENOISED = "denoised"
    ORIGINAL = "original"


class Job(NamedTuple):
    """One record of the history, as far as it could be understood.

    Text is the server's and untrusted. Times are aware and UTC; None where the record
    had none that could be read.
    """

    id: JobId
    status: Status
    file_name: str = ""
    audio_url: str | None = None
    original_audio_url: str | None = None
    created_at: datetime | None = None
    updated_at: datetime | None = None
    source_type: str = ""
    audio_format: str = ""
    audio_duration_s: float | None = None
    audio_size_bytes: int | None = None
    user_id: str = ""
    transaction_id: str | None = None
    error: str | None = None

    @property
    def marked_at(self) -> datetime | None:
        """Return the time that its files bear: its last update, its creation if it had none."""
        return self.updated_at or self.created_at

    def url(self, variant: Variant) -> str | None:
        """Return the link of that variant's audio, None where the record has none."""
        return self.audio_url if variant is Variant.DENOISED else self.original_audio_url


class Entry(NamedTuple):
    """One row of the manifest: a job's file and how far it has come.

    `path` is relative to DIR with `/` between components; None until it is decided.
    `bytes_total` is what the server announced; `bytes_stored` and `sha256` (hex) are of
    the complete file.
    """

    seq: int
    job: Job
    variant: Variant
    state: State
    path: str | None = None
    bytes_total: int | None = None
    bytes_stored: int | None = None
    sha256: str | None = None
    attempts: int = 0
    last_error: str | None = None
    completed_at: datetime | None = None


class Validator(NamedTuple):
    """What names one version of a body (RFC 9110 §8.8). Empty: nothing does.

    `etag` is the header's text, `W/` prefix and quotes included; `last_modified` is the
    header's text, compared byte for byte.
    """

    etag: str | None = None
    last_modified: str | None = None


class Head(NamedTuple):
    """A response before its body: the status and the header fields that fetcher reads.

    `headers` has lower-case names; fields that came twice are joined with ", ".
    """

    status: int
    headers: dict[str, str]


class Partial(NamedTuple):
    """What is on disk of an unfinished file, proven as far as `bytes_durable`."""

    bytes_durable: int
    bytes_total: int | None
    validator: Validator

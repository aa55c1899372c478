"""Everything that happens, as frozen values, and `fold`, the one reducer over them.

Bars, log lines, JSON lines, the status file and the summary consume these events and
nothing else. Owns names and fields (contract 6); knows nothing of who consumes them.
Events with `public = False` feed bars and logs and are not part of `--json`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from fetcher.frozen import frozen

if TYPE_CHECKING:
    from fetcher.models import JobId, Variant


@frozen
class Event:
    """Something that happened."""

    name: ClassVar[str] = "event"
    public: ClassVar[bool] = True

    def fields(self) -> dict[str, Any]:
        """Return the event's own fields, in order, ready for JSON."""
        return {field.name: getattr(self, field.name) for field in fields(self)}


Sink = Callable[[Event], None]


# ---- the run -----------------------------------------------------------------------------


@frozen
class RunStarted(Event):
    """A run begins; `mode` is `backfill` or `watch`."""

    name: ClassVar[str] = "run.started"
    public: ClassVar[bool] = False
    mode: str
    dest: str


@frozen
class PollCompleted(Event):
    """A poll ended well. `records`: distinct ids that it listed; `new`: not known before."""

    name: ClassVar[str] = "poll.completed"
    requests: int
    records: int
    new: int
    pending: int


@frozen
class ListingProgress(Event):
    """The history is being listed: distinct records seen so far."""

    name: ClassVar[str] = "listing.progress"
    public: ClassVar[bool] = False
    records: int


@frozen
class QueueGrew(Event):
    """So many more files are to be fetched in this run (negative: they no longer are)."""

    name: ClassVar[str] = "queue.grew"
    public: ClassVar[bool] = False
    files: int


@frozen
class Notice(Event):
    """Something for the log that is no job's event; `level` is a `logging` level's name."""

    name: ClassVar[str] = "notice"
    public: ClassVar[bool] = False
    level: str
    message: str


@frozen
class RecordInvalid(Event):
    """A record of the history that could not be understood, wholly or in part."""

    name: ClassVar[str] = "record.invalid"
    reason: str
    id: str | None = None
    file_name: str | None = None


@frozen
class RunCompleted(Event):
    """The last event of a run, also of one that ended early.

    `records` counts distinct ids and equals downloaded + adopted + already + failed +
    pending + rejected + filtered. `pending`: not finished by the service, or by us when
    the run ended early. `invalid` counts malformed records, apart from `records`.
    """

    name: ClassVar[str] = "run.completed"
    records: int = 0
    downloaded: int = 0
    adopted: int = 0
    already: int = 0
    failed: int = 0
    pending: int = 0
    rejected: int = 0
    filtered: int = 0
    invalid: int = 0
    bytes: int = 0
    bytes_fetched: int = 0
    seconds: float = 0.0
    exit_code: int = 0


@frozen
class VerifyProgress(Event):
    """Files are being checked: absolute figures, a few times a second."""

    name: ClassVar[str] = "verify.progress"
    public: ClassVar[bool] = False
    files_done: int
    files_total: int
    bytes_done: int


@frozen
class VerifyCompleted(Event):
    """The files were checked: `files` = `intact` + `missing` + `damaged` + `foreign`.

    `repaired` of those that were not intact are whole again.
    """

    name: ClassVar[str] = "verify.completed"
    files: int = 0
    intact: int = 0
    missing: int = 0
    damaged: int = 0
    foreign: int = 0
    repaired: int = 0
    bytes: int = 0
    seconds: float = 0.0


# ---- one job -----------------------------------------------------------------------------


@frozen
class JobEvent(Event):
    """Something that happened to one job."""

    id: JobId
    file_name: str


@frozen
class JobPending(JobEvent):
    """The service has not finished this job yet; said once a run."""

    name: ClassVar[str] = "job.pending"


@frozen
class JobProgress(JobEvent):
    """How far the service is with a job: `pct` 0..100."""

    name: ClassVar[str] = "job.progress"
    pct: float
    message: str | None = None


@frozen
class JobSettled(JobEvent):
    """A pending job is no longer followed: it finished, failed or disappeared."""

    name: ClassVar[str] = "job.settled"
    public: ClassVar[bool] = False


@frozen
class JobFailed(JobEvent):
    """The service failed this job; said once, when it is learnt."""

    name: ClassVar[str] = "job.failed"
    error: str | None = None


@frozen
class Planned(JobEvent):
    """What a dry run would do with this file, and why."""

    name: ClassVar[str] = "plan.action"
    action: str
    reason: str
    path: str | None = None
    variant: str = "denoised"


# ---- one file. Every start has exactly one end: completed, failed, filtered or cancelled. --


@frozen
class FileEvent(JobEvent):
    """Something that happened to one file of a job."""

    variant: Variant


@frozen
class DownloadStarted(FileEvent):
    """Bytes begin to arrive; `resumed_from` is the offset in bytes, 0 for a fresh start."""

    name: ClassVar[str] = "download.started"
    bytes_total: int | None
    resumed_from: int


@frozen
class DownloadProgress(FileEvent):
    """Absolute progress, a few times a second."""

    name: ClassVar[str] = "download.progress"
    public: ClassVar[bool] = False
    bytes_done: int
    bytes_total: int | None


@frozen
class DownloadRetrying(FileEvent):
    """An attempt failed; the next one begins in `delay` seconds."""

    name: ClassVar[str] = "download.retrying"
    attempt: int
    delay: float
    reason: str


@frozen
class DownloadCompleted(FileEvent):
    """The file is in place, durable and recorded. `path` is relative to DIR."""

    name: ClassVar[str] = "download.completed"
    path: str
    bytes: int
    bytes_fetched: int
    sha256: str
    seconds: float


@frozen
class DownloadAdopted(FileEvent):
    """A complete file that was already in place is now recorded; nothing was fetched."""

    name: ClassVar[str] = "download.adopted"
    path: str
    bytes: int
    sha256: str


@frozen
class DownloadFailed(FileEvent):
    """Given up for this run; its partial data stays and a later run tries again."""

    name: ClassVar[str] = "download.failed"
    reason: str
    attempts: int


@frozen
class DownloadFiltered(FileEvent):
    """Left out after its size was known (`--max-size`)."""

    name: ClassVar[str] = "download.filtered"
    reason: str


@frozen
class DownloadCancelled(FileEvent):
    """The run stopped first, or the job is not finished after all; what arrived is kept."""

    name: ClassVar[str] = "download.cancelled"
    bytes_done: int


@frozen
class FileDamaged(FileEvent):
    """`verify` found that a file is not what the manifest says.

    `problem`: `missing`, `damaged` (another size or digest), or `foreign` (a folder, a link).
    """

    name: ClassVar[str] = "verify.damaged"
    path: str
    problem: str
    reason: str


@frozen
class ExecFailed(JobEvent):
    """`--exec` ended with `code` (None: it could not be started or took too long)."""

    name: ClassVar[str] = "exec.failed"
    code: int | None
    reason: str = ""


@frozen
class FileSuspect(JobEvent):
    """A complete file that looks wrong (`--check-duration warn`); it was kept."""

    name: ClassVar[str] = "file.suspect"
    reason: str


# ---- the reducer -------------------------------------------------------------------------


class Totals(NamedTuple):
    """What has happened so far: files by outcome, bytes, and the account once it is final.

    A tuple, since every event makes a new one.
    """

    queued_files: int = 0
    downloaded_files: int = 0
    adopted_files: int = 0
    failed_files: int = 0
    filtered_files: int = 0
    bytes_stored: int = 0
    bytes_fetched: int = 0
    records: int = 0
    invalid_records: int = 0
    rejected_jobs: int = 0
    account: RunCompleted | None = None


def fold(totals: Totals, event: Event) -> Totals:
    """Return `totals` after `event`: what the bars, the summary and the status file show."""
    match event:
        case QueueGrew(files=files):
            return totals._replace(queued_files=totals.queued_files + files)
        case DownloadCompleted():
            return totals._replace(
                downloaded_files=totals.downloaded_files + 1,
                bytes_stored=totals.bytes_stored + event.bytes,
                bytes_fetched=totals.bytes_fetched + event.bytes_fetched,
            )
        case DownloadAdopted():
            return totals._replace(
                adopted_files=totals.adopted_files + 1,
                bytes_stored=totals.bytes_stored + event.bytes,
            )
        case DownloadFailed():
            return totals._replace(failed_files=totals.failed_files + 1)
        case DownloadFiltered():
            return totals._replace(filtered_files=totals.filtered_files + 1)
        case ListingProgress(records=records):
            return totals._replace(records=records)
        case RecordInvalid():
            return totals._replace(invalid_records=totals.invalid_records + 1)
        case JobFailed():
            return totals._replace(rejected_jobs=totals.rejected_jobs + 1)
        case RunCompleted():
            return totals._replace(records=event.records, account=event)
        case _:
            return totals

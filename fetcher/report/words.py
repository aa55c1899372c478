"""Each event in words, and how loud it is.

Pure: an event in, one line of text out. All foreign text passes through the `Quote` that
the caller chose, so that no file name or server message ever drives a terminal.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from fetcher.core.text import clip, isolate, printable
from fetcher.events import (
    DownloadAdopted,
    DownloadCancelled,
    DownloadCompleted,
    DownloadFailed,
    DownloadFiltered,
    DownloadProgress,
    DownloadRetrying,
    DownloadStarted,
    Event,
    ExecFailed,
    FileDamaged,
    FileSuspect,
    JobEvent,
    JobFailed,
    JobPending,
    JobProgress,
    JobSettled,
    ListingProgress,
    Notice,
    Planned,
    PollCompleted,
    QueueGrew,
    RecordInvalid,
    RunCompleted,
    RunStarted,
    VerifyCompleted,
    VerifyProgress,
)
from fetcher.report.units import human_bytes, human_count, human_duration

DEBUG = logging.DEBUG  # -vv
VERBOSE = 15  # -v
INFO = logging.INFO  # one line per finished file; where no bars show them
NOTICE = 25  # what a person wants to know although there are bars
WARNING = logging.WARNING  # all that -q leaves
ERROR = logging.ERROR

LEVEL_NAMES = {
    DEBUG: "debug",
    VERBOSE: "verbose",
    INFO: "info",
    NOTICE: "notice",
    WARNING: "warning",
    ERROR: "error",
}

LONG_WAIT_S = 10.0  # a wait that makes a person wonder whether anything still happens
LONGEST_NAME = 100  # characters of a name, LONGEST_TEXT of a reason: a line stays readable
LONGEST_TEXT = 1000

Quote = Callable[[str], str]


def plain(text: str) -> str:
    """Return foreign `text` as it may stand in a log: printable, on one line, not too long."""
    return _shorten(printable(text), LONGEST_TEXT)


def isolated(text: str) -> str:
    """Return foreign `text` as it may stand on a terminal: also, numbers beside it stay put."""
    return isolate(plain(text))


def level_of(event: Event) -> int:
    """Return how loud `event` is: one of this module's levels."""
    match event:
        case Notice(level=level):
            return _notice_level(level)
        case DownloadRetrying(delay=delay):
            return NOTICE if delay >= LONG_WAIT_S else VERBOSE
        case _:
            return _LEVELS.get(type(event), DEBUG)


def words(event: Event, quote: Quote = plain) -> str:
    """Return what happened, in one line without its end; empty for what is no news."""
    match event:
        case DownloadProgress() | VerifyProgress():
            return ""
        case JobEvent():
            return _job_words(event, quote)
        case Notice():
            return quote(event.message)
        case RecordInvalid():
            return f"record {_record(event, quote)} was not understood: {quote(event.reason)}"
        case _:
            return _run_words(event, quote)


def account(run: RunCompleted) -> str:
    """Return the account of a run: the parts add up to the records (contract 6)."""
    ended_whole = run.exit_code in {0, 1}
    parts = [
        (run.adopted, "found in place"),
        (run.already, "already here"),
        (run.pending, "waiting" if ended_whole else "waiting or left for the next run"),
        (run.rejected, "failed by the service"),
        (run.failed, "could not be fetched"),
        (run.filtered, "filtered out"),
    ]
    said = [f"{human_count(run.downloaded)} downloaded"]
    said += [f"{human_count(count)} {what}" for count, what in parts if count]
    noun = "record" if run.records == 1 else "records"
    return f"{human_count(run.records)} {noun} = {' + '.join(said)}"


def verdict(check: VerifyCompleted) -> str:
    """Return what `verify` found: the parts add up to the files that were checked."""
    parts = [(check.missing, "missing"), (check.damaged, "damaged"), (check.foreign, "foreign")]
    said = [f"{human_count(check.intact)} as recorded"]
    said += [f"{human_count(count)} {what}" for count, what in parts if count]
    noun = "file" if check.files == 1 else "files"
    took = f"({human_bytes(check.bytes)} in {human_duration(check.seconds)})"
    return f"checked {human_count(check.files)} {noun} {took} = {' + '.join(said)}"


def name_of(event: JobEvent, quote: Quote = plain) -> str:
    """Return what tells a job from all others: its name and the first 8 characters of its id."""
    return named(event.id, event.file_name, quote)


def named(job_id: str, file_name: str, quote: Quote = plain) -> str:
    """Return `name (id)`, the id cut to 8 characters; `job id` for a job without a name."""
    name = _shorten(printable(file_name).strip(), LONGEST_NAME)
    short_id = printable(job_id[:8])
    return f"{quote(name)} ({short_id})" if name else f"job {short_id}"


def _run_words(event: Event, quote: Quote) -> str:
    match event:
        case RunStarted():
            return f"{event.mode} into {quote(event.dest)}"
        case PollCompleted():
            return (
                f"polled: {event.requests} requests, {human_count(event.records)} records, "
                f"{human_count(event.new)} new, {human_count(event.pending)} pending"
            )
        case RunCompleted():
            return f"run ended with status {event.exit_code}: {account(event)}"
        case ListingProgress():
            return f"listed so far: {human_count(event.records)} records"
        case QueueGrew():
            return f"to be fetched: {event.files:+,} files"
        case VerifyCompleted():
            return verdict(event)
        case _:
            return quote(str(event))


def _job_words(event: JobEvent, quote: Quote) -> str:
    name = name_of(event, quote)
    match event:
        case JobPending():
            return f"not finished by the service yet: {name}"
        case JobProgress():
            return f"at the service, {event.pct:.0f}%: {name} {quote(event.message or '')}".rstrip()
        case JobSettled():
            return f"no longer followed: {name}"
        case JobFailed():
            return f"failed by the service: {name}: {quote(event.error or 'no reason given')}"
        case Planned():
            where = quote(event.path) if event.path else name
            return f"{event.action}: {where} ({quote(event.reason)})"
        case ExecFailed():
            how = "failed" if event.code is None else f"ended with {event.code}"
            why = f": {quote(event.reason)}" if event.reason else ""
            return f"the command of --exec {how} for {name}{why}"
        case FileSuspect():
            return f"suspect: {name}: {quote(event.reason)}"
        case FileDamaged():
            return f"{quote(event.problem)}: {quote(event.path)}: {quote(event.reason)}"
        case _:
            return _file_words(event, name, quote)


def _file_words(event: JobEvent, name: str, quote: Quote) -> str:
    match event:
        case DownloadStarted():
            size = "size unknown" if event.bytes_total is None else human_bytes(event.bytes_total)
            since = f", from {human_bytes(event.resumed_from)}" if event.resumed_from else ""
            return f"downloading {name} ({size}{since})"
        case DownloadCompleted():
            took = human_duration(event.seconds)
            return f"downloaded {quote(event.path)} ({human_bytes(event.bytes)} in {took})"
        case DownloadAdopted():
            return f"found in place {quote(event.path)} ({human_bytes(event.bytes)})"
        case DownloadRetrying():
            wait = human_duration(event.delay)
            return f"attempt {event.attempt} failed, next in {wait}: {name}: {quote(event.reason)}"
        case DownloadFailed():
            times = "attempt" if event.attempts == 1 else "attempts"
            tried = f"after {event.attempts} {times}" if event.attempts else "without an attempt"
            return f"could not be fetched {tried}: {name}: {quote(event.reason)}"
        case DownloadFiltered():
            return f"filtered out: {name}: {quote(event.reason)}"
        case DownloadCancelled():
            return f"stopped at {human_bytes(event.bytes_done)}: {name}"
        case _:
            return f"{event.name}: {name}"


def _record(event: RecordInvalid, quote: Quote) -> str:
    if event.id is not None:
        return named(event.id, event.file_name or "", quote)
    return quote(event.file_name) if event.file_name else "without an id"


def _notice_level(level: str) -> int:
    """Return the level of a notice; `info` is what a person wants to know despite bars."""
    value = logging.getLevelNamesMapping().get(level.upper(), INFO)
    return NOTICE if value == INFO else value


def _shorten(text: str, characters: int) -> str:
    return text if len(text) <= characters else clip(text, characters - 1) + "…"


_LEVELS: dict[type[Event], int] = {
    RunStarted: INFO,
    PollCompleted: VERBOSE,
    ListingProgress: DEBUG,
    QueueGrew: DEBUG,
    RecordInvalid: WARNING,
    RunCompleted: VERBOSE,
    JobPending: VERBOSE,
    JobProgress: DEBUG,
    JobSettled: DEBUG,
    JobFailed: NOTICE,
    Planned: DEBUG,  # stdout has the plan
    DownloadStarted: VERBOSE,
    DownloadProgress: DEBUG,
    DownloadCompleted: INFO,
    DownloadAdopted: INFO,
    DownloadFailed: ERROR,
    DownloadFiltered: INFO,
    DownloadCancelled: VERBOSE,
    ExecFailed: WARNING,
    FileSuspect: WARNING,
    FileDamaged: WARNING,
    VerifyProgress: DEBUG,
    VerifyCompleted: VERBOSE,
}

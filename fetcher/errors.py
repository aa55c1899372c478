"""The tree of errors that fetcher raises, and the exit status that each one leads to.

    FetcherError                    70   a fault in fetcher itself
    ├── UsageError                   2   an option, a value, a file of settings, the key's absence
    ├── KeyRefusedError              3   the API answered 401 or 403
    ├── ApiError                     4   the API could not be reached or kept failing
    ├── LockedError                  5   another process holds the destination
    ├── StorageError                 6   disk full, not writable
    │   ├── FullError                6   there is no room for a file
    │   ├── HaltedError              6   a stop left a file unfinished
    │   └── ManifestError            6   damaged, or written by a newer version
    ├── StoppedError               130   SIGINT came before the work could begin
    │   └── TerminatedError        143   SIGTERM did
    └── TransferError                1   one file's trouble; never ends a run
        ├── StatusError                  an HTTP status that is no success
        ├── ConnectionFailedError        refused, reset, stalled, name not found, bad TLS
        ├── ShortBodyError               the body ended before its announced length
        ├── ContentError                 what came is not what was announced, or no audio
        └── PlaceError                   the path under DIR is taken or leads out of DIR

Owns the facts that a message needs (job, status, URL without its query) and nothing else:
no module below the command line prints or exits.
"""

from __future__ import annotations

from typing import ClassVar
from urllib.parse import urlsplit


def bare_url(url: str) -> str:
    """Return `url` without user, query and fragment: what may stand in a message.

    Signed links carry their signature in the query, so it never reaches a log or an event.
    """
    try:
        parts = urlsplit(url)
        host = parts.netloc.rpartition("@")[2]
    except ValueError:
        return "<malformed URL>"
    return f"{parts.scheme}://{host}{parts.path}" if parts.scheme else parts.path


class FetcherError(Exception):
    """Anything that fetcher raises on purpose."""

    exit_code: ClassVar[int] = 70


class UsageError(FetcherError):
    """An option, value or configuration file that cannot be used; says which and what is right."""

    exit_code = 2


class KeyRefusedError(FetcherError):
    """The API answered 401 or 403: the key is missing, wrong or revoked."""

    exit_code = 3


class ApiError(FetcherError):
    """The API could not be reached, or kept failing after every retry."""

    exit_code = 4


class LockedError(FetcherError):
    """Another process holds this destination; the message names the holder."""

    exit_code = 5


class StorageError(FetcherError):
    """Local storage refused: disk full, not writable, not a folder."""

    exit_code = 6


class FullError(StorageError):
    """There is no room for a file; what is under way, or smaller, may still fit."""


class HaltedError(StorageError):
    """The disk had not finished a file when the run had to end; nothing is wrong with it."""


class ManifestError(StorageError):
    """The manifest is damaged or from a newer version. It is never changed."""


class StoppedError(FetcherError):
    """SIGINT came while something was waited for that the work cannot begin without."""

    exit_code = 130


class TerminatedError(StoppedError):
    """SIGTERM came then."""

    exit_code = 143


class TransferError(FetcherError):
    """One request's or one file's trouble.

    `retry_after_s`: the wait in seconds that the server asked for, when it did.
    """

    exit_code = 1

    def __init__(self, message: str, *, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class StatusError(TransferError):
    """An HTTP status that is no success."""

    def __init__(self, status: int, message: str, *, retry_after_s: float | None = None) -> None:
        super().__init__(message, retry_after_s=retry_after_s)
        self.status = status


class ConnectionFailedError(TransferError):
    """No usable connection: refused, reset, stalled, name not found, certificate not trusted.

    `permanent` is true where trying again cannot help (an untrusted certificate, a URL
    that is none).
    """

    def __init__(self, message: str, *, permanent: bool = False) -> None:
        super().__init__(message)
        self.permanent = permanent


class ShortBodyError(TransferError):
    """The body ended before its announced length, or broke on the way."""


class ContentError(TransferError):
    """The bytes are not what was announced: wrong digest, an error page, a cut WAV."""


class PlaceError(TransferError):
    """The path under DIR is taken by something foreign, or leads out of DIR."""

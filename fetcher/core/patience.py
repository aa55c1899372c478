"""What a watch bears: polls that fail, files given up, downloads that storage has stopped. Pure.

Trouble is told of when it begins, when it becomes another kind of trouble, and when it is
over; however often it shows in between, and in whatever words.
"""

from __future__ import annotations

from dataclasses import dataclass

from fetcher.errors import ApiError, FetcherError, KeyRefusedError

RELOOK_S = 900.0  # files that were given up are taken up again after so long at first
_FLAPS_INTERVALS = 10  # of an API that comes and goes only one return in so long counts
_STORAGE_PAUSE_S = 30.0
_MOST_DOUBLINGS = 4  # a large file that still does not fit is tried every eight minutes


@dataclass(slots=True)
class Outage:
    """Polls that failed in a row. `since_s`: when the first one did, monotonic."""

    failures: int = 0
    since_s: float = 0.0
    error: FetcherError | None = None

    @property
    def is_refused(self) -> bool:
        """Return whether it is the key that was refused last."""
        return isinstance(self.error, KeyRefusedError)

    def note(self, error: FetcherError, now_s: float) -> str | None:
        """Count a failed poll; return what is to be told of it, None where that is known."""
        if not self.failures:
            self.since_s = now_s
        is_known = type(error) is type(self.error)
        self.failures += 1
        self.error = error
        return None if is_known else _told(error)

    def end(self) -> str | None:
        """Count a good poll; return what is to be told, None where there was no outage."""
        error, self.error, self.failures = self.error, None, 0
        if error is None:
            return None
        is_remote = isinstance(error, ApiError | KeyRefusedError)
        return "the API answers again" if is_remote else "polling goes on"


def _told(error: FetcherError) -> str:
    match error:
        case KeyRefusedError():
            return f"{error}. Watching goes on; a new key is read by itself."
        case ApiError():
            return f"{error}. Watching goes on and catches up by itself."
        case _:
            return f"{error} Watching goes on once that is mended."


@dataclass(slots=True)
class Relook:
    """When files that were given up are taken up again, which a full pass does.

    Soon after an outage of the API, which may have been the network's; else after a quarter
    of an hour, and twice as long each time, up to `longest_s`. Seconds, monotonic.
    """

    interval_s: float
    longest_s: float
    _has_answered: bool = False  # the API, after an outage, and no full pass since
    _passed_at_s: float | None = None
    _pause_s: float = 0.0
    _due_at_s: float | None = None
    _known: int = 0  # files that had failed before; more than these are new trouble

    def answered(self) -> None:
        """Take note that the API answers again after an outage."""
        self._has_answered = True

    def note(self, failed: int, queued: int, now_s: float) -> None:
        """Take note of how many files have failed, and how many are still to be fetched."""
        if failed > self._known:
            self._known, self._pause_s = failed, RELOOK_S
            soon_s = now_s + RELOOK_S
            self._due_at_s = soon_s if self._due_at_s is None else min(self._due_at_s, soon_s)
        if queued:
            return  # some of these had failed and may do so again, which is no new trouble
        self._known = failed
        if not failed:
            self._due_at_s, self._has_answered = None, False

    @property
    def is_owed(self) -> bool:
        """Return whether files were given up that are taken up again for an outage that is over."""
        return self._has_answered and self._due_at_s is not None

    def is_due(self, now_s: float) -> bool:
        """Return whether a full pass is due now."""
        if self._due_at_s is None:
            return False
        passed_at_s, flaps_s = self._passed_at_s, self.interval_s * _FLAPS_INTERVALS
        has_settled = passed_at_s is None or now_s >= passed_at_s + flaps_s
        return now_s >= self._due_at_s or (self._has_answered and has_settled)

    def passed(self, now_s: float) -> None:
        """Take note that a full pass has taken them up."""
        self._passed_at_s = now_s
        if self._due_at_s is not None:
            longer_s = RELOOK_S if self._has_answered else self._pause_s * 2
            self._pause_s = min(longer_s, self.longest_s)
            self._due_at_s = now_s + self._pause_s
        self._has_answered = False


@dataclass(slots=True)
class Shortage:
    """Downloads that local storage has stopped, until bytes are stored again."""

    error: FetcherError | None = None
    _stops: int = 0
    _bytes_stored: int = 0

    def note(self, error: FetcherError, bytes_stored: int) -> str | None:
        """Count a stop; return what is to be told of it, None where that is known.

        `bytes_stored`: by the whole run so far.
        """
        is_new = self.error is None or bytes_stored > self._bytes_stored
        self._stops = 1 if is_new else self._stops + 1
        self._bytes_stored = bytes_stored
        self.error = error
        return f"{error} Downloading waits until there is room." if is_new else None

    def end(self, bytes_stored: int) -> str | None:
        """Return what is to be told once bytes are stored again, None otherwise."""
        if self.error is None or bytes_stored <= self._bytes_stored:
            return None
        self.error = None
        return "there is room again: downloading goes on"

    def pause_s(self, interval_s: float) -> float:
        """Return how long to wait before the next look for room: longer each time."""
        doublings = min(max(self._stops - 1, 0), _MOST_DOUBLINGS)
        return min(_STORAGE_PAUSE_S, interval_s) * 2.0**doublings

"""When a watch looks at the history, at how much of it, and how long it pauses in between.

Counts polls that went well and polls that failed, and tells of an outage's beginning and end.
Sends no request and waits for nothing itself.
"""

from __future__ import annotations

import random
import time
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from fetcher.core.account import Class
from fetcher.core.patience import Outage, Relook
from fetcher.core.retry import Bounds, Pace, next_poll_s
from fetcher.errors import ApiError
from fetcher.events import Notice
from fetcher.manifest.store import Store

if TYPE_CHECKING:
    from fetcher.errors import FetcherError
    from fetcher.runs.run import Run

_OUTAGE_PAUSE_S = 600.0  # between polls that fail, at most, and no more than
_OUTAGE_INTERVALS = 20  # so many intervals: whoever polls often wants to hear soon
_REFUSED_PAUSE_S = 300.0  # a refused key is tried again so slowly
_OUTAGE_UNTIL_IDLE_S = 900.0  # `--until-idle` waits out an outage of so long


class Schedule:
    """What the polls of one watch have come to, and what follows from that for the next one.

    `polled_once`: whether any of them went well; `last_poll_at`: when the last of those did.
    """

    def __init__(self, run: Run) -> None:
        self._run = run
        self._rng = random.Random()  # noqa: S311 - jitter, not secrets
        self._outage = Outage()
        self._relook = Relook(run.settings.interval, run.settings.full_every)
        self._knows_wishes = False  # the whole history was taken in by the rules of this run
        self._idle_polls = 0
        self.polled_once = False
        self.last_poll_at: str | None = None

    @property
    def is_down(self) -> bool:
        """Return whether the last poll failed."""
        return self._outage.failures > 0

    @property
    def error(self) -> FetcherError | None:
        """Return why it did, None where it did not."""
        return self._outage.error

    async def is_full_pass_due(self) -> bool:
        """Return whether the next look is to be at the whole history. Raises StorageError."""
        manifest, run = self._run.manifest, self._run
        if await manifest.do(Store.get, "listing_open") != "0":
            return True
        if not self._knows_wishes and await manifest.do(Store.get, "rules") != run.wishes:
            return True
        last_at = _instant(await manifest.do(Store.get, "last_full_at"))
        if last_at is None or self._are_failed_due():
            return True
        age = datetime.now(UTC) - last_at
        # A clock that was set back must not put the next full pass off for ever.
        return not timedelta() <= age < timedelta(seconds=run.settings.full_every)

    def owes_full_pass(self) -> bool:
        """Return whether one is still to take up what an outage, now over, has made fail."""
        self._count_failed()
        return self._relook.is_owed

    def _are_failed_due(self) -> bool:
        """Return whether files that were given up are to be taken up again, which needs the API."""
        self._count_failed()
        return not self.is_down and self._relook.is_due(time.monotonic())

    def _count_failed(self) -> None:
        counts = self._run.account.counts
        self._relook.note(counts[Class.FAILED], counts[Class.TODO], time.monotonic())

    def passed(self) -> None:
        """Take note that the whole history was looked at."""
        self._relook.passed(time.monotonic())
        self._knows_wishes = True

    def went_well(self, *, is_eventful: bool) -> None:
        """Count a poll that went well; `is_eventful`: it brought news, or jobs are pending."""
        if (told := self._outage.end()) is not None:
            self._relook.answered()
            self._run.sink(Notice("INFO", told))
        self.polled_once = True
        self.last_poll_at = datetime.now(UTC).isoformat()
        self._idle_polls = 0 if is_eventful else self._idle_polls + 1

    def failed(self, error: FetcherError) -> None:
        """Bear a failed poll; raise its error where a run that ends by itself should end."""
        now_s = time.monotonic()
        if (told := self._outage.note(error, now_s)) is not None:
            self._run.sink(Notice("ERROR", told))
        is_passing = isinstance(error, ApiError) and self.polled_once
        is_long = now_s - self._outage.since_s > _OUTAGE_UNTIL_IDLE_S
        if self._run.settings.until_idle and (is_long or not is_passing):
            raise error

    def pause_s(self, *, pending: int) -> float:
        """Return how long to pause before the next poll, with so many jobs pending."""
        pace = Pace(pending, self._idle_polls, self._outage.failures)
        interval_s = self._run.settings.interval
        bounds = Bounds(outage_cap_s=min(_OUTAGE_PAUSE_S, interval_s * _OUTAGE_INTERVALS))
        pause_s = next_poll_s(interval_s, pace, rng=self._rng, bounds=bounds)
        if self._outage.is_refused:
            return max(pause_s, min(_REFUSED_PAUSE_S, interval_s * 10))
        return pause_s


def _instant(text: str | None) -> datetime | None:
    """Return the aware time that was recorded, None where there is none to be read."""
    try:
        at = datetime.fromisoformat(text or "")
    except ValueError:
        return None
    return at if at.tzinfo is not None else None

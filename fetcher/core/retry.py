"""Whether to try again, and how long to wait: for one request, and between polls.

Pure: the error, the count, the policy and the source of chance come in, a delay in seconds or a
reason to stop comes out. It never sleeps, reads a clock, or asks for a fresh link (a refused
`audio_url` is given up here; whoever holds the job finds a new one).

What is tried again (contract 5.4)

    408, 425, 429, every 5xx                            RFC 9110 §15.5.9, RFC 8470 §5.2,
                                                        RFC 6585 §4, RFC 9110 §15.6
    refused, reset, stalled, name not found             unless the error says it is permanent
    a body that ended early
    a page, a wrong digest, an answer of no use         a gateway's fault passes
    anything else                                       given up at once

How long: failure n since the last progress waits between half and all of
`min(cap, delay * 2**(n-1))`, and never less than Retry-After asks (RFC 9110 §10.2.3). A
Retry-After beyond the longest that is obeyed gives up at once, and says so.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from fetcher.core.heads import http_date
from fetcher.errors import (
    ConnectionFailedError,
    ContentError,
    FetcherError,
    ShortBodyError,
    StatusError,
    TransferError,
)
from fetcher.frozen import frozen

if TYPE_CHECKING:
    from datetime import datetime
    from random import Random

    from fetcher.models import Head

PRESSED = frozenset({429, 503})  # the host has too much to do, and may say until when

_PASSING_STATUSES = frozenset({408, 425, 429})
_DELTA = re.compile(r"[0-9]+(?:\.[0-9]+)?")
_LONGEST_DELTA_S = 2.0**31  # what RFC 9111 §1.2.2 makes of a delta too large to hold
_MOST_DOUBLINGS = 62  # any cap is reached long before, and 2**n stays a float

_JITTER = 0.1  # of the wait between polls, either way
_PENDING_SHARE = 0.5  # of the interval, while jobs are pending
_IDLE_GRACE_POLLS = 10  # this many polls that found nothing keep the interval
_IDLE_GROWTH = 1.25  # each one after those lengthens it by a quarter


@frozen
class Policy:
    """How patient to be: attempts after the first, and waits in seconds (contract 2 and 5.4)."""

    retries: int = 5
    delay_s: float = 1.0
    cap_s: float = 60.0
    longest_retry_after_s: float = 600.0


@frozen
class Wait:
    """Try again after `delay_s` seconds."""

    delay_s: float


@frozen
class GiveUp:
    """Stop for this run; `reason` is a person's sentence without secrets."""

    reason: str


@frozen
class Pace:
    """How a watcher has fared: jobs pending, polls in a row without news, failures in a row."""

    pending: int = 0
    idle_polls: int = 0
    failures: int = 0


@frozen
class Bounds:
    """Between what waits the poll interval may move.

    `longest_idle`: how many intervals an idle account may wait; `outage_cap_s`: the longest
    wait in seconds while the API fails (the interval itself, where that is longer).
    """

    longest_idle: float = 4.0
    outage_cap_s: float = 600.0


def decide(error: FetcherError, attempt: int, *, policy: Policy, rng: Random) -> Wait | GiveUp:
    """Return how long to wait before trying again after `error`, or why to stop.

    `attempt` counts the failures since the last progress, this one included (1: the first).
    """
    if not _may_pass(error):
        return GiveUp(str(error))
    asked_s = (error.retry_after_s if isinstance(error, TransferError) else None) or 0.0
    if asked_s > policy.longest_retry_after_s:
        return GiveUp(
            f"{error}; the server asks to wait {asked_s:.0f} s, "
            f"longer than {policy.longest_retry_after_s:.0f} s"
        )
    if attempt > policy.retries:
        attempts = "1 attempt" if attempt == 1 else f"{attempt} attempts"
        return GiveUp(f"{error}; given up after {attempts}")
    return Wait(max(asked_s, _backoff_s(attempt, policy.delay_s, policy.cap_s, rng)))


def parse_retry_after(text: str, *, now: datetime) -> float | None:
    """Return the seconds that a Retry-After asks to wait from the aware time `now`.

    Both forms of RFC 9110 §10.2.3: seconds (a fraction is understood as well) and the three
    forms of HTTP-date; a date that has passed is 0. None where it is neither.
    """
    text = text.strip()
    if _DELTA.fullmatch(text):
        return min(float(text), _LONGEST_DELTA_S)
    at = http_date(text)
    return None if at is None else max(0.0, (at - now).total_seconds())


def retry_after_s(head: Head, *, now: datetime) -> float | None:
    """Return the seconds that an answer asks to wait, None where it does not."""
    text = head.headers.get("retry-after")
    return None if text is None else parse_retry_after(text, now=now)


def next_poll_s(
    interval_s: float, pace: Pace, *, rng: Random, bounds: Bounds | None = None
) -> float:
    """Return the seconds until a watcher's next poll, 10 % of chance either way included.

    `interval_s` as a rule. Half of it while jobs are pending. After ten polls without news a
    quarter more each time, up to `bounds.longest_idle` intervals. After failures it doubles
    each time up to `bounds.outage_cap_s`, and pending jobs change nothing.
    """
    bounds = bounds or Bounds()
    if pace.failures > 0:
        doublings = min(pace.failures - 1, _MOST_DOUBLINGS)
        wait_s = min(interval_s * 2.0**doublings, max(bounds.outage_cap_s, interval_s))
    elif pace.pending > 0:
        wait_s = interval_s * _PENDING_SHARE
    else:
        steps = min(max(pace.idle_polls - _IDLE_GRACE_POLLS, 0), _MOST_DOUBLINGS)
        wait_s = interval_s * min(_IDLE_GROWTH**steps, max(bounds.longest_idle, 1.0))
    return wait_s * rng.uniform(1 - _JITTER, 1 + _JITTER)


def _may_pass(error: FetcherError) -> bool:
    """Tell whether the same request may fare better later (contract 5.4)."""
    match error:
        case StatusError(status=status):
            return status in _PASSING_STATUSES or 500 <= status <= 599
        case ConnectionFailedError(permanent=permanent):
            return not permanent
        case ShortBodyError() | ContentError():
            return True
        case _:
            return False


def _backoff_s(attempt: int, delay_s: float, cap_s: float, rng: Random) -> float:
    """Return the wait before the next attempt: uniform between half and all of the step."""
    doublings = min(max(attempt - 1, 0), _MOST_DOUBLINGS)
    step_s = min(cap_s, delay_s * 2.0**doublings)
    return rng.uniform(step_s / 2, step_s)

"""How far the run is, how fast it goes and how long it will take.

Owns the arithmetic behind the bars and the summary line of each minute: files in flight,
bytes that arrived, smoothed rates, time left. Fed by events, told the time by its clock.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

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
    FileEvent,
    ListingProgress,
    PollCompleted,
    QueueGrew,
    RunStarted,
    VerifyProgress,
)
from fetcher.frozen import frozen

if TYPE_CHECKING:
    from collections.abc import Callable

Key = tuple[str, str]  # job id and variant: what tells one file from another

RATE_MEMORY_S = 5.0  # a rate shown follows a change within about so long
LEFT_MEMORY_S = 20.0  # the time left rests on a steadier one, so that it does not jump
SAMPLE_S = 0.25  # bytes are folded into the rates at most this often


class Speed:
    """Bytes a second as an exponential moving average over about `memory_s` seconds.

    The weight of the past falls by e every `memory_s`; the start, when there is no past,
    is corrected for, so that the first figure is already right.
    """

    __slots__ = ("_average", "_counted_at", "_memory_s", "_sum_bytes", "_weight")

    def __init__(self, memory_s: float, now_s: float) -> None:
        self._memory_s = memory_s
        self._counted_at = now_s
        self._sum_bytes = 0.0
        self._average = 0.0
        self._weight = 0.0

    def add(self, count_bytes: float, now_s: float) -> None:
        """Count bytes that arrived up to `now_s` (seconds, monotonic)."""
        self._sum_bytes += count_bytes
        passed_s = now_s - self._counted_at
        if passed_s < SAMPLE_S:
            return
        share = -math.expm1(-passed_s / self._memory_s)
        self._average += share * (self._sum_bytes / passed_s - self._average)
        self._weight += share * (1 - self._weight)
        self._sum_bytes = 0.0
        self._counted_at = now_s

    @property
    def bytes_s(self) -> float:
        """Return the average so far, 0 before the first sample."""
        return self._average / self._weight if self._weight else 0.0


@dataclass(slots=True)
class Flight:
    """One file on its way."""

    id: str
    file_name: str
    started_at: float
    speed: Speed
    bytes_done: int = 0
    bytes_total: int | None = None
    retry_at: float | None = None

    @property
    def fraction(self) -> float:
        """Return the part that is here, 0 to 1; 0 while the length is not known."""
        return min(1.0, self.bytes_done / self.bytes_total) if self.bytes_total else 0.0


@frozen
class Progress:
    """Where the run stands at one moment.

    `settled_files` of `known_files` need nothing more in this run; `is_listing`: more may
    become known. `left_s` is None while it cannot be told.
    """

    settled_files: int
    known_files: int
    listed_records: int
    is_listing: bool
    bytes_arrived: int
    rate_bytes_s: float
    left_s: float | None
    fraction: float

    @property
    def is_busy(self) -> bool:
        """Return whether there is anything still to do."""
        return self.is_listing or self.settled_files < self.known_files


@dataclass(slots=True)
class _Count:
    """Files of the present batch and what is known of their sizes."""

    known: int = 0
    settled: int = 0
    sized: int = 0
    sized_bytes: int = 0


@dataclass(slots=True)
class Pace:
    """A sink that keeps the figures; ask it for `progress()`."""

    clock: Callable[[], float]
    flights: dict[Key, Flight] = field(default_factory=dict)
    bytes_arrived: int = 0
    listed_records: int = 0
    is_listing: bool = False
    _polls: int = 0
    _count: _Count = field(default_factory=_Count)
    _rate: Speed = field(init=False)
    _steady: Speed = field(init=False)

    def __post_init__(self) -> None:
        self._rate = Speed(RATE_MEMORY_S, self.clock())
        self._steady = Speed(LEFT_MEMORY_S, self.clock())

    def __call__(self, event: Event) -> None:
        """Take one event into account."""
        match event:
            case DownloadProgress():
                self._arrived(event, event.bytes_done, event.bytes_total)
            case FileEvent():
                self._file(event)
            case QueueGrew(files=files):
                self._queue(files)
            case ListingProgress(records=records):
                self.listed_records, self.is_listing = records, True
            case PollCompleted():
                self.is_listing = False
                self._polls += 1
            case RunStarted():
                self.is_listing = True
            case VerifyProgress():
                self._checked(event)
            case _:
                pass

    def progress(self) -> Progress:
        """Return where the run stands now."""
        now_s = self.clock()
        self._rate.add(0, now_s)
        self._steady.add(0, now_s)
        count = self._count
        known = max(count.known, count.settled + len(self.flights))
        part = sum(flight.fraction for flight in self.flights.values())
        return Progress(
            settled_files=count.settled,
            known_files=known,
            listed_records=self.listed_records,
            is_listing=self.is_listing,
            bytes_arrived=self.bytes_arrived,
            rate_bytes_s=self._rate.bytes_s,
            left_s=self._left_s(known),
            fraction=min(1.0, (count.settled + part) / known) if known else 0.0,
        )

    def _file(self, event: FileEvent) -> None:
        match event:
            case DownloadStarted():
                self._start(event)
            case DownloadRetrying(delay=delay_s):
                flight = self.flights.get((event.id, event.variant))
                if flight is not None:
                    flight.retry_at = self.clock() + delay_s
            case DownloadCompleted(bytes=size):
                self._arrived(event, size, size)
                self._count.sized += 1
                self._count.sized_bytes += size
                self._end(event)
            case DownloadFailed() | DownloadFiltered() | DownloadAdopted():
                self._end(event)
            case DownloadCancelled():
                self.flights.pop((event.id, event.variant), None)
            case _:
                pass

    def _start(self, event: DownloadStarted) -> None:
        now_s = self.clock()
        self.flights[event.id, event.variant] = Flight(
            id=event.id,
            file_name=event.file_name,
            started_at=now_s,
            speed=Speed(RATE_MEMORY_S, now_s),
            bytes_done=event.resumed_from,
            bytes_total=event.bytes_total,
        )

    def _arrived(self, event: FileEvent, done: int, total: int | None) -> None:
        """Count what is new since the file's last event; a restart from 0 counts nothing."""
        flight = self.flights.get((event.id, event.variant))
        if flight is None:
            return
        now_s = self.clock()
        fresh = max(0, done - flight.bytes_done)
        flight.bytes_done, flight.bytes_total = done, total
        if fresh:
            flight.retry_at = None
        flight.speed.add(fresh, now_s)
        self.bytes_arrived += fresh
        self._rate.add(fresh, now_s)
        self._steady.add(fresh, now_s)

    def _end(self, event: FileEvent) -> None:
        flight = self.flights.pop((event.id, event.variant), None)
        if flight is not None:
            flight.retry_at = None
        self._count.settled += 1

    def _checked(self, event: VerifyProgress) -> None:
        """Count files that were read from disk as those that arrive are counted."""
        now_s = self.clock()
        fresh = event.bytes_done - self.bytes_arrived
        self.bytes_arrived = event.bytes_done
        self._rate.add(fresh, now_s)
        self._steady.add(fresh, now_s)
        count = self._count
        count.known, count.settled = event.files_total, event.files_done
        count.sized, count.sized_bytes = event.files_done, event.bytes_done

    def _queue(self, files: int) -> None:
        """Grow the queue; one that was emptied after a whole listing begins a new batch."""
        count = self._count
        if self._polls and files > 0 and count.settled >= count.known:
            count.known = count.settled = 0
        count.known = max(0, count.known + files)

    def _left_s(self, known: int) -> float | None:
        """Estimate seconds to go: bytes still missing, files not begun at the mean size."""
        rate = self._steady.bytes_s
        totals = [flight.bytes_total for flight in self.flights.values() if flight.bytes_total]
        sized = self._count.sized + len(totals)
        if rate < 1 or not sized or known <= self._count.settled:
            return None
        mean = (self._count.sized_bytes + sum(totals)) / sized
        missing = mean * (known - self._count.settled - len(self.flights))
        for flight in self.flights.values():
            missing += max(0.0, (flight.bytes_total or mean) - flight.bytes_done)
        return missing / rate

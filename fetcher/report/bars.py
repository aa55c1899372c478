"""Bars on a terminal: the whole run, the jobs at the service, the files on their way.

Owns the few lines at the bottom of the terminal while a run goes on, and is the only
importer of tqdm, which draws the meters and places the lines. No thread, no timer: events
redraw, at most ten times a second, and `tick` does when there are none. Each frame is one
write, so nothing is ever torn; log lines go above the bars through `log`.
"""

from __future__ import annotations

import codecs
import threading
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from fetcher.core.text import printable
from fetcher.events import Event, JobFailed, JobProgress, JobSettled
from fetcher.report import rows

if TYPE_CHECKING:
    import os
    from collections.abc import Callable

    from fetcher.report.outlet import Outlet
    from fetcher.report.pace import Flight, Key, Pace

FRAME_S = 0.1  # between two frames
SHOWN_AFTER_S = 0.3  # a file that is done sooner never gets a bar: it would only flicker
SHELF_S = 1.0  # a finished file keeps its line so long, for the next one to take over

# DECAWM off and on: a name that this terminal draws wider than Unicode says is cut at the
# edge and cannot wrap into the next line.
_NO_WRAP, _WRAP = "\x1b[?7l", "\x1b[?7h"
_ERASE_BELOW = "\r\x1b[J"
_ERASE_REST = "\x1b[K"


class _Frame:
    """The file that tqdm writes to: collects one frame, so that it leaves as one write."""

    def __init__(self, encoding: str) -> None:
        self.encoding = encoding
        self._parts: list[str] = []

    def write(self, text: str) -> None:
        self._parts.append(text)

    def flush(self) -> None:
        """Do nothing: `Bars` hands the frame over when it is whole."""

    def take(self) -> str:
        text = "".join(self._parts)
        self._parts.clear()
        return text


class _Slot(tqdm):  # type: ignore[type-arg]  # generic in its stubs only
    """One line of the terminal. Its text comes from `rows`, its place from tqdm."""

    monitor_interval = 0  # no thread of its own

    def __init__(self, frame: _Frame, position: int) -> None:
        super().__init__(
            file=frame,
            position=position,
            leave=False,
            disable=False,
            gui=False,
            delay=float("inf"),  # drawn by `display` alone
            nrows=1 << 16,  # `Bars` keeps to the height
        )

    @staticmethod
    def status_printer(file: Any) -> Callable[[str], None]:
        """Return what draws a line: erased to its end, not padded by a guessed width."""
        return lambda text: file.write(f"\r{text}{_ERASE_REST}")


# tqdm's own lock also spans processes, which costs a semaphore (and a process on macOS).
_Slot.set_lock(threading.RLock())


@dataclass(slots=True)
class _Seat:
    """A line taken by a file; `left_at` once the file has ended."""

    key: Key
    name: str
    flight: Flight
    left_at: float | None = None


@dataclass(slots=True)
class _Seats:
    """Which file has which line: a line is handed on, so that others need not move."""

    seats: list[_Seat] = field(default_factory=list)

    def arrange(self, flights: dict[Key, Flight], now_s: float) -> list[_Seat]:
        """Return the taken lines in order, after files came and went."""
        for seat in self.seats:
            if flights.get(seat.key) is not seat.flight and seat.left_at is None:
                seat.left_at = now_s
        seated = {seat.key for seat in self.seats if seat.left_at is None}
        for key, flight in flights.items():
            if key not in seated and now_s - flight.started_at >= SHOWN_AFTER_S:
                self._seat(key, flight)
        self.seats = [
            seat for seat in self.seats if seat.left_at is None or now_s - seat.left_at < SHELF_S
        ]
        return self.seats

    def _seat(self, key: Key, flight: Flight) -> None:
        name = _visible(flight.file_name, flight.id)
        if any(seat.flight.file_name == flight.file_name for seat in self.seats):
            name = f"{flight.id[:8]} {flight.file_name}"
        seat = _Seat(key, name, flight)
        for number, old in enumerate(self.seats):
            if old.left_at is not None:
                self.seats[number] = seat
                return
        self.seats.append(seat)


class Bars:
    """A sink that shows the run on a terminal.

    `pace` is fed by the caller, before this sink. `clock`: monotonic seconds. `size`: of
    the terminal, asked for each frame, so that a resized one is right at the next; the
    outlet's own by default.
    """

    def __init__(
        self,
        outlet: Outlet,
        pace: Pace,
        *,
        clock: Callable[[], float],
        size: Callable[[], os.terminal_size] | None = None,
    ) -> None:
        self._outlet = outlet
        self._pace = pace
        self._clock = clock
        self._size = size or (lambda: outlet.size)
        self._encoding = codecs.lookup(outlet.encoding).name
        self._frame = _Frame(self._encoding)
        self._slots: list[_Slot] = []
        self._seats = _Seats()
        self._jobs: dict[str, rows.Processing] = {}
        self._logged: list[str] = []
        self._drawn: list[str] = []
        self._drawn_size = outlet.size
        self._next_at = clock()
        self._is_open = True

    def __call__(self, event: Event) -> None:
        """Take one event into account; redraw when it is time."""
        match event:
            case JobProgress():
                name = _visible(event.file_name, event.id)
                self._jobs[event.id] = rows.Processing(name, event.pct, event.message or "")
            case JobSettled() | JobFailed():
                self._jobs.pop(event.id, None)
            case _:
                pass
        self.tick()

    def tick(self) -> None:
        """Redraw when it is time. Called some times a second where events may be rare."""
        if self._is_open and self._clock() >= self._next_at:
            self._draw()

    def log(self, line: str) -> None:
        """Print `line` above the bars, at the next frame at the latest."""
        if not self._is_open:
            self._outlet.write_line(line)
            return
        self._logged.append(line)
        self.tick()

    def close(self) -> None:
        """Take the bars away; what was logged stays. Harmless when done twice."""
        if not self._is_open:
            return
        self._is_open = False
        logged = "".join(f"{line}\n" for line in self._logged)
        self._outlet.write((_ERASE_BELOW if self._drawn else "") + logged)
        for slot in self._slots:
            slot.close()

    def _draw(self) -> None:
        now_s = self._clock()
        self._next_at = now_s + FRAME_S
        if self._outlet.waiting_bytes:
            return  # a terminal held by Ctrl-S: frames would only pile up
        size = self._size()
        lines = self._compose(size, now_s)
        if self._logged or size != self._drawn_size:
            self._start_anew(size)
        if lines != self._drawn:
            self._paint(lines)
        self._outlet.write(self._frame.take())

    def _start_anew(self, size: os.terminal_size) -> None:
        """Erase the bars, from the first line down: the cursor always rests at its start."""
        self._frame.write(_ERASE_BELOW)
        self._frame.write("".join(f"{line}\n" for line in self._logged))
        self._logged.clear()
        self._drawn = []
        self._drawn_size = size

    def _paint(self, lines: list[str]) -> None:
        """Draw the lines that changed and blank those that are no more."""
        self._frame.write(_NO_WRAP)
        while len(self._slots) < len(lines):
            self._slots.append(_Slot(self._frame, len(self._slots)))
        for number, line in enumerate(lines):
            if number >= len(self._drawn) or line != self._drawn[number]:
                self._slots[number].display(line)
        for slot in self._slots[len(lines) : len(self._drawn)]:
            slot.clear(nolock=True)
        self._frame.write(f"\r{_WRAP}")
        self._drawn = lines

    def _compose(self, size: os.terminal_size, now_s: float) -> list[str]:
        """Return the lines of a frame: fewer than the terminal has, each shorter than it."""
        canvas = rows.Canvas(max(1, size.columns - 1), self._encoding, self._meter)
        seats = self._seats.arrange(self._pace.flights, now_s)
        room = max(1, size.lines - 1) - 1
        jobs, files = _share(room, len(self._jobs), len(seats))
        lines = [rows.run_row(canvas, self._pace.progress())]
        lines += [rows.job_row(canvas, job) for job in islice(self._jobs.values(), jobs)]
        lines += [rows.file_row(canvas, seat.name, seat.flight, now_s) for seat in seats[:files]]
        hidden = len(self._jobs) - jobs + len(seats) - files
        if hidden and room:
            lines.append(rows.more_row(canvas, hidden))
        return lines

    def _meter(self, fraction: float, columns: int, at_service: bool) -> str:  # noqa: FBT001 - a rows.Meter
        is_unicode = self._encoding.startswith("utf")
        blocks: str | bool = False if is_unicode else " #"
        if at_service:
            blocks = " ░" if is_unicode else " -"
        return _Slot.format_meter(
            fraction, 1.0, 0.0, ncols=columns, bar_format="|{bar}|", ascii=blocks
        )


def _share(room: int, jobs: int, files: int) -> tuple[int, int]:
    """Return how many jobs and files are shown on `room` lines, one kept for "+3 more"."""
    if jobs + files <= room:
        return jobs, files
    lines = max(0, room - 1)
    shown_files = min(files, max(lines - jobs, (lines + 1) // 2))
    return min(jobs, lines - shown_files), shown_files


def _visible(file_name: str, job_id: str) -> str:
    """Return the name, or the id of a job whose name shows nothing."""
    return file_name if printable(file_name[:1000]).strip() else job_id

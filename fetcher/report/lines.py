"""Log lines: what stderr gets where no bars are, and what `--log-file` keeps.

Owns thresholds, stamps and the summary line of each minute; the words come from `words`.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
from typing import TYPE_CHECKING, Any, TextIO

from fetcher.events import Event, Notice, Planned
from fetcher.frozen import frozen
from fetcher.report.jsonl import dumps, timestamp, utc_now
from fetcher.report.outlet import Outlet, Patience
from fetcher.report.rows import left_words
from fetcher.report.units import human_bytes, human_count, human_rate
from fetcher.report.words import INFO, LEVEL_NAMES, VERBOSE, WARNING, Quote, level_of, plain, words

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime
    from pathlib import Path

    from fetcher.report.pace import Pace, Progress

SUMMARY_EVERY_S = 60.0
_SHOWN = frozenset({"download", "resume", "adopt", "fail"})  # of files that are to be fetched


@frozen
class Style:
    """How log lines look.

    `threshold`: the quietest level of `words` that is shown. `as_json`: one JSON object a
    line. `is_stamped`: text lines begin with the time. `quote`: what makes foreign text safe.
    """

    threshold: int = INFO
    as_json: bool = False
    is_stamped: bool = False
    quote: Quote = plain


class LogLines:
    """A sink that writes one line for each event that is loud enough.

    `write` takes one line without its end. With a `pace`, a line a minute says how far the
    run is while that changes: `clock` is monotonic seconds, `now` the wall clock.
    """

    def __init__(
        self,
        write: Callable[[str], None],
        style: Style,
        *,
        pace: Pace | None = None,
        clock: Callable[[], float],
        now: Callable[[], datetime] = utc_now,
    ) -> None:
        self._write = write
        self._style = style
        self._pace = pace if style.threshold <= INFO else None
        self._clock = clock
        self._now = now
        self._summary_at = clock() + SUMMARY_EVERY_S
        self._stand = (0, 0, 0)

    def __call__(self, event: Event) -> None:
        """Write `event` in words, if it is loud enough."""
        level = level_of(event)
        if level >= self._style.threshold:
            text = words(event, self._style.quote)
            if text:
                self._write(self._line(level, text, event))
        self.tick()

    def tick(self) -> None:
        """Write the summary line of the minute when it is due."""
        if self._pace is None or self._clock() < self._summary_at:
            return
        self._summary_at = self._clock() + SUMMARY_EVERY_S
        progress = self._pace.progress()
        stand = (progress.settled_files, progress.bytes_arrived, progress.listed_records)
        if progress.is_busy and stand != self._stand:  # an outage is not told every minute
            self._stand = stand
            self._write(self._line(INFO, progress_words(progress), None))

    def say(self, level: int, text: str) -> None:
        """Write a line that is no event: `text` is our own, or has been made safe."""
        if level >= self._style.threshold:
            self._write(self._line(level, text, None))

    def _line(self, level: int, text: str, event: Event | None) -> str:
        if self._style.as_json:
            return dumps(self._record(level, text, event))
        loud = f"{LEVEL_NAMES.get(level, 'error')}: {text}" if level >= WARNING else text
        return f"{timestamp(self._now())} {loud}" if self._style.is_stamped else loud

    def _record(self, level: int, text: str, event: Event | None) -> dict[str, Any]:
        head = {"time": timestamp(self._now()), "level": LEVEL_NAMES.get(level, "error")}
        fields = {} if event is None else {"event": event.name, **event.fields()}
        return {**fields, **head, "message": text}


def progress_words(progress: Progress) -> str:
    """Return how far the run is: `120 of 1,204 files, 1.2 GB, 12.3 MB/s, 0:42 left`."""
    if progress.is_listing and not progress.known_files:
        return f"listed so far: {human_count(progress.listed_records)} records"
    more = "+" if progress.is_listing else ""
    parts = [
        f"{human_count(progress.settled_files)} of {human_count(progress.known_files)}{more} files",
        human_bytes(progress.bytes_arrived),
        human_rate(progress.rate_bytes_s),
    ]
    return ", ".join([*parts, *filter(None, [left_words(progress)])])


class PlanLines:
    """A sink that writes the plan of a dry run: action, path and reason of each file.

    Only of what would come to DIR, or would fail to, unless `show_all`.
    """

    def __init__(self, outlet: Outlet, quote: Quote = plain, *, show_all: bool = False) -> None:
        self._outlet = outlet
        self._quote = quote
        self._show_all = show_all

    def __call__(self, event: Event) -> None:
        """Write `event` if it is a row of the plan."""
        if isinstance(event, Planned) and (self._show_all or event.action in _SHOWN):
            self._outlet.write_line(words(event, self._quote))


class LogFile:
    """A sink that appends the full log, as text, to a file; opened at the first line.

    A file that was moved away (log rotation) is opened anew. When it cannot be written,
    `complain` is told once, the run goes on, and the next line is tried again. It may be a
    pipe or a terminal whose reader does not read: that is waited for as an `Outlet` does.
    """

    def __init__(
        self,
        path: Path,
        *,
        threshold: int = VERBOSE,
        complain: Callable[[str], None],
        patience: Patience | None = None,
    ) -> None:
        self._path = path
        self._file: TextIO | None = None
        self._outlet = Outlet(None)
        self._complain: Callable[[str], None] | None = complain
        self._patience = patience or Patience()
        style = Style(threshold=threshold, is_stamped=True)
        self._lines = LogLines(self._append, style, clock=lambda: 0.0)

    def __call__(self, event: Event) -> None:
        """Append `event` in words, if it is loud enough."""
        self._lines(event)

    def say(self, level: int, text: str) -> None:
        """Append a line that is no event."""
        self._lines.say(level, text)

    def pump(self) -> bool:
        """Hand over what a slow reader left; true when nothing is left any more."""
        return self._outlet.pump()

    def drain(self) -> bool:
        """Hand over all that waits, as long as there is patience; true when nothing does."""
        return self._outlet.drain()

    def close(self) -> None:
        """Close the file, whatever still waits for its reader."""
        if self._file is not None:
            with contextlib.suppress(OSError):
                self._file.close()
            self._file, self._outlet = None, Outlet(None)

    def _append(self, line: str) -> None:
        try:
            outlet = self._opened()
        except OSError as error:
            self._lose(error)
        else:
            outlet.write_line(line)

    def _lose(self, error: OSError) -> None:
        self.close()
        if self._complain is not None:
            complain, self._complain = self._complain, None
            why = error.strerror or type(error).__name__
            complain(f"the log file {plain(str(self._path))} cannot be written: {why}")

    def _opened(self) -> Outlet:
        if self._file is not None and self._was_moved(self._file):
            self.close()
        if self._file is None:
            self._file = _open_at_once(self._path)
            self._outlet = Outlet(self._file, on_lost=self._lose, patience=self._patience)
        return self._outlet

    def _was_moved(self, file: TextIO) -> bool:
        try:
            return not os.path.samestat(self._path.stat(), os.fstat(file.fileno()))
        except FileNotFoundError:
            return True


def _open_at_once(path: Path) -> TextIO:
    """Return the open file; a pipe that nobody reads is an error, and no reason to wait.

    Nor is one whose reader does not read: it stays non-blocking, which no other process
    notices, since it was opened for this one alone.
    """
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK
    try:
        descriptor = os.open(path, flags, 0o666)
    except OSError as error:
        if error.errno == errno.ENXIO:
            raise OSError(errno.ENXIO, "nobody reads this pipe") from None
        raise
    return os.fdopen(descriptor, "a", encoding="utf-8")


class StrayRecords(logging.Handler):
    """Turns what other libraries log into notices, so that nothing tears the bars.

    Only the first line and the type of an exception are kept: a library's message may
    hold a URL with its signature, and those stay out of logs (contract 5.6).
    """

    def __init__(self, sink: Callable[[Event], None]) -> None:
        super().__init__(logging.WARNING)
        self._sink = sink

    def emit(self, record: logging.LogRecord) -> None:
        """Hand `record` on as a notice."""
        message = record.getMessage().partition("\n")[0]
        if record.exc_info and record.exc_info[0] is not None:
            message += f" ({record.exc_info[0].__name__})"
        self._sink(Notice(record.levelname, f"{record.name}: {message}"))

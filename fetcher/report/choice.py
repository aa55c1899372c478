"""Which consumers of events a command gets, and their life from first event to close.

`choose` decides from the wishes of the user and what stdout and stderr are; the `Report`
it returns is the one sink that a run is given.
"""

from __future__ import annotations

import codecs
import logging
import time
from collections.abc import Callable, Mapping
from functools import partial
from threading import RLock
from typing import TYPE_CHECKING, Literal, Protocol, Self, TextIO

from fetcher.frozen import frozen
from fetcher.report.jsonl import JsonLines
from fetcher.report.lines import LogFile, LogLines, PlanLines, StrayRecords, Style
from fetcher.report.outlet import OnLost, Outlet, Patience
from fetcher.report.pace import Pace
from fetcher.report.summary import Collector
from fetcher.report.words import (
    DEBUG,
    INFO,
    NOTICE,
    VERBOSE,
    WARNING,
    Quote,
    isolated,
    plain,
)

if TYPE_CHECKING:
    from pathlib import Path

    from fetcher.events import Event, Sink

Clock = Callable[[], float]  # monotonic seconds
Say = Callable[[int, str], None]


@frozen
class Wishes:
    """The options of contract 2 that say what is to be seen. `verbose` counts the `-v`."""

    json: bool = False
    quiet: bool = False
    verbose: int = 0
    progress: Literal["auto", "on", "off"] = "auto"
    log_format: Literal["text", "json"] = "text"
    log_file: Path | None = None
    dry_run: bool = False


@frozen
class Console:
    """The streams of the process and what they are. A stream is None when it is closed.

    `is_dumb`: the terminal cannot move its cursor. `is_journal`: stderr goes to systemd's
    journal, which stamps lines itself.
    """

    stdout: TextIO | None
    stderr: TextIO | None
    stdout_is_tty: bool = False
    stderr_is_tty: bool = False
    is_dumb: bool = False
    is_journal: bool = False

    @classmethod
    def of(
        cls, stdout: TextIO | None, stderr: TextIO | None, environ: Mapping[str, str]
    ) -> Console:
        """Return the console made of these streams."""
        return cls(
            stdout=stdout,
            stderr=stderr,
            stdout_is_tty=_is_tty(stdout),
            stderr_is_tty=_is_tty(stderr),
            is_dumb=environ.get("TERM") == "dumb",
            is_journal="JOURNAL_STREAM" in environ,
        )


class Way(Protocol):
    """What may be slower than the run: a stream, or the log file."""

    def pump(self) -> bool:
        """Hand over what is taken at once; true when nothing is left."""

    def drain(self) -> bool:
        """Hand over all, as long as there is patience; true when nothing is left."""


class Report:
    """All consumers of one run as one sink, and a context manager.

    Call `tick` once a second (four times where `has_bars`), so that what a slow reader left,
    a resized terminal and the line of the minute are seen to when no event comes. Safe to
    call from several threads.

    `collector` keeps what `summary.render` needs; `quote` is how foreign text is made safe
    for stderr.
    """

    def __init__(
        self, quote: Quote = plain, *, has_bars: bool = False, patience: Patience | None = None
    ) -> None:
        self.collector = Collector()
        self.quote = quote
        self.has_bars = has_bars
        self._sinks: list[Sink] = [self.collector]
        self._ticks: list[Callable[[], None]] = []
        self._says: list[Say] = []
        self._closers: list[Callable[[], None]] = []
        self._ways: list[Way] = []
        self._results: list[Outlet] = []
        self._ends: list[Callable[[], None]] = []
        self._patience = patience or Patience()
        self._strays = StrayRecords(self)
        self._lock = RLock()

    def __call__(self, event: Event) -> None:
        """Hand `event` to every consumer. Never raises for what becomes of a stream."""
        with self._lock:
            for sink in self._sinks:
                sink(event)

    def tick(self) -> None:
        """See to what is due without an event."""
        with self._lock:
            for way in (*self._results, *self._ways):
                way.pump()
            for tick in self._ticks:
                tick()

    def say(self, text: str, *, level: int = NOTICE) -> None:
        """Tell the person at stderr, and the log file, one line that is no event.

        `text` is our own or went through `quote`; `level` is one of `words`.
        """
        with self._lock:
            for say in self._says:
                say(level, text)

    def close(self) -> bool:
        """Take the bars away and hand over what still waits; harmless when done twice.

        Waits for slow readers as long as there is patience, for that of the results first;
        true when that one has got all.
        """
        logging.getLogger().removeHandler(self._strays)
        with self._lock:
            for close in self._closers:
                close()
            are_told = [outlet.drain() for outlet in self._results]
            for way in self._ways:
                way.drain()
        return all(are_told)

    def __enter__(self) -> Self:
        """Begin: until the end, what libraries log goes through this report."""
        logging.getLogger().addHandler(self._strays)
        return self

    def __exit__(self, *_: object) -> None:
        """Close, for good: what was opened here as well."""
        self.close()
        for end in self._ends:
            end()

    def add(
        self,
        sink: Sink,
        *,
        tick: Callable[[], None] | None = None,
        say: Say | None = None,
        close: Callable[[], None] | None = None,
    ) -> None:
        """Add a consumer, after those that are here: each event passes them in this order."""
        self._sinks.append(sink)
        self._ticks += [tick] if tick else []
        self._says += [say] if say else []
        self._closers += [close] if close else []

    def open(self, stream: TextIO | None, *, encoding: str | None = None) -> Outlet:
        """Return an outlet to `stream` that `tick` and `close` see to."""
        outlet = Outlet(stream, encoding=encoding, patience=self._patience)
        self._ways.append(outlet)
        self._ends.append(outlet.close)
        return outlet

    def open_results(
        self, stream: TextIO | None, *, encoding: str | None = None, on_lost: OnLost | None = None
    ) -> Outlet:
        """Return such an outlet for what the run is to hand over; `close` answers for it."""
        outlet = Outlet(stream, encoding=encoding, on_lost=on_lost, patience=self._patience)
        self._results.append(outlet)
        self._ends.append(outlet.close)
        return outlet

    def keep_log(self, path: Path, *, threshold: int) -> None:
        """Add the log file; one that cannot be written is told to the person at stderr."""
        complain = partial(self.say, level=WARNING)
        file = LogFile(path, threshold=threshold, complain=complain, patience=self._patience)
        self.add(file, say=file.say)
        self._ways.append(file)
        self._ends.append(file.close)


def choose(
    wishes: Wishes,
    console: Console,
    *,
    on_lost: OnLost | None = None,
    patience: Patience | None = None,
    clock: Clock = time.monotonic,
) -> Report:
    """Return the report that these wishes ask for on this console.

    Bars and log lines go to stderr; stdout is for `--json`, or for the plan of a dry run.
    `on_lost` is called once, with the error, when stdout was lost: BrokenPipeError when its
    reader has gone, any other OSError for a full disk and the like. The run should then be
    stopped; nothing is written to stdout any more. `patience`: with readers that do not read.
    """
    has_bars = wants_bars(wishes, console)
    quote = _quote(console.stderr, is_tty=console.stderr_is_tty)
    report = Report(quote, has_bars=has_bars, patience=patience)
    pace = Pace(clock)
    if has_bars or threshold_of(wishes, has_bars=has_bars) <= INFO:
        report.add(pace)
    _add_stderr(report, wishes, console, pace)
    if wishes.log_file is not None:
        report.keep_log(wishes.log_file, threshold=DEBUG if wishes.verbose > 1 else VERBOSE)
    if wishes.json:
        report.add(
            JsonLines(report.open_results(console.stdout, encoding="utf-8", on_lost=on_lost))
        )
    elif wishes.dry_run:
        outlet = report.open_results(console.stdout, on_lost=on_lost)
        quote = _quote(console.stdout, is_tty=console.stdout_is_tty)
        report.add(PlanLines(outlet, quote, show_all=wishes.verbose > 0))
    return report


def wants_bars(wishes: Wishes, console: Console) -> bool:
    """Return whether bars are shown: where stderr is a terminal that nothing else uses.

    JSON lines or a plan on the same terminal would tear them; `--progress on` insists.
    """
    if wishes.progress != "auto":
        return wishes.progress == "on" and console.stderr is not None
    is_shared = console.stdout_is_tty and (wishes.json or wishes.dry_run)
    is_able = console.stderr_is_tty and not console.is_dumb
    return is_able and not is_shared and not wishes.quiet and wishes.log_format == "text"


def threshold_of(wishes: Wishes, *, has_bars: bool) -> int:
    """Return the quietest level that stderr gets: a level of `words`."""
    if wishes.quiet:
        return WARNING
    if wishes.verbose:
        return VERBOSE if wishes.verbose == 1 else DEBUG
    return NOTICE if has_bars else INFO


def _add_stderr(report: Report, wishes: Wishes, console: Console, pace: Pace) -> None:
    """Add log lines, and the bars below them where they are wanted."""
    as_json = wishes.log_format == "json"
    outlet = report.open(console.stderr, encoding="utf-8" if as_json else None)
    if report.has_bars:
        from fetcher.report.bars import Bars  # noqa: PLC0415 - tqdm costs 60 ms

        bars = Bars(outlet, pace, clock=pace.clock)
        report.add(bars, tick=bars.tick, close=bars.close)
        write = bars.log
    else:
        write = outlet.write_line
    style = Style(
        threshold=threshold_of(wishes, has_bars=report.has_bars),
        as_json=as_json,
        is_stamped=not (console.stderr_is_tty or console.is_journal),
        quote=report.quote,
    )
    lines = LogLines(write, style, pace=None if report.has_bars else pace, clock=pace.clock)
    report.add(lines, tick=lines.tick, say=lines.say)


def _quote(stream: TextIO | None, *, is_tty: bool) -> Quote:
    """Return how foreign text is made safe there: isolates only where a terminal reads them."""
    encoding = getattr(stream, "encoding", None) or "ascii"
    return isolated if is_tty and codecs.lookup(encoding).name.startswith("utf") else plain


def _is_tty(stream: TextIO | None) -> bool:
    try:
        return stream is not None and stream.isatty()
    except ValueError:  # closed
        return False

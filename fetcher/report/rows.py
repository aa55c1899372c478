"""The rows of bars as text: what stands where, at any width.

Pure: figures and a `Canvas` of so many columns in, lines out. A row is never wider than
its canvas, names are cut between letters, right-to-left names cannot move the numbers.
Knows nothing of terminals; the graphic meter is drawn by a function it is given.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

from fetcher.core.text import fit, isolate, printable, width
from fetcher.frozen import frozen
from fetcher.report.units import human_bytes, human_clock, human_count, human_rate

if TYPE_CHECKING:
    from fetcher.report.pace import Flight, Progress

# (fraction 0..1, columns, whether the work is the service's) -> exactly so many columns
Meter = Callable[[float, int, bool], str]

LEAST_METER = 6  # columns; a narrower one says nothing
ROOMY = 39  # columns from which on there are meters and whole words
WIDEST_NAME = 40  # columns; what is more belongs to the meter
FIGURES = 38  # columns of the richest figures, so that meters end under one another
GAP = 2


@frozen
class Canvas:
    """What rows are drawn on. `encoding`: what of it the terminal can show."""

    columns: int
    encoding: str
    meter: Meter


@frozen
class Processing:
    """A job that the service is working on; `pct` is None until it says something."""

    name: str
    pct: float | None = None
    message: str = ""


@frozen
class Label:
    """What stands at the left of a row; `is_whole`: never cut to make room for figures."""

    text: str
    is_whole: bool = False


@frozen
class Gauge:
    """What a row's meter shows."""

    fraction: float
    at_service: bool = False


def run_row(canvas: Canvas, progress: Progress) -> str:
    """Return the row of the whole run: files done of known, bytes, rate, time left."""
    if not progress.known_files:
        what = "listing" if progress.is_listing else "up to date"
        return _text_row(canvas, f"{what}: {human_count(progress.listed_records)} records")
    more = "+" if progress.is_listing else ""
    label = f"{progress.settled_files}/{progress.known_files}{more}"
    if canvas.columns >= ROOMY:
        done, known = human_count(progress.settled_files), human_count(progress.known_files)
        label = f"{done} of {known}{more} files"
    pct, left = _percent(progress.fraction), left_words(progress)
    size, rate = human_bytes(progress.bytes_arrived), human_rate(progress.rate_bytes_s)
    figures = [
        f"{pct}  {size:>7}  {rate:>9}  {left:>12}",
        f"{pct}  {rate:>9}  {left:>9}",
        f"{pct}  {left:>9}",
        left or pct,
        pct,
    ]
    return _row(canvas, Label(label, is_whole=True), figures, Gauge(progress.fraction))


def file_row(canvas: Canvas, name: str, flight: Flight, now_s: float) -> str:
    """Return the row of one file: name, meter, percent, bytes, rate."""
    if flight.retry_at is not None and flight.retry_at > now_s:
        wait = human_clock(flight.retry_at - now_s)
        figures = [f"{f'next attempt in {wait}':<{FIGURES}}", f"retry {wait}", wait]
        return _row(canvas, Label(name), figures, Gauge(flight.fraction))
    done, pct = human_bytes(flight.bytes_done), _percent(flight.fraction)
    size = f"{done}/{human_bytes(flight.bytes_total)}" if flight.bytes_total else done
    rate = human_rate(flight.speed.bytes_s)
    if not flight.bytes_total:
        return _row(canvas, Label(name), [f"{'':4}  {done:>15}  {rate:>9}{'':6}", done], None)
    figures = [f"{pct}  {size:>15}  {rate:>9}{'':6}", f"{pct}  {size:>15}", pct]
    return _row(canvas, Label(name), figures, Gauge(flight.fraction))


def job_row(canvas: Canvas, job: Processing) -> str:
    """Return the row of a job at the service: name, meter, percent, its own message."""
    pct = " " * 4 if job.pct is None else _percent(job.pct / 100)
    room = FIGURES - 6
    message = _cell(_shown(job.message, canvas.encoding) or "at the service", room, canvas.encoding)
    gauge = Gauge(0.0 if job.pct is None else job.pct / 100, at_service=True)
    return _row(canvas, Label(job.name), [f"{pct}  {message}", pct], gauge)


def more_row(canvas: Canvas, hidden: int) -> str:
    """Return the row that stands for those that found no room."""
    return _text_row(canvas, f"+{human_count(hidden)} more")


def left_words(progress: Progress) -> str:
    """Return `0:42 left`, with a `+` while more may become known; empty while nobody knows."""
    if progress.left_s is None:
        return ""
    return f"{human_clock(progress.left_s)}{'+' if progress.is_listing else ''} left"


def _text_row(canvas: Canvas, text: str) -> str:
    return _cell(text, canvas.columns, canvas.encoding).rstrip()


def _row(canvas: Canvas, label: Label, figures: Sequence[str], gauge: Gauge | None) -> str:
    """Lay a row out: label, meter, the richest of `figures` that leaves room for both."""
    shown = _shown(label.text, canvas.encoding)
    own = width(shown)
    base = min(WIDEST_NAME, canvas.columns * 3 // 10)
    base = max(base, own) if label.is_whole else base
    if canvas.columns >= ROOMY and gauge is not None:
        for right in figures:
            meter_columns = canvas.columns - base - width(right) - 1 - GAP
            if meter_columns >= LEAST_METER:
                fraction = min(1.0, max(0.0, gauge.fraction))
                meter = canvas.meter(fraction, meter_columns, gauge.at_service)
                return f"{_cell(shown, base, canvas.encoding)} {meter}{' ' * GAP}{right}".rstrip()
    least = own if label.is_whole else min(own, max(6, base))
    right = next((text for text in figures if least + 1 + width(text) <= canvas.columns), "")
    for_label = canvas.columns - (width(right) + 1 if right else 0)
    return f"{_cell(shown, for_label, canvas.encoding)} {right}".rstrip()


@lru_cache(maxsize=512)  # a name is measured once, not ten times a second
def _cell(text: str, columns: int, encoding: str) -> str:
    """Return `text` cut and filled to exactly `columns`."""
    cut = fit(text, columns)
    filled = " " * max(0, columns - width(cut))
    if not encoding.startswith("utf"):
        return cut.replace("…", "~") + filled
    return isolate(cut) + filled


@lru_cache(maxsize=512)
def _shown(text: str, encoding: str) -> str:
    """Return foreign text as this terminal can show it."""
    safe = printable(text[:1000]).strip()
    if encoding.startswith("utf"):
        return safe
    return safe.encode(encoding, "replace").decode(encoding, "replace")


def _percent(fraction: float) -> str:
    """Return ` 45%`; 100% only when nothing is missing."""
    return f"{math.floor(min(1.0, max(0.0, fraction)) * 100):>3}%"

"""Numbers as a person reads them: the one place where bytes, rates and times become words.

Pure. Decimal units (1 MB = 1,000,000 bytes), as networks and disks are sold; never longer
than seven characters for a size, so that columns of bars keep their width.
"""

from __future__ import annotations

import math

_UNITS = ("B", "kB", "MB", "GB", "TB", "PB")


def human_bytes(count: float) -> str:
    """Return a size: `0 B`, `999 B`, `1.2 kB`, `12.3 MB`, `123 GB`. Below 0 or no number: 0."""
    value = count if math.isfinite(count) and count > 0 else 0.0
    if value < 999.5:
        return f"{value:.0f} B"  # there are no tenths of a byte
    power = 0
    while value >= 999.5 and power < len(_UNITS) - 1:
        value /= 1000
        power += 1
    digits = 1 if value < 99.95 else 0
    return f"{value:.{digits}f} {_UNITS[power]}"


def human_rate(bytes_s: float) -> str:
    """Return bytes per second: `12.3 MB/s`."""
    return f"{human_bytes(bytes_s)}/s"


def human_count(count: int) -> str:
    """Return a count with thousands apart: `1,204`."""
    return f"{count:,}"


def human_duration(seconds: float) -> str:
    """Return a time that has passed: `0.4 s`, `42 s`, `12 min 5 s`, `1 h 5 min`, `2 d 3 h`."""
    value = _whole(seconds)
    if not value or seconds < 9.95:
        return f"{seconds if 0 < seconds < 9.95 else 0.0:.1f} s"
    if value < 60:
        return f"{value} s"
    if value < 3600:
        return _pair(value // 60, "min", value % 60, "s")
    if value < 86400:
        return _pair(value // 3600, "h", value % 3600 // 60, "min")
    return _pair(value // 86400, "d", value % 86400 // 3600, "h")


def human_clock(seconds: float) -> str:
    """Return a time to go, no finer than it can be known: `0:42`, `12:05`, `1h 05m`, `2d 3h`."""
    value = _whole(seconds)
    if value < 3600:
        return f"{value // 60}:{value % 60:02d}"
    if value < 86400:
        return f"{value // 3600}h {value % 3600 // 60:02d}m"
    return f"{value // 86400}d {value % 86400 // 3600}h"


def _whole(seconds: float) -> int:
    return round(seconds) if math.isfinite(seconds) and seconds > 0 else 0


def _pair(count: int, unit: str, rest: int, smaller: str) -> str:
    return f"{count} {unit} {rest} {smaller}" if rest else f"{count} {unit}"

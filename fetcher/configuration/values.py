"""The kinds of values that options take: from text, TOML or Python to what fetcher works with.

Owns the grammar of sizes, durations, bounds in time, addresses and the like, and the way
back to text. A parser takes any object and raises ValueError with what would be right,
worded to follow the refused value ("is no size: write ..."); who asked (a flag, a file) is
the caller's to name. No option is named here; nothing is read but the value.
"""

from __future__ import annotations

import re
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

_KIB = 1024
_SIZE_UNITS = {"": 1, "b": 1} | {
    f"{letter}{end}": _KIB**power
    for power, letter in enumerate("kmgt", start=1)
    for end in ("", "b", "ib")
}
_SECOND_UNITS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}
_LARGEST_BYTES = 2**63 - 1  # what the manifest can hold
_LONGEST_S = 3650 * 86_400  # ten years: beyond it, a slip
_LONGEST_AGE_S = 36_500 * 86_400
_NUMBER = re.compile(r"([0-9]{1,20}(?:\.[0-9]{0,20})?|\.[0-9]{1,20})\s*([a-z]{0,3})", re.IGNORECASE)
_TRUE, _FALSE = ("1", "true", "yes", "on"), ("0", "false", "no", "off")


def nearest(word: str, words: Iterable[str]) -> str:
    """Return "; did you mean X?" for the most similar of `words`, "" where none is similar."""
    from difflib import get_close_matches  # noqa: PLC0415 - only errors pay for it

    found = get_close_matches(word, list(words), n=1, cutoff=0.6)
    return f"; did you mean {found[0]}?" if found else ""


# ---- numbers -----------------------------------------------------------------------------


def _quantity(value: object, units: Mapping[str, int]) -> float | None:
    """Return number times unit; an int where it is written as one; None where it is none."""
    if isinstance(value, bool):
        return None
    if isinstance(value, int | float):
        return value
    found = _NUMBER.fullmatch(value.strip()) if isinstance(value, str) else None
    if found is None or found[2].lower() not in units:
        return None
    number = float(found[1]) if "." in found[1] else int(found[1])
    return number * units[found[2].lower()]


def parse_size(value: object) -> int:
    """Return bytes, 0 or more: `500K`, `2M`, `1.5G`, `2MiB` or plain bytes; K is 1024.

    A fraction of a byte is cut off. Raises ValueError.
    """
    size_bytes = _quantity(value, _SIZE_UNITS)
    if size_bytes is None or not 0 <= size_bytes <= _LARGEST_BYTES:  # nan fails the comparison
        raise ValueError("is no size: write bytes, or a number with K, M, G or T, such as 256M")
    return int(size_bytes)


def parse_rate(value: object) -> int | None:
    """Return bytes a second, None for `0` (no limit); `/s` at the end changes nothing.

    Raises ValueError.
    """
    text = value.strip() if isinstance(value, str) else value
    if isinstance(text, str) and text.lower().endswith("/s"):
        text = text[:-2]
    try:
        return parse_size(text) or None
    except ValueError:
        raise ValueError(
            "is no rate: write bytes a second, or a number with K, M or G, such as 2M"
        ) from None


def parse_delay(value: object) -> float:
    """Return seconds, 0 to ten years: `30`, `0.5`, `90s`, `10m`, `12h`, `1d`, `1w`.

    Raises ValueError.
    """
    if isinstance(value, timedelta):
        value = value.total_seconds()
    seconds = _quantity(value, _SECOND_UNITS)
    if seconds is None or not 0 <= seconds <= _LONGEST_S:
        raise ValueError("is no duration: write seconds, such as 30 or 0.5, or 10m, 12h, 1d")
    return float(seconds)


def parse_duration(value: object) -> float:
    """Return seconds as `parse_delay` does, and refuse 0. Raises ValueError."""
    seconds = parse_delay(value)
    if seconds == 0:
        raise ValueError("is too short: write more than 0 seconds")
    return seconds


def whole(least: int, most: int) -> Callable[[object], int]:
    """Return a parser of whole numbers from `least` to `most`."""

    def parse(value: object) -> int:
        text = value.strip() if isinstance(value, str) else value
        number: int | None = None
        if isinstance(text, str) and re.fullmatch(r"[+-]?[0-9]{1,18}", text):
            number = int(text)
        elif isinstance(text, int) and not isinstance(text, bool):
            number = text
        if number is None:
            raise ValueError(f"is no whole number: write one from {least} to {most}")
        if not least <= number <= most:
            raise ValueError(f"is out of range: write a whole number from {least} to {most}")
        return number

    return parse


def show_size(value: object) -> str:
    """Return bytes with the largest unit that divides them: 268435456 is `256M`."""
    size_bytes = parse_size(value)
    for power, letter in ((4, "T"), (3, "G"), (2, "M"), (1, "K")):
        if size_bytes and size_bytes % _KIB**power == 0:
            return f"{size_bytes // _KIB**power}{letter}"
    return str(size_bytes)


def show_seconds(value: object) -> str:
    """Return seconds as a decimal fraction without needless zeros."""
    return f"{parse_delay(value):.9f}".rstrip("0").rstrip(".")


# ---- switches and words ------------------------------------------------------------------


def parse_switch(value: object) -> bool:
    """Return the truth of `1`, `0`, `true`, `false`, `yes`, `no`, `on`, `off`.

    Raises ValueError.
    """
    if isinstance(value, bool):
        return value
    word = str(value).strip().lower()
    if word in _TRUE or word in _FALSE:
        return word in _TRUE
    raise ValueError("is neither on nor off: write 1 or 0")


def choice(*words: str) -> Callable[[object], str]:
    """Return a parser that takes one of `words`, whatever the case."""

    def parse(value: object) -> str:
        word = str(value).strip().lower()
        if word not in words:
            raise ValueError(f"is none of {', '.join(words)}{nearest(word, words)}")
        return word

    return parse


def is_utf8(text: str) -> bool:
    """Return whether the text can be encoded: bytes that are no UTF-8 stand as surrogates in it."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def parse_text(value: object) -> str:
    """Return the text, which must hold something, no NUL and nothing but UTF-8.

    Raises ValueError.
    """
    text = parse_words(value)
    if not is_utf8(text):
        raise ValueError("is no UTF-8 text: write it in UTF-8")
    return text


def parse_words(value: object) -> str:
    """Return what the system takes as bytes, a path or a command: not empty, without NUL.

    Raises ValueError.
    """
    if not isinstance(value, str):
        raise ValueError("is no text: write it between quotes")  # noqa: TRY004 - one type for all
    if not value.strip():
        raise ValueError("is empty: write something, or leave the option out")
    if "\0" in value:
        raise ValueError("holds a NUL character, which no name or command can hold")
    return value


def parse_path(value: object) -> Path:
    """Return the path; `~/` at its start is the user's home. Raises ValueError."""
    text = parse_words(str(value) if isinstance(value, Path) else value)
    if text == "~" or text.startswith("~/"):
        return Path(text).expanduser()
    return Path(text)


# ---- time --------------------------------------------------------------------------------

_BOUND = "is no point in time: write 2025-01-31, 2025-01-31T18:30, or an age such as 7d"


def _bound(value: object) -> datetime | date | timedelta:
    if isinstance(value, datetime | date | timedelta):
        return value
    text = value.strip() if isinstance(value, str) else ""
    if re.fullmatch(r"[0-9.]+\s*[smhdw]", text, re.IGNORECASE):
        age_s = _quantity(text, _SECOND_UNITS)
        if age_s is not None and age_s <= _LONGEST_AGE_S:
            return timedelta(seconds=age_s)
    if not re.match(r"[0-9]{8}$|[0-9]{4}-[0-9]{2}-", text):  # ISO 8601 has stranger forms
        raise ValueError(_BOUND)
    try:
        return date.fromisoformat(text) if len(text) <= 10 else datetime.fromisoformat(text)
    except ValueError:
        raise ValueError(_BOUND) from None


def _aware(value: datetime) -> datetime:
    if value.tzinfo is None:
        return value.replace(tzinfo=UTC)
    try:
        return value.astimezone(UTC)
    except OverflowError:  # the first and last hours that a calendar has
        raise ValueError(_BOUND) from None


def parse_since(value: object) -> datetime | timedelta:
    """Return the first moment that is meant, aware and UTC, or the age before now.

    A date begins at 00:00 UTC; a date-time without a zone is UTC; an age is a number with
    s, m, h, d or w. Raises ValueError.
    """
    bound = _bound(value)
    if isinstance(bound, timedelta):
        return bound
    return _aware(bound if isinstance(bound, datetime) else datetime.combine(bound, time.min))


def parse_until(value: object) -> datetime | timedelta:
    """Return the last moment that is meant, as `parse_since`; a date ends with its day.

    Raises ValueError.
    """
    bound = _bound(value)
    if isinstance(bound, timedelta):
        return bound
    return _aware(bound if isinstance(bound, datetime) else datetime.combine(bound, time.max))


def show_time(value: object) -> str:
    """Return an aware time as ISO 8601 in UTC with a final Z."""
    return str(value.isoformat()).replace("+00:00", "Z") if isinstance(value, datetime) else ""

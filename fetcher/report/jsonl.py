"""The public events as JSON lines (contract 6): what a program reads from `--json`.

Owns the shape of a line: `event`, `time`, then the event's own fields. Always UTF-8,
whatever the locale; one line is one physical line for every reader.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fetcher.events import Event
    from fetcher.report.outlet import Outlet

# Legal raw in JSON, yet harmful outside it: DEL and the C1 controls drive terminals, NEL
# and U+2028/2029 split lines for many readers, the bidi controls reorder what is shown.
_HARMFUL = re.compile("[\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff]")

_ENCODER = json.JSONEncoder(ensure_ascii=False, allow_nan=False)


def utc_now() -> datetime:
    """Return the time of the wall clock, aware and UTC."""
    return datetime.now(UTC)


def timestamp(at: datetime) -> str:
    """Return `at` (aware) as ISO 8601 in UTC, to the millisecond: `2025-01-31T12:00:00.000Z`."""
    return at.astimezone(UTC).isoformat(timespec="milliseconds").removesuffix("+00:00") + "Z"


def dumps(value: Mapping[str, Any]) -> str:
    r"""Return `value` as one line of JSON that any UTF-8 stream can carry.

    Text stays readable; lone surrogates (which UTF-8 cannot hold), control characters and
    line separators become `\u` escapes; NaN and the infinities, which JSON lacks, null.
    """
    try:
        text = _ENCODER.encode(value)
    except ValueError:
        text = _ENCODER.encode(_finite(value))
    if text.isascii():
        return text if "\x7f" not in text else text.replace("\x7f", "\\u007f")
    try:
        text.encode()
    except UnicodeEncodeError:
        return json.dumps(json.loads(text)).replace("\x7f", "\\u007f")
    return _HARMFUL.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def encode(event: Event, at: datetime) -> str:
    """Return the line, without its end, that tells of `event` at the time `at`."""
    return dumps({"event": event.name, "time": timestamp(at), **event.fields()})


class JsonLines:
    """A sink that writes each public event as one line of JSON, at once."""

    def __init__(self, outlet: Outlet, *, now: Callable[[], datetime] = utc_now) -> None:
        self._outlet = outlet
        self._now = now

    def __call__(self, event: Event) -> None:
        """Write `event`, unless it is not public."""
        if event.public:
            self._outlet.write(encode(event, self._now()) + "\n")


def _finite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return value

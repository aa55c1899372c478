"""Server-Sent Events of one job: bytes in, typed values out.

Owns the stream's grammar (WHATWG HTML, "9.2.6 Interpreting an event stream") and the
meaning of its messages (`GET /denoise/{id}/progress`). Pure: no sockets, no clock; the
client feeds it. Nothing a server sends raises here: what cannot be understood is a value
too, `Unknown`.
"""

from __future__ import annotations

import json
import math
import re

from fetcher.frozen import frozen

LONGEST_LINE_BYTES = 64 * 1024
_LONGEST_MESSAGE = 500  # characters of a foreign message that are kept
_LINE_END = re.compile(rb"\r\n|\n|\r")
_SURROGATE = re.compile("[\ud800-\udfff]")


@frozen
class Processing:
    """The service works on the job: `pct` 0..100, None where it said no number."""

    pct: float | None
    message: str | None = None


@frozen
class Done:
    """The job is finished; `url` is its denoised audio, as the server wrote it."""

    url: str
    denoise_id: str | None = None


@frozen
class Errored:
    """The service failed the job."""

    message: str | None = None


@frozen
class Unknown:
    """A message that says nothing fetcher knows; `reason` may be printed."""

    reason: str


Progress = Processing | Done | Errored | Unknown


class EventParser:
    """Turns the bytes of one stream, however they are cut, into values."""

    def __init__(self) -> None:
        self._held = bytearray()  # an unfinished line
        self._data: list[bytes] = []  # the `data` lines of the unfinished message
        self._data_bytes = 0
        self._skipping = False  # within a line that is too long
        self._after_cr = False
        self._first = True

    def feed(self, chunk: bytes) -> list[Progress]:
        """Return the messages that `chunk` completes, in order."""
        if self._after_cr and chunk:
            chunk = chunk.removeprefix(b"\n")  # the second half of a CRLF
            self._after_cr = False
        found: list[Progress] = []
        start = 0
        for end in _LINE_END.finditer(chunk):
            self._hold(chunk[start : end.start()])
            self._take_line(found)
            start = end.end()
        self._hold(chunk[start:])
        self._after_cr = self._after_cr or chunk.endswith(b"\r")
        return found

    def _hold(self, piece: bytes) -> None:
        """Keep a piece of a line, up to the limit."""
        if len(self._held) + len(piece) > LONGEST_LINE_BYTES:
            self._skipping = True
            self._held.clear()
        if not self._skipping:
            self._held += piece

    def _take_line(self, found: list[Progress]) -> None:
        """Interpret the line that is complete now."""
        line = bytes(self._held)
        self._held.clear()
        if self._first:
            self._first = False
            line = line.removeprefix(b"\xef\xbb\xbf")
        if self._skipping:
            self._skipping = False
            self._data_bytes = LONGEST_LINE_BYTES + 1
        elif not line:
            self._take_message(found)
        else:
            self._take_field(line)

    def _take_field(self, line: bytes) -> None:
        """Keep the value of a `data` field; comments, ids and event names are not used."""
        name, _, value = line.partition(b":")
        if name != b"data":
            return
        value = value.removeprefix(b" ")
        self._data_bytes += len(value) + 1
        if self._data_bytes <= LONGEST_LINE_BYTES:
            self._data.append(value)

    def _take_message(self, found: list[Progress]) -> None:
        """Dispatch the message that a blank line ends; one without data is none."""
        if self._data_bytes > LONGEST_LINE_BYTES:
            found.append(Unknown("a message that is too long"))
        elif self._data:
            found.append(interpret(b"\n".join(self._data)))
        self._data.clear()
        self._data_bytes = 0


def interpret(data: bytes) -> Progress:
    """Return what one message says."""
    try:
        value = json.loads(data.decode("utf-8", "replace"))
    except (ValueError, RecursionError):
        return Unknown("a message that is not JSON")
    if not isinstance(value, dict):
        return Unknown("a message that is no JSON object")
    match value.get("stage"):
        case "processing":
            return Processing(_percentage(value.get("pct")), _text(value.get("message")))
        case "done":
            return _done(value.get("url"), value.get("denoiseId"))
        case "error":
            return Errored(_text(value.get("message")))
        case stage:
            return Unknown(f"a stage called {ascii(stage)[:60]}")


def _done(url: object, denoise_id: object) -> Done | Unknown:
    """Return the end of a job that succeeded; without a link it says nothing."""
    if not isinstance(url, str) or not url:
        return Unknown("done without a url")
    return Done(_SURROGATE.sub("\ufffd", url), _text(denoise_id))


def _percentage(value: object) -> float | None:
    """Return a number from 0 to 100, None where there is none."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    if isinstance(value, float) and math.isnan(value):
        return None
    return float(min(max(value, 0), 100))


def _text(value: object) -> str | None:
    """Return foreign text, bounded and without lone surrogates."""
    if not isinstance(value, str):
        return None
    return _SURROGATE.sub("\ufffd", value[:_LONGEST_MESSAGE])

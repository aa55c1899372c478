"""What the fields of a response's head say: lengths, ranges, codings, dates, validators.

Reads single fields strictly, as RFC 9110 writes them; decides nothing (`ranges` and `proof`
do). Pure: text in, values out, and what is malformed is None or a ValueError, never a guess.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING

from fetcher.models import Validator

if TYPE_CHECKING:
    from fetcher.models import Head

# RFC 9110 §8.8.3. Narrower in two points: an empty tag names every version alike, and a byte
# outside ASCII may not come back as it was sent.
_ETAG = re.compile(r'(?:W/)?"[\x21\x23-\x7e]+"')
_KEPT = re.compile(r"[\x20-\x7e]{1,1024}")  # what may be stored and compared, well-formed or not
_CONTENT_RANGE = re.compile(r"bytes[ \t]+([0-9]{1,18})-([0-9]{1,18})/([0-9]{1,18}|\*)", re.I)
_LENGTH = re.compile(r"[0-9]{1,18}")  # RFC 9110 §8.6: digits only; 18 of them reach an exabyte
_GRACE = timedelta(seconds=1)  # RFC 9110 §8.8.2.2


def content_length(head: Head) -> int | None:
    """Return the announced length in bytes of this response's body, None if there is none.

    The same length said twice ("5, 5") is that length (RFC 9110 §8.6); beside
    Transfer-Encoding it does not count (RFC 9112 §6.3). Raises ValueError where the field
    is malformed or contradicts itself.
    """
    text = head.headers.get("content-length")
    if text is None or "transfer-encoding" in head.headers:
        return None
    if _LENGTH.fullmatch(text):
        return int(text)
    said = {part.strip() for part in text.split(",")}
    if len(said) != 1 or not all(_LENGTH.fullmatch(part) for part in said):
        raise ValueError(f"malformed Content-Length: {text[:40]!r}")
    return int(said.pop())


def content_range(head: Head) -> tuple[int, int, int | None] | None:
    """Return (start, exclusive end, total) in bytes of Content-Range, None if it is no valid one.

    RFC 9110 §14.4: the last position is not before the first, and lies within the total; a
    total of None is the field's `*`.
    """
    match = _CONTENT_RANGE.fullmatch(head.headers.get("content-range", "").strip())
    if match is None:
        return None
    start, end = int(match[1]), int(match[2]) + 1
    total = None if match[3] == "*" else int(match[3])
    if end <= start or (total is not None and end > total):
        return None
    return start, end, total


def codings(head: Head) -> list[str]:
    """Return the codings of the body in lower case, `identity` left out (RFC 9110 §8.4)."""
    if "content-encoding" not in head.headers:
        return []
    names = (part.strip().lower() for part in head.headers.get("content-encoding", "").split(","))
    return [name for name in names if name not in ("", "identity")]


def transfer_codings(head: Head) -> list[str]:
    """Return the codings of the message in lower case but for those that HTTP/1.1 is read with.

    That is chunked, once and as the last one; `identity`, of older servers, may stand before it
    or alone (RFC 9112 §6.1).
    """
    text = head.headers.get("transfer-encoding", "")
    names = [name for part in text.split(",") if (name := part.strip().lower())]
    if [name for name in names[:-1] if name != "identity"]:
        return names
    return [name for name in names if name not in ("chunked", "identity")]


def validator_of(head: Head) -> Validator:
    """Return what names the version that `head` announces.

    An ETag that is malformed is kept, to be compared, but is no strong one. Beside one that
    cannot be kept nothing names the version: its Last-Modified may be that of another ETag
    too. Where no strong ETag came with it, a Last-Modified is left out unless it is a date at
    least one second older than Date: the file may have changed again within that second
    (RFC 9110 §8.8.2.2). Without Date it is kept (contract 5.2).
    """
    etag = _kept(head, "etag")
    if etag is None and field(head, "etag"):
        return Validator()
    modified = _kept(head, "last-modified")
    if modified is not None and not is_strong(etag) and not _is_settled(modified, head):
        modified = None
    return Validator(etag=etag, last_modified=modified)


def is_strong(etag: str | None) -> bool:
    """Tell whether `etag` is well-formed and names exact bytes (RFC 9110 §8.8.1)."""
    return etag is not None and _ETAG.fullmatch(etag) is not None and not etag.startswith("W/")


def field(head: Head, name: str) -> str | None:
    """Return that field's text, None where it is absent or empty."""
    return head.headers.get(name, "").strip() or None


def http_date(text: str) -> datetime | None:
    """Return the aware time that an HTTP-date says, None if it is none.

    All three forms of RFC 9110 §5.6.7 are read.
    """
    if not text.isascii():
        return None
    try:
        at = parsedate_to_datetime(text)
    except (ValueError, IndexError, OverflowError):
        return None
    return at.replace(tzinfo=UTC) if at.tzinfo is None else at


def _kept(head: Head, name: str) -> str | None:
    """Return that field's text, None where it is absent or nothing that could be stored."""
    text = field(head, name)
    return text if text is not None and _KEPT.fullmatch(text) else None


def _is_settled(modified: str, head: Head) -> bool:
    """Tell whether a Last-Modified was a second old when the response was sent."""
    modified_at = http_date(modified)
    if modified_at is None:
        return False
    sent_at = http_date(head.headers.get("date", "").strip())
    return sent_at is None or sent_at - modified_at >= _GRACE

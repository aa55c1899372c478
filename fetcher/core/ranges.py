"""What to ask a file host for, and how to judge its answer: every rule of resuming is here.

Pure: it reads a response's head and never sees a body, a file, a clock or a socket. A body is
appended to held bytes only where the answer proves that it goes on in the same version.

What is asked (RFC 9110, numbers are sections)

    always                          Accept-Encoding: identity: a coded body breaks offsets   12.5.3
    nothing is held, no end         no Range                                                 14.2
    bytes are held, strong ETag     Range + If-Range: ETag                                   13.1.5
    bytes are held, Last-Modified   Range + If-Range: date, if Date was a second later       8.8.2.2
    bytes are held, neither         no Range: the file is fetched again from its start       13.1.5
    a first piece (start 0, end)    Range, with If-Range where a validator is held           14.2

How the answer is judged

    200                             Whole: ranges ignored or the file changed; write at 0    14.2
    200, gzip or deflate            Whole to be decoded: length unknown, not resumable       8.4
    200, any other coding           Refuse                                                   8.4
    200, a Transfer-Encoding that
         is more than chunked       Refuse: nobody takes it off               RFC 9112       6.1
    200, Content-Range of a part    Restart: a part under the wrong status                   14.4
    206, continues, all proven      Append                                                   15.3.7
    206, validator of If-Range
         missing or other           Restart                                                  15.3.7
    206, other ETag, Last-Modified,
         start, total, unit         Restart                                                  14.4
    206, an ETag where none was     Restart: the date alone may be of both versions          8.8.2
    206, reaches beyond what was
         asked or beyond its total  Restart                                                  14.4
    206, its total never announced  Restart: nobody could say when it is complete            14.4
    206, Content-Length other than
         its Content-Range          Restart                                                  8.6
    206, encoded                    Restart: offsets count encoded bytes                     14.1.2
    206, a Transfer-Encoding that
         is more than chunked       Restart                                   RFC 9112       6.1
    206, multipart/byteranges       Restart                                                  14.6
    206, no Range asked             Whole if it is all of the file, else Refuse              15.3.7
    416                             Restart, never "done"                                    15.5.17
    412                             Restart: If-Range was taken for a precondition           15.5.13
    anything else                   Refuse                                                   15

A Restart says: drop what is held and ask `fresh()`. A question without Range is never answered
by Restart (it would be asked again for ever): there the same trouble is a Refuse.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from fetcher.core.heads import (
    codings,
    content_length,
    content_range,
    field,
    is_strong,
    transfer_codings,
    validator_of,
)
from fetcher.frozen import frozen
from fetcher.models import Validator

if TYPE_CHECKING:
    from fetcher.models import Head, Partial

_DECODABLE = {"gzip": "gzip", "x-gzip": "gzip", "deflate": "deflate"}  # RFC 9110 §8.4.1


@frozen
class Want:
    """What is asked for: bytes [start, end) of the body that `validator` names.

    `start` is what is held already (of a segment: its own next byte). `end` is exclusive;
    None: up to the end. `total` is the length of the whole body in bytes, None: unknown.
    Raises ValueError unless 0 <= start < end, and, where start > 0, end <= total.
    """

    start: int
    end: int | None
    validator: Validator
    total: int | None

    def __post_init__(self) -> None:
        """Refuse a span that no Range could say."""
        least_end = self.start + 1 if self.end is None else self.end
        if not 0 <= self.start < least_end:
            raise ValueError(f"no such span: {self.start} to {self.end}")
        if self.total is not None and self.start > 0 and least_end > self.total:
            raise ValueError(f"{self.start} to {self.end} is not within {self.total} bytes")


@frozen
class Append:
    """The body is bytes [start, end) of the version that is held: write it at `start`.

    `end` may be less than was asked for (RFC 9110 §15.3.7.1): then the rest is asked for next.
    `total` is the length of the whole file in bytes; `validator` names its version, with what
    this answer adds to it.
    """

    start: int
    end: int
    total: int
    validator: Validator


@frozen
class Whole:
    """The body is the whole file: drop what is held, write at 0.

    `total` in bytes; None: unknown (chunked, ended by closing, or encoded). `encoding` is
    `gzip` or `deflate` where the body must be decoded; `validator` is empty then, for offsets
    of decoded bytes cannot be asked for.
    """

    total: int | None
    validator: Validator
    encoding: str | None = None


@frozen
class Restart:
    """The answer does not go on where the held bytes end: drop them and ask `fresh()`."""

    reason: str


@frozen
class Refuse:
    """The answer holds nothing that can be used. What is held stays; trying again may help."""

    reason: str


Verdict = Append | Whole | Restart | Refuse


def fresh() -> Want:
    """Return the question for a whole file of which nothing is held."""
    return Want(start=0, end=None, validator=Validator(), total=None)


def resume(partial: Partial) -> Want:
    """Return the question that goes on after `partial`, or `fresh()` where that is impossible.

    Impossible: nothing is durable, no strong validator, or as many bytes held as the file has,
    or more. Whoever holds exactly `bytes_total` asks nothing, but proves the file.
    """
    held, total = partial.bytes_durable, partial.bytes_total
    if held <= 0 or not resumable(partial.validator) or (total is not None and held >= total):
        return fresh()
    return Want(start=held, end=None, validator=partial.validator, total=total)


def resumable(validator: Validator) -> bool:
    """Tell whether a cut body of this version can be gone on with (contract 5.2)."""
    return _if_range(validator) is not None


def agree(one: Validator, other: Validator) -> bool:
    """Return whether two validators name one version, though one may lack the date."""
    dates = {one.last_modified, other.last_modified} - {None}
    return one.etag == other.etag and len(dates) < 2 and _if_range(one) == _if_range(other)


def asks_range(want: Want) -> bool:
    """Tell whether `request_headers` asks for a part; if not, only a whole file answers."""
    if want.start > 0:
        return resumable(want.validator)
    return want.end is not None


def request_headers(want: Want) -> dict[str, str]:
    """Return the header fields that ask for `want` (RFC 9110 §13.1.5, §14.2).

    Bytes that are held under no strong validator cannot be gone on with: then the whole file
    is asked for, without Range.
    """
    headers = {"Accept-Encoding": "identity"}
    if asks_range(want):
        last = "" if want.end is None else str(want.end - 1)
        headers["Range"] = f"bytes={want.start}-{last}"
        condition = _if_range(want.validator)
        if condition is not None:
            headers["If-Range"] = condition
    return headers


def judge(want: Want, head: Head) -> Verdict:
    """Return what the answer `head` to `want` is good for; the module's table has the rules."""
    verdict = _judge(want, head)
    if isinstance(verdict, Restart) and not asks_range(want):
        return Refuse(verdict.reason)
    return verdict


# ---- the rules ---------------------------------------------------------------------------


def _judge(want: Want, head: Head) -> Verdict:
    """Apply the table, as if every question had asked for a part."""
    if head.status == 416:
        return Restart("the host has no such range (416)")
    if head.status == 412:
        return Restart("the host failed the request for its condition (412)")
    if head.status not in (200, 206):
        return Refuse(f"status {head.status} brings no file")
    try:
        length = content_length(head)
    except ValueError as error:
        return Refuse(str(error)) if head.status == 200 else Restart(str(error))
    if head.status == 200:
        return _judge_whole(head, length)
    return _judge_part(want, head, length)


def _judge_whole(head: Head, length: int | None) -> Verdict:
    """Judge a 200 with a body of `length` bytes: the whole file, in some coding."""
    said = head.headers.get("content-range")
    if said is not None:
        span = content_range(head)
        if span is None or span[:2] != (0, span[2]) or length not in (None, span[2]):
            return Restart(f"a part under status 200 (Content-Range: {said[:60]!r})")
    if sent_as := transfer_codings(head):
        return Refuse(f"Transfer-Encoding {', '.join(sent_as)[:40]!r} that nobody asked for")
    coded = codings(head)
    if not coded:
        return Whole(length, validator_of(head))
    encoding = _DECODABLE.get(coded[0])
    if len(coded) > 1 or encoding is None:
        return Refuse(f"Content-Encoding {', '.join(coded)[:40]!r} that nobody asked for")
    return Whole(None, Validator(), encoding)


def _judge_part(want: Want, head: Head, length: int | None) -> Verdict:
    """Judge a 206: where it lies first, then whether it is of the same version."""
    span = _readable_span(want, head, length)
    if isinstance(span, str):
        return Restart(span)
    start, end, total = span
    if asks_range(want):
        trouble = _misplaced(want, start, end, total) or _other_version(want.validator, head)
        if trouble is not None:
            return Restart(trouble)
        return Append(start, end, total, _merged(want.validator, head))
    if (start, end) != (0, total):
        return Restart(f"bytes {start} to {end} of {total} where the whole file was asked for")
    return Whole(total, validator_of(head))


def _readable_span(want: Want, head: Head, length: int | None) -> tuple[int, int, int] | str:
    """Return (start, exclusive end, total) of a 206, or why it cannot be trusted to be one span.

    `*` for the total stands for what was announced before.
    """
    if coded := transfer_codings(head) or codings(head):
        return f"a part encoded as {', '.join(coded)[:40]!r}"
    if head.headers.get("content-type", "").strip().lower().startswith("multipart/byteranges"):
        return "several parts where one was asked for"
    said = head.headers.get("content-range", "")[:60]
    span = content_range(head)
    if span is None:
        return f"a part that does not say where it lies (Content-Range: {said!r})"
    start, end, total = span
    if length is not None and length != end - start:
        return f"Content-Length {length} for {end - start} bytes"
    total = want.total if total is None else total
    if total is None or end > total:
        return f"a part of a file of unknown length (Content-Range: {said!r})"
    return start, end, total


def _misplaced(want: Want, start: int, end: int, total: int) -> str | None:
    """Return why [start, end) of `total` bytes does not answer `want`, None if it does."""
    if start != want.start:
        return f"a part from byte {start} where byte {want.start} was asked for"
    if want.total is not None and total != want.total:
        return f"the file had {want.total} bytes and now has {total}"
    if want.end is not None and end > want.end:
        return f"a part up to byte {end} where {want.end} was asked for"
    return None


def _other_version(held: Validator, head: Head) -> str | None:
    """Return why a 206 is not proven to be of the held version, None if it is.

    The validator that If-Range named must come back as it was: RFC 9110 §15.3.7 demands the
    ETag, and a host that leaves it out may have left out the condition as well. Any other
    validator that came must be the held one too (contract 5.2), and none may have come up
    beside a date: two versions of one second differ in their ETag alone.
    """
    etag, date = field(head, "etag"), field(head, "last-modified")
    if etag not in (None, held.etag) and held != Validator():
        return "the file changed: another ETag"
    if None not in (held.last_modified, date) and date != held.last_modified:
        return "the file changed: another Last-Modified"
    condition = _if_range(held)
    if condition is not None and condition not in (etag, date):
        return "a part that does not name its version"
    return None


def _merged(held: Validator, head: Head) -> Validator:
    """Return the held validator, filled up with what a fitting 206 adds."""
    came = validator_of(head)
    if _if_range(held) is None:  # nothing of it was held
        return came
    return Validator(held.etag, held.last_modified or came.last_modified)


def _if_range(validator: Validator) -> str | None:
    """Return the strong validator that If-Range may name, None if there is none.

    A date beside a weak ETag is used as well, as contract 5.2 has it, where RFC 9110 §13.1.5
    would rather start again: the answer must then repeat the date, and the ETag if it has one.
    """
    return validator.etag if is_strong(validator.etag) else validator.last_modified

"""What is asked, how each answer is judged, and that no answer can splice two versions."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, assert_never

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from fetcher.core.ranges import (
    Append,
    Refuse,
    Restart,
    Verdict,
    Want,
    Whole,
    agree,
    asks_range,
    fresh,
    judge,
    request_headers,
    resumable,
    resume,
)
from fetcher.models import Head, Partial, Validator

MONDAY = "Mon, 05 Feb 2024 10:00:00 GMT"
TUESDAY = "Tue, 06 Feb 2024 10:00:00 GMT"
LATER = "Wed, 07 Feb 2024 10:00:00 GMT"
STRONG = Validator('"a"')
DATED = Validator(last_modified=MONDAY)
BOTH = Validator('"a"', MONDAY)
WEAK = Validator('W/"a"')
NOTHING = Validator()
IDENTITY = {"Accept-Encoding": "identity"}


def held(validator: Validator = BOTH, *, end: int | None = None, total: int | None = 10) -> Want:
    """Return the question of somebody who holds 4 bytes of 10."""
    return Want(start=4, end=end, validator=validator, total=total)


def part(**fields: str) -> Head:
    """Return the honest 206 to `held()`, with other fields where told (empty: left out)."""
    headers = {
        "content-range": "bytes 4-9/10",
        "content-length": "6",
        "etag": '"a"',
        "last-modified": MONDAY,
        "date": LATER,
    }
    headers.update({name.replace("_", "-"): text for name, text in fields.items()})
    return Head(206, {name: text for name, text in headers.items() if text})


def whole(**fields: str) -> Head:
    """Return the honest 200 of a file of 10 bytes, with other fields where told."""
    return Head(200, part(content_range="", content_length="10").headers | part_only(fields))


def part_only(fields: dict[str, str]) -> dict[str, str]:
    return {name.replace("_", "-"): text for name, text in fields.items()}


# ---- what is asked -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("want", "expected"),
    [
        pytest.param(fresh(), {}, id="nothing held"),
        pytest.param(held(STRONG), {"Range": "bytes=4-", "If-Range": '"a"'}, id="strong etag"),
        pytest.param(held(DATED), {"Range": "bytes=4-", "If-Range": MONDAY}, id="date"),
        pytest.param(held(BOTH), {"Range": "bytes=4-", "If-Range": '"a"'}, id="etag before date"),
        pytest.param(
            held(Validator('W/"a"', MONDAY)),
            {"Range": "bytes=4-", "If-Range": MONDAY},
            id="date, never a weak etag",
        ),
        pytest.param(held(WEAK), {}, id="weak etag alone"),
        pytest.param(held(Validator("a")), {}, id="malformed etag alone"),
        pytest.param(held(Validator()), {}, id="no validator"),
        pytest.param(held(STRONG, end=7), {"Range": "bytes=4-6", "If-Range": '"a"'}, id="segment"),
        pytest.param(
            Want(0, 5, STRONG, 10), {"Range": "bytes=0-4", "If-Range": '"a"'}, id="first segment"
        ),
        pytest.param(Want(0, 5, Validator(), None), {"Range": "bytes=0-4"}, id="first piece"),
        pytest.param(Want(0, None, STRONG, 10), {}, id="all of a known version"),
    ],
)
def test_question_asks_for_what_can_be_gone_on_with(want: Want, expected: dict[str, str]) -> None:
    assert request_headers(want) == IDENTITY | expected
    assert asks_range(want) is ("Range" in expected)


@pytest.mark.parametrize(
    ("validator", "expected"),
    [
        (STRONG, True),
        (DATED, True),
        (BOTH, True),
        (Validator('W/"a"', MONDAY), True),
        (WEAK, False),
        (Validator("a"), False),
        (Validator(), False),
    ],
)
def test_strong_etag_or_date_makes_a_cut_file_resumable(
    validator: Validator, expected: bool
) -> None:
    assert resumable(validator) is expected


@pytest.mark.parametrize(
    ("partial", "expected"),
    [
        pytest.param(Partial(4, 10, STRONG), held(STRONG), id="goes on"),
        pytest.param(Partial(4, None, STRONG), held(STRONG, total=None), id="length unknown"),
        pytest.param(Partial(0, 10, STRONG), fresh(), id="nothing durable"),
        pytest.param(Partial(4, 10, WEAK), fresh(), id="no strong validator"),
        pytest.param(Partial(10, 10, STRONG), fresh(), id="as long as the file"),
        pytest.param(Partial(11, 10, STRONG), fresh(), id="longer than the file"),
    ],
)
def test_resume_goes_on_or_starts_afresh(partial: Partial, expected: Want) -> None:
    assert resume(partial) == expected


@pytest.mark.parametrize(
    ("start", "end", "total"),
    [(-1, None, None), (4, 4, None), (4, 3, 10), (10, None, 10), (4, 11, 10), (0, 0, 10)],
)
def test_a_span_that_no_range_could_say_is_an_error(
    start: int, end: int | None, total: int | None
) -> None:
    with pytest.raises(ValueError, match="to"):
        Want(start, end, STRONG, total)


@pytest.mark.parametrize(
    ("one", "other", "is_one"),
    [
        pytest.param(Validator('"a"', "x"), Validator('"a"', "x"), True, id="the same"),
        pytest.param(Validator('"a"', "x"), Validator('"a"', None), True, id="a date less"),
        pytest.param(Validator('"a"', "x"), Validator('"a"', "y"), False, id="another date"),
        pytest.param(Validator('"a"', None), Validator('"b"', None), False, id="another ETag"),
        pytest.param(Validator('W/"a"', "x"), Validator('W/"a"', None), False, id="weak, no date"),
        pytest.param(
            Validator(None, "x"), Validator(None, None), False, id="nothing beside a date"
        ),
    ],
)
def test_validators_agree_where_what_both_say_proves_one_version(
    one: Validator, other: Validator, *, is_one: bool
) -> None:
    assert agree(one, other) == agree(other, one) == is_one


# ---- a 206 -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("want", "head", "expected"),
    [
        pytest.param(held(), part(), Append(4, 10, 10, BOTH), id="honest"),
        pytest.param(
            held(), part(content_length=""), Append(4, 10, 10, BOTH), id="no Content-Length"
        ),
        pytest.param(
            held(), part(transfer_encoding="chunked"), Append(4, 10, 10, BOTH), id="chunked"
        ),
        pytest.param(held(), part(last_modified=""), Append(4, 10, 10, BOTH), id="etag repeated"),
        pytest.param(held(DATED), part(etag=""), Append(4, 10, 10, DATED), id="date repeated"),
        pytest.param(held(STRONG), part(), Append(4, 10, 10, BOTH), id="a date is learnt"),
        pytest.param(
            held(STRONG, total=None), part(), Append(4, 10, 10, BOTH), id="the total is learnt"
        ),
        pytest.param(
            held(), part(content_range="bytes 4-9/*"), Append(4, 10, 10, BOTH), id="total held"
        ),
        pytest.param(
            held(),
            part(content_range="bytes 4-6/10", content_length="3"),
            Append(4, 7, 10, BOTH),
            id="less than was asked for",
        ),
        pytest.param(
            held(end=7),
            part(content_range="bytes 4-6/10", content_length="3"),
            Append(4, 7, 10, BOTH),
            id="segment",
        ),
        pytest.param(
            Want(0, 4, Validator(), None),
            part(content_range="bytes 0-3/10", content_length="4"),
            Append(0, 4, 10, BOTH),
            id="first piece of an unknown file",
        ),
        pytest.param(
            Want(0, 4, WEAK, None),
            part(content_range="bytes 0-3/10", content_length="4", etag=""),
            Append(0, 4, 10, DATED),
            id="first piece is named by its own answer",
        ),
        pytest.param(
            held(), part(content_encoding="identity"), Append(4, 10, 10, BOTH), id="identity"
        ),
    ],
)
def test_a_part_that_goes_on_is_appended(want: Want, head: Head, expected: Verdict) -> None:
    assert judge(want, head) == expected


@pytest.mark.parametrize(
    ("want", "head"),
    [
        pytest.param(held(), part(etag='"b"'), id="other etag"),
        pytest.param(held(), part(etag='W/"a"'), id="etag became weak"),
        pytest.param(held(), part(etag="a"), id="etag lost its quotes"),
        pytest.param(held(), part(etag='"a", "b"'), id="two etags"),
        pytest.param(held(), part(etag=""), id="etag left out"),
        pytest.param(held(STRONG), part(etag="", last_modified=""), id="no validator at all"),
        pytest.param(held(), part(last_modified=TUESDAY), id="other date"),
        pytest.param(held(), part(last_modified="garbage"), id="no date"),
        pytest.param(held(DATED), part(etag="", last_modified=""), id="date left out"),
        pytest.param(held(DATED), part(etag="", last_modified=TUESDAY), id="other date alone"),
        pytest.param(held(DATED), part(), id="etag where none was, same date"),
        pytest.param(held(DATED), part(etag='"é"'), id="etag that cannot be kept, same date"),
        pytest.param(held(DATED), part(etag='"' + "b" * 2000 + '"'), id="endless etag, same date"),
        pytest.param(
            held(Validator('W/"a"', MONDAY)), part(etag='W/"b"'), id="other weak etag, same date"
        ),
        pytest.param(held(), part(content_range="bytes 3-9/10", content_length="7"), id="early"),
        pytest.param(held(), part(content_range="bytes 5-9/10", content_length="5"), id="late"),
        pytest.param(held(), part(content_range="bytes 0-9/10", content_length="10"), id="all"),
        pytest.param(held(), part(content_range="bytes 4-9/11"), id="longer file"),
        pytest.param(
            held(), part(content_range="bytes 4-8/9", content_length="5"), id="shorter file"
        ),
        pytest.param(
            held(total=None), part(content_range="bytes 4-9/*"), id="total never announced"
        ),
        pytest.param(
            held(), part(content_range="bytes 4-10/*", content_length="7"), id="beyond the total"
        ),
        pytest.param(held(end=7), part(), id="beyond the segment"),
        pytest.param(held(), part(content_length="5"), id="length below the range"),
        pytest.param(held(), part(content_length="7"), id="length above the range"),
        pytest.param(held(), part(content_length="6, 7"), id="two lengths"),
        pytest.param(held(), part(content_length="six"), id="malformed length"),
        pytest.param(held(), part(content_range=""), id="no Content-Range"),
        pytest.param(held(), part(content_range="bytes 4-9"), id="Content-Range without total"),
        pytest.param(held(), part(content_range="bytes */10"), id="unsatisfied Content-Range"),
        pytest.param(held(), part(content_range="bytes 9-4/10"), id="backwards"),
        pytest.param(held(), part(content_range="items 4-9/10"), id="other unit"),
        pytest.param(held(), part(content_range="garbage"), id="malformed Content-Range"),
        pytest.param(
            held(),
            part(content_type="Multipart/ByteRanges; boundary=x", content_length="200"),
            id="several parts",
        ),
        pytest.param(held(), part(content_type="multipart/byteranges"), id="parts and a range"),
        pytest.param(held(), part(content_encoding="gzip"), id="encoded"),
        pytest.param(held(), part(content_encoding="br"), id="encoded otherwise"),
        pytest.param(held(), part(transfer_encoding="gzip, chunked"), id="sent as gzip"),
        pytest.param(held(), Head(416, {"content-range": "bytes */10"}), id="416"),
        pytest.param(held(), Head(412, {}), id="412"),
        pytest.param(held(), Head(416, {"content-range": "bytes */4"}), id="416, file shrank"),
        pytest.param(Want(0, 4, Validator(), None), Head(416, {}), id="416 to a first piece"),
        pytest.param(
            held(), whole(content_range="bytes 4-9/10", content_length="6"), id="part as 200"
        ),
        pytest.param(
            held(),
            whole(content_range="bytes 4-9/10", transfer_encoding="chunked"),
            id="part as 200, chunked",
        ),
        pytest.param(held(), whole(content_range="garbage"), id="malformed range under 200"),
    ],
)
def test_a_part_that_does_not_go_on_restarts(want: Want, head: Head) -> None:
    assert isinstance(judge(want, head), Restart)


# ---- a 200 -------------------------------------------------------------------------------


@pytest.mark.parametrize("want", [fresh(), held(), held(WEAK), held(end=7)])
@pytest.mark.parametrize(
    ("head", "expected"),
    [
        pytest.param(whole(), Whole(10, BOTH), id="honest, or ranges ignored"),
        pytest.param(whole(etag='"b"'), Whole(10, Validator('"b"', MONDAY)), id="changed"),
        pytest.param(Head(200, {}), Whole(None, Validator()), id="ended by closing"),
        pytest.param(whole(transfer_encoding="chunked"), Whole(None, BOTH), id="chunked"),
        pytest.param(whole(transfer_encoding=" ChunKed "), Whole(None, BOTH), id="Chunked"),
        pytest.param(whole(transfer_encoding="identity"), Whole(None, BOTH), id="as it is"),
        pytest.param(
            whole(transfer_encoding="identity, chunked"), Whole(None, BOTH), id="as it is, chunked"
        ),
        pytest.param(whole(content_length="10, 10"), Whole(10, BOTH), id="length said twice"),
        pytest.param(whole(content_length="0"), Whole(0, BOTH), id="empty"),
        pytest.param(whole(content_range="bytes 0-9/10"), Whole(10, BOTH), id="range of it all"),
        pytest.param(
            whole(content_encoding="gzip"), Whole(None, Validator(), "gzip"), id="gzip, unasked"
        ),
        pytest.param(
            whole(content_encoding="X-GZip"), Whole(None, Validator(), "gzip"), id="x-gzip"
        ),
        pytest.param(
            whole(content_encoding="deflate"), Whole(None, Validator(), "deflate"), id="deflate"
        ),
    ],
)
def test_a_200_is_the_whole_file(want: Want, head: Head, expected: Verdict) -> None:
    assert judge(want, head) == expected


@pytest.mark.parametrize("want", [fresh(), held()])
@pytest.mark.parametrize(
    "head",
    [
        pytest.param(whole(content_encoding="br"), id="br"),
        pytest.param(whole(content_encoding="zstd"), id="zstd"),
        pytest.param(whole(content_encoding="gzip, gzip"), id="gzip twice"),
        pytest.param(whole(content_encoding="unheard-of"), id="unknown coding"),
        pytest.param(whole(transfer_encoding="gzip, chunked"), id="sent as gzip"),
        pytest.param(whole(transfer_encoding="Deflate , Chunked"), id="sent as deflate"),
        pytest.param(whole(transfer_encoding="gzip"), id="sent as gzip until it closes"),
        pytest.param(whole(transfer_encoding="chunked, gzip"), id="chunks in gzip"),
        pytest.param(whole(transfer_encoding="chunked, chunked"), id="chunks in chunks"),
        pytest.param(whole(transfer_encoding="chunked, identity"), id="chunks not last"),
        pytest.param(whole(transfer_encoding="xchunked"), id="unknown way of sending"),
        pytest.param(whole(content_length="ten"), id="malformed length"),
        pytest.param(whole(content_length="10, 11"), id="two lengths"),
        *(
            pytest.param(whole()._replace(status=status), id=str(status))
            for status in (100, 201, 202, 203, 204, 205, 207, 226, 300, 302, 304, 404, 503)
        ),
    ],
)
def test_an_answer_of_no_use_is_refused(want: Want, head: Head) -> None:
    assert isinstance(judge(want, head), Refuse)


def test_all_of_the_file_as_an_unasked_part_is_the_whole_file() -> None:
    head = part(content_range="bytes 0-9/10", content_length="10")
    assert judge(fresh(), head) == Whole(10, BOTH)


@pytest.mark.parametrize(
    "head",
    [
        pytest.param(part(), id="the end of it"),
        pytest.param(part(content_range="bytes 0-5/10"), id="the start of it"),
        pytest.param(part(content_range="bytes 0-5/*"), id="total unknown"),
        pytest.param(part(content_range=""), id="no Content-Range"),
        pytest.param(part(content_encoding="gzip"), id="encoded"),
        pytest.param(Head(416, {}), id="416"),
        pytest.param(whole(content_range="bytes 0-5/10", content_length="6"), id="part as 200"),
    ],
)
def test_a_part_that_nobody_asked_for_is_refused(head: Head) -> None:
    """Never a Restart: the same question would be asked again for ever."""
    assert isinstance(judge(fresh(), head), Refuse)


# ---- any honest host and any cuts end in the exact bytes ---------------------------------


@dataclass(frozen=True)
class Version:
    """One content of a file, and what names it."""

    body: bytes
    etag: str | None
    last_modified: str | None


@dataclass(frozen=True)
class Host:
    """A file host that obeys RFC 9110, in one of the ways that it allows."""

    obeys_ranges: bool = True
    says_length: bool = True
    most_bytes: int | None = None  # the longest part it sends
    obeys_if_range: bool = True

    def answer(self, asked: dict[str, str], version: Version) -> tuple[Head, bytes]:
        """Return the head and the body that answer `asked`."""
        body, total = version.body, len(version.body)
        headers = {"date": LATER}
        headers |= {"etag": version.etag} if version.etag else {}
        headers |= {"last-modified": version.last_modified} if version.last_modified else {}
        condition = asked.get("If-Range")
        if self.obeys_if_range and condition not in (None, version.etag, version.last_modified):
            asked = {}
        if not self.obeys_ranges or "Range" not in asked:
            headers |= {"content-length": str(total)} if self.says_length else {}
            return Head(200, headers), body
        first, _, last = asked["Range"].removeprefix("bytes=").partition("-")
        start, end = int(first), min(int(last) + 1 if last else total, total)
        if start >= total:
            return Head(416, {"content-range": f"bytes */{total}"}), b"no"
        end = min(end, start + (self.most_bytes or total))
        headers["content-range"] = f"bytes {start}-{end - 1}/{total}"
        headers |= {"content-length": str(end - start)} if self.says_length else {}
        return Head(206, headers), body[start:end]


@dataclass
class Client:
    """Does what verdicts say, and nothing else."""

    data: bytes = b""
    total: int | None = None
    validator: Validator = NOTHING
    is_complete: bool = False
    must_restart: bool = False

    def ask(self) -> Want:
        if self.must_restart:
            return fresh()
        return resume(Partial(len(self.data), self.total, self.validator))

    def take(self, verdict: Verdict, body: bytes, *, cut_at: int | None) -> None:
        """Take the first `cut_at` bytes of the body, None: all of it."""
        came = body[:cut_at]
        is_cut = cut_at is not None and cut_at < len(body)
        self.must_restart = isinstance(verdict, Restart)
        match verdict:
            case Append():
                assert len(self.data) == verdict.start
                assert is_cut or verdict.end - verdict.start == len(came)
                self.data += came
                self.total, self.validator = verdict.total, verdict.validator
                self.is_complete = len(self.data) == verdict.total
            case Whole():
                self.data, self.total, self.validator = came, verdict.total, verdict.validator
                self.is_complete = not is_cut
            case Restart():
                self.data = b""
            case Refuse():
                pass
            case _:
                assert_never(verdict)


NAMING = st.sampled_from(["none", "weak", "strong", "date", "strong and date", "weak and date"])


@st.composite
def histories(draw: st.DrawFn) -> list[Version]:
    """Return up to three versions of a file that one naming tells apart as HTTP demands."""
    naming = draw(NAMING)
    bodies = draw(st.lists(st.binary(min_size=1, max_size=40), min_size=1, max_size=3))
    return [
        Version(
            body=body,
            etag=f'"{number}"' if "strong" in naming else 'W/"0"' if "weak" in naming else None,
            last_modified=f"Mon, 0{number + 1} Jan 2024 10:00:00 GMT" if "date" in naming else None,
        )
        for number, body in enumerate(bodies)
    ]


@given(
    history=histories(),
    host=st.builds(
        Host,
        obeys_ranges=st.booleans(),
        says_length=st.booleans(),
        most_bytes=st.none() | st.integers(1, 20),
    ),
    cuts=st.lists(st.tuples(st.integers(0, 2), st.integers(0, 40)), max_size=8),
)
def test_any_honest_host_and_any_cuts_end_in_the_exact_bytes(
    history: list[Version], host: Host, cuts: list[tuple[int, int]]
) -> None:
    """Each attempt meets some version and is cut somewhere; the last ones are not cut."""
    client = Client()
    current = history[-1]
    for number, cut_at in cuts:
        if client.is_complete:
            break
        current = history[min(number, len(history) - 1)]
        want = client.ask()
        head, body = host.answer(request_headers(want), current)
        client.take(judge(want, head), body, cut_at=cut_at)
    for _ in range(2 + len(current.body)):
        if client.is_complete:
            break
        if client.total is not None and len(client.data) == client.total:
            break
        want = client.ask()
        head, body = host.answer(request_headers(want), current)
        client.take(judge(want, head), body, cut_at=None)
    assert client.data == current.body


@given(
    body=st.binary(min_size=2, max_size=60),
    cuts=st.lists(st.integers(0, 20), max_size=10),
    naming=st.sampled_from([("e", None), (None, MONDAY), ("e", MONDAY)]),
)
def test_an_honest_host_never_sends_a_byte_twice(
    body: bytes, cuts: list[int], naming: tuple[str | None, str | None]
) -> None:
    """Where ranges and a strong validator are there, every byte that arrived is kept."""
    version = Version(body, naming[0] and f'"{naming[0]}"', naming[1])
    client, fetched = Client(), 0
    for cut_at in [*cuts, None]:
        if len(client.data) == len(body):
            break
        want = client.ask()
        head, sent = Host().answer(request_headers(want), version)
        fetched += len(sent[:cut_at])
        client.take(judge(want, head), sent, cut_at=cut_at)
    assert (client.data, fetched) == (body, len(body))


@given(
    body=st.binary(min_size=1, max_size=60),
    segments=st.integers(1, 5),
    most_bytes=st.none() | st.integers(1, 20),
)
def test_segments_join_to_the_exact_bytes(
    body: bytes, segments: int, most_bytes: int | None
) -> None:
    version, total = Version(body, '"a"', None), len(body)
    bounds = sorted({round(total * index / segments) for index in range(segments + 1)})
    joined = bytearray(total)
    for first, end in pairwise(bounds):
        start = first
        while start < end:
            want = Want(start, end, STRONG, total)
            head, sent = Host(most_bytes=most_bytes).answer(request_headers(want), version)
            verdict = judge(want, head)
            assert isinstance(verdict, Append)
            joined[verdict.start : verdict.end] = sent
            start = verdict.end
    assert bytes(joined) == body


# ---- no lie ends in a splice -------------------------------------------------------------

Field = Literal["etag", "last-modified", "content-range", "content-length", "content-encoding"]
LIES: dict[Field, st.SearchStrategy[str]] = {
    "etag": st.sampled_from(['"b"', 'W/"a"', "a", '""', '"a", "a"', '"A"', ""]),
    "last-modified": st.sampled_from([TUESDAY, "0", MONDAY.lower(), ""]),
    "content-range": st.one_of(
        st.sampled_from(["", "bytes */10", "bytes 4-9", "bytes=4-9/10", "none 4-9/10"]),
        st.builds(
            "bytes {}-{}/{}".format,
            st.integers(0, 12),
            st.integers(0, 12),
            st.integers(0, 12) | st.just("*"),
        ),
    ),
    "content-length": st.sampled_from(["0", "5", "7", "10", "-6", "6.0", "6, 5", "", "٦"]),
    "content-encoding": st.sampled_from(["gzip", "br", "deflate", "gzip, identity"]),
}
JUNK = st.text(st.characters(max_codepoint=0x17F), max_size=30)
# Fields that a 206 may well leave out, or say otherwise, while it goes on rightly.
HARMLESS: set[tuple[str, str]] = {
    ("last-modified", ""),
    ("content-length", ""),
    ("content-range", "bytes 4-9/*"),
}


@given(st.data(), st.sampled_from(sorted(LIES)))
def test_one_lying_field_is_enough_to_restart(data: st.DataObject, field: Field) -> None:
    lie = data.draw(LIES[field] | JUNK).strip()
    honest = part().headers
    assume(lie != honest.get(field, "") and (field, lie) not in HARMLESS)
    assume(field != "content-encoding" or lie.strip(", ").lower() not in ("", "identity"))
    verdict = judge(held(), part(**{field.replace("-", "_"): lie}))
    assert isinstance(verdict, Restart)


@given(
    old=st.binary(min_size=5, max_size=12),
    new=st.binary(min_size=1, max_size=12),
    host=st.builds(Host, obeys_ranges=st.booleans(), obeys_if_range=st.booleans()),
    held_as=st.sampled_from([STRONG, DATED, BOTH, Validator('W/"a"', MONDAY)]),
    status=st.sampled_from([None, 200, 206, 416]),
    lies=st.fixed_dictionaries({}, optional=LIES),
)
@example(b"AAAAA", b"BBBBB", Host(obeys_if_range=False), STRONG, None, {})
@example(b"AAAAA", b"BBBBB", Host(obeys_if_range=False), STRONG, None, {"etag": ""})
@example(b"AAAAA", b"BBBBB", Host(obeys_if_range=False), DATED, None, {"last-modified": ""})
def test_no_lie_splices_two_versions(
    old: bytes,
    new: bytes,
    host: Host,
    held_as: Validator,
    status: int | None,
    lies: dict[str, str],
) -> None:
    """The host has another version, ignores the condition or not, and any field may lie.

    It does not know the held version's names, so it cannot say them.
    """
    assume(lies.get("etag") != 'W/"a"')
    client = Client(old[:4], len(old), held_as)
    want = client.ask()
    head, body = host.answer(request_headers(want), Version(new, '"b"', TUESDAY))
    headers = {name: text for name, text in (head.headers | lies).items() if text}
    verdict = judge(want, Head(status or head.status, headers))
    assert not isinstance(verdict, Append)
    client.take(verdict, body, cut_at=None)
    assert client.data in (old[:4], b"", body)


@given(
    st.sampled_from([200, 206, 416]),
    st.dictionaries(
        st.sampled_from([*LIES, "content-type", "transfer-encoding", "date"]),
        st.one_of(*LIES.values(), JUNK, st.text()),
    ),
    st.sampled_from([fresh(), held(), held(DATED), held(end=7), held(WEAK)]),
)
def test_no_head_makes_judging_fail(status: int, headers: dict[str, str], want: Want) -> None:
    """Any head gets a verdict, and one that its question allows."""
    verdict = judge(want, Head(status, headers))
    match verdict:
        case Append():
            assert verdict.start == want.start < verdict.end <= (want.end or verdict.total)
            assert verdict.end <= verdict.total
        case Restart():
            assert asks_range(want)
        case Whole(encoding=encoding):
            assert encoding is None or verdict.total is None
        case Refuse():
            assert verdict.reason
        case _:
            assert_never(verdict)

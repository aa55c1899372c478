"""What lying, broken and merely unusual file hosts do to one download, over real sockets.

Each row scripts the answers of a host and says which ranges are asked for in turn, and how it
ends: in the exact bytes, or in a failure that says why and leaves nothing in place.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import ssl
import zlib
from collections.abc import Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from email.utils import format_datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import google_crc32c
import pytest
from raw_server import RawServer, Request
from support import CUT, Host, Ran, Reply, chunked, cut, files, honest, run, song, wav_header

from fetcher.events import DownloadCompleted
from fetcher.simulator import Fault, Serving, Simulator

if TYPE_CHECKING:
    import asyncio
    from collections.abc import AsyncIterator

Script = Callable[[Request], Reply]

SONG = song(40_000)
OTHER = song(40_000, seed=2)
REST = "bytes=10000-"
HTML = b"<!DOCTYPE html><html><body>Please sign in</body></html>"
XML = b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>'
JSON = b'{"statusCode": 500, "message": "Internal server error"}'
OLD = format_datetime(datetime(2024, 5, 17, 8, 0, tzinfo=UTC), usegmt=True)
ENDLESS = '"' + "a" * 2_000 + '"'
OLDER = format_datetime(datetime(2024, 5, 16, 8, 0, tzinfo=UTC), usegmt=True)


def lie(script: Script, *, status: str | None = None, **fields: str | None) -> Script:
    """Answer as `script` does, with other header fields or another status."""

    def lying(request: Request) -> Reply:
        said = script(request).having(**fields)
        return said if status is None else replace(said, status=status)

    return lying


def page(body: bytes, kind: str = "audio/wav", status: str = "200 OK") -> Script:
    """Answer with a page, as audio or as what it is."""
    length = str(len(body))
    return lambda _: Reply(status, {"Content-Type": kind, "Content-Length": length}, body)


def wrongly_spliced(request: Request) -> Reply:
    """Answer a range with bytes of another file under the right header fields."""
    said = GOOD(request)
    return replace(said, body=OTHER[-len(said.body) :])


def shorter_part(request: Request) -> Reply:
    """Answer a range with its first 5,000 bytes only, as a host may."""
    said = GOOD(request)
    start = len(SONG) - len(said.body)
    return replace(
        said.having(
            content_range=f"bytes {start}-{start + 4_999}/{len(SONG)}", content_length="5000"
        ),
        body=said.body[:5_000],
    )


def until_close(script: Script, sent: int | None = None) -> Script:
    """Answer without a length: the end of the connection is the end of the body."""

    def closing(request: Request) -> Reply:
        said = script(request)
        return replace(said.having(content_length=None), sent=sent, close=True)

    return closing


def http_1_0(script: Script) -> Script:
    """Answer as HTTP/1.0 did: no length, the connection closed."""
    return lambda request: replace(until_close(script)(request), version="HTTP/1.0")


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def digests(body: bytes) -> dict[str, dict[str, str | None]]:
    """Return every kind of digest that a host may announce for `body`, by a name."""
    sha256, sha512 = hashlib.sha256(body).digest(), hashlib.sha512(body).digest()
    md5 = hashlib.md5(body).digest()
    crc = int(google_crc32c.value(body)).to_bytes(4, "big")
    return {
        "content-md5": {"content_md5": b64(md5)},
        "repr-digest sha-256": {"repr_digest": f"sha-256=:{b64(sha256)}:"},
        "repr-digest sha-512": {"repr_digest": f"sha-512=:{b64(sha512)}:"},
        "repr-digest md5": {"repr_digest": f"md5=:{b64(md5)}:"},
        "content-digest sha-256": {"content_digest": f"sha-256=:{b64(sha256)}:"},
        "x-goog-hash md5": {"x_goog_hash": f"md5={b64(md5)}"},
        "x-goog-hash crc32c": {"x_goog_hash": f"crc32c={b64(crc)}"},
        "digest sha-256": {"digest": f"sha-256={b64(sha256)}"},
    }


GOOD = honest(SONG)
DATED = honest(SONG, etag=None, last_modified=OLD)
BARE = honest(SONG, etag=None)
CHANGED = honest(OTHER, etag='"v2"')


@asynccontextmanager
async def hosting(*scripts: Script, **record: Any) -> AsyncIterator[tuple[Simulator, Host, str]]:
    """Give an account with one job whose audio a scripted host serves."""
    host = Host(scripts)
    async with RawServer(host) as raw, Simulator() as sim:
        job = sim.add_job("talk.wav", audio_url=f"{raw.origin}/a.wav", **record)
        yield sim, host, job


async def fetch(folder: Path, *scripts: Script, **options: Any) -> tuple[Ran, Host]:
    """Run a backfill of one job whose audio a scripted host serves."""
    async with hosting(*scripts) as (sim, host, _):
        return await run(sim.api_url, folder, **options), host


@dataclass(frozen=True, slots=True)
class Row:
    """A host's answers in turn, the ranges that must be asked for, and the end."""

    answers: tuple[Script, ...]
    ranges: list[str | None]
    reason: str | None = None
    body: bytes = SONG


def row(*answers: Script, ranges: list[str | None], **more: Any) -> Row:
    return Row(answers, ranges, **more)


RESUMED = {
    "strong ETag": row(cut(GOOD), GOOD, ranges=[None, REST]),
    "Last-Modified": row(cut(DATED), DATED, ranges=[None, REST]),
    "weak ETag beside Last-Modified": row(
        cut(lie(DATED, etag='W/"v1"')), lie(DATED, etag='W/"v1"'), ranges=[None, REST]
    ),
    "cut twice": row(cut(GOOD), cut(GOOD, 7_000), GOOD, ranges=[None, REST, "bytes=17000-"]),
    "cut before the first byte": row(cut(GOOD, 0), GOOD, ranges=[None, None]),
    "cut before the first byte of the rest": row(
        cut(GOOD), cut(GOOD, 0), GOOD, ranges=[None, REST, REST]
    ),
    "a part that ends early as announced": row(
        cut(GOOD), shorter_part, GOOD, ranges=[None, REST, "bytes=15000-"]
    ),
    "total unknown to the part": row(
        cut(GOOD),
        lie(GOOD, content_range="bytes 10000-39999/*"),
        ranges=[None, REST],
    ),
    "length announced only by the part": row(
        lambda r: chunked(replace(GOOD(r), body=SONG[:CUT]), whole=False),
        GOOD,
        ranges=[None, REST],
    ),
    "chunked, the rest as well": row(
        lambda r: chunked(replace(GOOD(r), body=SONG[:CUT]), whole=False),
        lambda r: chunked(GOOD(r)),
        ranges=[None, REST],
    ),
    "no length, cut, and the WAV header tells": row(
        until_close(GOOD, CUT), GOOD, ranges=[None, REST]
    ),
    "a page in between": row(cut(GOOD), page(HTML), GOOD, ranges=[None, REST, REST]),
    "an XML page in between": row(cut(GOOD), page(XML), GOOD, ranges=[None, REST, REST]),
    "JSON in between": row(
        cut(GOOD), page(JSON, "application/json"), GOOD, ranges=[None, REST, REST]
    ),
    "an empty answer in between": row(cut(GOOD), page(b""), GOOD, ranges=[None, REST, REST]),
    "an empty answer without a length in between": row(
        cut(GOOD), until_close(page(b"")), GOOD, ranges=[None, REST, REST]
    ),
    "no content in between": row(
        cut(GOOD), lambda _: Reply("204 No Content"), GOOD, ranges=[None, REST, REST]
    ),
    "an unknown coding in between": row(
        cut(GOOD), lie(page(SONG), content_encoding="br"), GOOD, ranges=[None, REST, REST]
    ),
    "a bad gateway in between": row(
        cut(GOOD), page(HTML, "text/html", "502 Bad Gateway"), GOOD, ranges=[None, REST, REST]
    ),
}

FROM_ZERO = {
    "weak ETag alone": row(
        cut(lie(GOOD, etag='W/"v1"')), lie(GOOD, etag='W/"v1"'), ranges=[None, None]
    ),
    "no validator": row(cut(BARE), BARE, ranges=[None, None]),
    "a date of this very second": row(cut(lie(DATED, date=OLD)), DATED, ranges=[None, None]),
    "an ETag that is none": row(
        cut(lie(GOOD, etag="v1")), lie(GOOD, etag="v1"), ranges=[None, None]
    ),
    "ranges ignored": row(cut(GOOD), lie(page(SONG), etag='"v1"'), ranges=[None, REST]),
    "changed between attempts": row(cut(GOOD), CHANGED, ranges=[None, REST], body=OTHER),
    "changed between attempts, by date": row(
        cut(DATED),
        honest(OTHER, etag=None, last_modified=OLDER),
        ranges=[None, REST],
        body=OTHER,
    ),
    "a part of a changed file, If-Range ignored": row(
        cut(GOOD),
        lambda r: replace(CHANGED(replace(r, headers={"range": REST}))),
        CHANGED,
        ranges=[None, REST, None],
        body=OTHER,
    ),
    "a part that starts too early": row(
        cut(GOOD),
        lie(GOOD, content_range="bytes 9999-39998/40000"),
        GOOD,
        ranges=[None, REST, None],
    ),
    "a part that starts too late": row(
        cut(GOOD),
        lie(GOOD, content_range="bytes 10001-40000/40001"),
        GOOD,
        ranges=[None, REST, None],
    ),
    "a part of a longer file": row(
        cut(GOOD),
        lie(GOOD, content_range="bytes 10000-39999/50000"),
        GOOD,
        ranges=[None, REST, None],
    ),
    "a part of a shorter file": row(
        cut(GOOD),
        lie(GOOD, content_range="bytes 10000-29999/30000"),
        GOOD,
        ranges=[None, REST, None],
    ),
    "a part beyond its own total": row(
        cut(GOOD),
        lie(GOOD, content_range="bytes 10000-40000/40000"),
        GOOD,
        ranges=[None, REST, None],
    ),
    "a part in another unit": row(
        cut(GOOD),
        lie(GOOD, content_range="items 10000-39999/40000"),
        GOOD,
        ranges=[None, REST, None],
    ),
    "a part that does not say where it lies": row(
        cut(GOOD), lie(GOOD, content_range=None), GOOD, ranges=[None, REST, None]
    ),
    "a part whose two lengths differ": row(
        cut(GOOD),
        lie(GOOD, content_range="bytes 10000-39998/40000"),
        GOOD,
        ranges=[None, REST, None],
    ),
    "a part with another ETag": row(
        cut(GOOD), lie(GOOD, etag='"v2"'), GOOD, ranges=[None, REST, None]
    ),
    "a part with the ETag grown weak": row(
        cut(GOOD), lie(GOOD, etag='W/"v1"'), GOOD, ranges=[None, REST, None]
    ),
    "a part with an ETag where none was, and the date": row(
        cut(DATED), lie(DATED, etag='"v2"'), DATED, ranges=[None, REST, None]
    ),
    "an ETag beyond ASCII beside a Last-Modified": row(
        cut(lie(DATED, etag='"é1"')), lie(DATED, etag='"é2"'), ranges=[None, None]
    ),
    "an endless ETag beside a Last-Modified": row(
        cut(lie(DATED, etag=ENDLESS)), lie(DATED, etag=ENDLESS), ranges=[None, None]
    ),
    "a part without the ETag": row(
        cut(GOOD), lie(GOOD, etag=None), GOOD, ranges=[None, REST, None]
    ),
    "a part with another Last-Modified": row(
        cut(DATED), lie(DATED, last_modified=OLDER), DATED, ranges=[None, REST, None]
    ),
    "a part with the ETag and another Last-Modified": row(
        cut(lie(GOOD, last_modified=OLD)),
        lie(GOOD, last_modified=OLDER),
        GOOD,
        ranges=[None, REST, None],
    ),
    "a part that is encoded": row(
        cut(GOOD), lie(GOOD, content_encoding="gzip"), GOOD, ranges=[None, REST, None]
    ),
    "several parts": row(
        cut(GOOD),
        lie(GOOD, content_type="multipart/byteranges; boundary=x"),
        GOOD,
        ranges=[None, REST, None],
    ),
    "a part under status 200": row(
        cut(GOOD), lie(GOOD, status="200 OK"), GOOD, ranges=[None, REST, None]
    ),
    "416 although bytes are missing": row(
        cut(GOOD),
        page(b"", "text/plain", "416 Range Not Satisfiable"),
        GOOD,
        ranges=[None, REST, None],
    ),
    "416 with every byte here but the end unsaid": row(
        lambda r: chunked(GOOD(r), whole=False),
        lambda r: chunked(GOOD(r)),
        lambda r: chunked(GOOD(r)),
        ranges=[None, "bytes=40000-", None],
    ),
    "the wrong bytes under the right header fields, and a digest": row(
        cut(lie(GOOD, **digests(SONG)["repr-digest sha-256"])),
        wrongly_spliced,
        GOOD,
        ranges=[None, REST, None],
    ),
    "the wrong bytes of a part, and its own digest": row(
        cut(GOOD),
        lambda r: wrongly_spliced(r).having(**digests(SONG[CUT:])["content-digest sha-256"]),
        GOOD,
        ranges=[None, REST, None],
    ),
    "another total than an earlier part announced": row(
        lambda r: chunked(replace(GOOD(r), body=SONG[:CUT]), whole=False),
        cut(GOOD, 5_000),
        lie(GOOD, content_range="bytes 15000-39999/40001"),
        GOOD,
        ranges=[None, REST, "bytes=15000-", None],
    ),
    "gzip that nobody asked for, cut": row(
        lambda r: replace(_gzipped(), sent=CUT), lambda r: _gzipped(), ranges=[None, None]
    ),
    "gzip that is damaged once": row(
        lambda r: replace(_gzipped(), body=b"\x1f\x8b" + bytes(len(_gzipped().body) - 2)),
        lambda r: _gzipped(),
        ranges=[None, None],
    ),
    "an empty answer once": row(page(b""), GOOD, ranges=[None, None]),
    "a page once": row(page(HTML), GOOD, ranges=[None, None]),
    "a page without a length once": row(until_close(page(HTML)), GOOD, ranges=[None, None]),
    "no length, cut, and no validator": row(
        until_close(BARE, CUT), until_close(BARE), ranges=[None, None]
    ),
    "chunked, cut, and no validator": row(
        lambda r: chunked(replace(BARE(r), body=SONG[:CUT]), whole=False),
        lambda r: chunked(BARE(r)),
        ranges=[None, None],
    ),
}


def _gzipped() -> Reply:
    body = gzip.compress(SONG, mtime=0)
    return Reply(body=body).having(
        content_type="audio/wav",
        content_encoding="gzip",
        content_length=str(len(body)),
        etag='"v1"',
    )


def _deflated(*, wrapped: bool) -> Reply:
    maker = zlib.compressobj(wbits=zlib.MAX_WBITS if wrapped else -zlib.MAX_WBITS)
    body = maker.compress(SONG) + maker.flush()
    return Reply(body=body).having(content_encoding="deflate", content_length=str(len(body)))


UNUSUAL = {
    "HTTP/1.0": http_1_0(GOOD),
    "chunked": lambda r: chunked(GOOD(r)),
    "ended by closing": until_close(GOOD),
    "gzip that nobody asked for": lambda r: _gzipped(),
    "gzip in chunks": lambda r: chunked(_gzipped()),
    "x-gzip": lambda r: _gzipped().having(content_encoding="x-gzip"),
    "deflate": lambda r: _deflated(wrapped=True),
    "deflate without its wrapper": lambda r: _deflated(wrapped=False),
    "identity said aloud": lie(GOOD, content_encoding="identity"),
    "206 to a question without a range": lie(
        GOOD, status="206 Partial Content", content_range="bytes 0-39999/40000"
    ),
    "200 with the Content-Range of the whole": lie(GOOD, content_range="bytes 0-39999/40000"),
    "no Content-Type": lie(GOOD, content_type=None),
    "audio that is called a web page": lie(GOOD, content_type="text/html"),
    "an unknown digest": lie(GOOD, repr_digest="sha3=:AAAA:", content_md5="nonsense"),
}

REFUSED = {
    "an empty file": (page(b""), "empty"),
    "an empty file without a length": (until_close(page(b"")), "empty"),
    "HTML": (page(HTML), "HTML"),
    "HTML as such": (page(HTML, "text/html"), "HTML"),
    "XML": (page(XML, "application/xml"), "XML"),
    "JSON": (page(JSON), "JSON"),
    "JSON in chunks": (lambda r: chunked(page(JSON)(r)), "JSON"),
    "HTML in gzip": (
        lambda r: replace(_gzipped(), body=gzip.compress(HTML)).having(
            content_length=str(len(gzip.compress(HTML)))
        ),
        "HTML",
    ),
    "a WAV that is shorter than its header": (honest(SONG[:30_000]), "cut short"),
    "a WAV that ends within its header": (honest(SONG[:10]), "cut short"),
    "a part although the whole was asked for": (
        lie(GOOD, status="206 Partial Content", content_range="bytes 0-39999/50000"),
        "whole file was asked for",
    ),
    "a status without a body": (lambda _: Reply("204 No Content"), "204"),
    "416 to a question without a range": (
        page(b"", "text/plain", "416 Range Not Satisfiable"),
        "416",
    ),
    "an unknown coding": (lie(GOOD, content_encoding="br"), "br"),
    "two codings": (lie(GOOD, content_encoding="gzip, br"), "gzip, br"),
    "gzip that is none": (lie(GOOD, content_encoding="gzip"), "damaged"),
    "a body that never comes whole": (cut(BARE), "before its announced length"),
    "a length that is none": (lie(GOOD, content_length="forty"), ""),
    "two lengths": (lie(GOOD, content_length="40000, 40001"), ""),
    "no HTTP": (lambda _: Reply("", version="SSH-2.0-OpenSSH_9.6"), "HTTP"),
    "a redirect to nowhere": (lambda _: Reply("302 Found"), "302"),
    "an error that stays": (page(HTML, "text/html", "500 Internal Server Error"), "500"),
    "a teapot": (page(b"no", "text/plain", "418 I'm a teapot"), "418"),
}


@pytest.mark.parametrize("name", RESUMED)
async def test_a_cut_download_goes_on_from_its_last_byte_after(name: str, tmp_path: Path) -> None:
    await check_row(RESUMED[name], tmp_path)


@pytest.mark.parametrize("name", FROM_ZERO)
async def test_the_file_is_fetched_from_its_start_after(name: str, tmp_path: Path) -> None:
    await check_row(FROM_ZERO[name], tmp_path)


async def check_row(expected: Row, folder: Path) -> None:
    ran, host = await fetch(folder, *expected.answers, retries=3)
    assert (ran.exit_code, ran.reasons) == (0, [])
    assert host.ranges == expected.ranges
    assert list(files(folder).values()) == [expected.body]
    [done] = ran.of(DownloadCompleted)
    assert (done.bytes, done.sha256) == (
        len(expected.body),
        hashlib.sha256(expected.body).hexdigest(),
    )


@pytest.mark.parametrize("name", UNUSUAL)
async def test_one_request_is_enough_for(name: str, tmp_path: Path) -> None:
    ran, host = await fetch(tmp_path, UNUSUAL[name])
    assert (ran.exit_code, ran.reasons) == (0, [])
    assert host.ranges == [None]
    assert list(files(tmp_path).values()) == [SONG]


@pytest.mark.parametrize("name", REFUSED)
async def test_nothing_is_put_in_place_for(name: str, tmp_path: Path) -> None:
    script, words = REFUSED[name]
    ran, _ = await fetch(tmp_path, script, retries=1)
    [reason] = ran.reasons
    assert ran.exit_code == 1
    assert words in reason
    assert files(tmp_path) == {}


# ---- digests -----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", digests(SONG))
async def test_a_right_digest_of_the_whole_is_accepted(kind: str, tmp_path: Path) -> None:
    ran, host = await fetch(tmp_path, lie(GOOD, **digests(SONG)[kind]))
    assert (ran.exit_code, host.ranges) == (0, [None])
    assert list(files(tmp_path).values()) == [SONG]


@pytest.mark.parametrize("kind", digests(SONG))
async def test_a_right_digest_is_accepted_when_the_rest_was_resumed(
    kind: str, tmp_path: Path
) -> None:
    """Beside a part, Content-Digest is of the part, and the others are of the file."""
    first, second = digests(SONG)[kind], digests(SONG)[kind]
    if kind.startswith("content-digest"):
        first, second = {}, digests(SONG[CUT:])[kind]
    ran, host = await fetch(tmp_path, cut(lie(GOOD, **first)), lie(GOOD, **second))
    assert (ran.exit_code, host.ranges) == (0, [None, REST])
    assert list(files(tmp_path).values()) == [SONG]


async def test_the_content_md5_of_a_part_is_accepted(tmp_path: Path) -> None:
    right = digests(SONG[CUT:])["content-md5"]
    ran, host = await fetch(tmp_path, cut(GOOD), lie(GOOD, **right))
    assert (ran.exit_code, host.ranges) == (0, [None, REST])


@pytest.mark.parametrize("kind", digests(SONG))
async def test_a_digest_that_does_not_match_once_costs_a_second_fetch(
    kind: str, tmp_path: Path
) -> None:
    ran, host = await fetch(tmp_path, lie(GOOD, **digests(OTHER)[kind]), GOOD)
    assert (ran.exit_code, host.ranges) == (0, [None, None])
    assert "does not match" in ran.retried[0]
    assert list(files(tmp_path).values()) == [SONG]


@pytest.mark.parametrize("kind", digests(SONG))
async def test_a_digest_that_never_matches_fails_the_file(kind: str, tmp_path: Path) -> None:
    ran, host = await fetch(tmp_path, lie(GOOD, **digests(OTHER)[kind]))
    assert (ran.exit_code, len(host.ranges)) == (1, 3)
    assert "does not match" in ran.reasons[0]
    assert files(tmp_path) == {}


@pytest.mark.parametrize("kind", [kind for kind in digests(SONG) if "content-d" not in kind])
async def test_a_wrong_digest_of_the_whole_is_noticed_after_a_resumption(
    kind: str, tmp_path: Path
) -> None:
    wrong = lie(GOOD, **digests(OTHER)[kind])
    ran, host = await fetch(tmp_path, cut(wrong), wrong, GOOD)
    assert (ran.exit_code, host.ranges) == (0, [None, REST, None])
    assert list(files(tmp_path).values()) == [SONG]


def damaged(script: Script) -> Script:
    """Answer as `script` does, but for one bit early in the body."""

    def lying(request: Request) -> Reply:
        said = script(request)
        return replace(said, body=said.body[:100] + bytes([said.body[100] ^ 1]) + said.body[101:])

    return lying


OF_A_PART = ["content-digest sha-256", "content-md5"]


@pytest.mark.parametrize("kind", OF_A_PART)
async def test_a_digest_of_a_part_that_was_cut_is_held_against_the_finished_file(
    kind: str, tmp_path: Path
) -> None:
    said = lie(GOOD, **digests(SONG[CUT:])[kind])
    ran, host = await fetch(tmp_path, cut(GOOD), cut(damaged(said), 5_000), GOOD)
    assert (ran.exit_code, host.ranges) == (0, [None, REST, "bytes=15000-", None])
    assert "does not match" in ran.retried[-1]
    assert list(files(tmp_path).values()) == [SONG]


@pytest.mark.parametrize("kind", OF_A_PART)
async def test_a_right_digest_of_a_part_that_was_cut_is_accepted(kind: str, tmp_path: Path) -> None:
    said = lie(GOOD, **digests(SONG[CUT:])[kind])
    ran, host = await fetch(tmp_path, cut(GOOD), cut(said, 5_000), GOOD)
    assert (ran.exit_code, host.ranges) == (0, [None, REST, "bytes=15000-"])
    assert list(files(tmp_path).values()) == [SONG]


@pytest.mark.parametrize("kind", [kind for kind in digests(SONG) if "content" not in kind])
async def test_a_digest_of_the_whole_that_only_a_cut_part_brings_is_held_against_the_file(
    kind: str, tmp_path: Path
) -> None:
    wrong = lie(GOOD, **digests(OTHER)[kind])
    ran, host = await fetch(tmp_path, cut(GOOD), cut(wrong, 5_000), GOOD)
    assert (ran.exit_code, host.ranges) == (0, [None, REST, "bytes=15000-", None])
    assert list(files(tmp_path).values()) == [SONG]


async def test_one_wrong_digest_among_right_ones_is_enough(tmp_path: Path) -> None:
    right = digests(SONG)["repr-digest sha-256"]
    wrong = digests(OTHER)["x-goog-hash crc32c"]
    ran, host = await fetch(tmp_path, lie(GOOD, **right, **wrong), lie(GOOD, **right))
    assert (ran.exit_code, host.ranges) == (0, [None, None])


async def test_the_hash_of_what_google_stored_compressed_is_not_the_files(tmp_path: Path) -> None:
    stored = digests(gzip.compress(SONG))["x-goog-hash crc32c"]
    ran, host = await fetch(tmp_path, lie(GOOD, x_goog_stored_content_encoding="gzip", **stored))
    assert (ran.exit_code, host.ranges) == (0, [None])


# ---- WAV headers -------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 0xFFFFFFFF], ids=["0", "all ones"])
async def test_a_wav_that_was_streamed_may_leave_its_size_open(size: int, tmp_path: Path) -> None:
    body = wav_header(size)[:4] + size.to_bytes(4, "little") + wav_header(size)[8:] + SONG[44:]
    ran, _ = await fetch(tmp_path, honest(body), check_duration="off")
    assert ran.exit_code == 0
    assert list(files(tmp_path).values()) == [body]


@pytest.mark.parametrize("size", [0, 0xFFFFFFFF, 0xFFFFFFDB, 0x7FFFF000], ids=hex)
@pytest.mark.parametrize("seconds", [2, 20], ids=["small", "large"])
async def test_a_streamed_wav_is_as_long_as_it_is(
    size: int, seconds: int, tmp_path: Path, sim: Simulator
) -> None:
    body = song(44 + seconds * 32_000)
    body = body[:40] + size.to_bytes(4, "little") + body[44:]
    async with RawServer(Host([honest(body)])) as raw:
        job = sim.add_job(audio_url=f"{raw.origin}/a.wav")
        sim.override(job, audio_duration=float(seconds))
        ran = await run(sim.api_url, tmp_path, check_duration="fail")
    assert (ran.exit_code, ran.reasons) == (0, [])


async def test_an_rf64_keeps_its_size_elsewhere(tmp_path: Path) -> None:
    body = b"RF64\xff\xff\xff\xff" + wav_header(0xFFFFFFFF)[8:] + SONG[44:]
    ran, _ = await fetch(tmp_path, honest(body), check_duration="off")
    assert ran.exit_code == 0


# ---- connections and redirects -----------------------------------------------------------


async def test_bytes_behind_a_large_body_are_not_the_files(tmp_path: Path) -> None:
    large = song(900_000)
    ran, _ = await fetch(tmp_path, lambda r: replace(honest(large)(r), body=large + b"more"))
    assert ran.exit_code == 0
    assert list(files(tmp_path).values()) == [large]


async def test_bytes_behind_a_small_body_are_no_answer(tmp_path: Path) -> None:
    ran, _ = await fetch(tmp_path, lambda r: replace(GOOD(r), body=SONG + b"more"))
    assert ran.exit_code == 1
    assert "no HTTP" in ran.reasons[0]
    assert files(tmp_path) == {}


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("to", ["absolute", "relative", "other"])
async def test_redirects_are_followed_and_a_cut_file_goes_on_behind_them(
    status: int, to: Any, tmp_path: Path, sim: Simulator
) -> None:
    serving = Serving(redirects=(status, status), redirect_to=to)
    job = sim.add_job(size_bytes=50_000, serving=serving)
    sim.faults.add(Fault("audio", cut_after_bytes=20_000, when=lambda r: "hop=2" in r.target))
    ran = await run(sim.api_url, tmp_path)
    assert ran.exit_code == 0
    assert list(files(tmp_path).values()) == [sim.content(job)]
    last_hops = [r for r in sim.audio_requests(job) if "hop=2" in r.target]
    assert [r.range for r in last_hops] == [None, "bytes=20000-"]
    assert all("x-api-key" not in r.headers for r in sim.audio_requests(job))


async def test_redirects_in_circles_fail_the_file(tmp_path: Path, sim: Simulator) -> None:
    sim.add_job(serving=Serving(redirects=(302,), redirect_to="loop"))
    sim.add_job("fine.wav")
    ran = await run(sim.api_url, tmp_path)
    assert (ran.exit_code, ran.final.downloaded, ran.final.failed) == (1, 1, 1)
    assert "circles" in ran.reasons[0]


async def test_a_redirect_to_a_sign_in_page_fails_the_file(tmp_path: Path) -> None:
    def script(request: Request) -> Reply:
        if request.target == "/login":
            return page(HTML, "text/html")(request)
        return Reply("302 Found", {"Location": "/login", "Content-Length": "0"})

    ran, _ = await fetch(tmp_path, script)
    assert ran.exit_code == 1
    assert "HTML" in ran.reasons[0]
    assert files(tmp_path) == {}


async def test_a_kept_connection_that_the_host_closes_costs_nothing(
    tmp_path: Path, sim: Simulator
) -> None:
    sim.add_jobs(6)
    sim.faults.add(Fault("audio", times=None, hang_up=True))
    ran = await run(sim.api_url, tmp_path, concurrency=1)
    assert (ran.exit_code, ran.final.downloaded, ran.retried) == (0, 6, [])


async def test_a_host_that_is_not_there_fails_its_file_only(tmp_path: Path, sim: Simulator) -> None:
    async with RawServer(Host([GOOD])) as gone:
        closed = gone.origin
    sim.add_job("gone.wav", audio_url=f"{closed}/a.wav?secret=1")
    sim.add_job("here.wav")
    ran = await run(sim.api_url, tmp_path)
    assert (ran.exit_code, ran.final.downloaded, ran.final.failed) == (1, 1, 1)
    assert "secret" not in ran.reasons[0]


async def test_a_host_whose_certificate_is_not_trusted_fails_its_file_only(
    tmp_path: Path, sim: Simulator
) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(Path(__file__).parent / "data" / "tls" / "server.pem")
    async with RawServer(Host([GOOD]), context) as server:
        sim.add_job("a.wav", audio_url=f"{server.origin}/a.wav?secret=1")
        sim.add_job("b.wav")
        ran = await run(sim.api_url, tmp_path)
    assert (ran.exit_code, ran.final.downloaded, ran.final.failed) == (1, 1, 1)
    assert "not trusted" in ran.reasons[0]
    assert ran.retried == []


# ---- one body at a time, larger than memory's pieces -------------------------------------


@pytest.mark.parametrize("framing", ["known", "chunked", "close"])
@pytest.mark.parametrize("sent", [1, 262_144, 1_048_576, 2_500_000])
async def test_a_large_file_goes_on_from_wherever_it_was_cut(
    framing: Any, sent: int, tmp_path: Path, sim: Simulator
) -> None:
    job = sim.add_job(size_bytes=3_000_017, serving=Serving(length=framing))
    sim.faults.add(Fault("audio", cut_after_bytes=sent))
    ran = await run(sim.api_url, tmp_path)
    assert ran.exit_code == 0
    assert list(files(tmp_path).values()) == [sim.content(job)]
    assert [r.range for r in sim.audio_requests()] == [None, f"bytes={sent}-"]
    assert ran.final.bytes_fetched == 3_000_017


@pytest.mark.parametrize("sent", [0, 1_000, 1_500_000])
async def test_a_stalled_body_goes_on_from_where_it_stalled(
    sent: int, tmp_path: Path, sim: Simulator
) -> None:
    job = sim.add_job(size_bytes=2_000_000)
    sim.faults.add(Fault("audio", stall_after_bytes=sent))
    ran = await run(sim.api_url, tmp_path, timeout=0.3)
    assert ran.exit_code == 0
    assert list(files(tmp_path).values()) == [sim.content(job)]
    assert [r.range for r in sim.audio_requests()] == [None, f"bytes={sent}-" if sent else None]


async def test_a_body_that_dribbles_slower_than_the_timeout_is_not_stalled(
    tmp_path: Path, sim: Simulator
) -> None:
    """The timeout is of silence, never of a whole transfer (contract 5: no total timeout)."""
    sim.add_job(size_bytes=30_000, serving=Serving(rate_bytes_s=40_000))
    ran = await run(sim.api_url, tmp_path, timeout=0.25)
    assert (ran.exit_code, ran.retried) == (0, [])


async def test_a_reset_connection_is_tried_again(tmp_path: Path, sim: Simulator) -> None:
    job = sim.add_job(size_bytes=800_000)
    sim.faults.add(Fault("audio", cut_after_bytes=400_000, reset=True))
    ran = await run(sim.api_url, tmp_path)
    assert ran.exit_code == 0
    assert list(files(tmp_path).values()) == [sim.content(job)]


# ---- what was held is never given up for a page ------------------------------------------


@pytest.mark.parametrize("body", [HTML, XML, JSON, b""], ids=["HTML", "XML", "JSON", "nothing"])
async def test_a_good_part_survives_a_host_that_only_sends_pages(
    body: bytes, tmp_path: Path
) -> None:
    """The run fails; the next one goes on from the same byte."""
    async with hosting(cut(GOOD), page(body), page(body), page(body), GOOD) as (sim, host, _):
        first = await run(sim.api_url, tmp_path)
        second = await run(sim.api_url, tmp_path)
    assert (first.exit_code, second.exit_code) == (1, 0)
    assert host.ranges == [None, REST, REST, REST, REST]
    assert list(files(tmp_path).values()) == [SONG]


async def test_a_failed_file_keeps_its_part_and_the_next_run_goes_on(tmp_path: Path) -> None:
    down = page(XML, "application/xml", "503 Service Unavailable")
    async with hosting(cut(GOOD), down, down, down, GOOD) as (sim, host, _):
        first = await run(sim.api_url, tmp_path)
        second = await run(sim.api_url, tmp_path)
    assert (first.exit_code, second.exit_code) == (1, 0)
    assert host.ranges[-1] == REST
    assert second.final.bytes_fetched == len(SONG) - CUT


# ---- sizes -------------------------------------------------------------------------------


@pytest.mark.parametrize("framing", ["known", "chunked", "close", "gzip"])
async def test_a_file_beyond_max_size_is_left_out(framing: str, tmp_path: Path) -> None:
    scripts: dict[str, Script] = {
        "known": GOOD,
        "chunked": lambda r: chunked(GOOD(r)),
        "close": until_close(GOOD),
        "gzip": lambda r: _gzipped(),
    }
    ran, _ = await fetch(tmp_path, scripts[framing], max_size=len(SONG) - 1)
    assert (ran.exit_code, ran.final.filtered, ran.final.failed) == (0, 1, 0)
    assert files(tmp_path) == {}


async def test_a_file_of_just_max_size_is_fetched(tmp_path: Path) -> None:
    ran, _ = await fetch(tmp_path, GOOD, max_size=len(SONG))
    assert (ran.exit_code, ran.final.downloaded) == (0, 1)


async def test_a_body_without_end_stops_at_max_size(tmp_path: Path) -> None:
    sent = 0

    async def endless(request: Request, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        writer.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n" + wav_header(0))
        while not writer.is_closing():
            writer.write(b"\1" * 100_000)
            sent += 100_000
            await writer.drain()

    async with RawServer(endless) as raw, Simulator() as sim:
        sim.add_job(audio_url=f"{raw.origin}/a.wav")
        ran = await run(sim.api_url, tmp_path, max_size=1_000_000)
    assert (ran.exit_code, ran.final.filtered) == (0, 1)
    assert sent < 30_000_000

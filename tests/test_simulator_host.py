"""The simulator's file host: ranges, validators, links, digests, redirects, and every fault."""

from __future__ import annotations

import asyncio
import base64
import gzip
import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import aiohttp
import google_crc32c
import pytest
from yarl import URL

from fetcher.simulator import Fault, Serving, SimRequest, Simulator

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from multidict import CIMultiDictProxy

Session = aiohttp.ClientSession


@dataclass(frozen=True)
class Got:
    """An answer, read to its end; `error` is what broke it off."""

    status: int
    headers: CIMultiDictProxy[str]
    body: bytes
    error: type[BaseException] | None


@pytest.fixture
async def session() -> AsyncIterator[Session]:
    headers = {"x-api-key": "k", "Accept-Encoding": "identity"}
    async with Session(headers=headers, auto_decompress=False) as session:
        yield session


@pytest.fixture
async def impatient() -> AsyncIterator[Session]:
    async with Session(timeout=aiohttp.ClientTimeout(sock_read=0.2)) as session:
        yield session


async def get(session: Session, url: str, **headers: str) -> Got:
    """Return the answer to a GET; `if_range=...` becomes If-Range."""
    fields = {name.replace("_", "-"): value for name, value in headers.items()}
    target = URL(url, encoded=True)
    async with session.get(target, headers=fields, allow_redirects=False) as response:
        body, error = bytearray(), None
        try:
            async for chunk in response.content.iter_any():
                body += chunk
        except (aiohttp.ClientError, TimeoutError, ConnectionError) as broken:
            error = type(broken)
        return Got(response.status, response.headers, bytes(body), error)


# ---- ranges ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "start", "stop"),
    [
        ("bytes=0-0", 0, 1),
        ("bytes=10-19", 10, 20),
        ("bytes=3990-", 3990, 4000),
        ("bytes=3990-9999", 3990, 4000),
        ("bytes=-10", 3990, 4000),
        ("bytes=-9999", 0, 4000),
    ],
)
async def test_single_range_is_206(
    sim: Simulator, session: Session, asked: str, start: int, stop: int
) -> None:
    job = sim.add_job(size_bytes=4000)
    got = await get(session, sim.url(job), range=asked)
    assert (got.status, got.body) == (206, sim.content(job)[start:stop])
    assert got.headers["Content-Range"] == f"bytes {start}-{stop - 1}/4000"
    assert got.headers["Content-Length"] == str(stop - start)


@pytest.mark.parametrize("asked", ["bytes=4000-", "bytes=9999-10000", "bytes=-0"])
async def test_range_beyond_the_end_is_416(sim: Simulator, session: Session, asked: str) -> None:
    job = sim.add_job(size_bytes=4000)
    got = await get(session, sim.url(job), range=asked)
    assert (got.status, got.headers["Content-Range"]) == (416, "bytes */4000")


@pytest.mark.parametrize("asked", ["bytes=0-1,5-6", "bytes=9-3", "bytes=-", "items=0-1", "x"])
async def test_range_that_is_not_served_is_ignored(
    sim: Simulator, session: Session, asked: str
) -> None:
    job = sim.add_job(size_bytes=4000)
    got = await get(session, sim.url(job), range=asked)
    assert (got.status, got.body) == (200, sim.content(job))


async def test_if_range_holds_only_for_the_same_strong_validator(
    sim: Simulator, session: Session
) -> None:
    job = sim.add_job()
    head = (await get(session, sim.url(job))).headers
    for validator, status in (
        (head["ETag"], 206),
        (head["Last-Modified"], 206),
        ('"other"', 200),
        ("W/" + head["ETag"], 200),
        ("Mon, 01 Jan 2001 00:00:00 GMT", 200),
    ):
        got = await get(session, sim.url(job), range="bytes=9-", if_range=validator)
        assert got.status == status, validator


async def test_changed_file_has_other_validators_and_bytes(
    sim: Simulator, session: Session
) -> None:
    job = sim.add_job()
    old = await get(session, sim.url(job))
    sim.change(job)
    new = await get(session, sim.url(job), range="bytes=9-", if_range=old.headers["ETag"])
    assert (new.status, len(new.body)) == (200, len(old.body))
    assert new.body != old.body
    assert new.headers["Last-Modified"] != old.headers["Last-Modified"]


# ---- links -------------------------------------------------------------------------------


async def test_link_is_on_another_origin_and_right_only_byte_for_byte(
    sim: Simulator, session: Session
) -> None:
    job = sim.add_job()
    url = sim.url(job)
    assert URL(url).origin() != URL(sim.api_url).origin()
    assert (await get(session, url)).status == 200
    assert (await get(session, url.replace("%2F", "/"))).status == 403
    assert (await get(session, url.partition("?")[0])).status == 403


async def test_link_expires_and_the_list_and_the_stream_renew_it(
    sim: Simulator, session: Session
) -> None:
    job, other = sim.add_jobs(2)
    old = sim.url(job)
    sim.expire_links(job)
    refused = await get(session, old)
    assert (refused.status, refused.headers["Content-Type"]) == (403, "application/xml")
    assert b"<Code>AccessDenied</Code>" in refused.body
    assert (await get(session, sim.url(other))).status == 200
    async with session.get(f"{sim.api_url}/denoise?offset=1") as response:
        (record,) = await response.json()
    stream = await get(session, f"{sim.api_url}/denoise/{job}/progress")
    assert record["audio_url"].encode() in stream.body
    assert (await get(session, record["audio_url"])).status == 200
    sim.advance(2 * sim.links.ttl_s)
    assert (await get(session, record["audio_url"])).status == 403
    assert (await get(session, sim.url(job))).status == 200


async def test_file_of_no_job_or_of_a_pending_one_is_404(sim: Simulator, session: Session) -> None:
    job = sim.add_job()
    pending = sim.add_job(status="pending")
    url = sim.url(job)
    assert (await get(session, sim.url(pending))).status == 404
    assert (await get(session, sim.url(pending, "original"))).status == 200
    assert (await get(session, f"{sim.host_url}/else")).status == 404
    sim.delete(job)
    assert (await get(session, url)).status == 404


# ---- ways of serving ---------------------------------------------------------------------


@pytest.mark.parametrize("length", ["chunked", "close"])
async def test_length_that_is_not_announced(sim: Simulator, session: Session, length: Any) -> None:
    job = sim.add_job(size_bytes=600_000, serving=Serving(length=length))
    got = await get(session, sim.url(job))
    assert (got.body, got.error) == (sim.content(job), None)
    assert "Content-Length" not in got.headers
    assert ("Transfer-Encoding" in got.headers) == (length == "chunked")


async def test_validators_and_types_as_asked(sim: Simulator, session: Session) -> None:
    weak = sim.add_job(serving=Serving(etag="weak", extension="", content_type="audio/mpeg"))
    bare = sim.add_job(serving=Serving(etag=None, last_modified=False, content_type=None))
    got = await get(session, sim.url(weak))
    assert (got.headers["ETag"][:2], got.headers["Content-Type"]) == ("W/", "audio/mpeg")
    assert URL(sim.url(weak)).suffix == ""
    got = await get(session, sim.url(bare))
    assert [n for n in ("ETag", "Last-Modified", "Content-Type") if n in got.headers] == []
    assert URL(sim.url(bare)).suffix == ".wav"


async def test_digests_are_right_or_wrong(sim: Simulator, session: Session) -> None:
    kinds = ("content-md5", "repr-digest", "content-digest=sha-512", "x-goog-hash")
    job = sim.add_job(serving=Serving(digests=kinds))
    content = sim.content(job)

    def b64(data: bytes) -> str:
        return base64.b64encode(data).decode()

    md5 = b64(hashlib.md5(content).digest())
    crc = b64(int(google_crc32c.value(content)).to_bytes(4, "big"))
    got = await get(session, sim.url(job))
    assert got.headers["Content-MD5"] == md5
    assert got.headers["Repr-Digest"] == f"sha-256=:{b64(hashlib.sha256(content).digest())}:"
    assert got.headers["x-goog-hash"] == f"crc32c={crc},md5={md5}"
    part = await get(session, sim.url(job), range="bytes=5-")
    assert part.headers["Repr-Digest"] == got.headers["Repr-Digest"]
    assert (
        part.headers["Content-Digest"] == f"sha-512=:{b64(hashlib.sha512(content[5:]).digest())}:"
    )
    sim.faults.add(Fault(on="audio", digest="wrong"))
    wrong = await get(session, sim.url(job))
    assert wrong.headers["Content-MD5"] != md5
    assert wrong.body == content


async def test_gzip_is_sent_unasked(sim: Simulator, session: Session) -> None:
    job = sim.add_job(serving=Serving(gzip=True))
    got = await get(session, sim.url(job))
    assert got.headers["Content-Encoding"] == "gzip"
    assert gzip.decompress(got.body) == sim.content(job)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("way", ["absolute", "relative", "other"])
async def test_redirects_lead_to_the_audio(
    sim: Simulator, session: Session, status: int, way: Any
) -> None:
    job = sim.add_job(serving=Serving(redirects=(status, status), redirect_to=way))
    url = sim.url(job)
    for hop in range(2):
        got = await get(session, url)
        assert (got.status, hop) == (status, hop)
        assert got.headers["Location"].startswith("/") == (way == "relative")
        url = str(URL(url, encoded=True).join(URL(got.headers["Location"], encoded=True)))
    assert (await get(session, url)).body == sim.content(job)
    assert url.startswith(sim.mirror_url if way == "other" else sim.host_url)


async def test_redirect_loop_has_no_end(sim: Simulator, session: Session) -> None:
    job = sim.add_job(serving=Serving(redirects=(302,), redirect_to="loop"))
    seen = []
    url = sim.url(job)
    for _ in range(4):
        url = (await get(session, url)).headers["Location"]
        seen.append(url)
    assert len(set(seen)) == 2


async def test_connection_is_kept_for_the_next_file(sim: Simulator, session: Session) -> None:
    for job in sim.add_jobs(3):
        await get(session, sim.url(job))
    assert len({request.client_port for request in sim.requests}) == 1


# ---- faults ------------------------------------------------------------------------------


@pytest.mark.parametrize("length", ["known", "chunked"])
@pytest.mark.parametrize("cut", [0, 1, 300_001])
async def test_cut_ends_the_connection_after_so_many_bytes(
    sim: Simulator, session: Session, cut: int, length: Any
) -> None:
    job = sim.add_job(size_bytes=1_000_000, serving=Serving(length=length))
    sim.faults.add(Fault(on="audio", cut_after_bytes=cut))
    got = await get(session, sim.url(job))
    assert (got.body, got.error) == (sim.content(job)[:cut], aiohttp.ClientPayloadError)
    again = await get(session, sim.url(job))
    assert (again.body, again.error) == (sim.content(job), None)
    assert [r.body_bytes for r in sim.audio_requests(job)] == [cut, 1_000_000]
    assert sim.bytes_sent(job) == cut + 1_000_000


async def test_reset_breaks_the_connection_hard(sim: Simulator, session: Session) -> None:
    job = sim.add_job(size_bytes=1_000_000)
    sim.faults.add(Fault(on="audio", cut_after_bytes=100_000, reset=True))
    got = await get(session, sim.url(job))
    assert got.error is not None
    assert len(got.body) <= 100_000


async def test_stall_keeps_the_connection_open_and_silent(
    sim: Simulator, impatient: Session
) -> None:
    job = sim.add_job(size_bytes=1_000_000)
    sim.faults.add(Fault(on="audio", stall_after_bytes=1_000))
    got = await get(impatient, sim.url(job))
    assert (got.body, got.error) == (sim.content(job)[:1_000], aiohttp.SocketTimeoutError)


async def test_rate_is_kept(sim: Simulator, session: Session) -> None:
    job = sim.add_job(size_bytes=50_000, serving=Serving(rate_bytes_s=250_000))
    started_s = asyncio.get_running_loop().time()
    assert (await get(session, sim.url(job))).body == sim.content(job)
    assert asyncio.get_running_loop().time() - started_s > 0.15


@pytest.mark.parametrize(
    ("fault", "status", "body"),
    [
        (Fault(on="audio", status=503, headers={"Retry-After": "7"}), 503, b"Scripted 503"),
        (Fault(on="audio", html=True), 200, b"<!DOCTYPE html>"),
        (Fault(on="audio", body="{}"), 200, b"{}"),
        (Fault(on="audio", status=200, body=b""), 200, b""),
    ],
    ids=["status", "html", "body", "empty"],
)
async def test_something_else_is_answered(
    sim: Simulator, session: Session, fault: Fault, status: int, body: bytes
) -> None:
    sim.faults.add(fault)
    got = await get(session, sim.url(sim.add_job()))
    assert (got.status, body in got.body) == (status, True)
    assert got.headers.get("Retry-After") == fault.headers.get("Retry-After")


async def test_lies_about_ranges(sim: Simulator, session: Session) -> None:
    job = sim.add_job(size_bytes=4000)
    sim.faults.add(
        Fault(on="audio", ignore_range=True),
        Fault(on="audio", after=1, content_range="bytes 7-3999/4000"),
        Fault(on="audio", after=2, change_file=True),
        Fault(on="audio", after=3, headers={"ETag": None, "Accept-Ranges": "none"}),
    )
    before = sim.content(job)
    ignored, moved, changed, bare = [
        await get(session, sim.url(job), range="bytes=10-") for _ in range(4)
    ]
    assert (ignored.status, ignored.body) == (200, before)
    assert (moved.headers["Content-Range"], moved.body) == ("bytes 7-3999/4000", before[10:])
    assert changed.body == sim.content(job)[10:] != before[10:]
    assert ("ETag" in bare.headers, bare.headers["Accept-Ranges"]) == (False, "none")


async def test_lie_about_the_length(sim: Simulator, impatient: Session) -> None:
    job = sim.add_job(size_bytes=4000)
    sim.faults.add(Fault(on="audio", content_length=5000))
    got = await get(impatient, sim.url(job))
    assert (got.headers["Content-Length"], got.body) == ("5000", sim.content(job))
    assert got.error is aiohttp.SocketTimeoutError


async def test_connection_is_closed_without_an_answer(sim: Simulator, session: Session) -> None:
    job = sim.add_job()
    sim.faults.add(Fault(on="audio", disconnect=True, times=None))
    with pytest.raises(aiohttp.ServerDisconnectedError):
        await get(session, sim.url(job))
    assert {r.status for r in sim.audio_requests(job)} == {0}


async def test_hang_up_closes_after_a_whole_answer(sim: Simulator, session: Session) -> None:
    first, second = sim.add_jobs(2)
    sim.faults.add(Fault(on="audio", job=first, hang_up=True))
    assert (await get(session, sim.url(first))).body == sim.content(first)
    assert (await get(session, sim.url(second))).body == sim.content(second)


async def test_fault_counts_and_chooses_its_requests(sim: Simulator, session: Session) -> None:
    first, second = sim.add_jobs(2)

    def is_ranged(request: SimRequest) -> bool:
        return request.range is not None

    fault = Fault(on="audio", job=first, after=1, times=2, status=500)
    ranged = Fault(on="audio", when=is_ranged, times=None, status=502)
    sim.faults.add(fault, ranged)
    statuses = [(await get(session, sim.url(first))).status for _ in range(4)]
    assert statuses == [200, 500, 500, 200]
    assert sim.faults.fired(fault) == 2
    assert (await get(session, sim.url(second))).status == 200
    assert (await get(session, sim.url(second), range="bytes=1-")).status == 502
    sim.faults.remove(ranged)
    assert (await get(session, sim.url(second), range="bytes=1-")).status == 206


async def test_faults_of_the_api(sim: Simulator, session: Session) -> None:
    job = sim.add_job()
    url = f"{sim.api_url}/denoise"
    sim.faults.add(
        Fault(on="list", html=True),
        Fault(on="list", after=1, body='[{"id":'),
        Fault(on="list", after=2, status=429, headers={"Retry-After": "3"}),
        Fault(on="list", after=3, cut_after_bytes=20),
        Fault(on="list", after=4, body="[]"),
        Fault(on="progress", cut_after_bytes=5),
    )
    html, half, busy, cut, empty = [await get(session, url) for _ in range(5)]
    assert html.headers["Content-Type"] == "text/html"
    assert half.body == b'[{"id":'
    assert (busy.status, busy.headers["Retry-After"]) == (429, "3")
    assert (len(cut.body), cut.error) == (20, aiohttp.ClientPayloadError)
    assert empty.body == b"[]"
    stream = await get(session, f"{url}/{job}/progress")
    assert (stream.body, stream.error) == (b"data:", aiohttp.ClientPayloadError)
    assert len(sim.list_requests) == 5


async def test_outage_closes_or_answers_with_a_status(sim: Simulator, session: Session) -> None:
    url = f"{sim.api_url}/denoise"
    sim.api_down = 503
    assert (await get(session, url)).status == 503
    sim.api_down = True
    with pytest.raises(aiohttp.ServerDisconnectedError):
        await get(session, url)
    sim.api_down = False
    assert (await get(session, url)).status == 200


async def test_log_tells_what_was_asked_and_answered(sim: Simulator, session: Session) -> None:
    job = sim.add_job(size_bytes=4000)
    url = sim.url(job)
    await get(session, url, range="bytes=10-")
    (request,) = sim.requests
    assert (request.origin, request.kind, request.job) == ("host", "audio", job)
    assert sim.host_url + request.target == url
    assert request.headers["x-api-key"] == "k"
    assert (request.range, request.status, request.body_bytes) == ("bytes=10-", 206, 3990)

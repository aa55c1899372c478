"""The network edge: what is sent where, what is followed, and what each fault is called."""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import json
import os
import random
import ssl
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from raw_server import Answer, RawServer, Request, always, answer

from fetcher.core.sse import Done, Errored, Processing, Progress
from fetcher.errors import (
    ApiError,
    ConnectionFailedError,
    ContentError,
    FetcherError,
    KeyRefusedError,
    ShortBodyError,
    StatusError,
    UsageError,
)
from fetcher.models import JobId
from fetcher.network.client import Api, Host

if TYPE_CHECKING:
    from aioresponses import aioresponses

    from fetcher.simulator import Simulator

KEY = "sk-very-secret"
TLS = Path(__file__).parent / "data" / "tls"
RECORD = {"id": "a", "status": "success", "audio_url": "https://cdn.example/a.wav?s=1"}
PAGE = json.dumps([RECORD]).encode()


@pytest.fixture(autouse=True)
def no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the machine's own proxies out."""
    for name in ("http_proxy", "https_proxy", "no_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


def redirect(location: str, status: str = "302 Found") -> bytes:
    """Return a redirect."""
    return answer(status=status, headers=(f"Location: {location}",))


def routes(**by_path: bytes) -> Answer:
    """Answer by the target's first word: `/a/...` by `a`."""

    async def reply(request: Request, writer: asyncio.StreamWriter) -> None:
        name = request.target.split("?")[0].strip("/").split("/")[0]
        writer.write(by_path.get(name, answer(status="404 Not Found")))

    return reply


async def fetch(host: Host, url: str, **headers: str) -> tuple[int, bytes]:
    """Return status and body."""
    async with host.open(url, headers) as body:
        data = bytearray()
        while piece := await body.chunk():
            data += piece
        return body.head.status, bytes(data)


# ---- the API: pages ----------------------------------------------------------------------


async def page_fault(reply: Answer, **options: Any) -> FetcherError:
    """Return what asking for a page raises."""
    async with RawServer(reply) as server, Api(server.origin, lambda: KEY, **options) as api:
        with pytest.raises(FetcherError) as caught:
            await api.page(0, 10)
        assert KEY not in str(caught.value)
        assert str(caught.value).isprintable()
        return caught.value


async def test_a_page_is_asked_for_with_the_key() -> None:
    async with RawServer(always(answer(PAGE))) as server:
        async with Api(f"{server.origin}/api/v1/", lambda: KEY, agent="fetcher/9") as api:
            page = await api.page(40, 20)
        (request,) = server.requests
    assert [job.id for job in page.jobs] == ["a"]
    assert request.target == "/api/v1/denoise?offset=40&limit=20"
    assert request.headers["x-api-key"] == KEY
    assert request.headers["user-agent"] == "fetcher/9"


async def test_all_records_are_asked_for_without_a_limit() -> None:
    async with RawServer(always(answer(PAGE))) as server, Api(server.origin, lambda: KEY) as api:
        await api.page(0, None)
        assert server.requests[0].target == "/denoise?offset=0"


async def test_a_rotated_key_is_used_at_once() -> None:
    keys = iter(["old", "new"])
    async with RawServer(always(answer(PAGE))) as server:
        async with Api(server.origin, lambda: next(keys)) as api:
            await api.page(0, 1)
            await api.page(0, 1)
        assert [request.headers["x-api-key"] for request in server.requests] == ["old", "new"]
        assert server.connections == 1


async def test_a_page_may_come_compressed() -> None:
    reply = always(answer(gzip.compress(PAGE), headers=("Content-Encoding: gzip",)))
    async with RawServer(reply) as server, Api(server.origin, lambda: KEY) as api:
        assert (await api.page(0, 1)).count == 1


async def test_the_simulator_is_read(sim: Simulator) -> None:
    job_id = sim.add_job(file_name="x.wav")
    async with Api(sim.api_url, lambda: KEY) as api:
        page = await api.page(0, 10)
        url = await api.fresh_url(page.jobs[0].id)
    assert [job.id for job in page.jobs] == [job_id]
    assert url is not None
    async with Host() as host:
        assert (await fetch(host, url))[0] == 200


@pytest.mark.parametrize(
    ("status", "shape", "words"),
    [
        (400, {"statusCode": 400, "message": "limit must be positive"}, "limit must be positive"),
        (429, {"errorCode": "429", "errorMessage": "slow down"}, "slow down"),
        (500, {"errorMessage": ["no", "text"]}, "500 (Internal Server Error)"),
        (503, {"message": "\x1b[31mx\n" + "y" * 900}, "yyy"),
        (418, [1], "418"),
        (599, {}, "599"),
    ],
)
async def test_a_refusal_says_status_and_reason(
    mocked_api: aioresponses, status: int, shape: object, words: str
) -> None:
    mocked_api.get("https://api.example/denoise?offset=0&limit=1", status=status, payload=shape)
    async with Api("https://api.example", lambda: KEY) as api:
        with pytest.raises(StatusError) as caught:
            await api.page(0, 1)
    assert caught.value.status == status
    assert words in str(caught.value)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize("status", ["401 Unauthorized", "403 Forbidden"])
async def test_a_refused_key_is_told_apart_and_never_shown(status: str) -> None:
    body = json.dumps({"errorMessage": f"Invalid key {KEY}"}).encode()
    fault = await page_fault(always(answer(body, status=status)))
    assert isinstance(fault, KeyRefusedError)
    assert "Invalid key ***" in str(fault)


async def test_a_record_that_repeats_the_key_as_its_error_does_not_pass_it_on() -> None:
    said = {"id": "b", "status": "failed", "error": f'bad key "{KEY}" used, {KEY}!'}
    body = json.dumps([RECORD | {"file_name": KEY}, said]).encode()
    async with RawServer(always(answer(body))) as server, Api(server.origin, lambda: KEY) as api:
        page = await api.page(0, None)
    named, failed = page.jobs
    assert failed.error == 'bad key "***" used, ***!'
    assert named.file_name == KEY
    assert page.body.count(KEY.encode()) == 1


@pytest.mark.parametrize("key", ["error", "a", '"', "\\"])
async def test_a_key_that_is_part_of_everything_spoils_no_page(key: str) -> None:
    said = RECORD | {"error": 'an error, "a" \\ b'}
    body = json.dumps([said]).encode()
    async with RawServer(always(answer(body))) as server, Api(server.origin, lambda: key) as api:
        page = await api.page(0, None)
    assert [(job.id, job.audio_url) for job in page.jobs] == [(RECORD["id"], RECORD["audio_url"])]


async def test_progress_that_repeats_the_key_does_not_pass_it_on() -> None:
    words = {"stage": "processing", "pct": 5, "message": f"working for {KEY}"}
    stream = f"data: {json.dumps(words)}\n\n".encode()
    reply = always(answer(stream, headers=("Content-Type: text/event-stream",)))
    async with (
        RawServer(reply) as server,
        Api(server.origin, lambda: KEY) as api,
        api.progress(JobId("a"), gap_s=30) as events,
    ):
        [event] = [event async for event in events]
    assert event == Processing(5.0, "working for ***")


@pytest.mark.parametrize(("header", "expected"), [("7", 7.0), ("soon", None)])
async def test_retry_after_goes_along(header: str, expected: float | None) -> None:
    reply = always(answer(status="503 X", headers=(f"Retry-After: {header}",)))
    fault = await page_fault(reply)
    assert isinstance(fault, StatusError)
    assert fault.retry_after_s == expected


@pytest.mark.parametrize(
    ("status", "header", "held_s"),
    [
        pytest.param("429 X", "0.3", 0.3, id="429"),
        pytest.param("503 X", "0.3", 0.3, id="503"),
        pytest.param("503 X", "86400", 600, id="ten minutes at most"),
        pytest.param("503 X", "soon", 0, id="no time that can be read"),
        pytest.param("500 X", "0.3", 0, id="500"),
    ],
)
async def test_a_retry_after_holds_every_request_to_the_api_back(
    status: str, header: str, held_s: float
) -> None:
    busy = answer(status=status, headers=(f"Retry-After: {header}",))
    asked_at_s: list[float] = []

    async def reply(_: Request, writer: asyncio.StreamWriter) -> None:
        asked_at_s.append(asyncio.get_running_loop().time())
        writer.write(busy if len(asked_at_s) == 1 else answer(PAGE))
        await writer.drain()

    async with RawServer(reply) as server, Api(server.origin, lambda: KEY) as api:
        with pytest.raises(StatusError):
            await api.fresh_url(JobId("a"))
        assert held_s - 0.3 <= api.held_s <= held_s
        if held_s > 1:
            api.release()
        await api.page(0, 1)
        assert api.held_s == 0
    if held_s < 1:
        assert asked_at_s[1] - asked_at_s[0] >= held_s


async def test_a_large_error_page_is_not_read() -> None:
    head = b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 999999999\r\n\r\n<html>"

    async def reply(_: Request, writer: asyncio.StreamWriter) -> None:
        writer.write(head)
        await writer.drain()
        await asyncio.Event().wait()

    assert isinstance(await page_fault(reply), StatusError)


@pytest.mark.parametrize("body", [b"<html>", b"", b'[{"id":', b"{}", b"null"])
async def test_a_success_that_is_no_page_is_a_content_error(body: bytes) -> None:
    assert isinstance(await page_fault(always(answer(body))), ContentError)


async def test_half_a_page_is_a_short_body() -> None:
    async def reply(_: Request, writer: asyncio.StreamWriter) -> None:
        writer.write(answer(PAGE, length=len(PAGE) + 1))
        writer.close()

    assert isinstance(await page_fault(reply), ShortBodyError)


@pytest.mark.parametrize("is_late", [False, True], ids=["at once", "while it is waited for"])
async def test_a_page_whose_framing_breaks_is_a_short_body(is_late: bool) -> None:
    async def reply(_: Request, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n[    \r\n")
        if is_late:
            await writer.drain()
            await asyncio.sleep(0.05)
        writer.write(b"ZZ\r\n")
        await asyncio.Event().wait()

    async with asyncio.timeout(10):
        assert isinstance(await page_fault(reply), ShortBodyError | ConnectionFailedError)


async def test_a_refusal_whose_framing_breaks_is_a_refusal() -> None:
    async def reply(_: Request, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 403 Forbidden\r\nTransfer-Encoding: chunked\r\n\r\n")
        await writer.drain()
        await asyncio.sleep(0.05)
        writer.write(b"ZZ\r\n")
        await asyncio.Event().wait()

    async with asyncio.timeout(1.5):  # without waiting for its words
        assert isinstance(await page_fault(reply), KeyRefusedError)


async def test_an_api_that_is_silent_fails_after_the_timeout() -> None:
    async def reply(_: Request, writer: asyncio.StreamWriter) -> None:
        await asyncio.Event().wait()

    fault = await page_fault(reply, timeout_s=0.1)
    assert isinstance(fault, ConnectionFailedError)
    assert "0.1 s" in str(fault)


async def test_a_page_that_stalls_fails_after_the_timeout() -> None:
    async def reply(_: Request, writer: asyncio.StreamWriter) -> None:
        writer.write(answer(PAGE, length=999))
        await writer.drain()
        await asyncio.Event().wait()

    assert isinstance(await page_fault(reply, timeout_s=0.1), ConnectionFailedError)


@pytest.mark.parametrize("raw", [b"SSH-2.0-OpenSSH\r\n\r\n", b"HTTP/1.1 abc\r\n\r\n", b"\x15\x03"])
async def test_what_is_not_http_is_a_failed_connection(raw: bytes) -> None:
    async def reply(_: Request, writer: asyncio.StreamWriter) -> None:
        writer.write(raw)
        writer.close()

    assert isinstance(await page_fault(reply), ConnectionFailedError)


async def test_a_closed_port_is_a_failed_connection() -> None:
    async with RawServer(always(b"")) as server:
        origin = server.origin
    async with Api(origin, lambda: KEY) as api:
        with pytest.raises(ConnectionFailedError, match="refused"):
            await api.page(0, 1)


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("http://api.example/v1", "plain http"),
        ("api.example", "not an absolute URL"),
        ("ftp://api.example", "ftp"),
        ("https://api.example/v1?key=x", "query"),
    ],
)
def test_a_base_url_that_cannot_be_used_is_refused(url: str, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        Api(url, lambda: KEY)


@pytest.mark.parametrize("skew_s", [-86_400, 0, 3600])
async def test_the_skew_of_clocks_is_known(skew_s: int) -> None:
    date = format_datetime(datetime.now(UTC) + timedelta(seconds=skew_s), usegmt=True)
    reply = always(answer(PAGE, headers=(f"Date: {date}",)))
    async with RawServer(reply) as server, Api(server.origin, lambda: KEY) as api:
        assert api.clock_skew_s is None
        await api.page(0, 1)
        assert api.clock_skew_s == pytest.approx(skew_s, abs=3)
        assert api.answered_in_s is not None
        assert 0 < api.answered_in_s < 5


async def test_a_date_that_is_none_says_nothing() -> None:
    reply = always(answer(PAGE, headers=("Date: yesterday",)))
    async with RawServer(reply) as server, Api(server.origin, lambda: KEY) as api:
        await api.page(0, 1)
        assert api.clock_skew_s is None


async def test_the_api_is_followed_within_its_origin() -> None:
    reply = routes(denoise=redirect("/moved/denoise?x"), moved=answer(PAGE))
    async with RawServer(reply) as server, Api(server.origin, lambda: KEY) as api:
        assert (await api.page(0, 1)).count == 1
        assert [request.headers.get("x-api-key") for request in server.requests] == [KEY, KEY]


async def test_an_api_that_redirects_on_and_on_is_an_api_error() -> None:
    async def reply(request: Request, writer: asyncio.StreamWriter) -> None:
        writer.write(redirect(f"{request.target}x"))

    fault = await page_fault(reply)
    assert isinstance(fault, ApiError)
    assert "more than 5 times" in str(fault)


async def test_the_key_never_goes_to_another_origin() -> None:
    async with RawServer(always(answer(PAGE))) as other:
        fault = await page_fault(always(redirect(f"{other.origin}/denoise")))
        assert other.requests == []
    assert type(fault) is ApiError
    assert other.origin in str(fault)


@pytest.mark.parametrize("location", ["/denoise", "file:///etc/passwd"])
async def test_an_api_that_redirects_to_nowhere_is_an_api_error(location: str) -> None:
    assert type(await page_fault(always(redirect(location)))) is ApiError


# ---- the API: events ---------------------------------------------------------------------


def stream(*messages: dict[str, object], length: int = -1) -> bytes:
    """Return an event stream."""
    body = "".join(f"data: {json.dumps(message)}\n\n" for message in messages).encode()
    return answer(body, headers=("Content-Type: text/event-stream; charset=utf-8",), length=length)


DONE: dict[str, object] = {
    "stage": "done",
    "url": "https://cdn.example/a.wav?s=2",
    "denoiseId": "a",
}


async def events_of(reply: Answer) -> list[Progress]:
    """Return the events of a job."""
    async with RawServer(reply) as server, Api(server.origin, lambda: KEY) as api:
        async with api.progress(JobId("a b/c"), gap_s=0.1) as events:
            found = [event async for event in events]
        assert server.requests[0].target == "/denoise/a%20b%2Fc/progress"
        assert server.requests[0].headers["accept"] == "text/event-stream"
        return found


async def test_a_job_is_followed_to_its_end() -> None:
    reply = always(stream({"stage": "processing", "pct": 5}, DONE))
    assert await events_of(reply) == [
        Processing(5.0),
        Done("https://cdn.example/a.wav?s=2", "a"),
    ]


@pytest.mark.parametrize(
    ("response", "expected"),
    [
        (answer(b'{"message": "unknown"}', status="404 Not Found"), StatusError),
        (answer(b"{}", status="401 Unauthorized"), KeyRefusedError),
        (answer(b"{}", headers=("Content-Type: application/json",)), ContentError),
        (answer(b"<html>", headers=("Content-Type: text/html",)), ContentError),
        (answer(b"data: x\n\n"), ContentError),
    ],
)
async def test_what_is_no_event_stream_is_an_error(
    response: bytes, expected: type[FetcherError]
) -> None:
    with pytest.raises(expected):
        await events_of(always(response))


async def test_a_stream_whose_framing_breaks_is_a_short_body() -> None:
    async def reply(_: Request, writer: asyncio.StreamWriter) -> None:
        head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked"
        writer.write(f"{head}\r\n\r\n".encode())
        await writer.drain()
        await asyncio.sleep(0.05)
        writer.write(b"ZZ\r\n")
        await asyncio.Event().wait()

    async with asyncio.timeout(10):
        with pytest.raises(ShortBodyError):
            await events_of(reply)


async def test_a_stream_that_falls_silent_is_a_failed_connection() -> None:
    with pytest.raises(ConnectionFailedError):
        await events_of(always(stream({"stage": "processing"}, length=99_999)))


@pytest.mark.parametrize(
    ("messages", "expected"),
    [
        ([DONE], "https://cdn.example/a.wav?s=2"),
        ([{"stage": "news"}, DONE], "https://cdn.example/a.wav?s=2"),
        ([{"stage": "done", "url": "file:///etc/passwd"}], None),
        ([{"stage": "error", "message": "x"}, DONE], None),
        ([{"stage": "processing", "pct": 1}, DONE], None),
        ([], None),
    ],
)
async def test_a_fresh_link_is_that_of_the_replay(
    messages: list[dict[str, object]], expected: str | None
) -> None:
    reply = always(stream(*messages))
    async with RawServer(reply) as server, Api(server.origin, lambda: KEY) as api:
        assert await api.fresh_url(JobId("a")) == expected


async def test_a_fresh_link_is_not_waited_for_forever() -> None:
    reply = always(stream({"stage": "news"}, length=99_999))
    async with RawServer(reply) as server, Api(server.origin, lambda: KEY) as api:
        assert await api.fresh_url(JobId("a"), within_s=0.05) is None


async def test_a_stream_that_is_left_is_closed() -> None:
    reply = always(stream({"stage": "error"}, length=99_999))
    async with RawServer(reply) as server, Api(server.origin, lambda: KEY) as api:
        async with api.progress(JobId("a"), gap_s=30) as events:
            assert await anext(events) == Errored()
        await server.until(lambda server: server.open_connections == 0)


# ---- file hosts --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "target",
    [
        "/a.wav?X-Signature=a%2Fb+c%20d&Expires=1",
        "/%2f%2F%7e~%41/..//./a",
        "/a?",
        "/?a=b?c&&=&d",
        "/[a]{b}|^`\"<>'()*!$,;:@",
        "/%zz%",
        "//double//slash",
        "/تسجيل.wav?ق=ل",
        "/" + "x" * 5000,
    ],
)
async def test_a_link_is_requested_byte_for_byte(target: str) -> None:
    async with RawServer(always(answer())) as server, Host() as host:
        await fetch(host, f"{server.origin}{target}#fragment")
        assert server.requests[0].target == target


async def test_a_host_sees_no_key_no_cookie_and_no_referer() -> None:
    reply = routes(
        a=answer(status="302 F", headers=("Location: /b", "Set-Cookie: c=1")), b=answer()
    )
    async with RawServer(reply) as server, Host(agent="fetcher/9") as host:
        await fetch(host, f"{server.origin}/a", Range="bytes=5-")
        await fetch(host, f"{server.origin}/a")
        for request in server.requests:
            names = set(request.headers)
            assert names <= {"host", "user-agent", "accept", "accept-encoding", "range"}
            assert request.headers["accept-encoding"] == "identity"
            assert request.headers["user-agent"] == "fetcher/9"


async def test_credentials_in_a_link_are_sent_as_basic_auth() -> None:
    async with RawServer(always(answer())) as server, Host() as host:
        await fetch(host, server.origin.replace("//", "//us%40er:p%C3%A4ss@") + "/a")
        assert server.requests[0].headers["authorization"] == "Basic dXNAZXI6cMOkc3M="


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_redirects_keep_range_and_its_condition(status: int) -> None:
    async with RawServer(always(answer(b"x", status="206 Partial"))) as second:
        reply = always(redirect(f"{second.origin}/b%2f?s=%41", f"{status} Moved"))
        async with RawServer(reply) as first, Host() as host:
            headers = {"Range": "bytes=5-", "If-Range": '"v1"'}
            async with host.open(f"{first.origin}/a?s=1", headers) as body:
                assert body.head.status == 206
                assert body.final_url == f"{second.origin}/b%2f"
        assert second.requests[0].target == "/b%2f?s=%41"
        assert second.requests[0].headers["range"] == "bytes=5-"
        assert second.requests[0].headers["if-range"] == '"v1"'


async def test_ten_redirects_are_followed_and_no_more() -> None:
    async def reply(request: Request, writer: asyncio.StreamWriter) -> None:
        left = int(request.target[1:])
        writer.write(redirect(f"/{left - 1}") if left else answer(b"here"))

    async with RawServer(reply) as server, Host() as host:
        assert await fetch(host, f"{server.origin}/10") == (200, b"here")
        with pytest.raises(ConnectionFailedError, match="more than 10 redirects") as caught:
            await fetch(host, f"{server.origin}/11")
        assert caught.value.permanent


async def test_a_redirect_to_a_long_signed_link_is_followed() -> None:
    target = f"/b?signature={'x' * 40_000}"
    async with RawServer(routes(a=redirect(target), b=answer(b"here"))) as server, Host() as host:
        assert await fetch(host, f"{server.origin}/a") == (200, b"here")
        assert server.requests[1].target == target


async def test_a_circle_of_redirects_is_noticed_at_once() -> None:
    async with RawServer(routes(a=redirect("/b"), b=redirect("/a?"), c=b"")) as server:
        async with Host() as host:
            with pytest.raises(ConnectionFailedError, match="circles"):
                await fetch(host, f"{server.origin}/a?")
        assert len(server.requests) == 2


async def test_a_redirect_to_nowhere_fails_for_good() -> None:
    async with RawServer(always(redirect("file:///etc/passwd"))) as server, Host() as host:
        with pytest.raises(ConnectionFailedError) as caught:
            await fetch(host, f"{server.origin}/a?secret")
        assert caught.value.permanent
        assert "secret" not in str(caught.value)


async def test_a_redirect_without_a_place_is_the_answer() -> None:
    async with RawServer(always(answer(b"x", status="302 Found"))) as server, Host() as host:
        assert await fetch(host, f"{server.origin}/a") == (302, b"x")


@pytest.mark.parametrize("url", ["", "garbage", "file:///etc/passwd", "ftp://h/a", "http://h:x/"])
async def test_a_link_that_is_none_fails_for_good(url: str) -> None:
    async with Host() as host:
        with pytest.raises(ConnectionFailedError) as caught:
            await fetch(host, url)
        assert caught.value.permanent


async def test_a_failed_connection_may_be_tried_again_and_hides_the_signature() -> None:
    async with RawServer(always(b"")) as server:
        origin = server.origin
    async with Host() as host:
        with pytest.raises(ConnectionFailedError) as caught:
            await fetch(host, f"{origin}/a?X-Signature=secret")
        assert not caught.value.permanent
        assert "secret" not in str(caught.value)


async def test_fields_that_come_twice_are_joined() -> None:
    reply = always(answer(b"x", headers=("X-Goog-Hash: a=1", "x-goog-hash: b=2", 'ETag: "v"')))
    async with (
        RawServer(reply) as server,
        Host() as host,
        host.open(f"{server.origin}/a", {}) as body,
    ):
        assert body.head.headers["x-goog-hash"] == "a=1, b=2"
        assert body.head.headers["etag"] == '"v"'


async def test_fields_that_are_no_text_are_made_text() -> None:
    raw = b"HTTP/1.1 200 OK\r\nX: a\xffb\r\nContent-Length: 0\r\n\r\n"
    async with (
        RawServer(always(raw)) as server,
        Host() as host,
        host.open(f"{server.origin}/a", {}) as body,
    ):
        assert body.head.headers["x"] == "a\ufffdb"


async def test_the_body_of_a_refusal_is_not_waited_for() -> None:
    async def reply(_: Request, writer: asyncio.StreamWriter) -> None:
        writer.write(answer(b"<Error/>", status="403 Forbidden", length=10**9))
        await writer.drain()
        await asyncio.Event().wait()

    async with RawServer(reply) as server, Host() as host:
        for _ in range(3):
            async with host.open(f"{server.origin}/a", {}) as body:
                assert body.head.status == 403


# ---- proxies and TLS ---------------------------------------------------------------------


async def test_the_proxy_of_the_environment_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    async with RawServer(always(answer(b"via proxy"))) as proxy, Host() as host:
        monkeypatch.setenv("HTTP_PROXY", proxy.origin.replace("//", "//user:pass@"))
        monkeypatch.setenv("NO_PROXY", "direct.example")
        assert await fetch(host, "http://host.example/a%2f/../b?c=%41&") == (200, b"via proxy")
        (request,) = proxy.requests
    assert request.target == "http://host.example/a%2f/../b?c=%41&"
    assert request.headers["proxy-authorization"] == "Basic dXNlcjpwYXNz"


async def test_an_api_of_plain_http_is_asked_through_a_proxy_on_this_machine(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with RawServer(always(answer(PAGE))) as proxy:
        monkeypatch.setenv("HTTP_PROXY", proxy.origin)
        async with Api("http://localhost:1", lambda: KEY) as api:
            await api.page(0, None)
        (request,) = proxy.requests
    assert request.target == "http://localhost:1/denoise?offset=0"


@pytest.mark.parametrize("proxy", ["http://proxy.example:3128", "https://10.1.2.3", "192.0.2.1:8"])
async def test_no_proxy_elsewhere_is_shown_the_key_of_an_api_of_plain_http(
    monkeypatch: pytest.MonkeyPatch, proxy: str
) -> None:
    monkeypatch.setenv("HTTP_PROXY", proxy)
    async with RawServer(always(answer(PAGE))) as server, Api(server.origin, lambda: KEY) as api:
        page = await api.page(0, None)
    assert [job.id for job in page.jobs] == ["a"]


async def test_no_proxy_is_obeyed(monkeypatch: pytest.MonkeyPatch) -> None:
    async with RawServer(always(answer(b"direct"))) as server, Host() as host:
        monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        assert await fetch(host, f"{server.origin}/a") == (200, b"direct")


@pytest.mark.parametrize("proxy", ["http://127.0.0.1:1", "socks5://127.0.0.1:1", "nonsense:x"])
async def test_a_proxy_that_cannot_be_used_is_named(
    monkeypatch: pytest.MonkeyPatch, proxy: str
) -> None:
    monkeypatch.setenv("HTTP_PROXY", proxy)
    async with Host() as host:
        with pytest.raises(ConnectionFailedError, match="proxy"):
            await fetch(host, "http://host.example/a")


@pytest.fixture
def tls() -> ssl.SSLContext:
    """Give a server's context whose authority nobody trusts by default."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(TLS / "server.pem")
    return context


IMPORTED = """
import os, ssl, sys
loaded = []
real = ssl.SSLContext.set_default_verify_paths
def spy(self):
    loaded.append(os.environ.get("SSL_CERT_FILE"))
    return real(self)
ssl.SSLContext.set_default_verify_paths = spy
from fetcher.network.certificates import import_without, trusted
import_without()
assert set(loaded) <= {os.devnull}, loaded
assert os.environ.get("SSL_CERT_FILE") == (sys.argv[1] or None)
assert "aiohttp" in sys.modules
assert trusted() is trusted()
assert trusted().verify_mode == ssl.CERT_REQUIRED and trusted().check_hostname
print(len(trusted().get_ca_certs()))
"""


@pytest.mark.parametrize("where", ["", str(TLS / "ca.pem")])
def test_certificates_are_loaded_when_they_are_needed(where: str) -> None:
    env = {name: value for name, value in os.environ.items() if name != "SSL_CERT_FILE"}
    done = subprocess.run(
        [sys.executable, "-c", IMPORTED, where],
        env=env | ({"SSL_CERT_FILE": where} if where else {}),
        capture_output=True,
        check=True,
    )
    assert not where or done.stdout.strip() == b"1"


async def test_an_untrusted_certificate_fails_for_good(tls: ssl.SSLContext) -> None:
    async with RawServer(always(answer(PAGE)), tls) as server:
        async with Host() as host, Api(server.origin, lambda: KEY) as api:
            with pytest.raises(ConnectionFailedError, match="not trusted") as of_host:
                await fetch(host, f"{server.origin}/a?secret")
            with pytest.raises(ConnectionFailedError, match="not trusted") as of_api:
                await api.page(0, 1)
        assert of_host.value.permanent
        assert of_api.value.permanent
        assert server.requests == []


async def test_an_untrusted_proxy_is_named_and_not_who_is_behind_it(
    tls: ssl.SSLContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with RawServer(always(answer(PAGE)), tls) as proxy, Host() as host:
        monkeypatch.setenv("HTTP_PROXY", proxy.origin)
        with pytest.raises(
            ConnectionFailedError, match=r"of the proxy 127\.0\.0\.1 is not trusted"
        ):
            await fetch(host, "http://files.example/a")
    assert proxy.requests == []


TRUSTING = """
import asyncio, hashlib, sys
from fetcher.network.certificates import import_without
if "put off" in sys.argv:
    import_without()
from fetcher.network.client import Host
from fetcher.errors import ConnectionFailedError

async def main(origin):
    async with Host() as host:
        for _ in range(2):
            digest = hashlib.sha256()
            async with host.open(origin + "/large", {}) as body:
                while piece := await body.chunk():
                    digest.update(piece)
            print(digest.hexdigest())
        try:
            async with host.open(origin + "/down", {}) as body:
                print(body.head.status)
        except ConnectionFailedError as error:
            print(error.permanent, error)
        async with host.open(origin + "/cut", {}) as body:
            try:
                while piece := await body.chunk():
                    print(len(piece))
            except Exception as error:
                print(type(error).__name__)

asyncio.run(main(sys.argv[1]))
"""


@pytest.mark.parametrize("how", ["put off", "as aiohttp does"])
async def test_tls_with_an_authority_of_the_environment(how: str, tls: ssl.SSLContext) -> None:
    """SSL_CERT_FILE is read once in a process, so this needs one of its own."""
    large = random.Random(5).randbytes(5_000_000)

    async def reply(request: Request, writer: asyncio.StreamWriter) -> None:
        match request.target:
            case "/large":
                writer.write(answer(large))
            case "/down":
                writer.write(redirect("http://127.0.0.1:1/plain?s=1"))
            case _:
                writer.write(answer(large[:300_000], length=len(large)))
                writer.close()

    async with RawServer(reply, tls) as server:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-W", "error", "-c", TRUSTING, server.origin, how),
            env={**os.environ, "SSL_CERT_FILE": str(TLS / "ca.pem")},
            stdout=asyncio.subprocess.PIPE,
        )
        output, _ = await process.communicate()
        connections = {request.connection for request in server.requests}
    digest = hashlib.sha256(large).hexdigest()
    refusal = (
        f"{server.origin}/down redirects from https to http://127.0.0.1:1/plain, "
        "which is not encrypted"
    )
    assert output.decode().splitlines() == [
        digest,
        digest,
        f"True {refusal}",
        "300000",
        "ShortBodyError",
    ]
    assert connections == {1}

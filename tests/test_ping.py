"""Pings to a health-check service: which come, in which order, and that they harm nothing."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

import pytest
from raw_server import RawServer, Request, always, answer

from fetcher.engine import Stop
from fetcher.errors import LockedError
from fetcher.events import Event, Notice
from fetcher.runs.leave import PINGS_BY_S, Leave
from fetcher.runs.ping import HURRIED_S, Ping, address_for

if TYPE_CHECKING:
    from asyncio import StreamWriter

OK = always(answer(b"OK"))


def ping(url: str, events: list[Event], leave: Leave | None = None) -> Ping:
    return Ping(url, events.append, leave=leave or Leave(Stop().asked))


def warnings(events: list[Event]) -> list[str]:
    for event in events:
        assert isinstance(event, Notice)
        assert event.level == "WARNING"
    return [event.message for event in events if isinstance(event, Notice)]


def targets(server: RawServer) -> list[str]:
    return [request.target for request in server.requests]


@pytest.mark.parametrize(
    ("url", "ending", "expected"),
    [
        ("https://hc.example/u", "/start", "https://hc.example/u/start"),
        ("https://hc.example/u/", "/start", "https://hc.example/u/start"),
        ("https://hc.example/u?a=1&b=/x", "/fail", "https://hc.example/u/fail?a=1&b=/x"),
        ("https://hc.example", "/fail", "https://hc.example/fail"),
        ("https://hc.example/u#part", "/fail", "https://hc.example/u/fail"),
        ("https://hc.example/u/?a", "", "https://hc.example/u/?a"),
    ],
)
def test_the_ending_goes_behind_the_path(url: str, ending: str, expected: str) -> None:
    assert address_for(url, ending) == expected


@pytest.mark.parametrize(("exit_code", "last"), [(0, "/u?k=1"), (1, "/u/fail?k=1")])
async def test_a_run_is_told_of_at_its_start_and_at_its_end(exit_code: int, last: str) -> None:
    events: list[Event] = []
    async with RawServer(OK) as server:
        async with ping(f"{server.origin}/u?k=1", events) as pings:
            await pings.ended(exit_code)
        assert targets(server) == ["/u/start?k=1", last]
        assert all("x-api-key" not in request.headers for request in server.requests)
    assert events == []


async def test_a_run_that_cannot_begin_has_failed() -> None:
    async with RawServer(OK) as server:
        with pytest.raises(LockedError):
            async with ping(f"{server.origin}/u", []):
                raise LockedError("held")
        assert targets(server) == ["/u/start", "/u/fail"]


async def test_a_run_is_told_of_as_ended_once() -> None:
    async with RawServer(OK) as server:
        pings = ping(f"{server.origin}/u", [])
        async with pings:
            await pings.ended(0)
            await pings.ended(1)
        assert targets(server) == ["/u/start", "/u"]


async def test_redirects_are_followed() -> None:
    async def reply(request: Request, writer: StreamWriter) -> None:
        if request.target.startswith("/u"):
            writer.write(answer(status="302 Found", headers=("Location: /moved",)))
        else:
            writer.write(answer(b"OK"))

    events: list[Event] = []
    async with RawServer(reply) as server:
        async with ping(f"{server.origin}/u", events) as pings:
            await pings.ended(0)
        assert targets(server) == ["/u/start", "/moved", "/u", "/moved"]
    assert events == []


async def test_a_refused_ping_is_a_warning_without_the_query() -> None:
    events: list[Event] = []
    async with (
        RawServer(always(answer(b"no", status="404 Not Found"))) as server,
        ping(f"{server.origin}/u?token=secret", events) as pings,
    ):
        await pings.ended(0)
    assert len(warnings(events)) == 2
    assert all("404" in text and "secret" not in text for text in warnings(events))


async def test_a_service_that_cannot_be_reached_is_a_warning() -> None:
    async with RawServer(OK) as server:
        nobody = f"{server.origin}/u?token=secret"
    events: list[Event] = []
    async with ping(nobody, events) as pings:
        await pings.ended(0)
    assert len(warnings(events)) == 2
    assert not any("secret" in text for text in warnings(events))


async def test_the_start_is_not_waited_for() -> None:
    async def reply(request: Request, writer: StreamWriter) -> None:
        await released.wait()
        writer.write(answer(b"OK"))

    released = asyncio.Event()
    async with RawServer(reply) as server, ping(f"{server.origin}/u", []) as pings:
        await server.until(lambda seen: len(seen.requests) == 1)  # and the run goes on
        released.set()
        await pings.ended(0)
        assert targets(server) == ["/u/start", "/u"]


@pytest.mark.parametrize(
    ("late_s", "longest_s"), [(0.0, 2.0), (PINGS_BY_S, HURRIED_S)], ids=["early", "late"]
)
async def test_a_stopped_run_does_not_wait_for_its_monitor(late_s: float, longest_s: float) -> None:
    async def reply(request: Request, writer: StreamWriter) -> None:
        await asyncio.Event().wait()

    def clock() -> float:
        return time.monotonic() + late[-1]

    stop, events, late = Stop(), list[Event](), [0.0]
    leave = Leave(stop.asked, clock)
    async with RawServer(reply) as server:
        async with ping(f"{server.origin}/u?token=secret", events, leave) as pings:
            await server.until(lambda seen: len(seen.requests) == 1)
            stop.ask(143)
            await asyncio.sleep(0.02)  # so that the run notices
            late.append(late_s)
            began_s = time.monotonic()
            await pings.ended(143)
        assert time.monotonic() - began_s < longest_s
    assert len(warnings(events)) == 1
    assert "secret" not in warnings(events)[0]

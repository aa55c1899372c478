"""Looking names up: the system's answers, its errors, and lookups that nobody waits for."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

from fetcher.network.resolver import Resolver

if TYPE_CHECKING:
    from collections.abc import Callable


def answers(monkeypatch: pytest.MonkeyPatch, call: Callable[..., Any]) -> None:
    """Let the system answer lookups so."""
    monkeypatch.setattr(socket, "getaddrinfo", call)


async def test_every_address_is_returned_in_the_systems_order(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found = [
        (socket.AF_INET6, socket.SOCK_STREAM, 6, "", ("2001:db8::1", 443, 0, 0)),
        (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("192.0.2.1", 443)),
    ]
    answers(monkeypatch, lambda *_, **__: found)
    resolved = await Resolver().resolve("files.example", 443, socket.AF_UNSPEC)
    assert [(one["hostname"], one["host"], one["port"], one["family"]) for one in resolved] == [
        ("files.example", "2001:db8::1", 443, socket.AF_INET6),
        ("files.example", "192.0.2.1", 443, socket.AF_INET),
    ]


async def test_this_machine_is_found() -> None:
    resolved = await Resolver().resolve("localhost", 80, socket.AF_INET)
    assert {one["host"] for one in resolved} == {"127.0.0.1"}


async def test_a_name_that_does_not_exist_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    answers(monkeypatch, fail)
    with pytest.raises(socket.gaierror, match="not known"):
        await Resolver().resolve("nowhere.example", 80)


async def test_a_name_that_is_none_is_an_error_of_the_same_kind() -> None:
    with pytest.raises(OSError, match="none"):
        await Resolver().resolve("a" * 70 + ".example", 80)


def test_a_lookup_that_hangs_holds_nobody_up(monkeypatch: pytest.MonkeyPatch) -> None:
    released = threading.Event()

    def hang(*_: object, **__: object) -> list[Any]:
        released.wait(30)
        return []

    async def give_up_soon() -> None:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(Resolver().resolve("slow.example", 80), 0.05)

    answers(monkeypatch, hang)
    began_s = time.monotonic()
    asyncio.run(give_up_soon())
    assert time.monotonic() - began_s < 5
    [lookup] = [thread for thread in threading.enumerate() if thread.name == "lookup"]
    released.set()
    lookup.join(5)  # its answer comes after the loop has ended, which harms nobody
    assert not lookup.is_alive()

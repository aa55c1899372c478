"""Signs of life: the status file that monitors read, and what systemd is told."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import socket
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from support import names

from fetcher.runs.heartbeat import STATUS_FILE, Sign, Systemd, write_status

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SIGN = Sign(
    time="2025-01-31T12:00:00+00:00",
    pid=17,
    last_poll_at=None,
    pending=3,
    queue=2,
    last_error="the API answered 503",
)


# ---- the status file ---------------------------------------------------------------------


async def test_the_status_file_says_what_monitors_ask_for(tmp_path: Path) -> None:
    await write_status(tmp_path, SIGN)
    assert json.loads((tmp_path / STATUS_FILE).read_text()) == {
        "time": "2025-01-31T12:00:00+00:00",
        "pid": 17,
        "last_poll_at": None,
        "pending": 3,
        "queue": 2,
        "last_error": "the API answered 503",
    }
    assert names(tmp_path) == [STATUS_FILE]


async def test_a_reader_never_sees_half_of_it(tmp_path: Path) -> None:
    await write_status(tmp_path, SIGN)
    seen: set[int] = set()
    ended = asyncio.Event()

    async def read() -> None:
        while not ended.is_set():
            seen.add(json.loads((tmp_path / STATUS_FILE).read_text())["pending"])
            await asyncio.sleep(0)

    async with asyncio.TaskGroup() as group:
        group.create_task(read())
        for pending in range(50):
            long = replace(SIGN, pending=pending, last_error="x" * pending * 500)
            await write_status(tmp_path, long)
        ended.set()
    assert len(seen) > 1


@pytest.mark.parametrize("turns", range(12))
async def test_a_cancelled_writer_leaves_a_whole_file_and_nothing_open(
    turns: int, tmp_path: Path
) -> None:
    task = asyncio.create_task(write_status(tmp_path, SIGN))
    for _ in range(turns):
        await asyncio.sleep(0)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await write_status(tmp_path, replace(SIGN, pending=9))
    assert json.loads((tmp_path / STATUS_FILE).read_text())["pending"] == 9
    gc.collect()  # a file left open would be warned of now


async def test_a_folder_that_is_gone_harms_nothing(tmp_path: Path) -> None:
    await write_status(tmp_path / "gone", SIGN)
    assert names(tmp_path) == []


async def test_a_folder_in_its_place_harms_nothing(tmp_path: Path) -> None:
    (tmp_path / STATUS_FILE).mkdir()
    await write_status(tmp_path, SIGN)
    assert (tmp_path / STATUS_FILE).is_dir()


# ---- systemd -----------------------------------------------------------------------------


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[socket.socket]:
    """Listen where a service manager would."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
        channel.bind(str(tmp_path / "notify"))
        channel.settimeout(5)
        yield channel


def test_facts_are_sent_one_a_line(manager: socket.socket, tmp_path: Path) -> None:
    Systemd({"NOTIFY_SOCKET": str(tmp_path / "notify")}).tell("READY=1", "STATUS=watching")
    assert manager.recv(4096) == b"READY=1\nSTATUS=watching"


def test_an_abstract_address_is_understood() -> None:
    name = f"fetcher-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
        channel.bind(f"\0{name}")
        channel.settimeout(5)
        Systemd({"NOTIFY_SOCKET": f"@{name}"}).tell("WATCHDOG=1")
        assert channel.recv(4096) == b"WATCHDOG=1"


@pytest.mark.parametrize("address", ["", "/nowhere/at/all", "x" * 300, "@" + "x" * 300, "a\0b"])
def test_an_address_that_nobody_listens_at_harms_nothing(address: str) -> None:
    Systemd({"NOTIFY_SOCKET": address}).tell("READY=1")


def test_without_a_manager_nothing_is_sent() -> None:
    assert Systemd({}).watchdog_s is None
    Systemd({}).tell("READY=1")


def test_a_manager_that_does_not_read_is_not_waited_for(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
        channel.bind(str(tmp_path / "notify"))
        systemd = Systemd({"NOTIFY_SOCKET": str(tmp_path / "notify")})
        for _ in range(2000):
            systemd.tell("WATCHDOG=1", "STATUS=" + "x" * 200)


@pytest.mark.parametrize(
    ("environ", "watchdog_s"),
    [
        ({"WATCHDOG_USEC": "3000000"}, 3.0),
        ({"WATCHDOG_USEC": "500000", "WATCHDOG_PID": str(os.getpid())}, 0.5),
        ({"WATCHDOG_USEC": "500000", "WATCHDOG_PID": "1"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "-5"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
        ({"WATCHDOG_USEC": "²"}, None),
        ({"WATCHDOG_USEC": ""}, None),
        ({}, None),
    ],
)
def test_the_watchdogs_patience(environ: dict[str, str], watchdog_s: float | None) -> None:
    assert Systemd(environ).watchdog_s == watchdog_s

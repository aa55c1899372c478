"""Signs of life of a watcher: the status file for monitors, and systemd's notifications."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
from dataclasses import asdict
from typing import TYPE_CHECKING

import aiofiles
import aiofiles.os

from fetcher.frozen import frozen

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

STATUS_FILE = "status.json"
EVERY_S = 10.0
_MICROSECONDS = 1_000_000


@frozen
class Sign:
    """What a monitor is told; times are ISO 8601 UTC, None where there was none yet."""

    time: str
    pid: int
    last_poll_at: str | None
    pending: int
    queue: int
    last_error: str | None


async def write_status(folder: Path, sign: Sign) -> None:
    """Replace the status file in one step; a disk that refuses changes nothing.

    A cancellation waits until it is replaced: the next writer uses the same new file.
    """
    writing = asyncio.create_task(_replace(folder, sign))
    try:
        await asyncio.shield(writing)
    except asyncio.CancelledError:
        await asyncio.wait([writing])
        raise


async def _replace(folder: Path, sign: Sign) -> None:
    fresh = folder / f"{STATUS_FILE}.new"
    with contextlib.suppress(OSError):
        async with aiofiles.open(fresh, "w", encoding="utf-8") as file:
            await file.write(json.dumps(asdict(sign)) + "\n")
        await aiofiles.os.replace(fresh, folder / STATUS_FILE)


class Systemd:
    """sd_notify(3), where a service manager asked for it; otherwise nothing."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._address = environ.get("NOTIFY_SOCKET", "")
        microseconds = environ.get("WATCHDOG_USEC", "")
        pid = environ.get("WATCHDOG_PID")
        ours = pid is None or pid == str(os.getpid())
        is_asked = microseconds.isdecimal() and int(microseconds) > 0 and ours
        self.watchdog_s = int(microseconds) / _MICROSECONDS if is_asked else None

    def tell(self, *facts: str) -> None:
        """Send facts such as `READY=1`; a manager that does not listen or read changes nothing."""
        if not self._address:
            return
        address = self._address
        if address.startswith("@"):  # Linux's abstract name space
            address = "\0" + address[1:]
        with (
            contextlib.suppress(OSError),
            socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as channel,
        ):
            channel.settimeout(0)  # the event loop must not wait for it
            channel.sendto("\n".join(facts).encode(), address)

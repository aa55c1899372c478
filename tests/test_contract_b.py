"""Hosts whose refusal of a Range once kept a file from ever being whole (contract 5.2)."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
from raw_server import RawServer, Request, answer
from support import files, run, song

from fetcher.events import DownloadStarted
from fetcher.simulator import Simulator

if TYPE_CHECKING:
    from asyncio import StreamWriter
    from pathlib import Path

LARGE = song(8 << 20)
SMALL = song(100_000)
PIECE_BYTES = 256 << 10


class Deaf:
    """Answers every question with all of the file, slowly enough that a split would pay."""

    def __init__(self, delay_s: float) -> None:
        self.delay_s = delay_s
        self.bytes_sent = 0

    async def __call__(self, _: Request, writer: StreamWriter) -> None:
        """Send the file, with a strong ETag and without Accept-Ranges."""
        head = answer(headers=('ETag: "v1"', "Content-Type: audio/wav"), length=len(LARGE))
        writer.write(head)
        for at in range(0, len(LARGE), PIECE_BYTES):
            piece = LARGE[at : at + PIECE_BYTES]
            writer.write(piece)
            await writer.drain()
            self.bytes_sent += len(piece)
            await asyncio.sleep(self.delay_s)


async def test_a_large_file_of_a_host_without_ranges_comes_over_its_one_line(
    tmp_path: Path,
) -> None:
    """Split all the same, its lines bring nothing: then the first one just goes on."""
    deaf = Deaf(delay_s=0.06)  # 8 MiB in two seconds
    async with RawServer(deaf) as raw, Simulator() as sim:
        sim.add_job(audio_url=f"{raw.origin}/large.wav")
        ran = await asyncio.wait_for(run(sim.api_url, tmp_path, connections=4), 30)
    assert (ran.exit_code, ran.reasons) == (0, [])
    assert list(files(tmp_path).values()) == [LARGE]
    assert len(raw.requests) <= 4
    assert raw.requests[0].headers.get("range") is None
    assert deaf.bytes_sent < 2 * len(LARGE)
    assert len(ran.of(DownloadStarted)) == 1


@pytest.mark.parametrize("status", ["412 Precondition Failed", "416 Range Not Satisfiable"])
async def test_a_host_that_refuses_every_range_is_asked_for_the_whole_file(
    status: str, tmp_path: Path
) -> None:
    asked: list[str | None] = []

    async def reply(request: Request, writer: StreamWriter) -> None:
        asked.append(request.headers.get("range"))
        if asked[-1] is not None:
            writer.write(answer(status=status))
            return
        head = answer(headers=('ETag: "v1"', "Content-Type: audio/wav"), length=len(SMALL))
        writer.write(head + (SMALL[:40_000] if len(asked) == 1 else SMALL))
        await writer.drain()
        if len(asked) == 1:
            writer.close()

    async with RawServer(reply) as raw, Simulator() as sim:
        sim.add_job(audio_url=f"{raw.origin}/small.wav")
        ran = await run(sim.api_url, tmp_path)
    assert (ran.exit_code, ran.reasons) == (0, [])
    assert asked == [None, "bytes=40000-", None]
    assert list(files(tmp_path).values()) == [SMALL]

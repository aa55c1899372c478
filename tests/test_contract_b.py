"""Attacks from outside: hosts that refuse ranges (contract 5.2), a reader that leaves (7)."""

from __future__ import annotations

import asyncio
import gc
from typing import TYPE_CHECKING

import pytest
from raw_server import RawServer, Request, answer
from support import check_mirror, files, run, settings, song

from fetcher.engine import Fetcher
from fetcher.events import DownloadCompleted
from fetcher.simulator import Fault, SimRequest, Simulator

if TYPE_CHECKING:
    from asyncio import StreamWriter
    from pathlib import Path

LARGE = song(8 << 20)
SMALL = song(100_000)
PIECE_BYTES = 256 << 10


class Deaf:
    """Answers every question with all of the file; slow until somebody asks a second time."""

    def __init__(self) -> None:
        self.asked = 0
        self.bytes_sent = 0

    async def __call__(self, _: Request, writer: StreamWriter) -> None:
        """Send the file, with a strong ETag and without Accept-Ranges."""
        self.asked += 1
        head = answer(headers=('ETag: "v1"', "Content-Type: audio/wav"), length=len(LARGE))
        writer.write(head)
        for at in range(0, len(LARGE), PIECE_BYTES):
            piece = LARGE[at : at + PIECE_BYTES]
            writer.write(piece)
            await writer.drain()
            self.bytes_sent += len(piece)
            await asyncio.sleep(0.01 if self.asked > 1 else 0.15)


async def test_a_large_file_of_a_host_without_ranges_comes_over_its_one_line(
    tmp_path: Path,
) -> None:
    """Split all the same, its lines bring nothing: then the first one just goes on."""
    deaf = Deaf()
    async with RawServer(deaf) as raw, Simulator() as sim:
        sim.add_job(audio_url=f"{raw.origin}/large.wav")
        ran = await asyncio.wait_for(run(sim.api_url, tmp_path, connections=4), 30)
    assert (ran.exit_code, ran.reasons) == (0, [])
    assert list(files(tmp_path).values()) == [LARGE]
    assert [request.headers.get("range") is None for request in raw.requests] == [
        True,
        *[False] * (len(raw.requests) - 1),
    ]
    assert 1 < len(raw.requests) <= 4  # it was split, and once only
    assert ran.final.bytes_fetched == len(LARGE)


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


async def test_a_run_that_its_reader_leaves_ends_in_order(tmp_path: Path) -> None:
    """The reader's `break` and the end of `async with` both end it: the second must not hurry."""
    troubles: list[dict[str, object]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, told: troubles.append(told))
    async with Simulator() as sim:
        for size in range(20_000, 20_020):
            sim.add_job(size_bytes=size)
        for number in range(5):
            async with Fetcher(settings(sim.api_url, tmp_path / str(number))) as fetcher:
                async for event in fetcher.backfill():
                    if isinstance(event, DownloadCompleted):
                        break
            gc.collect()
            await asyncio.sleep(0)
    assert [told["message"] for told in troubles] == []


async def test_a_replay_that_refuses_the_key_leaves_the_list(
    tmp_path: Path, sim: Simulator
) -> None:
    job = sim.add_job()
    sim.override(job, audio_url=f"{sim.host_url}/audio/{job}/old.wav?signature=old")

    def sign_anew(request: SimRequest) -> bool:
        sim.override(job, audio_url=sim.url(job))
        return "/old.wav" in request.target

    sim.faults.add(Fault("audio", status=403, when=sign_anew))
    sim.faults.add(Fault("progress", status=403, times=None))
    ran = await run(sim.api_url, tmp_path)
    assert (ran.exit_code, ran.reasons) == (0, [])
    check_mirror(sim, tmp_path)

"""The real process: killed, signalled, refused; what it prints and what it leaves behind."""

from __future__ import annotations

import asyncio
import json
import os
import resource
import signal
import sys
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from support import KEY, check_mirror, eventually, files, unfinished

from fetcher.files.parts import Parts
from fetcher.simulator import Fault, Serving, Simulator

if TYPE_CHECKING:
    from asyncio.subprocess import Process
    from collections.abc import AsyncIterator

SLOW = Serving(rate_bytes_s=300_000)
_QUICK = ("--retry-delay", "0.01", "--retries", "2", "--min-free", "0", "-j", "4")


@asynccontextmanager
async def fetcher(
    sim: Simulator,
    dest: Path,
    *options: str,
    key: str = KEY,
    stdout: int = asyncio.subprocess.PIPE,
    stderr: int = asyncio.subprocess.PIPE,
) -> AsyncIterator[Process]:
    """Give a running `fetcher`; it is killed at the end if it still runs."""
    kept = {name: os.environ[name] for name in ("PATH", "LANG") if name in os.environ}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-W", "error", "-m", "fetcher", "backfill"),
        *("--api-url", sim.api_url, "-d", str(dest), *_QUICK, *options),
        env={**kept, "HOME": str(dest.parent), "MUNSIT_API_KEY": key},
        cwd=dest.parent,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=stdout,
        stderr=stderr,
    )
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()


@dataclass(frozen=True, slots=True)
class Ended:
    """How a process ended."""

    status: int
    stdout: str
    stderr: str
    seconds: float

    @property
    def events(self) -> list[dict[str, Any]]:
        """The events of `--json`."""
        return [json.loads(line) for line in self.stdout.splitlines()]

    @property
    def last(self) -> dict[str, Any]:
        """The last event."""
        return self.events[-1]


async def end_of(process: Process) -> Ended:
    """Return how it ends from now on; no secret and no traceback may be in what it said."""
    loop = asyncio.get_running_loop()
    began_s = loop.time()
    async with asyncio.timeout(30):
        out, err = ((data or b"").decode() for data in await process.communicate())
    assert process.returncode is not None
    for text in (out, err):
        assert KEY not in text
        assert "Traceback" not in text
        assert "Signature" not in text
        assert "?" not in "".join(word for word in text.split() if "://" in word)
    return Ended(process.returncode, out, err, loop.time() - began_s)


async def ended(sim: Simulator, dest: Path, *options: str, key: str = KEY) -> Ended:
    """Return how a whole run ends."""
    async with fetcher(sim, dest, *options, key=key) as process:
        return await end_of(process)


def begun(dest: Path) -> list[int]:
    """Return how many bytes are on disk of each unfinished file."""
    parts = Parts(dest / ".fetcher" / "partial")
    return [parts.size(key) for key in parts.keys()]  # noqa: SIM118 - 0 of one renamed meanwhile


def arrived(dest: Path) -> int:
    """Return how many bytes of unfinished files are on disk."""
    return sum(begun(dest))


def asked(sim: Simulator, count: int) -> bool:
    """Return whether so many requests for audio have come."""
    return len(sim.audio_requests()) >= count


def let_go(sim: Simulator) -> None:
    """Serve every job at full speed from now on."""
    for job in sim.ids:
        sim.serve(job, Serving())


# ---- kill -9 -----------------------------------------------------------------------------


async def test_a_process_that_is_killed_with_a_file_over_several_lines_loses_little(
    tmp_path: Path, sim: Simulator
) -> None:
    """Contract 5.2: every line is gone on with from its own last byte."""
    dest, size_bytes = tmp_path / "dest", 8_000_000
    sim.add_job(size_bytes=size_bytes, serving=Serving(rate_bytes_s=1_000_000))
    async with fetcher(sim, dest, "--json", "-x", "4") as process:
        await eventually(lambda: len(unfinished(dest)) > 3 and sim.bytes_sent() > 4_000_000)
        process.kill()
        await process.wait()
    assert files(dest) == {}
    let_go(sim)
    second = await ended(sim, dest, "--json")
    assert (second.status, second.last["downloaded"]) == (0, 1)
    assert sim.bytes_sent() <= 1.01 * size_bytes + (1 << 20)
    check_mirror(sim, dest)
    assert unfinished(dest) == []


async def test_a_killed_process_is_gone_on_from_by_the_next(tmp_path: Path, sim: Simulator) -> None:
    dest = tmp_path / "dest"
    sim.add_jobs(4, size_bytes=700_000, serving=SLOW)
    async with fetcher(sim, dest, "--json") as process:
        await eventually(lambda: len(begun(dest)) == 4 and min(begun(dest)) > 300_000)
        process.kill()
        await process.wait()
    assert files(dest) == {}
    let_go(sim)
    await eventually(lambda: all(r.status for r in sim.audio_requests()))  # it saw the kill
    sent = sim.bytes_sent()
    second = await ended(sim, dest, "--json")
    assert (second.status, second.last["downloaded"]) == (0, 4)
    resumed = [e["resumed_from"] for e in second.events if e["event"] == "download.started"]
    assert min(resumed) >= 256 << 10  # what is proven together
    assert sim.bytes_sent() - sent == 4 * 700_000 - sum(resumed)
    check_mirror(sim, dest)
    assert unfinished(dest) == []


@pytest.mark.parametrize("seed", range(2))
async def test_kills_at_odd_moments_never_cost_a_file(
    seed: int, tmp_path: Path, sim: Simulator
) -> None:
    dest = tmp_path / "dest"
    sim.add_jobs(40, size_bytes=20_000)
    for count in (3 + 2 * seed, 15 + seed):
        async with fetcher(sim, dest) as process:
            await eventually(partial(asked, sim, count))
            process.kill()
            await process.wait()
        assert all(data in {sim.content(job) for job in sim.ids} for data in files(dest).values())
    last = await ended(sim, dest, "--json")
    assert last.status == 0
    check_mirror(sim, dest)
    assert unfinished(dest) == []
    # Each kill may cost what four workers had under way and what was not yet in place.
    assert len(sim.audio_requests()) <= 40 + 2 * (4 + 64)


# ---- signals -----------------------------------------------------------------------------


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
async def test_a_signal_stops_in_time_and_keeps_what_arrived(
    number: signal.Signals, status: int, tmp_path: Path, sim: Simulator
) -> None:
    dest = tmp_path / "dest"
    sim.add_jobs(3, size_bytes=600_000, serving=SLOW)
    sim.add_job("small.wav")
    async with fetcher(sim, dest, "--json") as process:
        await eventually(lambda: arrived(dest) > 500_000)
        process.send_signal(number)
        stopped = await end_of(process)
    assert (stopped.status, stopped.last["exit_code"]) == (status, status)
    assert stopped.seconds < 5
    assert stopped.last["event"] == "run.completed"
    assert stopped.last["downloaded"] + stopped.last["pending"] == 4
    let_go(sim)
    second = await ended(sim, dest, "--json")
    assert second.status == 0
    resumed = [e["resumed_from"] for e in second.events if e["event"] == "download.started"]
    assert sum(resumed) >= 500_000
    check_mirror(sim, dest)


@pytest.mark.parametrize(
    "fault",
    [
        Fault("audio", times=None, stall_after_bytes=1_000),
        Fault("audio", times=None, delay_s=60),
        Fault("audio", times=None, status=503, headers={"Retry-After": "500"}),
        Fault("list", after=1, times=None, delay_s=60),
        Fault("list", after=1, times=None, status=500, headers={"Retry-After": "500"}),
        Fault("progress", times=None, delay_s=60),
    ],
    ids=["stall", "no answer", "a pause", "a slow list", "a pause of the list", "a slow replay"],
)
async def test_a_signal_stops_in_time_whatever_is_waited_for(
    fault: Fault, tmp_path: Path, sim: Simulator
) -> None:
    dest = tmp_path / "dest"
    for job in sim.add_jobs(6, size_bytes=50_000):
        if fault.on == "progress":
            sim.override(job, audio_url=f"{sim.host_url}/audio/{job}/old.wav?signature=old")
    sim.faults.add(fault)
    async with fetcher(sim, dest, "--page-size", "4") as process:
        await eventually(lambda: sim.faults.fired(fault) > 0)
        await asyncio.sleep(0.1)  # so that it is being waited for
        process.send_signal(signal.SIGTERM)
        stopped = await end_of(process)
    assert stopped.status == 143
    assert stopped.seconds < 5


async def test_a_second_sigint_ends_at_once(tmp_path: Path, sim: Simulator) -> None:
    dest = tmp_path / "dest"
    sim.add_jobs(4, size_bytes=600_000, serving=SLOW)
    async with fetcher(sim, dest) as process:
        await eventually(lambda: arrived(dest) > 0)
        process.send_signal(signal.SIGINT)
        process.send_signal(signal.SIGINT)
        stopped = await end_of(process)
    assert stopped.status == 130
    assert stopped.seconds < 2
    let_go(sim)
    assert (await ended(sim, dest)).status == 0
    check_mirror(sim, dest)


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
@pytest.mark.parametrize(
    ("numbers", "status"),
    [([signal.SIGTERM], 143), ([signal.SIGINT, signal.SIGINT], 130)],
    ids=["SIGTERM", "SIGINT twice"],
)
async def test_a_signal_stops_in_time_though_nobody_reads(
    tmp_path: Path,
    sim: Simulator,
    stream: str,
    numbers: list[signal.Signals],
    status: int,
) -> None:
    sim.add_job(size_bytes=5_000_000, serving=Serving(rate_bytes_s=100_000))
    reader, writer = os.pipe()
    fill(writer)
    option = {"stdout": "--json", "stderr": "-v"}[stream]
    where: dict[str, Any] = {stream: writer}
    try:
        async with fetcher(sim, tmp_path / "dest", option, **where) as process:
            await eventually(lambda: arrived(tmp_path / "dest") > 0)
            for number in numbers:
                process.send_signal(number)
            async with asyncio.timeout(5):
                assert await process.wait() == status
    finally:
        os.close(writer)
        os.close(reader)


async def test_what_stderr_has_not_got_changes_no_status(tmp_path: Path, sim: Simulator) -> None:
    sim.add_job()
    reader, writer = os.pipe()
    fill(writer)
    try:
        async with fetcher(sim, tmp_path / "dest", "--json", stderr=writer) as process:
            assert process.stdout is not None
            *_, last = [json.loads(await process.stdout.readuntil()) for _ in range(4)]
            assert (last["event"], last["exit_code"]) == ("run.completed", 0)
            process.send_signal(signal.SIGTERM)
            async with asyncio.timeout(5):
                assert await process.wait() == 0
    finally:
        os.close(writer)
        os.close(reader)


async def test_a_second_sigint_ends_at_once_while_a_reader_is_waited_for(
    tmp_path: Path, sim: Simulator
) -> None:
    sim.add_jobs(1)
    reader, writer = os.pipe()
    fill(writer)
    try:
        async with fetcher(sim, tmp_path / "dest", "--json", stdout=writer) as process:
            await eventually(lambda: bool(files(tmp_path / "dest")))
            process.send_signal(signal.SIGINT)
            process.send_signal(signal.SIGINT)
            async with asyncio.timeout(5):
                assert await process.wait() == 130
    finally:
        os.close(writer)
        os.close(reader)


def fill(writer: int) -> None:
    """Fill a pipe, so that it takes nothing more."""
    os.set_blocking(writer, False)
    with suppress(BlockingIOError):
        while True:
            os.write(writer, b"\n" * 4096)
    os.set_blocking(writer, True)


# ---- the exit status and what is said ----------------------------------------------------


async def test_a_good_run_is_0_and_says_so_in_words(tmp_path: Path, sim: Simulator) -> None:
    sim.add_jobs(3)
    done = await ended(sim, tmp_path / "dest")
    assert done.status == 0
    assert "3" in done.stdout + done.stderr


async def test_events_are_one_json_object_a_line_and_nothing_else_is_on_stdout(
    tmp_path: Path, sim: Simulator
) -> None:
    sim.add_jobs(2)
    sim.add_job(status="pending")
    sim.add_raw(7)
    lost = sim.add_job(size_bytes=50_000)
    sim.faults.add(
        Fault("audio", job=lost, cut_after_bytes=100),
        Fault("audio", job=lost, after=1, times=None, status=500),
    )
    done = await ended(sim, tmp_path / "dest", "--json")
    kinds = {event["event"] for event in done.events}
    assert done.status == 1
    assert kinds >= {"download.started", "download.completed", "download.failed", "job.pending"}
    assert kinds >= {"record.invalid", "poll.completed", "run.completed", "download.retrying"}
    assert all("time" in event for event in done.events)
    assert done.last["event"] == "run.completed"
    started = [e["id"] for e in done.events if e["event"] == "download.started"]
    over = [e["id"] for e in done.events if e["event"] in {"download.completed", "download.failed"}]
    assert sorted(started) == sorted(over)


async def test_a_missing_key_is_2_and_nothing_is_made(tmp_path: Path, sim: Simulator) -> None:
    done = await ended(sim, tmp_path / "dest", key="")
    assert done.status == 2
    assert "MUNSIT_API_KEY" in done.stderr
    assert not files(tmp_path)


async def test_a_refused_key_is_3(tmp_path: Path, sim: Simulator) -> None:
    sim.key = "another"
    done = await ended(sim, tmp_path / "dest", "--json")
    assert (done.status, done.last["exit_code"]) == (3, 3)


async def test_an_unreachable_api_is_4(tmp_path: Path, sim: Simulator) -> None:
    sim.api_down = True
    done = await ended(sim, tmp_path / "dest", "--json")
    assert (done.status, done.last["exit_code"]) == (4, 4)


async def test_a_held_destination_is_5_and_names_the_holder(tmp_path: Path, sim: Simulator) -> None:
    dest = tmp_path / "dest"
    sim.add_jobs(2, size_bytes=900_000, serving=Serving(rate_bytes_s=20_000))
    async with fetcher(sim, dest) as holder:
        await eventually(lambda: arrived(dest) > 0)
        second = await ended(sim, dest, "--json")
        planned = await ended(sim, dest, "--dry-run", "--json")
        holder.kill()
    assert (second.status, second.last["exit_code"]) == (5, 5)
    assert str(holder.pid) in second.stderr
    assert "backfill" in second.stderr
    assert planned.status == 0


async def test_another_process_may_be_waited_for(tmp_path: Path, sim: Simulator) -> None:
    dest = tmp_path / "dest"
    sim.add_job(size_bytes=500_000, serving=Serving(rate_bytes_s=400_000))
    async with fetcher(sim, dest) as holder:
        await eventually(lambda: arrived(dest) > 0)
        second = await ended(sim, dest, "--json", "--wait-lock", "20")
        first = await end_of(holder)
    assert (first.status, second.status, second.last["already"]) == (0, 0, 1)


async def test_a_file_in_place_of_the_destination_is_6(tmp_path: Path, sim: Simulator) -> None:
    dest = tmp_path / "dest"
    dest.write_bytes(b"mine")
    done = await ended(sim, dest, "--json")
    assert (done.status, done.last["exit_code"]) == (6, 6)
    assert dest.read_bytes() == b"mine"


async def test_a_file_size_limit_of_the_system_is_a_full_disk(
    tmp_path: Path, sim: Simulator
) -> None:
    """RLIMIT_FSIZE: writes beyond it fail as they do on a full disk or over a quota."""
    dest = tmp_path / "dest"
    sim.add_jobs(2)
    large = sim.add_job("large.wav", size_bytes=3_000_000)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, before[1]))
    try:
        stopped = await ended(sim, dest, "--json")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert (stopped.status, stopped.last["exit_code"]) == (6, 6)
    assert "full" in stopped.stderr
    again = await ended(sim, dest, "--json")
    assert again.status == 0
    check_mirror(sim, dest)
    [started] = [e for e in again.events if e["event"] == "download.started" and e["id"] == large]
    assert started["resumed_from"] > 0


async def test_a_reader_that_has_seen_enough_ends_the_run_without_a_fault(
    tmp_path: Path, sim: Simulator
) -> None:
    dest = tmp_path / "dest"
    sim.add_jobs(3, size_bytes=600_000, serving=SLOW)
    read_end, write_end = os.pipe()
    async with fetcher(sim, dest, "--json", stdout=write_end) as process:
        os.close(write_end)
        await eventually(lambda: arrived(dest) > 0)
        os.close(read_end)  # as `head` does
        stopped = await end_of(process)
    assert stopped.seconds < 5
    let_go(sim)
    assert (await ended(sim, dest)).status == 0
    check_mirror(sim, dest)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is full")
async def test_events_that_a_full_disk_does_not_take_are_6_though_nothing_was_left_to_do(
    tmp_path: Path, sim: Simulator
) -> None:
    dest = tmp_path / "dest"
    sim.add_jobs(2)
    assert (await ended(sim, dest)).status == 0
    full = os.open("/dev/full", os.O_WRONLY)
    async with fetcher(sim, dest, "--json", "-q", stdout=full) as process:
        os.close(full)
        done = await end_of(process)
    assert done.status == 6
    assert "stdout cannot be written: No space left on device" in done.stderr


async def test_a_reader_that_has_gone_is_130_though_nothing_was_left_to_do(
    tmp_path: Path, sim: Simulator
) -> None:
    dest = tmp_path / "dest"
    sim.add_jobs(2)
    assert (await ended(sim, dest)).status == 0
    read_end, write_end = os.pipe()
    os.close(read_end)
    async with fetcher(sim, dest, "--json", "-q", stdout=write_end) as process:
        os.close(write_end)
        done = await end_of(process)
    assert (done.status, done.stderr) == (130, "")

"""`fetcher watch` as a process: signals, pipes, the lock, kills, and what it tells others."""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import pty
import signal
import socket
import sqlite3
import sys
import termios
import time
from asyncio.subprocess import DEVNULL, PIPE
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
from support import KEY, check_mirror, eventually, is_alive, unfinished

from fetcher.simulator import Fault, Serving

if TYPE_CHECKING:
    from asyncio.subprocess import Process
    from collections.abc import AsyncIterator, Sequence
    from pathlib import Path

    from fetcher.simulator import Simulator

SLOW = Serving(rate_bytes_s=60_000)


@dataclass(slots=True)
class Watcher:
    """A running `fetcher watch --json`, its lines as they come, and its stderr."""

    process: Process
    lines: list[dict[str, Any]] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)
    readers: list[asyncio.Task[None]] = field(default_factory=list)

    def of(self, event: str) -> list[dict[str, Any]]:
        """Return the lines of one kind so far."""
        return [line for line in self.lines if line["event"] == event]

    async def until(self, event: str, count: int = 1) -> None:
        """Return once so many lines of that kind have come."""
        await eventually(
            lambda: len(self.of(event)) >= count or self.process.returncode is not None,
            within_s=20,
        )
        assert len(self.of(event)) >= count, (self.lines[-3:], self.complaints)

    async def ended(self, within_s: float = 20) -> int:
        """Return its exit status."""
        status = await asyncio.wait_for(self.process.wait(), within_s)
        await asyncio.gather(*self.readers)
        return status

    async def signalled(self, number: signal.Signals) -> int:
        """Send a signal; return the exit status, which must come in time."""
        began_s = time.monotonic()
        self.process.send_signal(number)
        status = await self.ended()
        assert time.monotonic() - began_s < 5
        assert not [line for line in self.complaints if "Traceback" in line]
        return status

    async def read(self) -> None:
        """Read lines until stdout is closed."""
        assert self.process.stdout is not None
        async for line in self.process.stdout:
            self.lines.append(json.loads(line))

    async def read_complaints(self) -> None:
        """Read stderr until it is closed."""
        assert self.process.stderr is not None
        async for line in self.process.stderr:
            self.complaints.append(line.decode())


def argv(sim: Simulator, dest: Path, *options: str) -> list[str]:
    """Return a quick watch's command line."""
    usual = ("--interval", "0.2", "--retries", "0", "--min-free", "0")
    where = ("--api-url", sim.api_url, "-d", str(dest))
    return [sys.executable, "-m", "fetcher", "watch", *where, *usual, *options]


@asynccontextmanager
async def watcher(
    sim: Simulator, dest: Path, *options: str, environ: dict[str, str] | None = None
) -> AsyncIterator[Watcher]:
    """Run a watch; kill it at the end if it still runs."""
    process = await asyncio.create_subprocess_exec(
        *argv(sim, dest, "--json", *options),
        stdin=DEVNULL,
        stdout=PIPE,
        stderr=PIPE,
        env={**os.environ, "MUNSIT_API_KEY": KEY, **(environ or {})},
    )
    at = Watcher(process)
    at.readers = [asyncio.create_task(at.read()), asyncio.create_task(at.read_complaints())]
    try:
        yield at
    finally:
        if process.returncode is None:
            process.kill()
        await at.ended()


# ---- signals -----------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_is_the_ordinary_end_of_a_watch(
    number: signal.Signals, sim: Simulator, tmp_path: Path
) -> None:
    sim.add_jobs(3)
    sim.add_job(status="pending")
    async with watcher(sim, tmp_path) as at:
        await at.until("download.completed", 3)
        assert await at.signalled(number) == 0
    final = at.lines[-1]
    assert (final["event"], final["exit_code"]) == ("run.completed", 0)
    assert (final["downloaded"], final["pending"], final["records"]) == (3, 1, 4)


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)], ids=["TERM", "INT"]
)
async def test_until_idle_that_is_signalled_early_tells_by_which_signal(
    number: signal.Signals, status: int, sim: Simulator, tmp_path: Path
) -> None:
    sim.add_job(status="pending")
    async with watcher(sim, tmp_path, "--until-idle") as at:
        await at.until("poll.completed")
        assert await at.signalled(number) == status
    assert at.lines[-1]["exit_code"] == status


async def test_a_signal_in_the_middle_of_downloads_loses_nothing(
    sim: Simulator, tmp_path: Path
) -> None:
    sim.add_jobs(4, size_bytes=300_000, serving=SLOW)
    async with watcher(sim, tmp_path) as at:
        await at.until("download.started", 4)
        await asyncio.sleep(0.5)  # some bytes of each
        assert await at.signalled(signal.SIGTERM) == 0
    for job in sim.ids:
        sim.serve(job, Serving())
    async with watcher(sim, tmp_path, "--until-idle") as again:
        assert await again.ended() == 0
    fetched = again.lines[-1]["bytes_fetched"]
    assert 0 < fetched < 4 * 300_000
    assert unfinished(tmp_path) == []
    check_mirror(sim, tmp_path)


async def test_a_second_interrupt_ends_it_at_once_with_its_commands(
    sim: Simulator, tmp_path: Path
) -> None:
    """Those too that the command started: whoever reads stderr is not kept waiting."""
    sim.add_job()
    pids = tmp_path / "pids"
    script = tmp_path / "slow.sh"
    script.write_text(f"sleep 30 & echo $! $$ > {pids}.new; mv {pids}.new {pids}; sleep 30")
    async with watcher(sim, tmp_path / "dest", "--exec", f"sh {script}") as at:
        await eventually(pids.exists)
        at.process.send_signal(signal.SIGINT)
        await asyncio.sleep(0.2)
        at.process.send_signal(signal.SIGINT)
        await eventually(lambda: at.process.returncode is not None, within_s=1)
        assert at.process.returncode == 130
    commands = [int(pid) for pid in pids.read_text().split()]
    await eventually(lambda: not any(map(is_alive, commands)), within_s=1)


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGUSR1])
async def test_a_poll_can_be_asked_for(
    number: signal.Signals, sim: Simulator, tmp_path: Path
) -> None:
    async with watcher(sim, tmp_path, "--interval", "3600") as at:
        await at.until("poll.completed")
        sim.add_job()
        at.process.send_signal(number)
        await at.until("download.completed")
        assert await at.signalled(signal.SIGTERM) == 0


async def test_a_signal_while_the_api_is_silent_is_obeyed(sim: Simulator, tmp_path: Path) -> None:
    sim.faults.add(Fault("list", times=None, delay_s=60))
    async with watcher(sim, tmp_path) as at:
        await eventually(lambda: bool(sim.list_requests))
        assert await at.signalled(signal.SIGTERM) == 0


HANGING_LOOKUPS = """
import socket, sys, time
def hang(*args, **options):
    time.sleep(30)
    raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
socket.getaddrinfo = hang
from fetcher.__main__ import main
sys.exit(main())
"""


@pytest.mark.parametrize(("command", "status"), [("watch", 0), ("backfill", 143)])
async def test_a_signal_while_a_name_is_looked_up_is_obeyed(
    command: str, status: int, tmp_path: Path
) -> None:
    """The system's resolver cannot be interrupted, and may take half a minute."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", HANGING_LOOKUPS, command, "-d", str(tmp_path)),
        *("--api-url", "https://api.example.invalid"),
        stdout=DEVNULL,
        stderr=DEVNULL,
        env={**os.environ, "MUNSIT_API_KEY": KEY},
    )
    await eventually((tmp_path / ".fetcher" / "holder.json").exists)
    await asyncio.sleep(0.5)  # until the lookup has begun
    process.send_signal(signal.SIGTERM)
    assert await asyncio.wait_for(process.wait(), 5) == status


IN_AN_IMPORT = """
import builtins, os, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it
plain = builtins.__import__
def spy(name, *args, **options):
    if name == "fetcher.{module}" and sys.argv[0] != "signalled":
        sys.argv[0] = "signalled"
        for number in {numbers}:
            os.kill(os.getpid(), number)
    return plain(name, *args, **options)
builtins.__import__ = spy
from fetcher.__main__ import main
sys.exit(main())
"""


async def started_and_signalled(
    words: list[str], numbers: Sequence[int], module: str = "foreground"
) -> tuple[int | None, str, str]:
    """Run a command that signals hit when it imports that module; return how it ended."""
    script = IN_AN_IMPORT.format(module=module, numbers=[int(one) for one in numbers])
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", script, *words),
        stdout=PIPE,
        stderr=PIPE,
        env={**os.environ, "MUNSIT_API_KEY": KEY},
    )
    out, err = await asyncio.wait_for(process.communicate(), 20)
    return process.returncode, out.decode(), err.decode()


@pytest.mark.parametrize("module", ["commands", "foreground"])
@pytest.mark.parametrize(
    ("words", "number", "status"),
    [
        (["watch"], signal.SIGTERM, 0),
        (["watch"], signal.SIGINT, 0),
        (["watch", "--until-idle"], signal.SIGTERM, 143),
        (["backfill"], signal.SIGTERM, 143),
        (["backfill"], signal.SIGINT, 130),
        (["backfill", "--dry-run"], signal.SIGTERM, 143),
        (["verify"], signal.SIGINT, 130),
    ],
)
async def test_a_signal_while_the_program_starts_ends_the_run_in_order(
    words: list[str],
    number: int,
    status: int,
    module: str,
    sim: Simulator,
    tmp_path: Path,
) -> None:
    sim.add_jobs(3)
    where = ["--json", "--api-url", sim.api_url, "-d", str(tmp_path), "--min-free", "0"]
    code, out, err = await started_and_signalled([*words, *where], [number], module)
    assert (code, "Traceback" in err) == (status, False)
    last = json.loads(out.splitlines()[-1])
    assert (last["event"], last["exit_code"]) == ("run.completed", status)


@pytest.mark.parametrize("first", [signal.SIGINT, signal.SIGTERM])
async def test_a_second_interrupt_while_the_program_starts_ends_it_at_once(
    first: int, sim: Simulator, tmp_path: Path
) -> None:
    words = ["watch", "--json", "--api-url", sim.api_url, "-d", str(tmp_path)]
    code, out, err = await started_and_signalled(words, [first, signal.SIGINT])
    assert (code, out, err) == (130, "", "")


@pytest.mark.parametrize("command", [["backfill", "--json"], ["watch"], ["verify", "--repair"]])
@pytest.mark.parametrize(
    ("option", "module"), [("--config", "commands"), ("--api-key-file", "foreground")]
)
@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
async def test_a_signal_ends_the_wait_for_a_pipe_that_nobody_writes(
    command: list[str], option: str, module: str, number: int, status: int, tmp_path: Path
) -> None:
    pipe, dest = tmp_path / "pipe", tmp_path / "dest"
    os.mkfifo(pipe)
    words = [*command, option, str(pipe), "-d", str(dest)]
    code, out, err = await started_and_signalled(words, [number], module)
    assert (code, dest.exists()) == (status, False)
    assert f"stopped while waiting for {pipe} to be written" in err
    is_told = "--json" in command and option == "--api-key-file"  # the settings are known then
    finals = [json.loads(line)["exit_code"] for line in out.splitlines()]
    assert finals == ([status] if is_told else [])


async def test_a_signal_ends_the_wait_for_a_key_that_is_being_made(tmp_path: Path) -> None:
    """As in `--api-key-file <(slow command)`."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writers: list[int] = []

    def is_read() -> bool:
        with suppress(OSError):
            writers.append(os.open(pipe, os.O_WRONLY | os.O_NONBLOCK))
        return bool(writers)

    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "fetcher", "backfill", "-d", str(tmp_path / "dest")),
        *("--api-key-file", str(pipe)),
        stderr=DEVNULL,
    )
    await eventually(is_read)
    process.send_signal(signal.SIGTERM)
    try:
        assert await asyncio.wait_for(process.wait(), 5) == 143
    finally:
        os.close(writers[0])  # or one that goes on waiting would never end


@pytest.mark.parametrize("words", [["status"], ["list"], ["--version"], ["backfill", "--help"]])
@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, -signal.SIGTERM)]
)
async def test_a_signal_while_any_other_command_starts_ends_it(
    words: list[str], number: int, status: int, tmp_path: Path
) -> None:
    where = [] if words[-1].startswith("--") else ["-d", str(tmp_path)]
    code, out, err = await started_and_signalled([*words, *where], [number], "commands")
    assert (code, out, "Traceback" in err) == (status, "", False)


async def test_a_poll_that_is_asked_for_while_the_program_starts_harms_nothing(
    sim: Simulator, tmp_path: Path
) -> None:
    sim.add_job()
    words = ["watch", "--until-idle", "--json", "--api-url", sim.api_url, "-d", str(tmp_path)]
    numbers = [signal.SIGUSR1, signal.SIGHUP]
    code, out, _ = await started_and_signalled([*words, "--min-free", "0"], numbers)
    assert (code, json.loads(out.splitlines()[-1])["downloaded"]) == (0, 1)


async def test_a_signal_before_anything_was_done_is_obeyed(sim: Simulator, tmp_path: Path) -> None:
    """The first tenth of a second is Python's own start, in which nothing can be noted."""
    sim.add_jobs(3)
    for delay_s in (0.05, 0.15, 0.3, 0.45):
        async with watcher(sim, tmp_path) as at:
            await asyncio.sleep(delay_s)
            assert await at.signalled(signal.SIGTERM) in {0, -signal.SIGTERM}


# ---- pipes -------------------------------------------------------------------------------


async def test_a_closed_pipe_ends_it_cleanly(sim: Simulator, tmp_path: Path) -> None:
    sim.add_jobs(30, size_bytes=30_000, serving=SLOW)
    process = await asyncio.create_subprocess_exec(
        *argv(sim, tmp_path, "--json"),
        stdin=DEVNULL,
        stdout=PIPE,
        stderr=PIPE,
        env={**os.environ, "MUNSIT_API_KEY": KEY},
    )
    assert process.stdout is not None
    assert process.stderr is not None
    await process.stdout.readline()
    process.stdout._transport.close()  # type: ignore[attr-defined]  # as `head -n 1` does
    complaints = (await asyncio.wait_for(process.stderr.read(), 10)).decode()
    assert await process.wait() == 0
    assert "Traceback" not in complaints
    assert "BrokenPipe" not in complaints


async def test_a_closed_terminal_ends_it_cleanly(sim: Simulator, tmp_path: Path) -> None:
    sim.add_jobs(4, size_bytes=300_000, serving=SLOW)
    master, slave = pty.openpty()
    process = await asyncio.create_subprocess_exec(
        *argv(sim, tmp_path),
        stdin=slave,
        stdout=slave,
        stderr=slave,
        env={**os.environ, "MUNSIT_API_KEY": KEY, "TERM": "xterm"},
        preexec_fn=partial(_become_the_terminals, slave),
    )
    os.close(slave)
    await eventually(lambda: len(sim.audio_requests()) == 4)
    os.close(master)
    assert await asyncio.wait_for(process.wait(), 5) == 0
    for job in sim.ids:
        sim.serve(job, Serving())
    async with watcher(sim, tmp_path, "--until-idle") as again:
        assert await again.ended() == 0
    check_mirror(sim, tmp_path)


def _become_the_terminals(slave: int) -> None:
    """Make this process the leader of a session on that terminal, as a shell's window is."""
    os.setsid()
    fcntl.ioctl(slave, termios.TIOCSCTTY, 0)


# ---- one at a time -----------------------------------------------------------------------


@pytest.mark.parametrize("second", ["watch", "backfill"])
async def test_a_second_process_is_turned_away_and_told_by_whom(
    second: str, sim: Simulator, tmp_path: Path
) -> None:
    async with watcher(sim, tmp_path) as at:
        await at.until("poll.completed")
        other = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "fetcher", second),
            *("--api-url", sim.api_url, "-d", str(tmp_path)),
            stdout=DEVNULL,
            stderr=PIPE,
            env={**os.environ, "MUNSIT_API_KEY": KEY},
        )
        _, complaint = await asyncio.wait_for(other.communicate(), 10)
        assert other.returncode == 5
        assert f"fetcher watch, process {at.process.pid}" in complaint.decode()
        assert await at.signalled(signal.SIGTERM) == 0


async def test_a_killed_watch_never_blocks_the_next_one(sim: Simulator, tmp_path: Path) -> None:
    sim.add_jobs(6, size_bytes=60_000, serving=Serving(rate_bytes_s=3_000))
    for _ in range(3):
        async with watcher(sim, tmp_path) as at:
            await at.until("download.started")
            at.process.kill()
            await at.process.wait()
    for job in sim.ids:
        sim.serve(job, Serving())
    async with watcher(sim, tmp_path, "--until-idle") as last:
        assert await last.ended() == 0
    check_mirror(sim, tmp_path)
    assert unfinished(tmp_path) == []


async def test_a_kill_between_two_new_pages_misses_nothing(sim: Simulator, tmp_path: Path) -> None:
    sim.add_jobs(30)
    async with watcher(sim, tmp_path, "--until-idle", "--page-size", "10") as at:
        assert await at.ended() == 0
    sim.add_jobs(40)
    stall = Fault("list", times=1, stall_after_bytes=0, when=lambda r: "offset=0&" not in r.target)
    sim.faults.add(stall)
    async with watcher(sim, tmp_path, "--page-size", "10") as at:
        await eventually(lambda: sim.faults.fired(stall) == 1)
        await at.until("download.completed")
        at.process.kill()
        await at.process.wait()
    async with watcher(sim, tmp_path, "--until-idle", "--page-size", "10") as last:
        assert await last.ended() == 0
    check_mirror(sim, tmp_path)


# ---- what others see ---------------------------------------------------------------------


async def test_systemd_is_told_of_start_life_and_end(sim: Simulator, tmp_path: Path) -> None:
    address = str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(address)
        manager.setblocking(False)
        told: list[str] = []

        def listen() -> bool:
            while True:
                try:
                    told.extend(manager.recv(4096).decode().splitlines())
                except BlockingIOError:
                    return True

        environ = {"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "400000"}
        async with watcher(sim, tmp_path / "dest", environ=environ) as at:
            await eventually(lambda: listen() and told.count("WATCHDOG=1") >= 4)
            assert await at.signalled(signal.SIGTERM) == 0
            listen()
    assert told[0] == "READY=1"
    assert "STOPPING=1" in told
    assert "WATCHDOG=1" not in told[told.index("STOPPING=1") :]


async def test_the_status_file_tells_of_polls_and_of_trouble(
    sim: Simulator, tmp_path: Path
) -> None:
    sim.add_job(status="pending")
    status = tmp_path / ".fetcher" / "status.json"

    def said() -> dict[str, Any]:
        return dict(json.loads(status.read_text())) if status.exists() else {}

    environ = {"NOTIFY_SOCKET": "/nowhere", "WATCHDOG_USEC": "200000"}  # writes it often
    async with watcher(sim, tmp_path, environ=environ) as at:
        await at.until("poll.completed", 2)
        await eventually(lambda: said().get("pending") == 1)
        assert (said()["pid"], said()["queue"], said()["last_error"]) == (at.process.pid, 0, None)
        assert said()["last_poll_at"] is not None
        sim.api_down = True
        await eventually(lambda: said()["last_error"] is not None)
        sim.api_down = False
        await eventually(lambda: said()["last_error"] is None)
        assert await at.signalled(signal.SIGTERM) == 0
    assert set(said()) == {"time", "pid", "last_poll_at", "pending", "queue", "last_error"}
    assert KEY not in status.read_text()


async def test_a_monitor_can_ask_whether_it_lives(sim: Simulator, tmp_path: Path) -> None:
    async def status() -> int:
        asking = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "fetcher", "status", "-q", "-d", str(tmp_path)),
            *("--max-age", "10m"),
            stderr=DEVNULL,
        )
        return await asking.wait()

    assert await status() == 1
    async with watcher(sim, tmp_path) as at:
        await at.until("poll.completed", 2)
        assert await status() == 0
        assert await at.signalled(signal.SIGTERM) == 0
    long_ago = "2025-01-31T12:00:00+00:00"
    sign = json.loads((tmp_path / ".fetcher" / "status.json").read_text())
    old = json.dumps(sign | {"last_poll_at": long_ago})
    (tmp_path / ".fetcher" / "status.json").write_text(old)
    manifest = sqlite3.connect(tmp_path / ".fetcher" / "manifest.db")
    with manifest:
        manifest.execute("UPDATE meta SET value = ? WHERE key LIKE 'last_%_at'", (long_ago,))
    manifest.close()
    assert await status() == 1


async def test_neither_key_nor_signatures_show_anywhere(sim: Simulator, tmp_path: Path) -> None:
    sim.add_jobs(2)
    sim.add_job(finishes_after_s=0.3)
    bad = sim.add_job()
    sim.faults.add(Fault("audio", job=bad, times=None, status=404))
    async with watcher(sim, tmp_path, "-vv") as at:
        await at.until("download.completed", 3)
        await at.until("download.failed")
        sim.api_down = 500
        await eventually(lambda: any("atching goes on" in line for line in at.complaints))
        assert await at.signalled(signal.SIGTERM) == 0
    text = json.dumps(at.lines) + "".join(at.complaints)
    assert KEY not in text
    assert "X-Signature" not in text

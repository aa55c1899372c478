"""What one process costs: wall time, CPU and peak memory of its whole tree.

Owns starting, waiting and killing; knows nothing of what is run.
"""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path
    from resource import struct_rusage

_LONGEST_S = 300.0
_LOOK_EVERY_S = 0.003


class FigureError(Exception):
    """Something that could not be measured, and why."""


@dataclass(frozen=True, slots=True)
class Command:
    """A program with its arguments, and what its environment has beyond the common one."""

    argv: Sequence[str]
    environ: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Cost:
    """What a run took.

    `durable_s` is `wall_s` plus the time until the file system had everything on disk.
    `cpu_s` is user plus system time of the process and the children it waited for;
    `peak_bytes` the largest resident set among them (never seen below that of the
    measuring process, about 20 MB).
    """

    status: int
    wall_s: float
    durable_s: float
    cpu_s: float
    peak_bytes: int


def run(
    command: Command,
    *,
    log: Path,
    dest: Path | None = None,
    stop_when: Callable[[], bool] | None = None,
) -> Cost:
    """Run `command` to its end and return its cost; its output goes to `log`.

    `dest`: a folder whose file system is synchronised afterwards, for `durable_s`.
    `stop_when`: asked every few milliseconds; once true, the process group is killed.
    Raises FigureError for one that runs longer than 5 minutes.
    """
    started = time.perf_counter()
    with log.open("wb") as output:
        process = subprocess.Popen(
            command.argv,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env={**_environ(), **command.environ},
            start_new_session=True,
        )
        try:
            status, usage = _wait(process, stop_when)
        except BaseException:
            _kill(process)
            raise
    wall_s = time.perf_counter() - started
    durable_s = wall_s + (synchronise(dest) if dest is not None else 0.0)
    return Cost(
        status=status,
        wall_s=wall_s,
        durable_s=durable_s,
        cpu_s=usage.ru_utime + usage.ru_stime,
        peak_bytes=usage.ru_maxrss * 1024,
    )


def synchronise(folder: Path) -> float:
    """Put the file system of `folder` on disk; return the seconds that took."""
    started = time.perf_counter()
    subprocess.run(["sync", "-f", folder], check=True)
    return time.perf_counter() - started


def cpu_of(pid: int) -> float:
    """Return the CPU seconds that a running process has used (Linux)."""
    with open(f"/proc/{pid}/stat", "rb") as stat:  # noqa: PTH123 - read many times a second
        fields = stat.read().rpartition(b")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _environ() -> dict[str, str]:
    """Return a plain environment: no proxies, no settings of the person who measures."""
    kept = ("PATH", "HOME", "TMPDIR", "LD_LIBRARY_PATH")
    return {"LC_ALL": "C.UTF-8", **{k: os.environ[k] for k in kept if k in os.environ}}


def _wait(
    process: subprocess.Popen[bytes], stop_when: Callable[[], bool] | None
) -> tuple[int, struct_rusage]:
    """Wait for the process while a thread looks whether it must be killed."""
    ended, late = threading.Event(), threading.Event()
    watcher = threading.Thread(target=_watch, args=(process.pid, stop_when, ended, late))
    watcher.start()
    try:
        _, status, usage = os.wait4(process.pid, 0)
    finally:
        ended.set()
        watcher.join()
    process.returncode = os.waitstatus_to_exitcode(status)  # it was waited for: not by Popen
    if late.is_set():
        raise FigureError(f"it did not end within {_LONGEST_S:.0f} s")
    return process.returncode, usage


def _watch(
    pid: int,
    stop_when: Callable[[], bool] | None,
    ended: threading.Event,
    late: threading.Event,
) -> None:
    deadline = time.monotonic() + _LONGEST_S
    look_every_s = _LONGEST_S if stop_when is None else _LOOK_EVERY_S
    while not ended.wait(look_every_s):
        if time.monotonic() >= deadline:
            late.set()
        elif stop_when is None or not stop_when():
            continue
        with suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGKILL)
        return


def _kill(process: subprocess.Popen[bytes]) -> None:
    if process.returncode is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()

"""The bench's own server processes: started, asked for their port, ended.

Owns their life; what they serve is `listing`, `relay`
and `simulated`.
"""

from __future__ import annotations

import json
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from benchmark.relay import read_count

if TYPE_CHECKING:
    from collections.abc import Iterator

    from benchmark.listing import Spec

SCRIPTS = Path(__file__).parent.parent


@contextmanager
def _process(module: str, *arguments: str) -> Iterator[str]:
    """Run `python -m benchmark.MODULE ARGUMENTS` and yield the line that it prints."""
    process = subprocess.Popen(
        [sys.executable, "-m", f"benchmark.{module}", *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        cwd=SCRIPTS,
        text=True,
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line:
            raise RuntimeError(f"the {module} process did not start")
        yield line
    finally:
        process.kill()
        process.communicate()


@contextmanager
def listing_of(spec: Spec) -> Iterator[str]:
    """Serve an account and yield the API's URL."""
    with _process("listing", spec.text()) as port:
        yield f"http://127.0.0.1:{int(port)}/api/v1"


class Relay:
    """A relay that runs: its port, and the bytes that went through it to clients."""

    def __init__(self, port: int, count_file: Path) -> None:
        self.port = port
        self._count_file = count_file

    def passed_bytes(self) -> int:
        """Return the bytes that clients were sent so far, headers included."""
        return read_count(self._count_file)


@contextmanager
def relay_to(port: int, one_way_s: float, folder: Path) -> Iterator[Relay]:
    """Relay to a local port with so much delay in each direction."""
    count_file = folder / "relayed"
    with _process("relay", str(port), str(one_way_s), str(count_file)) as own_port:
        yield Relay(int(own_port), count_file)


@dataclass(frozen=True, slots=True)
class Simulated:
    """An account of the simulator: its API, and its files with their SHA-256."""

    api_url: str
    urls: list[str]
    digests: list[str]


@contextmanager
def simulated(count: int, size_bytes: int, rate_bytes_s: int) -> Iterator[Simulated]:
    """Serve `count` files from the simulator; a rate of 0 is as fast as it can."""
    with _process("simulated", str(count), str(size_bytes), str(rate_bytes_s)) as line:
        yield Simulated(**json.loads(line))

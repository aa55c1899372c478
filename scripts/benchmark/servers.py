"""The bench's own server processes: started, asked for their port, ended.

Owns their life; what they serve is `listing` and `relay`.
"""

from __future__ import annotations

import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from benchmark.relay import read_count

if TYPE_CHECKING:
    from collections.abc import Iterator

    from benchmark.listing import Spec

SCRIPTS = Path(__file__).parent.parent


@contextmanager
def serving(module: str, *arguments: str) -> Iterator[int]:
    """Run `python -m benchmark.MODULE ARGUMENTS` and yield the port that it prints."""
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
        yield int(line)
    finally:
        process.kill()
        process.communicate()


@contextmanager
def listing_of(spec: Spec) -> Iterator[str]:
    """Serve an account and yield the API's URL."""
    with serving("listing", spec.text()) as port:
        yield f"http://127.0.0.1:{port}/api/v1"


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
    with serving("relay", str(port), str(one_way_s), str(count_file)) as own_port:
        yield Relay(own_port, count_file)

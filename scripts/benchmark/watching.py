"""A watcher from outside: its events, and the CPU it takes between two of them.

Owns the running `fetcher watch` process and the reading of its JSON lines.
"""

from __future__ import annotations

import json
import os
import subprocess
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import IO, TYPE_CHECKING, Any

from benchmark.measure import FigureError, cpu_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from benchmark.measure import Command

_SETTLING_POLLS = 3  # the first ones read the whole history and fill caches


@dataclass(frozen=True, slots=True)
class Polls:
    """What polls took: CPU seconds of one in the mean, and the most list requests of any."""

    cpu_s: float
    most_requests: int


@contextmanager
def events_of(command: Command) -> Iterator[tuple[int, Iterator[dict[str, Any]]]]:
    """Run a command that prints JSON lines; yield its process id and its events."""
    process = subprocess.Popen(
        command.argv,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={**os.environ, **command.environ},
    )
    try:
        assert process.stdout is not None
        yield process.pid, _events(process.stdout)
    finally:
        process.terminate()
        process.wait()


def idle_polls(command: Command, *, count: int) -> Polls:
    """Return what `count` polls of a watcher that finds nothing took."""
    with events_of(command) as (pid, events):
        polls = (int(event["requests"]) for event in events if event["event"] == "poll.completed")
        if len(list(islice(polls, _SETTLING_POLLS))) < _SETTLING_POLLS:
            raise FigureError("the watcher ended")
        before_s = cpu_of(pid)
        requests = list(islice(polls, count))
        return Polls((cpu_of(pid) - before_s) / count, max(requests))


def _events(stream: IO[bytes]) -> Iterator[dict[str, Any]]:
    for line in stream:
        yield json.loads(line)

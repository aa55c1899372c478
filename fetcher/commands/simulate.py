"""`fetcher simulate`: the simulator of the API and its file host on loopback ports."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from typing import TYPE_CHECKING

from fetcher.errors import UsageError

if TYPE_CHECKING:
    from argparse import Namespace

    from fetcher.commands import Environment


_JOB_BYTES = 100_000


def run(args: Namespace, env: Environment) -> int:
    """Serve until SIGINT or SIGTERM; print one line with the API's URL once it is ready.

    Raises UsageError where the port is taken.
    """
    asyncio.run(_serve(getattr(args, "port", 0) or 0, getattr(args, "jobs", None), env))
    return 0


async def _serve(port: int, jobs: int | None, env: Environment) -> None:
    """Serve the jobs of the demo, or so many finished ones."""
    from fetcher.simulator import Simulator, populate_demo  # noqa: PLC0415 - a heavy import

    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stopped.set)
    async with contextlib.AsyncExitStack() as stack:
        try:
            simulator = await stack.enter_async_context(Simulator(port=port))
        except OSError as error:
            if not port:
                raise
            why = os.strerror(error.errno or 0)
            raise UsageError(
                f"port {port} cannot be used: {why}. Name another one with --port, or leave it "
                "out for any that is free"
            ) from error
        if jobs is None:
            populate_demo(simulator)
        else:
            simulator.add_jobs(jobs, size_bytes=_JOB_BYTES, file_name="recording {n}.wav")
        with contextlib.suppress(BrokenPipeError):
            env.stdout.write(f"{simulator.api_url}\n")
            env.stdout.flush()
        await stopped.wait()

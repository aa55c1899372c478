"""`fetcher simulate`: the simulator of the API and its file host on loopback ports."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from argparse import Namespace

    from fetcher.commands import Environment


def run(args: Namespace, env: Environment) -> int:
    """Serve until SIGINT or SIGTERM; print one line with the API's URL once it is ready."""
    asyncio.run(_serve(getattr(args, "port", 0) or 0, env))
    return 0


async def _serve(port: int, env: Environment) -> None:
    from fetcher.simulator import Simulator, populate_demo  # noqa: PLC0415 - a heavy import

    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stopped.set)
    async with Simulator(port=port) as simulator:
        populate_demo(simulator)
        with contextlib.suppress(BrokenPipeError):
            env.stdout.write(f"{simulator.api_url}\n")
            env.stdout.flush()
        await stopped.wait()

"""A run in the foreground: report, signals, summary, exit status.

What every command that runs a `Fetcher` shares; the commands choose which run.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from typing import TYPE_CHECKING

from fetcher.engine import STOPPED_BY_SIGINT, STOPPED_BY_SIGTERM, Fetcher
from fetcher.errors import FetcherError, UsageError
from fetcher.events import RunCompleted
from fetcher.report import Console, Report, Wishes, choose, render

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from fetcher.commands import Environment
    from fetcher.engine import Stop
    from fetcher.settings import Settings

    Runner = Callable[[Report], Awaitable[RunCompleted]]

_EXIT_PIPE_CLOSED = 0  # the reader of stdout has seen enough, as `head` does
_EXIT_STDOUT_LOST = 6
_TICK_S = 1.0
_TICK_WITH_BARS_S = 0.25


def wishes_of(settings: Settings) -> Wishes:
    """Return what the user wants to see."""
    return Wishes(
        json=settings.json_output,
        quiet=settings.quiet,
        verbose=settings.verbose,
        progress=settings.progress,
        log_format=settings.log_format,
        log_file=settings.log_file,
        dry_run=settings.dry_run,
    )


def conduct(fetcher: Fetcher, runner: Runner, env: Environment) -> int:
    """Carry a run out in this process; return its exit status.

    Raises FetcherError where the run could not even begin.
    """
    stop = fetcher.stop
    lost: list[OSError] = []

    def on_lost(error: OSError) -> None:
        lost.append(error)
        stop.ask(_EXIT_PIPE_CLOSED if isinstance(error, BrokenPipeError) else _EXIT_STDOUT_LOST)

    console = Console.of(env.stdout, env.stderr, env.environ)
    with choose(wishes_of(fetcher.settings), console, on_lost=on_lost) as report:
        exit_code = asyncio.run(_conducted(stop, runner, report))
        report.close()
        if not fetcher.settings.dry_run:
            text = render(
                report.collector.tally(), quiet=fetcher.settings.quiet, quote=report.quote
            )
            if text:
                report.say(text)
    return exit_code


async def _conducted(stop: Stop, runner: Runner, report: Report) -> int:
    async with _signals(stop), _ticking(report):
        try:
            final = await runner(report)
        except UsageError:
            raise
        except FetcherError as error:
            report(RunCompleted(exit_code=error.exit_code))
            raise
    return final.exit_code


@contextlib.asynccontextmanager
async def _signals(stop: Stop) -> AsyncIterator[None]:
    """Turn the first SIGINT or SIGTERM into a stop; a second SIGINT ends the process at once."""
    loop = asyncio.get_running_loop()

    def interrupted() -> None:
        if stop.exit_code is not None:
            os._exit(STOPPED_BY_SIGINT)
        stop.ask(STOPPED_BY_SIGINT)

    loop.add_signal_handler(signal.SIGINT, interrupted)
    loop.add_signal_handler(signal.SIGTERM, stop.ask, STOPPED_BY_SIGTERM)
    try:
        yield
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)


@contextlib.asynccontextmanager
async def _ticking(report: Report) -> AsyncIterator[None]:
    async def tick() -> None:
        while True:
            await asyncio.sleep(_TICK_WITH_BARS_S if report.has_bars else _TICK_S)
            report.tick()

    task = asyncio.create_task(tick())
    try:
        yield
    finally:
        task.cancel()

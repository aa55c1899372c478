"""A run in the foreground: report, signals, summary, exit status.

What every command that runs a `Fetcher` shares; the commands choose which run.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import signal
from functools import partial
from typing import TYPE_CHECKING

from fetcher import signals
from fetcher.engine import STOPPED_BY_SIGINT, STOPPED_BY_SIGTERM, Fetcher
from fetcher.errors import FetcherError
from fetcher.events import RunCompleted
from fetcher.report import Console, Report, Wishes, choose, render
from fetcher.report.words import ERROR
from fetcher.runs.process import kill_all

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from fetcher.commands import Environment
    from fetcher.configuration.settings import Settings

    Runner = Callable[[Report], Awaitable[RunCompleted]]
    Ending = Callable[[Report], str]

_EXIT_STDOUT_LOST = 6
_GC_THRESHOLD = 50_000
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


def conduct(
    fetcher: Fetcher, runner: Runner, env: Environment, *, ending: Ending | None = None
) -> int:
    """Carry a run out in this process; return its exit status.

    `ending` returns what is said at the end, the summary of a run where it is not given.
    SIGINT and SIGTERM stop the run, and so does the SIGHUP of a closed terminal; a second
    SIGINT ends the process at once, with the commands that it runs. Without a terminal
    SIGHUP asks a watch to poll now, as SIGUSR1 does always. What came while the program
    started counts as well. It has not ended well where stdout did not take all that was
    to be said there. Raises FetcherError where the run could not even begin.
    """
    stop = fetcher.stop
    lost: list[OSError] = []

    def on_lost(error: OSError) -> None:
        lost.append(error)
        stop.ask(_status_of_loss(error))

    console = Console.of(env.stdout, env.stderr, env.environ)
    with choose(wishes_of(fetcher.settings), console, on_lost=on_lost) as report:
        # What is imported stays: not looking at it again, and looking at the rest less
        # often, saves 10-25 % of the CPU with many small files (measured, two cores).
        gc.freeze()
        gc.set_threshold(_GC_THRESHOLD)
        gc.enable()
        exit_code = _carry_out(fetcher, runner, report, has_terminal=console.stderr_is_tty)
        report.close()
        for loss in lost:
            exit_code = exit_code or stop.verdict(_status_of_loss(loss))
            if not isinstance(loss, BrokenPipeError):
                report.say(f"stdout cannot be written: {loss.strerror or loss}", level=ERROR)
        text = ending(report) if ending else _summary(fetcher.settings, report)
        if text:
            report.say(text)
    return exit_code


def _carry_out(fetcher: Fetcher, runner: Runner, report: Report, *, has_terminal: bool) -> int:
    """Return the exit status of the run; one that cannot begin has a final event as well."""
    try:
        fetcher.settings.await_key()
        return asyncio.run(_conducted(fetcher, runner, report, has_terminal=has_terminal))
    except FetcherError as error:
        report(RunCompleted(exit_code=error.exit_code))
        raise


def _status_of_loss(error: OSError) -> int:
    """Return what a run ends with whose stdout was lost.

    A reader that has seen enough stops a run as Ctrl-C does: its work is not done.
    """
    return STOPPED_BY_SIGINT if isinstance(error, BrokenPipeError) else _EXIT_STDOUT_LOST


def _summary(settings: Settings, report: Report) -> str:
    if settings.dry_run:
        return ""
    return render(report.collector.tally(), quiet=settings.quiet, quote=report.quote)


async def _conducted(
    fetcher: Fetcher, runner: Runner, report: Report, *, has_terminal: bool
) -> int:
    async with _signals(fetcher, has_terminal=has_terminal), _ticking(report):
        final = await runner(report)
    return final.exit_code


@contextlib.asynccontextmanager
async def _signals(fetcher: Fetcher, *, has_terminal: bool) -> AsyncIterator[None]:
    """Handle signals as `conduct` says, for as long as a run lasts."""
    loop = asyncio.get_running_loop()
    stop = fetcher.stop

    def interrupted() -> None:
        if stop.exit_code is not None:
            kill_all()
            os._exit(STOPPED_BY_SIGINT)
        stop.ask(STOPPED_BY_SIGINT)

    def poll_now() -> None:
        fetcher.wake()

    def hung_up() -> None:
        if has_terminal:
            stop.ask(STOPPED_BY_SIGTERM)
        else:
            poll_now()

    handlers: dict[signal.Signals, Callable[[], None]] = {
        signal.SIGINT: interrupted,
        signal.SIGTERM: partial(stop.ask, STOPPED_BY_SIGTERM),
        signal.SIGUSR1: poll_now,
    }
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # nohup: stays ignored
        handlers[signal.SIGHUP] = hung_up
    for number, handler in handlers.items():
        loop.add_signal_handler(number, handler)
    for number in signals.taken():
        handlers[number]()
    try:
        yield
    finally:
        for number in handlers:
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

"""A run in the foreground: report, signals, summary, exit status.

What every command that runs a `Fetcher` shares; the commands choose which run.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import signal
import time
from typing import TYPE_CHECKING, Self

from fetcher import signals
from fetcher.engine import STOPPED_BY_SIGINT, STOPPED_BY_SIGTERM, Fetcher
from fetcher.errors import FetcherError
from fetcher.events import Notice, RunCompleted
from fetcher.report import Console, Report, Wishes, choose, render
from fetcher.report.outlet import Patience
from fetcher.report.words import ERROR
from fetcher.runs.process import kill_all

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from types import FrameType

    from fetcher.commands import Environment
    from fetcher.configuration.settings import Settings

    Runner = Callable[[Report], Awaitable[RunCompleted]]
    Ending = Callable[[Report], str]

_EXIT_STDOUT_LOST = 6
_GC_THRESHOLD = 50_000
# Contract 5.8 allows 5 s from the signal to the end; pings end by 4.2, readers of stdout by 4.5.
_STOP_WITHIN_S = 4.3
_CUT_SHORT = "Not all could be finished in time (a slow disk?); the next run goes on from here."
_TICK_S = 1.0
_TICK_WITH_BARS_S = 0.25
_left_running: list[asyncio.Runner] = []  # or what is in them would be destroyed, and tell of it


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
    started counts as well, and so does what comes while a slow reader is waited for. It has
    not ended well where stdout did not take all that was to be said there; stderr and the log
    file change no status. Why a run could not even begin is told as everything else is, and
    has a final event as well.
    """
    stop = fetcher.stop
    lost: list[OSError] = []

    def on_lost(error: OSError) -> None:
        lost.append(error)
        stop.ask(_status_of_loss(error))

    console = Console.of(env.stdout, env.stderr, env.environ)
    wishes = wishes_of(fetcher.settings)
    ear = _Ear(fetcher, has_terminal=console.stderr_is_tty)
    patience = Patience(ear.stopped_at)
    with ear, choose(wishes, console, on_lost=on_lost, patience=patience) as report:
        # What is imported stays: not looking at it again, and looking at the rest less
        # often, saves 10-25 % of the CPU with many small files (measured, two cores).
        gc.freeze()
        gc.set_threshold(_GC_THRESHOLD)
        gc.enable()
        try:
            exit_code = _carry_out(fetcher, runner, report, ear)
        except FetcherError as error:
            report(Notice("ERROR", str(error)))
            report(RunCompleted(exit_code=error.exit_code))
            return error.exit_code
        if not report.close():
            exit_code = exit_code or stop.verdict(stop.exit_code or STOPPED_BY_SIGINT)
        for loss in lost:
            exit_code = exit_code or stop.verdict(_status_of_loss(loss))
            if not isinstance(loss, BrokenPipeError):
                report.say(f"stdout cannot be written: {loss.strerror or loss}", level=ERROR)
        text = ending(report) if ending else _summary(fetcher.settings, report)
        if text:
            report.say(text)
    return exit_code


def _carry_out(fetcher: Fetcher, runner: Runner, report: Report, ear: _Ear) -> int:
    """Return the exit status of the run. Raises FetcherError where it cannot begin.

    A run that a stop does not end in time is left where it is, as a crash would leave it: an
    fsync may take longer than whoever stops a run waits, and nothing calls it off.
    """
    loops = asyncio.Runner()
    try:
        fetcher.settings.await_key()
        exit_code = loops.run(_conducted(fetcher, runner, report, ear))
    except _OverdueError as overdue:
        _left_running.append(loops)  # the end of the process is its end, and of its locks
        return overdue.final.exit_code
    except BaseException:
        loops.close()
        raise
    else:
        loops.close()
        return exit_code
    finally:
        ear.outlast_loop()


def _status_of_loss(error: OSError) -> int:
    """Return what a run ends with whose stdout was lost.

    A reader that has seen enough stops a run as Ctrl-C does: its work is not done.
    """
    return STOPPED_BY_SIGINT if isinstance(error, BrokenPipeError) else _EXIT_STDOUT_LOST


def _summary(settings: Settings, report: Report) -> str:
    if settings.dry_run:
        return ""
    return render(report.collector.tally(), quiet=settings.quiet, quote=report.quote)


async def _conducted(fetcher: Fetcher, runner: Runner, report: Report, ear: _Ear) -> int:
    """Return the exit status of the run. Raises _OverdueError once it has been told to have ended.

    As if it had: nothing is told of it any more.
    """
    async with _ticking(report):
        ear.listen()
        running = asyncio.ensure_future(runner(report))
        overdue = asyncio.create_task(_overdue(fetcher))
        await asyncio.wait({running, overdue}, return_when=asyncio.FIRST_COMPLETED)
        if running.done() or report.collector.tally().account is not None:
            overdue.cancel()
            return (await running).exit_code
    report(Notice("WARNING", _CUT_SHORT))
    final = fetcher.cut_short()
    report(final)
    raise _OverdueError(final)


async def _overdue(fetcher: Fetcher) -> None:
    """Return once a stop was asked for and the run should have ended since."""
    await fetcher.stop.asked()
    await asyncio.sleep(_STOP_WITHIN_S)


class _OverdueError(Exception):
    def __init__(self, final: RunCompleted) -> None:
        super().__init__()
        self.final = final


class _Ear:
    """Hears signals as `conduct` says, from `listen` to the end, whatever the loop waits for.

    asyncio's own handlers are called by the loop alone: neither while a reader that does
    not read holds it up, nor after its end. Where it runs, the loop is still what acts.
    """

    def __init__(self, fetcher: Fetcher, *, has_terminal: bool) -> None:
        self._fetcher = fetcher
        self._stops = {
            signal.SIGINT: STOPPED_BY_SIGINT,
            signal.SIGTERM: STOPPED_BY_SIGTERM,
        }
        if has_terminal:
            self._stops[signal.SIGHUP] = STOPPED_BY_SIGTERM
        self._numbers: list[signal.Signals] = []
        self._has_loop = False
        self._stopped_at: float | None = None

    def stopped_at(self) -> float | None:
        """Return when the run was told to stop (`time.monotonic`), None where it was not.

        The loop need not know yet. A stop that no signal asked for counts from the first look.
        """
        if self._stopped_at is None and self._fetcher.stop.is_asked():
            self._stopped_at = time.monotonic()
        return self._stopped_at

    def listen(self) -> None:
        """Hear signals from now on, and those that came before; the running loop acts on them."""
        loop = asyncio.get_running_loop()
        self._has_loop = True
        self._numbers = [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1]
        if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # nohup: stays ignored
            self._numbers.append(signal.SIGHUP)
        for number in self._numbers:
            loop.add_signal_handler(number, self._act, number)  # wakes the loop as well
            signal.signal(number, self._hear)
        for number in signals.taken():
            self._hear(number)
            self._act(number)

    def outlast_loop(self) -> None:
        """Go on hearing, after a loop whose end gave the signals back."""
        self._has_loop = False
        for number in self._numbers:
            signal.signal(number, self._hear)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Hear no more: signals do what they do in any program."""
        for number in self._numbers:
            usual = signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL
            signal.signal(number, usual)

    def _hear(self, number: int, _frame: FrameType | None = None) -> None:
        if number not in self._stops:
            return
        if number == signal.SIGINT and self.stopped_at() is not None:
            kill_all()
            os._exit(STOPPED_BY_SIGINT)
        self._stopped_at = self._stopped_at or time.monotonic()
        if not self._has_loop:
            self._act(signal.Signals(number))

    def _act(self, number: signal.Signals) -> None:
        if number in self._stops:
            self._fetcher.stop.ask(self._stops[number])
        else:
            self._fetcher.wake()


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

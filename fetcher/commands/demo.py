"""`fetcher demo`: the main job without an account, against a simulator on this machine.

Owns the stage (simulator, folder, settings) and what is said around it; the job itself is
done by the very commands that a real account is served with. The folder stays: a second
demo shows that nothing is fetched twice, and goes on where an interrupted one stopped.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shlex
import threading
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any

from fetcher.configuration.sources import Source
from fetcher.configuration.tables import Screen
from fetcher.errors import UsageError
from fetcher.frozen import frozen

if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from fetcher.commands import Environment
    from fetcher.configuration.config import Resolved
    from fetcher.configuration.settings import Settings
    from fetcher.events import RunCompleted
    from fetcher.report import Report

FOLDER = "fetcher-demo"
# What says how a run is shown is taken from everywhere; the rest only from this command line,
# since a settings file is for the real account.
_DISPLAY = ("json_output", "quiet", "verbose", "progress", "log_format", "log_file")
_OURS = ("api_url", "api_key_file", "dest", "until_idle")
_INTERVAL_S = 2.0
_LOOPBACK = "127.0.0.1"
_STAGE_READY_WITHIN_S = 30.0

_FIRST_ACT = """\
No account and no network needed: a simulator on this machine plays the service.
First, every job that is finished:
"""
_SECOND_ACT = "Some jobs were not finished yet. Now they are followed until the last one is home:\n"
_ALL_THERE = "Everything is here from an earlier demo: nothing was left to fetch.\n"
_ENCORE = """
Run it again: nothing is fetched twice. To start afresh, remove {folder}
With an account of your own:
  export MUNSIT_API_KEY=...   (or keep it in a file: --api-key-file)
  fetcher backfill            everything that is finished, into ./downloads
  fetcher watch               stays, and fetches each job as it finishes
"""


@frozen
class Tempo:
    """How fast the play goes.

    `first_finish_s`: until the first of the pending jobs finishes; the last one takes 6 s
    more. `rate_bytes_s`: of each download, so that bars can be seen; None: as fast as it
    goes. `speed`: of the simulator's clock.
    """

    first_finish_s: float = 6.0
    rate_bytes_s: float | None = 25_000.0
    speed: float = 1.0


def run(args: Namespace, env: Environment) -> int:
    """Show the main job from start to end; return the exit status."""
    return play(env.resolve(args), env, Tempo())


def play(found: Resolved, env: Environment, tempo: Tempo) -> int:
    """Show the main job at that tempo. Raises UsageError."""
    if found.value("dry_run", bool):
        raise UsageError("a demo is no dry run: it downloads. Leave --dry-run out")
    dest = found.dest if _is_typed(found, "dest") else env.cwd / FOLDER
    with _without_proxy(), _stage(tempo) as stage:
        settings = _settings(found, stage.api_url, dest)
        _refuse_real_downloads(settings, stage.job_ids)
        exit_code = _acts(settings, env)
    if exit_code == 0 and not settings.quiet:
        _curtain(settings, env)
    return exit_code


def _acts(settings: Settings, env: Environment) -> int:
    """Do the two commands one after the other; return the status of the one that ended it."""
    from fetcher.engine import Fetcher  # noqa: PLC0415 - after the settings are known to be good
    from fetcher.foreground import conduct  # noqa: PLC0415 - as above

    where = shlex.quote(_shown(settings.dest, env))
    first, second = Fetcher(settings), Fetcher(settings)
    finals: list[RunCompleted] = []

    async def backfill(report: Report) -> RunCompleted:
        finals.append(await first.run_backfill(report))
        return finals[0]

    _say(settings, env, f"{_FIRST_ACT}\n$ fetcher backfill -d {where}\n")
    exit_code = conduct(first, backfill, env)
    if exit_code:
        return exit_code
    if not finals[0].pending:
        _say(settings, env, _ALL_THERE)
        return exit_code
    _say(settings, env, f"{_SECOND_ACT}\n$ fetcher watch --until-idle -d {where}\n")
    return conduct(second, second.run_watch, env)


def _curtain(settings: Settings, env: Environment) -> None:
    """Show what is on disk, and say what to type next."""
    from fetcher.tree import draw  # noqa: PLC0415 - only at the end

    out = env.stderr if settings.json_output else env.stdout
    screen = Screen.of(out, env.environ)
    folder = screen.quote(_shown(settings.dest, env))
    out.write(f"\n{folder}\n")
    for line in draw(settings.dest, screen):
        out.write(f"{line}\n")
    out.write(_ENCORE.format(folder=folder))
    out.flush()


def _say(settings: Settings, env: Environment, text: str) -> None:
    if not settings.quiet:
        with contextlib.suppress(OSError, ValueError):
            env.stderr.write(text)
            env.stderr.flush()


def _shown(dest: Path, env: Environment) -> str:
    """Return the folder as a person in this folder would type it."""
    return str(dest.relative_to(env.cwd)) if dest.is_relative_to(env.cwd) else str(dest)


# ---- the stage ---------------------------------------------------------------------------


def _is_typed(found: Resolved, field: str) -> bool:
    return found.origins[field].source is Source.COMMAND_LINE


def _settings(found: Resolved, api_url: str, dest: Path) -> Settings:
    from fetcher.configuration.settings import Settings  # noqa: PLC0415 - help shows the demo too

    given: dict[str, Any] = {
        name: found.values[name]
        for name in Settings.model_fields
        if name in _DISPLAY or (name in found.origins and _is_typed(found, name))
    }
    given = {name: value for name, value in given.items() if name not in _OURS}
    return Settings(
        **{"interval": _INTERVAL_S} | given,
        api_key="demo",
        api_url=api_url,
        dest=dest,
        until_idle=True,
    )


def _refuse_real_downloads(settings: Settings, job_ids: list[str]) -> None:
    """Keep the demo's jobs out of a real account's manifest. Raises UsageError."""
    from fetcher.manifest.reader import Reader  # noqa: PLC0415 - as above
    from fetcher.manifest.schema import FILE_NAME  # noqa: PLC0415 - as above
    from fetcher.models import JobId  # noqa: PLC0415 - as above

    with Reader(settings.state_dir / FILE_NAME) as reader:
        if not reader.is_empty() and not reader.look_up([JobId(one) for one in job_ids]):
            raise UsageError(
                f"{settings.dest} holds the downloads of an account: give the demo a folder of"
                " its own, or leave --dest out"
            )


@contextlib.contextmanager
def _without_proxy() -> Iterator[None]:
    """Let requests to this machine reach it where the environment names a proxy."""
    before = os.environ.get("no_proxy")
    said = before or os.environ.get("NO_PROXY")
    os.environ["no_proxy"] = f"{said},{_LOOPBACK}" if said else _LOOPBACK
    try:
        yield
    finally:
        if before is None:
            del os.environ["no_proxy"]
        else:
            os.environ["no_proxy"] = before


@frozen
class _Stage:
    """The running simulator: its address, and the ids of its jobs."""

    api_url: str
    job_ids: list[str]
    close: Callable[[], object]


@contextlib.contextmanager
def _stage(tempo: Tempo) -> Iterator[_Stage]:
    """Give a simulator on a thread of its own, as a service is beyond the runs it serves."""
    ready: Future[_Stage] = Future()
    thread = threading.Thread(
        target=lambda: asyncio.run(_serve(tempo, ready)), name="simulator", daemon=True
    )
    thread.start()
    stage = ready.result(_STAGE_READY_WITHIN_S)
    try:
        yield stage
    finally:
        stage.close()
        thread.join(_STAGE_READY_WITHIN_S)


async def _serve(tempo: Tempo, ready: Future[_Stage]) -> None:
    from fetcher.simulator import Simulator, populate_demo  # noqa: PLC0415 - a heavy import

    closed = asyncio.Event()
    loop = asyncio.get_running_loop()
    try:
        async with Simulator(speed=tempo.speed) as simulator:
            ids = populate_demo(
                simulator,
                first_finish_s=tempo.first_finish_s,
                rate_bytes_s=tempo.rate_bytes_s,
            )
            close = lambda: loop.call_soon_threadsafe(closed.set)  # noqa: E731 - handed over
            ready.set_result(_Stage(simulator.api_url, ids, close))
            await closed.wait()
    except BaseException as error:
        if not ready.done():
            ready.set_exception(error)
            return
        raise

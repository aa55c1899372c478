"""What the commands share that start a run: settings, notices, and the run in the foreground.

Settings that are no good end a run before it begins; the health-check service is told of
that end as of any other.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from fetcher import signals
from fetcher.commands.reading import tell_notices
from fetcher.errors import FetcherError

if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Callable

    from fetcher.commands import Environment
    from fetcher.configuration.config import Resolved
    from fetcher.configuration.settings import Settings
    from fetcher.engine import Fetcher
    from fetcher.events import Event
    from fetcher.foreground import Runner

_LOOK_S = 0.1  # between two looks for a signal


def start(args: Namespace, env: Environment, choose: Callable[[Fetcher], Runner]) -> int:
    """Carry out the run that `choose` names, or its dry run; return the exit status."""
    settings, found = _loaded(args, env)
    tell_notices(found, env)
    from fetcher.network.certificates import import_without  # noqa: PLC0415 - `--help` needs no ssl

    import_without()
    from fetcher.engine import Fetcher  # noqa: PLC0415 - after the settings are known to be good
    from fetcher.foreground import conduct  # noqa: PLC0415 - as above

    fetcher = Fetcher(settings)
    return conduct(fetcher, fetcher.run_plan if settings.dry_run else choose(fetcher), env)


def _loaded(args: Namespace, env: Environment) -> tuple[Settings, Resolved]:
    """Return the settings as `env.load` does; ping before it raises where the address is known.

    It is where all sources can be read, and where a flag or the environment gives it.
    """
    url: object = None
    is_dry: object = False
    try:
        url, is_dry = env.given("ping_url", args), env.given("dry_run", args)
        found = env.resolve(args)
        url, is_dry = found.values["ping_url"], found.values["dry_run"]
        return found.settings(), found
    except FetcherError as error:
        if isinstance(url, str) and not is_dry:
            _tell_of_failure(url, error.exit_code, env)
        raise


def _tell_of_failure(url: str, exit_code: int, env: Environment) -> None:
    from fetcher.network.certificates import import_without  # noqa: PLC0415 - as in `start`

    import_without()
    from fetcher.events import Notice  # noqa: PLC0415 - only this end needs them
    from fetcher.runs.leave import Leave  # noqa: PLC0415 - as above
    from fetcher.runs.ping import Ping  # noqa: PLC0415 - as above

    def tell(event: Event) -> None:
        if isinstance(event, Notice):
            env.tell(f"fetcher: {event.level.lower()}: {event.message}")

    async def ping() -> None:
        async with Ping(url, tell, leave=Leave(_signalled)) as pings:
            await pings.ended(exit_code)

    asyncio.run(ping())


async def _signalled() -> None:
    """Return once a signal has come to end the process: no run of ours hears it yet."""
    while signals.asked_to_end() is None:  # noqa: ASYNC110 - a handler that sets no event
        await asyncio.sleep(_LOOK_S)

"""What a run does for others: pings, and the commands of `--exec` and `--exec-after`.

Brings them together for `engine`, around the whole of a run. What no option asks for is
not even imported.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

from fetcher.frozen import frozen
from fetcher.runs.leave import Leave

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine

    from fetcher.configuration.settings import Settings
    from fetcher.events import RunCompleted, Sink
    from fetcher.runs.desk import Done
    from fetcher.runs.hooks import Hooks
    from fetcher.runs.ping import Ping


@frozen
class Afterwards:
    """What is to be told of files and of the run; None where nobody asked."""

    hooks: Hooks | None
    ping: Ping | None

    async def file_done(self, done: Done) -> None:
        """Tell of a recorded file."""
        if self.hooks is not None:
            await self.hooks.finished(done)

    async def run_ended(self, final: RunCompleted, *, has_downloaded: bool) -> None:
        """Wait for all commands, then tell how the run ended. Nothing of the run is held then.

        Returns within seconds once a stop is asked for.
        """
        if self.hooks is not None:
            await self.hooks.settle(final, has_downloaded=has_downloaded)
        if self.ping is not None:
            await self.ping.ended(final.exit_code)


@contextlib.asynccontextmanager
async def afterwards(
    settings: Settings, sink: Sink, stopped: Callable[[], Coroutine[Any, Any, None]]
) -> AsyncIterator[Afterwards]:
    """Give what the settings ask for; a run that cannot even begin is told of as failed.

    `stopped` returns once a stop is asked for.
    """
    hooks: Hooks | None = None
    ping: Ping | None = None
    leave = Leave(stopped)
    async with contextlib.AsyncExitStack() as stack:
        if settings.ping_url is not None:
            from fetcher.runs.ping import Ping  # noqa: PLC0415 - see the module's docstring

            ping = Ping(settings.ping_url, sink, leave=leave)
            await stack.enter_async_context(ping)
        if settings.exec is not None or settings.exec_after is not None:
            from fetcher.runs.hooks import Hooks  # noqa: PLC0415 - see the module's docstring

            hooks = Hooks(settings, sink, leave=leave)
            await stack.enter_async_context(hooks)
        yield Afterwards(hooks, ping)

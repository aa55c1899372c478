"""One listing pass that records and downloads nothing: `list --refresh`.

What it queues stays queued: the next `backfill` or `watch` fetches it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from fetcher.engine import STOPPED_BY_SIGINT, until_stopped
from fetcher.errors import LockedError
from fetcher.runs.assembly import opened

if TYPE_CHECKING:
    from collections.abc import Mapping

    from fetcher.configuration.settings import Settings
    from fetcher.engine import Fetcher
    from fetcher.events import RunCompleted, Sink


_ERRAND: dict[str, object] = {
    "max_downloads": None,
    "dry_run": False,
    "json_output": False,
    "exec": None,
    "exec_after": None,
    "ping_url": None,
}
_NO_FILTERS: dict[str, object] = {
    "since": None,
    "until": None,
    "match": (),
    "source_type": None,
    "max_size": None,
}
_SHOWING = ("since", "until", "match")  # on the command line of `list` they say what is shown


def unfiltered(settings: Settings) -> Settings:
    """Return the settings for an errand beside the runs: no filters, no JSON, no hooks."""
    return settings.model_copy(update=_ERRAND | _NO_FILTERS)


def refreshing(settings: Settings, standing: Mapping[str, object]) -> Settings:
    """Return the settings for `list --refresh`: those of an errand, with the filters of a run.

    `standing`: the settings without the command line, where filters say what is shown.
    """
    return settings.model_copy(update=_ERRAND | {name: standing[name] for name in _SHOWING})


async def refresh(fetcher: Fetcher, sink: Sink) -> RunCompleted:
    """Record what the API lists now; return the final event.

    Raises UsageError, KeyRefusedError, ApiError, LockedError, StorageError.
    """
    stop, exit_code = fetcher.stop, 0
    held = opened(fetcher.settings, sink, command="list --refresh", is_stopped=stop.is_asked)
    try:
        async with held as run:
            if not await until_stopped(run.list_all(), stop):
                exit_code = stop.exit_code or STOPPED_BY_SIGINT
            final = run.completed(exit_code)
    except LockedError as error:
        final = stop.instead_of(error)
    sink(final)
    return final

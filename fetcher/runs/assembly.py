"""A run put together from its settings: folders, lock, manifest, and the listing side."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from typing import TYPE_CHECKING

from fetcher.core.account import Account
from fetcher.core.filters import Rules
from fetcher.core.layout import Template
from fetcher.core.retry import Policy
from fetcher.errors import LockedError
from fetcher.files.parts import Parts
from fetcher.files.places import Places
from fetcher.files.space import Space
from fetcher.manifest.manifest import Manifest
from fetcher.manifest.store import Store
from fetcher.network.client import AGENT, Api
from fetcher.runs.destination import Destination
from fetcher.runs.downloads import Downloads, Ingredients
from fetcher.runs.history import History
from fetcher.runs.look import Eye
from fetcher.runs.run import Run

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from fetcher.configuration.settings import Settings
    from fetcher.events import Sink
    from fetcher.runs.desk import Done

_LOCK_STEP_S = 0.2


def rules_of(settings: Settings) -> Rules:
    """Return the filters of a run."""
    return Rules(
        since=settings.since,
        until=settings.until,
        match=tuple(settings.match),
        source_type=settings.source_type,
        max_size_bytes=settings.max_size,
    )


def destination_of(settings: Settings) -> Destination:
    """Return where a run writes."""
    return Destination(settings.dest, settings.state_dir)


def eye_of(settings: Settings) -> Eye:
    """Return what looks at the destination."""
    destination = destination_of(settings)
    return Eye(Template.parse(settings.output), Places(destination.root), Parts(destination.parts))


def api_of(settings: Settings) -> Api:
    """Return the API's client, not yet open."""
    return Api(settings.api_url, settings.read_key, timeout_s=settings.timeout, agent=AGENT)


def history_of(settings: Settings, api: Api, sink: Sink) -> History:
    """Return the history as that client lists it."""
    return History(
        api,
        page_size=settings.page_size,
        policy=_policy_of(settings),
        rng=random.Random(),  # noqa: S311 - jitter, not secrets
        sink=sink,
    )


def _policy_of(settings: Settings) -> Policy:
    return Policy(retries=settings.retries, delay_s=settings.retry_delay)


async def _nothing_more(done: Done) -> None:
    """Do nothing after a file."""


@contextlib.asynccontextmanager
async def opened(
    settings: Settings,
    sink: Sink,
    *,
    command: str,
    on_done: Callable[[Done], Awaitable[None]] = _nothing_more,
    is_stopped: Callable[[], bool] = lambda: False,
) -> AsyncIterator[Run]:
    """Give a run with its destination held, its manifest and its session with the API open.

    `on_done` is called after the event of each file that was finished; `is_stopped` ends
    the waiting for another process.
    Raises UsageError (no key), LockedError, StorageError, ManifestError.
    """
    settings.read_key()
    destination = destination_of(settings)
    async with contextlib.AsyncExitStack() as stack:
        await asyncio.to_thread(destination.prepare)
        await _hold(stack, destination, command, wait_s=settings.wait_lock, is_stopped=is_stopped)
        manifest = await stack.enter_async_context(Manifest(destination.manifest))
        api = await stack.enter_async_context(api_of(settings))
        await _keep_to(destination, manifest)
        await _keep_up_with(settings, manifest)
        ingredients = Ingredients(
            settings=settings,
            sink=sink,
            manifest=manifest,
            api=api,
            history=history_of(settings, api, sink),
            eye=eye_of(settings),
            space=Space(destination.root, settings.min_free),
            rules=rules_of(settings),
            account=Account(),
            run_base=await manifest.do(Store.sync_tickets),
            on_done=on_done,
        )
        yield Run(destination, ingredients, Downloads(ingredients))


async def _hold(
    stack: contextlib.AsyncExitStack,
    destination: Destination,
    command: str,
    *,
    wait_s: float,
    is_stopped: Callable[[], bool],
) -> None:
    """Hold the destination, waiting for another process in steps that a stop can end."""
    until_s = time.monotonic() + wait_s
    while True:
        try:
            lock = destination.held(command=command, wait_s=0)
            await asyncio.to_thread(stack.enter_context, lock)
        except LockedError:
            if time.monotonic() >= until_s or is_stopped():
                raise
            await asyncio.sleep(_LOCK_STEP_S)
        else:
            return


async def _keep_to(destination: Destination, manifest: Manifest) -> None:
    """Let a manifest that lies elsewhere be of this destination only. Raises UsageError."""
    if destination.is_apart:
        before = await manifest.do(Store.get, "dest")
        await asyncio.to_thread(destination.refuse_manifest_of, before)
        if before != str(destination.root):
            await manifest.do(Store.put, {"dest": str(destination.root)})


async def _keep_up_with(settings: Settings, manifest: Manifest) -> None:
    """Let paths of unfinished files be decided anew where the template has changed."""
    if await manifest.do(Store.get, "output") != settings.output:
        await manifest.do(Store.forget_paths)
        await manifest.do(Store.put, {"output": settings.output})

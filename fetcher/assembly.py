"""A run put together from its settings: folders, lock, manifest, sessions, threads, pipeline."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from fetcher import __version__
from fetcher.account import Account
from fetcher.client import Api, Host
from fetcher.destination import Destination
from fetcher.files.parts import Parts
from fetcher.files.places import Places
from fetcher.files.space import Space
from fetcher.filters import Rules
from fetcher.finish import Desk, Done
from fetcher.gates import Gates, Limiter
from fetcher.history import History
from fetcher.layout import Template
from fetcher.links import Links
from fetcher.look import Eye
from fetcher.manifest.manifest import Manifest
from fetcher.manifest.store import Store
from fetcher.pipeline import Budget, Pipeline, Plant
from fetcher.retry import Policy
from fetcher.run import Run
from fetcher.splitting import Lines
from fetcher.transfer import Means
from fetcher.underway import Kit

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from fetcher.events import Sink
    from fetcher.settings import Settings

AGENT = f"fetcher/{__version__}"
_DISK_THREADS = 8  # writes and hashes: enough to keep two cores and a disk busy
_FSYNC_THREADS = 8  # fsyncs in flight, which share the file system's journal commits


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


@dataclass(frozen=True, slots=True)
class _Open:
    """What must be closed at the end of a run."""

    manifest: Manifest
    api: Api
    host: Host
    disk: ThreadPoolExecutor
    seal: ThreadPoolExecutor
    fsync: ThreadPoolExecutor


@contextlib.asynccontextmanager
async def opened(settings: Settings, sink: Sink, *, command: str) -> AsyncIterator[Run]:
    """Give a run with its destination held, its manifest and its sessions open.

    Raises UsageError (no key), LockedError, StorageError, ManifestError.
    """
    settings.read_key()
    destination = destination_of(settings)
    async with contextlib.AsyncExitStack() as stack:
        await asyncio.to_thread(destination.prepare)
        lock = destination.held(command=command, wait_s=settings.wait_lock)
        await asyncio.to_thread(stack.enter_context, lock)
        resources = await _open(stack, settings, destination)
        await _keep_up_with(settings, resources.manifest)
        run_base = await resources.manifest.do(Store.sync_tickets)
        yield _assemble(settings, sink, resources, run_base)


async def _open(
    stack: contextlib.AsyncExitStack, settings: Settings, destination: Destination
) -> _Open:
    host = Host(
        timeout_s=settings.timeout,
        connections=settings.concurrency * settings.connections,
        agent=AGENT,
    )
    pools = {"disk": _DISK_THREADS, "seal": 1, "fsync": _FSYNC_THREADS}
    disk, seal, fsync = (
        stack.enter_context(ThreadPoolExecutor(count, thread_name_prefix=name))
        for name, count in pools.items()
    )
    return _Open(
        manifest=await stack.enter_async_context(Manifest(destination.manifest)),
        api=await stack.enter_async_context(api_of(settings)),
        host=await stack.enter_async_context(host),
        disk=disk,
        seal=seal,
        fsync=fsync,
    )


async def _keep_up_with(settings: Settings, manifest: Manifest) -> None:
    """Let paths of unfinished files be decided anew where the template has changed."""
    if await manifest.do(Store.get, "output") != settings.output:
        await manifest.do(Store.forget_paths)
        await manifest.do(Store.put, {"output": settings.output})


def _assemble(settings: Settings, sink: Sink, resources: _Open, run_base: int) -> Run:
    destination, rules, account = destination_of(settings), rules_of(settings), Account()
    space = Space(destination.root, settings.min_free)
    history = history_of(settings, resources.api, sink)
    eye = eye_of(settings)
    kit = Kit(
        parts=eye.parts,
        space=space,
        limiter=Limiter(settings.limit_rate, time.monotonic),
        rules=rules,
        threads=resources.disk,
        sink=sink,
        clock=time.monotonic,
    )
    means = Means(
        host=resources.host,
        gates=Gates(time.monotonic),
        policy=_policy_of(settings),
        rng=random.Random(),  # noqa: S311 - jitter, not secrets
        relink=Links(resources.api, history, resources.manifest).relink,
        lines=Lines(settings.concurrency, settings.connections),
        check_duration=settings.check_duration,
    )
    desk = Desk(
        manifest=resources.manifest,
        eye=eye,
        parts=eye.parts,
        space=space,
        group_thread=resources.seal,
        fsync_threads=resources.fsync,
        sink=sink,
        account=account,
        clock=time.monotonic,
        now=lambda: datetime.now(UTC),
        on_done=_nothing_more,
    )
    plant = Plant(
        manifest=resources.manifest,
        eye=eye,
        kit=kit,
        means=means,
        desk=desk,
        budget=Budget(settings.max_downloads),
        rules=rules,
        account=account,
        sink=sink,
        threads=resources.disk,
        clock=time.monotonic,
        workers=settings.concurrency,
        run_base=run_base,
    )
    return Run(
        settings=settings,
        sink=sink,
        destination=destination,
        manifest=resources.manifest,
        api=resources.api,
        history=history,
        plant=plant,
        pipeline=Pipeline(plant),
        parts=eye.parts,
        places=eye.places,
        space=space,
        account=account,
        rules=rules,
        run_base=run_base,
    )


async def _nothing_more(done: Done) -> None:
    """Do nothing after a file."""

"""The pipeline with all that it works with: a session to file hosts, threads, limits."""

from __future__ import annotations

import contextlib
import os
import random
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING

from fetcher.core.retry import Policy
from fetcher.manifest.store import Store
from fetcher.models import State
from fetcher.network.client import AGENT, Host
from fetcher.network.gates import Gates, Limiter
from fetcher.runs.desk import Desk
from fetcher.runs.pipeline import Budget, Pipeline, Plant
from fetcher.transfers.links import Links
from fetcher.transfers.slots import Slots
from fetcher.transfers.splitting import Lines
from fetcher.transfers.transfer import Means
from fetcher.transfers.underway import Kit

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping, Sequence

    from fetcher.manifest.manifest import Manifest
    from fetcher.models import JobId
    from fetcher.runs.companions import Companions
    from fetcher.runs.downloads import Ingredients
    from fetcher.transfers.underway import Underway

# Writes and hashes. More of them than cores only get in each other's way: 6 x 173 MB on two
# cores take 3.0-4.8 s of system time with eight, 1.3-1.9 s with two.
_DISK_THREADS = max(2, min(8, os.cpu_count() or 2))
_FSYNC_THREADS = 8  # fsyncs in flight, which share the file system's journal commits


@contextlib.asynccontextmanager
async def running(with_: Ingredients, budget: Budget) -> AsyncIterator[Pipeline]:
    """Give a pipeline whose session and threads end with the context."""
    settings = with_.settings
    host = Host(
        timeout_s=settings.timeout,
        connections=settings.concurrency * settings.connections,
        agent=AGENT,
    )
    with contextlib.ExitStack() as stack:
        pools = {"disk": _DISK_THREADS, "seal": 1, "fsync": _FSYNC_THREADS}
        disk, seal, fsync = (
            stack.enter_context(ThreadPoolExecutor(count, thread_name_prefix=name))
            for name, count in pools.items()
        )
        async with host:
            kit = Kit(
                parts=with_.eye.parts,
                space=with_.space,
                limiter=Limiter(settings.limit_rate, time.monotonic),
                rules=with_.rules,
                threads=disk,
                fsync_threads=fsync,
                sink=with_.sink,
                clock=time.monotonic,
                account=with_.account,
                note_partial=partial(_note_partial, with_.manifest),
            )
            desk = Desk(
                manifest=with_.manifest,
                eye=with_.eye,
                parts=with_.eye.parts,
                space=with_.space,
                group_thread=seal,
                fsync_threads=fsync,
                sink=with_.sink,
                account=with_.account,
                clock=time.monotonic,
                now=lambda: datetime.now(UTC),
                on_done=with_.on_done,
                companions=_companions(with_),
            )
            yield Pipeline(
                Plant(
                    manifest=with_.manifest,
                    eye=with_.eye,
                    kit=kit,
                    means=_means(with_, host),
                    desk=desk,
                    budget=budget,
                    rules=with_.rules,
                    account=with_.account,
                    sink=with_.sink,
                    threads=disk,
                    clock=time.monotonic,
                    workers=settings.concurrency,
                    run_base=with_.run_base,
                )
            )


async def _note_partial(manifest: Manifest, file: Underway, bytes_total: int | None) -> None:
    """Let readers of the manifest see that the file is under way."""
    await manifest.do(Store.set_total, file.entry.seq, bytes_total, State.PARTIAL)


def _companions(with_: Ingredients) -> Companions | None:
    if not with_.settings.write_record:
        return None
    from fetcher.runs.companions import Companions  # noqa: PLC0415 - most runs write none

    async def sent(ids: Sequence[JobId]) -> Mapping[JobId, bytes]:
        return await with_.manifest.do(Store.records, ids)

    return Companions(with_.eye.places, with_.eye.parts.folder, with_.sink, sent)


def _means(with_: Ingredients, host: Host) -> Means:
    settings = with_.settings
    policy = Policy(retries=settings.retries, delay_s=settings.retry_delay)
    slots = Slots(settings.concurrency)
    return Means(
        host=host,
        gates=Gates(time.monotonic, delay_s=policy.delay_s, longest_s=policy.longest_retry_after_s),
        slots=slots,
        policy=policy,
        rng=random.Random(),  # noqa: S311 - jitter, not secrets
        relink=Links(with_.api, with_.history, with_.manifest).relink,
        lines=Lines(slots, settings.connections),
        check_duration=settings.check_duration,
    )

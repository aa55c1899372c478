"""The downloading side of a run: queue, workers, finisher.

The manifest is the queue. A feeder takes tickets in order, looks at the disk and hands
files to a fixed number of workers; what they fetch goes to the finisher. One file's trouble
ends in its outcome; only local storage's trouble, or being cancelled, ends the pipeline. Once
there is no room for a file, no other one begins: those under way are let finish, and so are
those that earlier runs began.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

from fetcher.core.account import Account, Class
from fetcher.core.plan import Action, Local, decide
from fetcher.errors import FullError
from fetcher.events import DownloadFiltered
from fetcher.files.parts import part_key
from fetcher.frozen import frozen
from fetcher.manifest.store import Store
from fetcher.models import State, Variant
from fetcher.runs.desk import give_up
from fetcher.runs.finding import find
from fetcher.runs.finish import Finisher, Ready
from fetcher.threads import is_cancelled, run
from fetcher.transfers.outcomes import Fetched, GivenUp, LeftOut
from fetcher.transfers.transfer import Transfer

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Executor

    from fetcher.core.filters import Rules
    from fetcher.core.plan import Known
    from fetcher.events import Sink
    from fetcher.manifest.manifest import Manifest
    from fetcher.models import Entry, JobId
    from fetcher.runs.desk import Desk
    from fetcher.runs.look import Eye
    from fetcher.transfers.transfer import Means
    from fetcher.transfers.underway import Kit

_GONE = (
    "; the service no longer lists the job, so this was the last attempt: it is tried again only "
    "if it is listed once more, or with `fetcher retry`"
)
_FINISH_WITHIN_S = 2.0  # after a stop, which is to take no more than 5
_BATCH = 256  # files looked at in one go, in 8 ms; the hops for each batch cost 1 ms


class Budget:
    """`--max-downloads`: at most so many files are downloaded; failed ones do not count."""

    def __init__(self, most: int | None) -> None:
        self._most = most
        self._spent = 0
        self._reserved = 0
        self._changed = asyncio.Condition()

    @property
    def is_spent(self) -> bool:
        """Return whether no download may begin any more."""
        return self._most is not None and self._spent >= self._most

    async def reserve(self) -> bool:
        """Return true once one more download may begin, false once none may any more."""
        if self._most is None:
            return True
        async with self._changed:
            while self._spent < self._most <= self._spent + self._reserved:
                await self._changed.wait()
            if self.is_spent:
                return False
            self._reserved += 1
            return True

    async def settle(self, *, spent: bool) -> None:
        """Turn a reservation into a download, or give it back."""
        if self._most is None:
            return
        async with self._changed:
            self._reserved -= 1
            self._spent += spent
            self._changed.notify_all()


@frozen
class Task:
    """One file for a worker."""

    entry: Entry
    local: Local


@dataclass(slots=True)
class Plant:
    """What a pipeline is made of."""

    manifest: Manifest
    eye: Eye
    kit: Kit
    means: Means
    desk: Desk
    budget: Budget
    rules: Rules
    account: Account
    sink: Sink
    threads: Executor
    clock: Callable[[], float]
    workers: int
    run_base: int


class Pipeline:
    """Fetches whatever gets a ticket after `run_base`, until told that no more will come."""

    def __init__(self, plant: Plant) -> None:
        self._plant = plant
        self._cursor = plant.run_base
        self._more = asyncio.Event()
        self._idle = asyncio.Event()
        self._closing = False
        self._busy = 0
        self._workers: list[asyncio.Task[None]] = []
        self._tasks: asyncio.Queue[Task | None] = asyncio.Queue(plant.workers)
        self._finisher = Finisher(plant.desk, self._note_full)
        self._full: FullError | None = None  # there was no room for some file
        self._begun: set[str] = set()  # keys of what earlier runs began, and nobody has seen yet
        self._under_way: set[int] = set()  # rows that workers have, or will have

    def wake(self) -> None:
        """Say that files may have got tickets."""
        self._idle.clear()
        self._more.set()

    def close(self) -> None:
        """Say that no more files will get tickets: `serve` returns when all are done."""
        self._closing = True
        self._more.set()

    @property
    def is_idle(self) -> bool:
        """Return whether nothing is queued and nothing is under way."""
        return self._idle.is_set()

    async def serve(self) -> None:
        """Run until closed and drained. Raises an ExceptionGroup of StorageError, or FullError.

        When cancelled, transfers stop where they are; what was fetched whole is finished, if
        that takes no more than seconds.
        """
        self._begun = await run(self._plant.threads, self._plant.eye.parts.keys)
        finishing = asyncio.create_task(self._finisher.serve())
        try:
            async with asyncio.TaskGroup() as group:
                watching = group.create_task(self._fail_with(finishing))
                for _ in range(self._plant.workers):
                    self._hire(group)
                self._plant.means.slots.when_free(partial(self._stand_in, group))
                await self._feed()
                await self._tasks.put(None)
                while working := [worker for worker in self._workers if not worker.done()]:
                    await asyncio.gather(*working)
                watching.cancel()
        finally:
            await self._drain(finishing)
        if self._full is not None:
            raise self._full

    def _hire(self, group: asyncio.TaskGroup) -> None:
        self._workers.append(group.create_task(self._work()))

    def _stand_in(self, group: asyncio.TaskGroup) -> None:
        """See that there is a worker for the slot of one that waits for its host."""
        if len(self._workers) < self._plant.workers + self._plant.means.slots.aside:
            self._hire(group)

    async def _fail_with(self, finishing: asyncio.Task[None]) -> None:
        await asyncio.shield(finishing)

    async def _drain(self, finishing: asyncio.Task[None]) -> None:
        """Finish what was fetched whole; after a stop, as far as the disk allows in time."""
        if not finishing.done():
            await self._finisher.close()
        if is_cancelled():
            await asyncio.wait([finishing], timeout=_FINISH_WITHIN_S)
            self._finisher.halt()
        await finishing

    def _note_full(self, error: FullError) -> None:
        """Let no other file begin: there is no room for one."""
        self._full = self._full or error
        self._idle.clear()
        self._more.set()

    # ---- feeding ----

    async def _feed(self) -> None:
        plant = self._plant
        while self._full is None or self._begun:
            self._more.clear()
            closing = self._closing  # before the look: what was queued until then is seen
            batch = await plant.manifest.do(Store.take, self._cursor, _BATCH)
            if not batch:
                self._note_idle()
                if closing or self._full is not None:
                    return
                await self._more.wait()
                continue
            # A job that the list takes back and gives again while its file is under way.
            await self._hand_out([one for _, one in batch if not self._is_under_way(one.seq)])
            self._cursor = batch[-1][0]

    async def _hand_out(self, entries: list[Entry]) -> None:
        """Look at the disk for these files, and give to the workers what is to be fetched."""
        plant = self._plant
        found = await find(entries, eye=plant.eye, manifest=plant.manifest, threads=plant.threads)
        records = await self._records_of_originals(entries)
        left_out: list[Entry] = []
        for entry, local in zip(entries, found, strict=True):
            plant.account.taken(entry, records.get(entry.job.id))
            if local.part_bytes:
                self._begun.discard(part_key(entry.job.id, entry.variant))
            if not self._is_wanted(entry, local):
                left_out.append(entry)
            elif self._may_begin(local):
                self._busy += 1
                self._under_way.add(entry.seq)
                await self._tasks.put(Task(entry, local))
        await self._leave_out(left_out)

    async def _records_of_originals(self, entries: list[Entry]) -> dict[JobId, Known]:
        """Return what is known of the clean files of those jobs whose originals are among them."""
        ids = [one.job.id for one in entries if one.variant is Variant.ORIGINAL]
        return await self._plant.manifest.do(Store.look_up, ids) if ids else {}

    def _is_wanted(self, entry: Entry, local: Local) -> bool:
        """Return whether a worker is to see to the file; its reservation may still say no."""
        if self._plant.rules.refuse(entry.job) is not None:
            return False
        return not self._plant.budget.is_spent or decide(local).action is Action.ADOPT

    def _may_begin(self, local: Local) -> bool:
        """Return whether there may be room for what is missing of the file."""
        return self._full is None or decide(local).action is not Action.DOWNLOAD

    def _is_under_way(self, seq: int) -> bool:
        return seq in self._under_way or self._finisher.holds(seq)

    def _note_idle(self) -> None:
        if not self._busy and self._full is None:
            self._idle.set()

    # ---- working ----

    async def _work(self) -> None:
        slots = self._plant.means.slots
        while (task := await self._tasks.get()) is not None:
            await slots.enter()
            try:
                if self._may_begin(task.local):
                    await self._carry_out(task)
            except FullError as error:
                self._note_full(error)
            finally:
                slots.leave()
                self._under_way.discard(task.entry.seq)
                self._busy -= 1
                if not self._busy:
                    self._more.set()  # the feeder looks once more, then says idle
        self._tasks.put_nowait(None)  # for the next worker

    async def _carry_out(self, task: Task) -> None:
        plant, entry = self._plant, task.entry
        began_s = plant.clock()
        decision = decide(task.local)
        key = part_key(entry.job.id, entry.variant)
        if decision.action is Action.ADOPT and task.local.found is not None:
            adoptable = await run(plant.threads, plant.eye.adopt, task.local.found)
            is_whole = adoptable is not None and entry.sha256 in {None, adoptable.sha256}
            if adoptable is not None and is_whole:
                await run(plant.threads, plant.eye.stamp, adoptable.path, entry.job.marked_at)
                await self._finisher.put(Ready(entry, key, adoptable, began_s))
                return
        if not await plant.budget.reserve():
            await self._leave_out([entry])
            return
        spent = False
        try:
            transfer = Transfer(
                entry, key, has_part=task.local.part_bytes > 0, kit=plant.kit, means=plant.means
            )
            outcome = await transfer.run()
            spent = isinstance(outcome, Fetched)
            await self._settle(entry, key, outcome, began_s)
        finally:
            await plant.budget.settle(spent=spent)

    async def _settle(
        self, entry: Entry, key: str, outcome: Fetched | GivenUp | LeftOut, began_s: float
    ) -> None:
        plant, job = self._plant, entry.job
        match outcome:
            case Fetched():
                await self._finisher.put(Ready(entry, key, outcome, began_s))
            case GivenUp():
                is_gone = outcome.is_refused and entry.seq in plant.account.unlisted
                told = replace(outcome, reason=outcome.reason + _GONE) if is_gone else outcome
                await give_up(plant.desk, entry, told, for_good=is_gone)
            case LeftOut(reason=reason, bytes_total=total):
                try:
                    await plant.manifest.do(Store.set_total, entry.seq, total, State.FILTERED)
                finally:
                    plant.account.ended(entry, Class.FILTERED)
                    plant.sink(
                        DownloadFiltered(
                            id=job.id, file_name=job.file_name, variant=entry.variant, reason=reason
                        )
                    )

    async def _leave_out(self, entries: list[Entry]) -> None:
        """Record in one transaction what is not fetched: one for each costs 200 us a file.

        What an earlier run left, and no listing would queue again, stays to be fetched.
        """
        if not entries:
            return
        plant = self._plant
        listed = [
            entry.seq
            for entry in entries
            if entry.seq not in plant.account.unlisted and plant.rules.refuse(entry.job) is None
        ]
        await plant.manifest.do(Store.set_state, listed, State.FILTERED)
        for entry in entries:
            plant.account.ended(entry, Class.FILTERED)

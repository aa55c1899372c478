"""One file's download from its first request to proven bytes.

Joins the rules (`ranges`, `retry`), the client and the files: ask, judge, receive, and on
trouble wait, ask for a fresh link, or stop. Returns an outcome for whatever may befall one
file; raises only StorageError (the run's trouble) and CancelledError.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, assert_never

from fetcher.core.extensions import choose_extension
from fetcher.core.ranges import (
    Append,
    Refuse,
    Restart,
    Want,
    Whole,
    fresh,
    judge,
    request_headers,
    resume,
)
from fetcher.core.retry import PRESSED, GiveUp, Policy, decide, retry_after_s
from fetcher.errors import (
    ContentError,
    FetcherError,
    PlaceError,
    StatusError,
    StorageError,
    TransferError,
    bare_url,
)
from fetcher.events import DownloadCancelled, DownloadRetrying
from fetcher.network.gates import Visit
from fetcher.threads import run
from fetcher.transfers.durations import duration_s, misfit, wav_duration_s
from fetcher.transfers.outcomes import Fetched, GivenUp, LeftOut
from fetcher.transfers.proving import DamagedError, prove_part
from fetcher.transfers.receive import MoreToComeError, TooLargeError, receive
from fetcher.transfers.recovery import Recovery, join
from fetcher.transfers.splitting import Lines, Splitter
from fetcher.transfers.underway import Kit, Underway

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence
    from random import Random

    from fetcher.models import Entry, Head
    from fetcher.network.gates import Gates
    from fetcher.transfers.outcomes import Outcome
    from fetcher.transfers.receive import Opens
    from fetcher.transfers.slots import Slots


REFUSED_LINK = frozenset({401, 403, 404, 410})
_LINK_SOURCES = 2  # the replay and the list
# Refusals, for each of `--retries`, that do not count as the host takes other requests meanwhile.
_PARDONS = 2


@dataclass(slots=True)
class Means:
    """How transfers reach hosts and what they do about trouble.

    `relink` returns a fresh link in place of those refused, None where there is none.
    `check_duration` is `warn`, `fail` or `off`.
    """

    host: Opens
    gates: Gates
    slots: Slots
    policy: Policy
    rng: Random
    relink: Callable[[Entry, Sequence[str]], Awaitable[str | None]]
    lines: Lines
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    check_duration: str = "warn"


class Transfer:
    """The download of one file; `run` it once."""

    def __init__(self, entry: Entry, key: str, *, has_part: bool, kit: Kit, means: Means) -> None:
        self._entry = entry
        self._kit = kit
        self._means = means
        self._file = Underway(entry, key, kit, part_on_disk=has_part)
        self._recovery = Recovery(self._file)
        self._url = entry.job.url(entry.variant) or ""
        self._visit = self._new_visit()
        self._attempts = 0
        self._failures = 0  # since bytes last arrived that were never here before
        self._pardons = 0  # as above: refusals that are no failures
        self._pressed_at_s: float | None = None  # the last of them, or of those that are
        self._is_busy = False  # the host of that one: it took other requests meanwhile
        self._best_bytes = 0  # of the version that is held
        self._changes = 0  # of the version, as far as they counted
        self._refused: list[str] = []  # links, since bytes last arrived
        self._refused_at_bytes = 0
        self._insisted = False

    @property
    def started(self) -> bool:
        """Return whether the start of this download was announced."""
        return self._file.started

    async def run(self) -> Outcome:
        """Return how the download ended; see the module."""
        try:
            return await self._until_decided()
        except PlaceError as error:
            return self._give_up(str(error))
        except (asyncio.CancelledError, StorageError):
            await self._recovery.call_off()
            self._file.close()
            if self._file.started:
                job = self._entry.job
                self._kit.sink(
                    DownloadCancelled(
                        id=job.id,
                        file_name=job.file_name,
                        variant=self._entry.variant,
                        bytes_done=self._file.bytes_done,
                    )
                )
            raise

    async def _until_decided(self) -> Outcome:
        while True:
            self._attempts += 1
            try:
                await self._attempt()
                return await self._finish()
            except TooLargeError as error:
                await self._file.drop()
                return LeftOut(str(error), error.bytes_total)
            except MoreToComeError:
                self._note_progress()
            except TransferError as error:
                outcome = await self._meet(error)
                if outcome is not None:
                    return outcome

    async def _attempt(self) -> None:
        file = self._file
        if await self._ask_ahead():
            return
        await join(file)
        if file.part is not None and file.part.bytes_written == file.part.version.bytes_total:
            await prove_part(file)
            return
        if not await self._ask(self._want()):
            await self._ask(fresh())

    async def _ask_ahead(self) -> bool:
        """Ask for what follows what an earlier run left, while that is being proven.

        Return whether the file is here then; if not, it has to be asked for as it proved to be.
        """
        want = await self._recovery.claim()
        try:
            is_here = want is not None and await self._ask(want)
        except TransferError:
            await self._prove()
            raise
        await self._prove()
        return is_here

    async def _prove(self) -> None:
        """Return once what an earlier run fetched is proven, as far as it is right."""
        if await self._recovery.proven():
            self._best_bytes = self._file.bytes_done

    def _want(self) -> Want:
        """Return what to ask for next: up to the first stretch that is here already."""
        file = self._file
        if file.part is None:
            return fresh()
        want = resume(file.part.partial())
        if want.start and file.stretches:
            return replace(want, end=file.stretches[0].start)
        return want

    async def _ask(self, want: Want) -> bool:
        """Ask for `want` and take the answer in; False where it must be asked afresh."""
        visit = self._visit = self._new_visit()
        headers = request_headers(want)
        async with self._means.host.open(self._url, headers, ask=visit.ask) as body:
            refusal = _refusal(body.head, self._url)
            # Before the proof has ended: others go on asking that host meanwhile.
            self._tell_gates(body.head.status, refusal)
            if refusal is not None:
                raise refusal
            await self._prove()
            verdict = judge(want, body.head)
            match verdict:
                case Append(start=start) if start != self._held_bytes():
                    return False  # less was proven than the journal had said
                case Append() | Whole():
                    if want.start and verdict == Whole(want.total, want.validator):
                        self._file.ranges_work = False  # the same version, yet from its start
                    await receive(self._file, body, verdict, self._splitter())
                case Refuse(reason=reason):
                    raise ContentError(reason)
                case Restart():
                    await self._file.drop()
                    return False
                case _:
                    assert_never(verdict)
        return True

    def _tell_gates(self, status: int, refusal: StatusError | None) -> None:
        """Let everybody ask that host less, or more, for what it answered."""
        if refusal is not None and status in PRESSED:
            since_s, asked_s = self._pressed_at_s, refusal.retry_after_s or 0.0
            self._is_busy = self._visit.refused(asked_s, since_s=since_s)
            self._pressed_at_s = self._means.gates.clock()
        elif status < 500:
            self._visit.answered()

    def _held_bytes(self) -> int:
        """Return how many bytes of the file are here from its start on."""
        part = self._file.part
        return 0 if part is None else part.bytes_written

    def _splitter(self) -> Splitter:
        means = self._means
        return Splitter(self._file, means.host, means.lines, means.gates, self._url)

    def _new_visit(self) -> Visit:
        # Not a method of this object: the two would keep each other in memory, and the file.
        return Visit(self._means.gates, partial(_step_aside, self._means.slots, self._file))

    async def _meet(self, error: TransferError) -> Outcome | None:
        """Wait, or ask for a fresh link, or stop: what to do about a failed attempt."""
        if isinstance(error, DamagedError):
            await self._file.drop()
            self._file.ranges_work = False  # in one piece now: its pieces may have been at fault
        self._note_progress()
        if isinstance(error, StatusError) and error.status in REFUSED_LINK:
            return await self._relink(error)
        is_pressed = isinstance(error, StatusError) and error.status in PRESSED
        if not (is_pressed and self._is_pardoned()):
            self._failures += 1
        failures = max(1, self._failures)
        decision = decide(error, failures, policy=self._means.policy, rng=self._means.rng)
        if isinstance(decision, GiveUp):
            return self._give_up(decision.reason)
        delay_s = max(0.0, decision.delay_s - (self._pressed_for_s() if is_pressed else 0.0))
        self._tell_retry(error, delay_s)
        pause = self._means.sleep(delay_s)
        await (_step_aside(self._means.slots, self._file, pause) if is_pressed else pause)
        return None

    def _pressed_for_s(self) -> float:
        """Return for how long the last refusal has been known: a proof may have gone on since."""
        return 0.0 if self._pressed_at_s is None else self._means.gates.clock() - self._pressed_at_s

    def _is_pardoned(self) -> bool:
        """Return whether a refusal is no failure.

        It is none where the host took other requests since it last refused this file: it has
        too much to do, and its refusals fall on whoever asks. So many of them, and no more:
        a host may refuse one file for ever.
        """
        if not self._is_busy or self._pardons >= _PARDONS * self._means.policy.retries:
            return False
        self._pardons += 1
        return True

    def _tell_retry(self, error: TransferError, delay_s: float) -> None:
        """Tell that another attempt follows after `delay_s` seconds."""
        job = self._entry.job
        self._kit.sink(
            DownloadRetrying(
                id=job.id,
                file_name=job.file_name,
                variant=self._entry.variant,
                attempt=max(1, self._failures),
                delay=round(delay_s, 3),
                reason=str(error),
            )
        )

    async def _relink(self, error: StatusError) -> Outcome | None:
        """Go on with a fresh link; its sources are asked anew after every stretch of bytes.

        Where the service has no other than the refused one, that is tried once more after
        a pause: a host may have been the last to learn of the file.
        """
        if self._file.bytes_done > self._refused_at_bytes:
            self._refused.clear()
            self._insisted = False
        self._refused_at_bytes = self._file.bytes_done
        self._refused.append(self._url)
        if len(self._refused) > _LINK_SOURCES or self._insisted:
            why = "the service gives no other link" if self._insisted else "fresh ones as well"
            return self._give_up(f"{error}; {why}", is_refused=True)
        try:
            url = await self._means.relink(self._entry, self._refused)
        except FetcherError as trouble:
            return self._give_up(f"{error}; no fresh link could be had: {trouble}")
        if url is None:
            self._insisted = True
            self._tell_retry(error, self._means.policy.delay_s)
            await self._means.sleep(self._means.policy.delay_s)
        self._url = url or self._url
        return None

    def _note_progress(self) -> None:
        """Count attempts anew where bytes came that were never here before."""
        self._note_change()
        done = self._file.bytes_done
        if done > self._best_bytes:
            self._best_bytes = done
            self._failures = self._pardons = 0

    def _note_change(self) -> None:
        """Forget how far an earlier version of the file had come.

        As often as a request is tried again: a host that goes back and forth between versions
        for ever brings nothing new after that.
        """
        file = self._file
        if file.part is None or file.dropped is None:
            return
        before, now, file.dropped = file.dropped, file.part.version, None
        is_other = (before.validator, before.bytes_total) != (now.validator, now.bytes_total)
        if is_other and self._changes < self._means.policy.retries:
            self._changes += 1
            self._best_bytes = self._refused_at_bytes = 0

    async def _finish(self) -> Outcome:
        file = self._file
        content = file.content if file.content is not None else file.part
        if content is None:
            raise ContentError("nothing came")
        suspect = await self._judge_duration()
        if suspect is not None and self._means.check_duration == "fail":
            await self._file.drop()
            return self._give_up(suspect)
        return Fetched(
            content=content,
            extension=choose_extension(
                self._url, file.content_type, file.first_bytes, variant=self._entry.variant
            ),
            sha256=file.sha256,
            bytes_stored=file.bytes_done,
            bytes_fetched=file.bytes_fetched,
            suspect=suspect,
        )

    async def _judge_duration(self) -> str | None:
        announced_s = self._entry.job.audio_duration_s
        if self._means.check_duration == "off" or announced_s is None:
            return None
        file = self._file
        actual_s = wav_duration_s(file.first_bytes, file.bytes_done)
        if actual_s is None and file.content is not None:
            actual_s = duration_s(file.content)
        elif actual_s is None and file.part is not None:
            actual_s = await run(self._kit.threads, duration_s, file.part.path)
        return misfit(actual_s, announced_s)

    def _give_up(self, reason: str, *, is_refused: bool = False) -> GivenUp:
        done = self._file.bytes_done
        self._file.close()
        return GivenUp(reason, self._attempts, done, is_refused)


async def _step_aside(slots: Slots, file: Underway, waiting: Awaitable[None]) -> None:
    """Await what other files need not wait for."""
    await slots.step_aside(waiting, is_open=file.part_on_disk)


def _refusal(head: Head, url: str) -> StatusError | None:
    """Return the error of a status that `ranges.judge` has no rule for, None where it has one."""
    if 200 <= head.status < 300 or head.status in (412, 416):
        return None
    message = f"the host answered {head.status} for {bare_url(url)}"
    asked_s = retry_after_s(head, now=datetime.now(UTC))
    return StatusError(head.status, message, retry_after_s=asked_s)

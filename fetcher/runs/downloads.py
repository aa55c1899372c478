"""The downloading side of a run, put together when the first file is to be fetched.

A run that finds nothing new never imports, opens or starts any of it: that is most of what
a nightly run costs (about 40 ms of CPU of 250, measured on two cores).
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fetcher.errors import FullError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from fetcher.configuration.settings import Settings
    from fetcher.core.account import Account
    from fetcher.core.filters import Rules
    from fetcher.events import Sink
    from fetcher.files.space import Space
    from fetcher.manifest.manifest import Manifest
    from fetcher.network.client import Api
    from fetcher.runs.desk import Done
    from fetcher.runs.history import History
    from fetcher.runs.look import Eye
    from fetcher.runs.pipeline import Budget, Pipeline


@dataclass(slots=True)
class Ingredients:
    """What the listing side has open already and the downloading side shares.

    `on_done` is called after the event of each finished file.
    """

    settings: Settings
    sink: Sink
    manifest: Manifest
    api: Api
    history: History
    eye: Eye
    space: Space
    rules: Rules
    account: Account
    run_base: int
    on_done: Callable[[Done], Awaitable[None]]


class Downloads:
    """Fetches whatever gets a ticket in this run. `serve` may be called again after an error."""

    def __init__(self, ingredients: Ingredients) -> None:
        self._ingredients = ingredients
        self._pipeline: Pipeline | None = None
        self._budget: Budget | None = None
        self._needed = asyncio.Event()
        self._is_wanted = False
        self._closed = asyncio.Event()

    @property
    def is_idle(self) -> bool:
        """Return whether nothing is queued and nothing is under way."""
        return self._pipeline.is_idle if self._pipeline is not None else not self._is_wanted

    @property
    def is_spent(self) -> bool:
        """Return whether `--max-downloads` lets no more be downloaded."""
        if self._budget is not None:
            return self._budget.is_spent
        return self._ingredients.settings.max_downloads == 0

    @property
    def began_bare(self) -> bool:
        """Return whether DIR was seen to hold no file of any job when the run began."""
        return self._ingredients.eye.began_bare

    def wake(self) -> None:
        """Say that files may have got tickets."""
        self._is_wanted = True
        self._needed.set()
        if self._pipeline is not None:
            self._pipeline.wake()

    def close(self) -> None:
        """Say that no more files will get tickets: `serve` returns when all are done."""
        self._closed.set()
        self._needed.set()
        if self._pipeline is not None:
            self._pipeline.close()

    async def serve(self) -> None:
        """Download until closed and drained.

        Raises an ExceptionGroup of StorageError, and FullError where some files had no room.
        When cancelled, transfers stop where they are; what was fetched whole is finished.
        """
        await self._needed.wait()
        if not self._is_wanted:
            return
        from fetcher.runs.pipeline import Budget  # noqa: PLC0415 - see the module's docstring
        from fetcher.runs.plant import running  # noqa: PLC0415 - as above

        if self._budget is None:
            self._budget = Budget(self._ingredients.settings.max_downloads)
        async with running(self._ingredients, self._budget) as pipeline:
            self._pipeline = pipeline
            pipeline.wake()
            if self._closed.is_set():
                pipeline.close()
            try:
                await pipeline.serve()
            except BaseException:
                self._ingredients.eye.look_anew()
                raise
            finally:
                self._pipeline = None
                self._is_wanted = not self._closed.is_set()

    async def serve_once(self) -> None:
        """Download as `serve` does, in a run that ends by itself.

        Where room ends before everything is queued, and there are unfinished files, what is left
        is looked at again then: they may stand last in the queue, and their rest may fit.
        """
        try:
            await self.serve()
        except FullError:
            parts = self._ingredients.eye.parts
            if self._closed.is_set() or await asyncio.to_thread(parts.is_empty):
                raise
            await self._closed.wait()
            await self.serve()

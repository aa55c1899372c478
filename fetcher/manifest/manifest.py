"""The manifest for asyncio: the store behind one thread of its own."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, ParamSpec, Self, TypeVar

from fetcher.manifest.store import Store
from fetcher.threads import run

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from typing import Concatenate

P = ParamSpec("P")
T = TypeVar("T")


class Manifest:
    """An open manifest. Calls are carried out one after the other, off the event loop."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="manifest")
        self._store: Store | None = None

    async def __aenter__(self) -> Self:
        """Open the file; raises ManifestError, StorageError."""
        try:
            self._store = await run(self._thread, Store, self._path)
        except BaseException:
            self._thread.shutdown(wait=False)
            raise
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        """Close the file, after whatever was still to be written."""
        if self._store is not None:
            await run(self._thread, self._store.close)
            self._store = None
        self._thread.shutdown(wait=False)

    async def do(
        self, call: Callable[Concatenate[Store, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Return what a method of Store returns: `await manifest.do(Store.take, 0, 64)`."""
        if self._store is None:
            raise RuntimeError("the manifest is used outside of its `async with`")
        return await run(self._thread, call, self._store, *args, **kwargs)
